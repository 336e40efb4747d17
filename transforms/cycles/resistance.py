"""The resistance of a cycle's main discharge some seconds after its current came on; as battery_resistance.

What the models correct for the open-circuit voltage is not among it: that needs the rests after the
step.
"""

from __future__ import annotations

import bisect
import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from transforms.convert import Mask
from transforms.cycles.steps import DISCHARGE, Readings, Steps, holds_voltage
from transforms.limits import F64

# The times after the change of current that a resistance is given at, s.
TIMES_S = (10.0, 30.0)

# As the models' variables of these names, which say why (dbt_project.yml).
_REST_CURRENT_FRACTION = 0.005
_MIN_CURRENT_SHARE = 0.1
_CURRENT_TOLERANCE = 0.02
_SAMPLING_SHARE = 0.025
_ERROR_SHARE = 0.03
_CLOSE_BEFORE, _CLOSE_AFTER = 0.8, 2.0
_NEAR_SHARE, _NEAR_S = 0.02, 0.5
_WINDOW_S = 300.0

_TWO_READINGS = 2.0 * math.sqrt(2.0)
_RESOLUTIONS_V = (0.01, 0.005, 0.001)
_DRIFT_READINGS = 30

NO_DISCHARGE = "step: the cycle has no discharge"
SMALL_CHANGE = "current: changes by too little as the discharge begins"


@dataclass(frozen=True, slots=True)
class Resistance:
    """The resistance of a cycle, ohm.

    Attributes:
        ohm: at each of TIMES_S; None where it is not known well enough.
        reasons: why not, in the models' words; None where it is known.
    """

    ohm: tuple[float | None, float | None]
    reasons: tuple[str | None, str | None]


class _Response(NamedTuple):
    """What the voltage answers to a step of the current, from its first reading on.

    Attributes:
        elapsed_s: since the step began, as far as that is known, shape (n,).
        ohm: change of the voltage over the change of the current; NaN where that is 0.
        is_constant: whether the current stayed the same up to each reading.
        is_loaded: whether the current has changed by half of what counts at least.
        volts: measured.
        change_a: of the current, at the first reading.
        uncertainty_s: the step began this much later than `elapsed_s` says, or less; may be NaN.
        age_s: how old the reading before the step was as it began.
        begins_with_gap: whether readings are missing before the step.
    """

    elapsed_s: F64
    ohm: F64
    is_constant: Mask
    is_loaded: Mask
    volts: F64
    change_a: float
    uncertainty_s: float
    age_s: float
    begins_with_gap: bool


class _Estimate(NamedTuple):
    """A resistance at a time: bounds, the figure between them, and whether the current stood."""

    low: float
    high: float
    root: float
    is_constant: bool


def resistance(
    readings: Readings, steps: Steps, rest_current_a: float, noise_v: float | None
) -> Resistance:
    """The resistance at TIMES_S after the main discharge began.

    Args:
        readings: of the cycle, with those before it.
        steps: of the same readings.
        rest_current_a: up to which the cell rests, A: the fixed share of its rated current.
        noise_v: standard deviation of the cell's voltage, V, as far as it is known (at rest, else
            between the ends of held charges); None for not at all. It is no part of the figure, but of
            its error, which decides whether there is one.
    """
    step = main_discharge(steps)
    if step is None:
        return _none(NO_DISCHARGE)
    min_change_a = _MIN_CURRENT_SHARE / _REST_CURRENT_FRACTION * rest_current_a
    response = _response(readings, steps, step, min_change_a)
    if response is None:
        return _none(SMALL_CHANGE)
    start, end = steps.bounds[step], steps.bounds[step + 1]
    loaded = _loaded(response)
    noise_ohm = max(
        _seen_noise_ohm(response, loaded),
        _TWO_READINGS * (noise_v or 0.0) / abs(response.change_a),
    )
    drift_v_s = _drift_v_s(readings, start)
    ended_s = float(response.elapsed_s.max()), math.inf
    if ended_s[0] < TIMES_S[-1]:
        ended_s = ended_s[0], float(readings.time_delta_s[start:end].sum())
    found = [_at(response, loaded, seconds, noise_ohm, drift_v_s, ended_s) for seconds in TIMES_S]
    return Resistance((found[0][0], found[1][0]), (found[0][1], found[1][1]))


def _none(reason: str) -> Resistance:
    return Resistance((None, None), (reason, reason))


def main_discharge(steps: Steps) -> int | None:
    """The step that discharged most, the earliest of such that are as good as equal (pulses).

    A discharge in several steps begins with its first. None without a discharge.
    """
    places = [i for i, direction in enumerate(steps.directions) if direction == DISCHARGE]
    if not places:
        return None
    least = 0.99 * max(steps.discharge_ah[i] for i in places)
    step = next(i for i in places if steps.discharge_ah[i] >= least)
    while step > 0 and steps.directions[step - 1] == DISCHARGE:
        step -= 1
    return step


