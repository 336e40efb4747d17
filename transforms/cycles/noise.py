"""The noise of a cell's voltage, as its rests show it; as int_voltage_noise, of what is known so far."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from transforms.cycles.steps import CHARGE, Readings, holds_voltage, steps_of
from transforms.limits import F64

# As the models' variable resistance_rest_s: after so long a rest the voltage has settled, s.
_REST_S = 300.0
_LEAST = 20
# Second differences of white noise of deviation s: half of them are below 0.6745 sqrt(6) s.
_MEDIAN = 1.652
_LEAST_HELD = 5
# cutoff_voltage_margin_v: so near to the upper limit a held charge is one of the cell's usual ones.
_HELD_MARGIN_V = 0.05
# The newest differences count here; the model has those of the whole record.
_MOST = 200


def rest_differences_v(readings: Readings, rest_current_a: float) -> F64:
    """The second differences of the voltage in a cycle's rests, V, shape (n,), each ≥ 0.

    Args:
        readings: of the cycle; those before it are not used.
        rest_current_a: up to which the cell rests, A.
    """
    first = readings.first
    resting = np.flatnonzero(np.abs(readings.current_a[first:]) <= rest_current_a) + first
    if len(resting) < 3:
        return np.empty(0)
    run, volts = readings.step_run[resting], readings.voltage_v[resting]
    elapsed = np.nan_to_num(readings.time_delta_s[resting]).cumsum()
    starts = np.flatnonzero(np.concatenate(([True], run[1:] != run[:-1])))
    before = np.concatenate(([0.0], elapsed))[starts]
    elapsed -= np.repeat(before, np.diff(starts, append=len(run)))
    settled = (run[2:] == run[:-2]) & (elapsed[:-2] >= _REST_S)
    return np.asarray(np.abs(volts[2:] - 2.0 * volts[1:-1] + volts[:-2])[settled])


def rest_noise_v(differences_v: F64) -> float | None:
    """The standard deviation of the voltage that these differences show, V; None of too few.

    Args:
        differences_v: of as many cycles as are known, shape (n,).
    """
    if len(differences_v) < _LEAST:
        return None
    return float(np.median(differences_v)) / _MEDIAN


class Noise(NamedTuple):
    """What a cell's cycles have shown of it so far.

    Attributes:
        differences_v: see `rest_differences_v`, the newest ones.
        held: charges that were held at the upper limit.
        held_mean_v, held_squares: mean of the voltages they ended at, and their squares about it.
    """

    differences_v: tuple[float, ...] = ()
    held: int = 0
    held_mean_v: float = 0.0
    held_squares: float = 0.0

    @property
    def rest_v(self) -> float | None:
        """Standard deviation at rest, V; None while too few rests have been seen."""
        return rest_noise_v(np.array(self.differences_v))

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

    def with_cycle(self, readings: Readings, rest_current_a: float, upper_v: float) -> Noise:
        """With one more cycle.

        Args:
            readings: of the cycle.
            rest_current_a: up to which the cell rests, A.
            upper_v: the upper limit of its voltage, V; NaN where it is not known.
        """
        new = rest_differences_v(readings, rest_current_a).tolist()
        noise = self._replace(differences_v=(*self.differences_v, *new)[-_MOST:]) if new else self
        steps = steps_of(readings, rest_current_a)
        for step, direction in enumerate(steps.directions):
            end_v = float(readings.voltage_v[steps.bounds[step + 1] - 1])
            near = abs(end_v - upper_v) <= _HELD_MARGIN_V
            if direction == CHARGE and near and holds_voltage(readings, steps, step):
                noise = noise._with_held(end_v)
        return noise

    def _with_held(self, end_v: float) -> Noise:
        count = self.held + 1
        off = end_v - self.held_mean_v
        mean = self.held_mean_v + off / count
        return self._replace(
            held=count, held_mean_v=mean, held_squares=self.held_squares + off * (end_v - mean)
        )
