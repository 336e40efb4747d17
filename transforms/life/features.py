"""Figures of a cell's history that a model of its remaining life is fed with.

Time, but for `age`, is counted in spans: the throughput from the first to the newest point of the history is 1.
Fades are counted in margins: the health left above the threshold is 1. So a cell of 200 cycles and
one of 2,000 that fade in the same shape have the same features, and what a model says is a multiple
of the span.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from transforms.life.fits import Line, Parabola, Sums, median, running_median
from transforms.life.history import Columns, Floats, History

LEAST_POINTS: Final = 8  # fewer say nothing about a fade
LOOKS: Final = (1.0, 0.5, 0.25, 0.125, 0.0625)  # shares of the span, back from now
_LEAST_IN_LOOK: Final = 5
_LEAST_NOISE: Final = 1e-5
_SLOWEST: Final = 1e-3  # fade in margins per span; slower ones count as this
_STRAIGHT: Final = (-6.0, math.log(1.0 / _SLOWEST))
_CLIP: Final = 4.0  # noise beyond which a point is an outlier, in standard deviations

DEFINITIONS: Final[dict[str, str]] = {
    "soh": "state of health now, by a line through the newest eighth of the span",
    "margin": "soh less the threshold",
    "first_soh": "state of health at the history's begin, by a line through the first eighth",
    "stage": "health lost since the history's begin, over that and the margin",
    "straight": "log of spans left at the pace on which the looks back agree",
    **{
        f"straight_{look:g}": f"log of spans left at the pace of the last {look:g} spans"
        for look in LOOKS
    },
    **{
        f"certain_{look:g}": f"asinh of the fade of the last {look:g} spans over its standard error"
        for look in LOOKS
    },
    "noise": "log of a point's standard deviation in margins",
    "lost_1": "health lost in the span's first quarter, in margins",
    "lost_2": "health lost in its second quarter, in margins",
    "lost_3": "health lost in its third quarter, in margins",
    "lost_4": "health lost in its last quarter, in margins",
    "bend": "quadratic term of a parabola through all points, margins per span squared",
    "bend_certain": "asinh of that term over its standard error",
    "parabola": "log of spans left by that parabola",
    "half_bend": "as bend, in the newer half",
    "half_bend_certain": "as bend_certain, in the newer half",
    "knee_at": "where two lines that meet fit best, spans from now",
    "knee_ratio": "asinh of the fade after that place over the fade before it",
    "knee_certain": "log of 1 + F of two lines against one",
    "knee_straight": "log of spans left at the pace after that place",
    "consensus": "median of straight_1, straight_0.5, straight_0.25, straight and parabola, in -4 to 3",
    "spread": "their standard deviation",
    "risen": "asinh of the highest rise above an earlier low, in margins",
    "resistance": "growth of the resistance since the first eighth, share; missing where not known",
    "resistance_late": "its growth in the newer half, share; missing where not known",
    "points": "log of the number of points",
    "widest": "widest gap between groups of points, spans",
    "age": "log of 1 + throughput since the life's begin; only of cells of a kind, never synthetic ones",
}
NAMES: Final[tuple[str, ...]] = tuple(DEFINITIONS)
_SEVERAL: Final = tuple(
    NAMES.index(name)
    for name in ("straight", "straight_1", "straight_0.5", "straight_0.25", "parabola")
)


@dataclass(frozen=True)
class Features:
    """What a history says at a threshold.

    Attributes:
        values: (len(NAMES),) float32, in the order of NAMES; None where there are too few points.
        span: throughput from the first to the newest point, equivalent full cycles.
        soh: health now, by a line through the newest points.
        margin: soh less the threshold.
        soh_error: standard error of soh.
        cycles_per_throughput: cycle numbers per equivalent full cycle from now to the threshold.
        is_fading: whether the health lost so far is more than noise.
    """

    values: NDArray[np.float32] | None
    span: float
    soh: float
    margin: float
    soh_error: float
    cycles_per_throughput: float
    is_fading: bool


def of(history: History, threshold: float = 0.8) -> Features:
    """Features of a history at a threshold of its state of health; well under a millisecond."""
    c = history.columns()
    if c.soh.size == 0:
        return Features(None, 0.0, math.nan, math.nan, math.nan, 1.0, False)
    x = np.maximum.accumulate(c.throughput)
    span = float(x[-1] - x[0])
    if len(history) < LEAST_POINTS or c.soh.size < _LEAST_IN_LOOK or span <= 0.0:
        soh = median(c.soh[-5:])
        return Features(None, span, soh, soh - threshold, float(c.error[-1]), 1.0, False)
    u = (x - x[0]) / span - 1.0  # −1 at the first, 0 now
    y, weight, noise = _without_outliers(c.soh, c.error, c.points)
    n, sums = u.size, Sums(u, y, weight)
    since = {look: int(np.searchsorted(u, -look - 1e-12)) for look in LOOKS}
    until = {look: n - int(np.searchsorted(-u[::-1], 1.0 - look - 1e-12)) for look in (0.125, 0.25)}

    now = sums.line(min(since[0.125], n - _LEAST_IN_LOOK), n)
    first = sums.line(0, max(until[0.125], _LEAST_IN_LOOK), -1.0)
    margin, lost = now.level - threshold, first.level - now.level
    scale = max(margin, 1e-3)  # past the threshold no feature is asked for, but all are finite
    looks = [
        sums.line(since[look], n) if n - since[look] >= _LEAST_IN_LOOK else None for look in LOOKS
    ]
    values = [now.level, margin, first.level, _clipped(lost / max(lost + scale, 1e-3), 1.0)]
    values.append(_straight(_agreed([one for one in looks if one is not None]), scale))
    values += [math.nan if one is None else _straight(-one.slope, scale) for one in looks]
    values += [math.nan if one is None else math.asinh(-one.slope / one.error) for one in looks]
    values.append(math.log(noise / scale))
    levels = [first.level, *_levels(u, y, sums), now.level]
    values += [_clipped((a - b) / scale, 20.0) for a, b in itertools.pairwise(levels)]
    values += _parabola(sums.parabola(0), scale)
    half = since[0.5]
    values += _parabola(sums.parabola(half) if n - half >= 8 else None, scale)[:2]
    values += _knee(sums, scale)
    several = [v for v in (values[k] for k in _SEVERAL) if not math.isnan(v)]
    clipped = np.minimum(np.maximum(several, -4.0), 3.0)
    values += [median(clipped), float(clipped.std())]
    # Of medians, so that one point is no rise.
    smooth = running_median(y)
    values.append(math.asinh(float((smooth - np.minimum.accumulate(smooth)).max()) / scale))
    values += _resistance(u, c.resistance)
    values += [math.log(len(history)), float((u[1:] - u[:-1]).max()), math.log1p(float(x[-1]))]
    whole = looks[0]
    is_fading = lost > 3.0 * math.hypot(now.level_error, first.level_error) and (
        whole is not None and -whole.slope > 3.0 * whole.error
    )
    quarters = (
        slice(min(since[0.25], n - _LEAST_IN_LOOK), n),
        slice(0, max(until[0.25], _LEAST_IN_LOOK)),
    )
    return Features(
        np.array(values, np.float32),
        span,
        now.level,
        margin,
        now.level_error,
        _cycles_ahead(c, x, y, quarters, (now.level + threshold) / 2.0),
        is_fading,
    )


def _clipped(value: float, most: float) -> float:
    return min(max(value, -most), most)


def _cycles_ahead(
    c: Columns, x: Floats, y: Floats, quarters: tuple[slice, slice], ahead: float
) -> float:
    """Cycle numbers per throughput from now to the threshold.

    That of the newest quarter; where a cycle moved less and less as the capacity fell, it goes on
    doing so, up to in proportion. Where too little has faded to tell, in proportion.

    Args:
        c: the history.
        x: its throughput.
        y: its state of health.
        quarters: the newest and the first.
        ahead: the mean state of health from now to the threshold.
    """

    def pace(part: slice) -> float:
        cycle, moved = c.cycle[part], x[part]
        return max(float(cycle[-1] - cycle[0]), 1e-9) / max(float(moved[-1] - moved[0]), 1e-9)

    late, early = quarters
    now = pace(late)
    if np.array_equal(c.cycle, c.throughput):
        return now
    soh_late, soh_first = max(float(y[late].mean()), 0.05), max(float(y[early].mean()), 0.05)
    share = 1.0
    if soh_first > 1.02 * soh_late:
        share = math.log(now / pace(early)) / math.log(soh_first / soh_late)
    return float(now * (soh_late / max(ahead, 0.05)) ** min(max(share, 0.0), 1.0))


def _agreed(looks: list[Line]) -> float:
    """Fade by the looks together: each counts by its error, and the newer the more.

    A long look is sure of a pace that may be over: to its error is added how much the pace changed
    between it and the look half as long, as far as that is more than noise.
    """
    best, variance = -looks[0].slope, looks[0].error ** 2
    for one in looks[1:]:
        fade, own = -one.slope, one.error**2
        change = max((fade - best) ** 2 - own - variance, 0.0)
        before = variance + change + (0.1 * best) ** 2
        share = before / (before + own)
        best += share * (fade - best)
        variance = before * own / (before + own)
    return best


def _without_outliers(soh: Floats, error: Floats, points: Floats) -> tuple[Floats, Floats, float]:
    """Health with outliers drawn in, weights, and the standard deviation of a usual point.

    The errors that points come with are believed in proportion; how large they are altogether is
    measured, by how far groups lie from the middle of their neighbours.
    """
    square = error * error
    expected = np.sqrt(square[1:-1] + (square[:-2] + square[2:]) / 4.0)
    apart = np.abs(soh[1:-1] - (soh[:-2] + soh[2:]) / 2.0) / expected
    usual = median(error * np.sqrt(points))
    scale = max(1.4826 * median(apart), _LEAST_NOISE / usual)
    most = _CLIP * scale * error
    smooth = running_median(soh)
    drawn_in: Floats = smooth + np.minimum(np.maximum(soh - smooth, -most), most)
    return drawn_in, 1.0 / (scale * scale * square), scale * usual


def _levels(u: Floats, y: Floats, sums: Sums) -> list[float]:
    """Health at the span's inner quarters."""
    levels = []
    for at in (-0.75, -0.5, -0.25):
        low, high = np.searchsorted(u, (at - 0.0625, at + 0.0625)).tolist()
        if high - low >= 3:
            levels.append(sums.mean(low, high))
        else:
            levels.append(float(np.interp(at, u, y)))
    return levels


