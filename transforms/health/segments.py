"""Cuts stretches of constant current out of one cycle's readings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]

SKIPPED_S: Final = (
    120.0  # the voltage's answer to the change of current, which is no part of the curve
)
SAME_CURRENT: Final = 0.05
LEAST_SHARE: Final = 0.05  # of the nominal capacity
_LEAST_READINGS: Final = 4
_SMALL_C: Final = 0.02  # less current than this is a rest


@dataclass(frozen=True)
class Segment:
    """A stretch of constant current; arrays of shape (n,), n ≥ 4, without NaN.

    Attributes:
        voltage_v: V; about rising in a charge, falling in a discharge.
        ah: Ah moved since the segment's first reading, ≥ 0, rising.
        time_s: s since some origin, rising.
        current_a: A, positive in a charge.
        temperature_c: °C, or None where not measured.
        skipped_ah: Ah that the same step moved before the first reading, or 0 where unknown.
    """

    voltage_v: F64
    ah: F64
    time_s: F64
    current_a: F64
    temperature_c: F64 | None = None
    skipped_ah: float = 0.0

    @property
    def direction(self) -> float:
        """1.0 for a charge, −1.0 for a discharge."""
        return 1.0 if float(np.median(self.current_a)) > 0.0 else -1.0

    def part(self, low: float, high: float) -> Segment | None:
        """The readings between two shares (0 to 1) of its charge; None where they are too few."""
        total = float(self.ah[-1])
        chosen = np.flatnonzero((self.ah >= low * total) & (self.ah <= high * total))
        if len(chosen) < _LEAST_READINGS:
            return None
        first = float(self.ah[chosen[0]])
        return Segment(
            self.voltage_v[chosen],
            self.ah[chosen] - first,
            self.time_s[chosen],
            self.current_a[chosen],
            None if self.temperature_c is None else self.temperature_c[chosen],
            self.skipped_ah + first,
        )


def segments(
    time_s: F64,
    voltage_v: F64,
    current_a: F64,
    dq_ah: F64,
    temperature_c: F64 | None,
    nominal_ah: float,
    v_max_v: float | None = None,
    *,
    least_share: float = LEAST_SHARE,
) -> list[Segment]:
    """The stretches of constant current of one cycle's readings.

    Args:
        time_s: s, in order, (n,).
        voltage_v: V, (n,).
        current_a: A, positive in a charge, (n,).
        dq_ah: Ah moved since the previous reading, of any sign, (n,); NaN counts as none.
        temperature_c: °C, (n,), or None.
        nominal_ah: the cell's nominal capacity, Ah.
        v_max_v: the upper limit, V: a charge ends where the voltage is held there. None: where
            the current falls.
        least_share: how much of the nominal capacity a segment moves at least.

    A stretch lasts while the current stays within 5 % of its median; its first 120 s are left out.
    Readings without voltage or current end none, they are left out.
    """
    good = np.isfinite(time_s) & np.isfinite(voltage_v) & np.isfinite(current_a)
    moved = np.where(np.isfinite(dq_ah), np.abs(dq_ah), 0.0)
    total = np.cumsum(moved)[good]  # what unreadable readings moved still counts
    time, volts, amps = time_s[good], voltage_v[good], current_a[good]
    warm = None if temperature_c is None else temperature_c[good]
    found = []
    for first, last in _stretches(amps, volts, nominal_ah, v_max_v):
        own = np.arange(first, last)
        kept = own[time[own] - time[first] >= SKIPPED_S]
        if len(kept) < _LEAST_READINGS:
            continue
        ah = total[kept] - total[kept[0]]
        rising = np.concatenate(([True], np.diff(ah) > 0.0))
        kept, ah = kept[rising], ah[rising]
        if len(kept) < _LEAST_READINGS or ah[-1] < least_share * nominal_ah:
            continue
        heat = None if warm is None else warm[kept]
        if heat is not None and not np.isfinite(heat).any():
            heat = None
        found.append(
            Segment(
                volts[kept], ah, time[kept], amps[kept], heat, float(total[kept[0]] - total[first])
            )
        )
    return found


def _stretches(
    amps: F64, volts: F64, nominal_ah: float, v_max_v: float | None
) -> Iterator[tuple[int, int]]:
    """First reading and the one after the last, of each stretch at about one current."""
    size = len(amps)
    flowing = np.abs(amps) >= _SMALL_C * nominal_ah
    # A change of more than the limit from one reading to the next is a new step.
    steps = np.ones(size, dtype=bool)
    if size > 1:
        steps[1:] = np.abs(np.diff(amps)) > SAME_CURRENT * np.maximum(
            np.abs(amps[:-1]), np.abs(amps[1:])
        )
    begins = np.flatnonzero(steps)
    ends = np.append(begins[1:], size)[: len(begins)]
    for first, end in zip(begins.tolist(), ends.tolist(), strict=True):
        if not flowing[first] or end - first < _LEAST_READINGS:
            continue
        # A held voltage lets the current fall a little at a time: the early median is the step's.
        usual = float(np.median(amps[first : first + max(_LEAST_READINGS, (end - first) // 2)]))
        off = np.abs(amps[first:end] - usual) > SAME_CURRENT * abs(usual)
        last = first + int(np.argmax(off)) if off.any() else end
        if v_max_v is not None and usual > 0.0:
            held = (volts[first:last] >= v_max_v - 0.002) & (amps[first:last] < 0.98 * usual)
            last = first + int(np.argmax(held)) if held.any() else last
        if last - first >= _LEAST_READINGS:
            yield first, last
