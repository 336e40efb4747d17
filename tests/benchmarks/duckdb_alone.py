"""A file to a table and a Parquet file in SQL: what DuckDB alone takes for it."""

from __future__ import annotations

import sys
from pathlib import Path

import duckdb

READERS = {"ndjson": "read_json", "csv": "read_csv", "parquet": "read_parquet"}


def alone(source: Path, out: Path) -> None:
    """What one would write in SQL: power and time deltas, a table and a file; no check of anything."""
    reader = READERS[source.suffix[1:]]
    # Else it looks at the beginning alone, and fails where another kind of equipment follows.
    whole = ", sample_size=-1" if reader == "read_json" else ""
    with duckdb.connect(str(out / "warehouse.duckdb")) as database:
        database.execute(f"""
            CREATE TABLE readings AS
            SELECT *, voltage_v * current_a AS power_watt,
                epoch(recorded_at - lag(recorded_at) OVER (
                    PARTITION BY equipment_id ORDER BY recorded_at
                )) AS time_delta_s
            FROM {reader}('{source}'{whole})
        """)
        database.execute(
            f"COPY readings TO '{out / 'readings.parquet'}' (COMPRESSION zstd, COMPRESSION_LEVEL 1)"
        )


if __name__ == "__main__":
    alone(Path(sys.argv[1]), Path(sys.argv[2]))
