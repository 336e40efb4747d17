"""Runs readers of native libraries in a process of their own, so that they take nothing along.

A broken or hostile file can make such a library end its process or ask for all memory. Here that
ends the child alone; the file is refused, and the next one gets a new child.
"""

from __future__ import annotations

import atexit
import contextlib
import pickle
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

_ROOT = str(Path(__file__).resolve().parent.parent.parent)
_PROGRAM = (
    f"import sys; sys.path.insert(0, {_ROOT!r}); from pipeline.apart.child import main; main()"
)

_idle: list[_Child] = []
_all: set[_Child] = set()
_lock = threading.Lock()


class Died(RuntimeError):
    """The child ended while it worked on a file, or was ended because it took too long."""


class OverLimit(RuntimeError):
    """The file needs more memory than it may take."""


def call(name: str, data: bytes, memory_bytes: int, seconds: float, **given: Any) -> Any:
    """What the function `name` of the children gives for a file's bytes.

    Args:
        name: of the function, see `pipeline.apart.child`.
        data: the file.
        memory_bytes: what it may take beside the child itself.
        seconds: how long it may take.
        given: what else the function wants.

    Raises:
        Died: it ended its process, or took too long.
        OverLimit: there was not enough memory.
        Told: what the function raised (see `pipeline.apart.answers`).
    """
    child = _take()
    answered = False
    try:
        kind, value = child.ask((name, data, memory_bytes, given), seconds)
        answered = True
    finally:
        _give_back(child, answered)
    if kind == "memory":
        raise OverLimit
    if kind == "raised":
        raise value
    return value


def _take() -> _Child:
    with _lock:
        if _idle:
            return _idle.pop()
        child = _Child()
        _all.add(child)
        return child


def _give_back(child: _Child, answered: bool) -> None:
    with _lock:
        if answered:
            _idle.append(child)
            return
        _all.discard(child)
    child.end()


@atexit.register
def _end_all() -> None:
    with _lock:
        children = list(_all)
        _all.clear()
        _idle.clear()
    for child in children:
        child.end()


class _Child:
    """One process, which answers one question after another."""

    def __init__(self) -> None:
        # -P: no module of the folder the job was started in stands in for one of ours.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            # Ctrl-C at a terminal goes to the whole group; the job alone decides when to stop.
            start_new_session=True,
        )

    def ask(self, question: Any, seconds: float) -> tuple[str, Any]:
        """The answer; raises Died."""
        assert self._process.stdin is not None and self._process.stdout is not None
        watchdog = threading.Timer(seconds, self._process.kill)
        watchdog.start()
        try:
            pickle.dump(question, self._process.stdin, protocol=pickle.HIGHEST_PROTOCOL)
            self._process.stdin.flush()
            answer: tuple[str, Any] = pickle.load(self._process.stdout)  # noqa: S301 - our child
        except (EOFError, OSError, pickle.UnpicklingError) as error:
            raise Died from error
        finally:
            watchdog.cancel()
        return answer

    def end(self) -> None:
        """Ends the process."""
        self._process.kill()
        with contextlib.suppress(OSError):
            assert self._process.stdin is not None and self._process.stdout is not None
            self._process.stdin.close()
            self._process.stdout.close()
        self._process.wait()
