"""Versions and copies of a reading in DuckDB, as they come in one order or another."""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from pipeline.sinks.duckdb import DuckDBSink, connection, insert_new
from pipeline.sinks.duckdb.rows import put
from schemas import forms
from schemas.reading import READING, READING_SUPERSEDED, Kind, Table
from tests.messages import PROFILES, START

ANY = {
    Kind.STRING: "x", Kind.INTEGER: 1, Kind.DOUBLE: 1.0, Kind.TIMESTAMP: START,
    Kind.BYTES: b"", Kind.STRINGS: [], Kind.JSON: "{}", Kind.BOOLEAN: True,
}  # fmt: skip

# A copy of version 1 from an earlier-named file arrives last, its first one before version 2.
COPIES = [("b.csv", 1, 1), ("a.csv", 1, 5), ("c.csv", 2, 3)]


@pytest.fixture
def database(tmp_path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    path = str(tmp_path / "warehouse.duckdb")
    DuckDBSink(path, PROFILES).prepare()
    with connection(path) as found:
        yield found


def row(table: Table, file: str, content: int, hours: int) -> dict[str, Any]:
    needed = {field.name: ANY[field.kind] if field.required else None for field in table.fields}
    own = {
        "reading_id": "r", "content_id": content, "source_file": file,
        "ingested_at": START + dt.timedelta(hours=hours),
    }  # fmt: skip
    if table == READING_SUPERSEDED:
        own["version_id"] = f"r:{content}"
    return needed | own


def rows(*versions: tuple[str, int, int], table: Table = READING) -> pa.Table:
    """Readings of one identity: file, content and hours of arrival."""
    given = [row(table, *version) for version in versions]
    return pa.Table.from_pylist(given, schema=forms.arrow_schema(table))


def standing(database: duckdb.DuckDBPyConnection) -> list[tuple[Any, ...]]:
    return database.execute("SELECT content_id, source_file FROM readings").fetchall()


def former(database: duckdb.DuckDBPyConnection) -> list[int]:
    found = database.execute("SELECT content_id FROM readings_superseded ORDER BY 1").fetchall()
    return [content for (content,) in found]


def arrival(database: duckdb.DuckDBPyConnection) -> float:
    found = database.execute("SELECT ingested_at FROM readings").fetchall()
    return float((found[0][0] - START).total_seconds() / 3600)


# Version 2 between the copies: what lost stays lost. The other orders end with all three known.
@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize("order", [(0, 1, 2), (0, 2, 1), (1, 0, 2), (2, 0, 1)])
def test_a_version_arrived_when_its_first_copy_did(
    database: Any, order: tuple[int, ...], at_once: bool
) -> None:
    given = [COPIES[place] for place in order]
    for part in [given] if at_once else [[each] for each in given]:
        insert_new(database, READING, rows(*part))
    assert (standing(database), former(database)) == ([(2, "c.csv")], [1])


@pytest.mark.parametrize("at_once", [False, True])
def test_a_copy_of_an_earlier_named_file_stands_with_the_first_arrival(
    database: Any, at_once: bool
) -> None:
    for turned in itertools.permutations(COPIES[:2]):
        database.execute("DELETE FROM readings")
        for part in [turned] if at_once else [[each] for each in turned]:
            insert_new(database, READING, rows(*part))
        assert (standing(database), arrival(database)) == ([(1, "a.csv")], 1)


def test_a_version_that_stands_is_no_superseded_one(database: Any) -> None:
    insert_new(database, READING, rows(("b.csv", 1, 1)))
    lost = rows(("b.csv", 1, 1), ("c.csv", 3, 0), ("c.csv", 3, 0), table=READING_SUPERSEDED)
    done = put(database, READING_SUPERSEDED, lost)
    # The other two are one row.
    assert (done.inserted, former(database)) == (1, [3])


@pytest.mark.parametrize(
    "batch",
    [
        [("a.csv", 1, 1), ("c.csv", 2, 0)],
        [("a.csv", 1, 1), ("a.csv", 1, 1)],
    ],
)
def test_a_reading_is_never_left_without_a_version(
    database: Any, batch: list[tuple[str, int, int]]
) -> None:
    """An older version of the job has put what stands among the superseded ones too."""
    insert_new(database, READING, rows(("b.csv", 1, 1)))
    kept = ", ".join(READING_SUPERSEDED.names)
    for content in (1, 2):
        with_it = rows(("b.csv", content, 1), table=READING_SUPERSEDED)
        database.register("kept", with_it)
        database.execute(f"INSERT INTO readings_superseded ({kept}) SELECT {kept} FROM kept")
        database.unregister("kept")
    insert_new(database, READING, rows(*batch))
    assert standing(database) == [(1, "a.csv")]


def test_what_lost_before_is_taken_where_nothing_else_is_left(database: Any) -> None:
    lost = rows(("b.csv", 1, 1), table=READING_SUPERSEDED)
    insert_new(database, READING_SUPERSEDED, lost)
    insert_new(database, READING, rows(("b.csv", 1, 1), ("a.csv", 1, 1)))
    assert standing(database) == [(1, "a.csv")]
