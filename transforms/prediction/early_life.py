"""What the first hundred cycles tell of a cell's life: features of its discharge curves.

As a cell ages, the charge Q(V) that a discharge has given down to a voltage V becomes less. How much
less at cycle 100 than at cycle 10, and at which voltages, tells its life long before its capacity
fades: Severson et al., Nature Energy 4, 383 (2019). Differences here start at cycle 20: until then
most cells still gain capacity, which is a feature of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

# The grid that curves are given on.
HIGH_V, LOW_V, POINTS = 3.5, 2.0, 1000
VOLTAGES: Final[Floats] = np.linspace(HIGH_V, LOW_V, POINTS)
# Capacities are those of the cycles from the first to the last of these.
FIRST, LAST = 2, 100
COUNT = LAST - FIRST + 1
# The curves that features are made of.
CYCLES = (2, 20, 30, 60, 100)

# How well a discharge curve repeats, Ah: about the scatter of curves around their own trend. A
# difference below it says nothing, so it is added before a logarithm is taken.
REPEATABILITY_AH = 0.002
# A capacity so far from what the curves around it give is a glitch of the cycler.
_GLITCH_AH = 0.01
# Small on both sides of zero, where a logarithm can't be taken: asinh of x over these.
_RISE_AH, _END_AH, _SLOPE_AH = 0.01, 0.005, 5e-5
_END_POINTS = 50  # 2.07 V down to 2.0 V
_MIDDLE = (VOLTAGES > 2.8) & (VOLTAGES < 3.1)
_TOP = (VOLTAGES > 3.2) & (VOLTAGES < 3.3)
_TOP_OF_CAPACITY = 3  # the third highest: one glitch is no maximum

_PAIRS = ((100, 20), (60, 20), (100, 30))
# What says how large a difference is, with the part of REPEATABILITY_AH that is added to it.
_SIZES = {
    "sd": ("standard deviation over voltage", 1 / 3),
    "min": ("largest loss at any voltage", 1.0),
    "iqr": ("interquartile range over voltage", 1 / 2),
}
_MEAN = ("absolute mean over voltage", 1 / 2)


def _definitions() -> dict[str, str]:
    def text(size: tuple[str, float], late: int, early: int) -> str:
        floor = f"log10 of (it + {1000 * REPEATABILITY_AH * size[1]:.3g} mAh)"
        return f"{size[0]} of Q{late}(V) − Q{early}(V), {floor}"

    found = {
        f"{name}_{late}_{early}": text(size, late, early)
        for late, early in _PAIRS
        for name, size in _SIZES.items()
    }
    found |= {f"mean_{late}_20": text(_MEAN, late, 20) for late in (100, 60)}
    found |= {
        f"end_{late}_20": f"Q{late} − Q20 at 2.0 V over its largest loss at any voltage"
        for late in (60, 100)
    }
    return found | {
        "rise_middle": "Q20(V) − Q2(V), mean over 2.8 to 3.1 V, asinh of it over 10 mAh",
        "rise_end": "Q20(V) − Q2(V) at 2.0 V, asinh of it over 5 mAh",
        "rise_top": "Q20(V) − Q2(V), mean over 3.2 to 3.3 V, Ah",
        "rise_capacity": "third highest capacity of cycles 2 to 100 − that of cycles 2 and 3, Ah",
        "capacity_2": "capacity at cycle 2, Ah",
        "slope_91_100": "slope of capacity over cycles 91 to 100, asinh of it over 0.05 mAh a cycle",
        "slope_61_100": "slope of capacity over cycles 61 to 100, asinh of it over 0.05 mAh a cycle",
        "fade": "third highest capacity − mean of cycles 96 to 100, log10 of (it + 2 mAh)",
    }


# Every feature with its definition, in the order of the columns.
FEATURES: Final[Mapping[str, str]] = _definitions()

_STRENGTH = [f"{size}_{late}_20" for late in (100, 60) for size in _SIZES]
_ALL_STRENGTH = [*_STRENGTH, *(f"{size}_100_30" for size in _SIZES), "mean_100_20", "mean_60_20"]
_RISE = ["rise_middle", "rise_end", "rise_top", "rise_capacity"]
# A model is the mean of one for each of these: of how much is lost, and in addition of...
VIEWS: Final[Mapping[str, Sequence[str]]] = {
    "rise of capacity": [*_STRENGTH, "rise_capacity"],
    "rise of the curve": [*_ALL_STRENGTH, *_RISE],
    "rise and fade": [*_ALL_STRENGTH, *_RISE, "capacity_2", "slope_91_100", "slope_61_100", "fade"],
    "end of the curve": [*_STRENGTH, "end_60_20", "end_100_20"],
}


@dataclass(frozen=True)
class Curves:
    """The first hundred cycles of n cells.

    Attributes:
        cycles: which cycles the curves are of, rising, k of them.
        discharged: Ah discharged at VOLTAGES, shape (n, k, POINTS); NaN where there is no curve.
        capacities: Ah discharged in each cycle from FIRST to LAST, shape (n, COUNT); NaN where it
            is not known.
    """

    cycles: Sequence[int]
    discharged: Floats
    capacities: Floats

    def at(self, cycle: int) -> Floats:
        """The curves of a cycle, shape (n, POINTS); NaN where there is none."""
        if cycle not in self.cycles:
            return np.full((len(self.discharged), POINTS), np.nan)
        return self.discharged[:, list(self.cycles).index(cycle)]


def missing(curves: Curves) -> list[list[int]]:
    """By cell, the cycles of CYCLES whose curve is missing or not finite."""
    whole = np.column_stack([np.isfinite(curves.at(cycle)).all(axis=1) for cycle in CYCLES])
    return [
        [cycle for cycle, there in zip(CYCLES, row, strict=True) if not there]
        for row in whole.tolist()
    ]


def features(curves: Curves) -> Floats:
    """The features of cells, shape (n, number of FEATURES); NaN where a curve is missing."""
    with np.errstate(invalid="ignore"):
        by_name = _losses(curves) | _rises(curves)
    return np.column_stack([by_name[name] for name in FEATURES])


def log_variance(curves: Curves, late: int = 100, early: int = 10) -> Floats:
    """log10 of the variance over voltage of Q_late(V) − Q_early(V): the published single feature."""
    found: Floats = np.log10((curves.at(late) - curves.at(early)).var(axis=1))
    return found


def clean_capacities(curves: Curves) -> Floats:
    """The capacities, with what the curves' ends give where one is missing or a glitch."""
    at = np.arange(FIRST, LAST + 1)
    out = curves.capacities.copy()
    for cell, ends in enumerate(curves.discharged[:, :, -1]):
        there = np.isfinite(ends)
        if there.any():
            smooth = np.interp(at, np.asarray(curves.cycles)[there], ends[there])
            wrong = ~(np.abs(out[cell] - smooth) < _GLITCH_AH)
            out[cell, wrong] = smooth[wrong]
    return out


