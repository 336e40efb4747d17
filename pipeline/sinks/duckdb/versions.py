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
from transforms.sequence import SUPERSEDED_BY

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
        *(f"winner.{column}" for column in SUPERSEDED_BY.values()),
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

    Of two copies the one of the first file (by name) stays, whichever came first, with the arrival
    of the first to arrive. Of two versions the one that arrived last counts; with `on_conflict`
    "keep" the one that is there. The others are kept in `readings_superseded`, unless it is "replace"; what is there is no new version.

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
        rows = _first_arrivals(database, rows, known)
    with shown(database, "incoming", rows):
        copies = _replace_copies(database, rows, known)
        if copies is not None:
            known = _known(database, rows)
        replaced = copies or 0
        with shown(database, "known", known):
            contested = _contested(database)
            if not contested.num_rows:
                return Put(_insert(database, "ANTI JOIN known USING (reading_id)") + replaced)
            with shown(database, "contested", contested):
                done = _judge(database, rows, on_conflict)
                return done._replace(inserted=done.inserted + replaced)


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


def _first_arrivals(
    database: duckdb.DuckDBPyConnection, rows: pa.Table, known: pa.Table
) -> pa.Table:
    """The rows, each with the arrival of its version's first copy: here or in the table."""
    with shown(database, "known", known):
        earlier = query(
            database,
            """SELECT incoming.place, least(
                min(incoming.ingested_at) OVER (
                    PARTITION BY incoming.reading_id, incoming.content_id
                ), known.ingested_at
            ) AS arrived
            FROM incoming LEFT JOIN known USING (reading_id, content_id)
            QUALIFY arrived < incoming.ingested_at""",
        )
    if not earlier.num_rows:
        return rows
    place = rows.schema.get_field_index("ingested_at")
    column = rows.column(place)
    micros = np.array(column.cast(pa.int64()).to_numpy())
    arrived = earlier.column("arrived").cast(pa.int64()).to_numpy()
    micros[earlier.column("place").to_numpy()] = arrived
    return rows.set_column(place, rows.schema.field(place), pa.array(micros).cast(column.type))


def _replace_copies(
    database: duckdb.DuckDBPyConnection, rows: pa.Table, known: pa.Table
) -> int | None:
    """Puts copies from earlier-named files in the place of those that stand.

    What stands is of the same version before and after, with the arrival of its first copy. So the
    order of runs does not matter.

    Returns:
        How many are of another file now; None if nothing was changed.
    """
    if not known.num_rows:
        return None
    with shown(database, "known", known):
        better = query(
            database,
            """SELECT incoming.place, reading_id, incoming.ingested_at AS arrived,
                coalesce(incoming.source_file < known.source_file, false) AS moves
            FROM incoming JOIN known USING (reading_id, content_id)
            WHERE moves OR incoming.ingested_at < known.ingested_at
            QUALIFY row_number() OVER (
                PARTITION BY reading_id ORDER BY moves DESC, incoming.source_file, incoming.place
            ) = 1""",
        )
    if not better.num_rows:
        return None
    with shown(database, "better", better):
        run(
            database,
            """DELETE FROM readings WHERE recorded_at BETWEEN $1 AND $2
            AND reading_id IN (SELECT reading_id FROM better WHERE moves)""",
            span(READING, rows),
        )
        moved = _insert(database, "WHERE place IN (SELECT place FROM better WHERE moves)")
        run(
            database,
            """UPDATE readings SET ingested_at = better.arrived FROM better
            WHERE readings.recorded_at BETWEEN $1 AND $2
            AND readings.reading_id = better.reading_id AND NOT better.moves""",
            span(READING, rows),
        )
        return moved


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
        ), candidate AS (
            SELECT -1 AS place, reading_id, content_id, source_file, ingested_at, false AS lost
            FROM known SEMI JOIN contested USING (reading_id)
            UNION ALL
            SELECT place, reading_id, content_id, source_file, ingested_at,
                (reading_id, content_id) IN (SELECT (reading_id, content_id) FROM former) AS lost
            FROM incoming SEMI JOIN contested USING (reading_id)
            ANTI JOIN known USING (reading_id, content_id)
            QUALIFY row_number() OVER (
                PARTITION BY reading_id, content_id ORDER BY source_file ASC NULLS FIRST, place
            ) = 1
        ), version AS (
            -- What lost before loses again, unless nothing else is left of the reading.
            SELECT * EXCLUDE (lost) FROM candidate
            QUALIFY NOT lost OR bool_and(lost) OVER (PARTITION BY reading_id)
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
