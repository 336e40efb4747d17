"""Statements on a DuckDB database: run to their end, with Arrow tables as their input and output."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from schemas.reading import Table


def run(
    database: duckdb.DuckDBPyConnection, sql: str, values: Sequence[object] = ()
) -> list[tuple[object, ...]]:
    """Executes one statement to its end: DuckDB refuses others while a result is open."""
    return database.execute(sql, list(values)).fetchall()


def changed(database: duckdb.DuckDBPyConnection, sql: str, values: Sequence[object] = ()) -> int:
    """Executes a statement that changes rows; how many."""
    return int(str(run(database, sql, values)[0][0]))


def span(table: Table, rows: pa.Table) -> list[object]:
    """The first and the last time of the rows."""
    assert table.partition is not None
    found = pc.min_max(rows.column(table.partition))
    return [found["min"].as_py(), found["max"].as_py()]


def query(database: duckdb.DuckDBPyConnection, sql: str, values: Sequence[object] = ()) -> pa.Table:
    """The rows that a query gives."""
    return database.sql(sql, params=list(values)).to_arrow_table()


@contextlib.contextmanager
def shown(database: duckdb.DuckDBPyConnection, name: str, rows: pa.Table) -> Iterator[None]:
    """Within it, statements read `rows` by that name."""
    database.register(name, rows)
    try:
        yield
    finally:
        # In a transaction that failed not even that works, and what failed must be told.
        with contextlib.suppress(duckdb.Error):
            database.unregister(name)
