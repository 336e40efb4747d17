"""The main peaks of dQ/dV of a cycle, in charge and in discharge; as battery_ica and battery_ica_peaks."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from transforms.convert import Mask
from transforms.cycles.steps import CHARGE, DISCHARGE, I64, Readings, Steps, holds_voltage
from transforms.limits import F64

# As the models' variables of these names, which say why (dbt_project.yml).
_STAGE_MIN_SHARE = 0.1
_CURRENT_TOLERANCE = 0.05
_SLOPE_ERROR = 0.02
_WINDOW_MIN_SHARE, _WINDOW_MAX_SHARE, _WINDOW_MAX_SHARE_FLAT = 0.025, 0.08, 0.1
_FLAT_SPAN_V = 0.3
_WINDOW_INTERVALS = 2.5
_WINDOW_SPARSE_SHARE = 0.15
_PROMINENCE_SHARE, _PROMINENCE_ERRORS, _MAX_ERROR = 0.05, 5.0, 0.1
_SETTLED_S = 120.0
_NOISE_READINGS = 200
_CERTAIN_ERROR, _CERTAIN_ERROR_V = 0.02, 0.005

_RESOLUTIONS_V = (0.01, 0.005, 0.001, 0.0005, 0.0001)
_FEW = 30  # fewer products are no average


@dataclass(frozen=True, slots=True)
class Peak:
    """A maximum of dQ/dV.

    Attributes:
        voltage_v: where it is, V.
        voltage_error_v: how far off that may be, V.
        dq_dv_ah_per_v: its height, Ah/V.
        dq_dv_error_ah_per_v: how far off that may be, Ah/V.
        prominence_ah_per_v: how far it stands above the way to anything higher, Ah/V.
        area_ah: charge between the valleys on both sides of it, Ah.
        is_certain: whether both errors are small, and the noise that they come from is known.
    """

    voltage_v: float
    voltage_error_v: float
    dq_dv_ah_per_v: float
    dq_dv_error_ah_per_v: float
    prominence_ah_per_v: float
    area_ah: float
    is_certain: bool


@dataclass(frozen=True, slots=True)
class Peaks:
    """The highest peak of a cycle's charge and of its discharge; None where none is known."""

    charge: Peak | None
    discharge: Peak | None


class _Stage(NamedTuple):
    """A stretch of constant current, as knots: readings that repeat the voltage are one.

    Attributes:
        charge_ah: in the middle of each knot, shape (n,), in order.
        voltage_v: of each.
        previous_ah, previous_v: of the knot before, NaN where there is none.
        distance_v: from the line between the neighbours, NaN at the ends.
        third_products: third differences times the one before, summed up in each knot; NaN where
            there are none.
        counts: how many readings each knot is; None where each is one.
        has_holes: whether knots of another current were left out between these.
    """

    charge_ah: F64
    voltage_v: F64
    previous_ah: F64
    previous_v: F64
    distance_v: F64
    third_products: F64
    counts: I64 | None
    has_holes: bool


class _Scale(NamedTuple):
    """What a stage is measured by: capacity and least charge, Ah, and noise at rest, V."""

    capacity_ah: float
    scale_ah: float
    rest_noise_v: float | None


class _Window(NamedTuple):
    """The window that the slopes of a stage are taken over.

    Attributes:
        ah: its width.
        noise_v_per_ah: of a slope over it.
        is_noise_known: whether the stage or the rests show the noise.
    """

    ah: float
    noise_v_per_ah: float
    is_noise_known: bool


class _Curve(NamedTuple):
    """Voltage and dV/dQ over the charge, at the middles of bins, shape (n,).

    Attributes:
        voltage_v, charge_ah: of the points.
        dv_dq: slope, V/Ah, above 0.
        noise: of the slope, V/Ah.
        dq_dv: Ah/V, NaN where it is not known.
    """

    voltage_v: F64
    charge_ah: F64
    dv_dq: F64
    noise: F64
    dq_dv: F64


class _Maximum(NamedTuple):
    """A peak that stands out: its place among the points, and the stretch it is judged in."""

    point: int
    left: int
    right: int
    prominence: float
    noise_share: float
    error_share: float


