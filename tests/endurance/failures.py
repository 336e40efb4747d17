"""What happens to jobs, brokers and partitions; every scenario returns what went wrong, by name."""

from __future__ import annotations

import re
import time
from itertools import pairwise

import pyarrow.parquet as pq

from tests.endurance.processes import Job
from tests.endurance.rig import Rig
from tests.running import sql

# Partitions that move between two living jobs: each of them writes a window's readings to the lake
# that it took, and the new one does not know what came before its first reading of an equipment.
_MOVED = ("lake_doubled", "delta_missing", "stats_wrong")


def calm(rig: Rig) -> dict[str, int]:
    """Nothing happens."""
    rig.producer()
    job = rig.job()
    rig.reading()
    rig.wait(20)
    return rig.finish(job)


def crashes(rig: Rig, kills: int = 20) -> dict[str, int]:
    """The job is killed at random moments: starting, waiting for its group, reading, writing."""
    rig.producer()
    job = rig.job()
    progress, too_much = [0], 0
    for turn in range(kills):
        if turn % 4 != 3:  # else while it starts, or waits for the dead one's partitions
            rig.until(job.has_read, 180, "the job reads nothing")
        rig.wait(rig.choose.uniform(0.5, 12))
        job.kill()
        too_much += _told_too_much(job)
        progress.append(sum(rig.committed().values()))
        job.start()
    rig.figures["kills"] = kills
    rig.figures["kills_after_progress"] = sum(b > a for a, b in pairwise(progress))
    rig.reading()
    return rig.finish(job) | ({"told_too_much": too_much} if too_much else {})


def _told_too_much(job: Job) -> int:
    """How many readings the killed job has called written that its lake or warehouse has not."""
    found = re.findall(r"^so far: .* written ([\d,]+)", job.told, re.MULTILINE)
    told = int(found[-1].replace(",", "")) if found else 0
    if not told:
        return 0
    ((there,),) = sql(job.warehouse, "SELECT count(*) FROM readings")
    paths = (job.lake / "readings").rglob("*.parquet")
    kept = sum(pq.read_metadata(path).num_rows for path in paths)
    return max(0, told - min(int(there), kept))


def accounts(rig: Rig, kills: int = 20) -> dict[str, int]:
    """After each kill a job goes on and is drained: its account by sink is what the tables gained."""
    rig.producer()
    job = rig.job()
    differences = sinks = 0
    for turn in range(kills):
        rig.until(job.has_read, 180, "the job reads nothing")
        rig.wait(rig.choose.uniform(0.5, 12))
        job.kill()
        there = _rows(job)
        job.start()
        rig.until(job.has_read, 180, "the job reads nothing")
        rig.wait(rig.choose.uniform(0.5, 6))
        status = job.stop()
        differences += status != 0
        now, stored = _rows(job), _stored(job)
        sinks += len(stored)
        differences += sum(abs(now[name] - there[name] - stored[name]) for name in stored)
        if turn + 1 < kills:
            job.start()
    rig.figures |= {"kills": kills, "tables_compared": sinks}
    for producer in rig.producers:
        producer.stop()
    job.start()
    wrong = rig.finish(job)
    return wrong | ({"account_differs": differences} if differences else {})


_STORED = re.compile(r"^(lake|duckdb:)\S*.*?: stored ([\d,]+).*?(?:dead letters: stored ([\d,]+)|$)",
                     re.MULTILINE)  # fmt: skip


def _stored(job: Job) -> dict[str, int]:
    """By sink and table, what the last account says it stored."""
    found = {}
    for sink, readings, letters in _STORED.findall(job.told):
        name = sink.strip(":")
        found[f"{name} readings"] = int(readings.replace(",", ""))
        found[f"{name} dead_letters"] = int((letters or "0").replace(",", ""))
    return found


def _rows(job: Job) -> dict[str, int]:
    """How many rows each of these tables has."""
    found = {}
    for table in ("readings", "dead_letters"):
        ((there,),) = sql(job.warehouse, f"SELECT count(*) FROM {table}")
        found[f"duckdb {table}"] = int(there)
        paths = (job.lake / table).rglob("*.parquet")
        found[f"lake {table}"] = sum(pq.read_metadata(path).num_rows for path in paths)
    return found


def broker_restarts(rig: Rig) -> dict[str, int]:
    """The broker stops in good order, is away for 15 s and comes back."""
    return _without_broker(rig, kill=False)


def broker_crashes(rig: Rig) -> dict[str, int]:
    """The broker is killed, is away for 15 s and comes back."""
    return _without_broker(rig, kill=True)


def _without_broker(rig: Rig, kill: bool) -> dict[str, int]:
    rig.producer()
    job = rig.job()
    rig.reading()
    rig.wait(5)
    rig.broker.stop(kill=kill)
    rig.wait(15)
    rig.broker.start()
    began = time.monotonic()
    rig.reading()
    rig.figures["reads_again_s"] = time.monotonic() - began
    rig.wait(10)
    return rig.finish(job)


def idle_partition(rig: Rig) -> dict[str, int]:
    """One partition has nothing at all, another one falls silent; windows go on."""
    rig.producer("--partitions=[0, 1]", "--prefix=a_")
    silent = rig.producer("--partitions=[2]", "--prefix=b_", "--rate=200")
    job = rig.job()
    rig.reading()
    rig.wait(5)
    silent.stop()
    ends = rig.ends()
    began = time.monotonic()
    rig.read_to(ends)
    rig.figures["silent_written_s"] = time.monotonic() - began
    rig.wait(10)
    return rig.finish(job)


def takeover_by_crash(rig: Rig) -> dict[str, int]:
    """Two jobs share the group; one is killed and the other takes its partitions."""
    rig.producer()
    doomed = rig.job()
    rig.reading()
    heir = rig.job()
    rig.wait(25)
    doomed.kill()
    rig.read_to(rig.ends())
    return rig.finish(heir, but=_MOVED)


def takeover_by_drain(rig: Rig) -> dict[str, int]:
    """A second job joins the group, then the first one is drained and the other goes on."""
    rig.producer()
    first = rig.job()
    rig.reading()
    second = rig.job()
    rig.wait(25)
    status = first.stop()
    rig.read_to(rig.ends())
    return rig.finish(second, but=_MOVED) | ({"first_exit_status": status} if status else {})


def partitions_added(rig: Rig) -> dict[str, int]:
    """The topic gets two more partitions; what comes there is read from the first message on."""
    first = rig.producer()
    job = rig.job()
    rig.reading()
    with rig.broker.admin() as admin:
        admin.create_partitions({rig.topic: rig.partitions + 2})
    first.stop()
    rig.producer("--prefix=b_")  # a client learns of partitions when it starts, else in minutes
    began = time.monotonic()
    rig.until(
        lambda: rig.committed().get(rig.partitions, 0) > 0, 180, "the new partitions are not read"
    )
    rig.figures["found_after_s"] = time.monotonic() - began
    return rig.finish(job)


def topic_deleted(rig: Rig) -> dict[str, int]:
    """The topic goes while the job runs: what was read is written, and the job says so or waits."""
    producer = rig.producer("--count=20000")
    job = rig.job()
    producer.wait()
    rig.read_to(rig.ends())
    rig.broker.delete_topic(rig.topic)
    rig.wait(20)
    rig.figures["went_on"] = job.runs
    rig.figures["complaints"] = len(job.err.read_text().splitlines())
    status = job.stop() if job.runs else job.wait()
    written = job.account().get("written", 0)
    return {
        name: number
        for name, number in {"lost": producer.sent - written, "exit_status": status}.items()
        if number
    }
