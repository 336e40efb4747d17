"""A made cell whose every figure is known: what the models and the other tools are held against.

Open-circuit voltage of the state of charge, a series resistance and one RC pair. The charge, the
energy and the resistance come out of the simulation; height and place of the dQ/dV peak follow from
the curve itself, whose slope is given in closed form.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

COLUMNS = (
    "Data_Point", "Test_Time(s)", "Date_Time", "Step_Time(s)", "Step_Index", "Cycle_Index",
    "Current(A)", "Voltage(V)", "Charge_Capacity(Ah)", "Discharge_Capacity(Ah)",
    "Charge_Energy(Wh)", "Discharge_Energy(Wh)",
)  # fmt: skip
_START = datetime(2024, 3, 1, tzinfo=UTC)
_TICK_S = 1.0

# Open-circuit voltage: a line, a curved foot, and two plateaus whose depth is less than the line's
# slope, so that the voltage always rises with the charge.
_BASE_V, _SLOPE_V = 3.35, 0.93
_FOOT_V, _FOOT_WIDTH = 0.55, 0.03
_PLATEAUS = ((0.42, 0.0434, 0.07), (0.74, 0.018, 0.06))  # middle, depth in V, width


def open_circuit_v(soc: float) -> float:
    """Open-circuit voltage at a state of charge."""
    return (
        _BASE_V + _SLOPE_V * soc - _FOOT_V * math.exp(-soc / _FOOT_WIDTH)
        - sum(depth * math.tanh((soc - middle) / width) for middle, depth, width in _PLATEAUS)
    )  # fmt: skip


def open_circuit_slope_v(soc: float) -> float:
    """Its derivative by the state of charge."""
    return (
        _SLOPE_V + _FOOT_V / _FOOT_WIDTH * math.exp(-soc / _FOOT_WIDTH)
        - sum(depth / width / math.cosh((soc - middle) / width) ** 2
              for middle, depth, width in _PLATEAUS)
    )  # fmt: skip


@dataclass
class Truth:
    """What is known of one cycle.

    Attributes:
        charge_ah, discharge_ah, charge_wh, discharge_wh: as it flowed.
        resistance_30s_ohm: fall of the voltage in the 30 s after the rest, over the current; with
            the fall of the open-circuit voltage in these 30 s, as it is measured.
        peaks: volts and Ah/V of the main dQ/dV peak by direction, at constant current.
    """

    charge_ah: float = 0.0
    discharge_ah: float = 0.0
    charge_wh: float = 0.0
    discharge_wh: float = 0.0
    resistance_30s_ohm: float | None = None
    peaks: dict[str, tuple[float, float]] = field(default_factory=dict)


@dataclass
class Cell:
    """A cell on a cycler that logs at an interval and at the end of every step.

    Attributes:
        interval_s: between readings of a step.
        capacity_ah, series_ohm, pair_ohm, pair_s: of the cell as it is now; ageing changes them.
        soc: state of charge.
        rows: logged so far, in the order of COLUMNS.
        truths: by cycle index.
    """

    interval_s: float
    capacity_ah: float = 2.0
    series_ohm: float = 0.045
    pair_ohm: float = 0.020
    pair_s: float = 25.0
    soc: float = 0.0
    rows: list[tuple[object, ...]] = field(default_factory=list)
    truths: dict[int, Truth] = field(default_factory=dict)
    cycle: int = 1
    _time_s: float = 0.0
    _pair_v: float = 0.0
    _counters: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0, 0.0])

    def rest(self, step: int, seconds: float) -> None:
        """No current; the last row stands at the rest's end."""
        self._step(step, seconds, 0.0)

    def constant_current(
        self, step: int, amperes: float, volts: float | None = None, soc: float | None = None
    ) -> None:
        """A current until a voltage or a state of charge is reached."""
        self._step(step, math.inf, amperes, volts, soc)

    def constant_voltage(self, step: int, volts: float, until_amperes: float) -> None:
        """A charge at a voltage until the current has fallen to a value."""
        self._step(step, math.inf, None, volts, until=until_amperes)

    def age(self, capacity: float, resistance: float) -> None:
        """Multiplies capacity and series resistance; the state of charge stays."""
        self.capacity_ah *= capacity
        self.series_ohm *= resistance

    def write(self, path: Path) -> None:
        """The rows as a CSV file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            writer.writerows(self.rows)

    def _step(
        self, step: int, seconds: float, amperes: float | None, volts: float | None = None,
        soc: float | None = None, until: float = 0.0,
    ) -> None:  # fmt: skip
        truth = self.truths.setdefault(self.cycle, Truth())
        rested_v = self._terminal(0.0)
        if amperes and volts is not None:
            self._peak(truth, amperes)
        elapsed, done = 0.0, False
        while not done:
            current = amperes
            if current is None:
                assert volts is not None
                current = (volts - open_circuit_v(self.soc) - self._pair_v) / self.series_ohm
            before_v = self._terminal(current)
            self._tick(current)
            elapsed += _TICK_S
            after_v = self._terminal(current)
            self._count(truth, current, (before_v + after_v) / 2)
            if current < 0 and elapsed == 30.0 and truth.resistance_30s_ohm is None:
                truth.resistance_30s_ohm = (after_v - rested_v) / current
            held = amperes is None
            done = (
                elapsed >= seconds
                or (held and current <= until)
                or (not held and volts is not None and (after_v - volts) * current >= 0)
                or (soc is not None and (self.soc - soc) * current >= 0)
            )
            if done or elapsed % self.interval_s == 0:
                # held at a voltage, the current is that of now
                self._log(step, elapsed, current, volts if held and volts else after_v)

    def _tick(self, current: float) -> None:
        decay = math.exp(-_TICK_S / self.pair_s)
        self._pair_v = self._pair_v * decay + current * self.pair_ohm * (1 - decay)
        self.soc += current * _TICK_S / 3600 / self.capacity_ah

    def _terminal(self, current: float) -> float:
        return open_circuit_v(self.soc) + self._pair_v + current * self.series_ohm

    def _count(self, truth: Truth, current: float, volts: float) -> None:
        charge = abs(current) * _TICK_S / 3600
        self._time_s += _TICK_S
        if current > 0:
            truth.charge_ah += charge
            truth.charge_wh += charge * volts
        elif current < 0:
            truth.discharge_ah += charge
            truth.discharge_wh += charge * volts
        side = 0 if current > 0 else 1
        self._counters[side] += charge
        self._counters[side + 2] += charge * volts

    def _log(self, step: int, elapsed: float, current: float, volts: float) -> None:
        stamp = (_START + timedelta(seconds=self._time_s)).strftime("%Y-%m-%dT%H:%M:%S.%f")
        self.rows.append((
            len(self.rows) + 1, self._time_s, stamp, elapsed, step, self.cycle,
            round(current, 6), round(volts, 6), *(round(count, 9) for count in self._counters),
        ))  # fmt: skip

    def _peak(self, truth: Truth, amperes: float) -> None:
        # The pair is settled where the peak is, so the curve is the open-circuit one, shifted.
        soc = min((n / 20_000 for n in range(4_000, 18_000)), key=open_circuit_slope_v)
        volts = open_circuit_v(soc) + amperes * (self.series_ohm + self.pair_ohm)
        direction = "charge" if amperes > 0 else "discharge"
        truth.peaks[direction] = (volts, self.capacity_ah / open_circuit_slope_v(soc))


def whole_cycles(interval_s: float, cycles: int) -> Cell:
    """Full cycles: C/2 to 4.2 V, held to C/20, 1C to 2.9 V, rests between, a little aged each."""
    cell = Cell(interval_s)
    for number in range(1, cycles + 1):
        cell.cycle = number
        cell.rest(1, 1200)
        cell.constant_current(2, 1.0, volts=4.2)
        cell.constant_voltage(3, 4.2, until_amperes=0.1)
        cell.rest(4, 1200)
        cell.constant_current(5, -2.0, volts=2.9)
        cell.rest(6, 1200)
        cell.age(0.997, 1.02)
    return cell


def swings(interval_s: float, ends: Iterable[tuple[float, float]], numbered: bool = True) -> Cell:
    """Cycles between states of charge, lower and upper, at C/2 without holding the voltage."""
    cell = Cell(interval_s)
    cell.rest(1, 600)
    for number, (low, high) in enumerate(ends, start=1):
        cell.cycle = number if numbered else 1
        cell.constant_current(2, 1.0, soc=high)
        cell.rest(3, 300)
        cell.constant_current(4, -1.0, soc=low)
        cell.rest(5, 300)
    return cell


def partial_ends(cycles: int, every: int) -> Sequence[tuple[float, float]]:
    """30 to 80 %, of changing depth; every so often down to 5 and up to 95 %."""
    return [
        (0.05, 0.95) if number % every == 0 else (0.30 + 0.02 * (number % 4), 0.80)
        for number in range(1, cycles + 1)
    ]
