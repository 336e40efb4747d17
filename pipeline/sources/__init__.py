"""The sources: one file or folder each; every one yields raw batches with their origin."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple, Protocol

import apache_beam as beam

from pipeline.engines import HERE, Engine
from pipeline.options import JobConfig
from transforms.batch import RawBatch
from transforms.decode import decode
from transforms.decoded import Decoded
from transforms.rejects import Rejects


class Behind(NamedTuple):
    """What event time waits for.

    Attributes:
        partition: the one that is furthest behind.
        behind_us: by so much, in event time, behind the one furthest ahead; None: it has given
            nothing yet.
        since_us: since when, µs since 1970.
    """

    partition: int
    behind_us: int | None
    since_us: int


@dataclass(frozen=True)
class Received:
    """What a source gives to the graph.

    Attributes:
        batches: PCollection of `transforms.batch.RawBatch`.
        dead_letters: PCollection of tables of schema DEAD_LETTER: what the source itself could
            not read; None where it reads anything.
        files: PCollection of `stores.raw_file.RawFile` to be archived whole; None where the
            batches themselves are what the archive keeps.
        leads: whether a batch's time is the watermark that the source will have after it.
        summaries: PCollection of tables of schema CYCLE_SUMMARY: what the source says of cycles
            beside its readings; None where it says nothing.
        opened: PCollection of names of the files that were read for what they hold, as readings
            carry them; a name may come again. None where the source has no files.
        disorder_us: how much later than its successors a reading may come and still be on time.
        positions: PCollection of tables of schema SOURCE_POSITION: what was read, from where to
            where, and what was passed; None where the source does not say.
    """

    batches: beam.PCollection
    dead_letters: beam.PCollection | None
    files: beam.PCollection | None
    leads: bool = False
    summaries: beam.PCollection | None = None
    opened: beam.PCollection | None = None
    disorder_us: int = 0
    positions: beam.PCollection | None = None


@dataclass(frozen=True)
class Told:
    """What a live source in this process tells while it runs, between two bundles.

    Attributes:
        settled: asked before every poll, returns when every sink has what it was given until the
            last time it was asked; with True, until now.
        committing: positions are about to be given back; with the time, seconds since 1970,
            since when it took what it can't give back yet. None: of what earlier runs took and
            could not give back, some is not given back yet either.
        taking_over: it reads partitions that another job may have read until now.
    """

    settled: Callable[[bool], None] = lambda _everything: None
    committing: Callable[[float | None], None] = lambda _since_s: None
    taking_over: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Wanted:
    """What a source is built from.

    Attributes:
        config: the job's; its `source` is the URI.
        engine: what the job runs on.
        told: what the job wants to know of a live source.
    """

    config: JobConfig
    engine: Engine = HERE
    told: Told = field(default_factory=Told)

    @property
    def decode(self) -> Callable[[RawBatch], tuple[Decoded, Rejects]]:
        """Decodes a raw batch as the job will; a live source's watermark needs its event times."""
        return partial(
            decode,
            time_zone=self.config.zone,
            day_first=self.config.day_first,
            budget=self.config.budget,
            binary_keys=self.config.binary_keys,
        )


class Source(Protocol):
    """What every source offers.

    Attributes:
        unit: `readings` or `B` (bytes).
        live: whether it goes on for ever.
        takes_dialects: whether `--dialect` says something of it.
        takes_until_latest: whether it can be read up to what is there now.
    """

    unit: str
    takes_dialects: bool
    takes_until_latest: bool

    @classmethod
    def from_config(cls, wanted: Wanted) -> Source:
        """Builds it; raises ConfigError if its URI or flags can't be used."""

    @property
    def live(self) -> bool:
        """Whether readings go on coming until the job is stopped."""

    def start(self) -> None:
        """Of a live source in this process: begins to read; called when the graph is built."""

    def stop(self) -> None:
        """Of a live source in this process: reads no further, so that the job ends."""

    def finish(self) -> None:
        """After the job has ended and every sink has everything: gives back positions."""

    @property
    def lag(self) -> int | None:
        """Messages of a live source known to be unread; None where that is not known."""

    @property
    def watermark_us(self) -> int | None:
        """How far event time has come in a live source, µs since 1970; None if not known."""

    @property
    def behind(self) -> Behind | None:
        """What event time waits for in a live source; None for nothing, or if not known."""

    @property
    def trouble(self) -> str | None:
        """Why a live source can't be read now, though it is asked again and again."""

    @property
    def total(self) -> int | None:
        """How much there is to read, in `unit`; None if that isn't known."""

    def check(self) -> None:
        """Finds out before anything is read whether it can be read; raises ConfigError."""

    def read(self, pipeline: beam.Pipeline) -> Received:
        """Adds the source's steps to the pipeline."""


class Bounded:
    """What sources have in common whose end is known."""

    takes_dialects = False
    takes_until_latest = False
    live = False
    lag = None
    watermark_us = None
    behind = None
    trouble = None

    def start(self) -> None:
        """Nothing to do: the steps read."""

    def stop(self) -> None:
        """Nothing to do: the job ends by itself."""

    def finish(self) -> None:
        """Nothing to give back."""
