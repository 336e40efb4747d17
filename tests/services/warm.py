"""Starts Python commands in a moment that otherwise import for seconds: dbt and the pipeline.

A parent process, one for all tests of a process, has imported what they need and forks for each
command: a process with real arguments, environment, folder, streams and exit status. Only its
process id is not the client's, and a signal to the client kills it. Tests of signals, of memory or of
the start itself start the command as users do.
"""

from __future__ import annotations

import atexit
import functools
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipeline import models
from tests.services.processes import _END_WITH_PARENT, _SPAWNER, tail

_HERE = Path(__file__).parent
# As users start it; tests replace it.
_COLD_DBT = models.DBT
_DBT = ("dbt.cli.main", "dbt.task.build", "dbt.adapters.duckdb.impl", "dbt.adapters.bigquery.impl")
_PIPELINE = (
    "pipeline.describe",
    "pipeline.registry",
    "pipeline.engines.choose",
    "pipeline.running.watch",
)


class Dbt:
    """What `python -m dbt.cli.main` is; arguments are to follow. The first use starts the parent."""

    def __iter__(self) -> Iterator[str]:
        return iter(_start("dbt.cli.main", _DBT))


def command(module: str, *arguments: str) -> list[str]:
    """What `python -m MODULE ARGUMENTS` is, of a module of the pipeline."""
    return [*_start(module, _PIPELINE), *arguments]


@contextmanager
def cold_dbt() -> Iterator[None]:
    """Within it the models are built by dbt as users start it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "DBT", _COLD_DBT)
        yield


def _start(module: str, imports: Sequence[str]) -> list[str]:
    if sys.platform != "linux":  # elsewhere libraries do not survive a fork, nor children end
        return [sys.executable, "-m", module]
    client = str(_HERE / "warm_client.py")
    return [sys.executable, "-I", "-S", client, str(_parent(imports)), module]


@functools.cache
def _parent(modules: Sequence[str]) -> Path:
    """The socket of a parent with these modules, which ends with this process."""
    for name in modules:
        # A parent that can't import one of ours would be waited for by every command.
        if name.startswith("pipeline.") and importlib.util.find_spec(name) is None:
            raise ModuleNotFoundError(name)
    folder = Path(tempfile.mkdtemp(prefix="warm-"))  # short: a socket's path has 107 bytes at most
    argv = [sys.executable, "-I", "-S", "-c", _END_WITH_PARENT, sys.executable, "-m",
            "tests.services.warm_parent", str(folder / "socket"), *modules]  # fmt: skip

    def spawn() -> subprocess.Popen[bytes]:
        with (folder / "log").open("wb") as log:
            return subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=_HERE.parents[1],
                start_new_session=True,
            )  # fmt: skip

    process = _SPAWNER.submit(spawn).result()
    owner = os.getpid()

    def end() -> None:
        if os.getpid() == owner:
            process.kill()
            process.wait()
            sys.stderr.write(tail(folder / "log"))
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(end)
    return folder / "socket"
