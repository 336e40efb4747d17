"""What a deployment on Google Cloud costs: list prices times bytes that were measured."""

from __future__ import annotations

from dataclasses import dataclass

from measured import ARROW, LOGICAL, MESSAGE, PARQUET, RAW
from prices import (
    CLASS_A,
    COLDLINE,
    DISK_HOUR,
    GIB,
    HOURS,
    MEMORY_HOUR,
    MILLION,
    PUBSUB_KEPT,
    PUBSUB_OVERHEAD,
    PUBSUB_TIB,
    SECONDS,
    STANDARD,
    STREAMING_ENGINE,
    TABLE,
    TIB,
    VCPU_HOUR,
    WRITE_API,
)

# Assumptions.
WORKER_VCPU, WORKER_GIB, WORKER_DISK = 2, 8, 30  # n2-standard-2
PER_WORKER = 5_000  # readings/s; a quarter of what the job does on two cores with Kafka
SHUFFLED = 4  # times a row goes through Streaming Engine: ordered by shard, gathered for sinks
FILES_A_DAY = 2 * 8 * 288  # readings and raw, of 8 shards, every 300 s
KEPT_DAYS = 7  # Pub/Sub's retention of what was read


@dataclass(frozen=True)
class Fleet:
    """Equipments that send a reading every `interval_s` seconds."""

    equipment: int
    interval_s: float

    @property
    def per_second(self) -> float:
        return self.equipment / self.interval_s

    @property
    def monthly(self) -> float:
        return self.per_second * SECONDS


def worker_hour() -> float:
    """Dollars of a worker and hour."""
    return WORKER_VCPU * VCPU_HOUR + WORKER_GIB * MEMORY_HOUR + WORKER_DISK * DISK_HOUR


def per_million() -> dict[str, float]:
    """Dollars that a million readings cost by their bytes alone, whatever sends them."""
    billed = (MESSAGE + PUBSUB_OVERHEAD) * MILLION
    return {
        "Pub/Sub, published and delivered": 2 * billed / TIB * PUBSUB_TIB,
        f"Pub/Sub, kept for {KEPT_DAYS} days": billed / GIB * PUBSUB_KEPT * KEPT_DAYS / 30,
        "Dataflow, a worker that is never idle": MILLION / PER_WORKER / 3600 * worker_hour(),
        "Streaming Engine": SHUFFLED * ARROW * MILLION / GIB * STREAMING_ENGINE,
        "Storage Write API": ARROW * MILLION / GIB * WRITE_API,
        "BigQuery, a month of storage": LOGICAL * MILLION / GIB * TABLE,
        "Lake, a month of storage": (PARQUET * STANDARD + RAW * STANDARD) * MILLION / GIB,
    }


def monthly(fleet: Fleet) -> dict[str, float]:
    """Dollars of a fleet's month, with a year of readings stored."""
    each, millions = per_million(), fleet.monthly / MILLION
    workers = max(1, -(-fleet.per_second // PER_WORKER))
    pubsub = sum(cost for name, cost in each.items() if name.startswith("Pub/Sub"))
    lake = (PARQUET * STANDARD + RAW * COLDLINE) * MILLION / GIB
    return {
        "Pub/Sub": millions * pubsub,
        f"Dataflow workers ({workers:.0f})": workers * worker_hour() * HOURS,
        "Streaming Engine": millions * each["Streaming Engine"],
        "Storage Write API": millions * each["Storage Write API"],
        "BigQuery storage": 12 * millions * each["BigQuery, a month of storage"],
        "Lake": 12 * millions * lake + 30 * FILES_A_DAY * CLASS_A,
    }


def tables() -> str:
    """Both tables as Markdown."""
    lines = ["| a million readings | dollars |", "|---|---:|"]
    lines += [f"| {name} | {cost:.3f} |" for name, cost in per_million().items()]
    lines += [f"| **all** | **{sum(per_million().values()):.3f}** |", ""]
    fleets = {"50 cells at 1 Hz": Fleet(50, 1), "5,000 cells at 1/30 Hz": Fleet(5000, 30)}
    lines += ["| a month | " + " | ".join(fleets) + " |", "|---|---:|---:|"]
    costs = [monthly(fleet) for fleet in fleets.values()]
    amounts = [f"{fleet.monthly / MILLION:,.0f} million" for fleet in fleets.values()]
    lines.append(f"| readings | {' | '.join(amounts)} |")
    for name in costs[0]:
        lines.append(f"| {name} | {' | '.join(f'{one[name]:,.2f}' for one in costs)} |")
    totals = [sum(one.values()) for one in costs]
    lines.append(f"| **all** | {' | '.join(f'**{total:,.0f}**' for total in totals)} |")
    shares = [
        total / fleet.monthly * MILLION
        for total, fleet in zip(totals, fleets.values(), strict=True)
    ]
    lines.append(f"| a million readings | {' | '.join(f'{share:.2f}' for share in shares)} |")
    return "\n".join(lines)
