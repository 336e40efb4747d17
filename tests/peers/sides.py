"""Lays the models' figures beside the other tools' figures and the known truth."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.peers import environments
from tests.peers.inputs import CALCE, SWINGS, WHOLE, Input
from tests.running import sql
from tests.services.processes import Unavailable

# What is compared on which cell with which tool; "rows" is a straight line between a file's rows.
COMPARISONS = (
    *((cell, "capacity", tool) for cell in (*WHOLE, *CALCE, "made_partial_30s")
      for tool in ("truth", "cellpy", "beep", "pyprobe") if tool != "truth" or cell not in CALCE),
    *((cell, "resistance", tool) for cell in WHOLE for tool in ("truth", "rows", "pyprobe")),
    *((cell, "resistance", tool) for cell in CALCE for tool in ("rows", "pyprobe", "cellpy", "beep")),
    *((cell, "peaks", tool) for cell in (*WHOLE, *CALCE) for tool in ("truth", "cellpy", "pyprobe")
      if tool != "truth" or cell not in CALCE),
    *((cell, "peaks against truth", tool) for cell in WHOLE for tool in ("cellpy", "pyprobe")),
    *((cell, "equivalent full cycles", "rainflow") for cell in (*WHOLE, *SWINGS, *CALCE)),
)  # fmt: skip

# One figure by what it belongs to: a cycle, or a cycle and a direction.
Figures = Mapping[Any, float | None]


@dataclass(frozen=True)
class Line:
    """A line of the table: one figure of one tool on one file, beside the same of another.

    Attributes:
        cell: the file's cell.
        figure: what is compared.
        tool: whose figure.
        against: what it is compared with: `models`, `truth` for a made cell, or `midrows`, the
            middle between two of the file's rows.
        differences: (tool - other) / other, or tool - other in `unit`.
        missing: how many the other side has and the tool has not.
        alone: how many the tool has and the other side has not.
        allowed: largest difference; None where the definitions differ too much to demand one.
        may_miss: how many may be missing.
        why: where the difference comes from.
        unit: of the differences; empty for relative ones.
    """

    cell: str
    figure: str
    tool: str
    against: str
    differences: tuple[float, ...]
    missing: int
    alone: int
    allowed: float | None
    may_miss: int
    why: str
    unit: str = ""

    @property
    def median(self) -> float:
        """Median difference, with its sign."""
        return statistics.median(self.differences) if self.differences else 0.0

    @property
    def largest(self) -> float:
        """Largest difference, without."""
        return max(map(abs, self.differences), default=0.0)

    @property
    def agrees(self) -> bool:
        """Whether something was compared, nothing is missing, and nothing differs too much."""
        return (
            bool(self.differences)
            and self.missing <= self.may_miss
            and (self.allowed is None or self.largest <= self.allowed)
        )

    def __str__(self) -> str:
        return (
            f"{self.cell:17} {self.figure:28} {self.tool:17} {self.against:7} "
            f"n {len(self.differences):3} -{self.missing} +{self.alone}  median {_number(self.median, self.unit):>10}  "
            f"largest {_number(self.largest, self.unit):>9}  "
            f"allowed {_allowed(self)}{'' if self.agrees else '  DISAGREES'}"
        )


class Ours:
    """The models' figures of one cell.

    Figures of a cycle are by the file's own number of it.
    """

    def __init__(self, warehouse: Path, equipment_id: str) -> None:
        self._warehouse = warehouse
        self._equipment_id = equipment_id

    def has(self, table: str) -> bool:
        """Whether the warehouse has that table."""
        return bool(sql(
            self._warehouse,
            f"SELECT 1 FROM information_schema.tables WHERE table_name = '{table}'",
        ))  # fmt: skip

    def cycles(self, column: str) -> dict[int, float | None]:
        """A column of battery_cycles."""
        return dict(sql(
            self._warehouse,
            f"""SELECT test_cycle, {column} FROM battery_cycles
            WHERE equipment_id = '{self._equipment_id}' ORDER BY cycle_number""",
        ))  # fmt: skip

    @property
    def equivalent_full_cycles(self) -> float:
        """Of the whole file."""
        found: float = sql(
            self._warehouse,
            f"""SELECT equivalent_full_cycles FROM battery_lifetime
            WHERE equipment_id = '{self._equipment_id}'""",
        )[0][0]
        return found

    def peaks(self) -> dict[tuple[int, str], tuple[float, float]]:
        """Volts and Ah/V of the main dQ/dV peak by cycle and direction.

        A cycle with several constant-current stages has a main peak in each; the highest counts.
        """
        return {
            (cycle, direction): (volts, height)
            for cycle, direction, volts, height in sql(
                self._warehouse,
                f"""SELECT cycles.test_cycle, peaks.direction,
                    arg_max(peaks.voltage_v, abs(peaks.dq_dv_ah_per_v)),
                    max(abs(peaks.dq_dv_ah_per_v))
                FROM battery_ica_peaks AS peaks
                JOIN battery_cycles AS cycles USING (equipment_id, cycle_number)
                WHERE peaks.is_main AND equipment_id = '{self._equipment_id}'
                GROUP BY ALL""",
            )
        }


class Sides:
    """One file, the models' figures of it and everybody else's.

    Attributes:
        given: the file.
        ours: the models' figures.
    """

    def __init__(self, given: Input, warehouse: Path) -> None:
        self.given = given
        self.ours = Ours(warehouse, given.equipment_id)
        self._found: dict[str, dict[str, Any]] = {}

    def theirs(self, tool: str) -> dict[str, Any]:
        """A tool's figures, worked out the first time.

        Raises:
            Unavailable: the tool's environment can't be made.
        """
        if tool not in self._found:
            self._found[tool] = environments.figures(tool, self.given.rows, self.given.settings)
        return self._found[tool]

    def compare(self, what: str, tool: str) -> list[Line]:
        """The lines of one of COMPARISONS.

        Raises:
            Unavailable: the tool's environment can't be made, or the warehouse has no such figure.
        """
        if what == "capacity":
            return {
                "truth": self._true_capacity,
                "cellpy": self._cellpy_capacity,
                "beep": self._beep_capacity,
                "pyprobe": self._pyprobe_capacity,
            }[tool]()
        if what == "resistance":
            return self._resistance(tool)
        if what == "equivalent full cycles":
            return self._equivalent_full_cycles()
        if what == "peaks" and not self.ours.has("battery_ica_peaks"):
            raise Unavailable("the models make no table battery_ica_peaks")
        return self._peaks(tool, "models" if what == "peaks" else "truth")

    def _true_capacity(self) -> list[Line]:
        why = "What flowed, against what was logged with nine decimals."
        return [
            self._line(_LABELS[name], "truth", {
                cycle: getattr(truth, name) for cycle, truth in self.given.truths.items()
            }, self.ours.cycles(name), 1e-6, why)
            for name in ("charge_ah", "discharge_ah", "charge_wh", "discharge_wh")
        ]  # fmt: skip

    def _cellpy_capacity(self) -> list[Line]:
        why = "Both take the counter's differences."
        lines = [
            self._line(_LABELS[name], "cellpy", self._cycles("cellpy", name),
                       self.ours.cycles(name), 1e-9, why)
            for name in ("charge_ah", "discharge_ah")
        ]  # fmt: skip
        efficiency = {
            cycle: percent / 100
            for cycle, percent in self._cycles("cellpy", "coulombic_efficiency_percent").items()
        }
        given = self._given("coulombic_efficiency")
        if given:
            lines.append(self._line(
                "coulombic efficiency", "cellpy", efficiency, given, 1e-9,
                "The same quotient; in percent there, and there for cycles too that do not return.",
            ))  # fmt: skip
        return lines

    def _beep_capacity(self) -> list[Line]:
        # a last cycle that does not end below 3.3 V with 97 % of its charge is left out there
        may_miss = 1
        why = "Both take the counter's differences. BEEP leaves out a last cycle that is not whole."
        lines = [
            self._line(_LABELS[name], "beep", self._cycles("beep", name),
                       self.ours.cycles(name), 1e-9, why, may_miss=may_miss)
            for name in ("charge_ah", "discharge_ah", "charge_wh", "discharge_wh")
        ]  # fmt: skip
        given = self._given("energy_efficiency")
        if given:
            lines.append(self._line(
                "energy efficiency", "beep", self._cycles("beep", "energy_efficiency"), given, 1e-7,
                "The same quotient; 32-bit floats there, and there for cycles too that do not return.",
                may_miss=may_miss,
            ))  # fmt: skip
        return lines

    def _given(self, column: str) -> Figures:
        """A figure of the models, where they give it: none where a cycle is no round trip."""
        return {key: value for key, value in self.ours.cycles(column).items() if value is not None}

    def _pyprobe_capacity(self) -> list[Line]:
        lines = []
        for name, side in (("charge_ah", "Charge"), ("discharge_ah", "Discharge")):
            theirs, ours = self._cycles("pyprobe", name), self.ours.cycles(name)
            first = self._first_intervals(side)
            shares = [first[cycle] / (ours[cycle] or 1.0) for cycle in theirs if ours[cycle]]
            lines += [
                self._line(
                    _LABELS[name], "pyprobe", theirs, ours, max(shares) + 5e-5,
                    "PyProBE takes the largest less the smallest charge among the rows that carry "
                    "the current, so what flowed up to the first of them is lost: one logging "
                    "interval of every half cycle.",
                ),
                self._line(
                    f"{_LABELS[name]}, first interval", "pyprobe",
                    {cycle: theirs[cycle] + first.get(cycle, 0.0) for cycle in theirs}, ours, 5e-5,
                    "The same with that interval's count added. What is left flowed in rests, where "
                    "a real cycler's current is not exactly zero; it has to be for PyProBE.",
                ),
            ]  # fmt: skip
        charge, discharge = self.ours.cycles("charge_ah"), self.ours.cycles("discharge_ah")
        ours = {
            cycle: (discharge[cycle] or 0.0) / (charge[before] or 1.0)
            for before, cycle in pairwise(charge)
        }
        theirs = self._cycles("pyprobe", "efficiency_of_cycle_before")
        limit = max(
            first[cycle] / (total[cycle] or 1.0)
            for side, total in (("Charge", charge), ("Discharge", discharge))
            for first in [self._first_intervals(side)]
            for cycle in first if total[cycle]
        )  # fmt: skip
        lines.append(self._line(
            "efficiency by last charge", "pyprobe", theirs, ours, limit + 1e-4,
            "PyProBE divides a cycle's discharge by the charge of the cycle before; so is ours "
            "here. Both of its charges lack their first interval, so part of the loss cancels.",
        ))  # fmt: skip
        return lines

    def _resistance(self, tool: str) -> list[Line]:
        """Resistances: the tool's against the models'."""
        ours = self.ours.cycles("dc_resistance_30s_ohm")
        if tool == "truth":
            return [self._line(
                "resistance at 30 s", "truth",
                {cycle: truth.resistance_30s_ohm for cycle, truth in self.given.truths.items()},
                ours, 1e-4, "Fall of the voltage 30 s after the rest, over the current; microvolts.",
            )]  # fmt: skip
        if tool == "rows":
            return [self._line(
                "resistance at 30 s", "interpolated rows", self._interpolated(), ours,
                # The column of before the resistance's own table took the reading nearest to 30 s.
                0.015 if self.ours.has("battery_resistance") else None,
                "A straight line in time between the two rows around 30 s. Where these are 30 s "
                "apart it misses up to 1 %: the voltage falls fastest just after the step.",
                may_miss=2,
            )]  # fmt: skip
        if tool == "pyprobe":
            return self._pyprobe_resistance(ours)
        logged = self._cycles(tool, "logged_resistance_ohm")
        which = {
            "beep": "BEEP's dc_internal_resistance is the cycler's last value of a cycle",
            "cellpy": "cellpy's is the cycler's value when the discharge begins",
        }[tool]
        return [self._line(
            "resistance of the cycler", tool,
            {cycle: value for cycle, value in logged.items() if value},
            self.ours.cycles("internal_resistance_ohm"), 0.10,
            f"The cycler measures it twice or more a cycle, and it depends on the state of charge; "
            f"{which}, ours their mean.", may_miss=len(logged),
        )]  # fmt: skip

    def _pyprobe_resistance(self, ours: Figures) -> list[Line]:
        found = self.theirs("pyprobe")
        at_30 = {int(cycle): pulse["r_30s_ohm"] for cycle, pulse in found["pulses"].items()}
        at_first = {
            int(cycle): pulse["r0_ohm"]
            for cycle, pulse in found["pulses"].items()
            if abs(pulse["first_s"] - 30.0) < 0.1
        }
        if self.given.truths:
            return [self._line(
                "resistance at 30 s", "pyprobe", at_30, ours, 1e-4,
                "Both take the fall from the rest; a row stands at 30 s.",
            )]  # fmt: skip
        why = (
            "PyProBE interpolates by the number of rows, not by time: with no row at exactly 30 s "
            "it gives the middle of the two rows around, which may be the rest and the first row."
        )
        lines = [
            self._line("resistance at 30 s", "pyprobe", at_30, ours, None, why),
            self._line(
                "resistance at 30 s", "pyprobe", at_30, self._interpolated(by_time=False), 2e-3,
                why + " It is that middle, but for which row's current divides.", against="midrows",
                may_miss=1,
            ),
        ]  # fmt: skip
        if at_first:
            lines.append(self._line(
                "resistance at first row", "pyprobe", at_first,
                {cycle: ours.get(cycle) for cycle in at_first}, 2e-3,
                "Where the first row stands 30 s after the rest, PyProBE's R0 is the resistance at "
                "30 s. It divides by the current, ours by the change of the current.",
            ))  # fmt: skip
        return lines

    def _peaks(self, tool: str, against: str) -> list[Line]:
        """Place and height of the main dQ/dV peak, against `models` or `truth`."""
        other = self.ours.peaks() if against == "models" else self._true_peaks()
        if tool == "truth":
            theirs = self._true_peaks()
        else:
            theirs = {key: tuple(found["peak"]) for key, found in self._curves(tool).items()}
        lines = []
        for direction in ("charge", "discharge"):
            here = {key: theirs[key] for key in theirs if key[1] == direction}
            there = {key: other[key] for key in other if key[1] == direction and key in here}
            apart_v, apart, why = _PEAKS[tool][self._sampling(direction)]
            lines += [
                self._line(
                    f"dQ/dV {direction} peak", tool,
                    {key: volts for key, (volts, _) in here.items()},
                    {key: volts for key, (volts, _) in there.items()},
                    None if self._flat(tool) else apart_v,
                    why + self._flat(tool), against=against, unit="V",
                ),
                self._line(
                    f"dQ/dV {direction} height", tool,
                    {key: height for key, (_, height) in here.items()},
                    {key: height for key, (_, height) in there.items()},
                    apart, why, against=against,
                ),
            ]  # fmt: skip
            if tool != "truth":
                curves = self._curves(tool)
                stairs = tool == "pyprobe" and direction == "discharge" and self._late
                lines.append(self._line(
                    f"dQ/dV {direction} height there", tool,
                    {key: _on(curves[key]["curve"], volts) for key, (volts, _) in there.items()},
                    {key: height for key, (_, height) in there.items()},
                    None if stairs else apart,
                    "The tool's curve at the other's peak. " + why
                    + " Late in the real cell's life it is half a reading, and the curve is stairs."
                    * stairs,
                    against=against,
                ))  # fmt: skip
        return lines

    @property
    def _late(self) -> bool:
        return self.given.equipment_id == "CS2_35_late"

    def _flat(self, tool: str) -> str:
        """Why a peak's place can't be demanded; empty if it can."""
        if self._late or (tool == "pyprobe" and self.given.equipment_id in CALCE):
            return (
                " The real cell's peaks have flat tops, on which noise decides where the highest "
                "value is, so the heights at one place are compared instead."
            )
        return ""

    def _curves(self, tool: str) -> dict[tuple[int, str], dict[str, Any]]:
        return {
            (int(cycle), direction): half
            for cycle, found in self.theirs(tool)["peaks"].items()
            for direction, half in found.items()
        }

    def _equivalent_full_cycles(self) -> list[Line]:
        """The rainflow package's sum of range and count, against the models'."""
        theirs = self.theirs("rainflow")["equivalent_full_cycles"]
        return [self._line(
            "equivalent full cycles", "rainflow", {1: theirs},
            {1: self.ours.equivalent_full_cycles}, 1e-6,
            "Sum of range times count over the rainflow cycles of the charge, over the nominal "
            "capacity; ours is half of the throughput over it.",
        )]  # fmt: skip

    def _sampling(self, direction: str) -> str:
        if self.given.interval_s < 5:
            return "fine"
        return f"coarse {direction}"

    def _true_peaks(self) -> dict[tuple[int, str], tuple[float, float]]:
        return {
            (cycle, direction): peak
            for cycle, truth in self.given.truths.items()
            for direction, peak in truth.peaks.items()
        }

    def _cycles(self, tool: str, figure: str) -> dict[int, float]:
        return {
            int(cycle): found[figure]
            for cycle, found in self.theirs(tool)["cycles"].items()
            if figure in found
        }

    def _line(
        self, figure: str, tool: str, theirs: Figures, other: Figures, allowed: float | None,
        why: str, against: str = "models", may_miss: int = 0, unit: str = "",
    ) -> Line:  # fmt: skip
        differences, missing = [], 0
        for key, value in other.items():
            found = theirs.get(key)
            # nothing flowed: nothing to compare, if both say so
            if not value and not found:
                continue
            if value is None or found is None:
                missing += 1
            elif unit:
                differences.append(found - value)
            else:
                differences.append((found - value) / value if value else float("inf"))
        alone = sum(1 for key, found in theirs.items() if found and other.get(key) is None)
        return Line(self.given.equipment_id, figure, tool, against, tuple(differences), missing,
                    alone, allowed, may_miss, why, unit)  # fmt: skip

    @cached_property
    def _rows(self) -> list[dict[str, float]]:
        with self.given.rows.open(newline="") as file:
            return [
                {name: float(value) for name, value in row.items() if name != "Date_Time"}
                for row in csv.DictReader(file)
            ]

    def _first_intervals(self, side: str) -> dict[int, float]:
        """What the counter gained up to the first row of each cycle's charge or discharge."""
        sign, counter = 1 if side == "Charge" else -1, f"{side}_Capacity(Ah)"
        found: dict[int, float] = {}
        for before, row in pairwise([self._rows[0], *self._rows]):
            cycle = int(row["Cycle_Index"])
            flows = row["Current(A)"] * sign >= self.given.settings["rest_below_a"]
            if flows and cycle not in found:
                found[cycle] = row[counter] - before[counter]
        return found

    def _interpolated(self, by_time: bool = True) -> dict[int, float]:
        """The resistance 30 s after the last row before each discharge.

        On a straight line between the two rows around 30 s, or else in the middle of them.
        """
        found: dict[int, float] = {}
        rest: dict[str, float] | None = None
        for before, row in pairwise(self._rows):
            cycle, amperes = int(row["Cycle_Index"]), row["Current(A)"]
            if amperes > -self.given.settings["rest_below_a"]:
                rest = row
            elif rest is not None and cycle not in found:
                wanted = rest["Test_Time(s)"] + 30.0
                if row["Test_Time(s)"] < wanted:
                    continue
                share = (wanted - before["Test_Time(s)"]) / (
                    row["Test_Time(s)"] - before["Test_Time(s)"]
                )
                if not by_time:
                    share = 0.5
                volts = before["Voltage(V)"] + share * (row["Voltage(V)"] - before["Voltage(V)"])
                found[cycle] = (rest["Voltage(V)"] - volts) / (rest["Current(A)"] - amperes)
        return found


