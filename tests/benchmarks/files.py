"""Files of readings: the job against DuckDB alone, from the same file into the same two targets."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import duckdb

from tests.benchmarks.backlog import Cost, check, measured, tell
from tests.benchmarks.duckdb_alone import READERS


def _made(ndjson: Path) -> dict[str, Path]:
    """The same readings as NDJSON, CSV and Parquet."""
    found = {kind: ndjson.with_suffix(f".{kind}") for kind in READERS}
    read = f"SELECT * FROM read_json('{ndjson}', sample_size=-1)"
    for path in found.values():
        if not path.exists():
            duckdb.sql(f"COPY ({read}) TO '{path}'")
    return found


def speed(scratch: Path, readings: int, rounds: int, make: Callable[[int], Path]) -> None:
    """Prints what each took by kind of file, and the ratios.

    Args:
        scratch: an empty folder.
        readings: of the file.
        rounds: how often each runs, in turn.
        make: an NDJSON file of so many readings.
    """
    scratch.mkdir()
    print("files to lake and DuckDB, whole processes; limit: DuckDB alone")
    for kind, source in _made(make(readings)).items():
        runs: Mapping[str, list[Cost]] = {"limit": [], "job": []}
        for _ in range(rounds):
            for name, done in runs.items():
                out = Path(tempfile.mkdtemp(prefix=name, dir=scratch))
                command = ["tests.benchmarks.duckdb_alone", str(source), str(out)]
                if name == "job":
                    command = [
                        "pipeline", "--runner=DirectRunner", "--no_progress", f"--source={source}",
                        f"--lake={out / 'lake'}", f"--warehouse=duckdb:{out / 'warehouse.duckdb'}",
                    ]  # fmt: skip
                done.append(measured(command, scratch / f"{name}.log"))
                check(out / "warehouse.duckdb", readings)
                shutil.rmtree(out)
        tell(f"{kind}, {readings:,} readings:", readings, runs)
