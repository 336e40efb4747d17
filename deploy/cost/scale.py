"""A fleet beyond one machine, on Flink: how many of what it takes, and what that costs a month."""

from __future__ import annotations

import math
from dataclasses import dataclass

from measured import (
    ARROW,
    CPU,
    EQUIPMENT,
    HELD,
    HELD_MESSAGE,
    LOGICAL,
    MESSAGE,
    PARQUET,
    PIECE,
    PIECE_CPU,
    RAW,
    RECENT,
    WAITING,
)
from prices import (
    CLASS_A,
    COLDLINE,
    DISK,
    GIB,
    HOURS,
    MILLION,
    N2_MEMORY_HOUR,
    N2_VCPU_HOUR,
    SECONDS,
    STANDARD,
    TABLE,
    WRITE_API,
)

# The job's settings: its defaults, but for shards and checkpoints (deploy/flink).
WINDOW, DISORDER, LATENESS = 60, 5, 300  # s
CHECKPOINT = 10  # s
ROUNDS = 3  # checkpoints that what a sink is given waits for
FILE = 40 * 2**20  # bytes of a file of the lake, as the job reckons them, at most
FILE_WAIT = 300  # s
PARTS = 4  # into which a day of the lake is divided, for as many workers

# Assumptions.
INTERVAL = 1  # s between the readings of an equipment
BATCH = 5_000  # messages that a partition's reader gives at once
BUSY = 0.7  # of a Python worker's core, when all is well
SHARDS = 8  # for a TaskManager, so that a hash shares them out evenly enough
PARTITIONS = 2  # for a TaskManager
TM_VCPU, TM_GIB = (
    2,
    4,
)  # a core for Python; another for Flink, which may take as much as Python does
UPLOAD = 50e6  # bytes/s of a checkpoint from a TaskManager to a bucket
BARRIER = (
    1.0  # s of a checkpoint that uploads nothing; with a few MB of state here it took 0.4 to 2 s
)
COMPRESSED = 4  # times that a producer's compression makes messages smaller
REPLICAS = 3
BROKER_VCPU, BROKER_GIB, BROKER = 8, 32, 150e6  # bytes/s that a broker writes, replicas included
KEPT = 86_400  # s that Kafka keeps messages


def piece_rows(shards: int) -> float:
    """Readings of a batch that are of the same shard, those of shards that have none left out."""
    found = shards * (1 - (1 - 1 / shards) ** BATCH)
    return BATCH / found


def cpu(task_managers: float) -> float:
    """µs of a Python core that a reading takes in a job of so many TaskManagers."""
    return CPU + PIECE_CPU / piece_rows(max(1, round(SHARDS * task_managers)))


def largest() -> int:
    """TaskManagers of a job beyond which more than half of their time is spent on pieces."""
    number = 1
    while cpu(number + 1) <= 2 * CPU:
        number += 1
    return number


def rate_of(task_managers: int) -> float:
    """Readings/s of a job of so many TaskManagers."""
    return task_managers * BUSY * 1e6 / cpu(task_managers)


@dataclass(frozen=True)
class Job:
    """One of the equal jobs, each with a topic and a lake of its own, that share a fleet.

    Attributes:
        rate: readings/s.
        task_managers: how many it takes.
    """

    rate: float
    task_managers: int

    @property
    def shards(self) -> int:
        return SHARDS * self.task_managers

    @property
    def partitions(self) -> int:
        return PARTITIONS * self.task_managers

    @property
    def waiting(self) -> float:
        """Bytes of a reading that waits for its window's end."""
        return WAITING + PIECE / piece_rows(self.shards)

    @property
    def gathered_s(self) -> float:
        """Seconds that a reading waits for the others of its file."""
        return min(FILE_WAIT, PARTS * FILE / (self.rate * HELD * 2 / 3))

    @property
    def state(self) -> float:
        """Bytes."""
        of_reading = (
            (WINDOW + DISORDER) * self.waiting
            + (LATENESS + WINDOW) * RECENT
            + ROUNDS * CHECKPOINT * HELD
            + self.gathered_s * (HELD + HELD_MESSAGE)
        )
        return self.rate * (of_reading + INTERVAL * EQUIPMENT)

    @property
    def checkpoint_s(self) -> float:
        """Seconds of a checkpoint, which uploads what is new since the last one."""
        new = self.waiting + RECENT + 2 * HELD + HELD_MESSAGE
        return BARRIER + CHECKPOINT * self.rate * new / self.task_managers / UPLOAD

    @property
    def files(self) -> float:
        """Files of the lake a day, readings and raw."""
        told = self.rate * 86_400 * (HELD + HELD_MESSAGE) * 2 / 3 / FILE
        return max(told, 2 * PARTS * 86_400 / FILE_WAIT)


