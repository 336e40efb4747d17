"""The live job on a Flink cluster whose processes are killed, which is rescaled and restored."""

from __future__ import annotations

import contextlib
import re
import signal
import time
from collections.abc import Callable

import psutil
import pyarrow.parquet as pq
from kafka import TopicPartition

from tests.endurance.processes import Job
from tests.endurance.rig import Rig
from tests.running import sql
from tests.services.flink import FlinkCluster
from tests.services.processes import Startable

# Of the account at the end: an engine that goes back to a checkpoint counts some things again.
_COUNTED_AGAIN = ("unbalanced",)
_SAVED = re.compile(r"--savepoint_path=(\S+)")
# As long may a cluster take to notice, start again and go on.
_PATIENCE_S = 240


class Cluster:
    """A cluster that a rig's jobs run on; a context manager.

    Args:
        rig: the rig.
    """

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.flink = FlinkCluster(rig.folder / "flink")
        rig.flags = (
            *rig.flags,
            *self.flink.flags,
            "--lake_file_wait=2",
            "--checkpointing_interval=2000",
        )
        self.job: Job | None = None

    def __enter__(self) -> Cluster:
        self.flink.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        if self.job is not None and self.job.runs:
            self.job.kill()
        self.flink.__exit__()

    def start(self, parallelism: int = 2, saved: str | None = None) -> Job:
        """Starts a job, from a savepoint if there is one."""
        flags = [f"--parallelism={parallelism}"]
        flags += [f"--savepoint_path={saved}"] if saved else []
        self.job = self.rig.job(*flags)
        return self.job

    def save(self) -> str:
        """Stops the job as Ctrl-C does; returns its savepoint."""
        assert self.job is not None
        status = self.job.stop(_PATIENCE_S)
        found = _SAVED.findall(self.job.err.read_text())
        if status or not found:
            raise TimeoutError(f"no savepoint, status {status}: see {self.job.err}")
        return str(found[-1])

    def reading(self) -> None:
        """Waits until offsets are committed that were not when it began to wait."""
        self.rig.reading(_PATIENCE_S)

    def finish(self) -> dict[str, int]:
        """Waits until all that was sent is written, stops the job and compares."""
        rig, job = self.rig, self.job
        assert job is not None
        for producer in rig.producers:
            if producer.runs:
                producer.stop()
        sent = sum(rig.ends().values())
        rig.until(lambda: _in_lake(job, "raw") >= sent, _PATIENCE_S, "not all messages archived")
        rig.until(lambda: _through(job, sent), _PATIENCE_S, "not all written")
        rig.wait(4)
        self.save()
        wrong = rig.compare(job)
        return {name: count for name, count in wrong.items() if name not in _COUNTED_AGAIN}


def _in_lake(job: Job, root: str) -> int:
    paths = (job.lake / root).rglob("*.parquet")
    return sum(pq.read_metadata(path).num_rows for path in paths)


def _through(job: Job, sent: int) -> bool:
    return _in_lake(job, "readings") + _in_lake(job, "dead_letters") >= sent


def kills(on: Cluster, times: int = 20) -> dict[str, int]:
    """Processes of the cluster are killed, each kind in turn; what was killed comes back."""
    rig, flink = on.rig, on.flink
    rig.producer()
    on.start()
    on.reading()
    what: list[tuple[str, Callable[[], None]]] = [
        ("taskmanager", lambda: _killed(on, rig.choose.choice(flink.workers))),
        ("worker", lambda: _workers_killed(on)),
        ("jobserver", lambda: _killed(on, flink.server)),
        ("jobmanager", lambda: _manager_killed(on)),
        ("pool", lambda: _pool_killed(on)),
    ]
    for turn in range(times):
        name, kill = what[turn % len(what)]
        rig.wait(rig.choose.uniform(1, 10))
        began = time.monotonic()
        kill()
        on.reading()
        most = f"most_s_after_{name}"
        rig.figures[most] = max(rig.figures.get(most, 0), time.monotonic() - began)
    rig.figures["kills"] = times
    return on.finish()


