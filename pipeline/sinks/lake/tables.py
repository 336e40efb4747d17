"""Writes the lake's tables, a folder for each day."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple
from zlib import crc32

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.sinks.base.tally import Counts, Kept
from pipeline.sinks.lake import held
from pipeline.sinks.lake.cuts import by_number
from pipeline.sinks.lake.files import put_parquet
from pipeline.sinks.lake.recent import left_out
from pipeline.sinks.lake.writing import Writing
from pipeline.stores import Store
from transforms import identity
from transforms.batch import PackedBatch
from transforms.enrich import version_ids
from transforms.gather import Piece

# What the names of the lake's counters begin with.
LABEL = "Lake"
_DAY_US = 86_400_000_000


class Kind(NamedTuple):
    """A folder of the lake that holds tables by day.

    Attributes:
        root: its name.
        key: the column that identifies a row.
        when: the timestamp column whose UTC day counts.
        version: the column that tells versions of a row apart, if there may be any.
    """

    root: str
    key: str
    when: str
    version: str | None = None


READINGS = Kind("readings", "reading_id", "recorded_at", "content_id")
WINDOW_STATS = Kind("window_stats", "stats_id", "window_start")
DEAD_LETTERS = Kind("dead_letters", "dead_letter_id", "ingested_at")
TEST_DIALECTS = Kind("test_dialects", "dialect_id", "ingested_at")
CYCLE_SUMMARIES = Kind("cycle_summaries", "summary_id", "ingested_at")
SOURCE_POSITIONS = Kind("source_positions", "position_id", "ended_at")
CYCLES_LIVE = Kind("cycles_live", "version_id", "started_at")
PREDICTIONS = Kind("predictions", "prediction_id", "cycle_ended_at")


def by_day(table: pa.Table, column: str) -> Iterator[tuple[str, pa.Table]]:
    """Cuts a table by the UTC day of a timestamp column; rows keep their order."""
    days = table.column(column).cast(pa.int64()).to_numpy() // _DAY_US
    for day, part in by_number(table, days):
        yield str(np.datetime64(day, "D")), part


@dataclass(frozen=True)
class Parts:
    """Into which parts a day's rows are shared out, for as many workers.

    Attributes:
        count: of the parts.
        shards: in which readings are put in order; those of one stay together.
        again: whether rows may come again in another table, so that the lake has to be asked.
    """

    count: int
    shards: int
    again: bool = False

    def of(self, rows: pa.Table, key: str) -> int:
        """The part of a table's rows, which are of one shard or have no equipment."""
        if "equipment_id" in rows.column_names and rows.column("equipment_id")[0].is_valid:
            return identity.shard(rows, self.shards) % self.count
        return crc32(rows.column(key)[0].as_py().encode()) % self.count


ONE = Parts(1, 1)


def write_day(store: Store, kind: Kind, day: str, table: pa.Table, parts: Parts = ONE) -> Kept:
    """Writes what isn't there yet of one day's rows, as a file named by their keys."""
    rows = table.num_rows
    folder = f"{kind.root}/dt={day}"
    if parts.again:
        # Only readings are sure to be of one part.
        part = None
        if kind.root == READINGS.root:
            part = f"{parts.of(table, kind.key)}/{parts.count} of {parts.shards}".encode()
            table = table.replace_schema_metadata({held.PART: part})
        # A source may deliver again what still waited with the first copy.
        table = _one_of_a_key(table, kind.key, kind.version)
        table = held.left_out(store, folder, table, kind.key, kind.when, kind.version, part)
    table = left_out(store, kind.root, f"dt={day}", kind.key, kind.when, table, kind.version)
    if not table.num_rows or not put_parquet(store, folder, table, [kind.key], kind.version).new:
        return Kept(already_there=rows)
    return Kept(stored=table.num_rows, already_there=rows - table.num_rows)


def _write_counted(
    store: Store, counts: Counts, kind: Kind, day: str, table: pa.Table, parts: Parts
) -> Kept:
    return counts.commit(write_day(store, kind, day, table, parts))


