"""The sinks: one file each; every one takes all that the graph gives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import apache_beam as beam


@dataclass(frozen=True)
class Produced:
    """What the graph gives to every sink.

    Attributes:
        raw: PCollection of `transforms.batch.RawBatch`, None where `files` is what is archived.
        files: PCollection of `pipeline.sources.RawFile`, or None.
        readings: PCollection of tables of schema READING.
        dead_letters: PCollection of tables of schema DEAD_LETTER.
        window_stats: PCollection of tables of schema WINDOW_STATS.
        tails: PCollection of (shard, `transforms.order.Tail`): what the next readings need.
    """

    raw: beam.PCollection | None
    files: beam.PCollection | None
    readings: beam.PCollection
    dead_letters: beam.PCollection
    window_stats: beam.PCollection
    tails: beam.PCollection


class Sink(ABC):
    """What every sink offers."""

    @abstractmethod
    def prepare(self) -> None:
        """Checks and creates the targets before anything is read; raises ConfigError."""

    @abstractmethod
    def write(self, produced: Produced) -> None:
        """Adds the sink's steps to the pipeline."""

    def look_again(self, since_s: float) -> None:  # noqa: B027 - most find out by themselves
        """Another job has written here since a time, seconds since 1970, and this one goes on."""

    def finish(self) -> None:  # noqa: B027 - most hold nothing
        """Lets go of what it holds open; called when the job is over, however it ended."""
