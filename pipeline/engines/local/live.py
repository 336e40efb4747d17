"""A live source on the local runner: polled in this process, told when what it gave is durable."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import apache_beam as beam
from apache_beam import coders, pvalue
from apache_beam.runners.direct import transform_evaluator as evaluators
from apache_beam.runners.direct.util import TransformResult
from apache_beam.transforms.core import Windowing
from apache_beam.transforms.window import GlobalWindow, GlobalWindows
from apache_beam.utils.timestamp import MAX_TIMESTAMP, MIN_TIMESTAMP, Timestamp

from transforms.batch import RawBatch
from transforms.order import WAITS_SINCE

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
    """What the local streaming runner asks of a live source."""

    def settled(self, before_us: int) -> None:
        """Told before every poll what of all earlier ones every sink has by now.

        It is everything but what steps keep, as for a window's end, the oldest of which they have
        had since `before_us` (µs of the steady clock; NOTHING_WAITS if they keep nothing).
        """

    def poll(self) -> Polled:
        """What has come; waits a short while if nothing has."""


# The runner pickles transforms, and a source holds connections; so a transform only names it.
_sources: dict[str, Pollable] = {}
_published: dict[str, Timestamp] = {}


class ReadLive(beam.PTransform):
    """Reads raw batches from a `Pollable` of this process; for the local streaming runner only."""

    def __init__(self, name: str, source: Pollable) -> None:
        super().__init__()
        self.name = name
        _sources[name] = source
        _published.pop(name, None)

    def expand(self, begin: pvalue.PBegin) -> pvalue.PCollection:
        """Adds the source."""
        return pvalue.PCollection(begin.pipeline, element_type=RawBatch, is_bounded=False)

    def get_windowing(self, inputs: Any) -> Windowing:  # noqa: ARG002 - as Beam calls it
        """The global window."""
        return Windowing(GlobalWindows())


class _ReadLiveEvaluator(evaluators._TransformEvaluator):  # type: ignore[misc,unused-ignore]
    """Polls the source whenever the runner has nothing else to do.

    The runner works on one bundle at a time and asks a source for more only when no bundle and no
    timer is left: all earlier batches have then gone through every step, and a step's bundle is
    over, so the sinks have written what they were given.
    """

    def start_bundle(self) -> None:
        """Nothing to do."""

    def process_element(self, element: Any) -> None:
        """The runner's own marker that there may be more; see finish_bundle."""

    def finish_bundle(self) -> TransformResult:
        """One poll as a bundle."""
        transform = self._applied_ptransform.transform
        source = _sources[transform.name]
        source.settled(_waits_since(self._evaluation_context))
        polled = source.poll()
        # The batches carry the watermark after them, which is published with the next poll: the
        # ordering step then knows what is due before it has to release it.
        published = _published.get(transform.name, MIN_TIMESTAMP)
        at = MAX_TIMESTAMP if polled.done else Timestamp(micros=polled.watermark_us)
        bundles = []
        if polled.batches:
            bundle = self._evaluation_context.create_bundle(next(iter(self._outputs)))
            for batch in polled.batches:
                bundle.output(
                    GlobalWindows.windowed_value(batch, timestamp=min(at, _WINDOW.max_timestamp()))
                )
            bundles.append(bundle)
        if polled.done:
            return TransformResult(self, bundles, [], None, {None: MAX_TIMESTAMP})
        again = self._evaluation_context.create_bundle(pvalue.PBegin(transform.pipeline))
        # An empty bundle would never be taken off the runner's list of pending ones.
        again.add(GlobalWindows.windowed_value(None, timestamp=MAX_TIMESTAMP))
        _published[transform.name] = at
        return TransformResult(self, bundles, [again], None, {None: published})


_WINDOW = GlobalWindow()
_TAG = f"user/{WAITS_SINCE}"
_TIME = coders.VarIntCoder()


def _waits_since(context: Any) -> int:
    """The least that any step's state WAITS_SINCE holds."""
    oldest = NOTHING_WAITS
    for keyed in context._transform_keyed_states.values():
        for state in keyed.values():
            kept = state.state.get(_WINDOW, {}).get(_TAG)
            if kept:
                oldest = min(oldest, _TIME.decode(kept[0]))
    return oldest


def install() -> None:
    """Lets the bundle-based runner evaluate `ReadLive`."""
    evaluators.TransformEvaluatorRegistry._test_evaluators_overrides[ReadLive] = _ReadLiveEvaluator
