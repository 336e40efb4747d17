"""Keeps what the ordering step remembers from one run of a live job to the next."""

from __future__ import annotations

import errno
import fcntl
import glob
import hashlib
import itertools
import logging
import math
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import apache_beam as beam
import pyarrow as pa

from pipeline import durable
from pipeline.errors import CheckpointFailed, ConfigError, not_written
from pipeline.safe_open import OWNER, lock_file
from pipeline.sinks import Produced, Sink
from transforms.batch import PackedBatch
from transforms.order import Tail
from transforms.sequence import gathered, tail_problem

# A checkpoint is these bytes, the digest of the rest, and an Arrow file; of older versions the
# last alone.
_MAGIC = b"battery-checkpoint-1\n"
_DIGEST_BYTES = 16
_HEAD = len(_MAGIC) + _DIGEST_BYTES
_ARROW = b"ARROW1"
_DAMAGED = ".damaged"
_SHOWN = 200
_UNREADABLE = (
    pa.ArrowException, OSError, KeyError, ValueError, TypeError, OverflowError, MemoryError
)  # fmt: skip
# The time of a checkpoint that does not tell.
_EVER_S = 0.0
_SINCE = b"since"
_MOST_JOBS = 100
_log = logging.getLogger(__name__)
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
        if (lock := _locked(own)) is not None:
            return own, lock
    raise OSError(f"{_MOST_JOBS} jobs use it")


def _locked(own: str) -> BinaryIO | None:
    """The lock of a checkpoint, held as long as it is open; None if another job has it."""
    lock = lock_file(f"{own}.lock")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    return lock


def _is_there(lock: BinaryIO, own: str) -> bool:
    """Whether a lock is still the file that another job would ask for."""
    try:
        return os.path.samestat(os.fstat(lock.fileno()), os.stat(f"{own}.lock"))  # noqa: PTH116
    except FileNotFoundError:
        return False


class Damaged(Exception):
    """A checkpoint can't be used; the message says why, without its name."""


@dataclass(frozen=True)
class _Content:
    """What a checkpoint holds.

    Attributes:
        since_s: see `Checkpoint.since_s`.
        table: the readings that are remembered; None if there are none.
        checked: whether it has a checksum; those of older versions have none.
    """

    since_s: float
    table: pa.Table | None
    checked: bool


