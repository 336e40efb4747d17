"""Cells for the benchmark of health: simulated ones with their truth, and CALCE's CS2_35.

Of every cycle the constant-current segments are kept, whole; `handed` cuts the windows out of them
that the kernel is given.
"""

from __future__ import annotations

import datetime as dt
import io
import random
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.sources.simulation import truth
from pipeline.sources.simulation.chemistry import CHEMISTRIES as CHEMISTRIES_OF
from pipeline.sources.simulation.config import FleetConfig
from pipeline.sources.simulation.fleet import Fleet
from pipeline.sources.simulation.step_life import Life
from transforms.health import CycleSegments, Known, Segment, segments

F64 = npt.NDArray[np.float64]

WIDTHS = (0.1, 0.15, 0.2, 0.25, 0.3)
WHOLE_CYCLES = 3  # that a commissioned cell is handed whole in the beginning


@dataclass(frozen=True)
class Whole:
    """A cycle: its whole segments, what else is known of it, and its true state of health."""

    segments: list[Segment]
    throughput_ah: float
    ended_at_s: float
    temperature_c: float | None
    soh: float
    capacity_ah: float | None = None


@dataclass(frozen=True)
class Cell:
    """A cell with its cycles; `traits` are what tables are split by."""

    name: str
    known: Known
    traits: dict[str, str]
    cycles: list[Whole]


@dataclass(frozen=True)
class Windows:
    """Which windows of a cell's segments are handed on.

    Attributes:
        width: share of the nominal capacity.
        place: where in what is left of the segment, 0 to 1.
        wander: by how much the place moves from cycle to cycle, either way.
        whole: cycles that are handed whole in the beginning.
        directions: charge, discharge or both.
    """

    width: float
    place: float
    wander: float
    whole: int
    directions: str

    @classmethod
    def draw(cls, dice: random.Random) -> Windows:
        return cls(
            width=dice.choice(WIDTHS),
            place=dice.random(),
            wander=dice.choice((0.0, 0.1, 0.5)),
            whole=dice.choice((WHOLE_CYCLES, 0)),
            directions=dice.choice(("charge", "discharge", "both")),
        )

    @property
    def traits(self) -> dict[str, str]:
        low = min(int(self.place * 3.0), 2) / 3.0
        return {
            "window width": f"{self.width:.0%}",
            "window place": "wandering" if self.wander > 0.2 else
            f"{low:.2f} to {low + 1.0 / 3.0:.2f} of the segment",
            "direction": self.directions,
            "beginning": "whole cycles" if self.whole else "windows only",
        }  # fmt: skip


def handed(
    cell: Cell, windows: Windows, seed: int = 0, check_up_every: int = 0
) -> Iterator[tuple[Whole, CycleSegments]]:
    """Every cycle as it is and as it is handed to the kernel."""
    dice = random.Random(f"{seed}/{cell.name}")
    for number, whole in enumerate(cell.cycles):
        place = windows.place + dice.uniform(-windows.wander, windows.wander)
        place = abs(place) if place <= 1.0 else 2.0 - place
        check_up = bool(check_up_every) and number % check_up_every == 0 and number > 0
        given: list[Segment] = []
        for segment in whole.segments:
            if number < windows.whole:
                given.append(segment)
                continue
            kind = "charge" if segment.direction > 0.0 else "discharge"
            if windows.directions not in (kind, "both"):
                continue
            share = min(windows.width * cell.known.nominal_ah / float(segment.ah[-1]), 1.0)
            part = segment.part((1.0 - share) * place, (1.0 - share) * place + share)
            if part is not None:
                given.append(part)
        full = check_up or number < windows.whole
        yield (
            whole,
            CycleSegments(
                given, whole.capacity_ah if full else None, whole.throughput_ah, whole.ended_at_s,
                whole.temperature_c,
            ),
        )  # fmt: skip


CHEMISTRIES = ("default", "lco", "nmc", "lfp", "electrodes")
PROTOCOLS = ("partial", "check_up", "cycling")
NOISES_MV = (0.3, 0.3, 1.0, 1.0, 2.0, 5.0)
WARMTHS = ("room", "room", "room", "season", "cold", "hot")