def _losses(curves: Curves) -> dict[str, Floats]:
    found = {}
    floor = {name: REPEATABILITY_AH * part for name, (_, part) in _SIZES.items()}
    for late, early in _PAIRS:
        change = curves.at(late) - curves.at(early)
        name = f"{late}_{early}"
        largest = np.maximum(-change.min(axis=1), 0) + floor["min"]
        upper, lower = np.percentile(change, [75, 25], axis=1)
        found[f"sd_{name}"] = np.log10(change.std(axis=1) + floor["sd"])
        found[f"min_{name}"] = np.log10(largest)
        found[f"iqr_{name}"] = np.log10(upper - lower + floor["iqr"])
        found[f"mean_{name}"] = np.log10(np.abs(change.mean(axis=1)) + REPEATABILITY_AH * _MEAN[1])
        found[f"end_{name}"] = change[:, -_END_POINTS:].mean(axis=1) / largest
    return found


def _rises(curves: Curves) -> dict[str, Floats]:
    rise = curves.at(20) - curves.at(2)
    capacities = clean_capacities(curves)
    highest = np.sort(capacities, axis=1)[:, -_TOP_OF_CAPACITY]
    return {
        "rise_middle": np.arcsinh(rise[:, _MIDDLE].mean(axis=1) / _RISE_AH),
        "rise_end": np.arcsinh(rise[:, -_END_POINTS:].mean(axis=1) / _END_AH),
        "rise_top": rise[:, _TOP].mean(axis=1),
        "rise_capacity": highest - np.median(capacities[:, :2], axis=1),
        "capacity_2": curves.at(2)[:, -1],
        "slope_91_100": np.arcsinh(_slope(capacities[:, -10:]) / _SLOPE_AH),
        "slope_61_100": np.arcsinh(_slope(capacities[:, -40:]) / _SLOPE_AH),
        "fade": np.log10(
            np.maximum(highest - capacities[:, -5:].mean(axis=1), 0) + REPEATABILITY_AH
        ),
    }


