"""Compares what the job and the models made of exports with the truth."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb

from schemas.reading import DISAGREEMENTS
from tests.fuzz.truth import Export, Truth

CLASSES = ("right", "told", "refused", "silently wrong")

# What a disagreement can be about: it speaks for wrong figures of that sort alone.
ABOUT = {
    "charge_disagrees": {"capacity"},
    "direction_disagrees": {"capacity"},
    "direction_guessed": {"capacity"},
    "unit_guessed": {"capacity"},
    "clock_disagrees": {"capacity", "date"},
    "date_order_guessed": {"date"},
    "time_assumed": {"date"},
    "identity_guessed": {"cell"},
}
# Every reading of a file without a date has this flag: it says nothing of capacity.
_USUAL_FLAGS = frozenset({"event_time_assumed"})


@dataclass(frozen=True)
class Verdict:
    """How an export was judged.

    Attributes:
        export: the export.
        kind: one of CLASSES.
        problems: what differs, for a person.
        told: what the product says of it; of one that is right: what puts its capacity in doubt.
    """

    export: Export
    kind: str
    problems: tuple[str, ...] = ()
    told: tuple[str, ...] = ()


@dataclass
class _CycleMade:
    charge: float
    discharge: float
    is_valid: bool
    flags: set[str]
    disagreements: set[str]


@dataclass
class _Made:
    """What was made of a file's rows that name one equipment."""

    readings: int
    first: dt.datetime
    last: dt.datetime
    tests: set[str] = field(default_factory=set)