def _response(readings: Readings, steps: Steps, step: int, min_change_a: float) -> _Response | None:
    """The answer to the beginning of a step; None where it is no change of the load."""
    start, end = steps.bounds[step], steps.bounds[step + 1]
    if readings.reading_seq[start] <= 1:
        return None
    before = max(start - 1, 0)
    volts_before = float(readings.voltage_v[before])
    amps_before = float(readings.current_a[before])
    largest = max(
        abs(steps.current_max_a[step] - amps_before), abs(steps.current_min_a[step] - amps_before)
    )
    if largest < min_change_a or holds_voltage(readings, steps, step):
        return None
    recorded = readings.recorded_s[start:end]
    end = start + int(np.searchsorted(recorded, recorded[0] + _WINDOW_S, side="right"))
    part: slice | Mask = slice(start, end)
    clock = None if readings.step_time_s is None else readings.step_time_s[start:]
    if clock is not None:
        clock = clock[: steps.bounds[step + 1] - start]
        inside = clock <= _WINDOW_S
        if inside[end - start :].any():  # the step's clock says so, against the time of day
            inside[: end - start] = True
            clock = clock[inside]
            part = np.zeros(len(readings.step_run), dtype=bool)
            part[start : start + len(inside)] = inside
        else:
            clock = clock[: end - start]
    delta = readings.time_delta_s[part]
    volts, current = readings.voltage_v[part], readings.current_a[part]
    interval = _known(float(delta[0]))
    # a step's clock that says that the step is older than the reading before it is another's
    begun = math.nan if clock is None else float(clock[0])
    known = begun <= 1.0 + 1.02 * interval
    since = np.cumsum(delta)
    if clock is not None and known:
        since = np.where(np.isnan(clock), since - interval + begun, clock)
    is_late = abs(float(current[0]) - amps_before) < 0.1 * min_change_a
    uncertainty, age = 0.0, 0.0
    if is_late:
        # the first reading was written before the current was switched
        volts_before, amps_before = float(volts[0]), float(current[0])
        if not (known and begun <= 0.1):
            origin = float(since.min())
            numbers = readings.reading_seq[part][:2]
            there = len(numbers) > 1 and numbers[1] == numbers[0] + 1
            uncertainty = float(since[1]) - origin if there else math.nan
            since = since - origin
        since, volts, current = since[1:], volts[1:], current[1:]
        if not len(since):
            return None
    else:
        uncertainty = 0.0 if known else interval
        age = max(interval - (begun if known else 0.0), 0.0)
    change = current - amps_before
    first_change = float(change[0])
    if abs(first_change) < min_change_a:
        return None
    size = np.abs(change)
    with np.errstate(divide="ignore", invalid="ignore"):
        ohm = (volts - volts_before) / change
    return _Response(
        since,
        ohm,
        _constant(since, current, size),
        size >= 0.5 * min_change_a,
        volts,
        first_change,
        uncertainty,
        age,
        bool(readings.is_gap[start]),
    )


def _known(value: float) -> float:
    return 0.0 if math.isnan(value) else value


def _constant(elapsed: F64, current: F64, change: F64) -> Mask:
    """Whether the current stayed the same up to each reading; it needs a moment to settle."""
    settled = elapsed >= 0.5
    most = np.maximum.accumulate(np.where(settled, current, -np.inf))
    least = np.minimum.accumulate(np.where(settled, current, np.inf))
    return np.asarray(most - least <= _CURRENT_TOLERANCE * change)