def _killed(on: Cluster, part: Startable) -> None:
    part.stop(kill=True)
    time.sleep(on.rig.choose.uniform(0, 3))
    part.start()


def _workers(on: Cluster) -> list[psutil.Process]:
    pids = [pool.pid for pool in on.flink.pools]
    return [child for pid in pids if pid for child in psutil.Process(pid).children(recursive=True)]


def _workers_killed(on: Cluster) -> None:
    on.rig.choose.choice(_workers(on)).send_signal(signal.SIGKILL)


def _pool_killed(on: Cluster) -> None:
    workers = _workers(on)
    for pool in on.flink.pools:
        pool.stop(kill=True)
    for each in workers:
        each.send_signal(signal.SIGKILL)
    for pool in on.flink.pools:
        pool.start()


def _manager_killed(on: Cluster) -> None:
    """The job ends with it, and says which checkpoint is to be started from; it gets more workers."""
    job = on.job
    assert job is not None
    on.flink.manager.stop(kill=True)
    status = job.wait(_PATIENCE_S)
    found = _SAVED.findall(job.err.read_text())
    if not status or not found:
        raise TimeoutError(f"status {status} and no checkpoint is named: see {job.err}")
    on.flink.manager.start()
    on.flink.server.stop(kill=True)
    on.flink.server.start()
    on.start(4, saved=found[-1])


def rescaled(on: Cluster) -> dict[str, int]:
    """Stopped with a savepoint and started from it with 2, 4 and 1 as parallelism."""
    on.rig.producer()
    on.start(2)
    for parallelism in (4, 1):
        on.reading()
        on.rig.wait(10)
        on.start(parallelism, on.save())
    on.reading()
    return on.finish()


def broker_away(on: Cluster) -> dict[str, int]:
    """The broker is killed and away for 15 s."""
    rig = on.rig
    rig.producer()
    on.start()
    on.reading()
    rig.broker.stop(kill=True)
    rig.wait(15)
    rig.broker.start()
    on.reading()
    return on.finish()


def store_away(on: Cluster, store: Startable) -> dict[str, int]:
    """The lake's store is away for 15 s, then a worker is killed."""
    rig = on.rig
    rig.producer()
    on.start()
    on.reading()
    store.stop(kill=True)
    rig.wait(15)
    store.start()
    on.reading()
    _workers_killed(on)
    on.reading()
    return on.finish()


def days_later(on: Cluster) -> dict[str, int]:
    """A savepoint is older than what the topic still has: what is gone is told, the rest is read."""
    rig = on.rig
    first = rig.producer("--count=20000")
    on.start()
    first.wait()
    rig.read_to(rig.ends(), _PATIENCE_S)
    saved = on.save()
    second = rig.producer("--count=20000", "--prefix=b_")
    second.wait()
    committed, ends = rig.committed(), rig.ends()
    cut = {at: min(end, committed[at] + 500) for at, end in ends.items()}
    with rig.broker.admin() as admin:
        admin.delete_records({TopicPartition(rig.topic, at): end for at, end in cut.items()})
    lost = sum(end - committed[at] for at, end in cut.items())
    job = on.start(saved=saved)
    expected = sum(ends.values()) - lost
    rig.until(lambda: _in_lake(job, "raw") >= expected, _PATIENCE_S, "not all messages archived")
    rig.until(lambda: _through(job, expected), _PATIENCE_S, "not all written")

    def told() -> int:
        rows = sql(job.warehouse, "SELECT sum(offsets_skipped) FROM source_positions "
                   "WHERE reason = 'retention'")  # fmt: skip
        return int(rows[0][0] or 0)

    # Its rows are written every few minutes.
    with contextlib.suppress(TimeoutError):
        rig.until(lambda: told() == lost, 400, "not told")
    rig.figures |= {"lost": lost, "told": told()}
    on.save()
    wrong = {"not_told": abs(lost - told()), "archive": _in_lake(job, "raw") - expected}
    return {name: count for name, count in wrong.items() if count}


SCENARIOS: dict[str, Callable[[Cluster], dict[str, int]]] = {
    scenario.__name__: scenario for scenario in (kills, rescaled, broker_away, days_later)
}
