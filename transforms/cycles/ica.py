"""The main peaks of dQ/dV of a cycle, in charge and in discharge; as battery_ica and battery_ica_peaks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
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
# So many cycles at a time: their columns stay in the processor's cache.
_TOGETHER = 64


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


class Asked(NamedTuple):
    """A cycle whose peaks are asked for.

    Attributes:
        readings: of the cycle; those before it are not used.
        steps: of the same readings.
        capacity_ah: nominal; where that is not known, the most that a step of the cell has moved.
        rest_noise_v: standard deviation of the cell's voltage at rest, V, as far as it is known.
    """

    readings: Readings
    steps: Steps
    capacity_ah: float
    rest_noise_v: float | None


class _Part(NamedTuple):
    """A step that may hold stages: its readings as columns, and what it is measured by."""

    volts: F64
    current: F64
    charge: F64
    elapsed: F64
    cycle: int
    direction: int
    largest_a: float
    least_ah: float
    scale_ah: float
    rest_noise_v: float


class _Stages(NamedTuple):
    """Stretches of constant current, one after the other, as knots: readings that repeat the voltage.

    Attributes:
        starts: place of each stage's first knot, shape (s,).
        sizes: how many knots it has, shape (s,).
        part: the step that it is a stretch of, shape (s,).
        charge_ah: in the middle of each knot, shape (n,), rising within a stage.
        voltage_v: of each.
        previous_ah, previous_v: of the knot before; NaN where there is none.
        distance_v: from the line between the neighbours; NaN where one is missing.
        third_products: third differences times the one before, summed up in each knot; NaN where
            there are none.
        counts: how many readings each knot is.
    """

    starts: I64
    sizes: I64
    part: I64
    charge_ah: F64
    voltage_v: F64
    previous_ah: F64
    previous_v: F64
    distance_v: F64
    third_products: F64
    counts: I64


class _Windows(NamedTuple):
    """The window that the slopes of each stage are taken over, shape (s,).

    Attributes:
        ah: its width; NaN where no window shows the curve.
        noise_v_per_ah: of a slope over it.
        is_noise_known: whether the stage or the rests show the noise.
    """

    ah: F64
    noise_v_per_ah: F64
    is_noise_known: Mask


class _Curves(NamedTuple):
    """Voltage and dV/dQ over the charge, at the middles of bins, shape (n,): stage after stage.

    Between two stages lie at least five points of which nothing is known.

    Attributes:
        stage: of each point.
        voltage_v, charge_ah: of the points.
        dv_dq: slope, V/Ah, above 0; NaN where there is none.
        noise: of the slope, V/Ah.
        dq_dv: Ah/V, NaN where it is not known.
    """

    stage: I64
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
    """The main peaks of a cycle; see Asked."""
    return peaks_of([Asked(readings, steps, capacity_ah, rest_noise_v)])[0]


def peaks_of(cycles: Sequence[Asked]) -> list[Peaks]:
    """The main peaks of each of several cycles: the same figures as one by one, for less.

    All stages of so many cycles are computed together, because most of what one cycle costs is the
    calls and not the readings.
    """
    out: list[Peaks] = []
    for low in range(0, len(cycles), _TOGETHER):
        out += _together(cycles[low : low + _TOGETHER])
    return out


def _together(cycles: Sequence[Asked]) -> list[Peaks]:
    parts = [part for i, cycle in enumerate(cycles) for part in _parts(i, cycle)]
    best: dict[tuple[int, int], Peak] = {}
    stages = _stages(parts) if parts else None
    if stages is not None:
        scales = np.array([part[5:] for part in parts])[stages.part]
        windows = _windows(stages, scale_ah=scales[:, 3], rest_noise_v=scales[:, 4])
        curves = _curves(stages, windows, scales[:, 0])
        for maximum in _maxima(curves):
            stage = int(curves.stage[maximum.point])
            part = parts[stages.part[stage]]
            peak = _refined(curves, bool(windows.is_noise_known[stage]), maximum)
            key = part.cycle, part.direction
            if key not in best or peak.dq_dv_ah_per_v > best[key].dq_dv_ah_per_v:
                best[key] = peak
    return [Peaks(best.get((i, CHARGE)), best.get((i, DISCHARGE))) for i in range(len(cycles))]


# Stages --------------------------------------------------------------------------------------


def _parts(number: int, cycle: Asked) -> Iterator[_Part]:
    """The steps of a cycle that move enough charge, and do not only hold the voltage."""
    readings, steps, capacity_ah, rest_noise_v = cycle
    least_ah = _STAGE_MIN_SHARE * capacity_ah
    for direction, moved, dq in (
        (CHARGE, steps.charge_ah, readings.dq_charge_ah),
        (DISCHARGE, steps.discharge_ah, readings.dq_discharge_ah),
    ):
        places = [i for i, way in enumerate(steps.directions) if way == direction]
        scale_ah = min(capacity_ah, sum(moved[i] for i in places))
        for i in places:
            if moved[i] < least_ah or _is_held(readings, steps, i):
                continue
            start, end = steps.bounds[i], steps.bounds[i + 1]
            delta = readings.time_delta_s[start:end]
            if math.isnan(delta[0]):  # a test's first reading
                delta = delta.copy()
                delta[0] = 0.0
            yield _Part(
                readings.voltage_v[start:end],
                readings.current_a[start:end],
                dq[start:end].cumsum(),
                delta.cumsum(),
                number,
                direction,
                steps.largest_a(i),
                least_ah,
                scale_ah,
                math.nan if rest_noise_v is None else rest_noise_v,
            )


def _is_held(readings: Readings, steps: Steps, step: int) -> bool:
    """Whether a step only holds the voltage; one without a number may hold all stages of a charge."""
    if not holds_voltage(readings, steps, step):
        return False
    numbered = readings.is_numbered
    return numbered is None or bool(numbered[steps.bounds[step] : steps.bounds[step + 1]].any())


def _stages(parts: list[_Part]) -> _Stages | None:
    """The stretches of constant current that move enough charge; None without one."""
    sizes = np.array([len(part.volts) for part in parts])
    ends = sizes.cumsum()
    begins = ends - sizes
    volts, current, charge, elapsed = (
        columns[0] if len(columns) == 1 else np.concatenate(columns)
        for columns in list(zip(*parts, strict=True))[:4]
    )
    largest = np.array([part.largest_a for part in parts])
    # Another constant current: a stage of its own, whether or not it has a step of its own.
    begun = np.empty(len(volts), dtype=bool)
    np.greater(
        np.abs(current[1:] - current[:-1]),
        np.repeat(_CURRENT_TOLERANCE * largest, sizes)[1:],
        out=begun[1:],
    )
    begun[begins] = True
    first = np.flatnonzero(begun)
    last = np.append(first[1:], len(volts))
    part = ends.searchsorted(first, side="right")
    least = np.array([one.least_ah for one in parts])
    long = charge[last - 1] - charge[first] >= least[part]
    if not long.any():
        return None
    if not long.all():
        first, last, part = first[long], last[long], part[long]
    # What the voltage does in a stage's first minutes is the answer to the change of current.
    stage = np.repeat(np.arange(len(first)), last - first)
    rows = _ranges(first, last)
    settled = elapsed[rows] - elapsed[first][stage] >= _SETTLED_S
    rows, stage = rows[settled], stage[settled]
    if not len(rows):
        return None
    return _knots(volts, np.abs(current), charge, rows, stage, part, begins, least)


def _ranges(first: I64, last: I64) -> I64:
    """The whole numbers of several ranges, one after the other."""
    sizes = last - first
    ends = sizes.cumsum()
    return np.asarray(np.arange(ends[-1]) + np.repeat(first - ends + sizes, sizes))


def _knots(
    volts: F64,
    size: F64,
    charge: F64,
    rows: I64,
    stage: I64,
    part: I64,
    begins: I64,
    least: F64,
) -> _Stages | None:
    """The knots of constant current among the rows that count."""
    thirds = np.zeros(len(volts))
    thirds[3:] = volts[3:] - 3.0 * volts[2:-1] + 3.0 * volts[1:-2] - volts[:-3]
    products = (thirds[1:] * thirds[:-1])[rows - 1]
    early = rows - begins[part][stage] < 4
    if early.any():
        products[early] = np.nan
    v, q, low = volts[rows], charge[rows], size[rows]
    high = low
    new = np.empty(len(rows), dtype=bool)
    new[0] = True
    np.not_equal(stage[1:], stage[:-1], out=new[1:])
    new[1:] |= v[1:] != v[:-1]
    counts = np.ones(len(rows), dtype=np.int64)
    if not new.all():
        # Readings that repeat the voltage are one reading in their middle: where the voltage has
        # coarse steps, it has its rounded value there.
        starts = np.flatnonzero(new)
        counts = np.diff(starts, append=len(v))
        q = 0.5 * (q[starts] + q[starts + counts - 1])
        v, stage = v[starts], stage[starts]
        high, low = np.maximum.reduceat(low, starts), np.minimum.reduceat(low, starts)
        products = _sums(products, starts)
    new = stage[1:] != stage[:-1]
    starts = np.concatenate(([0], np.flatnonzero(new) + 1))
    before_q, before_v = np.empty(len(v)), np.empty(len(v))
    before_q[1:], before_v[1:] = q[:-1], v[:-1]
    before_q[starts] = before_v[starts] = np.nan
    distance = np.full(len(v), np.nan)
    if len(v) > 2:
        step = q[1:] - q[:-1]
        with np.errstate(divide="ignore", invalid="ignore"):
            distance[1:-1] = v[1:-1] - (v[:-2] * step[1:] + v[2:] * step[:-1]) / (q[2:] - q[:-2])
        distance[np.isinf(distance)] = np.nan
        distance[starts] = np.nan
        distance[starts[1:] - 1] = np.nan
    # Only the constant current: not the voltage being held after it.
    sizes = np.diff(starts, append=len(v))
    most = np.maximum.reduceat(high, starts)
    constant = low >= np.repeat((1.0 - _CURRENT_TOLERANCE) * most, sizes)
    if not constant.all():
        stage, q, v, counts = stage[constant], q[constant], v[constant], counts[constant]
        before_q, before_v = before_q[constant], before_v[constant]
        distance, products = distance[constant], products[constant]
        starts = np.concatenate(([0], np.flatnonzero(stage[1:] != stage[:-1]) + 1))
        sizes = np.diff(starts, append=len(v))
    # each stage by its own, and only what moves enough
    part = part[stage[starts]]
    long = q[starts + sizes - 1] - q[starts] >= least[part]
    if not long.any():
        return None
    if not long.all():
        kept = np.repeat(long, sizes)
        q, v, counts, before_q, before_v = (
            q[kept],
            v[kept],
            counts[kept],
            before_q[kept],
            before_v[kept],
        )
        distance, products = distance[kept], products[kept]
        sizes, part = sizes[long], part[long]
        starts = sizes.cumsum() - sizes
    return _Stages(starts, sizes, part, q, v, before_q, before_v, distance, products, counts)


def _sums(values: F64, starts: I64) -> F64:
    """The sum of what is known in each stretch; NaN where nothing is."""
    unknown = np.isnan(values)
    if not unknown.any():
        return np.add.reduceat(values, starts)
    sums = np.add.reduceat(np.where(unknown, 0.0, values), starts)
    sums[np.logical_and.reduceat(unknown, starts)] = np.nan
    return sums


# The window ------------------------------------------------------------------------------------


def _windows(stages: _Stages, scale_ah: F64, rest_noise_v: F64) -> _Windows:
    """As wide as the noise of the voltage asks for.

    Args:
        stages: whose windows are wanted.
        scale_ah: what the cycle of each moves in its direction, or the capacity if that is less, Ah.
        rest_noise_v: of its cell; NaN where it is not known.
    """
    starts, sizes = stages.starts, stages.sizes
    q, v = stages.charge_ah, stages.voltage_v
    first, last = starts, starts + sizes - 1
    readings = np.add.reduceat(stages.counts, starts)
    span = q[last] - q[first]
    # The interval that a point of the charge falls into, on average; no gap that no window is wide
    # enough for.
    widths = q - stages.previous_ah
    most = scale_ah * (_WINDOW_SPARSE_SHARE / _WINDOW_INTERVALS)
    with np.errstate(divide="ignore", invalid="ignore"):
        bridged = np.where(widths <= np.repeat(most, sizes), widths, 0.0)
        sampling = np.add.reduceat(bridged * bridged, starts) / np.add.reduceat(bridged, starts)
        longest = np.maximum.reduceat(bridged, starts)
        longest[longest == 0.0] = np.inf
        sampling = np.where(np.isnan(sampling), span, sampling)
        position = (q - np.repeat(q[first], sizes)) / np.repeat(span, sizes)
        variance = _shown_variance_v2(stages, position, readings)
        resolution = np.array(
            [
                _resolution_v(v[a : b + 1])
                for a, b in zip(first.tolist(), last.tolist(), strict=True)
            ]
        )
        # readings that are far apart do not show their noise; those at rest do
        variance = np.fmax(variance, rest_noise_v**2)
        # rounding is noise as far as the readings do not show where its steps lie
        variance = np.maximum(variance, (resolution * sizes / readings) ** 2 / 12.0)
        # plateaus are about half as steep as the curve is on average
        plateau = 0.5 * _mean_slope(stages, position, span)
        # The slope of a line through voltages spaced d over a window w has the variance 12 s² d / w³.
        variance *= 12.0 * (span / (sizes - 1))
        wanted = np.cbrt(variance / (_SLOPE_ERROR * plateau) ** 2)
        is_flat = 2.0 * plateau * scale_ah < _FLAT_SPAN_V
        widest = np.where(is_flat, _WINDOW_MAX_SHARE_FLAT, _WINDOW_MAX_SHARE) * scale_ah
        width = np.minimum(np.maximum(_WINDOW_MIN_SHARE * scale_ah, wanted), widest)
        width = np.maximum(width, _WINDOW_INTERVALS * sampling)
        # the longest interval has to fit into it too, unless it is an odd one
        width = np.maximum(width, np.minimum(1.5 * longest, 4.0 * sampling))
        shows = (plateau > 0.0) & (width <= _WINDOW_SPARSE_SHARE * scale_ah) & (span >= 2.0 * width)
        width = np.where(shows, width, np.nan)
        is_known = ~np.isnan(rest_noise_v) | (readings >= _NOISE_READINGS)
        return _Windows(width, np.sqrt(variance / width**3), is_known)


def _mean_slope(stages: _Stages, position: F64, span: F64) -> F64:
    """How steep each stage is on average, V/Ah, without its ends where there are enough knots."""
    starts = stages.starts
    q, v = stages.charge_ah, stages.voltage_v
    means = []
    for low, high in ((0.05, 0.15), (0.85, 0.95)):
        inside = ((position >= low) & (position <= high)).astype(np.float64)
        n = np.add.reduceat(inside, starts)
        means.append(
            (np.add.reduceat(inside * v, starts) / n, np.add.reduceat(inside * q, starts) / n)
        )
    (early_v, early_ah), (late_v, late_ah) = means
    slope = (late_v - early_v) / (late_ah - early_ah)
    whole = (v[starts + stages.sizes - 1] - v[starts]) / span
    return np.abs(np.where(np.isfinite(slope), slope, whole))


def _shown_variance_v2(stages: _Stages, position: F64, readings: I64) -> F64:
    """The variance of the voltage's noise that the knots of each stage show, V²; or 0.

    The least of three. Each is too high where it does not apply: the knots' where noise was rounded,
    for two knots never have the same voltage; the readings' where their spacing is uneven; both where
    the curve has sharp steps, the median where the readings are sparse.
    """
    starts, counts = stages.starts, stages.counts
    # The ends bend too much. Where readings are so regular that one stands at exactly a tenth of the
    # charge, rounding decides, here and in the models: the figures then differ by the noise's error.
    inside = (position >= 0.1) & (position <= 0.9)
    # How the distance from the line between the neighbours changes has little left of the curve.
    change = np.empty(len(position))
    change[1:] = stages.distance_v[1:] - stages.distance_v[:-1]
    change[starts] = np.nan
    products = np.empty(len(position))
    products[1:] = change[1:] * change[:-1]
    products[0] = np.nan
    n, total = _known_sums(products, inside, starts)
    by_knots = np.where(n >= _FEW, -total / n / 3.75, np.nan)
    n, total = _known_sums(stages.third_products, inside, starts)
    by_readings = -total / np.add.reduceat(np.where(inside, counts, 0), starts) / 15.0
    by_readings = np.where(n >= _FEW, by_readings * stages.sizes / readings, np.nan)
    known = inside & ~np.isnan(change)
    ends = np.add.reduceat(known, starts, dtype=np.int64).cumsum().tolist()
    changes = np.abs(change[known])
    medians = np.array([_median(changes[a:b]) for a, b in zip([0, *ends[:-1]], ends, strict=True)])
    shown = np.fmin(by_knots, by_readings)
    return np.where(np.isnan(shown), 0.0, np.minimum(shown, (medians / 1.508) ** 2))


def _known_sums(values: F64, inside: Mask, starts: I64) -> tuple[F64, F64]:
    """Of each stage: how many values inside are known, and their sum."""
    known = inside & ~np.isnan(values)
    return (
        np.add.reduceat(known, starts, dtype=np.float64),
        np.add.reduceat(np.where(known, values, 0.0), starts),
    )


def _median(values: F64) -> float:
    """The median; 0 of nothing. The values are reordered."""
    n = len(values)
    if not n:
        return 0.0
    middle = n // 2
    values.partition(middle)
    upper = float(values[middle])
    return upper if n % 2 else 0.5 * (upper + float(values[:middle].max()))


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


def _curves(stages: _Stages, windows: _Windows, directions: F64) -> _Curves:
    """dV/dQ: the slopes of parabolas through five bins of a window."""
    first, sizes = stages.starts, stages.sizes
    q, v = stages.charge_ah, stages.voltage_v
    # Charge in bins from here on; NaN where there is no window.
    bin_ah = windows.ah / 5.0
    stage = np.repeat(np.arange(len(sizes)), sizes)
    bins, start = bin_ah[stage], q[first][stage]
    position = (q - start) / bins
    last_edge = np.floor(position)
    first_edge = np.floor((stages.previous_ah - start) / bins) + 1.0
    first_edge[first[np.isnan(first_edge[first])]] = 0.0
    crossed = last_edge - first_edge + 1.0
    crossed[np.isnan(crossed)] = 0.0
    knot = np.repeat(np.arange(len(q)), crossed.astype(np.int64))
    n = len(knot)
    if n < 6:
        none = np.empty(0)
        return _Curves(np.empty(0, dtype=np.int64), none, none, none, none, none)
    ends = crossed.cumsum()
    edges = np.arange(n) + (first_edge - ends + crossed)[knot]
    stage, bins = stage[knot], bins[knot]
    # The voltage's integral between the edges of the bins: exact for straight lines between readings.
    widths = q - stages.previous_ah
    energy = np.zeros(len(q) + 1)
    energy[:-1] = 0.5 * (v + stages.previous_v) * widths
    energy[first[np.isnan(energy[first])]] = 0.0
    width = widths[knot] / bins
    rise = (v - stages.previous_v)[knot] / width
    unknown = np.isnan(width)
    rise[unknown] = width[unknown] = 0.0
    behind = position[knot] - edges
    rest = behind * (v[knot] - 0.5 * behind * rise)
    whole = np.add.reduceat(energy, knot + 1)[:-1] / bins[:-1]
    volts = np.empty(n)
    volts[1:] = np.where(knot[1:] > knot[:-1], whole, 0.0) - rest[1:] + rest[:-1]
    volts[0] = np.nan
    volts[1:][stage[1:] != stage[:-1]] = np.nan
    two_before, before, here, after, two_after = (
        volts[:-4], volts[1:-3], volts[2:-2], volts[3:-1], volts[4:],
    )  # fmt: skip
    # Savitzky and Golay.
    smooth = (17.0 * here + 12.0 * (before + after) - 3.0 * (two_before + two_after)) / 35.0
    slope = (after - before + 2.0 * (two_after - two_before)) / 10.0
    stage, edges, bins = stage[2:-2], edges[2:-2], bins[2:-2]
    left = here - smooth
    fitted = ~np.isnan(left)
    left[~fitted] = 0.0
    # what is left of the bins' voltages; a parabola takes 17 of 35 parts of it
    around = np.convolve(left * left, np.ones(5))[2 : n - 2]
    around /= np.maximum(np.convolve(fitted, np.ones(5))[2 : n - 2], 1.0)
    noise = np.maximum(np.sqrt(around * (35.0 / 18.0 / 10.0)) / bins, windows.noise_v_per_ah[stage])
    dv_dq = slope * (directions / bin_ah)[stage]
    known = dv_dq > 3.0 * noise
    if width.max() > 3.5:
        # the longest interval that the bins of the window take their voltage from
        wide = np.maximum(width[1:], width[:-1])
        pairs = np.maximum(wide[1:], wide[:-1])
        fours = np.maximum(pairs[2:], pairs[:-2])
        known[1:] &= np.maximum(fours[:-1], wide[4:]) <= 3.5
    dq_dv = np.full(len(slope), np.nan)
    np.divide(1.0, dv_dq, out=dq_dv, where=known)
    return _Curves(stage, smooth, q[first][stage] + (edges - 0.5) * bins, dv_dq, noise, dq_dv)


# Peaks -----------------------------------------------------------------------------------------


def _maxima(curves: _Curves) -> list[_Maximum]:
    """The maxima that stand out, stage by stage."""
    height = curves.dq_dv
    # Edges of the curve, and of what is known of it, are no peaks: they lack a neighbour.
    points = np.flatnonzero((height[1:-1] > height[:-2]) & (height[1:-1] >= height[2:])) + 1
    if not len(points):
        return []
    noise_shares = curves.noise[points] / curves.dv_dq[points]
    error_shares = _error_shares(curves, points, noise_shares)
    # Stretches of known points, each cut into pieces that begin with its maxima.
    known = np.zeros(len(height) + 2, dtype=bool)
    np.isfinite(height, out=known[1:-1])
    islands = np.flatnonzero(known[1:] != known[:-1])
    begins, ends = islands[::2], islands[1::2]
    pieces = np.sort(np.concatenate((begins, points)))
    valleys = np.fmin.reduceat(height, pieces)
    counted = points.searchsorted(begins), points.searchsorted(ends)
    valley_at = pieces.searchsorted(begins).tolist()
    lists = points.tolist(), height[points].tolist(), noise_shares.tolist(), error_shares.tolist()
    out: list[_Maximum] = []
    for i, (low, high) in enumerate(zip(*(x.tolist() for x in counted), strict=True)):
        if high > low:
            a, start, end = valley_at[i], int(begins[i]), int(ends[i])
            part = [column[low:high] for column in lists]
            around = valleys[a : a + high - low + 1].tolist()
            out += _chosen(height, start, end, around, *part)  # type: ignore[arg-type]
    return out


def _chosen(
    height: F64,
    start: int,
    end: int,
    valleys: list[float],
    points: list[int],
    tops: list[float],
    noise_shares: list[float],
    error_shares: list[float],
) -> list[_Maximum]:
    """The maxima of a stretch of known points that stand out, and where the valleys around are.

    Args:
        height: dQ/dV.
        start: of the stretch.
        end: of the stretch, behind its last point.
        valleys: the lowest value before the first maximum, and from each to the next or the end.
        points: places of the maxima, in order.
        tops: dQ/dV there.
        noise_shares: the noise there, as a share of it.
        error_shares: the error there, as a share of it.
    """
    out: list[_Maximum] = []
    for j, top in enumerate(tops):
        if error_shares[j] > _MAX_ERROR:
            continue
        least = top * max(_PROMINENCE_SHARE, _PROMINENCE_ERRORS * noise_shares[j])
        left, right = j - 1, j + 1
        below, above = valleys[j], valleys[j + 1]
        while left >= 0 and tops[left] < top:
            below = min(below, valleys[left])
            left -= 1
        if top - below < least:
            continue
        while right < len(tops) and tops[right] <= top:
            above = min(above, valleys[right + 1])
            right += 1
        prominence = top - max(below, above)
        if prominence >= least:
            out.append(
                _Maximum(
                    points[j],
                    points[left] if left >= 0 else start,
                    points[right] if right < len(tops) else end,
                    prominence,
                    noise_shares[j],
                    error_shares[j],
                )
            )
    # From the valley before a peak to the one after it: the lowest points between it and the next
    # peaks or anything higher, or the edges of the curve.
    bounded = []
    for i, maximum in enumerate(out):
        first = max(maximum.left, out[i - 1].point if i else start)
        last = min(maximum.right, out[i + 1].point if i + 1 < len(out) else end)
        point = maximum.point
        bounded.append(
            maximum._replace(
                left=first + int(height[first:point].argmin()),
                right=point + int(height[point:last].argmin()),
            )
        )
    return bounded


def _error_shares(curves: _Curves, points: I64, noise_shares: F64) -> F64:
    """The error of dQ/dV at each point, as a share of it."""
    slope = curves.dv_dq
    # Where the slope bends, its mean over the window is off by its second derivative times
    # (17/5 / 6 + 1/24) bins squared; from slopes two bins apart.
    padded = np.concatenate(([np.nan, np.nan], slope, [np.nan, np.nan]))
    bias = 0.152 * (padded[points] + padded[points + 4] - 2.0 * slope[points]) / slope[points]
    bias[np.isnan(bias)] = 0.0
    noise2 = noise_shares * noise_shares
    # the bias has noise of its own, about a third of the slope's
    return np.sqrt(noise2 + np.maximum(bias * bias - 0.44 * noise2, 0.0))


class _Top(NamedTuple):
    """The lowest dV/dQ of a peak, V/Ah, and the voltage there, V."""

    lowest: float
    voltage_v: float


def _refined(curves: _Curves, is_noise_known: bool, maximum: _Maximum) -> Peak:
    """A peak with its height and place between the points."""
    point, first, last = maximum.point, maximum.left, maximum.right
    top = float(curves.dq_dv[point])
    height = curves.dq_dv[first : last + 1]
    # as high as the highest one within the error, and of these within the noise
    near = np.flatnonzero(height >= top * (1.0 - 3.0 * maximum.error_share)) + first
    volts = curves.voltage_v[near].tolist()
    least = top * (1.0 - 2.0 * maximum.noise_share)
    is_top = [value >= least for value in curves.dq_dv[near].tolist()]
    before_v, here_v, after_v = curves.voltage_v[point - 1 : point + 2].tolist()
    across_v = after_v - before_v
    if sum(is_top) >= 5:
        places = near.tolist()
        offsets = [float(place - point) for place, high in zip(places, is_top, strict=True) if high]
        slopes = list(itertools.compress(curves.dv_dq[near].tolist(), is_top))
        refined = _broad(offsets, list(itertools.compress(volts, is_top)), slopes)
    else:
        refined = _narrow(curves.dv_dq[point - 1 : point + 2].tolist(), here_v, across_v)
    value = 1.0 / refined.lowest
    error = maximum.error_share / refined.lowest
    error_v = 0.5 * (max(volts) - min(volts)) + 0.125 * abs(across_v)
    return Peak(
        refined.voltage_v,
        error_v,
        value,
        error,
        maximum.prominence,
        float(curves.charge_ah[last] - curves.charge_ah[first]),
        is_noise_known and error_v <= _CERTAIN_ERROR_V and error <= _CERTAIN_ERROR * value,
    )


def _broad(offsets: list[float], volts: list[float], slopes: list[float]) -> _Top:
    """The lowest point of the parabola through a top; of a top without one, its mean."""
    n = len(offsets)
    centre = sum(offsets) / n
    u2 = u3 = u4 = us = u2s = uv = 0.0
    for offset, volt, slope in zip(offsets, volts, slopes, strict=True):
        u = offset - centre
        square = u * u
        u2 += square
        u3 += square * u
        u4 += square * square
        us += u * slope
        u2s += square * slope
        uv += u * volt
    s = sum(slopes)
    below = n * u4 - u2 * u2 - n * u3 * u3 / u2
    bend = (n * u2s - u2 * s - n * u3 * us / u2) / below if below else 0.0
    lowest, vertex = s / n, 0.0
    if bend > 0.0:
        rise = (us - bend * u3) / u2
        if abs(rise) / (2.0 * bend) <= 0.5 * (offsets[-1] - offsets[0]):
            vertex = -rise / (2.0 * bend)
            lowest = (s - bend * u2) / n + 0.5 * rise * vertex
    return _Top(lowest, sum(volts) / n + vertex * uv / u2)


def _narrow(slopes: list[float], voltage_v: float, across_v: float) -> _Top:
    """The lowest point of the parabola through the highest point and its neighbours."""
    before, here, after = slopes
    bend = before + after - 2.0 * here
    return _Top(
        here - (after - before) ** 2 / (8.0 * bend),
        voltage_v + 0.25 * across_v * (before - after) / bend,
    )
