"""Inserts rows that are not there yet; the same statements for a file and for MotherDuck."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from schemas.reading import READING, Table


def run(
    database: duckdb.DuckDBPyConnection, sql: str, values: Sequence[object] = ()
) -> list[tuple[object, ...]]:
    """Executes one statement to its end: DuckDB refuses others while a result is open."""
    return database.execute(sql, list(values)).fetchall()


def insert_new(database: duckdb.DuckDBPyConnection, table: Table, rows: pa.Table) -> int:
    """Inserts the rows whose key is not there yet; returns how many those were.

    What is there is looked for only in the time span of `rows`, which DuckDB finds by the
    column's min and max per row group. Of two copies of a reading that came from different files
    the one of the first file (by name) stays, whichever came first. Of a table without a time
    span, which is small, rows may also come twice at once.

    Nothing but the table itself is written: a temporary table would be a second database in the
    transaction, and MotherDuck keeps those on this side.
    """
    names = ", ".join(table.names)
    once = "" if table.partition else f"QUALIFY row_number() OVER (PARTITION BY {table.key}) = 1"
    with _shown(database, "incoming", rows):
        known = _known(database, table, rows)
        if known.num_rows and table == READING:
            known = _make_room(database, table, rows, known)
        # Nothing is known in most runs: then without the join.
        new = f"ANTI JOIN known USING ({table.key})" if known.num_rows else ""
        with _shown(database, "known", known):
            inserted = run(
                database,
                f"INSERT INTO {table.name} ({names}) SELECT {names} FROM incoming {new} {once}",  # noqa: S608
            )
    return int(str(inserted[0][0]))


def _known(database: duckdb.DuckDBPyConnection, table: Table, rows: pa.Table) -> pa.Table:
    """The keys that are there already; of readings with the file that each came from."""
    file = ", source_file" if table == READING else ""
    within = f"{table.partition} BETWEEN $1 AND $2 AND" if table.partition else ""
    return _query(
        database,
        f"""SELECT {table.key}{file} FROM {table.name}
        WHERE {within} {table.key} IN (SELECT {table.key} FROM incoming)""",  # noqa: S608
        _span(table, rows) if table.partition else (),
    )


def _make_room(
    database: duckdb.DuckDBPyConnection, table: Table, rows: pa.Table, known: pa.Table
) -> pa.Table:
    """Deletes what has a copy from an earlier-named file; returns the known rows that remain.

    So the order of runs does not matter.
    """
    with _shown(database, "known", known):
        weaker = _query(
            database,
            """SELECT known.reading_id FROM known JOIN incoming USING (reading_id)
            WHERE incoming.source_file < known.source_file""",
        )
        if not weaker.num_rows:
            return known
        with _shown(database, "weaker", weaker):
            run(
                database,
                f"""DELETE FROM {table.name} WHERE {table.partition} BETWEEN $1 AND $2
                AND reading_id IN (SELECT reading_id FROM weaker)""",  # noqa: S608
                _span(table, rows),
            )
            return _query(database, "FROM known WHERE reading_id NOT IN (FROM weaker)")


def _span(table: Table, rows: pa.Table) -> list[object]:
    """The first and the last time of the rows."""
    assert table.partition is not None
    found = pc.min_max(rows.column(table.partition))
    return [found["min"].as_py(), found["max"].as_py()]


def _query(
    database: duckdb.DuckDBPyConnection, sql: str, values: Sequence[object] = ()
) -> pa.Table:
    return database.sql(sql, params=list(values)).to_arrow_table()


@contextlib.contextmanager
def _shown(database: duckdb.DuckDBPyConnection, name: str, rows: pa.Table) -> Iterator[None]:
    """Within it, statements read `rows` by that name."""
    database.register(name, rows)
    try:
        yield
    finally:
        # In a transaction that failed not even that works, and what failed must be told.
        with contextlib.suppress(duckdb.Error):
            database.unregister(name)
