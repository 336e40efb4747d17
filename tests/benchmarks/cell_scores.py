"""Compares what the models say of cells with what is true of them, figure by figure.

A cycle of the models and one of the truth are the same where the middle of the true cycle's
discharge lies within the model's cycle: so they are found without cycle numbers too.
"""

from __future__ import annotations

import bisect
import datetime as dt
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb

from pipeline.sources.simulation.truth import Truth
from tests.benchmarks.cell_draws import Cell

CAPACITY = 0.005
THROUGHPUT = 0.01
RESISTANCE = 0.03
PEAK_V = 0.003
PEAK_HEIGHT = 0.05
TEMPERATURE_K = 0.5
_NEAR_V = 0.03  # a peak of the models belongs to a true one within this

# What may be said of a cycle that is both, and of several where no cycle index says so.
_ALIKE = {
    "charge_partial": {"charge_partial", "discharge_partial"},
    "discharge_partial": {"charge_partial", "discharge_partial"},
    "several": {"several", "formation", "full"},
    # A full cycle among partial ones is their check-up; slow first ones without usual ones beside
    # them are full ones.
    "full": {"full", "check_up"},
    "formation": {"formation", "full", "check_up"},
    "check_up": {"check_up", "formation"},
}
MODELS = ("battery_cycles", "battery_swings", "battery_health", "battery_ica_peaks")

Row = dict[str, Any]


@dataclass(frozen=True)
class Figure:
    """One comparison.

    Attributes:
        name: what was compared.
        cell: the benchmark's number of the cell.
        cycle: the true cycle's number, or None for a figure of the whole cell.
        found: what the models say; None: nothing.
        true: what is true; None: there is no such thing.
        right: whether that is within the limit.
        note: what the models say beside it.
    """

    name: str
    cell: int
    cycle: int | None
    found: float | None
    true: float | None
    right: bool
    note: str = ""

    @property
    def error(self) -> float:
        """Relative error; infinite where one of the two is not there."""
        if self.found is None or self.true is None:
            return float("inf")
        return abs(self.found - self.true) / max(abs(self.true), 1e-9)


@dataclass
class Scores:
    """All comparisons, the kinds that were confused, and what the models do not give yet."""

    figures: list[Figure] = field(default_factory=list)
    kinds: Counter[tuple[str, str]] = field(default_factory=Counter)
    missing: set[str] = field(default_factory=set)

    def of(self, name: str, cells: Iterable[int] | None = None) -> list[Figure]:
        """The comparisons of a figure, of some cells or of all."""
        chosen = None if cells is None else set(cells)
        return [
            figure
            for figure in self.figures
            if figure.name == name and (chosen is None or figure.cell in chosen)
        ]

    def share(self, name: str, cells: Iterable[int] | None = None) -> float | None:
        """Share that is right; None where nothing was compared."""
        found = self.of(name, cells)
        return sum(figure.right for figure in found) / len(found) if found else None


class Models:
    """The rows that the models gave, by equipment; a column that is not there is None."""

    def __init__(self, warehouse: Path) -> None:
        with duckdb.connect(str(warehouse), read_only=True) as database:
            database.execute("set TimeZone = 'UTC'")
            self._columns: dict[str, set[str]] = defaultdict(set)
            for table, column in database.execute(
                "select table_name, column_name from information_schema.columns"
            ).fetchall():
                self._columns[table].add(column)
            self.cycles = self._rows(database, "battery_cycles", "started_at")
            self.swings = self._rows(database, "battery_swings", "swing_number")
            self.health = self._rows(database, "battery_health", "cycle_number")
            self.peaks = self._rows(database, "battery_ica_peaks", "cycle_number")

    def has(self, table: str, column: str | None = None) -> bool:
        """Whether a table, or a column of it, is there."""
        return bool(self._columns[table]) if column is None else column in self._columns[table]

    def _rows(
        self, database: duckdb.DuckDBPyConnection, table: str, order: str
    ) -> dict[str, list[Row]]:
        found: dict[str, list[Row]] = defaultdict(list)
        if not self._columns[table]:
            return found
        cursor = database.execute(f"select * from {table} order by equipment_id, {order}")
        names = [column[0] for column in cursor.description or []]
        for values in cursor.fetchall():
            row = dict(zip(names, values, strict=True))
            found[row["equipment_id"]].append(row)
        return found