def peaks(
    readings: Readings, steps: Steps, capacity_ah: float, rest_noise_v: float | None
) -> Peaks:
    """The main peaks of a cycle.

    Args:
        readings: of the cycle; those before it are not used.
        steps: of the same readings.
        capacity_ah: nominal; where that is not known, the most that a step of the cell has moved.
        rest_noise_v: standard deviation of the cell's voltage at rest, V, as far as it is known.
    """
    found = []
    for direction, moved, dq in (
        (CHARGE, steps.charge_ah, readings.dq_charge_ah),
        (DISCHARGE, steps.discharge_ah, readings.dq_discharge_ah),
    ):
        places = [i for i, way in enumerate(steps.directions) if way == direction]
        scale_ah = min(capacity_ah, sum(moved[i] for i in places))
        scale = _Scale(capacity_ah, scale_ah, rest_noise_v)
        best: Peak | None = None
        for i in places:
            if moved[i] < _STAGE_MIN_SHARE * capacity_ah or _is_held(readings, steps, i):
                continue
            for stage in _stages(readings, steps, i, dq, capacity_ah):
                for peak in _peaks_of(stage, scale, direction):
                    if best is None or peak.dq_dv_ah_per_v > best.dq_dv_ah_per_v:
                        best = peak
        found.append(best)
    return Peaks(*found)


def _is_held(readings: Readings, steps: Steps, step: int) -> bool:
    """Whether a step only holds the voltage; one without a number may hold all stages of a charge."""
    numbered = readings.is_numbered
    start, end = steps.bounds[step], steps.bounds[step + 1]
    if numbered is not None and not numbered[start:end].any():
        return False
    return holds_voltage(readings, steps, step)


# Stages --------------------------------------------------------------------------------------


def _stages(
    readings: Readings, steps: Steps, step: int, dq_ah: F64, capacity_ah: float
) -> Iterator[_Stage]:
    """The stretches of constant current of a step that move enough charge."""
    start, end = steps.bounds[step], steps.bounds[step + 1]
    current, volts = readings.current_a[start:end], readings.voltage_v[start:end]
    charge = dq_ah[start:end].cumsum()
    delta = readings.time_delta_s[start:end]
    if math.isnan(delta[0]):  # a test's first reading
        delta = delta.copy()
        delta[0] = 0.0
    elapsed = delta.cumsum()
    size = np.abs(current)
    jumps = np.abs(current[1:] - current[:-1]) > _CURRENT_TOLERANCE * steps.largest_a(step)
    least_ah = _STAGE_MIN_SHARE * capacity_ah
    begins = [0]
    ends = [end - start]
    if jumps.any():
        places = np.flatnonzero(jumps) + 1
        begin, stop = np.concatenate(([0], places)), np.append(places, end - start)
        long = charge[stop - 1] - charge[begin] >= least_ah
        begins, ends = begin[long].tolist(), stop[long].tolist()
    for a, b in zip(begins, ends, strict=True):
        # What the voltage does in a stage's first minutes is the answer to the change of current.
        settled = elapsed[a:b] - elapsed[a] >= _SETTLED_S
        first = a + int(settled.argmax())
        if not settled[first - a]:
            continue
        stage = _stage(volts, charge, size, first, b, least_ah)
        if stage is not None:
            yield stage


