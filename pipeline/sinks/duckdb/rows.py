"""Inserts rows that are not there yet; the same statements for a file and for MotherDuck."""

from __future__ import annotations

import duckdb
import pyarrow as pa

from pipeline.sinks.duckdb import versions
from pipeline.sinks.duckdb.statements import changed, query, shown, span
from pipeline.sinks.duckdb.versions import Put
from schemas.reading import READING, READING_SUPERSEDED, Table


def insert_new(
    database: duckdb.DuckDBPyConnection, table: Table, rows: pa.Table, on_conflict: str = "version"
) -> int:
    """Inserts the rows that are not there yet; returns how many of those count. See `put`."""
    return put(database, table, rows, on_conflict).inserted


def put(
    database: duckdb.DuckDBPyConnection,
    table: Table,
    rows: pa.Table,
    on_conflict: str = "version",
    may_repeat: bool = True,
) -> Put:
    """Inserts the rows whose key is not there yet.

    What is there is looked for only in the time span of `rows`, which DuckDB finds by the
    column's min and max per row group. Of two copies of a reading that came from different files
    the one of the first file (by name) stays, whichever came first; of two versions the one that
    `on_conflict` says counts. A version that counts is no superseded one, whatever the stream took it
    for. Superseded readings, and rows of a table without a time span, may also come twice at once.

    Nothing but the tables themselves is written: a temporary table would be a second database in
    the transaction, and MotherDuck keeps those on this side.

    Args:
        database: the warehouse, within a transaction.
        table: what `rows` are rows of.
        rows: of the table's schema.
        on_conflict: one of `options.CONFLICTS`.
        may_repeat: whether a reading may be more than once among the rows.
    """
    if table == READING:
        return versions.put(database, rows, on_conflict, may_repeat)
    names = ", ".join(table.names)
    several = table == READING_SUPERSEDED or not table.partition
    once = "" if not several else f"QUALIFY row_number() OVER (PARTITION BY {table.key}) = 1"
    with shown(database, "incoming", rows):
        known = _known(database, table, rows)
        # Nothing is known in most runs: then without the join.
        new = f"ANTI JOIN known USING ({table.key})" if known.num_rows else ""
        with shown(database, "known", known):
            return Put(
                changed(
                    database,
                    f"INSERT INTO {table.name} ({names}) SELECT {names} FROM incoming {new} {once}",  # noqa: S608
                )
            )


def _known(database: duckdb.DuckDBPyConnection, table: Table, rows: pa.Table) -> pa.Table:
    """The keys that are there already."""
    within = f"{table.partition} BETWEEN $1 AND $2 AND" if table.partition else ""
    standing = ""
    if table == READING_SUPERSEDED:
        standing = f"""UNION SELECT reading_id || ':' || content_id FROM readings
            WHERE {within} reading_id IN (SELECT reading_id FROM incoming)
            AND content_id IS NOT NULL"""  # noqa: S608
    return query(
        database,
        f"""SELECT {table.key} FROM {table.name}
        WHERE {within} {table.key} IN (SELECT {table.key} FROM incoming) {standing}""",  # noqa: S608
        span(table, rows) if table.partition else (),
    )
