"""A million readings read live give the same tables as a bounded run over the same readings."""

from __future__ import annotations

import time

import duckdb

from tests.endurance.processes import Job, Process
from tests.endurance.rig import Rig

# What a reading owes to where and when it was read, not to what it says.
_SOURCE = "ingested_at, source_file"


def million(rig: Rig, readings: int = 1_000_000) -> dict[str, int]:
    """Publishes so many readings as fast as may be, reads them live, then the raw archive again."""
    producer = rig.producer(f"--count={readings}", "--rate=1e9", "--devices=1000")
    job = rig.job()
    began = time.monotonic()
    producer.wait(600)
    rig.figures["published_s"] = time.monotonic() - began
    rig.read_to(rig.ends(), 600)
    rig.figures["read_s"] = time.monotonic() - began
    wrong = rig.finish(job)
    again = rig.folder / "bounded"
    again.mkdir()
    with Process("bounded", again, "pipeline", f"--source={job.lake / 'raw'}", "--lake=none",
                 f"--warehouse=duckdb:{again / 'warehouse.duckdb'}", f"--window={rig.window_s}",
                 "--no_progress") as bounded:  # fmt: skip
        status = bounded.wait(600)
    wrong |= {"bounded_exit_status": status} if status else {}
    return wrong | _differences(job, again / "warehouse.duckdb")


def _differences(job: Job, bounded: object) -> dict[str, int]:
    """Rows that only one of the two warehouses has."""
    found = {}
    with duckdb.connect() as database:
        database.execute(f"ATTACH '{job.warehouse}' AS live (READ_ONLY)")
        database.execute(f"ATTACH '{bounded}' AS bounded (READ_ONLY)")
        for table in ("readings", "window_stats"):
            columns = f"* EXCLUDE ({_SOURCE})" if table == "readings" else "*"
            for one, other in (("live", "bounded"), ("bounded", "live")):
                query = (
                    f"SELECT count(*) FROM (SELECT {columns} FROM {one}.{table} "
                    f"EXCEPT ALL SELECT {columns} FROM {other}.{table})"
                )
                found[f"{table}_only_{one}"] = database.execute(query).fetchall()[0][0]
    return {name: number for name, number in found.items() if number}
