"""The child's side: takes questions from its standard input and answers on its standard output."""

from __future__ import annotations

import os
import pickle
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.apart import workbook
from pipeline.apart.answers import Broken, Told

_FUNCTIONS: dict[str, Callable[..., Any]] = {"sheets": workbook.sheets}


def main() -> None:
    """Answers until nobody asks any more."""
    # Whatever a library prints must not get between the answers.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    while True:
        try:
            name, data, memory_bytes, given = pickle.load(sys.stdin.buffer)  # noqa: S301 - our parent
        except EOFError:
            return
        pickle.dump(_answer(name, data, memory_bytes, given), answers, pickle.HIGHEST_PROTOCOL)
        answers.flush()


def _answer(name: str, data: bytes, memory_bytes: int, given: Any) -> tuple[str, Any]:
    _allow(memory_bytes)
    try:
        return "value", _FUNCTIONS[name](data, **given)
    except MemoryError:
        return "memory", None
    except Told as told:
        return "raised", told
    except BaseException as error:  # noqa: BLE001 - a library's panic is no Exception
        return "raised", Broken(str(error) or type(error).__name__)


def _allow(memory_bytes: int) -> None:
    """Limits what this process may take from now on, where the system can tell what it has."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    for line in status.read_text(encoding="ascii").splitlines():
        if line.startswith("VmData:"):
            taken = int(line.split()[1]) * 1024
            resource.setrlimit(resource.RLIMIT_DATA, (taken + memory_bytes, hard))
