"""python -m tests.benchmarks: the job, bounded and live, against what else one could write."""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

KINDS = ("loop", "job", "naive")


def _make_input(folder: Path, equipment: int, readings: int) -> Path:
    """An NDJSON file of a simulated fleet: one reading a second of each equipment."""
    from pipeline.sources.simulation.config import FleetConfig
    from pipeline.sources.simulation.fleet import Fleet

    path = folder / f"fleet-{equipment}-{readings}.ndjson"
    if not path.exists():
        fleet = Fleet(FleetConfig(equipment=equipment, readings=readings, interval=1.0))
        # Equipments take turns, as they would on a live topic.
        parts = [fleet.messages(block, 2_000) for block in fleet.blocks(200_000)]
        with path.open("wb") as out:
            while parts:
                left = []
                for part in parts:
                    messages = next(part, None)
                    if messages is not None:
                        out.write(b"\n".join(messages.payloads) + b"\n")
                        left.append(part)
                parts = left
    return path


def _one(kind: str, source: str, out: Path) -> dict[str, Any]:
    """Runs one variant in this process; its clock starts after the imports."""
    if kind.startswith("live-"):
        from tests.benchmarks import live

        return live.one(kind, source, out)
    if kind.startswith("bigquery-"):
        from tests.benchmarks import bigquery

        return bigquery.one(kind, source, out)
    stages: dict[str, float] = {}
    if kind == "loop":
        from tests.benchmarks import plain_loop

        started = time.perf_counter()
        readings, stages = plain_loop.run(Path(source), out)
    elif kind == "naive":
        from tests.benchmarks import naive

        started = time.perf_counter()
        readings = naive.run(Path(source), out)
    else:
        from pipeline import __main__ as command

        started = time.perf_counter()
        status = command.main(
            [
                "--runner=DirectRunner",
                f"--source={source}",
                f"--lake={out / 'lake'}",
                f"--warehouse=duckdb:{out / 'warehouse.duckdb'}",
                "--no_progress",
            ]
        )
        if status:
            raise SystemExit(status)
        readings = -1
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": seconds, "readings": readings, "peak_mb": peak, "stages": stages}


def _spawn(kind: str, source: str, scratch: Path) -> dict[str, Any]:
    out = Path(tempfile.mkdtemp(dir=scratch))
    command = [sys.executable, "-m", "tests.benchmarks", "--one", kind, source, str(out)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    shutil.rmtree(out)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _median(runs: list[dict[str, Any]], readings: int) -> float:
    return statistics.median(readings / run["seconds"] for run in runs)


def _speed(scratch: Path, readings: int, naive_readings: int, rounds: int) -> None:
    rates: dict[tuple[str, int], float] = {}
    stages: dict[str, float] = {}
    for equipment in (50, 50_000):
        source = _make_input(scratch, equipment, readings)
        short = _make_input(scratch, equipment, naive_readings)
        runs: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
        for turn in range(rounds):
            # The naive one is so far off that one run of minutes tells enough.
            for kind in KINDS if turn == 0 else KINDS[:2]:
                path = short if kind == "naive" else source
                runs[kind].append(_spawn(kind, str(path), scratch))
        for kind in KINDS:
            count = naive_readings if kind == "naive" else readings
            rates[kind, equipment] = _median(runs[kind], count)
        loop, job, naive = (rates[kind, equipment] for kind in KINDS)
        print(
            f"{equipment:>6} equipments, {readings:,} readings: loop {loop:,.0f}/s, "
            f"job {job:,.0f}/s = {job / loop:.2f} of the loop; naive "
            f"{naive:,.0f}/s ({naive_readings:,} readings): job = {job / naive:.1f} x naive"
        )
        stages = runs["loop"][0]["stages"]
        told = ", ".join(f"{n} {s / readings * 1e6:.2f}" for n, s in stages.items())
        print(f"       the loop's stages, µs a reading: {told}")
        overhead = 1e6 / job - 1e6 / loop
        print(f"       what Beam adds: {overhead:.2f} µs a reading")
    few, many = rates["job", 50], rates["job", 50_000]
    print(f"50,000 equipments run at {many / few:.2f} of the speed of 50")


def _memory(scratch: Path, small: int, large: int) -> None:
    peaks = {}
    for readings in (small, large):
        source = f"simulator:?equipment=50&interval=1&readings={readings}"
        result = _spawn("job", source, scratch)
        peaks[readings] = result["peak_mb"]
        print(
            f"{readings:,} readings: peak {result['peak_mb']:,.0f} MiB, "
            f"{readings / result['seconds']:,.0f} readings/s"
        )
    print(f"memory at {large:,} is {peaks[large] / peaks[small]:.2f} of that at {small:,} readings")


def main() -> None:
    """Prints the ratios."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--readings", type=int, default=1_000_000)
    parser.add_argument("--naive_readings", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--large", type=int, default=10_000_000, help="readings, memory run")
    parser.add_argument(
        "--only",
        choices=("backlog", "files", "speed", "memory", "live", "engines", "state", "bigquery"),
    )
    parser.add_argument("--one", nargs=3, metavar=("KIND", "SOURCE", "OUT"), help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.one:
        kind, source, out = flags.one
        print(json.dumps(_one(kind, source, Path(out))))
        return
    print(f"{platform.python_implementation()} {platform.python_version()}, {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        if flags.only in (None, "backlog"):
            from tests.benchmarks import backlog

            backlog.speed(
                scratch / "backlog", flags.readings, flags.rounds, (50, 5_000), list(backlog.KINDS)
            )
        if flags.only in (None, "files"):
            from tests.benchmarks import files

            files.speed(
                scratch / "files",
                flags.readings,
                flags.rounds,
                lambda readings: _make_input(scratch, 50, readings),
            )
        if flags.only in (None, "speed"):
            _speed(scratch, flags.readings, flags.naive_readings, flags.rounds)
        if flags.only in (None, "memory"):
            _memory(scratch, flags.readings, flags.large)
        if flags.only in (None, "live"):
            from tests.benchmarks import live

            live.speed(
                scratch,
                flags.readings,
                flags.naive_readings,
                flags.rounds,
                lambda kind, source: _spawn(kind, source, scratch),
            )
        if flags.only in (None, "engines"):
            from tests.benchmarks import engines

            engines.speed(
                scratch / "engines",
                flags.readings,
                flags.rounds,
                lambda readings: _make_input(scratch, 50, readings),
            )
        if flags.only in (None, "state"):
            from tests.benchmarks import state

            state.measure(scratch / "state", flags.readings)
        if flags.only in (None, "bigquery"):
            from tests.benchmarks import bigquery

            # The emulator needs a second for some thousand rows.
            bigquery.speed(
                scratch,
                flags.naive_readings // 2,
                flags.rounds,
                lambda kind, source: _spawn(kind, source, scratch),
            )


if __name__ == "__main__":
    main()