def simulated(seed: int, number: int, cycles: int | None = None) -> Cell:
    """The cell with this number of the benchmark with this seed."""
    dice = random.Random(f"health/{seed}/{number}")
    chemistry = CHEMISTRIES[number % len(CHEMISTRIES)]
    protocol = PROTOCOLS[number // len(CHEMISTRIES) % len(PROTOCOLS)]
    sampling = dice.choice(("regular", "regular", "irregular", "voltage"))
    noise, warmth = dice.choice(NOISES_MV), dice.choice(WARMTHS)
    lost = dice.uniform(0.08, 0.30)
    given: dict[str, Any] = {
        "equipment": 1, "machines": 0, "seed": dice.randrange(1, 10**6), "noise": noise,
        "interval": dice.choice((10, 30, 30, 60, 60, 120)), "protocol": protocol,
    }  # fmt: skip
    own = cycles or dice.choice((100, 140))
    if chemistry == "electrodes":
        # Electrodes that lose lithium and material: full cycles only, from which windows are cut.
        given |= {"protocol": "cycling", "cycles": cycles or 330}
        protocol, sampling = "cycling", "regular"
        warmth = warmth if warmth in ("room", "cold", "hot") else "room"
        given["interval"] = max(given["interval"], 60)
    else:
        given |= {"chemistry": chemistry, "cycles": own, "sampling": sampling}
        given["fade"] = round(100.0 * lost / own * 100.0, 3)
        if dice.random() < 0.3:
            given["knee"] = int(own * dice.uniform(0.7, 0.95))
            given["fade"] = round(given["fade"] / 3.0, 3)
        if protocol in ("partial", "check_up"):
            given["reference_every"] = dice.choice((20, 50))
        if protocol == "partial":
            low, high = dice.choice(((0.3, 0.8), (0.1, 0.6), (0.5, 0.9), (0.2, 0.95)))
            given |= {"soc_min": low, "soc_max": high}
        given["cycles"] = own
    given |= {
        "room": {}, "cold": {"temperature": 5}, "hot": {"temperature": 40},
        "season": {"temperature_swing": 8, "temperature_period": 20},
    }[warmth]  # fmt: skip
    config = FleetConfig.parse({name: str(value) for name, value in given.items()})
    traits = {
        "chemistry": chemistry, "protocol": protocol, "sampling": sampling,
        "noise": f"{noise:g} mV", "temperature": warmth,
    }  # fmt: skip
    kind = None if chemistry == "electrodes" else chemistry
    return _simulate(f"{seed}/{number}", config, traits, "default" if kind is None else kind)


def _simulate(name: str, config: FleetConfig, traits: dict[str, str], chemistry: str) -> Cell:
    fleet = Fleet(config)
    blocks = [columns for block in fleet.blocks(200_000) for columns in fleet.columns(block)]
    read = {key: np.concatenate([part[key] for part in blocks]) for key in blocks[0]}
    about = CHEMISTRIES_OF[config.chemistry]
    known = Known(config.nominal_ah, about.v_min, about.v_max, chemistry)
    soh = _true_soh(config, fleet)
    new = np.flatnonzero(np.diff(read["cycle_index"], prepend=-1) != 0)
    ends = np.append(new[1:], len(read["cycle_index"]))
    time = read["recorded_at_us"] / 1e6
    moved = np.zeros(len(time))
    for counter in ("charge_capacity_ah", "discharge_capacity_ah"):
        step = np.diff(read[counter], prepend=0.0)
        moved += np.where(step >= 0.0, step, read[counter])
    through = np.cumsum(moved)
    cycles = []
    for number, (first, end) in enumerate(zip(new.tolist(), ends.tolist(), strict=True)):
        own = slice(first, end)
        found = segments(
            time[own], read["voltage_v"][own], read["current_a"][own], moved[own],
            read["temperature_c"][own], known.nominal_ah, known.v_max_v,
        )  # fmt: skip
        warm = read["temperature_c"][own]
        span = np.diff(time[own], append=time[end - 1])
        cycles.append(
            Whole(found, float(through[end - 1]), float(time[end - 1]),
                  float(np.average(warm, weights=np.maximum(span, 1e-3))), float(soh[number]))
        )  # fmt: skip
    return Cell(name, known, traits, cycles)


def _true_soh(config: FleetConfig, fleet: Fleet) -> F64:
    """Capacity as a share of the first cycle's, at 1C and the mean temperature of the fleet.

    That is the simulator's `capacity_ah` / the first cycle's where neither rate nor temperature
    changes; where they do, they are no part of a state of health.
    """
    if not config.in_steps:
        capacity = np.array(truth.of(config).cycles.column("capacity_ah").to_pylist())
        return np.asarray(capacity / capacity[0])
    life = Life(config, 0, fleet.keys[:1])
    capacity = np.array(
        [
            truth._capacity(life, life.ageing.at(cycle, config.temperature), config.nominal_ah)
            for cycle in range(config.cycles)
        ]
    )
    return np.asarray(capacity / capacity[0])


def calce(folder: Path) -> Cell:
    """CS2_35: valid cycles, from limit to limit, in order of time; its chemistry is not told."""
    with zipfile.ZipFile(folder / "CS2_35.zip") as archive:
        names = [name for name in archive.namelist() if name.endswith(".xlsx")]
        tests = [_workbook(archive.read(name)) for name in names]
    tests.sort(key=lambda rows: (rows[0, 0], len(rows)))
    known = Known(1.1, 2.7, 4.2, None)
    wholes: list[Whole] = []
    through, seen = 0.0, set()
    for rows in tests:
        key = (rows[0, 0], rows[-1, 0], len(rows))
        if key in seen:
            continue  # the same test, uploaded twice
        seen.add(key)
        counters = rows[:, 5:7]
        moved = np.diff(counters, axis=0, prepend=counters[:1])
        moved = np.where(moved >= 0.0, moved, counters).sum(axis=1)
        through_rows = through + np.cumsum(moved)
        through = float(through_rows[-1])
        discharged = np.diff(rows[:, 6], prepend=rows[0, 6])
        time = rows[0, 0] + rows[:, 1] - rows[0, 1]
        for index in np.unique(rows[:, 2]):
            own = np.flatnonzero(rows[:, 2] == index)
            found = segments(
                time[own], rows[own, 4], rows[own, 3], moved[own], None, known.nominal_ah,
                known.v_max_v,
            )  # fmt: skip
            capacity = float(np.maximum(discharged[own], 0.0).sum())
            valid = _valid(rows[own])
            wholes.append(
                Whole(found, float(through_rows[own[-1]]), float(time[own[-1]]), None,
                      capacity if valid else float("nan"), capacity if valid else None)
            )  # fmt: skip
    first = float(np.median([w.soh for w in wholes if np.isfinite(w.soh)][1:6]))
    cycles = [
        Whole(w.segments, w.throughput_ah, w.ended_at_s, None, w.soh / first, w.capacity_ah)
        for w in wholes
    ]
    return Cell("CS2_35", known, {"chemistry": "CS2_35"}, cycles)


def _valid(rows: F64) -> bool:
    """Whether the cycle charges to a current near the cut-off and discharges to the limit."""
    volts, amps = rows[:, 4], rows[:, 3]
    charging = np.flatnonzero(amps > 0.01)
    discharging = np.flatnonzero(amps < -0.01)
    if not len(charging) or not len(discharging):
        return False
    return bool(volts[discharging].min() <= 2.75 and amps[charging[-1]] <= 0.055)


_COLUMNS = (
    "Date_Time", "Test_Time(s)", "Cycle_Index", "Current(A)", "Voltage(V)", "Charge_Capacity(Ah)",
    "Discharge_Capacity(Ah)",
)  # fmt: skip


def _workbook(content: bytes) -> F64:
    """The columns above, (n, 7)."""
    from python_calamine import CalamineWorkbook

    book = CalamineWorkbook.from_filelike(io.BytesIO(content))
    out: list[list[float]] = []
    for sheet in book.sheet_names:
        if not sheet.startswith("Channel"):
            continue
        head, *rows = book.get_sheet_by_name(sheet).to_python()
        at = [head.index(name) for name in _COLUMNS]
        out += [[_seconds(row[at[0]]), *(float(row[i]) for i in at[1:])] for row in rows]
    return np.array(out)


def _seconds(value: Any) -> float:
    if isinstance(value, dt.datetime):
        return value.replace(tzinfo=dt.UTC).timestamp()
    if isinstance(value, dt.date):  # exactly midnight
        return dt.datetime(value.year, value.month, value.day, tzinfo=dt.UTC).timestamp()
    return float(value) * 86_400.0
