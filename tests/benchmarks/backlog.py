"""A backlog in Kafka, read to its end: the job against the best plain loop, whole processes in turn."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import duckdb

from tests.benchmarks.live import publish
from tests.services.kafka import kafka_broker
from tests.services.processes import Unavailable


@dataclass(frozen=True)
class Cost:
    """What a process took, its imports included: seconds, of all cores' work, MiB at most."""

    wall_s: float
    cpu_s: float
    peak_mb: float


def _best(servers: str, topic: str, out: Path) -> list[str]:
    return ["tests.benchmarks.best_loop", servers, topic, str(out)]


def _job(servers: str, topic: str, out: Path, client: str = "kafka-python") -> list[str]:
    return [
        "pipeline", "--runner=DirectRunner", "--until=latest", "--no_progress",
        f"--source=kafka://{servers}/{topic}?group={out.name}&client={client}", f"--lake={out / 'lake'}",
        f"--warehouse=duckdb:{out / 'warehouse.duckdb'}",
    ]  # fmt: skip


KINDS: Mapping[str, Callable[[str, str, Path], list[str]]] = {
    "limit": _best,
    "job": _job,
    "librdkafka": partial(_job, client="librdkafka"),
}


def measured(command: Sequence[str], log: Path) -> Cost:
    """Runs a Python module to its end; ends this process where it fails."""
    began = time.perf_counter()
    with log.open("wb") as told:
        process = subprocess.Popen(
            [sys.executable, "-m", *command], stdout=told, stderr=subprocess.STDOUT
        )
        _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command[0]} ended with {process.returncode}: {log.read_text()[-2000:]}")
    return Cost(time.perf_counter() - began, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)


def check(warehouse: Path, readings: int) -> None:
    """Finds out whether a warehouse has all readings, with their power."""
    with duckdb.connect(str(warehouse), read_only=True) as database:
        query = "SELECT count(*), count(power_watt) FROM readings WHERE recorded_at < '2025-01-01'"
        found = database.execute(query).fetchall()[0]
    if found != (readings, readings):
        raise SystemExit(f"{warehouse}: {found} readings instead of {readings}")


def speed(
    scratch: Path, readings: int, rounds: int, fleets: Sequence[int], kinds: Sequence[str]
) -> None:
    """Prints what each kind took, and the ratios to the first one.

    Args:
        scratch: where the broker keeps its data.
        readings: of each topic.
        rounds: how often each runs, in turn with the others.
        fleets: how many equipments there are, for each topic.
        kinds: of KINDS.
    """
    try:
        broker = kafka_broker(scratch / "kafka")
    except Unavailable as reason:
        print(f"backlog: not measured ({reason})")
        return
    with broker:
        print(f"backlog in Kafka ({broker.kind}) to lake and DuckDB, whole processes:")
        for equipment in fleets:
            topic = publish(broker, equipment, readings).rsplit("/", 1)[1]
            runs: dict[str, list[Cost]] = {kind: [] for kind in kinds}
            for _ in range(rounds):
                for kind, done in runs.items():
                    out = Path(tempfile.mkdtemp(prefix=kind, dir=scratch))
                    command = KINDS[kind](broker.bootstrap, topic, out)
                    done.append(measured(command, scratch / f"{kind}.log"))
                    check(out / "warehouse.duckdb", readings)
                    shutil.rmtree(out)
            tell(f"{equipment:>7,} equipments, {readings:,} readings:", readings, runs)


def tell(what: str, readings: int, runs: Mapping[str, Sequence[Cost]]) -> None:
    """Prints medians, and how the first of the kinds compares with each."""
    print(what)
    wall, cpu = (
        {
            kind: statistics.median(getattr(each, name) for each in done)
            for kind, done in runs.items()
        }
        for name in ("wall_s", "cpu_s")
    )
    first = next(iter(runs))
    for kind, done in runs.items():
        peak = max(each.peak_mb for each in done)
        print(
            f"        {kind:>10} {wall[kind]:6.1f} s, {cpu[kind] / readings * 1e6:6.2f} µs of CPU a "
            f"reading, {peak:,.0f} MiB; {first} = {wall[first] / wall[kind]:.2f} of its time, "
            f"{cpu[first] / cpu[kind]:.2f} of its CPU"
        )
