"""Loads a lake's tables into DuckDB or MotherDuck, each row once.

Runs in the project's environment: python -m include.lake --lake=… --warehouse=duckdb:PATH
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.__main__ import main as job
from pipeline.sinks.duckdb.file import File
from pipeline.sinks.duckdb.motherduck import MotherDuck
from pipeline.sinks.duckdb.place import Place
from pipeline.sinks.duckdb.rows import insert_new
from pipeline.stores import Store, store_at
from schemas.reading import (
    CYCLE_SUMMARY,
    DEAD_LETTER,
    PREDICTION,
    SOURCE_POSITION,
    TEST_DIALECT,
    Table,
)

# What the job would not make again of the lake's readings.
_AS_THEY_ARE = (DEAD_LETTER, TEST_DIALECT, CYCLE_SUMMARY, SOURCE_POSITION, PREDICTION)


def place_at(warehouse: str) -> Place:
    """The DuckDB file or MotherDuck database that `warehouse` names."""
    kind, _, path = warehouse.partition(":")
    return MotherDuck.parse(warehouse) if kind == "md" else File(path)


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status, which is the job's."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lake", required=True)
    parser.add_argument("--warehouse", required=True)
    flags = parser.parse_args(argv)
    store = store_at(flags.lake)
    # The whole of it, not the new files alone: only so does every reading get its time delta.
    # What the warehouse holds already stays as it is.
    if any(store.files("readings")):
        status = job(
            ["--runner=DirectRunner", f"--source={flags.lake.rstrip('/')}/readings", "--lake=none",
             f"--warehouse={flags.warehouse}", "--no_progress"]
        )  # fmt: skip
        if status:
            return status
    for table in _AS_THEY_ARE:
        new = _insert(store, flags.warehouse, table)
        print(f"{new:,} new {table.name.replace('_', ' ')}")
    return 0


def _insert(store: Store, warehouse: str, table: Table) -> int:
    """Inserts the rows of a lake's folder that are not there yet."""
    rows = []
    for file in store.files(table.name):
        with store.open(file.path, file.size) as opened:
            rows.append(pq.read_table(opened).select(table.names))
    if not rows:
        return 0
    with place_at(warehouse).connected(create=True) as database:
        assert database is not None
        return insert_new(database, table, pa.concat_tables(rows))


if __name__ == "__main__":
    sys.exit(main())
