"""Opens the warehouse that the models are in: a DuckDB file, or a database at MotherDuck."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import duckdb

from pipeline.errors import ConfigError
from pipeline.shown import address


@contextlib.contextmanager
def opened(warehouse: str, read_only: bool = True) -> Iterator[duckdb.DuckDBPyConnection]:
    """The warehouse that a duckdb: or md: URI names, open for reading alone unless told otherwise.

    Raises:
        ConfigError: it is not there, or can't be opened.
    """
    kind, _, place = warehouse.partition(":")
    if kind == "duckdb" and place:
        with contextlib.closing(_file(warehouse, place, read_only)) as database:
            yield database
    elif kind == "md":
        with _motherduck(warehouse) as database:
            yield database
    else:
        raise ConfigError(
            f"--warehouse={address(warehouse)}: the report reads duckdb:PATH, such as "
            "duckdb:data/warehouse.duckdb, or md:DATABASE"
        )


def _file(warehouse: str, path: str, read_only: bool) -> duckdb.DuckDBPyConnection:
    if not Path(path).is_file():
        raise ConfigError(
            f"--warehouse={address(warehouse)}: there is no such file; run python -m pipeline first"
        )
    try:
        return duckdb.connect(path, read_only=read_only)
    except duckdb.Error as error:
        fix = (
            "wait until the program that writes to it has finished"
            if "lock" in str(error)
            else "give the file that python -m pipeline wrote"
        )
        reason = str(error).splitlines()[0]
        raise ConfigError(f"--warehouse={address(warehouse)}: {reason}; {fix}") from error


@contextlib.contextmanager
def _motherduck(warehouse: str) -> Iterator[duckdb.DuckDBPyConnection]:
    # Not above: it imports Beam, which the report of a file does without.
    from pipeline.sinks.duckdb.motherduck import MotherDuck

    with MotherDuck.parse(warehouse).there() as database:
        yield database
