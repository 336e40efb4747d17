"""The noise of a cell's voltage, as its rests show it; as int_voltage_noise, of what is known so far."""

from __future__ import annotations

import numpy as np

from transforms.cycles.steps import Readings
from transforms.limits import F64

# As the models' variable resistance_rest_s: after so long a rest the voltage has settled, s.
_REST_S = 300.0
_LEAST = 20
# Second differences of white noise of deviation s: half of them are below 0.6745 sqrt(6) s.
_MEDIAN = 1.652


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
