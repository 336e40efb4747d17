"""A lake in a folder of this machine."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa

from pipeline.durable import sync_folder
from pipeline.errors import ConfigError, LakeFailed, not_written
from pipeline.safe_open import EVERYBODY, fresh
from pipeline.same import Identity, held, identity
from pipeline.shown import address
from pipeline.stores import Content, Stored
from pipeline.stores.remote import blocks

_DAY_S = 86_400
_COPY_BYTES = 4 * 1024 * 1024

# Files of this process that are put on the disk itself later: size, and the lake's folder. None:
# at once.
_later: dict[Path, tuple[int, Path]] | None = None
# Folders whose own names are on the disk.
_named: set[Path] = set()
_lock = threading.Lock()
# So many files are synced at once: each waits for the disk.
_SYNCING = 8


@contextlib.contextmanager
def synced_at_end() -> Iterator[None]:
    """Within it files are put on the disk itself at the end, not one by one.

    Elsewhere a file outlives a power cut once `create` has returned, which costs tens of
    milliseconds. Bounded input is read again if the run does not come to its end.

    Raises:
        LakeFailed: a file that was written is not there any more, or the disk does not take it.
    """
    global _later
    _later = {}
    try:
        yield
        _sync_all(_later)
    finally:
        _later = None


def _sync_all(files: dict[Path, tuple[int, Path]]) -> None:
    folders = {folder for path, (_, root) in files.items() for folder in _folders(path, root)}
    with ThreadPoolExecutor(_SYNCING) as pool:
        for _ in pool.map(_sync_file, files, (size for size, _ in files.values())):
            pass
        for _ in pool.map(sync_folder, folders):
            pass


def _sync_file(path: Path, size: int) -> None:
    try:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            found: int | None = os.fstat(file.fileno()).st_size
    except FileNotFoundError:
        found = None
    except OSError as error:
        raise LakeFailed(not_written("--lake", path, error)) from error
    if found != size:
        became = "is gone" if found is None else f"has {found:,} bytes instead of {size:,}"
        raise LakeFailed(
            f"--lake: {path} was written by this run and {became}; find out what else writes to "
            "the lake, then run the job again: it writes what is missing"
        )


def _folders(path: Path, root: Path) -> Iterator[Path]:
    """The folders from a file up to the lake's, and the one that holds that."""
    for folder in path.parents:
        yield folder
        if folder == root.parent:
            return


class LocalStore:
    """A folder. Files are written beside their place, hidden, and then linked to their name."""

    near = True

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._root = Path(uri)
        # Which folder it is, once that is known; it travels to the workers.
        self._identity: Identity | None = None

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
        self._identity = held(self._root)
        for left in self._root.rglob(".*.partial"):
            # A job that runs holds none older than a day.
            with contextlib.suppress(FileNotFoundError):
                if left.stat().st_mtime < time.time() - _DAY_S:
                    left.unlink()

    def exists(self, path: str) -> bool:
        """Whether there is such a file."""
        return (self._root / path).is_file()

    def complete(self) -> None:
        """Finds out whether the folder is the one that `prepare` found."""
        if self._identity is not None and identity(self._root) != self._identity:
            raise LakeFailed(
                f"--lake={self.uri}: the folder was removed or replaced while the job wrote to "
                "it, and what was written there is not in it; run the job again once nothing "
                "else does that"
            )

    def create(self, path: str, data: bytes | pa.Buffer, replace: bool = False) -> bool:
        """Writes a file, unless it is there."""

        def fill(temporary: BinaryIO) -> None:
            temporary.write(data)

        return self._put(path, fill, EVERYBODY, replace)

    def create_from(
        self,
        path: str,
        file: BinaryIO,
        modified_us: int,
        mode: int = EVERYBODY,
        replace: bool = False,
    ) -> bool:
        """Copies a file, unless it is there."""

        def fill(temporary: BinaryIO) -> None:
            file.seek(0)
            shutil.copyfileobj(file, temporary, _COPY_BYTES)
            temporary.flush()
            os.utime(temporary.fileno(), ns=(modified_us * 1000, modified_us * 1000))

        return self._put(path, fill, mode, replace)

    def holds(self, path: str, data: Content) -> bool:
        """Compares every byte."""
        try:
            with (self._root / path).open("rb") as there:
                same = all(there.read(len(block)) == block for block in blocks(data))
                return same and not there.read(1)
        except OSError:
            return False

    def keep(self, path: str) -> None:
        """Has it outlive a power cut."""
        try:
            if _later is None:
                with (self._root / path).open("rb") as file:
                    os.fsync(file.fileno())
            self._sync(self._root / path)
        except OSError as error:
            raise self._failed(path, error) from error

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

    def _put(self, path: str, fill: Callable[[BinaryIO], None], mode: int, replace: bool) -> bool:
        target = self._root / path
        self.complete()
        try:
            if not replace and target.exists():
                return False
            if not self._link(target, fill, mode, replace):
                return False
            self._sync(target)
        except OSError as error:
            raise self._failed(path, error) from error
        return True

    def _failed(self, path: str, error: OSError) -> LakeFailed:
        return LakeFailed(not_written(f"--lake={address(self.uri)}", self._root / path, error))

    def _link(
        self, target: Path, fill: Callable[[BinaryIO], None], mode: int, replace: bool
    ) -> bool:
        if not target.parent.is_dir():
            target.parent.mkdir(parents=True, exist_ok=True)
            _named.difference_update(target.absolute().parents)
        temporary = target.parent / f".{secrets.token_hex(8)}.partial"
        file = fresh(temporary, mode)
        try:
            fill(file)
            file.flush()
            if _later is None:
                os.fsync(file.fileno())
            if replace:
                temporary.replace(target)
                return True
            try:
                os.link(temporary, target)
            except FileExistsError:
                # Another worker was faster.
                return False
        finally:
            file.close()
            temporary.unlink(missing_ok=True)
        return True

    def _sync(self, target: Path) -> None:
        """Has a file's name and content outlive a power cut, now or when the job is over."""
        target, root = target.absolute(), self._root.absolute()
        with _lock:
            if _later is not None:
                _later[target] = (target.stat().st_size, root)
                return
        chain = []
        for folder in _folders(target, root):
            chain.append(folder)
            if folder in _named:
                break
        for folder in chain:
            sync_folder(folder)
        _named.update(chain[:-1])