def _stage(
    volts: F64, charge: F64, size: F64, first: int, end: int, least_ah: float
) -> _Stage | None:
    """The knots of constant current among the readings `first` to `end` of a step."""
    lead = min(first, 4)
    thirds = _thirds(volts[first - lead : end])
    products = np.full(end - first, np.nan)
    if len(thirds) > 1:
        products[4 - lead :] = thirds[1:] * thirds[:-1]
    v, q, low = volts[first:end], charge[first:end], size[first:end]
    changes = v[1:] != v[:-1]
    counts: I64 | None = None
    high = low
    if not changes.all():
        starts = np.concatenate(([0], np.flatnonzero(changes) + 1))
        counts = np.diff(starts, append=len(v))
        q = 0.5 * (q[starts] + q[starts + counts - 1])
        v = v[starts]
        high, low = np.maximum.reduceat(low, starts), np.minimum.reduceat(low, starts)
        products = _sums(products, starts)
    n = len(v)
    # Only the constant current: not the voltage being held after it.
    constant = low >= (1.0 - _CURRENT_TOLERANCE) * high.max()
    places = np.flatnonzero(constant)
    kept: slice | I64
    has_holes = int(places[-1]) - int(places[0]) + 1 != len(places)
    kept = places if has_holes else slice(int(places[0]), int(places[-1]) + 1)
    if q[places[-1]] - q[places[0]] < least_ah:
        return None
    distance = np.full(n, np.nan)
    before_q, before_v = np.empty(n), np.empty(n)
    before_q[0] = before_v[0] = np.nan
    before_q[1:], before_v[1:] = q[:-1], v[:-1]
    if n > 2:
        step = q[1:] - q[:-1]
        across = q[2:] - q[:-2]
        with np.errstate(divide="ignore", invalid="ignore"):
            distance[1:-1] = v[1:-1] - (v[:-2] * step[1:] + v[2:] * step[:-1]) / across
        distance[~np.isfinite(distance)] = np.nan
    return _Stage(
        q[kept],
        v[kept],
        before_q[kept],
        before_v[kept],
        distance[kept],
        products[kept],
        None if counts is None else counts[kept],
        has_holes,
    )


def _thirds(volts: F64) -> F64:
    """Third differences, shape (n − 3,)."""
    return volts[3:] - 3.0 * volts[2:-1] + 3.0 * volts[1:-2] - volts[:-3]


def _sums(values: F64, starts: I64) -> F64:
    """The sum of what is known in each part; NaN where nothing is."""
    unknown = np.isnan(values)
    if not unknown.any():
        return np.add.reduceat(values, starts)
    sums = np.add.reduceat(np.where(unknown, 0.0, values), starts)
    sums[np.logical_and.reduceat(unknown, starts)] = np.nan
    return sums


# The window ------------------------------------------------------------------------------------


def _window(stage: _Stage, scale: _Scale) -> _Window | None:
    """As wide as the noise of the voltage asks for; None where no window shows the curve."""
    q, v = stage.charge_ah, stage.voltage_v
    knots = len(q)
    readings = knots if stage.counts is None else int(stage.counts.sum())
    span = float(q[-1] - q[0])
    scale_ah = scale.scale_ah
    # The interval that a point of the charge falls into, on average; no gap that no window is wide
    # enough for.
    widths = q - stage.previous_ah
    bridged = widths[widths <= scale_ah * _WINDOW_SPARSE_SHARE / _WINDOW_INTERVALS]
    sampling, longest = span, math.inf
    if len(bridged):
        whole = float(bridged.sum())
        sampling = float(np.dot(bridged, bridged)) / whole if whole else span
        longest = float(bridged.max())
    position = (q - q[0]) / span if span else np.full(knots, np.nan)
    early, low, late = position.searchsorted((0.05, 0.1, 0.85)).tolist()
    early_end, high, late_end = position.searchsorted((0.15, 0.9, 0.95), side="right").tolist()
    resolution = _resolution_v(v)
    noise = math.sqrt(
        max(
            _shown_variance_v2(stage, low, high, readings),
            (scale.rest_noise_v or 0.0) ** 2,
            # rounding is noise as far as the readings do not show where its steps lie
            (resolution * knots / readings) ** 2 / 12.0,
        )
    )
    rise_v, rise_ah = float(v[-1] - v[0]), span
    if early_end > early and late_end > late:
        apart = float(q[late:late_end].mean() - q[early:early_end].mean())
        if apart:
            rise_v = float(v[late:late_end].mean() - v[early:early_end].mean())
            rise_ah = apart
    # plateaus are about half as steep as the curve is on average
    plateau = 0.5 * abs(rise_v / rise_ah) if rise_ah else 0.0
    if not plateau:
        return None
    # The slope of a line through voltages spaced d over a window w has the variance 12 s² d / w³.
    variance = 12.0 * noise * noise * (span / (knots - 1))
    wanted = math.cbrt(variance / (_SLOPE_ERROR * plateau) ** 2)
    is_flat = 2.0 * plateau * scale_ah < _FLAT_SPAN_V
    widest = (_WINDOW_MAX_SHARE_FLAT if is_flat else _WINDOW_MAX_SHARE) * scale_ah
    width = max(
        min(max(_WINDOW_MIN_SHARE * scale_ah, wanted), widest),
        _WINDOW_INTERVALS * sampling,
        # the longest interval has to fit into it too, unless it is an odd one
        min(1.5 * longest, 4.0 * sampling),
    )
    if width > _WINDOW_SPARSE_SHARE * scale_ah or span < 2.0 * width:
        return None
    is_known = scale.rest_noise_v is not None or readings >= _NOISE_READINGS
    return _Window(width, math.sqrt(variance / width**3), is_known)