def compare(cell: Cell, true: Truth, models: Models, scores: Scores) -> None:
    """Adds a cell's comparisons to the scores."""
    cycles = models.cycles.get(cell.equipment_id, [])
    true_cycles = true.cycles.to_pylist()
    discharges = [row for row in true.swings.to_pylist() if row["direction"] == "discharge"]
    within = _Within(cycles)
    pairs = [(row, within.at(_middle(row, discharges))) for row in true_cycles]
    charges = [row for row in true.swings.to_pylist() if row["direction"] == "charge"]
    charged = [(row, within.at(_middle(row, charges))) for row in true_cycles]
    scores.figures += _capacities(cell, cycles, true_cycles, discharges, models, scores)
    scores.figures += _recalled(cell, pairs, discharges)
    scores.figures += _throughput(cell, true_cycles, models)
    scores.figures += _per_cycle(cell, pairs, models, scores)
    scores.figures += _swings(cell, true, models, scores)
    scores.figures += _peaks(cell, {"charge": charged, "discharge": pairs}, true, models, scores)
    if models.has("battery_cycles", "kind"):
        for row, found in pairs:
            kind = found["kind"] if found else "no cycle"
            scores.kinds[row["kind"], kind] += 1
            right = kind in _ALIKE.get(row["kind"], {row["kind"]})
            note = "" if right else f"{kind} for {row['kind']}, {_reason(found)}"
            scores.figures.append(
                Figure("kind", cell.number, row["cycle_number"], None, None, right, note)
            )
    else:
        scores.missing.add("battery_cycles.kind")


class _Within:
    """Finds the model's cycle that holds a time."""

    def __init__(self, cycles: list[Row]) -> None:
        self._cycles = cycles
        self._starts = [row["started_at"] for row in cycles]

    def at(self, when: dt.datetime) -> Row | None:
        place = bisect.bisect_right(self._starts, when) - 1
        if place < 0 or self._cycles[place]["ended_at"] < when:
            return None
        return self._cycles[place]


def _middle(cycle: Row, swings: list[Row]) -> dt.datetime:
    """The middle of a true cycle's last swing of these."""
    last = [row for row in swings if row["cycle_number"] == cycle["cycle_number"]][-1]
    return _between(last)


def _between(row: Row) -> dt.datetime:
    begins: dt.datetime = row["begins_at"]
    half: dt.timedelta = (row["ends_at"] - begins) / 2
    return begins + half


def _capacity(cycle: Row) -> float | None:
    """What a cycle of the models gives as its capacity; before `capacity_ah` its discharge."""
    value = cycle["capacity_ah"] if "capacity_ah" in cycle else cycle["discharge_ah"]
    return None if value is None else float(value)


def _capacities(
    cell: Cell, cycles: list[Row], true_cycles: list[Row], discharges: list[Row], models: Models,
    scores: Scores,
) -> Iterator[Figure]:  # fmt: skip
    """Every capacity that counts as valid, compared with the full discharges in that cycle.

    A drive profile or pulse test may count: its net charge is what it moved between the limits.
    """
    if not models.has("battery_cycles", "capacity_ah"):
        scores.missing.add("battery_cycles.capacity_ah")
    for cycle in cycles:
        if not cycle["is_valid"]:
            continue
        own = [
            row for row in discharges
            if cycle["started_at"] <= _between(row) <= cycle["ended_at"]
        ]  # fmt: skip
        full = [row["net_ah"] for row in own if row["is_full"]]
        found = _capacity(cycle)
        number = own[0]["cycle_number"] if own else _nearest(cycle, true_cycles)
        true = min(full, key=lambda net: abs(net - (found or 0.0))) if full else None
        # Several at once: theirs differ by less than what is looked for.
        right = found is not None and true is not None and abs(found / true - 1.0) <= CAPACITY
        yield Figure("capacity", cell.number, number, found, true, right, _reason(cycle))


