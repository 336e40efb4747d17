"""A subscription read by Flink: in one process, killed without a savepoint, and on a cluster."""

from __future__ import annotations

import contextlib
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from tests.endurance.processes import Job
from tests.integration.test_pubsub import (
    EQUIPMENT,
    START_S,
    each_once,
    in_warehouse,
    job,
    left,
    payload,
    publish,
    pulled,
    uri,
    wait_for,
    written,
)
from tests.running import sql
from tests.services.engines import flink_job_server
from tests.services.fixtures import available, set_environment
from tests.services.flink import FlinkCluster
from tests.services.pubsub import PubSub

pytestmark = [pytest.mark.integration, pytest.mark.long]

# After a kill nobody is given what the job held for so long.
LEASED_S = 62
QUICK = ("--lake_file_wait=2", "--account_every=1", "--checkpointing_interval=2000")


@pytest.fixture(autouse=True)
def _environment(pubsub: PubSub, monkeypatch: pytest.MonkeyPatch) -> None:
    set_environment(monkeypatch, pubsub.environment)


@pytest.fixture
def flags() -> list[str]:
    """Flink in a process of the job's own, with its readers in the job's."""
    jar = available(flink_job_server)
    return ["--runner=FlinkRunner", f"--flink_job_server_jar={jar}", "--parallelism=1", *QUICK]


def archived(target: Path) -> Counter[str]:
    """How often each message stands in the archive, by its payload."""
    raw = target / "lake" / "raw"
    paths = list(raw.rglob("*.parquet"))
    return Counter(
        row for path in paths for row in pq.read_table(path)["payload"].to_pylist()
    )  # fmt: skip


