"""Draws cells whose cycles begin, end and are logged in every odd way, as a cycler's files."""

from __future__ import annotations

import csv
import math
import random
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np

from tests.integration.test_incremental_capacity import OXIDE, PHOSPHATE

HEADER = ("Date_Time", "Test_Time(s)", "Step_Time(s)", "Cycle_Index", "Step_Index", "Current(A)",
          "Voltage(V)")  # fmt: skip
_START = datetime(2024, 3, 1)  # noqa: DTZ001 - a cycler's clock has no zone


class OddCell:
    """One cell: what it does and how that is logged is drawn from its number."""

    def __init__(self, number: int) -> None:
        self.name = f"odd_{number:03d}"
        self.dice = dice = random.Random(number)
        chemistry = dice.choice((OXIDE, OXIDE, PHOSPHATE))
        self.volts = np.linspace(chemistry.low - 0.4, chemistry.high + 0.4, 20_001)
        self.charges = chemistry.charge(self.volts)
        self.charges -= np.interp(chemistry.low, self.volts, self.charges)
        self.low, self.high = chemistry.low, chemistry.high
        self.held = dice.choice((0.0, 0.9)) * float(np.interp(self.high, self.volts, self.charges))
        self.r0 = dice.choice((0.05, 0.05, 0.05, 0.15, -0.02))
        self.r1, self.tau = dice.choice((0.0, 0.02)), dice.choice((5.0, 30.0, 90.0))
        self.noise = dice.choice((0.0, 0.0, 0.0001, 0.001))
        self.step_v = dice.choice((0.0, 0.0, 0.0001, 0.001, 0.005, 0.01))
        self.every = dice.choice((2.0, 5.0, 10.0, 30.0, 60.0))
        self.early = dice.choice(((), (), (0.5, 1.0, 10.0, 30.0)))
        self.late_share = dice.choice((0.0, 0.0, 0.5, 1.0))
        self.late_s = dice.choice((0.0, 0.05, 0.5, 3.0))
        self.step_clock = dice.choice(("exact", "exact", "none", "other", "slow"))
        self.whole_seconds = dice.random() < 0.3
        self.numbered = dice.random() < 0.7
        self.missing = dice.choice((0.0, 0.0, 0.05))
        self.clock, self.slow_v, self.step, self.amps, self.cycle = 0.0, 0.0, 0, 0.0, 1
        self.rows: list[tuple[str | float, ...]] = []

    def run(
        self, amps: float, seconds: float, until: float | None = None, decay: float = 0.0
    ) -> None:
        """A step: constant current, or one that decays at a rate per second; or until a voltage."""
        self.step += 1
        dice = self.dice
        if self.rows and dice.random() < self.late_share:
            self._log(self.late_s, self.amps, self._voltage(self.amps))
        # Not quite regular: at exactly a tenth of the charge, rounding decides what is the noise.
        regular = [
            at + dice.uniform(0.0, 0.01) * self.every
            for at in np.arange(self.every, seconds + self.every / 2, self.every).tolist()
        ]
        before = 0.0
        for at in sorted({*self.early, *regular}):
            if at <= self.late_s:
                continue
            now = amps * math.exp(-decay * at)
            self.held += now * (at - before) / 3600.0
            target = now * self.r1
            self.slow_v = target + (self.slow_v - target) * math.exp(-(at - before) / self.tau)
            voltage = self._voltage(now)
            before, self.amps = at, now
            if dice.random() >= self.missing:
                self._log(at, now, voltage)
            if until is not None and (voltage - until) * amps >= 0.0:
                break
        self.clock += before

    def live(self) -> None:
        """Two cycles and a half."""
        dice = self.dice
        if dice.random() < 0.5:
            self.rest()
        for self.cycle in (1, 2, 3):
            if self.held < 0.5:
                self.charge()
                self.rest()
            if self.cycle < 3 or dice.random() < 0.5:
                self.discharge()
                self.rest()

    def rest(self) -> None:
        """Of any length; now and then nobody logs its end."""
        seconds = self.dice.choice((0.0, 4.0, 60.0, 400.0, 1800.0))
        if seconds:
            self.run(0.0, seconds)
        if self.dice.random() < 0.15:
            self.clock += 5000.0

    def charge(self) -> None:
        """In one stage or several, with or without a held voltage after it."""
        dice = self.dice
        rate = dice.choice((0.4, 1.0))
        if dice.random() < 0.4:
            self.run(1.6 * rate, 3600.0, until=self.low + 0.7 * (self.high - self.low))
            self.step -= dice.random() < 0.5  # the next stage has the same number
        self.run(rate, 20_000.0, until=self.high)
        if dice.random() < 0.6:
            self.step -= dice.random() < 0.5
            self.run(rate, 1800.0, decay=1 / 600.0)

    def discharge(self) -> None:
        """In one go, in two steps, with jumps, decaying, or in pulses."""
        dice = self.dice
        rate = dice.choice((0.03, 0.4, 1.0, 2.0))
        kind = dice.choice(("whole", "whole", "two", "jumps", "decays", "pulses", "ramp"))
        if kind == "two":
            self.run(-rate, dice.choice((5.0, 20.0, 600.0)))
            self.run(-1.5 * rate, 20_000.0, until=self.low)
        elif kind == "jumps":
            for _ in range(6):
                self.run(-rate * dice.choice((1.0, 1.5)), dice.choice((5.0, 20.0, 900.0)))
                self.step -= 1
            self.step += 1
        elif kind == "decays":
            self.run(-rate, 3000.0, decay=1 / 300.0)
        elif kind == "pulses":
            for _ in range(4):
                self.run(-rate, 600.0)
                self.run(0.0, 600.0)
        elif kind == "ramp":
            self.run(-rate, 12_000.0, until=self.low, decay=1 / 20_000.0)
        else:
            self.run(-rate, 20_000.0, until=self.low)

    def write(self, folder: Path) -> None:
        """Its file, below the folder, under its own name."""
        self.live()
        without = {"Step_Time(s)"} if self.step_clock == "none" else set()
        without |= set() if self.numbered else {"Step_Index"}
        names = [name for name in HEADER if name not in without]
        (folder / self.name).mkdir(parents=True)
        with (folder / self.name / "test.csv").open("w", newline="") as file:
            table = csv.DictWriter(file, names, extrasaction="ignore")
            table.writeheader()
            table.writerows(dict(zip(HEADER, row, strict=True)) for row in self.rows)

    def _voltage(self, amps: float) -> float:
        voltage = float(np.interp(self.held, self.charges, self.volts))
        voltage += amps * self.r0 + self.slow_v + self.dice.gauss(0.0, self.noise)
        return round(voltage / self.step_v) * self.step_v if self.step_v else voltage

    def _log(self, at: float, amps: float, voltage: float) -> None:
        clock = self.clock + at
        stamp = _START + timedelta(seconds=round(clock) if self.whole_seconds else clock)
        of_step = {"other": at + 5000.0, "slow": 0.5 * at}.get(self.step_clock, at)
        self.rows.append(
            (
                stamp.isoformat(sep=" ", timespec="milliseconds"),
                round(clock, 4),
                round(of_step, 4),
                self.cycle,
                self.step,
                round(amps, 6),
                round(voltage, 7),
            )
        )