@dataclass(frozen=True, slots=True)
class _Loaded:
    """The readings of a response under load; as lists, of which a few places are looked at.

    Attributes:
        elapsed_s, ohm, is_constant: as those of the response, shape (n,).
        elapsed, ohms, constant: the same as lists.
        rises: whether no time is less than the one before.
    """

    elapsed_s: F64
    ohm: F64
    is_constant: Mask
    elapsed: list[float]
    ohms: list[float]
    constant: list[bool]
    rises: bool

    def places(self, place_s: float, near_s: float) -> list[int]:
        """The readings that end the interval with this time; or the nearest one, at either end."""
        elapsed = self.elapsed
        if not elapsed:
            return []
        if self.rises:
            k = bisect.bisect_left(elapsed, place_s)
            out = [k] if 0 < k < len(elapsed) else []
        else:
            out = [
                k
                for k in range(1, len(elapsed))
                if elapsed[k] >= place_s and elapsed[k - 1] < place_s
            ]
        if elapsed[0] >= place_s and elapsed[0] - place_s <= near_s:
            out.append(0)
        if elapsed[-1] < place_s and place_s - elapsed[-1] <= near_s:
            out.append(len(elapsed) - 1)
        return out

    def estimate(self, k: int, place_s: float) -> _Estimate:
        """Bounds and figure from the reading `k`, the ones before it and the one after it.

        The response to a step of the current is a sum of rising exponentials: it rises ever more
        slowly. So it lies above the chord between two readings and below the chords to their outer
        neighbours drawn on. Between these it goes about as the root of time.
        """
        elapsed, ohms = self.elapsed, self.ohms
        to_s, ohm = elapsed[k], ohms[k]
        from_s, from_ohm = (elapsed[k - 1], ohms[k - 1]) if k else (0.0, 0.0)
        before_s, before_ohm = (elapsed[k - 2], ohms[k - 2]) if k > 1 else (0.0, 0.0)
        has_after = k + 1 < len(elapsed) and self.constant[k + 1]
        after_s, after_ohm = (elapsed[k + 1], ohms[k + 1]) if has_after else (0.0, 0.0)
        roots = math.sqrt(max(place_s, 0.0)), math.sqrt(max(to_s, 0.0))
        from_root = math.sqrt(max(from_s, 0.0))
        if to_s < place_s:
            chord = outer = ohm
            if to_s != from_s:
                outer += (ohm - from_ohm) / (to_s - from_s) * (place_s - to_s)
        else:
            chord = from_ohm + (ohm - from_ohm) * (place_s - from_s) / (to_s - from_s)
            outer = ohm
            if has_after and after_s != to_s:
                outer = min(outer, ohm - (after_ohm - ohm) / (after_s - to_s) * (to_s - place_s))
            if k and from_s != before_s:
                drawn = (from_ohm - before_ohm) / (from_s - before_s) * (place_s - from_s)
                outer = min(outer, from_ohm + drawn)
        root = ohm
        if k:
            if roots[1] != from_root:
                share = (roots[0] - from_root) / (roots[1] - from_root)
                root = from_ohm + (ohm - from_ohm) * share
        elif has_after and math.sqrt(after_s) != roots[1]:
            root -= (after_ohm - ohm) * (roots[1] - roots[0]) / (math.sqrt(after_s) - roots[1])
        low, high = min(chord, outer), max(chord, outer)
        root_inside = max(min(root, high), low)
        # A reading shortly before the time and one not long after it carry the root of time alone.
        if k and from_s >= _CLOSE_BEFORE * place_s and place_s <= to_s <= _CLOSE_AFTER * place_s:
            high = min(high, (1.0 + _SAMPLING_SHARE) * max(root, chord))
        return _Estimate(low, high, root_inside, self.constant[k])


def _loaded(response: _Response) -> _Loaded:
    """The part of a response that is under load."""
    elapsed, ohm, constant = response.elapsed_s, response.ohm, response.is_constant
    if not response.is_loaded.all():
        at = response.is_loaded
        elapsed, ohm, constant = elapsed[at], ohm[at], constant[at]
    rises = bool((elapsed[1:] >= elapsed[:-1]).all())
    return _Loaded(elapsed, ohm, constant, elapsed.tolist(), ohm.tolist(), constant.tolist(), rises)


