"""Which part of it breaks first: the rate at which each would, as the job is today."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from measured import ARROW, HELD, LAKE_CPU, MESSAGE
from prices import MILLION, PUBSUB_OVERHEAD
from scale import BUSY, CHECKPOINT, FILE, PARTS, ROUNDS, Job, largest, rate_of, shared

PAGE = 0.05  # s that a bucket takes for a page of 1,000 names; assumed
HOLD = (
    120  # s that what a sink is given waits for a checkpoint at most (pipeline/engines/stable.py)
)

# Vendors' limits; checked when this was written, they can mostly be raised on request.
WRITE_API_REGION, WRITE_API_MULTI = 300e6, 3e9  # bytes/s of a project
PUBSUB = 4e9  # bytes/s of a project in a large region
DATAFLOW_JOBS = 25  # of a project at the same time
WRITES = 1_000  # objects/s of a bucket, before it adapts


class Limit(NamedTuple):
    """A part and the readings/s at which it would break."""

    part: str
    rate: float
    source: str
    help: str


def highest(holds: Callable[[float], bool]) -> float:
    """The highest rate, readings/s, at which something holds that holds at low ones."""
    low, high = 1.0, 1e12
    while high / low > 1.001:
        middle = (low * high) ** 0.5
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def listing(rate: float) -> float:
    """Share of the lake's writers' time that listing a day's files takes, at the day's end."""
    files_s = rate * HELD * 2 / 3 / FILE
    return files_s * (files_s * 86_400 / 1_000) * PAGE / PARTS


def limits() -> list[Limit]:
    """Those of one job, and of what all jobs of a project share; the lowest first."""
    number = largest()
    one = Job(rate_of(number), number)
    found = [
        Limit("half the time goes into pieces: a batch is cut into one for each shard", one.rate,
              "measured: 800 µs a piece; assumed: 5,000 messages a batch", "more jobs, a topic each"),
        Limit("listing the day's files before each is written", highest(lambda rate: listing(rate) < 1),
              "assumed: 50 ms for 1,000 names", "a lake for each job; larger files"),
        Limit("four workers gather and write a day of the lake", PARTS * BUSY * 1e6 / LAKE_CPU,
              "measured: 1.2 µs a reading", "a lake for each job; `_SPREAD`"),
        Limit(f"{ROUNDS} checkpoints of {CHECKPOINT} s and their duration exceed the {HOLD} s that sinks wait",
              highest(lambda rate: ROUNDS * (CHECKPOINT + Job(rate, number).checkpoint_s) < HOLD),
              "assumed: 50 MB/s a TaskManager", "more TaskManagers"),
        Limit("BigQuery, Storage Write API in a region", WRITE_API_REGION / ARROW,
              "vendor: *BigQuery, Quotas and limits*", "the multi-regions US or EU; `file_loads`"),
        Limit("BigQuery, Storage Write API in the US or the EU", WRITE_API_MULTI / ARROW,
              "vendor: *BigQuery, Quotas and limits*", "`file_loads`; several projects"),
        Limit("Dataflow instead of Flink: jobs of a project", DATAFLOW_JOBS * one.rate,
              "vendor: *Dataflow, Quotas and limits*", "ask for more"),
        Limit("Pub/Sub instead of Kafka, in a large region", PUBSUB / (MESSAGE + PUBSUB_OVERHEAD),
              "vendor: *Pub/Sub quotas and limits*", "several regions; ask for more"),
        Limit("objects written to one bucket", highest(lambda rate: _files_s(rate) < WRITES),
              "vendor: *Cloud Storage, Request rate guidelines*", "a bucket for each job"),
    ]  # fmt: skip
    return sorted(found, key=lambda each: each.rate)


def _files_s(rate: float) -> float:
    jobs, job = shared(rate)
    return jobs * job.files / 86_400


def table() -> str:
    """The limits as Markdown, the first to break first."""
    lines = ["| breaks | at readings/s | from | then |", "|---|---:|---|---|"]
    for part, rate, source, then in limits():
        lines.append(f"| {part} | {rate / MILLION:,.1f} M | {source} | {then} |")
    return "\n".join(lines)