def reading(number: int) -> tuple[str, float]:
    return f"B{number % EQUIPMENT}", float(START_S + number // EQUIPMENT)


def test_windows_fire_while_messages_come_and_a_drained_job_leaves_nothing(
    pubsub: PubSub, flags: list[str], tmp_path: Path
) -> None:
    topic = pubsub.new_topic()
    subscription = pubsub.new_subscription(topic)
    log = tmp_path / "log"
    publish(pubsub, topic, range(5_000))
    with job(tmp_path, subscription, pubsub.environment, *flags) as process:
        assert wait_for(lambda: written(tmp_path) > 0, 120), log.read_text()
        before = written(tmp_path)
        publish(pubsub, topic, range(5_000, 10_000))
        assert wait_for(lambda: written(tmp_path) > max(before, 5_000), 120), log.read_text()
        assert wait_for(lambda: "so far: read 10,000, " in log.read_text(), 120), log.read_text()
        process.send_signal(signal.SIGINT)
        assert process.wait(120) == 0, log.read_text()
    each_once(tmp_path, 10_000)
    assert "\nread 10,000 = written 10,000 + duplicates 0 + dead letters 0\n" in log.read_text()
    # What each reader was given is written down, too.
    told = sql(
        tmp_path / "warehouse.duckdb",
        "SELECT sum(messages_read), sum(last_offset + 1 - first_offset), count(reason) "
        "FROM source_positions",
    )
    assert told == [(10_000, 10_000, 0)]
    # What is not acknowledged is given back at the end, so that somebody else would have it now.
    assert left(pubsub, subscription, 5) == 0


def killed(process: object) -> None:
    """Kills a process with its children, which would else go on for a while."""
    tree = psutil.Process(process.pid)  # type: ignore[attr-defined]
    children = tree.children(recursive=True)
    tree.send_signal(signal.SIGKILL)
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.send_signal(signal.SIGKILL)
    process.wait()  # type: ignore[attr-defined]


def unacknowledged(pubsub: PubSub, subscription: str) -> set[bytes]:
    """The payloads of all that the subscription still has, which is given back."""
    found = {
        each.message.message_id: (each.ack_id, each.message.data)
        for part in pulled(pubsub, subscription, LEASED_S + 5)
        for each in part
    }
    with pubsub.subscriber() as subscriber:
        ids = [ack_id for ack_id, _ in found.values()]
        for first in range(0, len(ids), 1000):
            subscriber.modify_ack_deadline(
                subscription=subscription, ack_ids=ids[first : first + 1000],
                ack_deadline_seconds=0,
            )  # fmt: skip
    return {data for _, data in found.values()}


@contextlib.contextmanager
def publishing(pubsub: PubSub, topic: str, rate: int) -> Iterator[Callable[[], int]]:
    """Publishes readings all the time; calling it ends that and returns how many there were."""
    over, sent = threading.Event(), [0]

    def go_on() -> None:
        began = time.monotonic()
        while not over.wait(0.2):
            due = int((time.monotonic() - began) * rate)
            if due > sent[0]:
                publish(pubsub, topic, range(sent[0], due))
                sent[0] = due

    thread = threading.Thread(target=go_on)
    thread.start()

    def ended() -> int:
        over.set()
        thread.join()
        return sent[0]

    try:
        yield ended
    finally:
        ended()


# Minutes of it are leases that run out.
@pytest.mark.proof
def test_a_killed_job_that_starts_without_its_checkpoint_has_all_that_was_not_acknowledged(
    pubsub: PubSub, flags: list[str], tmp_path: Path
) -> None:
    topic = pubsub.new_topic()
    subscription = pubsub.new_subscription(topic)
    log = tmp_path / "log"
    with publishing(pubsub, topic, rate=300) as ended:
        with job(tmp_path, subscription, pubsub.environment, *flags) as process:
            assert wait_for(lambda: written(tmp_path) > 2_000, 150), log.read_text()
            # A message is acknowledged some checkpoints after it was given.
            time.sleep(20)
            killed(process)
        sent = ended()
    numbers = {payload(number): number for number in range(sent)}
    there = unacknowledged(pubsub, subscription)
    # Some were acknowledged, and some not of those that the job was given.
    before = archived(tmp_path)
    assert 0 < len(there) < sent and there & before.keys()
    with job(tmp_path, subscription, pubsub.environment, *flags) as process:
        expected = before.keys() | there
        assert wait_for(lambda: archived(tmp_path).keys() >= expected, 150), log.read_text()
        process.send_signal(signal.SIGINT)
        assert process.wait(120) == 0, log.read_text()
    kept = archived(tmp_path)
    assert kept.keys() >= expected and set(kept.values()) == {1}
    wanted = {reading(numbers[data]) for data in there}
    files = [str(path) for path in (tmp_path / "lake" / "readings").rglob("*.parquet")]
    for place in ("readings", f"read_parquet({files}, hive_partitioning = false)"):
        # What the first one's state had was acknowledged, and only its checkpoint has it.
        query = f"SELECT equipment_id, epoch(recorded_at) FROM {place}"
        found = sql(tmp_path / "warehouse.duckdb", query)
        assert len(found) == len(set(found)) and set(found) >= wanted
    assert left(pubsub, subscription, 5) == 0


class Cluster:
    """A job on a cluster, of which processes are killed; a context manager."""

    def __init__(self, folder: Path, subscription: str) -> None:
        available(flink_job_server)
        self.flink = FlinkCluster(folder / "flink")
        self.folder = folder
        self.job = Job(
            "job", folder, uri(subscription), "--window=10", "--parallelism=2", *self.flink.flags,
            *QUICK,
        )  # fmt: skip

    def __enter__(self) -> Cluster:
        self.flink.__enter__()
        self.job.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.job.__exit__()
        self.flink.__exit__()

    def until(self, holds: Callable[[], bool], what: str, seconds: float = 240) -> None:
        ends = time.monotonic() + seconds
        while not holds():
            assert self.job.runs, self.job.err.read_text()
            assert time.monotonic() < ends, f"{what}; {self.job.err.read_text()}"
            time.sleep(0.5)

    def archives(self) -> None:
        """Waits until some more messages are in the archive."""
        before = len(archived(self.folder))
        self.until(lambda: len(archived(self.folder)) > before + 500, "nothing more is archived")

    def worker_killed(self) -> None:
        pools = [psutil.Process(pool.pid) for pool in self.flink.pools if pool.pid]
        workers = [child for pool in pools for child in pool.children(recursive=True)]
        random.Random(1).choice(workers).send_signal(signal.SIGKILL)


def test_nothing_is_lost_or_doubled_where_a_worker_and_a_task_manager_are_killed(
    pubsub: PubSub, tmp_path: Path
) -> None:
    topic = pubsub.new_topic()
    subscription = pubsub.new_subscription(topic)
    # Twelve seconds of event time a second: what was lost on the way comes again when it is late.
    with (
        publishing(pubsub, topic, rate=12 * EQUIPMENT) as ended,
        Cluster(tmp_path, subscription) as on,
    ):
        on.archives()
        on.worker_killed()
        on.archives()
        manager = on.flink.workers[0]
        manager.stop(kill=True)
        killed_s = time.monotonic()
        time.sleep(3)
        manager.start()
        on.archives()
        sent = ended()
        on.until(lambda: len(archived(tmp_path)) == sent, "not all is archived")
        on.until(lambda: written(tmp_path) >= sent, "not all is in the lake")
        # What those that were killed held is delivered again, and some checkpoints have it.
        time.sleep(max(20, killed_s + LEASED_S + 30 - time.monotonic()))
        assert on.job.stop(240) == 0, on.job.err.read_text()
    assert wait_for(lambda: in_warehouse(tmp_path) >= 0, 10)
    each_once(tmp_path, sent)
    assert set(archived(tmp_path)) == {payload(number) for number in range(sent)}
    assert left(pubsub, subscription, LEASED_S) == 0