def _nearest(cycle: Row, true_cycles: list[Row]) -> int | None:
    """The true cycle in which a cycle of the models starts."""
    before = [row["cycle_number"] for row in true_cycles if row["begins_at"] <= cycle["ended_at"]]
    return before[-1] if before else None


def _recalled(
    cell: Cell, pairs: list[tuple[Row, Row | None]], discharges: list[Row]
) -> Iterator[Figure]:
    """Every full cycle at one rate, whether it was found, valid and of the right capacity."""
    for row, found in pairs:
        if not row["is_valid"]:
            continue
        net = next(s["net_ah"] for s in discharges if s["cycle_number"] == row["cycle_number"])
        value = _capacity(found) if found and found["is_valid"] else None
        right = value is not None and abs(value / net - 1.0) <= CAPACITY
        yield Figure("recall", cell.number, row["cycle_number"], value, net, right, _reason(found))


def _reason(cycle: Row | None) -> str:
    """Why a cycle of the models is what it is, in their words."""
    if cycle is None:
        return "no cycle there"
    said = (cycle.get("kind"), cycle.get("kind_reason"), cycle.get("invalid_reason"))
    return ", ".join(str(part) for part in said if part)


def _throughput(cell: Cell, true_cycles: list[Row], models: Models) -> Iterator[Figure]:
    """Equivalent full cycles at the end."""
    true = true_cycles[-1]["equivalent_full_cycles"]
    given = [
        row
        for row in models.health.get(cell.equipment_id, [])
        if row["equivalent_full_cycles"] is not None
    ]
    last = max(given, key=lambda row: float(row["equivalent_full_cycles"])) if given else None
    found = last["equivalent_full_cycles"] if last else None
    right = found is not None and abs(found / true - 1.0) <= THROUGHPUT
    yield Figure("equivalent full cycles", cell.number, None, found, true, right)
    # Those that are off within the error that the models give beside them are not silent.
    error = (last.get("equivalent_full_cycles_error") or 0.0) if last else 0.0
    said = right or found is None or abs(found - true) <= error
    yield Figure(
        "equivalent full cycles, by their error", cell.number, None, found, true, said,
        f"error {error:.3g}",
    )  # fmt: skip


_PER_CYCLE = (
    ("resistance 10 s", "dc_resistance_10s_ohm", "resistance_10s_ohm", RESISTANCE, True),
    ("resistance 30 s", "dc_resistance_30s_ohm", "resistance_30s_ohm", RESISTANCE, True),
    ("resistance 30 s, corrected", "dc_resistance_30s_ocv_ohm", "resistance_30s_ohm", RESISTANCE, True),
    ("mean temperature", "temperature_mean_c", "temperature_mean_c", TEMPERATURE_K, False),
)  # fmt: skip


def _per_cycle(
    cell: Cell, pairs: list[tuple[Row, Row | None]], models: Models, scores: Scores
) -> Iterator[Figure]:
    """What each cycle gives, where it gives it."""
    # Without a cycle index the models' cycles are not the several ones that the truth has as one.
    split = cell.config.per_index > 1 and "cycle_index" in cell.config.omit
    for name, column, true_column, limit, relative in _PER_CYCLE:
        if split and name == "mean temperature":
            continue
        if not models.has("battery_cycles", column):
            scores.missing.add(f"battery_cycles.{column}")
            continue
        for row, found in pairs:
            if found is None or found[column] is None:
                continue
            value, true = float(found[column]), row[true_column]
            apart = abs(value - true) / (abs(true) if relative else 1.0)
            yield Figure(name, cell.number, row["cycle_number"], value, true, apart <= limit)