def _at(
    response: _Response,
    loaded: _Loaded,
    seconds: float,
    noise_ohm: float,
    drift_v_s: float | None,
    ended_s: tuple[float, float],
) -> tuple[float | None, str | None]:
    """The resistance so long after the step began, or the reason for which there is none.

    Args:
        response: to the step of the current.
        loaded: the part of it under load.
        seconds: the wanted time.
        noise_ohm: two deviations of the noise of two readings.
        drift_v_s: how fast the voltage moved before the step, V/s.
        ended_s: the last time of the response, and how long the step was, s.
    """
    near_s = max(_NEAR_SHARE * seconds, _NEAR_S)
    found: list[_Estimate] = []
    # Counted from the earliest moment at which the step can have begun, and from the latest.
    uncertainty = response.uncertainty_s
    if uncertainty <= seconds:
        found = [loaded.estimate(k, seconds) for k in loaded.places(seconds, near_s)]
        if uncertainty:
            place_s = seconds + uncertainty
            found += [loaded.estimate(k, place_s) for k in loaded.places(place_s, near_s)]
        else:
            found += found
    wanted = f"{seconds:.0f} s"
    if response.begins_with_gap:
        return None, "sampling: readings are missing before the step"
    if ended_s[0] < seconds - near_s and ended_s[1] < seconds:
        return None, f"step: it ends before {wanted}"
    if uncertainty > seconds:
        return None, "start: not known when the step began"
    if len(found) < 2:
        if response.elapsed_s.min() > seconds:
            return None, f"sampling: no reading in the first {wanted}"
        return None, f"sampling: no reading at {wanted} or after it"
    if not all(estimate.is_constant for estimate in found):
        return None, f"current: not constant until {wanted}"
    if drift_v_s is None and response.age_s > 0.1 * seconds:
        return None, "sampling: no reading shortly before the step"
    low = min(estimate.low for estimate in found)
    high = max(estimate.high for estimate in found)
    root = sum(estimate.root for estimate in found) / len(found)
    # As near to the interpolated figure as the bounds on either side allow.
    margin = _SAMPLING_SHARE * (low + high) / 2.0
    plain = max(min(root, low + margin), high - margin)
    if plain < 0.0:
        return None, "voltage: moves against the current"
    widest = max(high - plain, plain - low)
    if widest > 1.000001 * _SAMPLING_SHARE * plain:
        # what the readings would leave open if it were known when the step began
        sampling = max(estimate.high - estimate.low for estimate in found) / 2.0
        if uncertainty > 0.0 and sampling <= _SAMPLING_SHARE * plain:
            return None, "start: not known when the step began"
        return None, f"sampling: readings around {wanted} too far apart"
    moving = (drift_v_s or 0.0) * response.age_s / abs(response.change_a)
    if widest + noise_ohm + moving > _ERROR_SHARE * plain:
        if widest + noise_ohm <= _ERROR_SHARE * plain:
            return None, "voltage: was moving before the step"
        return None, "voltage: too noisy for so small a change"
    return plain, None


def _seen_noise_ohm(response: _Response, loaded: _Loaded) -> float:
    """Two standard deviations of the noise of two readings, and their rounding, as ohm.

    Third differences of readings at equal distances have 20 times the variance of the noise, and
    signs that alternate; those of a smooth response keep their sign.
    """
    noise = _TWO_READINGS * _alternating_ohm(loaded)
    volts = response.volts
    if len(volts) < 4:
        return noise
    for resolution in _RESOLUTIONS_V:
        parts = volts / resolution
        if abs(parts[0] - round(parts[0])) < 1e-4 and (np.abs(parts - np.rint(parts)) < 1e-4).all():
            return noise + 0.75 * resolution / abs(response.change_a)
    return noise


def _alternating_ohm(loaded: _Loaded) -> float:
    """The standard deviation of the noise that the readings show by themselves, ohm; 0 for none."""
    if len(loaded.elapsed) < 7:  # three pairs of third differences
        return 0.0
    elapsed, ohm = loaded.elapsed_s, loaded.ohm
    interval = elapsed[1:] - elapsed[:-1]
    alike = np.abs(interval[1:] - interval[:-1])
    bound = 0.1 * interval
    # of the reading k, from the third on: it and its neighbours, k - 3 to k + 1, are alike apart
    middle = bound[2:-1]
    even = (
        (alike[1:-1] <= middle)
        & (alike[2:] <= middle)
        & (np.abs(interval[:-3] - interval[2:-1]) <= middle)
        & loaded.is_constant[4:]
    )
    if np.count_nonzero(even) < 3:
        return 0.0
    thirds = ohm[3:] - 3.0 * ohm[2:-1] + 3.0 * ohm[1:-2] - ohm[:-3]
    third, previous = thirds[1:][even], thirds[:-1][even]
    square = float(np.dot(third, third)) / len(third)
    if float(np.dot(third, previous)) / len(third) < -0.25 * square:
        return math.sqrt(square / 20.0)
    return 0.0


def _drift_v_s(readings: Readings, start: int) -> float | None:
    """How fast the voltage moved at the end of the step before, V/s: no faster than this.

    From one reading to the next and over many: a voltage that settles moves the less the later, so
    that the lesser of the two is an upper bound with less noise.
    """
    run, volts = readings.step_run, readings.voltage_v
    previous = run[start - 1] if start else None
    for k in range(start - 1, 0, -1):
        if run[k - 1] != previous:  # the step's first reading
            break
        bounds = []
        delta = float(readings.time_delta_s[k])
        if delta > 0.0:
            bounds.append(abs(float(volts[k]) - float(volts[k - 1])) / delta)
        earlier = k - _DRIFT_READINGS
        if earlier >= 0 and run[earlier] == previous:
            seconds = float(readings.recorded_s[k]) - float(readings.recorded_s[earlier])
            if seconds != 0.0:
                bounds.append(abs(float(volts[k]) - float(volts[earlier])) / seconds)
        if bounds:
            return min(bounds)
    return None
