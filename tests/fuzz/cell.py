"""Cycles the simulator's cell through any protocol; what flowed is known exactly."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.sources.simulation.cell_model import LITHIUM, QN, QP, R0, R1, TAU_S, U_N, U_P

Floats = NDArray[np.float64]

V_HIGH = 4.2
V_LOW = 2.8
_NODES = 4000


@dataclass(frozen=True)
class Order:
    """A step of the protocol.

    Attributes:
        cycle: number of the cycle it belongs to.
        kind: `charge`, `hold` (at V_HIGH), `discharge` or `rest`.
        rate: current in multiples of the nominal capacity per hour; of `hold` the cut-off.
        most_s: it ends after that time if no voltage limit ends it before.
    """

    cycle: int
    kind: str
    rate: float = 0.0
    most_s: float = 1e9


@dataclass(frozen=True)
class Step:
    """A step as it ran; arrays over a fine grid of k instants.

    Attributes:
        order: what was wanted.
        start_s: since the test began.
        at_s: (k,) since the step began; the last one is its end.
        current_a: (k,) positive charges.
        voltage_v: (k,).
        net_ah: (k,) what flowed since the step began, positive on charge.
        net_wh: (k,) the same of energy.
    """

    order: Order
    start_s: float
    at_s: Floats
    current_a: Floats
    voltage_v: Floats
    net_ah: Floats
    net_wh: Floats

    @property
    def end_s(self) -> float:
        """Since the test began."""
        return self.start_s + float(self.at_s[-1])

    @property
    def ah(self) -> float:
        """What flowed, positive on charge."""
        return float(self.net_ah[-1])


def run(orders: list[Order], nominal_ah: float) -> list[Step]:
    """Runs the protocol on a cell that starts almost empty, or full if a discharge comes first."""
    first = next((order.kind for order in orders if order.kind != "rest"), "charge")
    cell = _Cell(nominal_ah)
    cell.filling = cell.filling_at(V_HIGH - 0.02 if first == "discharge" else V_LOW + 0.35)
    steps: list[Step] = []
    now = 0.0
    for order in orders:
        at, current = cell.hold(order) if order.kind == "hold" else cell.drive(order)
        if at.size < 2 or at[-1] < 0.5:
            continue
        step = cell.take(order, now, at, current)
        now = step.end_s
        steps.append(step)
    return steps


class _Cell:
    def __init__(self, nominal_ah: float) -> None:
        self.nominal = nominal_ah
        self.filling = 0.0  # Ah in the graphite
        self.over_rc = 0.0  # V

    def ocv(self, filling: Floats) -> Floats:
        share = filling / self.nominal
        found: Floats = U_P.at((LITHIUM - share) / QP) - U_N.at(share / QN)
        return found

    def filling_at(self, voltage: float) -> float:
        grid = np.linspace(0.005, 1.07, _NODES) * self.nominal
        return float(np.interp(voltage, self.ocv(grid), grid))

    def _rc(self, at: Floats, current: float) -> Floats:
        settled = current * R1 / self.nominal
        found: Floats = settled + (self.over_rc - settled) * np.exp(-at / TAU_S)
        return found

    def drive(self, order: Order) -> tuple[Floats, Floats]:
        """Constant current, or none, until a limit."""
        sign = {"charge": 1.0, "discharge": -1.0, "rest": 0.0}[order.kind]
        current = sign * order.rate * self.nominal
        longest = order.most_s
        if current:
            longest = min(longest, 1.2 * 3600.0 / order.rate)
        at = np.linspace(0.0, longest, _NODES)
        filling = np.clip(self.filling + current * at / 3600.0, 1e-3 * self.nominal, None)
        voltage = self.ocv(filling) + current * R0 / self.nominal + self._rc(at, current)
        beyond = voltage >= V_HIGH if sign > 0 else voltage <= V_LOW
        if sign and beyond.any():
            # to the millisecond: the clocks of cyclers know no finer end
            end = round(float(at[max(int(np.argmax(beyond)), 1)]), 3)
        else:
            end = round(longest, 3)
        at = np.linspace(0.0, end, _NODES // 2)
        return at, np.full_like(at, current)

    def hold(self, order: Order) -> tuple[Floats, Floats]:
        """Constant voltage: the current falls to the cut-off; the RC pair counts as settled."""
        ohm = (R0 + R1) / self.nominal
        grid = np.linspace(self.filling, 1.07 * self.nominal, 20 * _NODES)
        current = (V_HIGH - self.ocv(grid)) / ohm
        stop = order.rate * self.nominal
        kept = int(np.argmax(current <= stop)) if (current <= stop).any() else grid.size
        if kept < 3:
            return np.zeros(1), np.zeros(1)
        grid, current = grid[:kept], current[:kept]
        at = np.concatenate(
            ([0.0], np.cumsum(7200.0 * np.diff(grid) / (current[1:] + current[:-1])))
        )
        end = round(min(float(at[-1]), order.most_s), 3)
        even = np.linspace(0.0, end, _NODES)
        return even, np.interp(even, at, current)

    def take(self, order: Order, start_s: float, at: Floats, current: Floats) -> Step:
        """Works out what the step did, and leaves the cell as it is after it."""
        net = _integral(current, at) / 3600.0
        if order.kind == "hold":
            voltage = np.full_like(at, V_HIGH)
            self.over_rc = float(current[-1]) * R1 / self.nominal
        else:
            over_rc = self._rc(at, float(current[0]))
            voltage = self.ocv(self.filling + net) + current * R0 / self.nominal + over_rc
            self.over_rc = float(over_rc[-1])
        self.filling += float(net[-1])
        energy = _integral(current * voltage, at) / 3600.0
        return Step(order, start_s, at, current, voltage, net, energy)


def _integral(values: Floats, at: Floats) -> Floats:
    steps = np.diff(at) * (values[1:] + values[:-1]) / 2.0
    found: Floats = np.concatenate(([0.0], np.cumsum(steps)))
    return found
