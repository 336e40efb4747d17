"""Let one cell run steps: constant current until something is reached, constant voltage, rests."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from pipeline.sources.simulation import step_segments
from pipeline.sources.simulation.arrays import Floats
from pipeline.sources.simulation.cell_model import EFFICIENCY, HEAT_OHM, TAU_HEAT_S
from pipeline.sources.simulation.chemistry import Chemistry, Curve
from pipeline.sources.simulation.step_ageing import Now
from pipeline.sources.simulation.step_segments import CURRENT, REST, VOLTAGE, Segment

CHARGE: Final = "charge"
DISCHARGE: Final = "discharge"
EARLY_S: Final = (1.0, 10.0, 30.0)


@dataclass
class Swing:
    """Charge moved between two turning points of a protocol; times as in Segment.

    `from_limit` and `to_limit` say whether it starts and ends at the cell's limits: a charge at the
    lower and the upper one, a discharge the other way round.
    """

    cycle: int
    number: int
    direction: str
    begins_ms: int
    from_limit: bool
    rate_a: float
    before_ah: float = 0.0  # net discharge of the cell's life before it
    ends_ms: int = 0
    net_ah: float = 0.0
    to_limit: bool = False

    @property
    def is_full(self) -> bool:
        """Whether it goes from limit to limit."""
        return self.from_limit and self.to_limit


@dataclass
class Done:
    """What a cell has done since it was last asked."""

    segments: list[Segment] = field(default_factory=list)
    nodes: list[Floats] = field(default_factory=list)
    swings: list[Swing] = field(default_factory=list)


class StepCell:
    """The state of one cell and the steps that change it."""

    def __init__(self, kind: Chemistry, curve: Curve, nominal_ah: float, now: Now) -> None:
        self.kind, self.curve, self.nominal_ah, self.now = kind, curve, nominal_ah, now
        # As delivered: discharged at 1C to its lower limit.
        self.soc = curve.at_voltage(kind.v_min + nominal_ah * (now.r0 + now.r1))
        self.rc_v = self.heat_k = 0.0
        self.ms = 0
        self.charge_ah = self.discharge_ah = self.charge_wh = self.discharge_wh = 0.0
        self.done = Done()
        self._at_limit: str | None = DISCHARGE  # which direction led to the limit it stands at
        self._cycle = self._run = self._swings = 0
        self._step, self._step_ms = 0, 0

    def begin_cycle(self, cycle: int, now: Now) -> None:
        """Opens a cycle index; the cell has aged, the charge in it is the same."""
        self.soc *= self.now.capacity_ah / now.capacity_ah
        self.now, self._cycle, self._run, self._step = now, cycle, -1, 0

    def stand(self, ms: int) -> None:
        """Time without readings, in which the cell comes to rest and cools."""
        self.ms += ms
        self.rc_v *= math.exp(-ms / 1000.0 / self.kind.tau_s)
        self.heat_k *= math.exp(-ms / 1000.0 / TAU_HEAT_S)

    def swing(self, direction: str, rate_c: float) -> Swing:
        """Opens a swing; `close` ends it."""
        limit = CHARGE if direction == DISCHARGE else DISCHARGE
        opened = Swing(self._cycle, self._swings, direction, self.ms, self._at_limit == limit,
                       rate_c * self.nominal_ah)  # fmt: skip
        opened.before_ah = self.discharge_ah - self.charge_ah
        self._swings += 1
        return opened

    def close(self, swing: Swing, at_limit: bool) -> None:
        """Ends a swing, at the limit of its direction or before it."""
        net = self.discharge_ah - self.charge_ah - swing.before_ah
        swing.net_ah = net if swing.direction == DISCHARGE else -net
        swing.ends_ms, swing.to_limit = self.ms, at_limit
        self._at_limit = swing.direction if at_limit else None
        self.done.swings.append(swing)

    def step(self, number: int) -> None:
        """Opens a step of the cycler; segments until the next one belong to it."""
        self._step, self._step_ms = number, self.ms
        self._run += 1

    def rest(self, number: int, seconds: float) -> None:
        """A step without current."""
        self.step(number)
        self.pause(seconds)

    def pause(self, seconds: float) -> None:
        """No current for a while, within the step."""
        self._add(REST, 0.0, round(1000.0 * seconds), 1)

    def current(
        self,
        rate_c: float,
        *,
        until_v: float | None = None,
        ah: float = math.inf,
        seconds: float = math.inf,
        early: int = 1,
    ) -> bool:
        """Constant current until a voltage, a charge or a time; whether the voltage ended it."""  # fmt: skip
        amps = rate_c * self.nominal_ah
        per_s = amps * (EFFICIENCY if amps > 0.0 else 1.0) / (3600.0 * self.now.capacity_ah)
        # The curve's end is the farthest that a cell can go.
        room = (1.0 - self.soc) if amps > 0.0 else -self.soc
        longest = min(seconds, ah * 3600.0 / abs(amps), max(room / per_s, 0.0))
        reached = False
        if until_v is not None:
            sign = 1.0 if amps > 0.0 else -1.0
            steady = amps * (self.now.r0 + self.now.r1)
            beside = self.rc_v - amps * self.now.r1
            one, tau, soc = self.curve.one, self.kind.tau_s, self.soc

            def beyond(t: float) -> bool:
                volts = one(soc + per_s * t) + steady + beside * math.exp(-t / tau)
                return sign * (volts - until_v) >= 0.0

            reached = beyond(longest)
            if reached:
                low, high = 0.0, longest
                if beyond(0.0):
                    high = 0.0
                while high - low > 2e-4:
                    middle = (low + high) / 2.0
                    low, high = (low, middle) if beyond(middle) else (middle, high)
                longest = high
            elif longest >= room / per_s:
                reached = True  # the end of the curve is the limit too
        self._add(CURRENT, amps, round(1000.0 * longest), early)
        return reached

    def hold(self, volts: float, cutoff_c: float, most_c: float) -> None:
        """Charges at constant voltage until the current has fallen to the cut-off."""
        now, amps = self.now, self.nominal_ah
        found = step_segments.held_voltage(
            self.curve, now.r0 + now.r1, now.capacity_ah, self.soc, volts, most_c * amps,
            cutoff_c * amps,
        )  # fmt: skip
        if found is None:
            return
        nodes, ends = found
        nodes[0] += self.ms
        seconds = (nodes[0, -1] - nodes[0, 0]) / 1000.0
        square = float(np.trapezoid(nodes[1] ** 2, nodes[0]) / 1000.0 / seconds)
        segment = self._segment(VOLTAGE, float(nodes[1, 0]), round(1000.0 * seconds), 0)
        segment.volts, segment.nodes = volts, nodes.shape[1]
        segment.settled_k = self._settled(square)
        self.done.nodes.append(nodes)
        self.charge_ah += float(nodes[2, -1])
        self.charge_wh += volts * float(nodes[2, -1])
        self.soc, self.rc_v = ends, cutoff_c * amps * now.r1
        self._pass(segment)

    def _add(self, kind: int, amps: float, duration_ms: int, early: int) -> None:
        if duration_ms <= 0:
            return
        segment = self._segment(kind, amps, duration_ms, early)
        segment.settled_k = self._settled(amps * amps)
        t = duration_ms / 1000.0
        beside = self.rc_v - amps * self.now.r1
        if amps:
            per_s = amps * (EFFICIENCY if amps > 0.0 else 1.0) / (3600.0 * self.now.capacity_ah)
            ends = self.soc + per_s * t
            loss = amps * (self.now.r0 + self.now.r1) * t
            loss += beside * self.kind.tau_s * (1.0 - math.exp(-t / self.kind.tau_s))
            volt_s = (self.curve.area(ends) - self.curve.area(self.soc)) / per_s + loss
            if amps > 0.0:
                self.charge_ah += amps * t / 3600.0
                self.charge_wh += amps * volt_s / 3600.0
            else:
                self.discharge_ah -= amps * t / 3600.0
                self.discharge_wh -= amps * volt_s / 3600.0
            self.soc = ends
        settled = amps * self.now.r1
        self.rc_v = settled + beside * math.exp(-t / self.kind.tau_s)
        self._pass(segment)

    def _settled(self, square_a2: float) -> float:
        """Where the heat settles at a mean square of the current."""
        return square_a2 * (self.now.r0 + self.now.r1) * HEAT_OHM / self.nominal_ah

    def _segment(self, kind: int, amps: float, duration_ms: int, early: int) -> Segment:
        return Segment(
            cycle=self._cycle, run=self._run, step=self._step, kind=kind, swing=self._swings - 1,
            early=early, start_ms=self.ms, step_ms=self._step_ms, duration_ms=duration_ms,
            current_a=amps, volts=0.0, soc=self.soc, rc_v=self.rc_v, heat_k=self.heat_k,
            settled_k=0.0, capacity_ah=self.now.capacity_ah, r0=self.now.r0, r1=self.now.r1,
            charge_ah=self.charge_ah, discharge_ah=self.discharge_ah, charge_wh=self.charge_wh,
            discharge_wh=self.discharge_wh,
        )  # fmt: skip

    def _pass(self, segment: Segment) -> None:
        """Time passes and the cell warms or cools."""
        self.done.segments.append(segment)
        self.ms += segment.duration_ms
        warm = math.exp(-segment.duration_ms / 1000.0 / TAU_HEAT_S)
        self.heat_k = segment.settled_k + (segment.heat_k - segment.settled_k) * warm
