"""The steps of one cycle: where they lie, what they moved, which way; as battery_steps has them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from transforms.convert import Mask
from transforms.limits import F64

I64 = npt.NDArray[np.int64]

CHARGE, REST, DISCHARGE = 1, 0, -1

# Constant voltage: the current is near its largest value for less than the share of the time.
_NEAR_LARGEST = 0.95
_HELD_SHARE = 0.25


@dataclass(frozen=True, slots=True)
class Readings:
    """The readings of one cycle of one cell, in order, with some of the same test before them.

    Rows of impedance spectra are left out. A cycle has whole step runs: one belongs to the cycle that
    its first reading is counted in. Before the cycle, the last 31 readings of the test are enough
    (or all, where there are fewer): the resistance asks how fast the voltage moved.

    Attributes:
        first: the place of the cycle's first reading.
        reading_seq: number in the test, from 1, shape (n,), as all arrays.
        step_run: number of the step run; another value is another step.
        recorded_s: event time since any origin, s.
        time_delta_s: since the test's previous reading, s; NaN where there is none.
        step_time_s: the step's own clock, s, NaN where not known; None without one.
        voltage_v, current_a: measured; the current is above 0 where it charges.
        dq_charge_ah, dq_discharge_ah: charge since the previous reading, ≥ 0.
        is_gap: whether readings are missing before this one.
        is_numbered: whether the reading has a step number of the tester; None: all of them.
    """

    first: int
    reading_seq: I64
    step_run: I64
    recorded_s: F64
    time_delta_s: F64
    step_time_s: F64 | None
    voltage_v: F64
    current_a: F64
    dq_charge_ah: F64
    dq_discharge_ah: F64
    is_gap: Mask
    is_numbered: Mask | None = None


@dataclass(frozen=True, slots=True)
class Steps:
    """The steps of a cycle.

    Attributes:
        bounds: places of their first readings, and behind the last one, shape (steps + 1,).
        directions: CHARGE, REST or DISCHARGE of each.
        charge_ah, discharge_ah: what each moved, in either direction, shape (steps,).
        current_min_a, current_max_a: of each.
    """

    bounds: list[int]
    directions: list[int]
    charge_ah: list[float]
    discharge_ah: list[float]
    current_min_a: list[float]
    current_max_a: list[float]

    def largest_a(self, step: int) -> float:
        """The largest current of a step in either direction, A."""
        return max(abs(self.current_min_a[step]), abs(self.current_max_a[step]))


def steps_of(readings: Readings, rest_current_a: float) -> Steps:
    """Cuts a cycle into its steps.

    Args:
        readings: of the cycle; at least one.
        rest_current_a: a step without a larger current is a rest, A.
    """
    first = readings.first
    run = readings.step_run[first:]
    starts = np.concatenate(([0], np.flatnonzero(run[1:] != run[:-1]) + 1))
    current = readings.current_a[first:]
    lowest = np.minimum.reduceat(current, starts).tolist()
    highest = np.maximum.reduceat(current, starts).tolist()
    bounds = (starts + first).tolist()
    bounds.append(len(readings.current_a))
    directions = []
    for step, (low, high) in enumerate(zip(lowest, highest, strict=True)):
        if max(-low, high) <= rest_current_a:
            directions.append(REST)
        elif low >= 0.0 or (high >= 0.0 and _mean_a(readings, *bounds[step : step + 2]) >= 0.0):
            directions.append(CHARGE)
        else:
            directions.append(DISCHARGE)
    return Steps(
        bounds,
        directions,
        np.add.reduceat(readings.dq_charge_ah[first:], starts).tolist(),
        np.add.reduceat(readings.dq_discharge_ah[first:], starts).tolist(),
        lowest,
        highest,
    )


def _mean_a(readings: Readings, start: int, end: int) -> float:
    """The mean current of a step, A: each reading stands for half of the intervals beside it.

    The step's first one also stands for what its clock says has passed of it.
    """
    current, delta = readings.current_a[start:end], readings.time_delta_s[start:end]
    gap = readings.is_gap[start:end]
    inner = np.where(gap, 0.0, np.nan_to_num(delta))
    inner[0] = 0.0
    weight = inner / 2.0
    weight[:-1] += inner[1:] / 2.0
    if readings.step_time_s is not None and not gap[0]:
        begun = float(np.minimum(readings.step_time_s[start], delta[0]))
        weight[0] += 0.0 if math.isnan(begun) else begun
    whole = float(weight.sum())
    return float((current * weight).sum() / whole if whole else current.mean())


def holds_voltage(readings: Readings, steps: Steps, step: int) -> bool:
    """Whether the current of a step falls from its largest value at once: the voltage is held."""
    start, end = steps.bounds[step], steps.bounds[step + 1]
    if steps.directions[step] == REST or end - start == 1:
        return False
    largest = steps.largest_a(step)
    if abs(float(readings.current_a[end - 1])) >= 0.9 * largest:
        return False
    delta = readings.time_delta_s[start:end]
    size = np.abs(readings.current_a[start:end])
    if math.isnan(delta[0]):  # a test's first reading
        delta, size = delta[1:], size[1:]
    whole = float(delta.sum())
    near = float(delta[size >= _NEAR_LARGEST * largest].sum())
    return whole != 0.0 and near / whole < _HELD_SHARE
