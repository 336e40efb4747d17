"""A DuckDB file: open for one writer at a time, and never longer than others can wait."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar

import duckdb

from pipeline.errors import ConfigError, WarehouseFailed
from pipeline.safe_open import lock_file
from pipeline.same import Identity, held, identity
from pipeline.shown import address
from pipeline.sinks.base import waiting
from pipeline.sinks.duckdb.place import SETTINGS, Place, Writer
from pipeline.sinks.duckdb.statements import run

_T = TypeVar("_T")

# How long another program may keep the file open before the job gives up: while it runs, and
# when it starts.
_PATIENCE_S = 300.0
_PATIENCE_AT_START_S = 5.0
# How long the file stays open without being written, and at most.
_IDLE_S = 1.0
_HELD_S = 5.0
# A scheme of DuckDB's extensions, or parameters.
_ELSEWHERE = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]+:|\?[^/?=]+=")


def sign_in_name(path: str) -> str | None:
    """Why the models could not be built on a file of that name, and the fix; None if they can.

    dbt names the database after the file, and does not quote it.
    """
    if set("'\"`") & set(Path(path).name):
        return "dbt can't build models on a file with quotes in its name; name it without"
    return None


# What to do about an error, by words of its message.
_FIXES = {
    "No space left": "free disk space",
    "quota": "free disk space or raise the quota",
    "File too large": "raise the limit on the size of a file (ulimit -f)",
    "Read-only file system": "make the file system writable",
    "Permission denied": "give this account the right to write there",
    "Catalog Error": "let nothing else change the tables while the job runs",
    "Out of Memory": "give the machine more memory",
}


class Busy(WarehouseFailed):
    """Another program holds the warehouse's file."""


@dataclass(frozen=True)
class File(Place):
    """A DuckDB file.

    Attributes:
        path: where it is.
    """

    path: str

    def __post_init__(self) -> None:
        if not self.path or self.path == ":memory:":
            raise ConfigError(
                "--warehouse=duckdb: needs a file, such as duckdb:./data/warehouse.duckdb"
            )
        if unbuildable := sign_in_name(self.path):
            raise ConfigError(f"--warehouse={address(self.uri)}: {unbuildable}")
        # DuckDB would take these for a database elsewhere, with a login in the address.
        if _ELSEWHERE.search(self.path):
            raise ConfigError(
                f"--warehouse={address(self.uri)}: must name a file of this machine, such as "
                "duckdb:./data/warehouse.duckdb (md:DATABASE names one at MotherDuck)"
            )

    @property
    def uri(self) -> str:
        """`duckdb:PATH`."""
        return f"duckdb:{self.path}"

    @contextlib.contextmanager
    def connected(self, create: bool) -> Iterator[duckdb.DuckDBPyConnection | None]:
        """The file, open for writing; see `Place`."""
        path = Path(self.path)
        try:
            if not create and not path.exists():
                _check_folder(path)
                yield None
                return
            path.parent.mkdir(parents=True, exist_ok=True)
            with connection(self.path, _PATIENCE_AT_START_S) as database:
                yield database
            if create:
                # From now on it is this file that is written, and no other.
                warehouse(self.path).expect(held(path))
        except Busy as error:
            raise ConfigError(str(error)) from error
        except (duckdb.Error, OSError) as error:
            raise ConfigError(
                f"--warehouse={address(self.uri)}: can't be used as a DuckDB file "
                f"({str(error).splitlines()[0]}); give another path"
            ) from error

    def writer(self) -> Warehouse:
        """This process's writer of the file."""
        return warehouse(self.path)


