"""The steps that archive messages: batch by batch, gathered here, or gathered by many workers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from zlib import crc32

import apache_beam as beam
import pyarrow as pa
from apache_beam import coders
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import (
    BagStateSpec,
    ReadModifyWriteStateSpec,
    TimerSpec,
    on_timer,
)
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.timestamp import Timestamp

from pipeline.sinks.lake.archive import (
    hour_folder,
    ranges_of,
    slug,
    write_messages,
    write_named,
)
from pipeline.sinks.lake.cuts import by_number
from pipeline.sinks.lake.tables import Sizes
from pipeline.sinks.lake.writing import Writing
from pipeline.stores import Store
from transforms.batch import PackedBatch, PackedBatchCoder, RawBatch, stack
from transforms.clock import Clock
from transforms.gather import Piece
from transforms.order import WAITS_SINCE

# So many messages are worth a file at once; fewer wait for more.
_FILE_ROWS = 20_000
# No longer than a reading may take to be durable, whatever its window.
_WAIT_S = 30.0


def _root(source: str) -> str:
    return f"raw/source={slug(source)}"


class ArchiveBatches(Writing):
    """Writes every raw batch as it comes, for sources whose batches are large.

    Args:
        store: the lake.
        source: the source as configured.
        same: whether the source gives the same batches whenever it is read. Then a batch's content
            names its one file; months of history would else be cut into a file per hour.
    """

    def __init__(self, store: Store, source: str, same: bool) -> None:
        super().__init__(store)
        self._root = _root(source)
        self._same = same

    def process(self, raw: RawBatch) -> None:
        """Begins to write one batch."""
        table = raw.table
        if not table.num_rows:
            return
        if not self._same:
            self.begin(write_messages, self._root, table)
            return
        first = table.column("arrived_at").cast(pa.int64())[0].as_py()
        hour = hour_folder(raw.origin.arrived_at_us if first is None else first)
        self.begin(write_named, f"{self._root}/{hour}", table, None)


class ToMessagePieces(beam.DoFn):
    """Raw batches of a stream as pieces to be gathered; for runners with many workers.

    Args:
        spread: into how many parts, for as many workers.
        size: of a piece.
    """

    def __init__(self, spread: int, size: Sizes) -> None:
        self._spread = spread
        self._size = size

    def process(self, raw: RawBatch) -> Iterator[tuple[str, Piece]]:
        """(part, piece).

        Batches that begin with the same message have the same part. Where messages have no offset
        they may be delivered again in another batch, and each has a part of its own, by its time:
        two workers would else look at the same moment whether it is there.
        """
        table = raw.table
        if not table.num_rows:
            return
        if ranges_of(table.column("position")) is not None:
            first = table.column("position")[0].as_py() or ""
            yield self._piece(crc32(first.encode()) % self._spread, table)
            return
        seconds = table.column("arrived_at").cast(pa.int64()).fill_null(0).to_numpy() // 1_000_000
        for part, rows in by_number(table, seconds % self._spread):
            yield self._piece(part, rows)

    def _piece(self, part: int, table: pa.Table) -> tuple[str, Piece]:
        batch = PackedBatch(table)
        first = table.column("position")[0].as_py() or ""
        return str(part), (first, self._size(table, batch), batch)


class WriteMessages(Writing):
    """Writes those of the gathered messages that the archive does not hold.

    An engine may do work again, with another worker, and cut it in another way.

    Args:
        store: the lake.
        source: the source as configured.
    """

    def __init__(self, store: Store, source: str) -> None:
        super().__init__(store)
        self._root = _root(source)

    def process(self, table: pa.Table) -> None:
        """Begins to write a file for each hour."""
        self.begin(write_messages, self._root, table, True)


class ArchiveStream(Writing):
    """Gathers small batches of a stream, by (any key, raw batch), and writes few large files."""

    WAITING = BagStateSpec("waiting", PackedBatchCoder())
    ROWS = ReadModifyWriteStateSpec("rows", coders.VarIntCoder())
    SINCE = ReadModifyWriteStateSpec(WAITS_SINCE, coders.VarIntCoder())
    # By the clock, whatever event time does; and at the end of a job that is drained.
    DUE = TimerSpec("due", TimeDomain.REAL_TIME)
    END = TimerSpec("end", TimeDomain.WATERMARK)

    def __init__(self, store: Store, source: str, clock: Clock) -> None:
        super().__init__(store)
        self._root = _root(source)
        self._clock = clock

    def process(  # type: ignore[no-untyped-def]
        self,
        element: tuple[int, RawBatch],
        waiting=beam.DoFn.StateParam(WAITING),
        rows=beam.DoFn.StateParam(ROWS),
        since=beam.DoFn.StateParam(SINCE),
        due=beam.DoFn.TimerParam(DUE),
        end=beam.DoFn.TimerParam(END),
    ) -> None:
        """Keeps a batch until there are enough messages for a file, or it has waited long enough."""
        table = element[1].table
        there = (rows.read() or 0) + table.num_rows
        # A batch without messages asks for all that waits.
        if there >= _FILE_ROWS or not table.num_rows:
            pieces = [*self._taken(waiting, rows, since), table]
            self._write([piece for piece in pieces if piece.num_rows])
            due.clear()
            return
        if since.read() is None:
            since.write(self._clock.steady_us())
            due.set(Timestamp(self._clock.now_s() + _WAIT_S))
            end.set(GlobalWindow().max_timestamp())
        waiting.add(PackedBatch(table).packed())
        rows.write(there)

    @on_timer(DUE)
    def flush(  # type: ignore[no-untyped-def]
        self,
        waiting=beam.DoFn.StateParam(WAITING),
        rows=beam.DoFn.StateParam(ROWS),
        since=beam.DoFn.StateParam(SINCE),
    ) -> None:
        """Writes what waits."""
        self._write(self._taken(waiting, rows, since))

    @on_timer(END)
    def ended(  # type: ignore[no-untyped-def]
        self,
        waiting=beam.DoFn.StateParam(WAITING),
        rows=beam.DoFn.StateParam(ROWS),
        since=beam.DoFn.StateParam(SINCE),
        due=beam.DoFn.TimerParam(DUE),
    ) -> None:
        """Writes what waits."""
        due.clear()
        self._write(self._taken(waiting, rows, since))

    @staticmethod
    def _taken(waiting: Any, rows: Any, since: Any) -> list[pa.Table]:
        """The tables that wait; none does any more."""
        tables = [piece.table for piece in waiting.read()]
        for state in (waiting, rows, since):
            state.clear()
        return tables

    def _write(self, tables: list[pa.Table]) -> None:
        if tables:
            self.begin(write_messages, self._root, stack(tables))
