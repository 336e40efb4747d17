"""What splittable readers without an end have in common: counted restrictions, event time forward."""

from __future__ import annotations

import threading
from typing import Any

import apache_beam as beam
from apache_beam.io.restriction_trackers import OffsetRange, OffsetRestrictionTracker
from apache_beam.io.watermark_estimators import ManualWatermarkEstimator
from apache_beam.transforms.core import RestrictionProvider
from apache_beam.utils.timestamp import Duration, Timestamp

from pipeline.sources.live.watermark import NEVER

NO_END = 2**63 - 1

# Beam reads a DoFn's parameters from its defaults.
WATERMARK = beam.DoFn.WatermarkEstimatorParam(ManualWatermarkEstimator.default_provider())


class Endless(OffsetRestrictionTracker):
    """Offsets without an end."""

    def is_bounded(self) -> bool:
        """Whether they have one."""
        return False

    def try_split(self, fraction_of_remainder: float) -> Any:
        """What lies ahead is one stretch for one reader; only what is left may be put off."""
        return super().try_split(0) if fraction_of_remainder == 0 else None


class Numbers(RestrictionProvider):
    """Numbers from 0 on, of whatever a reader counts."""

    def initial_restriction(self, element: Any) -> OffsetRange:  # noqa: ARG002
        """All numbers."""
        return OffsetRange(0, NO_END)

    def create_tracker(self, restriction: OffsetRange) -> Endless:
        """A tracker of them."""
        return Endless(restriction)

    def restriction_size(self, element: Any, restriction: OffsetRange) -> int:  # noqa: ARG002
        """The backlog, which is not known here."""
        return 1

    def truncate(self, element: Any, restriction: OffsetRange) -> None:  # noqa: ARG002
        """Of a job that is drained nothing is left to read."""
        return


NUMBERS = beam.DoFn.RestrictionParam(Numbers())


def go_on(tracker: Any, pause_s: float, ending: threading.Event) -> None:
    """Lets the runner call again after a pause; or never, where the job is to end."""
    if ending.is_set():
        tracker.try_claim(NO_END)
    else:
        tracker.defer_remainder(Duration(seconds=pause_s))


def moment(at_us: int) -> Timestamp:
    """A time of µs since 1970 as Beam has it."""
    return Timestamp(micros=at_us)


def advance(estimator: Any, at_us: int) -> None:
    """Moves a reader's watermark to `at_us` (µs since 1970), never back."""
    at = moment(at_us)
    before = estimator.current_watermark()
    if at_us != NEVER and (before is None or at > before):
        estimator.set_watermark(at)
