"""The sink of DuckDB's tables, in a file or at MotherDuck, where a replay changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import apache_beam as beam
import pyarrow as pa
from apache_beam.metrics import Metrics

from pipeline import account
from pipeline.shown import address
from pipeline.sinks import Produced, Sink, Wanted
from pipeline.sinks.base.background import Background
from pipeline.sinks.base.tally import Counts, Kept
from pipeline.sinks.duckdb import tables
from pipeline.sinks.duckdb.file import File
from pipeline.sinks.duckdb.motherduck import MotherDuck
from pipeline.sinks.duckdb.place import Place
from pipeline.sinks.duckdb.rows import put
from pipeline.sinks.duckdb.versions import Put
from schemas.profiles import Profile
from schemas.reading import DEAD_LETTER, Table

# Rows gathered before they are written: a transaction and a join against what is there cost
# more than the rows do.
_FLUSH_ROWS = 150_000
_FLUSH_BYTES = 64 * 1024 * 1024


def _insert(
    place: Place,
    table: Table,
    counts: Counts,
    rows: pa.Table,
    on_conflict: str,
    may_repeat: bool,
) -> tuple[Put, Kept]:
    """Inserts in one transaction; returns what was new and what became of all rows."""
    done = place.writer().write(
        lambda database: put(database, table, rows, on_conflict, may_repeat)
    )
    there = int(rows.num_rows) - done.inserted - done.superseded
    return done, counts.commit(Kept(done.inserted, there, done.superseded))


class _Insert(beam.DoFn):
    """Gathers a bundle's rows and inserts them, many to a transaction."""

    def __init__(
        self, place: Place, table: Table, label: str, on_conflict: str, may_repeat: bool
    ) -> None:
        self._place = place
        self._counts = Counts(label, table.name)
        self._table = table
        self._on_conflict, self._may_repeat = on_conflict, may_repeat
        self._held: list[pa.Table] = []
        self._rows = self._bytes = 0
        self._background: Background | None = None
        self._inserted = Metrics.counter("duckdb", f"{table.name}_inserted")
        self._known = Metrics.counter("duckdb", f"{table.name}_already_there")
        self._corrected = Metrics.counter(account.CORRECTED, label)

    def setup(self) -> None:
        if self._background is None:
            self._background = Background(threads=1, waiting=1)

    def start_bundle(self) -> None:
        self._clear()

    def process(self, rows: pa.Table) -> None:
        self._held.append(rows)
        self._rows += rows.num_rows
        self._bytes += rows.nbytes
        if self._rows >= _FLUSH_ROWS or self._bytes >= _FLUSH_BYTES:
            self._flush()

    def finish_bundle(self) -> None:
        self._flush()
        assert self._background is not None
        for done, kept in self._background.drain():
            self._counts.in_bundle(kept)
            self._inserted.inc(done.inserted)
            self._known.inc(kept.already_there)
            self._corrected.inc(done.superseded + done.replaced)

    def _clear(self) -> None:
        self._held, self._rows, self._bytes = [], 0, 0

    def _flush(self) -> None:
        if self._held:
            assert self._background is not None
            rows = pa.concat_tables(self._held)
            self._background.submit(
                _insert,
                self._place,
                self._table,
                self._counts,
                rows,
                self._on_conflict,
                self._may_repeat,
            )
            self._clear()


class _TablesSink(Sink):
    """All tables of `schemas.reading.TABLES` in one place."""

    def __init__(self, place: Place, used: Sequence[Profile], label: str, on_conflict: str) -> None:
        self._place = place
        self._on_conflict = on_conflict
        self.label, self.shown = label, address(place.uri)
        self.takes_superseded = on_conflict != "replace"
        self._profiles = tuple(used)

    def check(self) -> None:
        """Finds out whether the place, if it is there, can be written and has the right tables."""
        with self._place.connected(create=False) as database:
            if database is not None:
                tables.check(database, self._place.uri)

    def prepare(self) -> None:
        """Makes the place and its tables, adds columns older ones lack, writes the profiles."""
        with self._place.connected(create=True) as database:
            assert database is not None
            tables.prepare(database, self._profiles, self._place.uri)

    def write(self, produced: Produced) -> None:
        """Adds the steps that insert everything but dead letters."""
        for table, rows in self.given(produced):
            self._insert(table, rows)

    def write_dead_letters(self, letters: beam.PCollection) -> None:
        """Adds the step that inserts dead letters."""
        self._insert(DEAD_LETTER, letters)

    def _insert(self, table: Table, rows: beam.PCollection) -> None:
        # Bounded input is put in order as a whole: each reading comes once.
        may_repeat = not rows.is_bounded
        step = _Insert(self._place, table, self.label, self._on_conflict, may_repeat)
        _ = rows | f"{self.label}_{table.name}" >> beam.ParDo(step)

    def complete(self) -> None:
        """Writes all that is in memory to the file, and finds out whether it is still there."""
        writer = self._place.writer()
        writer.close()
        writer.check()

    def finish(self) -> None:
        """Closes the connection."""
        writer = self._place.writer()
        writer.hurry()
        writer.close()


class DuckDBSink(_TablesSink):
    """The tables in one file."""

    def __init__(
        self,
        path: str,
        used: Sequence[Profile],
        label: str = "DuckDB",
        on_conflict: str = "version",
    ) -> None:
        super().__init__(File(path), used, label, on_conflict)

    @classmethod
    def from_config(cls, wanted: Wanted) -> Self:
        """The file that `--warehouse=duckdb:PATH` names."""
        config, path = wanted.config, wanted.uri.partition(":")[2]
        return cls(path, config.profiles, f"DuckDB{wanted.number}", config.on_conflict)


class MotherDuckSink(_TablesSink):
    """The tables in one database at MotherDuck; `uri` is `md:DATABASE`."""

    def __init__(
        self,
        uri: str,
        used: Sequence[Profile],
        label: str = "MotherDuck",
        on_conflict: str = "version",
    ) -> None:
        super().__init__(MotherDuck.parse(uri), used, label, on_conflict)

    @classmethod
    def from_config(cls, wanted: Wanted) -> Self:
        """The database that `--warehouse=md:DATABASE` names."""
        config = wanted.config
        return cls(wanted.uri, config.profiles, f"MotherDuck{wanted.number}", config.on_conflict)
