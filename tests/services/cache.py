"""Keeps what the tests download, once for all checkouts and test processes of a user."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path


def folder(name: str, fill: Callable[[Path], None]) -> Path:
    """The cache's folder of that name, filled the first time.

    Several processes may ask at once: one fills, the others wait for it. An interrupted download
    leaves nothing behind that a later call would take for whole.

    Args:
        name: the folder; holds the version of what is in it, because it never changes again.
        fill: writes the contents into the empty folder it is given; what it raises is passed on.
    """
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "battery-pipeline"
    target = root / name
    if target.is_dir():
        return target
    root.mkdir(parents=True, exist_ok=True)
    with (root / f".{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if target.is_dir():
            return target
        partial = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=root))
        try:
            fill(partial)
            partial.chmod(0o755)
            partial.rename(target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return target
