"""A live source that is polled in this process, and told when what it gave is durable."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import apache_beam as beam
from apache_beam import pvalue
from apache_beam.transforms.core import Windowing
from apache_beam.transforms.window import GlobalWindows
from apache_beam.utils.timestamp import Timestamp

from transforms.batch import RawBatch

# Later than any moment.
NOTHING_WAITS = 2**62


@dataclass(frozen=True)
class Polled:
    """What a live source gives at once.

    Attributes:
        batches: raw batches; empty where nothing has come.
        watermark_us: event time, µs since 1970, before which nothing more is expected; it has
            taken `batches` into account and never goes back.
        done: nothing will come any more; all windows are then finished.
    """

    batches: list[RawBatch]
    watermark_us: int
    done: bool = False


class Pollable(Protocol):
    """What an engine that runs here asks of a live source."""

    def settled(self, before_us: int) -> None:
        """Told before every poll what of all earlier ones every sink has by now.

        It is everything but what steps keep, as for a window's end, the oldest of which they have
        had since `before_us` (µs of the steady clock; NOTHING_WAITS if they keep nothing).
        """

    def poll(self) -> Polled:
        """What has come; waits a short while if nothing has."""


# A runner pickles transforms, and a source holds connections; so a transform only names it.
SOURCES: dict[str, Pollable] = {}
PUBLISHED: dict[str, Timestamp] = {}


class ReadLive(beam.PTransform):
    """Reads raw batches from a `Pollable` of this process; for an engine that polls."""

    def __init__(self, name: str, source: Pollable) -> None:
        super().__init__()
        self.name = name
        SOURCES[name] = source
        PUBLISHED.pop(name, None)

    def expand(self, begin: pvalue.PBegin) -> pvalue.PCollection:
        """Adds the source."""
        return pvalue.PCollection(begin.pipeline, element_type=RawBatch, is_bounded=False)

    def get_windowing(self, inputs: Any) -> Windowing:  # noqa: ARG002 - as Beam calls it
        """The global window."""
        return Windowing(GlobalWindows())
