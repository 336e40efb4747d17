"""The noise of a cell's voltage, as far as it has shown so far; see int_voltage_noise."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from transforms.cycles.measure import I64, Measured, Rows

# As dbt_project.yml has it: resistance_rest_s.
_REST_S = 300.0
_LEAST_DIFFERENCES = 20
_LEAST_HELD = 5
# The newest ones count; the model has all of the record.
_MOST_DIFFERENCES = 200
# Half of the second differences of white noise of deviation s are below 0.6745 sqrt(6) s.
_MEDIAN = 1.652


class Noise(NamedTuple):
    """What has been seen of it.

    Attributes:
        differences: sizes of second differences of the voltage at rest, V, the newest ones.
        held: charges that were held at the upper limit.
        held_mean_v, held_squares: mean of the voltages they ended at, and their summed squares about it.
    """

    differences: tuple[float, ...] = ()
    held: int = 0
    held_mean_v: float = 0.0
    held_squares: float = 0.0

    @property
    def rest_v(self) -> float | None:
        """Standard deviation at rest, V; None while too few rests have been seen."""
        if len(self.differences) < _LEAST_DIFFERENCES:
            return None
        return float(np.median(self.differences)) / _MEDIAN

    @property
    def held_v(self) -> float | None:
        """Standard deviation of the ends of held charges, V; None while there are too few."""
        if self.held < _LEAST_HELD:
            return None
        return round(math.sqrt(max(self.held_squares, 0.0) / (self.held - 1)), 9)

    @property
    def any_v(self) -> float | None:
        """What the resistance is judged by."""
        return self.held_v if self.rest_v is None else self.rest_v

    def with_rests(self, rows: Rows, measured: Measured, runs: I64, start: int, end: int) -> Noise:
        """With the rests among rows `start` to `end` (exclusive); `runs` numbers steps."""
        part = slice(start, end)
        rest = measured.phase[part] == 0
        if np.count_nonzero(rest) <= 2:
            return self
        volts, run = rows.voltage[part], runs[part]
        elapsed = np.cumsum(np.nan_to_num(measured.delta_s[part]))
        first = np.flatnonzero(np.append(True, run[1:] != run[:-1]))
        before = np.append(0.0, elapsed[first[1:] - 1])
        elapsed = elapsed - np.repeat(before, np.diff(np.append(first, len(run))))
        there = (run[2:] == run[:-2]) & rest[2:] & rest[1:-1] & rest[:-2]
        there &= elapsed[:-2] >= _REST_S
        found = np.abs(volts[2:] - 2.0 * volts[1:-1] + volts[:-2])[there]
        if not len(found):
            return self
        kept = (*self.differences, *found[-_MOST_DIFFERENCES:].tolist())
        return self._replace(differences=kept[-_MOST_DIFFERENCES:])

    def with_held(self, end_v: float) -> Noise:
        """With a charge that was held at the upper limit and ended at this voltage."""
        count = self.held + 1
        off = end_v - self.held_mean_v
        mean = self.held_mean_v + off / count
        return self._replace(
            held=count, held_mean_v=mean, held_squares=self.held_squares + off * (end_v - mean)
        )
