"""Runs the job as a user would and looks at what it left."""

from __future__ import annotations

import contextlib
import io
import resource
import signal
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from pipeline.__main__ import main


@dataclass(frozen=True)
class Ran:
    """The outcome of one run of the job.

    Attributes:
        status: exit status.
        out: what it printed.
        err: what it printed to standard error.
        lake: the lake's folder.
        warehouse: the DuckDB file.
    """

    status: int
    out: str
    err: str
    lake: Path
    warehouse: Path

    def sql(self, query: str) -> list[tuple[Any, ...]]:
        """The rows of a query on the warehouse."""
        return sql(self.warehouse, query)

    def rows(self, query: str) -> list[dict[str, Any]]:
        """The rows of a query, by column; see `tests.warehouses.differences`."""
        with duckdb.connect(str(self.warehouse), read_only=True) as database:
            database.execute("SET TimeZone = 'UTC'")
            return database.sql(query).to_arrow_table().to_pylist()

    def table(self, name: str, order: str) -> pa.Table:
        """A whole table in a fixed order."""
        with duckdb.connect(str(self.warehouse), read_only=True) as database:
            database.execute("SET TimeZone = 'UTC'")
            return database.sql(f"SELECT * FROM {name} ORDER BY {order}").to_arrow_table()

    def files(self) -> dict[str, int]:
        """The lake's files and their modification times; not what each run notes of its reading."""
        return {
            str(path.relative_to(self.lake)): path.stat().st_mtime_ns
            for path in self.lake.rglob("*")
            if path.is_file() and "source_positions" not in path.parts
        }

    def account(self) -> dict[str, int]:
        """The figures of the account line, by name."""
        line = next(line for line in self.out.splitlines() if line.startswith("read "))
        line = line.replace("dead letters", "dead_letters").replace("not kept", "written")
        words = line.replace(",", "").split()
        return {name: int(words[words.index(name) + 1]) for name in
                ("read", "written", "duplicates", "dead_letters")}  # fmt: skip


TABLES = {
    "readings": "reading_id",
    "readings_superseded": "version_id",
    "dead_letters": "dead_letter_id",
    "window_stats": "stats_id",
    "equipment_profiles": "profile",
    "test_dialects": "dialect_id",
    "cycle_summaries": "summary_id",
}


def sql(warehouse: Path, query: str) -> list[tuple[Any, ...]]:
    """The rows of a query on a DuckDB file."""
    with duckdb.connect(str(warehouse), read_only=True) as database:
        database.execute("SET TimeZone = 'UTC'")
        return database.execute(query).fetchall()


@contextlib.contextmanager
def limited_file_size(size: int) -> Iterator[None]:
    """Within it a file can't grow beyond so many bytes, as on a full disk."""
    former = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, former[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, former)
        signal.signal(signal.SIGXFSZ, handler)


def run(target: Path, source: str | Path, *flags: str) -> Ran:
    """Runs the job on `source` with lake and warehouse below `target`."""
    lake, warehouse = target / "lake", target / "warehouse.duckdb"
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(
            [
                "--runner=DirectRunner",
                f"--source={source}",
                f"--lake={lake}",
                f"--warehouse=duckdb:{warehouse}",
                "--no_progress",
                *flags,
            ]
        )
    return Ran(status, out.getvalue(), err.getvalue(), lake, warehouse)


def same_tables(one: Ran, other: Ran, names: Iterable[str] = TABLES) -> None:
    """Asserts that two warehouses hold the same rows, value for value."""
    for name in names:
        left, right = one.table(name, TABLES[name]), other.table(name, TABLES[name])
        assert left.equals(right), f"{name} differs: {left.num_rows} and {right.num_rows} rows"


_WINDOWS = """
SELECT equipment_id, window_start, window_end, sum(readings), sum(flagged_readings),
    min(voltage_min_v), max(voltage_max_v), min(current_min_a), max(current_max_a),
    round(sum(voltage_mean_v * readings) / sum(readings), 9), round(sum(charge_ah), 9),
    round(sum(discharge_ah), 9)
FROM window_stats GROUP BY ALL ORDER BY ALL
"""


def same_live_tables(one: Ran, other: Ran) -> None:
    """The same of live jobs, in which a window that is completed later has a row for each part."""
    same_tables(one, other, [name for name in TABLES if name != "window_stats"])
    assert one.sql(_WINDOWS) == other.sql(_WINDOWS)
