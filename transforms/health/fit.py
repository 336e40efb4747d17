"""Fits what has aged to a cycle's segments, given what was known before: one step of a filter.

The unknowns, a vector of `SIZE`:

    SCALE       capacity of the electrodes, 1 in the beginning
    SLIDE       of the positive against the negative, in capacities (lithium that is lost)
    RESISTANCE  what has been added, ohm x Ah
    COLD        share of the capacity that is not usable per K
    FADE        loss of SCALE per cycle
    BIAS        of the state of health, which only full discharges show

Beside them a cycle has a resistance of its own (its warmth), and every segment begins at an unknown
place. Voltage at a place z of the early curve V = P - N (positive less graphite):

    v = P(z + SLIDE) - N(z) + rate x (RESISTANCE + that of the cycle),   z = start ± moved / scale
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

from transforms.health.coefficients import Filter
from transforms.health.electrodes import F64
from transforms.health.reference import GRID, STEP, Reference
from transforms.health.segments import Segment

SIZE: Final = 6
SCALE, SLIDE, RESISTANCE, COLD, FADE, BIAS = range(SIZE)

_MOST_POINTS: Final = 24
_STEPS: Final = 12
_LEAST_INSIDE: Final = 0.6
_LEAST_INSIDE_PART: Final = 0.75  # where the ends of the reference are joined from pieces
_HUBER: Final = 2.5
_STARTS: Final = 3
_AS_GOOD: Final = 0.5  # of a place's cost, in standard deviations, beside the best one's


@dataclass(frozen=True)
class Curve:
    """A reference as the fit needs it: positive and graphite at GRID, and their slopes."""

    reference: Reference
    positive: F64
    graphite: F64
    positive_slope: F64
    graphite_slope: F64

    @classmethod
    def of(cls, reference: Reference, graphite: F64) -> Curve:
        """`graphite`: V at GRID; zeros where the reference does not count from a limit."""
        positive = reference.positive(graphite)
        return cls(
            reference,
            positive,
            graphite,
            np.gradient(positive, STEP),
            np.gradient(graphite, STEP),
        )


@dataclass(frozen=True)
class Points:
    """A segment as the fit needs it, thinned; `moved` in nominal capacities, with its sign."""

    segment: Segment
    curve: Curve
    moved: F64
    volts: F64
    noise_v: F64
    rate_c: float


@dataclass(frozen=True)
class Warmth:
    """What a cycle's temperature does.

    Attributes:
        colder_k: K that it is colder below 25 °C than the reference was.
        resistance: what its warmth adds to the resistance, ohm x Ah.
        resistance_sd: how uncertain that is.
    """

    colder_k: float
    resistance: float
    resistance_sd: float


@dataclass(frozen=True)
class Found:
    """The outcome.

    Attributes:
        mean: of the unknowns, (SIZE,).
        covariance: of them.
        starts: places where the segments begin.
        own_resistance: what the cycle's own warmth adds, ohm x Ah.
        misfit_v: root mean square of what is left of the voltage, V.
        unexplained: that without what noise explains, as a share of the segments' rise.
        inside: of each segment, whether the reference covers enough of it.
    """

    mean: F64
    covariance: F64
    starts: F64
    own_resistance: float
    misfit_v: float
    unexplained: float
    inside: tuple[bool, ...]


def noise_of(segment: Segment) -> float:
    """V by which neighbouring readings scatter, from second differences; 0.1 mV at the least."""
    volts, ah = segment.voltage_v, segment.ah
    if len(volts) < 6:
        return 1e-3
    share = (ah[1:-1] - ah[:-2]) / (ah[2:] - ah[:-2])
    off = volts[1:-1] - (volts[:-2] + share * (volts[2:] - volts[:-2]))
    size = np.sqrt(1.0 + share**2 + (1.0 - share) ** 2)
    return max(float(np.median(np.abs(off / size))) / 0.6745, 1e-4)


def thinned(segment: Segment, curve: Curve, nominal_ah: float, noise_v: float) -> Points:
    """At most 24 points, each the mean of its neighbours."""
    size = len(segment.ah)
    few = min(size, _MOST_POINTS)
    # By charge, so that readings that crowd somewhere count no more than others.
    edges = np.linspace(0.0, float(segment.ah[-1]), few + 1)
    which = np.clip(np.searchsorted(edges, segment.ah, side="right") - 1, 0, few - 1)
    count = np.bincount(which, minlength=few)
    there = count > 0
    count = count[there]
    moved = np.bincount(which, segment.ah, few)[there] / count
    volts = np.bincount(which, segment.voltage_v, few)[there] / count
    rate = abs(float(np.median(segment.current_a))) / nominal_ah
    return Points(
        segment,
        curve,
        segment.direction * moved / nominal_ah,
        volts,
        noise_v / np.sqrt(count),
        rate,
    )


class _Cycle:
    """The residuals of a cycle's segments and how they change."""

    def __init__(self, points: list[Points], warmth: Warmth, chosen: Filter, base: float) -> None:
        self.points, self.warmth, self.chosen, self.base = points, warmth, chosen, base

    def scale(self, x: F64) -> float:
        return max(float(x[SCALE] * (1.0 - x[COLD] * self.warmth.colder_k)), 0.05)

    def lifted(self, x: F64, own: float, point: Points) -> float:
        """V that resistance adds to the early curve."""
        reference = point.curve.reference
        more = point.rate_c * (float(x[RESISTANCE]) + own)
        # Another rate than the reference's: the resistance that was there from the beginning.
        more += (point.rate_c - reference.rate_c) * self.base
        return reference.direction * more

    def sd(self, point: Points, slope: F64) -> F64:
        chosen, early = self.chosen, point.curve.reference.uncertain_v
        # What the reference has wrong is wrong in every cycle; it must not be taken for new.
        lasting = early**2 + chosen.model_v**2 + (slope * chosen.place) ** 2
        whole = point.curve.reference.is_full
        repeats = chosen.repeats if whole else chosen.repeats_part
        return np.sqrt(point.noise_v**2 + repeats * lasting)

    def starts(self, x: F64, own: float, point: Points) -> list[float]:
        """Where the segment may begin: the best places of the grid that are no neighbours."""
        curve = point.curve
        low, high = curve.reference.covered
        along = point.moved / self.scale(x)
        tried = np.arange(low - along.min(), high - along.max() + STEP, STEP)
        if not len(tried):
            # Longer than the reference: by its middle.
            tried = np.arange(low - along.max(), high - along.min(), STEP)
        place = tried[:, None] + along
        inside = curve.reference.has(place + x[SLIDE])
        slide = float(x[SLIDE])
        volts = np.interp(place + slide, GRID, curve.positive)
        volts = volts - np.interp(place, GRID, curve.graphite) + self.lifted(x, own, point)
        slope = np.interp(place + slide, GRID, curve.positive_slope)
        slope = slope - np.interp(place, GRID, curve.graphite_slope)
        off = np.abs((volts - point.volts) / self.sd(point, slope))
        costs = np.where(inside, np.minimum(off, 20.0), 20.0).mean(axis=1)
        found: list[float] = []
        for number in np.argsort(costs, kind="stable").tolist():
            if found and costs[number] > costs.min() + _AS_GOOD:
                break
            if all(abs(tried[number] - other) > 3.0 * STEP for other in found):
                found.append(float(tried[number]))
            if len(found) == _STARTS:
                break
        return found

    def rows(self, x: F64, own: float, starts: F64) -> tuple[F64, F64, F64, tuple[bool, ...]]:
        """Weighted residuals (m,), their change (m, SIZE + 1 + segments), plain residuals."""
        count = len(self.points)
        scale = self.scale(x)
        residuals, changes, plain, inside_all = [], [], [], []
        for number, point in enumerate(self.points):
            curve = point.curve
            place = starts[number] + point.moved / scale
            slid = place + (float(x[SLIDE]) if curve.reference.is_full else 0.0)
            rise_p = np.interp(slid, GRID, curve.positive_slope)
            slope = rise_p - np.interp(place, GRID, curve.graphite_slope)
            volts = np.interp(slid, GRID, curve.positive) - np.interp(place, GRID, curve.graphite)
            off = volts + self.lifted(x, own, point) - point.volts
            # What the slide moves beyond the curve's end is continued in a straight line.
            inside = curve.reference.has(place)
            least = _LEAST_INSIDE if curve.reference.is_full else _LEAST_INSIDE_PART
            inside_all.append(float(inside.mean()) >= least)
            weight = np.where(inside, 1.0, 0.0) / self.sd(point, slope)
            scaled = np.abs(off) * weight
            weight = weight * np.where(
                scaled > _HUBER, np.sqrt(_HUBER / np.maximum(scaled, 1e-9)), 1.0
            )
            change = np.zeros((len(off), SIZE + 1 + count))
            shrinks = -slope * point.moved / scale**2
            change[:, SCALE] = shrinks * scale / x[SCALE]
            change[:, COLD] = -shrinks * x[SCALE] * self.warmth.colder_k
            if curve.reference.is_full:
                change[:, SLIDE] = rise_p
            change[:, RESISTANCE] = change[:, SIZE] = curve.reference.direction * point.rate_c
            change[:, SIZE + 1 + number] = slope
            residuals.append(off * weight)
            changes.append(change * weight[:, None])
            plain.append(off[inside])
        return (
            np.concatenate(residuals),
            np.concatenate(changes),
            np.concatenate(plain),
            tuple(inside_all),
        )