def _shown_variance_v2(stage: _Stage, low: int, high: int, readings: int) -> float:
    """The variance of the voltage's noise that the knots `low` to `high` show, V²; or 0.

    The least of three. Each is too high where it does not apply: the knots' where noise was rounded,
    for two knots never have the same voltage; the readings' where their spacing is uneven; both where
    the curve has sharp steps, the median where the readings are sparse.
    """
    # How the distance from the line between the neighbours changes has little left of the curve.
    change = stage.distance_v[1:] - stage.distance_v[:-1]
    second = max(low, 2)
    products = _known(change[second - 1 : high - 1] * change[second - 2 : high - 2])
    by_knots = -float(products.mean()) / 3.75 if len(products) >= _FEW else None
    thirds = _known(stage.third_products[low:high])
    by_readings = None
    if len(thirds) >= _FEW:
        inside = high - low if stage.counts is None else int(stage.counts[low:high].sum())
        mean = -float(thirds.sum()) / inside / 15.0
        by_readings = mean * len(stage.charge_ah) / readings
    changes = np.abs(_known(change[max(low, 1) - 1 : high - 1]))
    by_median = 0.0
    if len(changes):
        middle = len(changes) // 2
        changes.partition((middle - 1, middle) if len(changes) % 2 == 0 else middle)
        median = float(changes[middle])
        if len(changes) % 2 == 0:
            median = 0.5 * (median + float(changes[middle - 1]))
        by_median = (median / 1.508) ** 2
    if by_knots is None and by_readings is None:
        return 0.0
    return min(x for x in (by_knots, by_readings, by_median) if x is not None)


def _known(values: F64) -> F64:
    unknown = np.isnan(values)
    return values[~unknown] if unknown.any() else values


def _resolution_v(volts: F64) -> float:
    """The coarsest round step that all voltages are multiples of; 0 for none of them."""
    first = float(volts[0])
    for resolution in _RESOLUTIONS_V:
        part = first / resolution
        if abs(part - round(part)) < 1e-3:
            parts = volts / resolution
            if np.abs(parts - np.rint(parts)).max() < 1e-3:
                return resolution
    return 0.0


# The curve -------------------------------------------------------------------------------------