def _parabola(found: Parabola | None, margin: float) -> list[float]:
    """Bend, how certain it is, and log of the spans left by it."""
    if found is None:
        return [math.nan] * 3
    bend, pace = -found.bend / margin, -found.slope / margin
    # 1 = pace s + bend s²
    inside = pace * pace + 4.0 * bend
    left = math.inf
    if inside >= 0.0:
        down = pace + math.sqrt(inside)
        left = 2.0 / down if down > 0.0 else math.inf
    lowest, most = _STRAIGHT
    log = most if left >= 1.0 / _SLOWEST else max(math.log(left), lowest)
    return [_clipped(bend, 50.0), math.asinh(-found.bend / found.error), log]


def _knee(sums: Sums, margin: float) -> list[float]:
    """The best two lines: where they meet, ratio of fades, certainty, log of spans left after."""
    found = sums.knee()
    if found is None:
        return [math.nan] * 4
    before, after = -found.before, -found.after
    floor = max(abs(before), 0.02 * margin)
    return [found.at, math.asinh(after / floor), math.log1p(found.gain), _straight(after, margin)]


def _resistance(u: Floats, resistance: Floats) -> list[float]:
    """Growth since the first eighth and in the newer half, as shares."""
    known = np.isfinite(resistance)
    if not known.any():
        return [math.nan] * 2
    u, r = u[known], resistance[known]
    parts = [r[u <= -0.875], r[np.abs(u + 0.5) <= 0.0625], r[u >= -0.125]]
    if min(part.size for part in parts) < 2:
        return [math.nan] * 2
    first, then, now = (median(part) for part in parts)
    if min(first, then) <= 0.0:
        return [math.nan] * 2
    return [min(max(now / one - 1.0, -1.0), 10.0) for one in (first, then)]


def _straight(fade: float, margin: float) -> float:
    """Log of the spans left at a fade in health per span."""
    fastest, slowest = _STRAIGHT
    pace = fade / margin
    return slowest if pace <= _SLOWEST else max(-math.log(pace), fastest)
