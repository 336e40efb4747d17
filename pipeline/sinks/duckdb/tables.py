"""Makes the tables in a place, or finds out whether those there can be used."""

from __future__ import annotations

from collections.abc import Sequence

import duckdb
import pyarrow as pa

from pipeline.errors import ConfigError
from pipeline.shown import address
from pipeline.sinks.duckdb.statements import run
from schemas import forms, profiles
from schemas.profiles import Profile
from schemas.reading import EQUIPMENT_PROFILE, TABLES, Table

_SPELLED = {"TIMESTAMPTZ": "TIMESTAMP WITH TIME ZONE"}


def check(database: duckdb.DuckDBPyConnection, uri: str) -> None:
    """Changes nothing; ConfigError where a table's column has another type than it should."""
    # A session at MotherDuck shows the tables of all the account's databases.
    shown = run(
        database,
        "SELECT table_name FROM duckdb_tables() "
        "WHERE database_name = current_database() AND schema_name = current_schema()",
    )
    there = {str(name) for (name,) in shown}
    for table in TABLES:
        if table.name in there:
            _missing(database, table, uri)


def prepare(database: duckdb.DuckDBPyConnection, used: Sequence[Profile], uri: str) -> None:
    """Makes the tables, adds columns that older ones lack, writes the profiles."""
    database.begin()
    for table in TABLES:
        run(database, forms.duckdb_ddl(table))
        for name, kind in _missing(database, table, uri).items():
            run(database, f"ALTER TABLE {table.name} ADD COLUMN {name} {kind}")
    _write_profiles(database, used)
    database.commit()


def _missing(database: duckdb.DuckDBPyConnection, table: Table, uri: str) -> dict[str, str]:
    """The columns that an older table lacks; ConfigError where one has another type."""
    there = {str(row[0]): str(row[1]) for row in run(database, f"DESCRIBE {table.name}")}
    types = forms.duckdb_types(table)
    for name, kind in types.items():
        if there.get(name, kind) not in (kind, _SPELLED.get(kind)):
            raise ConfigError(
                f"--warehouse={address(uri)}: column {table.name}.{name} is {there[name]} and should be "
                f"{kind}; rename the table or give another warehouse"
            )
    return {name: kind for name, kind in types.items() if name not in there}


def _write_profiles(database: duckdb.DuckDBPyConnection, used: Sequence[Profile]) -> None:
    rows = pa.Table.from_pylist(profiles.rows(used), schema=forms.arrow_schema(EQUIPMENT_PROFILE))
    names = ", ".join(EQUIPMENT_PROFILE.names)
    database.register("incoming", rows)
    run(
        database,
        "DELETE FROM equipment_profiles WHERE profile IN (SELECT profile FROM incoming)",
    )
    run(
        database,
        f"INSERT INTO equipment_profiles ({names}) SELECT {names} FROM incoming",  # noqa: S608
    )
    database.unregister("incoming")
