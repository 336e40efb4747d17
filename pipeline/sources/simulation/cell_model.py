"""Model a lithium-ion cell: electrode potentials, resistances and limits of its cycling.

A cell is two electrodes, a series resistance and one RC pair:

    V(t) = U_p(y) - U_n(x) + I R0 + V_rc,   x = q / Q_n,   y = (L - q) / Q_p

where q (Ah) is the lithium in the graphite, Q_n and Q_p (Ah) the electrodes' capacities and L (Ah)
the lithium that can still travel. Electrode potentials come from the multi-species multi-reaction
(MSMR) form, x(U) = sum_j X_j / (1 + exp(F (U - U_j) / (R T w_j))): every reaction is a peak of
dQ/dV. Graphite's six reactions are those of Verbrugge et al., J. Electrochem. Soc. 164 (2017)
E3243; the LiCoO2-like positive's are this project's own, placed where LiCoO2 shows its plateau
(3.9 V) and its order-disorder pair (4.06 and 4.17 V against lithium).
"""

from __future__ import annotations

from typing import Final

import numpy as np

from pipeline.sources.simulation.arrays import Floats

V_MIN: Final = 2.7
V_MAX: Final = 4.2
CHARGE_C: Final = 0.5  # constant-current charge, in multiples of nominal Ah per hour
CUTOFF_C: Final = 0.05  # the constant-voltage step ends here
DISCHARGE_C: Final = 1.0
REST_S: Final = 600.0
CYCLES_PER_TEST: Final = 50  # cyclers start a new test, with new counters, after so many
STEPS: Final = 5  # CC charge, CV charge, rest, CC discharge, rest
CC_CHARGE, CV_CHARGE, REST_FULL, CC_DISCHARGE, REST_EMPTY = range(STEPS)

_F_RT: Final = 38.92  # 1/V at 25 degrees C
NEGATIVE: Final = (  # U_j (V), X_j, w_j
    (0.08843, 0.43336, 0.08611),
    (0.12799, 0.23963, 0.08009),
    (0.14331, 0.15018, 0.72469),
    (0.16984, 0.05462, 2.53277),
    (0.21446, 0.06744, 0.09470),
    (0.36325, 0.05476, 5.97354),
)
POSITIVE: Final = (
    (3.620, 0.06, 4.00),
    (3.905, 0.22, 0.50),
    (3.960, 0.13, 1.60),
    (4.060, 0.09, 0.65),
    (4.170, 0.09, 0.50),
    (4.420, 0.41, 1.80),
)
# Per nominal Ah, such that a fresh average cell discharges its nominal capacity at 1C
# (`test_fresh_cells_have_their_nominal_capacity` holds this together with the potentials).
_SCALE: Final = 0.975
QP: Final = 1.76 * _SCALE
QN: Final = 1.10 * _SCALE
LITHIUM: Final = 1.73 * _SCALE
R0: Final = 0.090  # ohm x Ah: a 2 Ah cell has 45 milliohm
R1: Final = 0.050
TAU_S: Final = 40.0
EFFICIENCY: Final = 0.9995  # share of the charge that becomes lithium in the graphite
HEAT_OHM: Final = 24.0  # K Ah / W: a 2 Ah cell warms by 12 K per watt
TAU_HEAT_S: Final = 700.0
FIRST_S: Final = (1.0, 10.0, 30.0)  # extra readings after the load step, as for a resistance pulse


class _Potential:
    """An electrode's potential over its filling, tabulated: value and integral, O(1) a point."""

    POINTS: Final = 8192

    def __init__(self, reactions: tuple[tuple[float, float, float], ...]) -> None:
        u = np.linspace(-1.0, 6.0, 70_001)
        centre, share, width = (np.array(c) for c in zip(*reactions, strict=True))
        z = np.clip(_F_RT * (u[:, None] - centre) / width, -500.0, 500.0)
        filling = (share / share.sum() / (1.0 + np.exp(z))).sum(axis=1)
        grid = np.linspace(0.0, 1.0, self.POINTS + 1)
        self.value: Floats = np.interp(grid, filling[::-1], u[::-1])
        self.slope: Floats = np.diff(self.value)
        areas = (self.value[:-1] + self.value[1:]) / 2.0
        self.area: Floats = np.concatenate(([0.0], np.cumsum(areas)))

    def at(self, filling: Floats) -> Floats:
        """Potential in V at a filling in 0..1; outside, the end's line is extended."""
        u = filling * self.POINTS
        i = np.clip(u.astype(np.int32), 0, self.POINTS - 1)
        return self.value[i] + self.slope[i] * (u - i)

    def both(self, filling: Floats) -> tuple[Floats, Floats]:
        """Potential (V) and its integral from empty to this filling (V x filling)."""
        u = filling * self.POINTS
        i = np.clip(u.astype(np.int32), 0, self.POINTS - 1)
        f = u - i
        value, slope = self.value[i], self.slope[i] * f
        return value + slope, (self.area[i] + f * (value + slope / 2.0)) / self.POINTS


U_N: Final = _Potential(NEGATIVE)
U_P: Final = _Potential(POSITIVE)


def graphite_rate(current: float) -> float:
    """Ah per second that reach the graphite: side reactions take their part of a charge."""
    return current * (EFFICIENCY if current > 0.0 else 1.0) / 3600.0


def early_readings(step: int, interval_s: float) -> tuple[float, ...]:
    """Seconds of a step's readings before its first whole interval."""
    if step == CV_CHARGE:
        return ()
    wanted = FIRST_S if step == CC_DISCHARGE else FIRST_S[:1]
    return tuple(s for s in wanted if s < interval_s)