_BINS = "LEAN counts readings per bin and smooths over five bins: "
_GAUSS = "cellpy smooths with a Gaussian, which lowers a peak: "
_OWN = "The curve is averaged over a width: "
# Volts and share that a tool may be off the truth, or the models, by how fine the readings are.
# The made cell's peak is 55 mV wide at half its height; at it, readings of every 30 s are 1.3 mV
# apart in the charge at C/2 and 2.6 mV in the discharge at 1C.
_PEAKS: dict[str, dict[str, tuple[float, float, str]]] = {
    "truth": {
        "fine": (0.003, 0.05, _OWN + "a reading every second."),
        "coarse charge": (0.003, 0.05, _OWN + "a reading every 1.3 mV."),
        "coarse discharge": (0.003, 0.05, _OWN + "a reading every 2.6 mV."),
    },
    "pyprobe": {
        "fine": (0.003, 0.03, _BINS + "tens of readings in a bin of 2 mV."),
        "coarse charge": (0.010, 0.20, _BINS + "four readings in a bin of 5 mV."),
        "coarse discharge": (0.010, 0.20, _BINS + "two readings in a bin of 5 mV."),
    },
    "cellpy": {
        "fine": (0.003, 0.10, _GAUSS + "its width is 10 mV, the peak's 55 mV."),
        "coarse charge": (
            0.005, 0.15,
            _GAUSS + "its grid has as many points as the charge has readings, 5 mV apart.",
        ),
        "coarse discharge": (
            0.010, 0.30,
            _GAUSS + "its grid has as many points as the discharge has readings, 11 mV apart, and "
            "the Gaussian is never narrower than that.",
        ),
    },
}  # fmt: skip
_LABELS = {
    "charge_ah": "charge",
    "discharge_ah": "discharge",
    "charge_wh": "charge energy",
    "discharge_wh": "discharge energy",
}