def fit(
    points: list[Points],
    mean: F64,
    covariance: F64,
    warmth: Warmth,
    chosen: Filter,
    base: float,
    measured: tuple[float, float] | None = None,
) -> Found:
    """What is most likely after a cycle, and how certain it is.

    Args:
        points: the cycle's segments, at least one.
        mean: what was expected before it, (SIZE,).
        covariance: of that.
        warmth: what the temperature does.
        chosen: how good the model is.
        base: resistance in the beginning, ohm x Ah.
        measured: added resistance that was measured, ohm x Ah, and its standard deviation.
    """
    cycle = _Cycle(points, warmth, chosen, base)
    count = len(points)
    size = SIZE + 1 + count
    prior = np.zeros((size, size))
    prior[:SIZE, :SIZE] = np.linalg.inv(covariance)
    prior[SIZE, SIZE] = warmth.resistance_sd**-2
    for number in range(count):
        prior[SIZE + 1 + number, SIZE + 1 + number] = 1e-2
    expected = np.concatenate((mean, [warmth.resistance], np.zeros(count)))
    best: tuple[float, F64] | None = None
    for begun in _combinations([cycle.starts(mean, warmth.resistance, p) for p in points]):
        expected[SIZE + 1 :] = begun
        solved = _solve(cycle, expected.copy(), prior, 1.0, measured)
        if best is None or solved[0] < best[0]:
            best = solved
    assert best is not None
    x = best[1]
    residuals, changes, plain, inside = cycle.rows(x, float(x[SIZE]), x[SIZE + 1 :])
    free = max(int(np.count_nonzero(residuals)) - count - 1, 1)
    worse = max(1.0, float(residuals @ residuals) / free)
    if worse > 1.0:
        expected[SIZE + 1 :] = x[SIZE + 1 :]
        x = _solve(cycle, expected.copy(), prior, worse, measured)[1]
        residuals, changes, plain, inside = cycle.rows(x, float(x[SIZE]), x[SIZE + 1 :])
    information = changes.T @ changes / worse + prior + _measured(size, measured)[0]
    covariance = np.asarray(np.linalg.inv(information)[:SIZE, :SIZE], dtype=np.float64)
    misfit = float(np.sqrt(np.mean(plain**2))) if len(plain) else np.inf
    noise = float(
        np.mean([np.mean(p.noise_v**2) + p.curve.reference.uncertain_v**2 for p in points])
    )
    rise = float(np.mean([np.ptp(p.volts) for p in points]))
    return Found(
        x[:SIZE],
        (covariance + covariance.T) / 2.0,
        x[SIZE + 1 :],
        float(x[SIZE]),
        misfit,
        math.sqrt(max(misfit**2 - noise, 0.0)) / max(rise, 1e-3),
        inside,
    )


