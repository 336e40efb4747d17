"""Puts readings into DuckDB's tables, where another version of one may be there already."""

from __future__ import annotations

from typing import NamedTuple

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.sinks.duckdb.statements import changed, query, run, shown, span
from schemas.reading import READING, READING_SUPERSEDED
from transforms import identity
from transforms.decode import MEASURED

_NAMES = ", ".join(READING.names)
_SUPERSEDED_NAMES = ", ".join(READING_SUPERSEDED.names)
# A reading as a superseded one, in the order of that table; `winner` is the version that counts. The
# key is that of `transforms.enrich.version_ids`.
_AS_SUPERSEDED = ", ".join(
    [
        "lost.reading_id || ':' || lost.content_id",
        *(
            "list_sort(list_distinct(list_append(lost.quality_flags, 'superseded')))"
            if name == "quality_flags"
            else f"lost.{name}"
            for name in READING.names
        ),
        "winner.content_id, winner.source_file, winner.ingested_at",
    ]
)
# Which of several versions counts: the first by this order. `place` is -1 for the one that stands
# in the table. As `transforms.sequence` has it.
_NEWEST = "ingested_at DESC, source_file ASC NULLS FIRST, content_id"
_FIRST = "place >= 0, ingested_at, source_file ASC NULLS FIRST, content_id"


class Put(NamedTuple):
    """What became of rows.

    Attributes:
        inserted: rows that were new, and count.
        superseded: rows that were new, and of which another version counts.
        replaced: rows that were there, and of which a newer version counts now.
    """

    inserted: int
    superseded: int = 0
    replaced: int = 0


def put(
    database: duckdb.DuckDBPyConnection, rows: pa.Table, on_conflict: str, may_repeat: bool
) -> Put:
    """Inserts the readings that are not there yet.

    Of two copies the one of the first file (by name) stays, whichever came first. Of two versions
    the one that arrived last counts; with `on_conflict` "keep" the one that is there. The others
    are kept in `readings_superseded`, unless it is "replace"; what is there is no new version.

    Args:
        database: the warehouse, within a transaction.
        rows: of schema READING.
        on_conflict: one of `options.CONFLICTS`.
        may_repeat: whether a reading may be more than once among the rows; looking costs time.
    """
    rows = with_content(rows)
    rows = rows.append_column("place", pa.array(np.arange(rows.num_rows)))
    with shown(database, "incoming", rows):
        known = _known(database, rows)
        ids = rows.column("reading_id")
        repeated = may_repeat and pc.count_distinct(ids).as_py() < rows.num_rows
        if not known.num_rows and not repeated:
            # So it is in most runs.
            return Put(_insert(database, ""))
        known = _make_room(database, rows, known)
        with shown(database, "known", known):
            contested = _contested(database)
            if not contested.num_rows:
                return Put(_insert(database, "ANTI JOIN known USING (reading_id)"))
            with shown(database, "contested", contested):
                return _judge(database, rows, on_conflict)


def with_content(rows: pa.Table) -> pa.Table:
    """Readings with their content's digest, which those of older versions of the job lack."""
    place = rows.schema.get_field_index("content_id")
    column = rows.column(place)
    if not column.null_count:
        return rows
    found = pc.coalesce(column, identity.content(rows, MEASURED))
    return rows.set_column(place, rows.schema.field(place), found)


def _insert(database: duckdb.DuckDBPyConnection, among: str) -> int:
    return changed(
        database,
        f"INSERT INTO readings ({_NAMES}) SELECT {_NAMES} FROM incoming {among}",  # noqa: S608
    )


def _known(database: duckdb.DuckDBPyConnection, rows: pa.Table) -> pa.Table:
    """The readings that are there already: identity, content, and where each came from."""
    where = """FROM readings WHERE recorded_at BETWEEN $1 AND $2
        AND reading_id IN (SELECT reading_id FROM incoming)"""
    select = f"SELECT reading_id, content_id, source_file, ingested_at {where}"
    known = query(database, select, span(READING, rows))
    if known.column("content_id").null_count:
        # An older version of the job has written them.
        older = query(database, f"SELECT * {where} AND content_id IS NULL", span(READING, rows))
        with shown(database, "older", with_content(older).select(["reading_id", "content_id"])):
            run(
                database,
                "UPDATE readings SET content_id = older.content_id FROM older "
                "WHERE recorded_at BETWEEN $1 AND $2 "
                "AND readings.reading_id = older.reading_id AND readings.content_id IS NULL",
                span(READING, rows),
            )
        known = query(database, select, span(READING, rows))
    return known


