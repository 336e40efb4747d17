"""The early reference of a cell: voltage over charge, one curve per direction and rate."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.linalg import solveh_banded

from transforms.health.electrodes import F64, graphite_v

Places = npt.NDArray[np.int64]

POINTS: Final = 192
GRID: Final[F64] = np.linspace(-0.1, 1.25, POINTS)  # in nominal capacities
STEP: Final = float(GRID[1] - GRID[0])
_HEAD: Final = struct.Struct("<bbHff")
PACKED: Final = _HEAD.size + 4 * POINTS
_LEAST_SMOOTHED: Final = 6
_STEEP_V: Final = 2.0  # V per nominal capacity
_STRENGTHS: Final = tuple(10.0**power for power in range(-1, 7))
_END: Final = 6  # points from which the curve is continued beyond its ends


@dataclass(eq=False)  # one is itself: arrays have no one answer
class Reference:
    """What one kind of segment looked like early in life.

    Attributes:
        direction: 1.0 for charges, −1.0 for discharges.
        rate_c: current in nominal capacities per hour.
        is_full: whether the grid counts from the lower limit on; otherwise from anywhere.
        count: segments in it.
        noise_v: how uncertain the voltage of one of them is, V.
        volts: V at each place of GRID as float32; NaN where nothing was seen.
    """

    direction: float
    rate_c: float
    is_full: bool
    count: int
    noise_v: float
    volts: F64

    def pack(self) -> bytes:
        """PACKED bytes."""
        head = _HEAD.pack(
            int(self.direction), int(self.is_full), self.count, self.rate_c, self.noise_v
        )
        return head + self.volts.astype("<f4").tobytes()

    @classmethod
    def unpack(cls, packed: bytes) -> Reference:
        """Reads what `pack` gave."""
        direction, is_full, count, rate_c, noise_v = _HEAD.unpack_from(packed)
        volts = np.frombuffer(packed, "<f4", POINTS, _HEAD.size).astype(np.float64)
        return cls(float(direction), rate_c, bool(is_full), count, noise_v, volts)

    @property
    def covered(self) -> tuple[float, float]:
        """The places between which there is a curve."""
        there = np.flatnonzero(np.isfinite(self.volts))
        return float(GRID[there[0]]), float(GRID[there[-1]])

    def has(self, place: F64) -> npt.NDArray[np.bool_]:
        """Whether the curve is known at each place; there may be gaps."""
        near = np.rint((place - GRID[0]) / STEP).astype(np.int64)
        known = np.isfinite(self.volts)[np.clip(near, 0, POINTS - 1)]
        found: npt.NDArray[np.bool_] = known & (near >= 0) & (near < POINTS)
        return found

    def free(self, low: float, high: float) -> bool:
        """Whether nothing is known between two places of the grid, nor close to them."""
        near = (low - 2.0 * STEP <= GRID) & (high + 2.0 * STEP >= GRID)
        within = GRID[0] <= low and high <= GRID[-1]
        return within and not np.isfinite(self.volts[near]).any()

    def positive(self, graphite: F64) -> F64:
        """The curve with graphite's voltage (at GRID) taken out, continued beyond its ends."""
        return _continued(self.volts + graphite)

    def add(self, place: F64, volts: F64) -> None:
        """Adds a segment: places in any order, V at each. What is new extends the curve."""
        order = np.argsort(place)
        inside, seen, rough_v = smoothed(place[order], volts[order])
        if not len(seen):
            return
        old = self.volts[inside]
        mean = old + (seen - old) / (self.count + 1.0)
        self.volts[inside] = np.where(np.isfinite(old), mean, seen)
        self.noise_v += (rough_v - self.noise_v) / (self.count + 1.0)
        self.count += 1

    @property
    def uncertain_v(self) -> float:
        """How uncertain its voltage is, V."""
        return self.noise_v / float(np.sqrt(max(self.count, 1)))


