"""A lake in a folder of this machine."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa

from pipeline.errors import ConfigError
from pipeline.safe_open import EVERYBODY, fresh
from pipeline.shown import address
from pipeline.stores import Stored

_DAY_S = 86_400
_COPY_BYTES = 4 * 1024 * 1024

# Whether a file is on the disk itself before it counts as written.
_synced = False


@contextlib.contextmanager
def synced() -> Iterator[None]:
    """Within it files outlive a power cut; each then costs tens of milliseconds.

    For sources that forget what they gave. Others are simply read again.
    """
    global _synced
    _synced = True
    try:
        yield
    finally:
        _synced = False


class LocalStore:
    """A folder. Files are written beside their place, hidden, and then linked to their name."""

    near = True

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._root = Path(uri)

    def check(self) -> None:
        """Tries to write there, or where the folder would be made."""
        root = self._root.absolute()
        try:
            there = next(place for place in (root, *root.parents) if place.exists())
            with tempfile.TemporaryFile(dir=there):
                pass
        except OSError as error:
            raise ConfigError(
                f"--lake={address(self.uri)}: can't be written ({error.strerror or error}); "
                "give a folder you may write to, or none"
            ) from error

    def prepare(self) -> None:
        """Makes the folder; removes what killed jobs have left."""
        self.check()
        self._root.mkdir(parents=True, exist_ok=True)
        for left in self._root.rglob(".*.partial"):
            # A job that runs holds none older than a day.
            with contextlib.suppress(FileNotFoundError):
                if left.stat().st_mtime < time.time() - _DAY_S:
                    left.unlink()

    def exists(self, path: str) -> bool:
        """Whether there is such a file."""
        return (self._root / path).is_file()

    def create(self, path: str, data: bytes | pa.Buffer) -> bool:
        """Writes a file, unless it is there."""

        def fill(temporary: BinaryIO) -> None:
            temporary.write(data)

        return self._put(path, fill, EVERYBODY)

    def create_from(
        self, path: str, file: BinaryIO, modified_us: int, mode: int = EVERYBODY
    ) -> bool:
        """Copies a file, unless it is there."""

        def fill(temporary: BinaryIO) -> None:
            file.seek(0)
            shutil.copyfileobj(file, temporary, _COPY_BYTES)
            temporary.flush()
            os.utime(temporary.fileno(), ns=(modified_us * 1000, modified_us * 1000))

        return self._put(path, fill, mode)

    def files(self, folder: str, since_s: float | None = None) -> Iterator[Stored]:
        """The files below a folder, by name."""
        for place, folders, names in os.walk(self._root / folder):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            # A folder's time changes with every file that comes into it.
            if since_s is not None and Path(place).stat().st_mtime < since_s:
                continue
            for name in sorted(names):
                path = Path(place, name)
                with contextlib.suppress(FileNotFoundError):
                    stat = path.stat()
                    if not name.startswith(".") and stat.st_mtime >= (since_s or 0):
                        shown = path.relative_to(self._root).as_posix()
                        yield Stored(shown, stat.st_size, stat.st_mtime)

    def open(self, path: str, size: int | None = None) -> BinaryIO:  # noqa: ARG002 - others need it
        """A file to read."""
        return (self._root / path).open("rb")

    def _put(self, path: str, fill: Callable[[BinaryIO], None], mode: int) -> bool:
        target = self._root / path
        if target.exists():
            return False
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.parent / f".{secrets.token_hex(8)}.partial"
        file = fresh(temporary, mode)
        try:
            fill(file)
            file.flush()
            if _synced:
                os.fsync(file.fileno())
            try:
                os.link(temporary, target)
            except FileExistsError:
                # Another worker was faster.
                return False
            if _synced:
                _sync_folder(target.parent)
        finally:
            file.close()
            temporary.unlink()
        return True


def _sync_folder(folder: Path) -> None:
    """A new name outlives a power cut only once its folder is on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
