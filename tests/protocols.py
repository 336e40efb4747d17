"""Cells of known truth, cycled by protocols that differ, written as a cycler's CSV files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
COLUMNS = (
    "Data_Point", "Test_Time(s)", "Date_Time", "Step_Time(s)", "Cycle_Index", "Step_Index",
    "Current(A)", "Voltage(V)", "Charge_Capacity(Ah)", "Discharge_Capacity(Ah)",
    "Charge_Energy(Wh)", "Discharge_Energy(Wh)", "Temperature(C)",
)  # fmt: skip
CYCLE = ("Cycle_Index", "Step_Index", "Step_Time(s)")
COUNTERS = tuple(name for name in COLUMNS if "Capacity" in name or "Energy" in name)
UPPER, LOWER, CUTOFF = 4.2, 2.7, 0.1
START = datetime(2024, 3, 1, 9, tzinfo=UTC)


def layered_oxide(share: Floats) -> Floats:
    """Open-circuit voltage, V, over the state of charge 0..1 (any shape): sloping, two waves."""
    ends = 0.6 * share + 0.1 * share**3 - 0.6 * np.exp(-share / 0.03)
    waves = 0.04 * np.tanh((share - 0.4) / 0.04) + 0.03 * np.tanh((share - 0.75) / 0.03)
    out: Floats = 3.43 + ends + waves
    return out


@dataclass
class Cell:
    """A cell with an ohmic part and one RC pair, whose cycler logs every `every` seconds.

    Attributes:
        capacity_ah: between empty and full.
        every: seconds between readings; one more stands at each step's end.
        share: state of charge now, 0 to 1.
        rows: the readings so far, as `COLUMNS` without the record number and the date.
    """

    capacity_ah: float = 2.0
    every: float = 60.0
    share: float = 0.01
    ohm: float = 0.05
    rc_ohm: float = 0.02
    rc_s: float = 30.0
    efficiency: float = 0.999
    voltage: Callable[[Floats], Floats] = layered_oxide
    cycle: int = 1
    clock: float = 0.0
    rc_v: float = 0.0
    temperature: float = 25.0
    counters: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0, 0.0])
    rows: list[tuple[float, ...]] = field(default_factory=list)

    def run(
        self,
        step: int,
        amps: float,
        *,
        seconds: float = 1e6,
        until_v: float | None = None,
        move_ah: float | None = None,
        early: Sequence[float] = (),
        every: float | None = None,
    ) -> float:
        """Constant current (0: a rest) until a time, a voltage or an amount; returns Ah moved."""
        most = seconds if move_ah is None else min(seconds, 3600.0 * move_ah / abs(amps))
        if amps > 0:
            most = min(most, 3600.0 * (1.0 - self.share) * self.capacity_ah / amps)
        elif amps < 0:
            most = min(most, 3600.0 * self.share * self.capacity_ah / -amps)
        time = np.append(np.arange(1.0, np.floor(most) + 1.0), most)
        return self._log(step, time, np.full(time.size, amps), until_v, early, every)

    def hold(self, step: int, volts: float, until_a: float, every: float | None = None) -> float:
        """Constant voltage until the current has fallen to `until_a`; returns Ah moved."""
        share, rc, amps = self.share, self.rc_v, []
        while not amps or amps[-1] > until_a:
            amps.append((volts - float(self.voltage(np.array(share))) - rc) / self.ohm)
            share += self.efficiency * amps[-1] / 3600.0 / self.capacity_ah
            rc += (amps[-1] * self.rc_ohm - rc) / self.rc_s
        time = np.arange(1.0, len(amps) + 1.0)
        return self._log(step, time, np.array(amps), None, (), every, held=volts)

    def _log(
        self,
        step: int,
        time: Floats,
        amps: Floats,
        until_v: float | None,
        early: Sequence[float],
        every: float | None,
        held: float | None = None,
    ) -> float:
        length = np.diff(time, prepend=0.0)
        moved = np.cumsum(amps * length) / 3600.0
        worth = np.where(amps > 0, self.efficiency, 1.0)
        share = self.share + np.cumsum(worth * amps * length) / 3600.0 / self.capacity_ah
        if held is None:
            fading = np.exp(-time / self.rc_s)
            rc = self.rc_v * fading + amps * self.rc_ohm * (1.0 - fading)
            volts = self.voltage(share) + amps * self.ohm + rc
        else:
            volts = np.full(time.size, held)
            rc = held - self.voltage(share) - amps * self.ohm
        stop = time.size - 1
        if until_v is not None:
            over = volts >= until_v if amps[0] > 0 else volts <= until_v
            stop = int(np.argmax(over)) if over.any() else stop
        energy = np.cumsum(volts * amps * length) / 3600.0
        heat = self.temperature + np.cumsum(
            length * (amps**2 * (self.ohm + self.rc_ohm)) * 0.02
        ) * np.exp(-time / 3000.0)
        every = every or self.every
        wanted = sorted({*early, *np.arange(every, time[stop] + every, every)})
        at = np.unique([*np.searchsorted(time, [s for s in wanted if s < time[stop]]), stop])
        for i in at:
            charge, energy_wh = max(moved[i], 0.0), max(energy[i], 0.0)
            out, energy_out = max(-moved[i], 0.0), max(-energy[i], 0.0)
            gained = (charge, out, energy_wh, energy_out)
            now = [had + more for had, more in zip(self.counters, gained, strict=True)]
            self.rows.append(
                (self.clock + time[i], time[i], self.cycle, step, amps[i], volts[i], *now, heat[i])
            )
        self.counters = list(self.rows[-1][6:10])
        self.clock += float(time[stop])
        self.share, self.rc_v = float(share[stop]), float(rc[stop])
        self.temperature = 25.0 + 0.5 * (float(heat[stop]) - 25.0)
        return float(abs(moved[stop]))

    def charge(self, amps: float = 1.0) -> float:
        """A full charge, constant current then constant voltage, and a rest; returns Ah."""
        moved = self.run(1, amps, until_v=UPPER) + self.hold(2, UPPER, CUTOFF)
        self.run(3, 0.0, seconds=600.0)
        return moved

    def discharge(self, amps: float = 2.0) -> float:
        """A full discharge and a rest; returns Ah."""
        moved = self.run(4, -amps, until_v=LOWER, early=(1.0, 10.0, 30.0))
        self.run(5, 0.0, seconds=600.0)
        return moved

    def table(self, omit: Sequence[str] = ()) -> tuple[list[str], list[tuple[object, ...]]]:
        """Header and readings, without the columns named in `omit`."""
        out: list[tuple[object, ...]] = []
        for number, row in enumerate(self.rows, start=1):
            stamp = START + timedelta(seconds=row[0])
            out.append((number, round(row[0], 3), f"{stamp:%Y-%m-%dT%H:%M:%S.%f}", *row[1:]))
        kept = [i for i, name in enumerate(COLUMNS) if name not in omit]
        return [COLUMNS[i] for i in kept], [tuple(row[i] for i in kept) for row in out]

    def write(self, path: Path, omit: Sequence[str] = (), daily: bool = False) -> None:
        """Writes the readings to `path` (a CSV file); with `daily` into a file a day beside it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        header, rows = self.table(omit)
        day = header.index("Date_Time")
        parts: dict[str, list[tuple[object, ...]]] = {}
        for row in rows:
            parts.setdefault(str(row[day])[:10] if daily else "", []).append(row)
        for name, part in parts.items():
            file = path.with_stem(f"{path.stem}_{name}") if name else path
            lines = [",".join(map(str, row)) for row in part]
            file.write_text("\n".join([",".join(header), *lines]) + "\n", encoding="utf-8")
