"""What the models of a warehouse were last built of, kept in the warehouse: an equal build can be left out.

Two tables, which dbt's macros make (macros/by_part.sql): `model_builds` has one row for the last
complete build, until the next one begins; `model_parts` says which parts of the models' tables the
data tests have looked at.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import duckdb
import orjson

from pipeline.report import warehouse as report_warehouse
from schemas.reading import TABLES

# Folders of the project that no model is made of.
_NOT_READ = {"target", "logs", "dbt_packages", "figures", "sqlfluff_libs"}
# Variables that tell dbt where to work and not what to do.
_PLACES = {"DBT_TARGET_PATH", "DBT_LOG_PATH", "DBT_PROFILES_DIR", "DBT_PROJECT_DIR"}


@dataclass(frozen=True)
class Last:
    """A complete build.

    Attributes:
        built_at: when it ended, UTC.
        told: what its data tests warned of, in lines.
    """

    built_at: datetime
    told: tuple[str, ...]


@contextlib.contextmanager
def opened(warehouse: str) -> Iterator[duckdb.DuckDBPyConnection | None]:
    """The warehouse, open for writing; None if it is none of DuckDB's: on BigQuery nothing is kept.

    Raises:
        ConfigError: it is not there, or can't be opened, as while another program has it.
    """
    if warehouse.startswith("bigquery:"):
        yield None
    else:
        with report_warehouse.opened(warehouse, read_only=False) as database:
            yield database


def made_of(project: Path, database: duckdb.DuckDBPyConnection) -> str:
    """What a build would be made of now: a digest that any change of it changes.

    It covers every row of the job's tables and their columns, the project's files, dbt's variables
    and the versions of dbt and DuckDB.

    Args:
        project: dbt's project.
        database: the warehouse, open.
    """
    digest = hashlib.sha256()
    for path in sorted(project.rglob("*")):
        name = path.relative_to(project)
        if path.is_file() and name.parts[0] not in _NOT_READ and name.name != ".user.yml":
            digest.update(f"{name}\0{len(path.read_bytes())}\0".encode() + path.read_bytes())
    variables = {
        name: value
        for name, value in sorted(os.environ.items())
        if name.startswith("DBT_") and name not in _PLACES
    }
    tables = []
    for table in TABLES:
        columns = database.execute(
            "SELECT column_name, data_type FROM duckdb_columns() WHERE table_name = ? "
            "AND database_name = current_database() AND schema_name = current_schema() "
            "ORDER BY column_index", [table.name],
        ).fetchall()  # fmt: skip
        rows = None
        if columns:
            rows = database.execute(
                f'SELECT count(*), CAST(sum(hash(*COLUMNS(*))) AS VARCHAR) FROM "{table.name}"'  # noqa: S608 - a name of ours
            ).fetchone()
        tables.append((table.name, columns, rows))
    versions = [duckdb.__version__, version("dbt-core"), version("dbt-duckdb")]
    digest.update(orjson.dumps([variables, tables, versions]))
    return digest.hexdigest()


def last(project: Path, database: duckdb.DuckDBPyConnection) -> Last | None:
    """The last complete build, if one would now leave the same; None where that is not sure.

    Its tables and views must all be there, with as many rows as it left.
    """
    if not _has(database, "model_builds"):
        return None
    row = database.execute(
        "SELECT made_of, leaves, told, epoch_us(built_at) FROM model_builds"
    ).fetchone()
    if row is None:
        return None
    leaves = orjson.loads(row[1])
    if _left(database, leaves) != leaves or row[0] != made_of(project, database):
        return None
    return Last(datetime.fromtimestamp(row[3] / 1e6, UTC), tuple(orjson.loads(row[2])))


def forget_checks(database: duckdb.DuckDBPyConnection) -> None:
    """Lets the data tests of the next build look at everything."""
    if _has(database, "model_parts"):
        database.execute("UPDATE model_parts SET is_checked = false")


def remember(
    database: duckdb.DuckDBPyConnection,
    made: str,
    models: Iterable[str],
    warned: Iterable[str],
    told: Iterable[str],
) -> None:
    """Notes a complete build whose data tests all ran and none failed.

    Args:
        database: the warehouse, open for writing.
        made: what `made_of` gave before it began.
        models: the tables and views that it left.
        warned: those of whose rows a data test warned; the next build's tests look at them again.
        told: the warnings.
    """
    again = list(warned)
    database.begin()
    database.execute(
        "UPDATE model_parts SET is_checked = true WHERE NOT list_contains(?, model_name)", [again]
    )
    database.execute("DELETE FROM model_builds")
    leaves = orjson.dumps(_left(database, models)).decode()
    database.execute(
        "INSERT INTO model_builds VALUES (?, ?, ?, ?)",
        [made, leaves, orjson.dumps(list(told)).decode(), datetime.now(UTC)],
    )
    database.commit()


def _has(database: duckdb.DuckDBPyConnection, table: str) -> bool:
    """Is the table there?"""
    found = database.execute(
        "SELECT 1 FROM duckdb_tables() WHERE table_name = ? AND database_name = current_database() "
        "AND schema_name = current_schema()", [table],
    ).fetchone()  # fmt: skip
    return found is not None


def _left(
    database: duckdb.DuckDBPyConnection, models: Iterable[str]
) -> dict[str, str | int | None]:
    """Of each model the number of its rows, or a view's text; None where it is not there."""
    views: dict[str, str] = dict(
        database.execute(
            # The names after EXCLUDE are kept in no order.
            "SELECT view_name, regexp_replace(sql, 'EXCLUDE \\([^)]*\\)', '', 'g') "
            "FROM duckdb_views() WHERE database_name = current_database() "
            "AND schema_name = current_schema() AND NOT internal"
        ).fetchall()
    )
    left: dict[str, str | int | None] = {}
    for name in models:
        if name in views:
            left[name] = hashlib.sha256(views[name].encode()).hexdigest()
        elif _has(database, name):
            counted = database.execute(f'SELECT count(*) FROM "{name}"').fetchone()  # noqa: S608 - a model's
            left[name] = counted[0] if counted else None
        else:
            left[name] = None
    return left
