"""Keeps what a live job knows of cycles that go on from one run to the next, in an SQLite file.

It is written whenever the checkpoint is: what is remembered covers what is given back to the source,
no more and no less. Only what changed is written: the readings of long cycles are many.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from pathlib import Path

import apache_beam as beam
import pyarrow as pa

from pipeline.errors import CheckpointFailed, ConfigError, not_written
from pipeline.safe_open import OWNER
from pipeline.sinks import Produced, Sink
from transforms.batch import PackedBatch
from transforms.cycles import memory
from transforms.cycles.memory import Change, Kept

_log = logging.getLogger(__name__)
_TABLES = """
CREATE TABLE IF NOT EXISTS heads (shard INTEGER PRIMARY KEY, data BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS waiting (
    place INTEGER PRIMARY KEY AUTOINCREMENT, shard INTEGER NOT NULL, data BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS by_shard ON waiting (shard);
CREATE TABLE IF NOT EXISTS cells (equipment TEXT PRIMARY KEY, data BLOB NOT NULL);
"""
_UNREADABLE = (sqlite3.DatabaseError, pa.ArrowException, KeyError, ValueError, TypeError)


class _Changes:
    """What changed of a shard since the last save."""

    def __init__(self) -> None:
        self.heads: PackedBatch | None = None
        self.added: list[PackedBatch] = []
        self.all_of_it = False

    def add(self, change: Change) -> None:
        self.heads = change.heads
        if change.replaced is not None:
            self.added = [change.replaced]
            self.all_of_it = True
        elif change.added is not None:
            self.added.append(change.added)


# By file and shard. One per process: DoFns are copied.
_CHANGED: dict[str, dict[int, _Changes]] = {}
# By file and cell.
_CELLS: dict[str, dict[str, bytes]] = {}


class _Remember(beam.DoFn):
    def __init__(self, path: str) -> None:
        self._path = path

    def process(self, element: tuple[int, Change]) -> None:
        shard, change = element
        _CHANGED[self._path].setdefault(shard, _Changes()).add(change)


class _RememberCell(beam.DoFn):
    def __init__(self, path: str) -> None:
        self._path = path

    def process(self, element: tuple[str, bytes]) -> None:
        name, data = element
        _CELLS[self._path][name] = data


class OpenCycles(Sink):
    """The file beside a checkpoint.

    Args:
        checkpoint: the file of `running.checkpoint.Checkpoint`, whose lock holds for both.
    """

    def __init__(self, checkpoint: str) -> None:
        self._path = f"{checkpoint}.cycles"
        self._database: sqlite3.Connection | None = None
        self._is_first = True

    def prepare(self) -> None:
        """Opens the file; one that can't be used is removed, for it is made of readings that are written."""
        _CHANGED[self._path], _CELLS[self._path] = {}, {}
        try:
            self._open()
        except sqlite3.DatabaseError as error:
            _log.warning(
                "--checkpoint: %s can't be used (%s); it is made again, and the cycles that went on "
                "are marked as not whole in cycles_live",
                self._path, error,
            )  # fmt: skip
            self.finish()
            try:
                for name in (self._path, f"{self._path}-wal", f"{self._path}-shm"):
                    Path(name).unlink(missing_ok=True)
                self._open()
            except (OSError, sqlite3.DatabaseError) as refused:
                raise ConfigError(
                    f"--checkpoint: {self._path} can't be used ({refused}); remove it, or give "
                    "another --checkpoint"
                ) from refused

    def _open(self) -> None:
        database = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        self._database = database
        with contextlib.suppress(OSError):
            Path(self._path).chmod(OWNER)
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        database.executescript(_TABLES)
        if database.execute("PRAGMA quick_check").fetchone() != ("ok",):
            raise sqlite3.DatabaseError("it is damaged")

    def remembered(self) -> Kept | None:
        """What the last run left; its shards are to be cut by this run's. None if it left nothing."""
        assert self._database is not None
        try:
            return memory.together(self._shards(self._database))
        except _UNREADABLE as error:
            _log.warning(
                "--checkpoint: %s can't be read (%s); the cycles that went on are marked as not "
                "whole in cycles_live",
                self._path, error,
            )  # fmt: skip
            return None

    def cells(self) -> list[tuple[str, bytes]]:
        """What the last run knew of cells' health."""
        assert self._database is not None
        try:
            return self._database.execute("SELECT equipment, data FROM cells").fetchall()
        except sqlite3.DatabaseError as error:
            _log.warning(
                "--checkpoint: %s can't be read (%s); health is followed from now on",
                self._path, error,
            )  # fmt: skip
            return []

    @staticmethod
    def _shards(database: sqlite3.Connection) -> list[tuple[pa.Table, list[pa.Table]]]:
        found = []
        for shard, heads in database.execute("SELECT shard, data FROM heads").fetchall():
            rows = database.execute(
                "SELECT data FROM waiting WHERE shard = ? ORDER BY place", (shard,)
            ).fetchall()
            found.append((_table(heads), [_table(data) for (data,) in rows]))
        return found

    def write(self, produced: Produced) -> None:
        """Adds the step that remembers."""
        if produced.open_cycles is not None:
            step = beam.ParDo(_Remember(self._path))
            _ = produced.open_cycles | "RememberCycles" >> step
        if produced.cells is not None:
            _ = produced.cells | "RememberCells" >> beam.ParDo(_RememberCell(self._path))

    def save(self) -> None:
        """Writes what changed, whole or not at all; to be called between bundles."""
        changed, _CHANGED[self._path] = _CHANGED[self._path], {}
        cells, _CELLS[self._path] = _CELLS[self._path], {}
        database = self._database
        if not (changed or cells) or database is None:
            return
        try:
            database.execute("BEGIN IMMEDIATE")
            if self._is_first and changed:
                # What the last run left has come with the changes, by the shards of this one.
                database.execute("DELETE FROM waiting")
                database.execute("DELETE FROM heads")
            for shard, changes in changed.items():
                if changes.all_of_it:
                    database.execute("DELETE FROM waiting WHERE shard = ?", (shard,))
                if changes.heads is not None:
                    data = _data(changes.heads)
                    database.execute("INSERT OR REPLACE INTO heads VALUES (?, ?)", (shard, data))
                database.executemany(
                    "INSERT INTO waiting (shard, data) VALUES (?, ?)",
                    [(shard, _data(piece)) for piece in changes.added],
                )
            database.executemany("INSERT OR REPLACE INTO cells VALUES (?, ?)", list(cells.items()))
            database.execute("COMMIT")
            self._is_first = self._is_first and not changed
        except sqlite3.Error as error:
            told = not_written("--checkpoint", self._path, OSError(None, str(error)))
            raise CheckpointFailed(told) from error

    def finish(self) -> None:
        """Closes the file."""
        if self._database is not None:
            self._database.close()
            self._database = None


def _data(batch: PackedBatch) -> bytes:
    """The batch as bytes of its own: a handle may point to a file of this run."""
    sink = pa.BufferOutputStream()
    table = batch.table
    with pa.ipc.new_stream(
        sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="lz4")
    ) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def _table(data: bytes) -> pa.Table:
    return pa.ipc.open_stream(pa.py_buffer(data)).read_all()
