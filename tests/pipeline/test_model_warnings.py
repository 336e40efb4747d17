"""What the build of the models says of data tests that warned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import duckdb

from pipeline.model_warnings import lines, read


def left_by_dbt(folder: Path, *tests: dict[str, Any]) -> Path:
    """A target folder with these tests' results; a test without failures passed."""
    results = [
        {
            "unique_id": test["name"],
            "status": "warn" if test.get("failures") else "pass",
            "failures": test.get("failures", 0),
            "compiled_code": test.get("query", "select 1"),
        }
        for test in tests
    ]
    nodes = {test["name"]: test for test in tests}
    (folder / "run_results.json").write_text(json.dumps({"results": results}))
    (folder / "manifest.json").write_text(json.dumps({"nodes": nodes}))
    return folder


NEGATIVE = {
    "name": "cycles_not_negative",
    "attached_node": "model.battery_pipeline.battery_cycles",
    "test_metadata": {
        "name": "not_negative",
        "kwargs": {"model": "x", "arguments": {"columns": ["charge_ah", "duration_s"]}},
    },
    "query": "select * from cycles where charge_ah < 0 or duration_s < 0",
    "failures": 5,
}
RANGE = {
    "name": "range",
    "attached_node": "model.battery_pipeline.battery_steps",
    "test_metadata": {"name": "in_range", "kwargs": {"column_name": "readings", "min_value": 1}},
    "query": "select * from no_such_table",
    "failures": 1,
}
HOLDS = {
    "name": "holds",
    "attached_node": "model.battery_pipeline.dim_test",
    "test_metadata": {"name": "holds", "kwargs": {"condition": "ended_at >= started_at"}},
    "failures": 0,
}


def test_a_test_that_passed_is_not_told(tmp_path: Path) -> None:
    assert list(lines(read(left_by_dbt(tmp_path, HOLDS)), None)) == []


def test_no_results_are_no_warnings(tmp_path: Path) -> None:
    assert read(tmp_path) == []


def test_which_column_of_which_equipment_it_is(tmp_path: Path) -> None:
    with duckdb.connect() as database:
        database.execute(
            """create table cycles as select * from (values ('a', -1.0, 1.0), ('b', -1.0, 1.0),
            ('b', -2.0, 1.0), ('c\\n', -1.0, 1.0), ('d', -1.0, 1.0), ('e', 1.0, 1.0))
            as t(equipment_id, charge_ah, duration_s)""".replace("\\n", "\n")
        )
        head, *told = lines(read(left_by_dbt(tmp_path, RANGE, NEGATIVE, HOLDS)), database)
    assert head.startswith("2 data tests warned")
    assert told == [
        "  battery_cycles: below zero: charge_ah in 5 rows (b, a, c? and 1 more)",
        # What can't be queried is printed as dbt has it.
        "  battery_steps: readings outside 1 to any in 1 row",
    ]


def test_which_column_lacks_a_value(tmp_path: Path) -> None:
    missing = {
        "name": "tests_never_null",
        "attached_node": "model.battery_pipeline.dim_test",
        "test_metadata": {"name": "never_null", "kwargs": {"columns": ["test_key", "cycles"]}},
        "query": "select 'a|1' as test_key, null as cycles",
        "failures": 1,
    }
    found = read(left_by_dbt(tmp_path, missing))
    assert list(lines(found, None))[1] == "  dim_test: missing: test_key, cycles in 1 row"
    with duckdb.connect() as database:
        assert list(lines(found, database))[1] == "  dim_test: missing: cycles in 1 row (a|1)"


def test_without_a_database_to_look_at(tmp_path: Path) -> None:
    told = list(lines(read(left_by_dbt(tmp_path, NEGATIVE)), None))
    assert told[1] == "  battery_cycles: below zero: charge_ah, duration_s in 5 rows"