class Warehouse(Writer):
    """A warehouse's file, open for writing as long as there is something to write.

    DuckDB lets one process write. Workers of the job take turns by a lock beside the file; a
    program that is not ours (a shell, a notebook) is waited for. Opening and closing costs more
    than the rows of a window do, so the file stays open until nothing has come for a second, and
    no longer than some seconds, so that others get at it.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._turn = threading.Lock()
        self._lock: BinaryIO | None = None
        self._database: duckdb.DuckDBPyConnection | None = None
        self._opened_at = self._used_at = 0.0
        self._openings = 0
        self._gave_up = False
        # Which file it is; None before that is known.
        self._identity: Identity | None = None

    def expect(self, found: Identity | None) -> None:
        """From now on the path has to be this file; see `pipeline.same`."""
        with self._turn:
            self._close()
            self._identity = found
            self._gave_up = False

    def check(self) -> None:
        """Finds out whether what was opened is what is there.

        Raises:
            WarehouseFailed: the file was removed or replaced.
        """
        if self._identity is None:
            return
        found = identity(self._path)
        if found != self._identity:
            became = "removed" if found is None else "replaced by another"
            raise WarehouseFailed(
                f"--warehouse=duckdb:{self._path}: the file was {became} while the job wrote to "
                "it, and what was written is not in it; put it back and run the job again, or "
                "load what is missing from the lake"
            )

    @contextlib.contextmanager
    def borrowed(self, patience_s: float | None = None) -> Iterator[duckdb.DuckDBPyConnection]:
        """The file, for one thread at a time.

        Raises:
            Busy: another program kept it open for `patience_s`.
        """
        with self._turn:
            patience_s = _PATIENCE_S if patience_s is None else patience_s
            database = self._database or self._open(patience_s)
            try:
                yield database
            except BaseException:
                self._close()
                raise
            self._used_at = time.monotonic()
            if self._used_at - self._opened_at > _HELD_S:
                self._close()

    def write(self, work: Callable[[duckdb.DuckDBPyConnection], _T]) -> _T:
        """Does `work` within one transaction."""
        try:
            with self.borrowed() as database:
                database.begin()
                result = work(database)
                self.check()
                database.commit()
        except duckdb.Error as error:
            raise WarehouseFailed(_said(self._path, error)) from error
        return result

    def close(self) -> None:
        """Lets others get at the file."""
        with self._turn:
            self._close()

    def hurry(self) -> None:
        """The job is over: what still waits for another program gives up."""
        self._gave_up = True

    def _open(self, patience_s: float) -> duckdb.DuckDBPyConnection:
        # DuckDB would make a file where there is none any more.
        self.check()
        self._lock = _locked(self._path)
        try:
            try:
                # What others still want to write must not wait as long once more.
                self._database = _open(self._path, lambda: 0.0 if self._gave_up else patience_s)
            except Busy:
                self._gave_up = True
                raise
            self._gave_up = False
            self._identity = self._identity or identity(self._path)
            self.check()
        except BaseException:
            self._close()
            raise
        self._opened_at = time.monotonic()
        self._openings += 1
        closer = threading.Thread(target=self._close_idle, args=(self._openings,), daemon=True)
        closer.start()
        return self._database

    def _close(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _close_idle(self, opening: int) -> None:
        while True:
            time.sleep(_IDLE_S / 2)
            with self._turn:
                if self._database is None or self._openings != opening:
                    return
                if time.monotonic() - max(self._used_at, self._opened_at) >= _IDLE_S:
                    self._close()
                    return


def _locked(path: str) -> BinaryIO:
    """The lock beside the file, once it is this worker's turn."""
    while True:
        lock = lock_file(f"{path}.lock")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with waiting.told(
                f"--warehouse=duckdb:{path}",
                lambda: f"it is the turn of {waiting.holder(f'{path}.lock')}",
                "until it lets go",
            ):
                fcntl.flock(lock, fcntl.LOCK_EX)
        # One that was removed meanwhile is not the lock that others ask for.
        stat = os.fstat(lock.fileno())
        if identity(f"{path}.lock") == (stat.st_dev, stat.st_ino):
            return lock
        lock.close()


def _said(path: str, error: duckdb.Error) -> str:
    """In one line what DuckDB does not take, where, and what to do."""
    line = str(error).strip().partition("\n")[0]
    fix = "check the disk"
    for words, what in _FIXES.items():
        if words in line:
            fix = what
    return f"--warehouse=duckdb:{path}: can't be written ({line}); {fix}, then run the job again"


_warehouses: dict[str, Warehouse] = {}
_making = threading.Lock()


def warehouse(path: str) -> Warehouse:
    """This process's warehouse in a file."""
    with _making:
        return _warehouses.setdefault(path, Warehouse(path))


@contextlib.contextmanager
def connection(path: str, patience_s: float | None = None) -> Iterator[duckdb.DuckDBPyConnection]:
    """The warehouse, open for writing; closed again at the end.

    Raises:
        Busy: another program kept the file open for `patience_s`.
    """
    alone = Warehouse(path)
    try:
        with alone.borrowed(patience_s) as database:
            yield database
    finally:
        alone.close()


def _open(path: str, patience_s: Callable[[], float]) -> duckdb.DuckDBPyConnection:
    try:
        return _opened(path)
    except _Held as error:
        said = str(error)
    began = time.monotonic()

    def why() -> str:
        return f"{waiting.holder(path, said)} keeps the file open"

    with waiting.told(f"--warehouse=duckdb:{path}", why, f"for up to {patience_s():.0f} s"):
        while True:
            lasted_s = time.monotonic() - began
            if lasted_s > patience_s():
                raise Busy(
                    f"--warehouse=duckdb:{path}: {why()}"
                    + (f", for {lasted_s:.0f} s by now" if lasted_s >= 1 else "")
                    + "; close it there (who only reads keeps others from writing, too: let it "
                    "close the file after each query, or read a copy), then run the job again: "
                    "it goes on where it was"
                )
            time.sleep(0.1)
            try:
                return _opened(path)
            except _Held as error:
                said = str(error)


class _Held(Exception):
    """Another program has the file open; the message is DuckDB's."""


def _opened(path: str) -> duckdb.DuckDBPyConnection:
    try:
        database = duckdb.connect(path, config=SETTINGS)
    except duckdb.IOException as error:
        if "Could not set lock" not in str(error):
            raise
        raise _Held(str(error)) from error
    # Only known once the time zone extension is loaded, so not a setting of connect.
    run(database, "SET TimeZone = 'UTC'")
    return database


def _check_folder(path: Path) -> None:
    """Raises OSError unless a file could be made there."""
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not (folder.is_dir() and os.access(folder, os.W_OK)):
        raise OSError(f"{folder} can't be written")
