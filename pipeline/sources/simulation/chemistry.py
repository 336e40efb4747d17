"""Open-circuit voltage, resistances, limits and rates of each chemistry, for cells in steps.

Open-circuit voltage is that of a fresh cell over its state of charge: 0 where it is the lower, 1
where it is the upper limit. It is the difference of two electrode potentials of the MSMR form (see
`cell_model`); graphite is the same everywhere. The positives of `nmc`, `lfp` and `lco` are this
project's own, placed where these materials show their peaks of dQ/dV. `default` is the curve of
`cell_model`'s cells.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np

from pipeline.sources.simulation import cell_model
from pipeline.sources.simulation.arrays import Floats

_POINTS: Final = 8192
_F_RT: Final = 38.92  # 1/V at 25 degrees C
_Reactions = tuple[tuple[float, float, float], ...]

_GRAPHITE: Final[_Reactions] = cell_model.NEGATIVE
_POSITIVES: Final[dict[str, _Reactions]] = {  # U_j (V), X_j, w_j
    "default": cell_model.POSITIVE,
    "lco": (
        (3.600, 0.05, 4.00),
        (3.915, 0.30, 0.70),
        (3.970, 0.10, 1.80),
        (4.075, 0.10, 0.70),
        (4.185, 0.09, 0.60),
        (4.430, 0.36, 1.80),
    ),
    "nmc": (
        (3.623, 0.12, 0.97),
        (3.800, 0.34, 0.80),
        (3.906, 0.20, 3.00),
        (4.230, 0.34, 6.50),
    ),
    "lfp": (
        (3.422, 0.86, 0.30),
        (3.420, 0.04, 4.00),
        (3.550, 0.10, 5.00),
    ),
}


@dataclass(frozen=True)
class Chemistry:
    """A kind of cell; resistances in ohm x Ah of nominal capacity, rates in C.

    Attributes:
        short: what stands for it in equipment ids.
        v_min: lower voltage limit.
        v_max: upper voltage limit.
        r0: series resistance at 25 degrees C.
        r1: resistance of the RC pair at 25 degrees C.
        tau_s: time constant of the RC pair.
        stages_v: where a multi-stage charge lowers its current, in volts below the upper limit.
        lithium_ratio: lithium that can travel, in capacities of the negative electrode.
        positive_ratio: capacity of the positive electrode, in those of the negative.
    """

    short: str
    v_min: float
    v_max: float
    r0: float
    r1: float
    tau_s: float
    stages_v: tuple[float, float]
    lithium_ratio: float
    positive_ratio: float


_MODEL = (cell_model.LITHIUM / cell_model.QN, cell_model.QP / cell_model.QN)
CHEMISTRIES: Final = {
    "default": Chemistry("cell", 2.7, 4.2, cell_model.R0, cell_model.R1, cell_model.TAU_S,
                         (0.2, 0.1), *_MODEL),
    "lco": Chemistry("cell", 2.7, 4.2, 0.080, 0.045, 35.0, (0.2, 0.1), 1.50, 1.53),
    "nmc": Chemistry("nmc", 2.8, 4.2, 0.060, 0.040, 30.0, (0.2, 0.1), 1.15, 1.30),
    "lfp": Chemistry("lfp", 2.5, 3.65, 0.045, 0.030, 25.0, (0.15, 0.08), 0.93, 0.97),
}  # fmt: skip


class _Electrode:
    """An electrode's potential over its filling, exact: its form gives filling over potential."""

    def __init__(self, reactions: _Reactions) -> None:
        centre, share, width = (np.array(c) for c in zip(*reactions, strict=True))
        self._centre, self._width, self._share = centre, width, share / share.sum()
        self._potential = np.linspace(7.0, -1.5, 8501)
        self._filling = self._of(self._potential)[0]

    def _of(self, potential: Floats) -> tuple[Floats, Floats]:
        """Filling at each potential, and its change per volt."""
        scale = _F_RT / self._width
        z = np.clip(scale * (potential[..., None] - self._centre), -500.0, 500.0)
        parts = 1.0 / (1.0 + np.exp(z))
        filling = (self._share * parts).sum(axis=-1)
        return filling, -(self._share * scale * parts * (1.0 - parts)).sum(axis=-1)

    def at(self, filling: Floats) -> tuple[Floats, Floats]:
        """Potential (V) at each filling, and its change per filling."""
        u = np.interp(filling, self._filling, self._potential)
        for _ in range(4):  # Newton's steps, from within 1 mV
            found, slope = self._of(u)
            u = u - np.clip((found - filling) / slope, -2e-3, 2e-3)
        return u, 1.0 / self._of(u)[1]