def _curve(stage: _Stage, window: _Window, direction: int) -> _Curve | None:
    """dV/dQ: the slopes of parabolas through five bins of a window; None without one."""
    q, v = stage.charge_ah, stage.voltage_v
    bin_ah = window.ah / 5.0
    # Charge in bins from here on.
    position = (q - q[0]) / bin_ah
    widths = q - stage.previous_ah
    energy = 0.5 * (v + stage.previous_v) * widths
    begins = math.isnan(energy[0])
    if begins:
        energy[0] = 0.0
        first_edge = 0
    else:
        first_edge = math.floor((float(stage.previous_ah[0]) - float(q[0])) / bin_ah) + 1
    edges = np.arange(first_edge, math.floor(position[-1]) + 1)
    knot = position.searchsorted(edges)
    if stage.has_holes:
        inside = ~((stage.previous_ah[knot] - q[0]) / bin_ah >= edges)
        edges, knot = edges[inside], knot[inside]
    if len(edges) < 6:
        return None
    # The voltage's integral at the edges of the bins: exact for straight lines between readings.
    width = widths[knot] / bin_ah
    v_knot = v[knot]
    rise = (v_knot - stage.previous_v[knot]) / width
    if begins:
        rise[0] = width[0] = 0.0
    behind = position[knot] - edges
    integral = energy.cumsum()[knot] / bin_ah - behind * (v_knot - 0.5 * behind * rise)
    volts = integral[1:] - integral[:-1]
    two_before, before, here, after, two_after = (
        volts[:-4], volts[1:-3], volts[2:-2], volts[3:-1], volts[4:],
    )  # fmt: skip
    # Savitzky and Golay.
    smooth = (17.0 * here + 12.0 * (before + after) - 3.0 * (two_before + two_after)) / 35.0
    slope = (after - before + 2.0 * (two_after - two_before)) / 10.0
    n = len(slope)
    left = here - smooth
    # what is left of the bins' voltages; a parabola takes 17 of 35 parts of it
    sums = np.convolve(left * left, np.ones(5))[2 : n + 2]
    residual = sums / _neighbours(n) * (35.0 / 18.0)
    dv_dq = slope * (direction / bin_ah)
    noise = np.maximum(np.sqrt(residual / 10.0) / bin_ah, window.noise_v_per_ah)
    known = dv_dq > 3.0 * noise
    if width.max() > 3.5:
        # the longest interval that the bins of the window take their voltage from
        wide = np.maximum(width[1:], width[:-1])
        pairs = np.maximum(wide[1:], wide[:-1])
        fours = np.maximum(pairs[2:], pairs[:-2])
        known &= np.maximum(fours[:-1], wide[4:]) <= 3.5
    dq_dv = np.full(n, np.nan)
    np.divide(1.0, dv_dq, out=dq_dv, where=known)
    return _Curve(smooth, q[0] + (edges[3:-2] - 0.5) * bin_ah, dv_dq, noise, dq_dv)


def _neighbours(n: int) -> F64:
    """How many of n points are at most two from each."""
    if n < 5:
        return np.convolve(np.ones(n), np.ones(5))[2 : n + 2]
    out = np.full(n, 5.0)
    out[0] = out[-1] = 3.0
    out[1] = out[-2] = 4.0
    return out


# Peaks -----------------------------------------------------------------------------------------


def _peaks_of(stage: _Stage, scale: _Scale, direction: int) -> Iterator[Peak]:
    """The peaks of a stage that stand out."""
    window = _window(stage, scale)
    curve = None if window is None else _curve(stage, window, direction)
    if window is None or curve is None:
        return
    height = curve.dq_dv
    # Edges of the curve, and of what is known of it, are no peaks: they lack a neighbour.
    maxima = np.flatnonzero((height[1:-1] > height[:-2]) & (height[1:-1] >= height[2:])) + 1
    if not len(maxima):
        return
    known = ~np.isnan(height)
    islands: list[tuple[int, int]] = [(0, len(height))]
    if not known.all():
        edges = np.flatnonzero(np.diff(known, prepend=False, append=False)).tolist()
        islands = list(zip(edges[::2], edges[1::2], strict=True))
    for start, end in islands:
        inside = [m for m in maxima.tolist() if start <= m < end]
        if inside:
            for maximum in _chosen(curve, inside, start, end):
                yield _refined(curve, window, maximum)


def _chosen(curve: _Curve, maxima: list[int], start: int, end: int) -> list[_Maximum]:
    """The maxima of a stretch of known points that stand out, and the valleys around each."""
    height = curve.dq_dv
    heights = height[maxima].tolist()
    out: list[_Maximum] = []
    reach: list[tuple[int, int]] = []
    for j, (point, top) in enumerate(zip(maxima, heights, strict=True)):
        noise_share = float(curve.noise[point]) / float(curve.dv_dq[point])
        error_share = _error_share(curve, point)
        if error_share > _MAX_ERROR:
            continue
        left = next((maxima[i] for i in range(j - 1, -1, -1) if heights[i] >= top), start)
        right = next((maxima[i] for i in range(j + 1, len(maxima)) if heights[i] > top), end)
        valley = max(height[left:point].min(), height[point:right].min())
        prominence = top - float(valley)
        if prominence >= top * max(_PROMINENCE_SHARE, _PROMINENCE_ERRORS * noise_share):
            out.append(_Maximum(point, left, right, prominence, noise_share, error_share))
            reach.append((left, right))
    # From the valley before a peak to the one after it: the lowest points between it and the next
    # peaks or anything higher, or the edges of the curve.
    for i, maximum in enumerate(out):
        left, right = reach[i]
        if i:
            left = max(left, out[i - 1].point)
        if i + 1 < len(out):
            right = min(right, out[i + 1].point)
        point = maximum.point
        out[i] = maximum._replace(
            left=left + int(height[left:point].argmin()),
            right=point + int(height[point:right].argmin()),
        )
    return out