def shared(rate: float) -> tuple[int, Job]:
    """How many jobs a fleet needs, and one of them."""
    jobs = math.ceil(rate / rate_of(largest()))
    number = 1
    while rate_of(number) < rate / jobs:
        number += 1
    return jobs, Job(rate / jobs, number)


def dollars(rate: float) -> dict[str, float]:
    """A month's costs, with a year of readings stored."""
    jobs, job = shared(rate)
    written = rate * MESSAGE / COMPRESSED * REPLICAS
    brokers = max(REPLICAS, math.ceil(written / BROKER))
    month = rate * SECONDS

    def machines(count: int, vcpu: int, gib: int) -> float:
        return count * HOURS * (vcpu * N2_VCPU_HOUR + gib * N2_MEMORY_HOUR)

    stored = 12 * month / GIB
    return {
        "TaskManagers": machines(jobs * job.task_managers, TM_VCPU, TM_GIB),
        f"Kafka ({brokers} brokers), a day kept": machines(brokers, BROKER_VCPU, BROKER_GIB)
        + written * KEPT / GIB * DISK,
        "Lake, a year stored": stored * (PARQUET * STANDARD + RAW * COLDLINE)
        + 30 * jobs * job.files * CLASS_A,
        "BigQuery, Storage Write API": month * ARROW / GIB * WRITE_API,
        "BigQuery, a year stored": stored * LOGICAL * TABLE,
    }


RATES = (MILLION, 10 * MILLION, 100 * MILLION)


def _row(name: str, values: list[str], source: str) -> str:
    return f"| {name} | {' | '.join(values)} | {source} |"


def tables() -> str:
    """Sizes and costs of the three fleets as Markdown."""
    found = [shared(rate) for rate in RATES]
    names = " | ".join(f"{rate // MILLION} M readings/s" for rate in RATES)
    lines = [f"| | {names} | from |", "|---|---:|---:|---:|---|"]
    rows = (
        ("equipments", lambda jobs, job: jobs * job.rate * INTERVAL, "assumed: 1 Hz"),
        ("jobs", lambda jobs, _: jobs, "the first limit below"),
        ("TaskManagers", lambda jobs, job: jobs * job.task_managers, "CPU, pieces"),
        ("shards of a job", lambda _, job: job.shards, "assumed: 8 a TaskManager"),
        ("partitions", lambda jobs, job: jobs * job.partitions, "assumed: 2 a TaskManager"),
        ("state, GB", lambda jobs, job: jobs * job.state / 1e9, "bytes in state"),
        ("state of a TaskManager, MB", lambda _, job: job.state / job.task_managers / 1e6, "the same"),
        ("lake files a day", lambda jobs, job: jobs * job.files, "bytes held, 40 MiB a file"),
        ("lake, TB a day", lambda jobs, job: jobs * job.rate * 86_400 * (PARQUET + RAW) / 1e12,
         "bytes"),
    )  # fmt: skip
    for name, value, source in rows:
        lines.append(_row(name, [f"{value(*each):,.0f}" for each in found], source))
    seconds = [f"{job.checkpoint_s:.1f}" for _, job in found]
    lines.append(_row("a checkpoint, s", seconds, "assumed: 50 MB/s a TaskManager"))
    costs = [dollars(rate) for rate in RATES]
    for names in zip(*costs, strict=True):
        amounts = [f"{one[name]:,.0f}" for one, name in zip(costs, names, strict=True)]
        lines.append(_row(f"{_plain(names[0])}, $ a month", amounts, "list price"))
    totals = [sum(one.values()) for one in costs]
    lines.append(_row("**all, $ a month**", [f"**{total:,.0f}**" for total in totals], "sum"))
    each = [
        f"{total / rate / SECONDS * MILLION:.3f}" for total, rate in zip(totals, RATES, strict=True)
    ]
    lines.append(_row("a million readings, $", each, ""))
    return "\n".join(lines)


def _plain(name: str) -> str:
    """Without the number of brokers, which differs."""
    head, _, tail = name.partition(" (")
    return head + tail.partition(")")[2]
