"""Figures of a cell's history that a model of its remaining life is fed with.

Time is counted in spans: the throughput from the first to the newest point of the history is 1.
Fades are counted in margins: the health left above the threshold is 1. So a cell of 200 cycles and
one of 2,000 that fade in the same shape have the same features, and what a model says is a multiple
of the span.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from transforms.life.history import Floats, History

LEAST_POINTS: Final = 12  # fewer say nothing about a fade
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
    """Features of a history at a threshold of its state of health; about a millisecond."""
    c = history.columns()
    if c.soh.size == 0:
        return Features(None, 0.0, math.nan, math.nan, math.nan, 1.0, False)
    x = np.maximum.accumulate(c.throughput)
    span = float(x[-1] - x[0])
    if len(history) < LEAST_POINTS or c.soh.size < LEAST_POINTS // 2 or span <= 0.0:
        soh = float(np.median(c.soh[-5:]))
        return Features(None, span, soh, soh - threshold, float(c.error[-1]), 1.0, False)
    u = (x - x[0]) / span - 1.0  # −1 at the first, 0 now
    y, weight, noise = _without_outliers(c.soh, c.error, c.points)

    recent = u >= -_reach(u, 0.125)
    now = _line(u[recent], y[recent], weight[recent])
    early = u <= -1.0 + _reach(-1.0 - u[::-1], 0.125)
    first = _line(u[early] + 1.0, y[early], weight[early])
    soh, soh_error = now.level, now.level_error
    margin = soh - threshold
    scale = max(margin, 1e-3)  # past the threshold no feature is asked for, but all are finite
    lost = first.level - soh

    looks = []
    for look in LOOKS:
        inside = u >= -look
        looks.append(_line(u[inside], y[inside], weight[inside]) if _enough(inside) else None)
    values = [soh, margin, first.level, float(np.clip(lost / max(lost + scale, 1e-3), -1.0, 1.0))]
    values.append(_straight(_agreed([look for look in looks if look is not None]), scale))
    values += [math.nan if one is None else _straight(-one.slope, scale) for one in looks]
    values += [math.nan if one is None else math.asinh(-one.slope / one.error) for one in looks]
    values.append(math.log(noise / scale))
    levels = _levels(u, y, weight, first.level, soh)
    values += [float(d) for d in np.clip(-np.diff(levels) / scale, -20.0, 20.0)]
    values += _parabola(u, y, weight, scale)
    half = u >= -0.5
    values += (
        _parabola(u[half], y[half], weight[half], scale)[:2] if half.sum() >= 8 else [math.nan] * 2
    )
    values += _knee(u, y, weight, scale)
    several = np.clip([v for v in (values[k] for k in _SEVERAL) if not math.isnan(v)], -4.0, 3.0)
    values += [float(np.median(several)), float(np.std(several))]
    # Of medians, so that one point is no rise.
    smooth = _running_median(y)
    values.append(math.asinh(float(np.max(smooth - np.minimum.accumulate(smooth))) / scale))
    values += _resistance(u, c.resistance)
    values += [math.log(len(history)), float(np.max(np.diff(u)))]
    whole = looks[0]
    is_fading = lost > 3.0 * math.hypot(now.level_error, first.level_error) and (
        whole is not None and -whole.slope > 3.0 * whole.error
    )
    return Features(
        np.array(values, np.float32),
        span,
        soh,
        margin,
        soh_error,
        _cycles_ahead(u, c.cycle, x, y, soh, threshold),
        bool(is_fading),
    )


def _cycles_ahead(
    u: Floats, cycle: Floats, x: Floats, y: Floats, soh: float, threshold: float
) -> float:
    """Cycle numbers per throughput from now to the threshold.

    That of the newest quarter; where a cycle moved less and less as the capacity fell, it goes on
    doing so, up to in proportion. Where too little has faded to tell, in proportion.
    """
    late, early = u >= -_reach(u, 0.25), u <= -1.0 + _reach(-1.0 - u[::-1], 0.25)

    def pace(which: NDArray[np.bool_]) -> float:
        return max(float(np.ptp(cycle[which])), 1e-9) / max(float(np.ptp(x[which])), 1e-9)

    now, first = pace(late), pace(early)
    soh_late, soh_first = max(float(np.mean(y[late])), 0.05), max(float(np.mean(y[early])), 0.05)
    share = 1.0
    if np.array_equal(cycle, x):
        share = 0.0
    elif soh_first > 1.02 * soh_late:
        share = min(max(math.log(now / first) / math.log(soh_first / soh_late), 0.0), 1.0)
    ahead = max((soh + max(threshold, 0.05)) / 2.0, 0.05)
    return float(now * (soh_late / ahead) ** share)


@dataclass(frozen=True, slots=True)
class _Line:
    """A line by weighted least squares; level at u = 0."""

    level: float
    level_error: float
    slope: float
    error: float


def _line(u: Floats, y: Floats, weight: Floats) -> _Line:
    total = float(weight.sum())
    mean_u, mean_y = float(weight @ u) / total, float(weight @ y) / total
    du, dy = u - mean_u, y - mean_y
    uu = float(weight @ (du * du))
    slope = float(weight @ (du * dy)) / uu if uu > 0.0 else 0.0
    # Where the points scatter more than their noise says, as where the health wanders, by that.
    residual = dy - slope * du
    excess = max(float(weight @ (residual * residual)) / max(u.size - 2, 1), 1.0)
    error = math.sqrt(excess / uu) if uu > 0.0 else 1.0
    level_error = math.sqrt(excess / total + (error * mean_u) ** 2)
    return _Line(mean_y - slope * mean_u, level_error, slope, error)


def _enough(inside: NDArray[np.bool_]) -> bool:
    return int(inside.sum()) >= _LEAST_IN_LOOK


def _reach(u: Floats, share: float) -> float:
    """How far back the newest share of the span lies, or as far as enough points do."""
    return max(share, -float(u[max(u.size - _LEAST_IN_LOOK, 0)]))


def _agreed(looks: list[_Line]) -> float:
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


def _straight(fade: float, margin: float) -> float:
    """Log of the spans left at a fade in health per span."""
    fastest, slowest = _STRAIGHT
    pace = fade / margin
    return slowest if pace <= _SLOWEST else max(-math.log(pace), fastest)


def _running_median(y: Floats) -> Floats:
    """Of five, fewer at both ends."""
    if y.size < 5:
        return np.full(y.size, np.median(y))
    padded = np.concatenate((y[1:3][::-1], y, y[-3:-1][::-1]))
    windows = np.lib.stride_tricks.sliding_window_view(padded, 5)
    return np.median(windows, axis=1)


def _without_outliers(soh: Floats, error: Floats, points: Floats) -> tuple[Floats, Floats, float]:
    """Health with outliers drawn in, weights, and the standard deviation of a usual point.

    The errors that points come with are believed in proportion; how large they are altogether is
    measured, by how far groups lie from the middle of their neighbours.
    """
    expected = np.sqrt(error[1:-1] ** 2 + (error[:-2] ** 2 + error[2:] ** 2) / 4.0)
    apart = np.abs(soh[1:-1] - (soh[:-2] + soh[2:]) / 2.0) / expected
    usual = error * np.sqrt(points)
    scale = max(1.4826 * float(np.median(apart)), _LEAST_NOISE / float(np.median(usual)))
    sigma = scale * error
    away = soh - _running_median(soh)
    drawn_in: Floats = soh - away + np.clip(away, -_CLIP * sigma, _CLIP * sigma)
    return drawn_in, sigma**-2, scale * float(np.median(usual))


def _levels(u: Floats, y: Floats, weight: Floats, first: float, now: float) -> Floats:
    """Health at the span's begin, its quarters and now."""
    levels = [first]
    for at in (-0.75, -0.5, -0.25):
        near = np.abs(u - at) <= 0.0625
        if near.sum() >= 3:
            levels.append(float(weight[near] @ y[near] / weight[near].sum()))
        else:
            levels.append(float(np.interp(at, u, y)))
    return np.array([*levels, now])


