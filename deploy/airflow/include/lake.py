"""Loads a lake's readings and dead letters into DuckDB or MotherDuck, each once.

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
from schemas.reading import DEAD_LETTER


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
    print(f"{_dead_letters(store, flags.warehouse):,} new dead letters")
    return 0


def _dead_letters(store: Store, warehouse: str) -> int:
    """Inserts what is not there yet; the job would make new letters of them."""
    letters = []
    for file in store.files("dead_letters"):
        with store.open(file.path, file.size) as opened:
            letters.append(pq.read_table(opened).select(DEAD_LETTER.names))
    if not letters:
        return 0
    with place_at(warehouse).connected(create=True) as database:
        assert database is not None
        return insert_new(database, DEAD_LETTER, pa.concat_tables(letters))


if __name__ == "__main__":
    sys.exit(main())
