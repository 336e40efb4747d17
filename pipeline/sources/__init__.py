"""The sources: one file each; every one yields raw batches with their origin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import apache_beam as beam


@dataclass(frozen=True)
class RawFile:
    """A file to be archived verbatim.

    Attributes:
        path: where it can be opened (local path, gs://, s3://).
        source_file: its name with its folder, as readings carry it.
        arrived_at_us: its modification time, microseconds since 1970 UTC.
        size: bytes.
    """

    path: str
    source_file: str
    arrived_at_us: int
    size: int


@dataclass(frozen=True)
class Received:
    """What a source gives to the graph.

    Attributes:
        batches: PCollection of `transforms.batch.RawBatch`.
        dead_letters: PCollection of tables of schema DEAD_LETTER: what the source itself could
            not read; None where it reads anything.
        files: PCollection of `RawFile` to be archived whole; None where the batches themselves
            are what the archive keeps.
    """

    batches: beam.PCollection
    dead_letters: beam.PCollection | None
    files: beam.PCollection | None


class Source(Protocol):
    """What every source offers.

    Attributes:
        total: how much there is to read in `unit`, or None if that isn't known.
        unit: `readings` or `B` (bytes).
    """

    unit: str

    @property
    def total(self) -> int | None:
        """How much there is to read, in `unit`; None if that isn't known."""

    def check(self) -> None:
        """Finds out before anything is read whether it can be read; raises ConfigError."""

    def read(self, pipeline: beam.Pipeline) -> Received:
        """Adds the source's steps to the pipeline."""