def _slope(values: Floats) -> Floats:
    """Ah a cycle, by least squares over the columns."""
    at = np.arange(values.shape[1]) - (values.shape[1] - 1) / 2
    found: Floats = values @ at / (at @ at)
    return found


# --- whether a curve is one of the kind that a model knows ----------------------------------------

# What is looked at before any feature, with its unit.
SHAPES: Final[Mapping[str, tuple[str, str]]] = {
    "capacity": ("capacity at cycle 2", "Ah"),
    "kept": ("capacity at cycle 100 over that at cycle 2", ""),
    "half_voltage": ("voltage at which half of cycle 2's charge is discharged", "V"),
    "plateau": ("voltage between a quarter and three quarters of cycle 2's discharge", "V"),
    "start": (f"share of cycle 2's charge that is discharged above {HIGH_V:g} V", ""),
    "backwards": ("how far a curve runs backwards", "Ah"),
}
# How far beyond what the training cells have a cell may be: another lot or protocol is within it,
# another chemistry, size or voltage window is not.
MARGINS: Final[Mapping[str, float]] = {
    "capacity": 0.11,  # a tenth of the nominal capacity
    "kept": 0.05,
    "half_voltage": 0.1,
    "plateau": 0.1,
    "start": 0.02,
    "backwards": 0.01,
}


def shapes(curves: Curves) -> Floats:
    """What SHAPES lists of each cell, shape (n, number of SHAPES); NaN where it can't be known."""
    with np.errstate(invalid="ignore", divide="ignore"):
        first, ends = curves.at(FIRST), curves.at(FIRST)[:, -1]
        levels = [_voltage_at(first, share) for share in (0.25, 0.5, 0.75)]
        drops = [
            np.max(np.maximum.accumulate(curves.at(cycle), axis=1) - curves.at(cycle), axis=1)
            for cycle in CYCLES
        ]
        found = {
            "capacity": ends,
            "kept": curves.at(LAST)[:, -1] / ends,
            "half_voltage": levels[1],
            "plateau": levels[0] - levels[2],
            "start": first[:, 0] / ends,
            "backwards": np.max(drops, axis=0),
        }
    return np.column_stack([found[name] for name in SHAPES])


def _voltage_at(discharged: Floats, share: float) -> Floats:
    """The voltage at which a share of a curve's own charge is discharged, shape (n,)."""
    rising = np.maximum.accumulate(discharged, axis=1)
    place = (rising < share * discharged[:, -1:]).sum(axis=1)
    return np.where(
        np.isfinite(discharged).all(axis=1), VOLTAGES[np.minimum(place, POINTS - 1)], np.nan
    )
