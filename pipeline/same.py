"""Whether a path is still the file or folder that it was: neither removed nor replaced."""

from __future__ import annotations

import os
from pathlib import Path

Identity = tuple[int, int]

# One for each path: a file's number is given to another once nobody holds it.
_held: dict[str, int] = {}


def identity(path: str | Path) -> Identity | None:
    """Which file or folder a path is now, whatever its name: device and number; None: there is none."""
    try:
        stat = os.stat(path)  # noqa: PTH116 - follows links, takes both
    except OSError:
        return None
    return stat.st_dev, stat.st_ino


def held(path: str | Path) -> Identity | None:
    """The same; until this is asked again, no other file on this machine gets that number.

    It opens the path only as a name: where this process has locks on the file they stay.
    """
    key = str(Path(path).absolute())
    if (former := _held.pop(key, None)) is not None:
        os.close(former)
    try:
        _held[key] = os.open(key, getattr(os, "O_PATH", os.O_RDONLY))
    except OSError:
        return identity(path)
    stat = os.fstat(_held[key])
    return stat.st_dev, stat.st_ino