def smoothed(place: F64, volts: F64) -> tuple[Places, F64, float]:
    """Noise taken out of a curve: which of GRID it covers, V there, and how uncertain that is.

    The third difference is kept small, by as much as generalised cross-validation says; less where
    the curve is steep, because it bends there.
    """
    inside = np.flatnonzero((place[0] <= GRID) & (place[-1] >= GRID))
    size, count = len(inside), len(place)
    if size < _LEAST_SMOOTHED or count < _LEAST_SMOOTHED:
        return inside, np.interp(GRID[inside], place, volts), 1e-3
    own = GRID[inside]
    # Every reading lies between two places; those beyond the first and last do not matter.
    within = (place >= own[0]) & (place <= own[-1])
    place, volts = place[within], volts[within]
    count = len(place)
    if count < _LEAST_SMOOTHED:
        return inside, np.interp(own, place, volts), 1e-3
    left = np.clip(((place - own[0]) / STEP).astype(np.int64), 0, size - 2)
    share = (place - own[left]) / STEP
    to_readings = np.zeros((count, size))
    rows = np.arange(count)
    to_readings[rows, left], to_readings[rows, left + 1] = 1.0 - share, share
    bends = np.diff(np.eye(size), 3, axis=0)
    steep = np.abs(np.gradient(np.interp(own, place, volts), STEP))
    # The steepest of the neighbours, so that noise alone does not lift the penalty.
    steep = np.convolve(steep, np.ones(5) / 5.0, "same")[1:-2]
    bends *= (1.0 / (1.0 + (steep / _STEEP_V) ** 2))[:, None]
    normal, wanted, penalty = to_readings.T @ to_readings, to_readings.T @ volts, bends.T @ bends
    sides = np.column_stack((wanted, normal))
    bands_of_normal, bands_of_penalty = _bands(normal), _bands(penalty)
    bands_of_normal[0] += 1e-9
    best: tuple[float, F64, float] = (np.inf, np.interp(own, place, volts), 1e-3)
    for strength in _STRENGTHS:
        try:
            # Third differences reach three places far: all else is 0.
            solved = solveh_banded(
                bands_of_normal + strength * bands_of_penalty, sides, lower=True, check_finite=False
            )
        except np.linalg.LinAlgError:
            continue  # too little of it to stand on its own
        curve: F64 = np.asarray(solved[:, 0], dtype=np.float64)
        free = float(np.trace(solved[:, 1:]))
        off: F64 = volts - to_readings @ curve
        square = float(off @ off)
        score = square / max(count - 1.2 * free, 0.5) ** 2
        if score < best[0]:
            noise = np.sqrt(square / max(count - free, 1.0) * min(free / count, 1.0))
            best = (float(score), curve, max(float(noise), 1e-4))
    return inside, best[1], best[2]


def _bands(matrix: F64) -> F64:
    """The diagonal of a symmetric matrix and the three below it, as `solveh_banded` takes them."""
    size = len(matrix)
    out = np.zeros((4, size))
    for band in range(4):
        out[band, : size - band] = np.diagonal(matrix, -band)
    return out


def _continued(curve: F64) -> F64:
    there = np.flatnonzero(np.isfinite(curve))
    first, last = int(there[0]), int(there[-1])
    few = min(_END, last - first)
    out = np.interp(GRID, GRID[there], curve[there])
    if few >= 1:
        low = (curve[first + few] - curve[first]) / (STEP * few)
        high = (curve[last] - curve[last - few]) / (STEP * few)
        if np.isfinite(low):
            out[:first] = curve[first] + low * (GRID[:first] - GRID[first])
        if np.isfinite(high):
            out[last + 1 :] = curve[last] + high * (GRID[last + 1 :] - GRID[last])
    return out


def graphite_at(places: F64, full: float, ends: tuple[float, float]) -> F64:
    """V of graphite at places in nominal capacities, where `full` is the upper limit's place."""
    return graphite_v(ends[0] + (ends[1] - ends[0]) * places / full)
