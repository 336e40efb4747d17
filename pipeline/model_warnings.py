"""What dbt's data tests warned of in its last build, in lines for a person."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import orjson

# A warning names this many equipments, and the build shows this many warnings.
_NAMED = 3
_SHOWN = 20
# What says whose a row is, the best first.
_KEYS = ("equipment_id", "test_key")
# What the tests that look at several columns find in them, as SQL, and how a person says that.
_FAULTS = {"not_negative": "< 0", "never_null": "is null"}
_NAMES = {"< 0": "below zero", "is null": "missing"}


@dataclass(frozen=True)
class Found:
    """One data test that some rows did not pass.

    Attributes:
        model: the model that was tested; the test's own name if it looks at several.
        what: which of its values are not as they should be.
        rows: how many rows.
        query: the rows, as SQL of the warehouse.
        columns: the columns that the test looks at together, each of which may be at fault.
        fault: the condition, as SQL after a column's name, that is its fault.
    """

    model: str
    what: str
    rows: int
    query: str
    columns: tuple[str, ...] = ()
    fault: str = ""


def target(project: Path) -> Path:
    """The folder in which dbt leaves what it found."""
    return Path(os.environ.get("DBT_TARGET_PATH") or project / "target")


def read(folder: Path) -> list[Found]:
    """The warnings of dbt's last build, the most rows first; none if it left no results."""
    try:
        results = orjson.loads((folder / "run_results.json").read_bytes())["results"]
        nodes = orjson.loads((folder / "manifest.json").read_bytes())["nodes"]
    except FileNotFoundError:
        return []
    found = [
        _found(nodes[result["unique_id"]], result)
        for result in results
        if result["status"] == "warn" and result["unique_id"] in nodes
    ]
    return sorted(found, key=lambda warning: (-warning.rows, warning.model, warning.what))


def models(folder: Path) -> tuple[list[str], set[str]]:
    """The models of dbt's last build that are in the warehouse, and those that a data test warned of."""
    results = orjson.loads((folder / "run_results.json").read_bytes())["results"]
    nodes = orjson.loads((folder / "manifest.json").read_bytes())["nodes"]
    built = [
        nodes[result["unique_id"]]["alias"]
        for result in results
        if result["unique_id"].startswith("model.") and result["unique_id"] in nodes
    ]
    again = {
        nodes[name]["alias"]
        for result in results
        if result["status"] == "warn"
        for name in nodes.get(result["unique_id"], {}).get("depends_on", {}).get("nodes", [])
        if name in nodes
    }
    return built, again


def _found(node: Mapping[str, Any], result: Mapping[str, Any]) -> Found:
    metadata = node.get("test_metadata") or {}
    arguments = metadata.get("kwargs") or {}
    arguments = arguments | (arguments.get("arguments") or {})
    model = str(node.get("attached_node") or "").rpartition(".")[2] or str(node["name"])
    columns: tuple[str, ...] = ()
    fault = ""
    column = arguments.get("column_name")
    match metadata.get("name"):
        case "not_negative" | "never_null" as name:
            columns, fault = tuple(arguments["columns"]), _FAULTS[name]
            what = f"{_NAMES[fault]}: {', '.join(columns)}"
        case "in_range":
            bounds = (arguments.get("min_value", "any"), arguments.get("max_value", "any"))
            what = f"{column} outside {bounds[0]} to {bounds[1]}"
        case "accepted_values":
            what = f"{column} is none of {', '.join(map(str, arguments['values']))}"
        case "holds":
            what = f"not the case: {arguments['condition']}"
        case _:
            what = f"not the case: {str(node.get('description') or node['name']).rstrip('.')}"
    query = str(result.get("compiled_code") or node.get("compiled_code") or "")
    return Found(model, what, int(result.get("failures") or 0), query, columns, fault)


def lines(found: list[Found], database: duckdb.DuckDBPyConnection | None) -> Iterator[str]:
    """The warnings as text, a line each, with the equipments where a DuckDB database is given."""
    if not found:
        return
    tests = "1 data test" if len(found) == 1 else f"{len(found):,} data tests"
    yield f"{tests} warned, which stops no model; the values stand in them as they are:"
    for warning in found[:_SHOWN]:
        what, who = warning.what, ""
        if database is not None:
            what, who = _closer(warning, database)
        rows = "1 row" if warning.rows == 1 else f"{warning.rows:,} rows"
        yield f"  {warning.model}: {what} in {rows}{who}"
    if len(found) > _SHOWN:
        yield f"  and {len(found) - _SHOWN:,} more; see run_results.json in dbt's target folder"


def _closer(warning: Found, database: duckdb.DuckDBPyConnection) -> tuple[str, str]:
    """Which of the columns it is, and of which equipments; what is known without a look if not."""
    what, who = warning.what, ""
    try:
        failing = database.sql(warning.query)
        if warning.columns:
            counts = ", ".join(
                f'count(*) filter ("{name}" {warning.fault})' for name in warning.columns
            )
            row = failing.aggregate(counts).fetchall()[0]
            bad = [name for name, count in zip(warning.columns, row, strict=True) if count]
            what = f"{_NAMES[warning.fault]}: {', '.join(bad)}"
        key = next((name for name in _KEYS if name in failing.columns), None)
        if key:
            ids = failing.aggregate(f"{key}, count(*) as rows_of_it", key)
            ids = ids.order(f"rows_of_it desc, {key}")
            names = [_printable(str(row[0])) for row in ids.fetchall()]
            rest = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
            who = f" ({', '.join(names[:_NAMED])}{rest})"
    except duckdb.Error:
        # A closer look is a service; what dbt said stands without it.
        return warning.what, ""
    return what, who


def _printable(text: str) -> str:
    """Without control characters: an id must not move the cursor or colour the terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
