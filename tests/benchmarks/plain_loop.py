"""The job's own parts in a plain loop without Beam: what Beam adds."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from pipeline.sinks.duckdb import DuckDBSink, connection, insert_new
from pipeline.sinks.lake.files import write_parquet
from pipeline.sinks.lake.tables import by_day
from pipeline.stores.local import LocalStore
from schemas import profiles
from schemas.forms import UTC_MICROSECONDS
from schemas.reading import READING, WINDOW_STATS
from transforms.batch import MESSAGES, BatchKind, Origin, PackedBatch, RawBatch
from transforms.decode import decode
from transforms.enrich import enrich
from transforms.limits import Limits
from transforms.order import Release, by_shard
from transforms.summarise import summarise
from transforms.validate import validate

BATCH = 20_000
WINDOW_US = 60_000_000
SHARDS = 8


class Stages:
    """Seconds spent per stage, by a clock of `time`."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._clock = clock

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        started = self._clock()
        yield
        self.seconds[name] += self._clock() - started


def _batches(path: Path) -> Iterator[RawBatch]:
    arrived = int(path.stat().st_mtime * 1e6)
    with path.open("rb") as lines:
        first = 1
        while block := [line for _, line in zip(range(BATCH), lines, strict=False)]:
            rows = len(block)
            table = pa.table(
                [
                    pa.array([line.rstrip(b"\n") for line in block], pa.binary()),
                    pa.nulls(rows, pa.binary()),
                    pa.nulls(rows, pa.string()),
                    pa.array(range(first, first + rows)).cast(pa.string()),
                    pa.array([arrived] * rows).cast(UTC_MICROSECONDS),
                    pa.nulls(rows, pa.string()),
                ],
                schema=MESSAGES,
            )
            yield RawBatch(table, BatchKind.MESSAGES, Origin(str(path), path.name, arrived))
            first += rows


def run(source: Path, out: Path) -> tuple[int, dict[str, float]]:
    """Takes an NDJSON file to Parquet and DuckDB; returns readings written, seconds per stage."""
    stages = Stages(time.process_time)
    limits = Limits(profiles.load())
    warehouse = out / "warehouse.duckdb"
    DuckDBSink(str(warehouse), profiles.load()).prepare()
    now = time.time_ns() // 1000
    pieces: dict[int, list[tuple[int, PackedBatch]]] = defaultdict(list)
    reading = _batches(source)
    while True:
        with stages.of("read"):
            raw = next(reading, None)
        if raw is None:
            break
        with stages.of("decode"):
            decoded, _ = decode(raw)
        with stages.of("validate"):
            valid, _ = validate(decoded, limits, now)
        with stages.of("shard"):
            for shard, piece in by_shard(valid, SHARDS):
                pieces[shard].append(piece)
    written = 0
    held: list[tuple[pa.Table, pa.Table]] = []
    for shard in sorted(pieces):
        release = Release(WINDOW_US, limits).sweep(pieces.pop(shard))
        while True:
            with stages.of("order"):
                part = next(release, None)
            if part is None:
                break
            with stages.of("enrich"):
                readings = enrich(part.table)
            with stages.of("summarise"):
                stats = summarise(part.table, WINDOW_US)
            with stages.of("parquet"):
                for day, rows in by_day(readings, "recorded_at"):
                    store = LocalStore(str(out / "lake"))
                    write_parquet(store, f"readings/dt={day}", rows, ["reading_id"])
            written += readings.num_rows
            held.append((readings, stats))
            if sum(rows.num_rows for rows, _ in held) >= 500_000:
                with stages.of("duckdb"):
                    _insert(warehouse, held)
    with stages.of("duckdb"):
        _insert(warehouse, held)
    return written, dict(stages.seconds)


def _insert(warehouse: Path, held: list[tuple[pa.Table, pa.Table]]) -> None:
    if not held:
        return
    with connection(str(warehouse)) as database:
        database.begin()
        insert_new(database, READING, pa.concat_tables([rows for rows, _ in held]))
        insert_new(database, WINDOW_STATS, pa.concat_tables([stats for _, stats in held]))
        database.commit()
    held.clear()
