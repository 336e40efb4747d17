"""Lines, parabolas and two lines that meet, by weighted least squares over stretches of one series.

All are made of the same sums over the newest points, which are added up once: a cell's features
are computed at every cycle, and most of the time of small arrays is the calls.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from transforms.life.history import Floats


@dataclass(frozen=True, slots=True)
class Line:
    """A straight line and how far it may be off.

    Attributes:
        level: its value at u = 0.
        level_error: standard error of that.
        slope: change per u.
        error: standard error of that.
    """

    level: float
    level_error: float
    slope: float
    error: float


@dataclass(frozen=True, slots=True)
class Parabola:
    """level + slope u + bend u²; `error` is the standard error of the bend."""

    slope: float
    bend: float
    error: float


@dataclass(frozen=True, slots=True)
class Knee:
    """Two lines that meet at `at`; `gain` is F of the second line."""

    at: float
    before: float
    after: float
    gain: float


class Sums:
    """A series y over u with weights, u in −1 … 0, ready to be fitted from any point on.

    Weights are inverse variances. Where points scatter more than these say, errors grow with that.
    """

    def __init__(self, u: Floats, y: Floats, weight: Floats) -> None:
        """All (n,), u ascending."""
        self.u, self._n = u, u.size
        self._middle = float(y.mean())  # taken off, so that squares lose no digits
        table = np.empty((9, u.size + 1))
        table[:, -1] = 0.0
        part = table[:, :-1]
        part[0] = weight
        for k in range(1, 5):
            np.multiply(part[k - 1], u, out=part[k])
        np.multiply(weight, y - self._middle, out=part[5])
        np.multiply(part[5], u, out=part[6])
        np.multiply(part[6], u, out=part[7])
        np.multiply(part[5], y - self._middle, out=part[8])
        # From each point to the newest.
        self._from = np.cumsum(table[:, ::-1], axis=1)[:, ::-1]
        self._columns: list[list[float]] = self._from.T.tolist()

    def _between(self, first: int, stop: int) -> list[float]:
        low = self._columns[first]
        if stop >= self._n:
            return low
        return [a - b for a, b in zip(low, self._columns[stop], strict=True)]

    def mean(self, first: int, stop: int) -> float:
        """Weighted mean of the points first … stop - 1."""
        s = self._between(first, stop)
        return self._middle + s[5] / s[0]

    def line(self, first: int, stop: int, origin: float = 0.0) -> Line:
        """Through the points first … stop - 1; its level is that at `origin`."""
        s0, s1, s2, _, _, y0, y1, _, yy = self._between(first, stop)
        mean_u, mean_y = s1 / s0, y0 / s0
        uu, uy = s2 - s1 * mean_u, y1 - y0 * mean_u
        if uu <= 1e-12 * s0:
            return Line(self._middle + mean_y, s0**-0.5, 0.0, 1.0)
        slope = uy / uu
        rest = max(yy - y0 * mean_y - slope * uy, 0.0)
        excess = max(rest / max(stop - first - 2, 1), 1.0)
        error = math.sqrt(excess / uu)
        away = origin - mean_u
        return Line(
            self._middle + mean_y + slope * away,
            math.sqrt(excess / s0 + (error * away) ** 2),
            slope,
            error,
        )

    def parabola(self, first: int) -> Parabola | None:
        """Through the points from `first` on; None where they do not determine one."""
        s0, s1, s2, s3, s4, y0, y1, y2, yy = self._columns[first]
        # Sums around the means, so that two unknowns are left.
        m1, m2 = s1 / s0, s2 / s0
        a, b, c = s2 - s1 * m1, s3 - s2 * m1, s4 - s2 * m2
        p, q = y1 - y0 * m1, y2 - y0 * m2
        det = a * c - b * b
        if det <= 1e-9 * a * c:
            return None
        slope, bend = (c * p - b * q) / det, (a * q - b * p) / det
        rest = max(yy - y0 * y0 / s0 - slope * p - bend * q, 0.0)
        excess = max(rest / max(self._n - first - 3, 1), 1.0)
        return Parabola(slope, bend, math.sqrt(excess * a / det))

    def knee(self) -> Knee | None:
        """The two lines that fit all points best; None where there are too few."""
        places = np.arange(3, self._n - 3)
        at = self.u[places]
        inside = (at >= -0.95) & (at <= -0.03)
        places, at = places[inside], at[inside]
        if places.size < 3:
            return None
        n0, n1, n2, _, _, t0, t1, _, tt = self._columns[0]
        s0, s1, s2, _, _, y0, y1 = self._from[:7, places]
        # What turns at a place is 0 before it and u - place after it.
        h, hu = s1 - at * s0, s2 - at * s1
        hh, hy = hu - at * h, y1 - at * y0
        # The line's part is taken out of the turn and of y.
        mean_u = n1 / n0
        uu, uy = n2 - n1 * mean_u, t1 - t0 * mean_u
        if uu <= 0.0:
            return None
        tilt = (hu - h * mean_u) / uu
        rest_hh = np.maximum(hh - h * h / n0 - tilt * tilt * uu, 1e-12 * hh + 1e-300)
        rest_hy = hy - h * (t0 / n0) - tilt * uy
        gain = rest_hy * rest_hy / rest_hh
        best = int(np.argmax(gain))
        left = max(tt - t0 * t0 / n0 - uy * uy / uu - float(gain[best]), 0.0)
        turn = float(rest_hy[best] / rest_hh[best])
        before = uy / uu - turn * float(tilt[best])
        certain = float(gain[best]) / max(left / max(self._n - 4, 1), 1.0)
        return Knee(float(at[best]), before, before + turn, certain)


def median(values: Floats) -> float:
    """Of values without NaN; NumPy's takes ten times as long for few."""
    middle = values.size // 2
    ordered = np.sort(values)
    if values.size % 2:
        return float(ordered[middle])
    return float(ordered[middle - 1] + ordered[middle]) / 2.0


def running_median(y: Floats) -> Floats:
    """Of five; both ends are mirrored."""
    if y.size < 5:
        return np.full(y.size, median(y))
    padded = np.concatenate((y[2:0:-1], y, y[-2:-4:-1]))
    n = y.size
    windows = np.stack([padded[k : k + n] for k in range(5)])
    windows.sort(axis=0)
    found: Floats = windows[2]
    return found
