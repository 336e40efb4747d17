"""Draws a test (protocol, sampling, start) and logs a cell's run of it as a cycler would."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tests.fuzz.cell import Order, Step, run
from tests.fuzz.draw import Draw

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

INTERVALS = (1, 2, 5, 10, 15, 20, 30, 60, 120, 300, 600)
CAPACITIES = (0.0005, 0.003, 0.05, 1.1, 2.5, 5.0, 50.0)
KINDS = {"charge": "C", "hold": "C", "discharge": "D", "rest": "R"}


@dataclass(frozen=True)
class Log:
    """The rows a cycler logged of a test, n of them; counters run over the whole test.

    Attributes:
        nominal_ah: of the cell.
        start: of the test, UTC.
        at_s: (n,) since the test began.
        step_s: (n,) since the step began.
        cycle: (n,) number of the cycle, from 1.
        step: (n,) running number of the step, from 1.
        line: (n,) the step's number in the schedule, the same in every cycle.
        kind: (n,) `charge`, `hold`, `discharge` or `rest`.
        current_a: (n,) positive charges.
        voltage_v, temperature_c: (n,).
        charge_ah, discharge_ah, charge_wh, discharge_wh: (n,) since the test began.
        step_began, cycle_began: (4, n) those four when the row's step or cycle began.
        frequency_hz: (n,) NaN but in rows of an impedance spectrum.
        wall_shift_s: (n,) what the wall clock is off by.
        dip_ah: (n,) what the counters show too little for a moment.
        cycles: charge and discharge of every cycle in Ah, exact.
        is_full: whether every cycle starts with a charge and swings by most of the capacity.
        interval_s: usual time between two rows.
    """

    nominal_ah: float
    start: dt.datetime
    at_s: Floats
    step_s: Floats
    cycle: Ints
    step: Ints
    line: Ints
    kind: NDArray[np.str_]
    current_a: Floats
    voltage_v: Floats
    temperature_c: Floats
    charge_ah: Floats
    discharge_ah: Floats
    charge_wh: Floats
    discharge_wh: Floats
    step_began: Floats
    cycle_began: Floats
    frequency_hz: Floats
    wall_shift_s: Floats
    dip_ah: Floats
    cycles: tuple[tuple[float, float], ...]
    is_full: bool
    interval_s: float

    def __len__(self) -> int:
        return len(self.at_s)

    @property
    def counters(self) -> Floats:
        """(4, n): charge and discharge in Ah, charge and discharge in Wh, since the test began."""
        return np.stack((self.charge_ah, self.discharge_ah, self.charge_wh, self.discharge_wh))

    def counted(self, grain: str) -> Floats:
        """(4, n) as cyclers show them: since the `test`, `cycle` or `step` began, with dips."""
        began = {"test": 0.0, "cycle": self.cycle_began, "step": self.step_began}[grain]
        shown = self.counters - began
        is_first = np.array([self.kind != "discharge", self.kind == "discharge"])
        dipped = np.where(is_first, self.dip_ah, 0.0)
        shown[:2] = np.maximum(shown[:2] - dipped, 0.0)
        return shown


def draw_log(
    draw: Draw,
    *,
    fast: bool = True,
    only_discharge: bool = False,
    discharge_first: bool | None = None,
    first_rows: tuple[str, ...] = ("interval", "zero", "second"),
    least_ah: float = 0.0,
) -> Log:
    """A test and its rows.

    Args:
        draw: makes the choices.
        fast: whether ten rows a second are possible.
        only_discharge: a single discharge, as the public sets of one file per discharge have it.
        discharge_first: whether the first step discharges; None leaves it to chance.
        first_rows: when a step's first row may stand.
        least_ah: smallest capacity that the layout can hold.
    """
    nominal = draw.choose("capacity_ah", [ah for ah in CAPACITIES if ah >= least_ah])
    is_fast = fast and draw.chance("ten_hertz", 0.12)
    starts_low = (
        draw.chance("discharge_first", 0.15) if discharge_first is None else discharge_first
    )
    if is_fast:
        orders, is_full = _pulses(draw), False
    elif only_discharge:
        rate = draw.choose("rate", (0.2, 0.5, 1.0, 2.0))
        orders, is_full = [Order(1, "discharge", rate)], False
    else:
        orders, is_full = _cycles(draw, starts_low)
    steps = run(orders, nominal)
    log = _sampled(draw, steps, nominal, is_fast, first_rows)
    return replace(log, is_full=is_full and not starts_low)


def _pulses(draw: Draw) -> list[Order]:
    count = draw.whole(3, 5)
    orders = []
    for at in range(count):
        rate = draw.pick((0.5, 1.0, 2.0))
        length = float(draw.whole(3, 6))
        orders += [
            Order(1, "discharge" if at % 2 == 0 else "charge", rate, length),
            Order(1, "rest", 0.0, float(draw.whole(2, 4))),
        ]
    return [Order(1, "charge", 0.5, 8.0), *orders]


def _cycles(draw: Draw, discharge_first: bool) -> tuple[list[Order], bool]:
    charge = draw.choose("charge_rate", (0.04, 0.1, 0.2, 0.5, 1.0, 2.0))
    discharge = draw.choose("discharge_rate", (0.04, 0.1, 0.2, 0.5, 1.0, 2.0))
    slow = min(charge, discharge) < 0.15
    cycles = draw.choose("cycles", (1, 2) if slow else (1, 2, 3, 4))
    is_full = not draw.chance("partial", 0.25)
    held = is_full and draw.chance("cv", 0.5)
    rest = draw.choose("rest_s", (0.0, 300.0, 1800.0))
    orders = []
    for cycle in range(1, cycles + 1):
        # partial cycles take in a little more than they give, so that they never run empty
        share = 1e9 if is_full else draw.between(0.2, 0.5)
        one = [Order(cycle, "charge", charge, share * 3600.0 / charge)]
        if held:
            one.append(Order(cycle, "hold", 0.02 if charge <= 0.04 else 0.05))
        if rest:
            one.append(Order(cycle, "rest", 0.0, rest))
        other = [Order(cycle, "discharge", discharge, share * 0.9 * 3600.0 / discharge)]
        if rest:
            other.append(Order(cycle, "rest", 0.0, rest))
        orders += [*other, *one] if discharge_first else [*one, *other]
    return orders, is_full


def _sampled(
    draw: Draw, steps: list[Step], nominal: float, is_fast: bool, first_rows: tuple[str, ...]
) -> Log:
    total = steps[-1].end_s
    wanted = total / draw.whole(120, 380)
    interval = 0.1 if is_fast else float(min((i for i in INTERVALS if i >= wanted), default=600))
    sampling = "ten_hertz" if is_fast else draw.choose("sampling", ("regular", "irregular", "dv"))
    first_row = "interval" if is_fast else draw.choose("first_row", first_rows)
    swing = draw.between(0.012, 0.04)
    # most cyclers log a short step more often; some have one interval for all
    is_coarse = is_fast or draw.chance("one_interval", 0.1)
    draw.recipe["interval_s"] = interval
    parts: list[dict[str, np.ndarray]] = []  # type: ignore[type-arg]
    counters = np.zeros(4)
    cycle_began = np.zeros(4)
    cycle, lines = 0, {}
    for number, step in enumerate(steps, 1):
        if step.order.cycle != cycle:
            cycle, cycle_began, lines = step.order.cycle, counters.copy(), {}
        line = len(lines) + 1
        lines[line] = step
        own = interval if is_coarse else min(interval, _finer(float(step.at_s[-1]) / 15.0))
        at = _moments(draw, step, own, sampling, swing, first_row)
        net = np.interp(at, step.at_s, step.net_ah)
        energy = np.interp(at, step.at_s, step.net_wh)
        into = step.order.kind in ("charge", "hold")
        flowed = np.zeros((4, at.size))
        flowed[0 if into else 1], flowed[2 if into else 3] = np.abs(net), np.abs(energy)
        current = np.interp(at, step.at_s, step.current_a)
        rows = at.size
        parts.append(
            {
                "at_s": step.start_s + at,
                "step_s": at,
                "cycle": np.full(rows, cycle),
                "step": np.full(rows, number),
                "line": np.full(rows, line),
                "kind": np.full(rows, step.order.kind, dtype="<U9"),
                "current_a": current,
                "voltage_v": np.interp(at, step.at_s, step.voltage_v),
                "temperature_c": 25.0 + 3.0 * np.abs(current) / nominal + 0.3 * np.sin(at / 400.0),
                "counters": counters[:, None] + flowed,
                "step_began": np.repeat(counters[:, None], rows, axis=1),
                "cycle_began": np.repeat(cycle_began[:, None], rows, axis=1),
            }
        )
        counters = counters + np.array(
            [abs(step.ah), 0, abs(float(step.net_wh[-1])), 0]
            if into
            else [0, abs(step.ah), 0, abs(float(step.net_wh[-1]))]
        )
    joined = {name: np.concatenate([part[name] for part in parts], axis=-1) for name in parts[0]}
    rows = joined["at_s"].size
    charge_ah, discharge_ah, charge_wh, discharge_wh = joined.pop("counters")
    numbers = sorted({step.order.cycle for step in steps})
    return Log(
        nominal_ah=nominal,
        start=_start(draw),
        charge_ah=charge_ah,
        discharge_ah=discharge_ah,
        charge_wh=charge_wh,
        discharge_wh=discharge_wh,
        frequency_hz=np.full(rows, np.nan),
        wall_shift_s=np.zeros(rows),
        dip_ah=np.zeros(rows),
        cycles=tuple(
            (
                sum(s.ah for s in steps if s.order.cycle == n and s.ah > 0),
                -sum(s.ah for s in steps if s.order.cycle == n and s.ah < 0),
            )
            for n in numbers
        ),
        is_full=True,
        interval_s=interval,
        **joined,
    )


def _finer(seconds: float) -> float:
    """The longest usual interval that is no longer than this."""
    return float(max((i for i in INTERVALS if i <= seconds), default=1))


def _moments(
    draw: Draw, step: Step, interval: float, sampling: str, swing: float, first_row: str
) -> Floats:
    """When a step was logged, in seconds since it began: its end always."""
    end = float(step.at_s[-1])
    if sampling == "dv":
        moved = np.concatenate(([0.0], np.cumsum(np.abs(np.diff(step.voltage_v))))) / swing
        passed = np.floor(moved) + np.floor(step.at_s / (4.0 * interval))
        if step.order.kind == "hold":
            passed = passed + np.floor(30.0 * (1.0 - step.current_a / step.current_a[0]))
        at = step.at_s[1:][np.diff(passed) > 0]
        # no finer than the clock of a cycler that logs so
        at = np.unique(np.round(at, 1))
    else:
        count = int(end / interval)
        at = np.arange(1, count + 1) * interval
        if sampling == "irregular":
            at = at + interval * np.array([draw.between(-0.4, 0.4) for _ in range(count)])
            at = np.round(at, 2)
    at = at[(at > 0) & (at < end - 0.05 * interval)]
    first = {"interval": [], "zero": [0.0], "second": [1.0]}[first_row]
    if first and first[0] < end and (not at.size or first[0] < at[0]):
        at = np.concatenate((first, at))
    found: Floats = np.concatenate((at, [end]))
    return found


def _start(draw: Draw) -> dt.datetime:
    day = dt.datetime(draw.whole(2016, 2025), draw.whole(1, 12), draw.whole(1, 28), tzinfo=dt.UTC)
    return day + dt.timedelta(seconds=draw.whole(0, 86399))
