"""The Cassandra warehouse: tables of one keyspace, in which a replay changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import apache_beam as beam
from cassandra.cluster import Session

from pipeline.connect.cassandra import ask, connection
from pipeline.shown import address
from pipeline.sinks import Produced, Sink, Wanted
from pipeline.sinks.base import refused
from pipeline.sinks.cassandra import tables
from pipeline.sinks.cassandra.profiles import write_profiles
from pipeline.sinks.cassandra.target import FLAG, Target
from pipeline.sinks.cassandra.write import Write
from schemas.profiles import Profile
from schemas.reading import DEAD_LETTER, Table

__all__ = ["CassandraSink", "Target"]

# Of a dead letter; a node takes 12 MB by default, and the other columns need little.
_MOST_PAYLOAD_BYTES = 8 << 20


class CassandraSink(Sink):
    """All tables of `schemas.reading.TABLES` in a keyspace; the readings are `sensor_data` there.

    Args:
        uri: `cassandra://HOST[:PORT][,HOST…]/KEYSPACE[?…]`, see `Target.parse`.
        source: the job's source as configured, without secrets.
        used: the profiles the job uses.
        kept_where: where dead letters are, beside this warehouse, as messages tell it; None:
            nowhere.
        label: what the names of its steps begin with.
        on_conflict: which version of a reading counts: one of `options.CONFLICTS`.

    Raises:
        ConfigError: the URI can't be used.
    """

    def __init__(
        self,
        uri: str,
        source: str,
        used: Sequence[Profile],
        kept_where: str | None = None,
        label: str = "Cassandra",
        on_conflict: str = "version",
    ) -> None:
        self._target = Target.parse(uri)
        self._source = source.partition("?")[0]
        self._profiles = tuple(used)
        self._kept_where = kept_where
        self._on_conflict = on_conflict
        self.label, self.shown = label, address(uri.partition("?")[0])
        self.takes_superseded = on_conflict != "replace"

    @classmethod
    def from_config(cls, wanted: Wanted) -> Self:
        """The keyspace that `--warehouse=cassandra://…` names."""
        config = wanted.config
        return cls(
            wanted.uri,
            source=config.source,
            used=config.profiles,
            kept_where=wanted.kept_where,
            label=f"Cassandra{wanted.number}",
            on_conflict=config.on_conflict,
        )

    def check(self) -> None:
        """Looks whether somebody answers and what is there may be written to; changes nothing."""
        ask(self._target.address, FLAG, lambda session: tables.look(session, self._target))

    def prepare(self) -> None:
        """Makes keyspace and tables, adds columns an older table lacks, writes the profiles."""

        def make(session: Session) -> None:
            tables.make(session, self._target, tables.look(session, self._target))
            write_profiles(session, self._target, self._profiles)

        ask(self._target.address, FLAG, make)

    def write(self, produced: Produced) -> beam.PCollection:
        """Adds the steps that write everything but dead letters."""
        refusals = [self._write(table, rows) for table, rows in self.given(produced)]
        return tuple(refusals) | f"{self.label}_refused" >> beam.Flatten()

    def write_dead_letters(self, letters: beam.PCollection) -> None:
        """Adds the steps that write dead letters."""
        name = f"{self.label}_{DEAD_LETTER.name}"
        fit = refused.Fit(self._kept_where, _MOST_PAYLOAD_BYTES)
        kept = refused.KeptElsewhere(self._target.told, self._kept_where)
        again = self._write(DEAD_LETTER, letters | f"{name}_fit" >> beam.ParDo(fit))
        _ = again | f"{name}_kept" >> beam.ParDo(kept)

    def _write(self, table: Table, rows: beam.PCollection) -> beam.PCollection:
        step = beam.ParDo(Write(self._target, table, self._source, self.label, self._on_conflict))
        return rows | f"{self.label}_{table.name}" >> step

    def finish(self) -> None:
        """Ends this process's session."""
        connection(self._target.address).close()