def _combinations(starts: list[list[float]]) -> list[list[float]]:
    """The best start of all, and each other one of a segment beside the best of the rest."""
    first = [own[0] for own in starts]
    out = [first]
    for number, own in enumerate(starts):
        out += [[*first[:number], other, *first[number + 1 :]] for other in own[1:]]
    return out


def _measured(size: int, measured: tuple[float, float] | None) -> tuple[F64, F64, float]:
    """Information, its change and weight of a measured resistance."""
    direction = np.zeros(size)
    if measured is None:
        return np.zeros((size, size)), direction, 0.0
    direction[RESISTANCE] = direction[SIZE] = 1.0
    return np.outer(direction, direction) / measured[1] ** 2, direction, measured[1] ** -2


def _solve(
    cycle: _Cycle, expected: F64, prior: F64, worse: float, measured: tuple[float, float] | None
) -> tuple[float, F64]:
    """The most likely unknowns (Levenberg and Marquardt) and what they cost."""
    size = len(expected)
    more, direction, weight = _measured(size, measured)

    def look(x: F64) -> tuple[float, F64, F64]:
        residuals, changes, _, inside = cycle.rows(x, float(x[SIZE]), x[SIZE + 1 :])
        away = x - expected
        off = float(direction @ x) - (measured[0] if measured else 0.0)
        cost = float(residuals @ residuals) / worse + float(away @ prior @ away)
        cost += weight * off**2 + 1e4 * inside.count(False)
        gradient = changes.T @ residuals / worse + prior @ away + weight * off * direction
        return cost, gradient, changes.T @ changes / worse + prior + more

    x, damping = expected.copy(), 1e-3
    cost, gradient, curvature = look(x)
    for _ in range(_STEPS):
        step = np.linalg.solve(curvature + damping * np.diag(np.diag(curvature)), -gradient)
        tried = x + step
        tried[SCALE] = min(max(tried[SCALE], 0.2), 1.3)
        new = look(tried)
        if new[0] < cost:
            done = cost - new[0] < 1e-4 * (1.0 + cost)
            x, (cost, gradient, curvature) = tried, new
            damping = max(damping / 5.0, 1e-6)
            if done:
                break
        else:
            damping *= 8.0
            if damping > 1e6:
                break
    return cost, x
