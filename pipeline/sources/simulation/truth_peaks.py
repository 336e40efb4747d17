"""Find the peaks of dQ/dV of noise-free curves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from pipeline.sources.simulation.arrays import Floats

POINTS: Final = 2001  # of a curve that is to be searched
_LEAST: Final = 0.1  # a peak stands out by this share of the highest


@dataclass(frozen=True)
class Peak:
    """A peak of dQ/dV: where, how high, by how much it stands out, whether it is the highest."""

    voltage_v: float
    dq_dv_ah_per_v: float
    prominence_ah_per_v: float
    is_main: bool


def peaks(volts: Floats, ah: Floats) -> list[Peak]:
    """Peaks of a curve of charge moved over voltage, both (n,), in the order of the curve.

    An end of the curve is no peak. Height is positive on discharge too. Prominence is what the
    curve falls to either side before it rises above the peak.
    """
    slope = np.gradient(volts)
    with np.errstate(divide="ignore", invalid="ignore"):
        height = np.abs(np.gradient(ah) / slope)
    height[~np.isfinite(height)] = 0.0
    inner = height[1:-1]
    tops = np.flatnonzero((inner > height[:-2]) & (inner >= height[2:])) + 1
    if not tops.size:
        return []
    found = []
    for top in tops.tolist():
        stands = height[top] - max(_lowest(height[: top + 1][::-1]), _lowest(height[top:]))
        # A parabola through the three highest points.
        below, here, above = height[top - 1 : top + 2].tolist()
        bend = below - 2.0 * here + above
        shift = 0.5 * (below - above) / bend if bend else 0.0
        found.append(
            (float(volts[top] + shift * slope[top]), here - 0.25 * (below - above) * shift, stands)
        )
    most = max(peak[1] for peak in found)
    return [
        Peak(where, high, stands, high == most)
        for where, high, stands in found
        if stands >= _LEAST * most
    ]


def _lowest(height: Floats) -> float:
    """The lowest point of a curve before it rises above its first."""
    higher = np.flatnonzero(height > height[0])
    return float(height[: higher[0] if higher.size else None].min())
