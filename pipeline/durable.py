"""Files that outlive a power cut: whole or not at all, and under their name."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa

from pipeline.safe_open import EVERYBODY, fresh


def sync_folder(folder: Path) -> None:
    """Puts the names in a folder on the disk itself: only then does a new one outlive a power cut."""
    # One that this account may write to but not read, or that is above its own.
    with contextlib.suppress(PermissionError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def replace(path: Path, parts: Iterable[bytes | pa.Buffer], mode: int = EVERYBODY) -> None:
    """Puts a file in the place of what is there; a crash leaves the old one or the new one.

    Args:
        path: the file.
        parts: what it holds, one behind the other.
        mode: the permissions it has at most.

    Raises:
        OSError: it can't be written.
    """
    temporary = path.with_name(f".{path.name}.partial")
    try:
        with fresh(temporary, mode) as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)