def _error_share(curve: _Curve, point: int) -> float:
    """The error of dQ/dV at a point, as a share of it."""
    slope = curve.dv_dq
    bias = 0.0
    # Where the slope bends, its mean over the window is off by its second derivative times
    # (17/5 / 6 + 1/24) bins squared; from slopes two bins apart.
    if 2 <= point < len(slope) - 2:
        bias = 0.152 * float(slope[point - 2] + slope[point + 2] - 2.0 * slope[point])
    noise2 = float(curve.noise[point]) ** 2
    # the bias has noise of its own, about a third of the slope's
    error = math.sqrt(noise2 + max(bias * bias - 0.44 * noise2, 0.0))
    return error / float(slope[point])


class _Top(NamedTuple):
    """The lowest dV/dQ of a peak, V/Ah, and the voltage there, V."""

    lowest: float
    voltage_v: float


def _refined(curve: _Curve, window: _Window, maximum: _Maximum) -> Peak:
    """A peak with its height and place between the points."""
    point, first, last = maximum.point, maximum.left, maximum.right
    height = curve.dq_dv[first : last + 1]
    top = float(curve.dq_dv[point])
    # as high as the highest one within the error, and of these within the noise
    near = height >= top * (1.0 - 3.0 * maximum.error_share)
    volts = curve.voltage_v[first : last + 1]
    near_v = volts[near]
    is_top = near & (height >= top * (1.0 - 2.0 * maximum.noise_share))
    refined = None
    if np.count_nonzero(is_top) >= 5:
        offsets = np.flatnonzero(is_top) + float(first - point)
        refined = _broad(offsets, volts[is_top], curve.dv_dq[first : last + 1][is_top])
    before_v, after_v = float(curve.voltage_v[point - 1]), float(curve.voltage_v[point + 1])
    across_v = after_v - before_v
    if refined is None:
        refined = _narrow(curve, point, across_v)
    value = 1.0 / refined.lowest
    error = maximum.error_share / refined.lowest
    error_v = 0.5 * float(near_v.max() - near_v.min()) + 0.125 * abs(across_v)
    return Peak(
        refined.voltage_v,
        error_v,
        value,
        error,
        maximum.prominence,
        float(curve.charge_ah[last] - curve.charge_ah[first]),
        window.is_noise_known
        and error_v <= _CERTAIN_ERROR_V
        and error <= _CERTAIN_ERROR * value,
    )


def _broad(offsets: F64, volts: F64, slopes: F64) -> _Top:
    """The lowest point of the parabola through a top; of a top without one, its mean."""
    n = float(len(offsets))
    u = offsets - offsets.mean()
    squares = u * u
    u2, u3, u4 = float(squares.sum()), float((squares * u).sum()), float(np.dot(squares, squares))
    s, us, u2s = float(slopes.sum()), float(np.dot(u, slopes)), float(np.dot(squares, slopes))
    below = n * u4 - u2 * u2 - n * u3 * u3 / u2
    bend = (n * u2s - u2 * s - n * u3 * us / u2) / below if below else 0.0
    lowest, vertex = s / n, 0.0
    if bend > 0.0:
        slope = (us - bend * u3) / u2
        if abs(slope) / (2.0 * bend) <= 0.5 * float(offsets[-1] - offsets[0]):
            vertex = -slope / (2.0 * bend)
            lowest = (s - bend * u2) / n + 0.5 * slope * vertex
    return _Top(lowest, float(volts.mean()) + vertex * float(np.dot(u, volts)) / u2)


def _narrow(curve: _Curve, point: int, across_v: float) -> _Top:
    """The lowest point of the parabola through the highest point and its neighbours."""
    before, here, after = curve.dv_dq[point - 1 : point + 2].tolist()
    bend = before + after - 2.0 * here
    return _Top(
        here - (after - before) ** 2 / (8.0 * bend),
        float(curve.voltage_v[point]) + 0.25 * across_v * (before - after) / bend,
    )
