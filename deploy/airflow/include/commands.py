"""Runs the project's own commands in its own environment."""

from __future__ import annotations

import json
import logging
import os
import subprocess
from collections import deque
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from include import settings

_LOG = logging.getLogger(__name__)
_TOLD_LINES = 20


class CommandFailed(RuntimeError):
    """A command ended with another status than 0; the message has the end of what it said."""


def run(argv: Sequence[str]) -> str:
    """Runs one command to its end, its output going to the task's log; returns standard output.

    It ends with the task: a killed or timed-out task leaves no process behind.

    Raises:
        CommandFailed: it failed.
    """
    _LOG.info("$ %s", " ".join(argv))
    last: deque[str] = deque(maxlen=_TOLD_LINES)
    said = []
    with subprocess.Popen(
        argv,
        cwd=settings.HOME,
        # The project beside this folder, and nothing of Airflow's.
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                said.append(line)
                last.append(line.rstrip())
                _LOG.info("%s", last[-1])
        except BaseException:
            process.terminate()
            raise
    if process.returncode:
        told = "\n".join(last)
        raise CommandFailed(f"{' '.join(argv[1:4])}: exit status {process.returncode}\n{told}")
    return "".join(said)


def project(module: str, *flags: str) -> list[str]:
    """`python -m MODULE` of the project."""
    return [settings.PYTHON, "-m", module, *flags]


def load(lake: str, warehouse: str) -> list[str]:
    """Takes a lake's files into a warehouse that the job does not write itself."""
    if warehouse.startswith("bigquery:"):
        return project("pipeline.load", f"--lake={lake}", f"--warehouse={warehouse}")
    return ours("lake", f"--lake={lake}", f"--warehouse={warehouse}")


def ours(module: str, *flags: str) -> list[str]:
    """A module of this folder that needs the project's packages."""
    return project(f"include.{module}", *flags)


def ask(question: str, warehouse: str, *flags: str) -> dict[str, Any]:
    """The answer of `warehouse.py`: its last line that is a JSON object."""
    said = run(ours("warehouse", question, f"--warehouse={warehouse}", *flags))
    answer: dict[str, Any] = json.loads(
        next(line for line in reversed(said.splitlines()) if line.startswith("{"))
    )
    return answer


def interval_flags(start: datetime, end: datetime) -> list[str]:
    """The data interval as the scripts take it."""
    return [f"--start={start.isoformat()}", f"--end={end.isoformat()}"]


def as_json(value: object) -> str:
    """One line of JSON."""
    return json.dumps(value)
