"""Lets the local streaming runner poll a live source, and tell it what is durable."""

from __future__ import annotations

from typing import Any

from apache_beam import coders, pvalue
from apache_beam.runners.direct import transform_evaluator as evaluators
from apache_beam.runners.direct.util import TransformResult
from apache_beam.transforms.window import GlobalWindow, GlobalWindows
from apache_beam.utils.timestamp import MAX_TIMESTAMP, MIN_TIMESTAMP, Timestamp

from pipeline.engines.polling import NOTHING_WAITS, PUBLISHED, SOURCES, ReadLive
from transforms.order import WAITS_SINCE


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
        source = SOURCES[transform.name]
        source.settled(_waits_since(self._evaluation_context))
        polled = source.poll()
        # The batches carry the watermark after them, which is published with the next poll: the
        # ordering step then knows what is due before it has to release it.
        published = PUBLISHED.get(transform.name, MIN_TIMESTAMP)
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
        PUBLISHED[transform.name] = at
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