class Curve:
    """Open-circuit voltage over the state of charge, tabulated at `_POINTS` + 1 places."""

    def __init__(self, kind: Chemistry, positive: _Reactions) -> None:
        p, n = _Electrode(positive), _Electrode(_GRAPHITE)
        low = max(0.0, kind.lithium_ratio - kind.positive_ratio) + 1e-7
        high = min(1.0, kind.lithium_ratio) - 1e-7

        def voltage(x: Floats) -> tuple[Floats, Floats]:
            u_p, d_p = p.at((kind.lithium_ratio - x) / kind.positive_ratio)
            u_n, d_n = n.at(x)
            return u_p - u_n, -d_p / kind.positive_ratio - d_n

        limits = np.array([kind.v_min, kind.v_max])
        low_x, high_x = np.full(2, low), np.full(2, high)
        for _ in range(50):
            middle = (low_x + high_x) / 2.0
            below = voltage(middle)[0] < limits
            low_x, high_x = np.where(below, middle, low_x), np.where(below, high_x, middle)
        empty, full = low_x
        self.soc: Floats = np.linspace(0.0, 1.0, _POINTS + 1)
        self.volts, slope = voltage(empty + (full - empty) * self.soc)
        self._slope: Floats = slope * (full - empty)
        areas = (self.volts[:-1] + self.volts[1:]) / (2.0 * _POINTS)
        self._area: Floats = np.concatenate(([0.0], np.cumsum(areas)))
        # For one value at a time lists are several times as fast as arrays.
        self._table: list[float] = self.volts.tolist()
        self._areas: list[float] = self._area.tolist()

    def one(self, soc: float) -> float:
        """Voltage at one state of charge; outside 0 … 1 the end's line is extended."""
        u = soc * _POINTS
        i = min(max(int(u), 0), _POINTS - 1)
        low = self._table[i]
        return low + (self._table[i + 1] - low) * (u - i)

    def area(self, soc: float) -> float:
        """Integral of the voltage from empty to one state of charge (V x share)."""
        u = soc * _POINTS
        i = min(max(int(u), 0), _POINTS - 1)
        f, low = u - i, self._table[i]
        return self._areas[i] + f * (low + (self._table[i + 1] - low) * f / 2.0) / _POINTS

    def both(self, soc: Floats) -> tuple[Floats, Floats]:
        """Voltage (V) and its integral from empty to this state of charge (V x share)."""
        u = soc * _POINTS
        i = np.clip(u.astype(np.int64), 0, _POINTS - 1)
        f = u - i
        low = self.volts[i]
        rise = (self.volts[i + 1] - low) * f
        return low + rise, self._area[i] + f * (low + rise / 2.0) / _POINTS

    def slope(self, soc: Floats) -> Floats:
        """Change of voltage per whole charge (V)."""
        found: Floats = np.interp(soc, self.soc, self._slope)
        return found

    def at_voltage(self, volts: float) -> float:
        """State of charge at a voltage, within 0 … 1."""
        return float(np.interp(volts, self.volts, self.soc))


@cache
def curve(chemistry: str) -> Curve:
    """The curve of a chemistry by its name; made once."""
    return Curve(CHEMISTRIES[chemistry], _POSITIVES[chemistry])
