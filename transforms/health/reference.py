"""The early reference of a cell: voltage over charge, one curve per direction and rate."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

import numpy as np

from transforms.health.electrodes import F64, graphite_v

POINTS: Final = 192
GRID: Final[F64] = np.linspace(-0.1, 1.25, POINTS)  # in nominal capacities
STEP: Final = float(GRID[1] - GRID[0])
_HEAD: Final = struct.Struct("<bbHff")
PACKED: Final = _HEAD.size + 4 * POINTS
_END: Final = 6  # points from which the curve is continued beyond its ends


@dataclass
class Reference:
    """What one kind of segment looked like early in life.

    Attributes:
        direction: 1.0 for charges, −1.0 for discharges.
        rate_c: current in nominal capacities per hour.
        is_full: whether the grid counts from the lower limit on; otherwise from anywhere.
        count: segments in it.
        noise_v: how uncertain its voltage is, V.
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

    def positive(self, graphite: F64) -> F64:
        """The curve with graphite's voltage (at GRID) taken out, continued beyond its ends."""
        return _continued(self.volts + graphite)

    def add(self, place: F64, volts: F64) -> None:
        """Adds a segment: places in any order, V at each. What is new extends the curve."""
        order = np.argsort(place)
        place, volts = place[order], volts[order]
        inside = (GRID >= place[0]) & (GRID <= place[-1])
        seen = np.interp(GRID[inside], place, volts)
        old = self.volts[inside]
        mean = old + (seen - old) / (self.count + 1.0)
        self.volts[inside] = np.where(np.isfinite(old), mean, seen)
        self.count += 1


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