def _on(curve: Sequence[tuple[float, float]], volts: float) -> float | None:
    """The height of a curve at a voltage, on a straight line between its points."""
    for (low, left), (high, right) in pairwise(curve):
        if low <= volts <= high:
            return left + (right - left) * (volts - low) / ((high - low) or 1.0)
    return None


def table(lines: Iterable[Line]) -> str:
    """The lines as Markdown, with what explains them below."""
    notes: list[str] = []
    made = [
        "| cell | figure | tool | against | n | median difference | largest | allowed | note |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for line in lines:
        if line.why not in notes:
            notes.append(line.why)
        version = f" {environments.version(line.tool)}" if line.tool in environments.TOOLS else ""
        missing = f", {line.missing} missing" if line.missing else ""
        missing += f", {line.alone} of the tool alone" if line.alone else ""
        made.append(
            f"| {line.cell} | {line.figure} | {line.tool}{version} | {line.against} "
            f"| {len(line.differences)}{missing} | {_number(line.median, line.unit)} "
            f"| {_number(line.largest, line.unit)} | {_allowed(line)} "
            f"| {notes.index(line.why) + 1} |"
        )
    made += ["", *(f"{number}. {note}" for number, note in enumerate(notes, start=1))]
    return "\n".join(made)


def _number(value: float, unit: str) -> str:
    if unit == "V":
        return f"{1000 * value:.2f} mV"
    return f"{100 * value:.3f} %" if abs(value) >= 1e-5 else f"{value:.1e}"


def _allowed(line: Line) -> str:
    return "not demanded" if line.allowed is None else _number(line.allowed, line.unit)
