"""Half an hour at a steady rate: whether memory and lag stay flat, and how late readings are."""

from __future__ import annotations

import csv
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from tests.endurance.processes import Job
from tests.endurance.rig import Rig

_EVERY_S = 10
# Memory may grow by this between the second and the last third.
_MEMORY = 1.05
_MEMORY_FLOOR_MB = 10


@dataclass(frozen=True)
class Sample:
    """One look at the running job.

    Attributes:
        seconds: since the soak began.
        rss_mb: the job's memory, MiB.
        uncommitted: messages in the topic beyond the group's offsets; what waits is among them.
        per_second: readings that became visible since the last look.
        p50_s: median time from arrival in the broker to being visible, of those readings.
        p99_s: the 99th percentile of it.
    """

    seconds: float
    rss_mb: float
    uncommitted: int
    per_second: float
    p50_s: float
    p99_s: float


class _Visible:
    """Looks at the lake's new files: what has become visible, and how long that took."""

    def __init__(self, job: Job) -> None:
        self._folder = job.lake / "readings"
        self._seen: set[Path] = set()

    def new(self) -> npt.NDArray[np.float64]:
        """Seconds from arrival to visibility, of every reading in a file not seen before."""
        waits = [np.empty(0)]
        for path in set(self._folder.rglob("*.parquet")) - self._seen:
            arrived = pq.read_table(path, columns=["ingested_at"], partitioning=None)[0]
            arrived_us = arrived.cast("int64").to_numpy()
            waits.append((path.stat().st_mtime_ns / 1e3 - arrived_us) / 1e6)
            self._seen.add(path)
        return np.concatenate(waits)


def _look(rig: Rig, job: Job, visible: _Visible, began: float, passed_s: float) -> Sample:
    committed = rig.committed()
    waits = visible.new()
    p50, p99 = np.quantile(waits, (0.5, 0.99)) if len(waits) else (0.0, 0.0)
    return Sample(
        seconds=round(time.monotonic() - began, 1),
        rss_mb=round(job.rss_mb(), 1),
        uncommitted=sum(end - committed.get(part, 0) for part, end in rig.ends().items()),
        per_second=round(len(waits) / passed_s, 1),
        p50_s=round(float(p50), 2),
        p99_s=round(float(p99), 2),
    )


def _sample(rig: Rig, job: Job, minutes: float, path: Path) -> list[Sample]:
    samples: list[Sample] = []
    visible, began = _Visible(job), time.monotonic()
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, fieldnames=list(Sample.__dataclass_fields__))
        table.writeheader()
        last = began
        while job.runs and last < began + minutes * 60:
            time.sleep(max(0.0, last + _EVERY_S - time.monotonic()))
            now = time.monotonic()
            samples.append(_look(rig, job, visible, began, now - last))
            table.writerow(asdict(samples[-1]))
            file.flush()
            last = now
    return samples


def judge(samples: list[Sample], rate: float) -> tuple[list[str], dict[str, int]]:
    """What to tell of the samples, and which demands they miss (1 each).

    The first third is warming up; of 30 minutes the others are the second and the last ten.
    """
    third = len(samples) // 3
    middle, end = samples[third : 2 * third], samples[2 * third :]
    before, after = (statistics.fmean(s.rss_mb for s in part) for part in (middle, end))
    lag_before, lag_after = (max(s.uncommitted for s in part) for part in (middle, end))
    steady = middle + end
    p50_s = statistics.median(s.p50_s for s in steady)
    p99_s = statistics.median(s.p99_s for s in steady)
    worst_s = max(s.p99_s for s in steady)
    told = [
        f"memory, mean MiB: {before:.0f}, then {after:.0f} ({after / before - 1:+.1%})",
        f"messages not committed, at most: {lag_before:,}, then {lag_after:,}",
        f"rate: {statistics.fmean(s.per_second for s in steady):,.0f} readings/s",
        f"latency, arrival to lake: p50 {p50_s:.1f} s, p99 {p99_s:.1f} s, at worst {worst_s:.1f} s",
    ]
    missed = {
        "memory_grew": int(after > before * _MEMORY and after > before + _MEMORY_FLOOR_MB),
        "lag_grew": int(lag_after > lag_before * 1.25 + 10 * rate),
    }
    return told, {name: number for name, number in missed.items() if number}


def soak(rig: Rig, minutes: float) -> dict[str, int]:
    """Runs a producer and the job for so long; prints figures, returns what went wrong."""
    rig.producer()
    job = rig.job(f"--account_every={_EVERY_S}")
    rig.reading()
    samples = _sample(rig, job, minutes, rig.folder / "samples.csv")
    wrong = rig.finish(job) if job.runs else {"died": 1}
    told, missed = judge(samples, rig.rate)
    print("\n".join(told), flush=True)
    return wrong | missed
