"""Builds programs with Go that no package registry has built."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from tests.services import cache
from tests.services.processes import Unavailable


def program(name: str, package: str, timeout: float = 900) -> Path:
    """The path of a program's executable, built the first time.

    Args:
        name: the folder's name in the cache, with the version.
        package: what `go install` takes: `path@version`.
        timeout: seconds that downloading and compiling may take.

    Raises:
        Unavailable: Go is missing, or could not build it.
    """
    executable = package.partition("@")[0].rpartition("/")[2]
    return cache.folder(name, lambda target: _install(package, target, timeout)) / executable


def _install(package: str, target: Path, timeout: float) -> None:
    go = shutil.which("go")
    if not go:
        raise Unavailable(f"no go in PATH; install Go to build {package}")
    try:
        done = subprocess.run(
            [go, "install", package], env={**os.environ, "GOBIN": str(target)},
            capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL,
            check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise Unavailable(f"Go was not done with {package} within {timeout:.0f} s") from None
    if done.returncode:
        raise Unavailable(f"Go could not build {package}: {done.stderr.strip()[-300:]}")
