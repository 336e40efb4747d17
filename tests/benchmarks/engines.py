"""The same job on the local runner and on Flink: what the engine adds, bounded and live.

What a large input takes beyond a small one: how long an engine takes to start, and to release the
last windows, is no throughput.
"""

from __future__ import annotations

import contextlib
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.benchmarks.live import publish
from tests.services.engines import flink_job_server
from tests.services.kafka import kafka_broker
from tests.services.processes import Unavailable

_PATIENCE_S = 900.0
_LOOK_S = 0.25


@dataclass(frozen=True)
class Cost:
    """What a run took: seconds, and CPU seconds of Python and of Java, since reading began."""

    seconds: float
    python: float
    java: float
    peak_mb: float

    @property
    def cpu(self) -> float:
        return self.python + self.java


class Run:
    """A job in a process of its own, whose tree of processes is looked at while it runs."""

    def __init__(self, out: Path, flags: Sequence[str]) -> None:
        out.mkdir(parents=True)
        self.out = out
        command = [sys.executable, "-m", "pipeline", f"--lake={out / 'lake'}",
                   f"--warehouse=duckdb:{out / 'warehouse.duckdb'}", "--no_progress",
                   "--account_every=1", *flags]  # fmt: skip
        with (out / "out").open("wb") as told, (out / "err").open("wb") as errors:
            self.process = subprocess.Popen(command, stdout=told, stderr=errors)
        self._spent: dict[int, tuple[bool, float]] = {}
        self.peak_mb = 0.0

    def look(self) -> tuple[float, float]:
        """CPU seconds so far: Python's and Java's."""
        with contextlib.suppress(psutil.Error):
            tree = [psutil.Process(self.process.pid)]
            tree += tree[0].children(recursive=True)
            memory = 0.0
            for each in tree:
                with contextlib.suppress(psutil.Error):
                    times = each.cpu_times()
                    is_java = each.name() == "java"
                    self._spent[each.pid] = (is_java, times.user + times.system)
                    memory += each.memory_info().rss / 2**20
            self.peak_mb = max(self.peak_mb, memory)
        return tuple(  # type: ignore[return-value]
            sum(spent for is_java, spent in self._spent.values() if is_java is wanted)
            for wanted in (False, True)
        )

    def figure(self, name: str) -> int:
        found = re.findall(
            rf"^so far: .*?{name} ([\d,]+)", (self.out / "out").read_text(), re.MULTILINE
        )
        return int(found[-1].replace(",", "")) if found else 0

    def until(self, holds: Callable[[], bool]) -> None:
        give_up = time.monotonic() + _PATIENCE_S
        while not holds():
            self.look()
            if self.process.poll() is not None or time.monotonic() > give_up:
                raise RuntimeError(f"it did not come so far: see {self.out}")
            time.sleep(_LOOK_S)


@contextlib.contextmanager
def running(out: Path, flags: Sequence[str]) -> Iterator[Run]:
    """A live job that reads; drained at the end."""
    run = Run(out, flags)
    try:
        run.until(lambda: run.figure("read") > 0)
        yield run
        run.process.send_signal(signal.SIGINT)
        run.process.wait(300)
    finally:
        run.process.kill()


def _bounded(out: Path, flags: Sequence[str], source: Path) -> Cost:
    began = time.monotonic()
    run = Run(out, [f"--source={source}", *flags])
    while run.process.poll() is None:
        run.look()
        time.sleep(_LOOK_S)
    if run.process.returncode:
        raise RuntimeError(f"status {run.process.returncode}: see {out}")
    return Cost(time.monotonic() - began, *run.look(), run.peak_mb)


def _live(out: Path, flags: Sequence[str], source: str, readings: int) -> Cost:
    wanted = [f"--source={source}?group={out.name}&disorder=60", "--lake_file_wait=5", *flags]
    with running(out, wanted) as run:
        began, (python, java) = time.monotonic(), run.look()
        run.until(lambda: run.figure("written") >= readings)
        seconds, (python_now, java_now) = time.monotonic() - began, run.look()
    return Cost(seconds, python_now - python, java_now - java, run.peak_mb)


def speed(scratch: Path, readings: int, rounds: int, make: Callable[[int], Path]) -> None:
    """Prints what a reading costs on each engine, and the ratios.

    Args:
        scratch: an empty folder.
        readings: of the larger input; the smaller has a quarter.
        rounds: how often each runs, in turn.
        make: an NDJSON file of so many readings.
    """
    try:
        jar = flink_job_server()
        broker = kafka_broker(scratch / "kafka")
    except Unavailable as reason:
        print(f"engines: not measured ({reason})")
        return
    engines = {
        "local": ["--runner=DirectRunner"],
        "flink": ["--runner=FlinkRunner", f"--flink_job_server_jar={jar}", "--parallelism=1"],
    }
    few = readings // 4

    def rounds_of(what: str, run: Callable[[str, list[str], int], Cost]) -> None:
        cost: dict[str, list[Cost]] = {name: [] for name in engines}
        for turn in range(rounds):
            for name, flags in engines.items():
                small = run(f"{what}-{name}-{turn}-few", flags, few)
                large = run(f"{what}-{name}-{turn}-many", flags, readings)
                cost[name].append(
                    Cost(large.seconds - small.seconds, large.python - small.python,
                         large.java - small.java, large.peak_mb)
                )  # fmt: skip
        _tell(what, cost, readings - few)

    files = {count: make(count) for count in (few, readings)}
    rounds_of("bounded", lambda out, flags, count: _bounded(scratch / out, flags, files[count]))
    with broker:
        topics = {count: publish(broker, 50, count) for count in (few, readings)}
        rounds_of(
            "live", lambda out, flags, count: _live(scratch / out, flags, topics[count], count)
        )


def _tell(what: str, cost: dict[str, list[Cost]], readings: int) -> None:
    def middle(name: str, figure: Callable[[Cost], float]) -> float:
        return statistics.median(figure(each) for each in cost[name]) * 1e6 / readings

    for name, costs in cost.items():
        print(
            f"{what}, {name}: {middle(name, lambda each: each.seconds):.1f} µs a reading, "
            f"{middle(name, lambda each: each.cpu):.1f} µs of CPU "
            f"(Python {middle(name, lambda each: each.python):.1f}, "
            f"Java {middle(name, lambda each: each.java):.1f}), "
            f"peak {max(each.peak_mb for each in costs):,.0f} MiB"
        )
    wall = middle("local", lambda each: each.seconds) / middle("flink", lambda each: each.seconds)
    core = middle("local", lambda each: each.cpu) / middle("flink", lambda each: each.cpu)
    print(f"{what}: Flink reaches {wall:.2f} of the local runner by wall, {core:.2f} a core")
