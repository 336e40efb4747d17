"""Local times as UTC: where a zone's clocks skip an hour, and where they show one twice."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from schemas.forms import UTC_MICROSECONDS

Mask = npt.NDArray[np.bool_]
I64 = npt.NDArray[np.int64]

_SECOND_US, _DAY_US = 1_000_000, 86_400_000_000


class Gap(StrEnum):
    """What is made of local times that a zone's clocks skip, such as 02:30 of a day in spring."""

    AUTO = "auto"  # as the rows and the test's clock show; where nothing does, shift
    SHIFT = "shift"  # moved on by as much as the clocks are: 02:30 is 03:30
    STANDARD = "standard"  # the clock stays on standard time all year
    REJECT = "reject"  # no time


class Zone(ZoneInfo):
    """A time zone, and what is made of times that it skips."""

    gap: Gap = Gap.AUTO

    def __reduce__(self) -> tuple[Callable[[ZoneInfo, Gap], ZoneInfo], tuple[ZoneInfo, Gap]]:
        # A ZoneInfo is pickled by its name alone.
        return with_gap, (ZoneInfo(self.key), self.gap)


def zone_of(name: str) -> ZoneInfo:
    """The zone that a text names: `Europe/Berlin`, or `Europe/Berlin;standard` with a `Gap`.

    Raises:
        ZoneInfoNotFoundError, ValueError: there is no such zone, or no such way.
    """
    key, _, gap = name.partition(";")
    if not gap or Gap(gap) is Gap.AUTO:
        return ZoneInfo(key)
    return with_gap(ZoneInfo(key), Gap(gap))


def with_gap(zone: ZoneInfo, gap: Gap) -> ZoneInfo:
    """The same zone with another rule for times that it skips."""
    # Not from the cache, which has one zone of a name.
    found = Zone.no_cache(zone.key)
    found.gap = gap
    return found


def gap_of(zone: ZoneInfo) -> Gap:
    """What is made of times that a zone skips."""
    return zone.gap if isinstance(zone, Zone) else Gap.AUTO


@dataclass(frozen=True)
class Placed:
    """Local times as UTC.

    Attributes:
        array: the times, null where none was given or it is refused.
        refused: where the zone skips a time and none may be made of it; None if nowhere.
        doubtful: where the zone skips a time or has it twice; None if nowhere.
    """

    array: pa.Array
    refused: Mask | None = None
    doubtful: Mask | None = None


def in_zone(naive: pa.Array, zone: ZoneInfo) -> Placed:
    """Local times as UTC; an hour that happens twice is taken as the first.

    Times that the zone skips are moved on by as much as its clocks are, and by a microsecond: so no
    two readings with other local times ever are of one moment.

    Args:
        naive: timestamps without a zone, any unit.
        zone: the zone they were written in.
    """
    local = naive.cast(pa.timestamp("us"), safe=False)
    if zone.key == "UTC":
        return Placed(local.cast(pa.int64()).cast(UTC_MICROSECONDS))
    gap = gap_of(zone)
    if gap is Gap.STANDARD:
        return Placed(_standard(local, zone))
    try:
        # So it is all year but for two hours.
        sure = pc.assume_timezone(local, zone.key, ambiguous="raise", nonexistent="raise")
        return Placed(sure.cast(UTC_MICROSECONDS))
    except pa.ArrowInvalid:
        pass
    early, late = (
        pc.assume_timezone(local, zone.key, ambiguous=which, nonexistent=which)
        for which in ("earliest", "latest")
    )
    first, last = _micros(early), _micros(late)
    doubtful = first != last
    # What is skipped is put at either end of the gap, which has no length in UTC.
    skipped = doubtful & (last - first < _SECOND_US)
    if not skipped.any():
        return Placed(early.cast(UTC_MICROSECONDS), None, doubtful)
    before = _micros(pc.local_timestamp(early)) - first
    moved = np.where(skipped, _micros(local) - before + 1, first)
    null = np.asarray(local.is_null())
    if gap is Gap.REJECT:
        times = pa.array(moved, mask=null | skipped).cast(UTC_MICROSECONDS)
        return Placed(times, skipped, doubtful & ~skipped)
    return Placed(pa.array(moved, mask=null).cast(UTC_MICROSECONDS), None, doubtful)


def _standard(local: pa.Array, zone: ZoneInfo) -> pa.Array:
    """Local times of a clock that never is on daylight saving time."""
    micros = _micros(local)
    days, day = np.unique(micros // _DAY_US, return_inverse=True)
    offsets = np.array([_standard_offset_us(int(number), zone) for number in days], np.int64)
    placed = micros - offsets[day] if len(days) else micros
    return pa.array(placed, mask=np.asarray(local.is_null())).cast(UTC_MICROSECONDS)


def _standard_offset_us(day: int, zone: ZoneInfo) -> int:
    """What a zone's standard time is ahead of UTC on a day since 1970."""
    try:
        noon = dt.datetime(1970, 1, 1, 12, tzinfo=zone) + dt.timedelta(days=day)
    except OverflowError:
        return 0
    offset, saved = noon.utcoffset() or dt.timedelta(), noon.dst() or dt.timedelta()
    halves = [noon.replace(month=month, day=1) for month in (1, 7)]
    if any((half.dst() or dt.timedelta()) < dt.timedelta() for half in halves):
        # Ireland calls its summer time standard; a clock that is never set stays on winter time.
        # Not so Morocco, where the exception is a month that moves through the year.
        offset, saved = min(half.utcoffset() or dt.timedelta() for half in halves), dt.timedelta()
    return (offset - saved) // dt.timedelta(microseconds=1)


def _micros(times: pa.Array) -> I64:
    return np.asarray(times.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False))
