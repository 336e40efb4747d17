"""The sinks: one file or folder each; every one takes all that the graph gives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol

import apache_beam as beam

from pipeline.engines import HERE, Engine
from pipeline.options import JobConfig
from schemas.reading import (
    CYCLE_SUMMARY,
    CYCLES_LIVE,
    PREDICTION,
    READING,
    READING_SUPERSEDED,
    SOURCE_POSITION,
    TEST_DIALECT,
    WINDOW_STATS,
    Table,
)


@dataclass(frozen=True)
class Produced:
    """What the graph gives to every sink, beside the dead letters.

    Attributes:
        raw: PCollection of `transforms.batch.RawBatch`, None where `files` is what is archived.
        files: PCollection of `pipeline.stores.raw_file.RawFile`, or None.
        readings: PCollection of tables of schema READING.
        window_stats: PCollection of tables of schema WINDOW_STATS.
        tails: PCollection of (shard, `transforms.order.Tail`): what the next readings need.
        dialects: PCollection of tables of schema TEST_DIALECT, or None. A row may come again.
        summaries: PCollection of tables of schema CYCLE_SUMMARY; None where the source has none.
        positions: PCollection of tables of schema SOURCE_POSITION; None where the source has none.
        superseded: PCollection of tables of schema READING_SUPERSEDED, or None: readings of which
            another version is among `readings` now or was before.
        cycles: PCollection of tables of schema CYCLES_LIVE, or None.
        open_cycles: PCollection of (shard, `transforms.cycles.memory.Change`), or None: what the
            next readings need to know of cycles that go on.
        predictions: PCollection of tables of schema PREDICTION, or None.
        cells: PCollection of (cell, bytes), or None: what is remembered of its health.
    """

    raw: beam.PCollection | None
    files: beam.PCollection | None
    readings: beam.PCollection
    window_stats: beam.PCollection
    tails: beam.PCollection
    dialects: beam.PCollection | None = None
    summaries: beam.PCollection | None = None
    positions: beam.PCollection | None = None
    superseded: beam.PCollection | None = None
    cycles: beam.PCollection | None = None
    open_cycles: beam.PCollection | None = None
    predictions: beam.PCollection | None = None
    cells: beam.PCollection | None = None

    @property
    def tables(self) -> list[tuple[Table, beam.PCollection]]:
        """The tables that a warehouse has, each with its rows; without the dead letters."""
        given = (
            (READING, self.readings),
            (READING_SUPERSEDED, self.superseded),
            (WINDOW_STATS, self.window_stats),
            (TEST_DIALECT, self.dialects),
            (CYCLE_SUMMARY, self.summaries),
            (SOURCE_POSITION, self.positions),
            (CYCLES_LIVE, self.cycles),
            (PREDICTION, self.predictions),
        )
        return [(table, rows) for table, rows in given if rows is not None]


@dataclass(frozen=True)
class Wanted:
    """What a sink is built from.

    Attributes:
        uri: what the flag says, such as `duckdb:data/warehouse.duckdb`.
        config: the job's.
        engine: what the job runs on.
        number: what tells the second warehouse's steps from the first one's, such as `2`; empty
            for the first.
        since_s: since when the last run of a live job wrote what it could not commit, seconds
            since 1970; None if there was none.
    """

    uri: str
    config: JobConfig
    engine: Engine = HERE
    number: str = ""
    since_s: float | None = None

    @property
    def kept_where(self) -> str | None:
        """Where else the job's dead letters are; None: nowhere."""
        others = [self.config.lake, *self.config.warehouses, self.config.dead_letter_topic]
        return next((each for each in others if each is not None and each != self.uri), None)


class Configured(Protocol):
    """A sink that flags ask for."""

    @classmethod
    def from_config(cls, wanted: Wanted) -> Sink:
        """Builds it; raises ConfigError if its URI or flags can't be used."""


class Sink(ABC):
    """What every sink offers.

    Attributes:
        label: what the names of its steps and counters begin with; empty for what keeps nothing
            for the user.
        shown: as a person knows it, such as `duckdb:data/warehouse.duckdb`.
        counts_every: whether it counts every row it is given once it has it; see `sinks.base.tally`.
        takes_readings: whether it is given more than dead letters.
        takes_superseded: whether it is given versions of readings that do not count, too.
    """

    label = ""
    shown = ""
    counts_every = True
    takes_readings = True
    takes_superseded = True

    def given(self, produced: Produced) -> list[tuple[Table, beam.PCollection]]:
        """Of a warehouse: the tables that it is given, each with its rows; see `Produced.tables`."""
        return [
            (table, rows)
            for table, rows in produced.tables
            if table != READING_SUPERSEDED or self.takes_superseded
        ]

    def check(self) -> None:  # noqa: B027 - some have nothing that could be missing
        """Finds out whether `prepare` would succeed; changes nothing; raises ConfigError."""

    @abstractmethod
    def prepare(self) -> None:
        """Checks and creates the targets before anything is read; raises ConfigError."""

    @abstractmethod
    def write(self, produced: Produced) -> beam.PCollection | None:
        """Adds the steps that write everything but dead letters.

        Returns:
            tables of schema DEAD_LETTER: what the target refused; None where it can't.
        """

    def write_dead_letters(self, letters: beam.PCollection) -> None:  # noqa: B027 - not all do
        """Adds the steps that write the job's dead letters, tables of schema DEAD_LETTER.

        They include what sinks refused; what a sink refuses of these it has to keep otherwise.
        """

    def look_again(self, since_s: float) -> None:  # noqa: B027 - most find out by themselves
        """Another job has written here since a time, seconds since 1970, and this one goes on."""

    def complete(self) -> None:  # noqa: B027 - most are complete when their steps are
        """Writes what is left; called once the job has come to its end as it should."""

    def finish(self) -> None:  # noqa: B027 - most hold nothing
        """Lets go of what it holds open; called when the job is over, however it ended."""