def _read(path: Path) -> _Content | None:
    """None if there is no checkpoint.

    Raises:
        Damaged: it can't be used.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Damaged(f"can't be read ({error.strerror or error})") from error
    checked = not data.startswith(_ARROW)
    if checked:
        magic, digest, data = data[: len(_MAGIC)], data[len(_MAGIC) : _HEAD], data[_HEAD:]
        if magic != _MAGIC:
            raise Damaged("is no checkpoint of this version")
        if digest != _digest(data):
            raise Damaged("is not what was written: its checksum differs")
    try:
        table = pa.ipc.open_file(pa.py_buffer(data)).read_all()
        table.validate(full=True)
        since_s = float((table.schema.metadata or {})[_SINCE])
    except _UNREADABLE as error:
        raise Damaged(f"can't be read ({' '.join(str(error).split())[:_SHOWN]})") from error
    if not 0 <= since_s < math.inf:
        raise Damaged(f"says that it is of the time {since_s}")
    if table.num_rows and (wrong := tail_problem(table.schema)):
        raise Damaged(wrong)
    return _Content(since_s, table if table.num_rows else None, checked)


def _digest(data: bytes | pa.Buffer) -> bytes:
    return hashlib.blake2b(data, digest_size=_DIGEST_BYTES).digest()


def _since_s(path: Path) -> float | None:
    """Since when a run has written what it could not commit; None if there was none.

    That of a damaged checkpoint is not known: then all that is there may be.
    """
    try:
        content = _read(path)
    except Damaged:
        return _EVER_S
    return None if content is None else content.since_s


def _set_aside(path: Path) -> Path:
    """Renames a file so that it is no checkpoint any more; never over another."""
    for number in itertools.count(1):
        aside = Path(f"{path}{_DAMAGED}" if number == 1 else f"{path}{_DAMAGED}.{number}")
        try:
            os.link(path, aside, follow_symlinks=False)
        except FileExistsError:
            continue
        path.unlink()
        return aside
    raise AssertionError


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
        self._saved_s = time.time()
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
        """Begins to remember; sets a damaged checkpoint aside."""
        _SHARDS[self._path] = {}
        content: _Content | None = None
        try:
            content = _read(Path(self._path))
            self._inherited_s = None if content is None else content.since_s
        except Damaged as error:
            self._inherited_s = _EVER_S
            self._set_aside(error)
        if content is not None and not content.checked:
            _log.warning(
                "--checkpoint=%s: is of an older version and has no checksum; it is used, and "
                "replaced by one that has",
                self._path,
            )
        if content is None:
            # From now on this run writes; the next one must know since when.
            began_s = time.time() if self._inherited_s is None else self._inherited_s
            self._replace(pa.table({}), began_s)

    def _set_aside(self, error: Damaged) -> None:
        try:
            aside = _set_aside(Path(self._path))
        except OSError as refused:
            raise ConfigError(
                f"--checkpoint={self._path}: {error}, and it can't be renamed "
                f"({refused.strerror or refused}); remove it"
            ) from error
        _log.warning(
            "--checkpoint=%s: %s; it is set aside as %s, and the job starts without one: the "
            "first time delta of every equipment is null, and all that the lake holds of the days "
            "that are written is looked through for readings that are there already",
            self._path, error, aside,
        )  # fmt: skip

    @property
    def path(self) -> str:
        """The file that this job has, which no other one uses as long as it runs."""
        return self._path

    @property
    def since_s(self) -> float | None:
        """Since when a run has written what it could not commit, seconds since 1970.

        That is read once more by the next run. None if there was none; 0 if that is not known,
        because the checkpoint is damaged.
        """
        return _since_s(Path(self._path))

    @property
    def others_since_s(self) -> float:
        """The same of all jobs that share the source, since one of them may have to be replaced."""
        name = re.escape(self._first.name)
        found = [
            _since_s(path)
            for path in self._first.parent.glob(f"{glob.escape(self._first.name)}*")
            if re.fullmatch(rf"{name}(\.\d+)?", path.name)
        ]
        return min((since for since in found if since is not None), default=time.time())

    def remembered(self) -> pa.Table | None:
        """What the last run left; None if it left nothing."""
        try:
            content = _read(Path(self._path))
        except Damaged:
            return None
        return None if content is None else content.table

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
            since_s = self._saved_s if self._inherited_s is None else self._inherited_s
        try:
            self._keep_lock()
        except OSError as error:
            told = not_written(f"--checkpoint={self._first}", f"{self._path}.lock", error)
            raise CheckpointFailed(told) from error
        tails = [table for shard in _SHARDS[self._path].values() for table in shard.tables()]
        if tails:
            self._replace(gathered(tails, _REMEMBER_ALL), since_s)
        else:
            self._replace(pa.table({}), since_s)

    def _keep_lock(self) -> None:
        """Takes the lock again if somebody has removed its file."""
        if _is_there(self._lock, self._path):
            return
        taken = _locked(self._path)
        if taken is None:
            raise CheckpointFailed(
                f"--checkpoint={self._path}: its lock ({self._path}.lock) was removed and another "
                "job has taken it; run the job again, and let the .lock files be"
            )
        self._lock.close()
        self._lock = taken

    def _replace(self, table: pa.Table, since_s: float) -> None:
        table = table.replace_schema_metadata({_SINCE: str(since_s)})
        sink = pa.BufferOutputStream()
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        with pa.ipc.new_file(sink, table.schema, options=options) as writer:
            writer.write_table(table)
        data = sink.getvalue()
        try:
            durable.replace(Path(self._path), (_MAGIC + _digest(data), data), OWNER)
        except OSError as error:
            told = not_written(f"--checkpoint={self._first}", self._path, error)
            raise CheckpointFailed(told) from error
        self._saved_s = since_s