@dataclass(frozen=True)
class Sizes:
    """How large a table is as a file, roughly, told from its bytes in memory or in Arrow's IPC.

    Attributes:
        packed: whether to tell it from the compressed IPC form, which limits on elements are about.
    """

    packed: bool

    def __call__(self, table: pa.Table, batch: PackedBatch) -> int:
        """Bytes of a Parquet file of it."""
        return len(batch.handle) * 2 // 3 if self.packed else table.nbytes // 4


class ToPieces(beam.DoFn):
    """Cuts tables by day, as pieces to be gathered.

    Args:
        kind: what they are.
        parts: into which a day is divided.
        size: of a piece.
    """

    def __init__(self, kind: Kind, parts: Parts, size: Sizes) -> None:
        self._kind = kind
        self._parts = parts
        self._size = size

    def process(self, table: pa.Table) -> Iterator[tuple[str, Piece]]:
        """(day and part, piece)."""
        for day, part in by_day(table, self._kind.when) if table.num_rows else ():
            first = part.column(self._kind.key)[0].as_py()
            at_us = part.column(self._kind.when)[0].value
            batch = PackedBatch(part)
            yield (
                f"{day}/{self._parts.of(part, self._kind.key)}",
                (f"{at_us + 2**62:020}{first}", self._size(part, batch), batch),
            )


class WriteTables(Writing):
    """Writes every table that comes as a file for each day it holds.

    Args:
        store: the lake.
        kind: what they are.
        parts: into which a day is divided.
    """

    def __init__(self, store: Store, kind: Kind, parts: Parts = ONE) -> None:
        super().__init__(store)
        self._kind = kind
        self._parts = parts
        self._counts = Counts(LABEL, kind.root)

    def process(self, table: pa.Table) -> None:
        """Begins to write."""
        for day, part in by_day(table, self._kind.when) if table.num_rows else ():
            self.begin(_write_counted, self._counts, self._kind, day, part, self._parts)

    def done(self, result: Kept) -> None:
        """Counts what was written."""
        self._counts.in_bundle(result)


class WriteBundles(WriteTables):
    """Writes what comes in a bundle as one file for each day, in the order of a column.

    Live input on the local runner brings the shards of a window in one bundle; a file for each
    would make eight small ones of it.

    Args:
        store: the lake.
        kind: what they are.
        most_bytes: in memory; what is more is written before the bundle is over.
        by_key: whether to bring the rows into the order of their keys, because they come in any.
        once: whether to write one of the rows of a key, because they may come again.
    """

    def __init__(
        self,
        store: Store,
        kind: Kind,
        most_bytes: int,
        by_key: bool = False,
        once: bool = False,
    ) -> None:
        super().__init__(store, kind)
        self._most_bytes = most_bytes
        self._by_key = by_key
        self._once = once
        self._held: list[pa.Table] = []
        self._bytes = 0

    def start_bundle(self) -> None:
        """Begins with nothing."""
        self._held, self._bytes = [], 0

    def process(self, table: pa.Table) -> None:
        """Keeps a table, or writes all that is kept."""
        self._held.append(table)
        self._bytes += table.nbytes
        if self._bytes >= self._most_bytes:
            self._flush()

    def finish_bundle(self) -> None:
        """Writes what is kept and waits for it."""
        self._flush()
        super().finish_bundle()

    def _flush(self) -> None:
        if self._held:
            table = pa.concat_tables(self._held)
            if self._once:
                table = _one_of_a_key(table, self._kind.key)
            super().process(table.sort_by(self._kind.key) if self._by_key else table)
            self._held, self._bytes = [], 0


def _one_of_a_key(table: pa.Table, key: str, version: str | None = None) -> pa.Table:
    """The first row of each key, or of each version of it."""
    keys = table.column(key)
    if version is not None and version in table.column_names:
        keys = pc.coalesce(version_ids(keys, table.column(version)), keys)
    places = pa.table({"key": keys, "place": np.arange(table.num_rows)})
    first = places.group_by("key").aggregate([("place", "min")]).column("place_min")
    return table.take(first.sort()) if len(first) < table.num_rows else table
