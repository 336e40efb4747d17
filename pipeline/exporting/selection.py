"""Finds the tests that there are, chooses those that are wanted, and names their files."""

from __future__ import annotations

import datetime as dt
import fnmatch
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import duckdb

from pipeline.exporting.options import Export
from schemas import bdf
from schemas.reading import COUNTERS, READING

# Columns of the reading that a file can have, besides those that are worked out.
FIELDS = tuple(
    item.name
    for item in READING.fields
    if not item.derived and item.name not in ("ingested_at", "source_file")
)
_CELLS = "equipment_type = 'battery_cell'"
_LONGEST_NAME = 80


@dataclass(frozen=True)
class ExportedTest:
    """One test of one cell, as far as its file depends on it.

    Attributes:
        equipment_id: the cell.
        test_id: the test, or None.
        rows: its readings.
        begun_us, ended_us: first and last event time, µs since 1970.
        name: of its file, without extension.
        present: the fields that are known for at least one reading.
        scope: what its counters restart with, one of `schemas.bdf.SCOPES`.
        source_files: the files its readings came from.
        flags: quality flags and how many readings have them.
        doubts: what remained in doubt when its files were read.
    """

    equipment_id: str
    test_id: str | None
    rows: int
    begun_us: int
    ended_us: int
    name: str
    present: frozenset[str]
    scope: str = bdf.SCHEDULE
    source_files: tuple[str, ...] = ()
    flags: Mapping[str, int] = field(default_factory=dict)
    doubts: tuple[str, ...] = ()

    @property
    def key(self) -> tuple[str, str | None]:
        """What tells the test from others."""
        return self.equipment_id, self.test_id


def started(time_us: int) -> dt.datetime:
    """The moment that is `time_us` µs after 1970-01-01, UTC."""
    return dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=time_us)


def columns(database: duckdb.DuckDBPyConnection, table: str) -> set[str]:
    """The columns of a table; none where there is no such table."""
    try:
        described = database.execute(f"DESCRIBE {table}").fetchall()
    except duckdb.CatalogException:
        return set()
    return {str(row[0]) for row in described}


def machines(database: duckdb.DuckDBPyConnection) -> int:
    """How many equipments are no cells: the format has no place for their readings."""
    found = database.execute(
        f"SELECT count(DISTINCT equipment_id) FROM readings WHERE NOT ({_CELLS})"  # noqa: S608
    ).fetchone()
    return int(found[0]) if found else 0


def found(database: duckdb.DuckDBPyConnection, institution: str | None) -> list[ExportedTest]:
    """All tests of cells, in the order of cell, start and id; named among all there are.

    A file's name does not depend on which other tests are exported with it.
    """
    there = columns(database, "readings")
    fields = [name for name in FIELDS if name in there]
    counts = ", ".join(f"count({name})" for name in fields)
    files = "list(DISTINCT source_file ORDER BY source_file)" if "source_file" in there else "[]"
    rows = database.execute(
        f"SELECT equipment_id, test_id, count(*), epoch_us(min(recorded_at)), "  # noqa: S608
        f"epoch_us(max(recorded_at)), {files}, {counts} FROM readings WHERE {_CELLS} "
        "GROUP BY equipment_id, test_id"
    ).fetchall()
    rows.sort(key=lambda row: (row[0], row[3], row[1] or ""))
    scopes, doubts = _dialects(database)
    flags = _flags(database) if "quality_flags" in there else {}
    taken: Counter[str] = Counter()
    tests = []
    for equipment_id, test_id, number, begun, ended, sources, *counted in rows:
        key = (equipment_id, test_id)
        tests.append(
            ExportedTest(
                equipment_id,
                test_id,
                number,
                begun,
                ended,
                _file_name(equipment_id, begun, institution, taken),
                frozenset(name for name, count in zip(fields, counted, strict=True) if count),
                scopes.get(key, bdf.SCHEDULE),
                tuple(name for name in sources or () if name is not None),
                flags.get(key, {}),
                doubts.get(key, ()),
            )
        )
    return tests


def _flags(
    database: duckdb.DuckDBPyConnection,
) -> dict[tuple[str, str | None], dict[str, int]]:
    by_test: dict[tuple[str, str | None], dict[str, int]] = {}
    for equipment_id, test_id, flag, number in database.execute(
        f"SELECT equipment_id, test_id, flag, count(*) FROM (SELECT equipment_id, test_id, "  # noqa: S608
        f"unnest(quality_flags) AS flag FROM readings WHERE {_CELLS}) GROUP BY ALL ORDER BY ALL"
    ).fetchall():
        by_test.setdefault((equipment_id, test_id), {})[flag] = number
    return by_test


def _dialects(
    database: duckdb.DuckDBPyConnection,
) -> tuple[dict[tuple[str, str | None], str], dict[tuple[str, str | None], tuple[str, ...]]]:
    """What each test's counters restart with, and what was in doubt of its files."""
    wanted = {"equipment_id", "test_id", "dialect", "counter_grain", "disagreements"}
    if not columns(database, "test_dialects") >= wanted:
        return {}, {}
    scopes, doubts = {}, {}
    for equipment_id, test_id, brands, grains, disagreements in database.execute(
        "SELECT equipment_id, test_id, list(DISTINCT coalesce(dialect, '')), "
        "list(DISTINCT coalesce(counter_grain, '')), flatten(list(disagreements)) "
        "FROM test_dialects GROUP BY equipment_id, test_id"
    ).fetchall():
        scopes[equipment_id, test_id] = scope_of(brands, grains)
        doubts[equipment_id, test_id] = tuple(sorted(set(disagreements)))
    return scopes, doubts


def scope_of(dialects: Iterable[str], grains: Sequence[str]) -> str:
    """Which of the format's counters a test's are.

    Those of an Arbin restart where its schedule says so, whatever the readings show (ADR 0001 of
    the format's ontology); `schedule` is also right where it is not known, or files of one test
    differ.
    """
    if any(name.casefold().startswith("arbin") for name in dialects):
        return bdf.SCHEDULE
    if len(grains) == 1 and grains[0] in (bdf.TEST, bdf.CYCLE, bdf.STEP):
        return grains[0]
    return bdf.SCHEDULE


def counters(test: ExportedTest) -> list[str]:
    """The counters that the test has."""
    return [name for name in COUNTERS if name in test.present]


def _file_name(
    equipment_id: str, begun_us: int, institution: str | None, taken: Counter[str]
) -> str:
    """`InstitutionCode__CellName__YYYYMMDD_XXX`, the form that the format recommends."""
    cell = re.sub(r"_{2,}", "_", re.sub(r"[^\w.+-]+", "-", equipment_id)).strip("._-")
    parts = [institution] if institution else []
    parts += [cell[:_LONGEST_NAME] or "cell", f"{started(begun_us):%Y%m%d}"]
    name = "__".join(parts)
    # Names that differ in case alone are one on some systems.
    taken[name.casefold()] += 1
    return f"{name}_{taken[name.casefold()]:03d}"


def chosen(tests: Sequence[ExportedTest], export: Export) -> list[ExportedTest]:
    """Those that the flags ask for."""

    def fits(name: str | None, patterns: tuple[str, ...]) -> bool:
        return not patterns or any(
            name is not None and (name == pattern or fnmatch.fnmatchcase(name, pattern))
            for pattern in patterns
        )

    return [
        test
        for test in tests
        if fits(test.equipment_id, export.equipment_ids) and fits(test.test_id, export.tests)
    ]
