"""Keeps what the ordering step remembers from one run of a live job to the next."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import os
import tempfile
import time
from pathlib import Path
from typing import BinaryIO

import apache_beam as beam
import pyarrow as pa

from pipeline.errors import ConfigError
from pipeline.safe_open import lock_file
from pipeline.sinks import Produced, Sink
from transforms.batch import PackedBatch
from transforms.order import Tail
from transforms.sequence import gathered

_SINCE = b"since"
_MOST_JOBS = 100
_REMEMBER_ALL = 0


class _Shard:
    """What one shard has to remember."""

    def __init__(self) -> None:
        self._last: PackedBatch | None = None
        self._recent: list[tuple[int, PackedBatch]] = []

    def add(self, tail: Tail) -> None:
        self._last = tail.last
        self._recent = [piece for piece in self._recent if piece[0] >= tail.keep_from_us]
        if tail.recent is not None:
            self._recent.append((tail.latest_us, tail.recent))

    def tables(self) -> list[pa.Table]:
        recent = [piece.table for _, piece in self._recent]
        return [*recent, *([] if self._last is None else [self._last.table])]


# By checkpoint file and shard. One per process: DoFns are copied.
_SHARDS: dict[str, dict[int, _Shard]] = {}


def _own_file(path: str) -> tuple[str, BinaryIO]:
    """The first of `path`, `path.2`, … that no other job has, and the lock that says so.

    Jobs of one consumer group share a topic, and each remembers what it has read of it.
    """
    for number in range(1, _MOST_JOBS + 1):
        own = path if number == 1 else f"{path}.{number}"
        lock = lock_file(f"{own}.lock")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            continue
        return own, lock
    raise OSError(f"{_MOST_JOBS} jobs use it")


def _read(path: Path) -> pa.Table | None:
    with contextlib.suppress(OSError, pa.ArrowInvalid):
        return pa.ipc.open_file(path).read_all()
    return None


def _since_s(path: Path) -> float | None:
    table = _read(path)
    told = None if table is None else (table.schema.metadata or {}).get(_SINCE)
    return None if told is None else float(told)


class _Remember(beam.DoFn):
    def __init__(self, path: str) -> None:
        self._path = path

    def process(self, element: tuple[int, Tail]) -> None:
        shard, tail = element
        _SHARDS[self._path].setdefault(shard, _Shard()).add(tail)


class Checkpoint(Sink):
    """A file with the last readings of every equipment, so that a restart finds their successors.

    Without it the first reading of every equipment after a restart has no time delta, and what is
    read once more is told from new readings by the warehouse and the raw archive alone: the lake
    may hold it twice then. It is never the only place of anything: without it nothing is lost.

    Args:
        path: the file.

    Raises:
        ConfigError: its folder can't be written.
    """

    def __init__(self, path: str) -> None:
        self._first = Path(path)
        self._inherited_s: float | None = None
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            if Path(path).is_dir():
                raise IsADirectoryError(errno.EISDIR, "it is a folder")
            self._path, self._lock = _own_file(path)
        except OSError as error:
            raise ConfigError(
                f"--checkpoint={path}: can't be written ({error.strerror or error}); "
                "give a file in a folder you may write to, or none"
            ) from error

    def prepare(self) -> None:
        """Begins to remember."""
        _SHARDS[self._path] = {}
        self._inherited_s = self.since_s
        if self._inherited_s is None:
            # From now on this run writes; the next one must know since when.
            self._replace(pa.table({}), time.time())

    @property
    def since_s(self) -> float | None:
        """Since when a run has written what it could not commit, seconds since 1970.

        That is read once more by the next run. None if there was none.
        """
        return _since_s(Path(self._path))

    @property
    def others_since_s(self) -> float:
        """The same of all jobs that share the source, since one of them may have to be replaced."""
        files = self._first.parent.glob(f"{glob.escape(self._first.name)}*")
        found = [_since_s(path) for path in files if path.suffix not in (".lock", ".partial")]
        return min((since for since in found if since is not None), default=time.time())

    def remembered(self) -> pa.Table | None:
        """What the last run left; None if it left nothing."""
        table = _read(Path(self._path))
        # Somebody else's file is not ours to understand.
        ours = self.since_s is not None and table is not None and table.num_rows
        return table if ours else None

    def write(self, produced: Produced) -> None:
        """Adds the step that remembers."""
        step = beam.ParDo(_Remember(self._path))
        _ = produced.tails | "Remember" >> step

    def finish(self) -> None:
        """Lets another job have the file."""
        self._lock.close()

    def save(self, since_s: float | None) -> None:
        """Writes what is remembered now, whole or not at all; to be called between bundles.

        Args:
            since_s: see the attribute; None leaves it as it was when this run began.
        """
        if since_s is None:
            since_s = self.since_s if self._inherited_s is None else self._inherited_s
        assert since_s is not None
        tails = [table for shard in _SHARDS[self._path].values() for table in shard.tables()]
        if tails:
            self._replace(gathered(tails, _REMEMBER_ALL), since_s)
        else:
            self._replace(pa.table({}), since_s)

    def _replace(self, table: pa.Table, since_s: float) -> None:
        table = table.replace_schema_metadata({_SINCE: str(since_s)})
        handle, temporary = tempfile.mkstemp(
            dir=Path(self._path).parent, prefix=".", suffix=".partial"
        )
        with os.fdopen(handle, "wb") as file:
            options = pa.ipc.IpcWriteOptions(compression="lz4")
            with pa.ipc.new_file(file, table.schema, options=options) as writer:
                writer.write_table(table)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(self._path)