def _parabola(u: Floats, y: Floats, weight: Floats, margin: float) -> list[float]:
    """Bend, how certain it is, and log of the spans left by it."""
    basis = np.stack((np.ones_like(u), u, u * u))
    normal = (basis * weight) @ basis.T
    try:
        inverse = np.linalg.inv(normal)
    except np.linalg.LinAlgError:
        return [math.nan] * 3
    found = inverse @ (basis @ (weight * y))
    residual = y - found @ basis
    excess = max(float(weight @ (residual * residual)) / max(u.size - 3, 1), 1.0)
    error = math.sqrt(max(excess * inverse[2, 2], 1e-24))
    bend, pace = -found[2] / margin, -found[1] / margin
    # 1 = pace s + bend s²
    inside = pace * pace + 4.0 * bend
    left = math.inf
    if inside >= 0.0:
        down = pace + math.sqrt(inside)
        left = 2.0 / down if down > 0.0 else math.inf
    lowest, most = _STRAIGHT
    log = most if left >= 1.0 / _SLOWEST else max(math.log(left), lowest)
    return [float(np.clip(bend, -50.0, 50.0)), math.asinh(-found[2] / error), log]


def _knee(u: Floats, y: Floats, weight: Floats, margin: float) -> list[float]:
    """The best two lines that meet: where, ratio of fades, certainty, log of spans left after."""
    places = u[3:-3]
    places = places[(places >= -0.95) & (places <= -0.03)]
    if places.size < 3:
        return [math.nan] * 4
    hinge = np.maximum(u[None, :] - places[:, None], 0.0)
    one = np.stack((np.ones_like(u), u))
    # The line's part is taken out of hinges and health; each hinge then has a slope of its own.
    inverse = np.linalg.inv((one * weight) @ one.T)
    project = inverse @ (one * weight)
    rest_y = y - (project @ y) @ one
    rest_h = hinge - (hinge @ project.T) @ one
    hh = np.maximum((rest_h * rest_h) @ weight, 1e-300)
    hy = rest_h @ (weight * rest_y)
    gain = hy * hy / hh
    best = int(np.argmax(gain))
    left = float(weight @ (rest_y * rest_y)) - float(gain[best])
    certain = math.log1p(float(gain[best]) / max(left / max(u.size - 4, 1), 1.0))
    turn = float(hy[best] / hh[best])
    before = -float((project @ (y - turn * hinge[best]))[1])
    after = before - turn
    floor = max(abs(before), 0.02 * margin)
    return [float(places[best]), math.asinh(after / floor), certain, _straight(after, margin)]


def _resistance(u: Floats, resistance: Floats) -> list[float]:
    """Growth since the first eighth and in the newer half, as shares."""
    known = np.isfinite(resistance)
    u, r = u[known], resistance[known]
    early, middle, late = u <= -0.875, np.abs(u + 0.5) <= 0.0625, u >= -0.125
    if min(early.sum(), middle.sum(), late.sum()) < 2:
        return [math.nan] * 2
    first, then, now = (float(np.median(r[part])) for part in (early, middle, late))
    if min(first, then) <= 0.0:
        return [math.nan] * 2
    return [
        float(np.clip(now / first - 1.0, -1.0, 10.0)),
        float(np.clip(now / then - 1.0, -1.0, 10.0)),
    ]