def _make_room(database: duckdb.DuckDBPyConnection, rows: pa.Table, known: pa.Table) -> pa.Table:
    """Deletes what has a copy from an earlier-named file; returns the known rows that remain.

    So the order of runs does not matter.
    """
    with shown(database, "known", known):
        weaker = query(
            database,
            """SELECT DISTINCT known.reading_id
            FROM known JOIN incoming USING (reading_id, content_id)
            WHERE incoming.source_file < known.source_file""",
        )
        if not weaker.num_rows:
            return known
        with shown(database, "weaker", weaker):
            run(
                database,
                """DELETE FROM readings WHERE recorded_at BETWEEN $1 AND $2
                AND reading_id IN (SELECT reading_id FROM weaker)""",
                span(READING, rows),
            )
            return query(database, "FROM known WHERE reading_id NOT IN (FROM weaker)")


def _contested(database: duckdb.DuckDBPyConnection) -> pa.Table:
    """The readings that come in another version than they are there, or more than once."""
    return query(
        database,
        """SELECT incoming.reading_id FROM incoming JOIN known USING (reading_id)
        WHERE incoming.content_id <> known.content_id
        UNION
        SELECT reading_id FROM incoming GROUP BY reading_id HAVING count(*) > 1""",
    )


def _judge(database: duckdb.DuckDBPyConnection, rows: pa.Table, on_conflict: str) -> Put:
    """Inserts the rows; of those that are contested the version that counts."""
    judged = query(
        database,
        f"""WITH former AS (
            SELECT reading_id, content_id FROM readings_superseded
            WHERE recorded_at BETWEEN $1 AND $2
            AND reading_id IN (SELECT reading_id FROM contested)
        ), version AS (
            SELECT -1 AS place, reading_id, content_id, source_file, ingested_at
            FROM known SEMI JOIN contested USING (reading_id)
            UNION ALL
            SELECT place, reading_id, content_id, source_file, ingested_at
            FROM incoming SEMI JOIN contested USING (reading_id)
            ANTI JOIN former USING (reading_id, content_id)
            ANTI JOIN known USING (reading_id, content_id)
            QUALIFY row_number() OVER (
                PARTITION BY reading_id, content_id ORDER BY source_file ASC NULLS FIRST, place
            ) = 1
        )
        SELECT *, row_number() OVER (
            PARTITION BY reading_id ORDER BY {_FIRST if on_conflict == "keep" else _NEWEST}
        ) AS rank FROM version""",  # noqa: S608
        span(READING, rows),
    )
    with shown(database, "judged", judged):
        fresh = _insert(
            database,
            "ANTI JOIN known USING (reading_id) ANTI JOIN contested USING (reading_id)",
        )
        if on_conflict != "replace":
            _keep(database, "incoming", "lost.place = judged.place", rows)
            _keep(database, "readings", "judged.place = -1", rows)
        replaced = changed(
            database,
            """DELETE FROM readings WHERE recorded_at BETWEEN $1 AND $2
            AND reading_id IN (SELECT reading_id FROM judged WHERE place = -1 AND rank > 1)""",
            span(READING, rows),
        )
        won = _insert(
            database, "WHERE place IN (SELECT place FROM judged WHERE rank = 1 AND place >= 0)"
        )
    lost = pc.and_(
        pc.greater(judged.column("rank"), 1), pc.greater_equal(judged.column("place"), 0)
    )
    return Put(fresh + won, pc.sum(lost).as_py() or 0, replaced)


def _keep(database: duckdb.DuckDBPyConnection, table: str, which: str, rows: pa.Table) -> None:
    """Keeps the versions of `table` that do not count, unless they are kept already."""
    run(
        database,
        f"""INSERT INTO readings_superseded ({_SUPERSEDED_NAMES})
        SELECT {_AS_SUPERSEDED}
        FROM {table} AS lost
        JOIN judged ON judged.reading_id = lost.reading_id AND judged.rank > 1 AND {which}
        JOIN judged AS winner ON winner.reading_id = lost.reading_id AND winner.rank = 1
        WHERE lost.recorded_at BETWEEN $1 AND $2 AND NOT EXISTS (
            SELECT 1 FROM readings_superseded AS there
            WHERE there.recorded_at BETWEEN $1 AND $2
            AND there.reading_id = lost.reading_id AND there.content_id = lost.content_id
        )""",  # noqa: S608
        span(READING, rows),
    )