class Judge:
    """Reads the tables of a run once, and judges export by export."""

    def __init__(self, warehouse: Path) -> None:
        with duckdb.connect(str(warehouse), read_only=True) as database:
            database.execute("SET TimeZone = 'UTC'")
            self._columns: dict[str, set[str]] = defaultdict(set)
            for table, column in database.execute(
                "SELECT table_name, column_name FROM information_schema.columns"
            ).fetchall():
                self._columns[table].add(column)
            self._made = self._readings(database)
            self._cycles = self._cycles_of(database)
            self._letters: dict[str, list[tuple[str, str]]] = defaultdict(list)
            for file, kind, message in database.execute(
                "SELECT source_file, error_type, error_message FROM dead_letters"
            ).fetchall():
                self._letters[file or ""].append((kind, message))
            self._doubts = self._disagreements(database)

    def _readings(self, database: duckdb.DuckDBPyConnection) -> dict[str, dict[str, _Made]]:
        made: dict[str, dict[str, _Made]] = defaultdict(dict)
        for file, equipment, count, first, last in database.execute(
            """SELECT source_file, equipment_id, count(*), min(recorded_at), max(recorded_at)
            FROM readings GROUP BY ALL"""
        ).fetchall():
            made[file][equipment] = _Made(count, _utc(first), _utc(last))
        if self._columns["battery_features"]:
            for file, equipment, test in database.execute(
                "SELECT DISTINCT source_file, equipment_id, test_key FROM battery_features"
            ).fetchall():
                made[file][equipment].tests.add(test)
        return made

    def _cycles_of(self, database: duckdb.DuckDBPyConnection) -> dict[str, list[_CycleMade]]:
        cycles: dict[str, list[_CycleMade]] = defaultdict(list)
        if not self._columns["battery_cycles"]:
            return cycles
        flags: dict[tuple[Any, ...], set[str]] = defaultdict(set)
        for *key, found in database.execute(
            """SELECT test_key, test_cycle, cycle_restarts, list(DISTINCT flag)
            FROM (
                SELECT test_key, test_cycle, cycle_restarts, unnest(quality_flags) AS flag
                FROM battery_features
            ) GROUP BY ALL"""
        ).fetchall():
            flags[tuple(key)] = set(found) - _USUAL_FLAGS
        has_doubts = "disagreements" in self._columns["battery_cycles"]
        doubts = "disagreements" if has_doubts else "NULL"
        for test, cycle, restarts, charge, discharge, is_valid, doubt in database.execute(
            f"""SELECT test_key, test_cycle, cycle_restarts, charge_ah, discharge_ah, is_valid,
                {doubts}
            FROM battery_cycles ORDER BY equipment_id, cycle_number"""
        ).fetchall():
            cycles[test].append(
                _CycleMade(
                    charge or 0.0,
                    discharge or 0.0,
                    bool(is_valid),
                    flags[test, cycle, restarts],
                    _names(doubt),
                )
            )
        return cycles

    def _disagreements(self, database: duckdb.DuckDBPyConnection) -> dict[str, set[str]]:
        """By source file and by test."""
        found: dict[str, set[str]] = defaultdict(set)
        for table, key in (("test_dialects", "source_file"), ("dim_test", "test_key")):
            if {"disagreements", key} <= self._columns[table]:
                for name, doubts in database.execute(
                    f"SELECT {key}, disagreements FROM {table}"
                ).fetchall():
                    found[name or ""] |= _names(doubts)
        return found

    def judge(self, export: Export) -> Verdict:
        """The export's class: that of its worst cell."""
        verdicts = [self._judge(export, truth) for truth in export.truths]
        strays = self._strays(export)
        if strays:
            verdicts.append(
                Verdict(export, "silently wrong", (f"readings of files beside the data: {strays}",))
            )
        return max(verdicts, key=lambda verdict: CLASSES.index(verdict.kind))

    def _strays(self, export: Export) -> list[str]:
        named = {file for truth in export.truths for file in truth.files}
        return [
            file
            for file in (f"{export.name}/{name}" for name in export.files)
            if file not in named and self._made.get(file)
        ]

    def _judge(self, export: Export, truth: Truth) -> Verdict:
        letters = [letter for file in truth.files for letter in self._letters.get(file, [])]
        reasons = sorted({f"{kind}: {message}"[:160] for kind, message in letters})
        found = self._of(export, truth)
        if not found:
            kind = "refused" if letters else "silently wrong"
            return Verdict(export, kind, ("no readings",), tuple(reasons))
        problems: dict[str, list[str]] = defaultdict(list)
        names = {name for name, _ in found}
        if len(names) > 1 or not names <= set(truth.cells):
            problems["cell"].append(f"cells {sorted(names)}, right is {truth.cells[0]}")
        count = sum(made.readings for _, made in found)
        low, high = truth.readings
        if not low <= count <= high:
            problems["rows"].append(f"{count} readings, right are {low} to {high}")
        for name, value, right in (
            ("first", min(made.first for _, made in found), truth.first),
            ("last", max(made.last for _, made in found), truth.last),
        ):
            if right and not any(one <= value <= other for one, other in right):
                problems["date"].append(
                    f"{name} reading {value:%Y-%m-%d %H:%M:%S}, right is"
                    f" {right[0][0]:%Y-%m-%d %H:%M:%S} to {right[-1][1]:%Y-%m-%d %H:%M:%S}"
                )
        cycles, wrong = self._capacity(found, truth, problems)
        spoken = self._spoken(truth, found, cycles, wrong, letters)
        if not problems:
            doubts = spoken["capacity"] & set(DISAGREEMENTS)
            return Verdict(export, "right", told=tuple(sorted(doubts)))
        texts = tuple(text for part in problems.values() for text in part)
        told = all(about in spoken for about in problems)
        words = tuple(sorted(set().union(*spoken.values()))) if spoken else ()
        return Verdict(export, "told" if told else "silently wrong", texts, words)

    def _of(self, export: Export, truth: Truth) -> list[tuple[str, _Made]]:
        """What was made of the truth's files, by equipment."""
        found = [
            (name, made) for file in truth.files for name, made in self._made.get(file, {}).items()
        ]
        others = {cell for other in export.truths if other is not truth for cell in other.cells}
        own = [(name, made) for name, made in found if name in truth.cells]
        # where a file holds several cells, theirs are not this one's
        return own if own and {name for name, _ in found} <= set(truth.cells) | others else found

    def _capacity(
        self, found: list[tuple[str, _Made]], truth: Truth, problems: dict[str, list[str]]
    ) -> tuple[list[_CycleMade], list[_CycleMade]]:
        tests = dict.fromkeys(test for _, made in found for test in sorted(made.tests))
        cycles = [
            cycle
            for test in tests
            for cycle in self._cycles[test]
            if cycle.charge + cycle.discharge > truth.floor_ah
        ]
        shown = [(float(f"{c.charge:.6g}"), float(f"{c.discharge:.6g}")) for c in cycles]
        right = [f"{charge} in, {discharge} out" for charge, discharge in truth.cycles]
        is_one_a_cycle = truth.counts_cycles or truth.is_full
        if is_one_a_cycle and len(cycles) != len(truth.cycles):
            problems["capacity"].append(
                f"{len(cycles)} cycles, right are {len(truth.cycles)}: {shown[:4]}, right {right[:4]}"
            )
            return cycles, cycles
        if not truth.counts_cycles:
            charge = sum(cycle.charge for cycle in cycles)
            discharge = sum(cycle.discharge for cycle in cycles)
            pairs = [
                (
                    _CycleMade(
                        charge,
                        discharge,
                        all(cycle.is_valid for cycle in cycles),
                        set().union(*(cycle.flags for cycle in cycles)),
                        set().union(*(cycle.disagreements for cycle in cycles)),
                    ),
                    (_sum(truth, 0), _sum(truth, 1)),
                )
            ]
        else:
            pairs = list(zip(cycles, truth.cycles, strict=True))
        wrong = [
            cycle
            for cycle, (charge, discharge) in pairs
            if not (
                charge.holds(cycle.charge, truth.floor_ah)
                and discharge.holds(cycle.discharge, truth.floor_ah)
            )
        ]
        if wrong:
            problems["capacity"].append(f"Ah in and out {shown[:4]}, right {right[:4]}")
        return cycles, wrong

    def _spoken(
        self,
        truth: Truth,
        found: list[tuple[str, _Made]],
        cycles: list[_CycleMade],
        wrong: list[_CycleMade],
        letters: list[tuple[str, str]],
    ) -> dict[str, set[str]]:
        """By what it is about: what the product says is in doubt."""
        spoken: dict[str, set[str]] = defaultdict(set)
        doubts = set().union(*(self._doubts[file] for file in truth.files))
        for _, made in found:
            doubts |= set().union(*(self._doubts[test] for test in made.tests))
        for doubt in doubts:
            for about in ABOUT.get(doubt, set()):
                spoken[about].add(doubt)
        if wrong and all(cycle.disagreements for cycle in wrong):
            spoken["capacity"] |= set().union(*(cycle.disagreements for cycle in wrong))
        if wrong and all(cycle.flags and not cycle.is_valid for cycle in wrong):
            spoken["capacity"] |= {f"not valid: {flag}" for cycle in wrong for flag in cycle.flags}
        if len(letters) > truth.harmless:
            kinds = {f"{len(letters)} dead letters: {kind}" for kind, _ in letters}
            for about in ("capacity", "rows", "date"):
                spoken[about] |= kinds
        return spoken


def _sum(truth: Truth, at: int) -> Any:
    first, *others = (cycle[at] for cycle in truth.cycles)
    return type(first)(
        first.low + sum(one.low for one in others), first.high + sum(one.high for one in others)
    )


def _names(value: Any) -> set[str]:
    if value is None:
        return set()
    if isinstance(value, str):
        return {name for name in value.replace("[", "").replace("]", "").split(",") if name.strip()}
    return set(value)


def _utc(value: dt.datetime) -> dt.datetime:
    return value.astimezone(dt.UTC) if value.tzinfo else value.replace(tzinfo=dt.UTC)