def _swings(cell: Cell, true: Truth, models: Models, scores: Scores) -> Iterator[Figure]:
    """Every full swing of the models, compared with the true one in which its middle lies.

    Where they carry no times, with the full one whose charge is nearest.
    """
    if not models.has("battery_swings"):
        scores.missing.add("battery_swings")
        return
    timed = models.has("battery_swings", "started_at") and models.has("battery_swings", "ended_at")
    trues = true.swings.to_pylist()
    for row in models.swings.get(cell.equipment_id, []):
        if not row["is_full"] or row.get("is_held") is False:
            continue
        found = abs(float(row["net_ah"]))
        fits = [one for one in trues if one["direction"] == row["direction"] and one["is_full"]]
        if timed:
            middle = row["started_at"] + (row["ended_at"] - row["started_at"]) / 2
            fits = [one for one in fits if one["begins_at"] <= middle <= one["ends_at"]]
        nets = [one["net_ah"] for one in fits]
        near = min(nets, key=lambda net: abs(net - found)) if nets else None
        right = near is not None and abs(found / near - 1.0) <= CAPACITY
        yield Figure("full swing", cell.number, None, found, near, right)


def _peaks(
    cell: Cell,
    matched: dict[str, list[tuple[Row, Row | None]]],
    true: Truth,
    models: Models,
    scores: Scores,
) -> Iterator[Figure]:
    """Every peak of the models, and whether the highest of every curve was found."""
    if not models.has("battery_ica_peaks"):
        scores.missing.add("battery_ica_peaks")
        return
    given: dict[tuple[int, str], list[Row]] = defaultdict(list)
    for peak in models.peaks.get(cell.equipment_id, []):
        given[peak["cycle_number"], peak["direction"]].append(peak)
    expected: dict[tuple[int, str], list[Row]] = defaultdict(list)
    for peak in true.peaks.to_pylist():
        expected[peak["cycle_number"], peak["direction"]].append(peak)
    for direction, pairs in matched.items():
        for row, cycle in pairs:
            if cycle is None:
                continue
            found = given[cycle["cycle_number"], direction]
            trues = expected[row["cycle_number"], direction]
            # The truth has no curves of drive profiles and pulse tests.
            for peak in found if row["kind"] not in ("drive", "pulse") else []:
                yield from _peak(cell, row["cycle_number"], peak, trues)
            for peak in trues:
                if peak["is_main"]:
                    hit = any(abs(p["voltage_v"] - peak["voltage_v"]) <= PEAK_V for p in found)
                    yield Figure("main peak found", cell.number, row["cycle_number"], float(hit),
                                 1.0, hit)  # fmt: skip


def _peak(cell: Cell, cycle: int, peak: Row, trues: list[Row]) -> Iterator[Figure]:
    """A certain peak by the limits; any other by what it says of its own errors."""
    volts, height = float(peak["voltage_v"]), abs(float(peak["dq_dv_ah_per_v"]))
    near = min(trues, key=lambda true: abs(true["voltage_v"] - volts), default=None)
    is_one = near is not None and abs(near["voltage_v"] - volts) <= _NEAR_V
    if not peak.get("is_certain", True):
        right = (
            is_one
            and near is not None
            and abs(near["voltage_v"] - volts) <= float(peak["voltage_error_v"])
            and abs(height - near["dq_dv_ah_per_v"]) <= 2.0 * float(peak["dq_dv_error_ah_per_v"])
        )
        true_v = near["voltage_v"] if near else None
        yield Figure("other peak, by its errors", cell.number, cycle, volts, true_v, right)
        return
    if near is None or not is_one:
        yield Figure("peak is one", cell.number, cycle, volts, None, False)
        return
    yield Figure("peak is one", cell.number, cycle, volts, near["voltage_v"], True)
    right = abs(near["voltage_v"] - volts) <= PEAK_V
    yield Figure("peak voltage", cell.number, cycle, volts, near["voltage_v"], right)
    true = near["dq_dv_ah_per_v"]
    right = abs(height / true - 1.0) <= PEAK_HEIGHT
    yield Figure("peak height", cell.number, cycle, height, true, right)
