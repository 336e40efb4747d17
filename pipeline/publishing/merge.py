"""Puts a source's messages in order of time, on disk, whatever order its files have."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.scratch import in_tmpdir

# What is kept in TMPDIR meanwhile.
WHAT = "the messages in order of time"
# A sorted run is written once this many messages or bytes have been gathered.
_RUN_ROWS = 200_000
_RUN_BYTES = 64 * 1024 * 1024
# What is held of each run that is being merged.
_BLOCK_ROWS = 2_000


class TimeOrder:
    """Sorts any number of messages by `due_us`; equal ones come in the same order every time.

    Everything is read before the first message comes out: a file may hold any time. What is held
    in memory is one run while reading, then a block of each run whose times overlap.

    Args:
        folder: an empty folder for the runs, as large as the source's messages.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._runs: list[_Run] = []
        self.rows = 0

    def add(self, tables: Iterable[pa.Table]) -> None:
        """Takes all messages (schema OUTGOING)."""
        held: list[pa.Table] = []
        rows = size = 0
        for table in tables:
            held.append(table)
            rows += table.num_rows
            size += table.nbytes
            if rows >= _RUN_ROWS or size >= _RUN_BYTES:
                self._write(held)
                held, rows, size = [], 0, 0
        self._write(held)

    def _write(self, held: list[pa.Table]) -> None:
        if not any(table.num_rows for table in held):
            return
        table = pa.concat_tables(held)
        table = table.take(pc.sort_indices(table, [("due_us", "ascending")]))
        path = self._folder / f"{len(self._runs)}.arrow"
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        with (
            in_tmpdir(WHAT),
            pa.OSFile(str(path), "wb") as file,
            pa.ipc.new_file(file, table.schema, options=options) as writer,
        ):
            writer.write_table(table.combine_chunks(), max_chunksize=_BLOCK_ROWS)
        self._runs.append(_Run(path, table.column("due_us")[0].as_py()))
        self.rows += table.num_rows

    def tables(self) -> Iterator[pa.Table]:
        """All messages in order."""
        waiting = sorted(self._runs, key=lambda run: run.begins)
        active: list[_Run] = []
        while waiting or active:
            horizon = min((run.horizon for run in active), default=None)
            while waiting and (horizon is None or waiting[0].begins <= horizon):
                run = waiting.pop(0)
                run.open()
                active.append(run)
                horizon = min(run.horizon for run in active)
            assert horizon is not None
            ready = pa.concat_tables([run.take(horizon) for run in active])
            active = [run for run in active if run.block is not None]
            yield ready.take(pc.sort_indices(ready, [("due_us", "ascending")]))


class _Run:
    """A sorted file of messages, of which one block is held."""

    def __init__(self, path: Path, begins: int) -> None:
        self.path = path
        self.begins = begins
        self.block: pa.Table | None = None
        self._next = 0

    def open(self) -> None:
        with in_tmpdir(WHAT, "read"):
            self._file = pa.OSFile(str(self.path), "rb")
            self._reader = pa.ipc.open_file(self._file)
        self._load()

    def _load(self) -> None:
        if self._next == self._reader.num_record_batches:
            self.block = None
            self._file.close()
            self.path.unlink()
            return
        with in_tmpdir(WHAT, "read"):
            self.block = pa.Table.from_batches([self._reader.get_batch(self._next)])
        self._next += 1

    @property
    def horizon(self) -> int:
        """Up to this time everything of the run is at hand."""
        assert self.block is not None
        return int(self.block.column("due_us")[-1].as_py())

    def take(self, horizon: int) -> pa.Table:
        """The held messages up to the horizon; loads the next block when none is left."""
        assert self.block is not None
        due = self.block.column("due_us").to_numpy()
        count = int(due.searchsorted(horizon, side="right"))
        taken = self.block.slice(0, count)
        self.block = self.block.slice(count)
        if not self.block.num_rows:
            self._load()
        return taken
