"""The Pub/Sub source against the emulator: all readings once, acknowledged when they are safe."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from google.api_core import exceptions

from pipeline.connect.pubsub import PubSubAddress
from pipeline.engines import HERE
from pipeline.errors import ConfigError
from pipeline.sources import Told
from pipeline.sources.live.reader import CommitFailed, Fetched
from pipeline.sources.pubsub import broker as pubsub_broker
from pipeline.sources.pubsub.broker import PubSubBroker
from pipeline.sources.pubsub.leases import LEASE_S
from pipeline.sources.pubsub.source import PubSubSource
from tests.running import sql
from tests.services.fixtures import set_environment, started
from tests.services.pubsub import PubSub
from transforms.decode import decode

pytestmark = pytest.mark.integration

EQUIPMENT = 20
START_S = 1_717_243_200


@pytest.fixture(autouse=True)
def _environment(pubsub: PubSub, monkeypatch: pytest.MonkeyPatch) -> None:
    set_environment(monkeypatch, pubsub.environment)


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PubSub]:
    """An emulator that may be stopped."""
    monkeypatch.delenv("PUBSUB_EMULATOR_HOST")
    with started(PubSub, tmp_path) as emulator:
        monkeypatch.setenv("PUBSUB_EMULATOR_HOST", emulator.host)
        yield emulator


def payload(number: int) -> bytes:
    """Reading `number` of a fleet that takes turns, a round a second; it names no equipment."""
    at = START_S + number // EQUIPMENT
    return json.dumps({"time": at, "voltage": 3.5 + number % 1000 / 1000, "current": 1.0}).encode()


def publish(
    pubsub: PubSub, topic: str, numbers: range, attributes: bool = True, ordered: bool = False
) -> list[str]:
    """Publishes readings; returns the messages' ids."""
    publisher = pubsub.publisher(ordering=ordered)
    ids: list[str] = []
    for first in range(numbers.start, numbers.stop, 1000):
        messages = [
            {
                "data": payload(number),
                "attributes": {"equipment_id": f"B{number % EQUIPMENT}"} if attributes else {},
                "ordering_key": f"B{number % EQUIPMENT}" if ordered else "",
            }
            for number in range(first, min(first + 1000, numbers.stop))
        ]
        ids += publisher.api.publish(topic=topic, messages=messages).message_ids
    publisher.transport.close()
    return ids


def uri(subscription: str) -> str:
    _, project, _, name = subscription.split("/")
    return f"pubsub://{project}/{name}"


@contextlib.contextmanager
def reading(subscription: str) -> Iterator[PubSubBroker]:
    found = uri(subscription)
    broker = PubSubBroker(PubSubAddress.parse(found, "--source", "subscription"), found)
    broker.open(list)
    try:
        yield broker
    finally:
        broker.close()


def fetch(broker: PubSubBroker, rows: int, seconds: float = 20) -> list[Fetched]:
    """What comes until there are so many messages, or time is up."""
    found: list[Fetched] = []
    until = time.monotonic() + seconds
    while sum(each.rows[0] for each in found) < rows and time.monotonic() < until:
        fetched = broker.fetch()
        if fetched.batch is not None:
            found.append(fetched)
    return found


def table(found: list[Fetched]) -> pa.Table:
    return pa.concat_tables(each.batch.table for each in found if each.batch is not None)


def wait_for(said: Callable[[], bool], seconds: float) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if said():
            return True
        time.sleep(0.1)
    return said()


def left(pubsub: PubSub, subscription: str, seconds: float = 2) -> int:
    """How many messages the subscription gives to somebody else within so many seconds."""
    return sum(len(each) for each in pulled(pubsub, subscription, seconds))


def pulled(pubsub: PubSub, subscription: str, seconds: float) -> Iterator[Sequence[Any]]:
    """What the subscription gives to somebody else within so many seconds, pull by pull."""
    until = time.monotonic() + seconds
    with pubsub.subscriber() as subscriber:
        while time.monotonic() < until:
            # A busy machine takes longer to say that there is nothing.
            with contextlib.suppress(exceptions.DeadlineExceeded):
                answer = subscriber.pull(
                    subscription=subscription, max_messages=1000, timeout=2, retry=None
                )
                yield answer.received_messages


def test_messages_arrive_as_they_were_sent_and_are_gone_when_acknowledged(pubsub: PubSub) -> None:
    topic = pubsub.new_topic()
    subscription = pubsub.new_subscription(topic)
    ids = publish(pubsub, topic, range(3000))
    ids += publish(pubsub, topic, range(3000, 3500), attributes=False, ordered=True)
    with reading(subscription) as broker:
        found = fetch(broker, 3500)
        got = table(found).sort_by("payload")
        assert got.num_rows == 3500 and set(got["position"].to_pylist()) == set(ids)
        assert sorted(got["payload"].to_pylist()) == sorted(payload(n) for n in range(3500))
        decoded, rejects = decode(found[0].batch)  # type: ignore[arg-type]
        assert not rejects.rows
        names = {f"B{n}" for n in range(EQUIPMENT)}
        assert set(got["key"].to_pylist()) == {name.encode() for name in names}
        assert set(decoded.table["equipment_id"].to_pylist()) <= names
        assert got["attributes"].null_count == 500
        assert abs(time.time() - got["arrived_at"][0].as_py().timestamp()) < 120
        assert wait_for(lambda: bool(broker.fetch().ended), 12)
        broker.commit([each.positions for each in found])
        assert len(broker._leases) == 0
    assert left(pubsub, subscription) == 0


def test_what_is_not_acknowledged_stays_ours_and_is_given_back_at_the_end(pubsub: PubSub) -> None:
    topic = pubsub.new_topic()
    subscription = pubsub.new_subscription(topic, ack_deadline=10)
    ids = publish(pubsub, topic, range(2000))
    with reading(subscription) as broker:
        first = fetch(broker, 2000)
        # How many come at once is the machine's to say; some of them are done with.
        some = first[0].positions[0][:200]
        broker.commit([{0: some}])
        done = {message_id for message_id, _ in some}
        until = time.monotonic() + 14  # the subscription's own deadline has passed
        while time.monotonic() < until:
            assert broker.fetch().batch is None
        assert left(pubsub, subscription) == 0
    with reading(subscription) as broker:
        again = table(fetch(broker, 2000 - len(done), seconds=3))
        assert sorted(again["position"].to_pylist()) == sorted(set(ids) - done)


def test_a_message_that_comes_again_is_not_given_again(pubsub: PubSub) -> None:
    topic = pubsub.new_topic()
    subscription = pubsub.new_subscription(topic, ack_deadline=10)
    publish(pubsub, topic, range(1000))
    with reading(subscription) as broker:
        found = fetch(broker, 1000)
        before = broker._leases.all()
        broker._set_deadline(before, 0)  # as if the leases had run out
        assert wait_for(lambda: not set(before) & set(broker._leases.all()), 10)
        assert fetch(broker, 1, seconds=2) == []
        broker.commit([each.positions for each in found])
        assert len(broker._leases) == 0
        assert fetch(broker, 1, seconds=14) == []
    assert left(pubsub, subscription) == 0


def test_pulling_pauses_while_too_many_wait(
    pubsub: PubSub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pubsub_broker, "MOST_OUTSTANDING", 1000)
    topic = pubsub.new_topic()
    subscription = pubsub.new_subscription(topic)
    publish(pubsub, topic, range(10_000))
    with reading(subscription) as broker:
        found = fetch(broker, 10_000, seconds=3)
        rows = table(found).num_rows
        assert 1000 <= rows <= 2000
        # The windows they wait for have to be closed by the clock.
        assert broker.fetch().ended == {0}
        while rows < 10_000:
            broker.commit([each.positions for each in found])
            found = fetch(broker, 1, seconds=5)
            assert found
            rows += table(found).num_rows
        assert rows == 10_000


@pytest.mark.long
def test_an_outage_is_no_end_and_is_survived(own: PubSub) -> None:
    topic = own.create_topic("readings")
    subscription = own.create_subscription(topic, "reader")
    publish(own, topic, range(1000))
    with reading(subscription) as broker:
        found = fetch(broker, 1000)
        assert wait_for(lambda: bool(broker.fetch().ended), 12)
        own.stop(kill=True)
        assert wait_for(lambda: not broker.fetch().ended, 5)
        with pytest.raises(CommitFailed):
            broker.commit([found[0].positions])
        until = time.monotonic() + 12
        while time.monotonic() < until:
            fetched = broker.fetch()
            assert fetched.batch is None and not fetched.ended
        own.start()
        # The emulator remembers nothing.
        topic = own.create_topic("readings")
        own.create_subscription(topic, "reader")
        publish(own, topic, range(1000, 3000))
        after = table(fetch(broker, 2000, seconds=60))
        assert sorted(after["payload"].to_pylist()) == sorted(payload(n) for n in range(1000, 3000))
        broker.commit([each.positions for each in found])
        assert wait_for(lambda: bool(broker.fetch().ended), 12)


def test_a_subscription_that_goes_ends_the_job(pubsub: PubSub) -> None:
    subscription = pubsub.new_subscription(pubsub.new_topic())
    with reading(subscription) as broker:
        broker.fetch()
        with pubsub.subscriber() as subscriber:
            subscriber.delete_subscription(subscription=subscription)
        began = time.monotonic()
        with pytest.raises(RuntimeError, match=r"--source=pubsub://.*the subscription is gone"):
            fetch(broker, 1, seconds=30)
        assert time.monotonic() - began < 25


def source(found: str) -> PubSubSource:
    return PubSubSource(found, decode, HERE, False, Told())


def test_a_subscription_that_can_t_be_read_is_refused(pubsub: PubSub) -> None:
    with pytest.raises(ConfigError, match=r"--source=pubsub://.*there is no subscription"):
        source(f"pubsub://{pubsub.project}/missing").check()
    topic = pubsub.new_topic()
    source(uri(pubsub.new_subscription(topic))).check()
    with pytest.raises(ConfigError, match=r"--source=pubsub://.*without message ordering"):
        source(uri(pubsub.new_subscription(topic, ordering=True))).check()


# --- through the whole job -----------------------------------------------------------------------


@contextlib.contextmanager
def job(
    target: Path, subscription: str, environment: Mapping[str, str], *flags: str
) -> Iterator[subprocess.Popen[bytes]]:
    """The job on a subscription, in a process of its own; killed at the end if it still runs."""
    command = [
        sys.executable, "-m", "pipeline", f"--source={uri(subscription)}",
        f"--lake={target / 'lake'}", f"--warehouse=duckdb:{target / 'warehouse.duckdb'}",
        "--window=10", "--no_progress", *flags,
    ]  # fmt: skip
    with (target / "log").open("ab") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env={**os.environ, **environment}
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def written(target: Path) -> int:
    """How many readings the lake holds."""
    paths = (target / "lake" / "readings").rglob("*.parquet")
    return sum(pq.read_metadata(path).num_rows for path in paths)


def in_warehouse(target: Path) -> int:
    with contextlib.suppress(duckdb.Error):  # being written, or not there yet
        return int(sql(target / "warehouse.duckdb", "SELECT count(*) FROM readings")[0][0])
    return -1


def each_once(target: Path, count: int) -> None:
    warehouse = target / "warehouse.duckdb"
    rows = sql(warehouse, "SELECT equipment_id, epoch(recorded_at) FROM readings")
    expected = {(f"B{n % EQUIPMENT}", float(START_S + n // EQUIPMENT)) for n in range(count)}
    assert len(rows) == count and set(rows) == expected
    assert sql(warehouse, "SELECT count(*) FROM dead_letters") == [(0,)]
    assert written(target) == count
    archived = pq.read_table(target / "lake" / "raw", columns=["position"]).column("position")
    assert len(archived) == count == len(archived.unique())


@pytest.mark.slow
@pytest.mark.long
def test_readings_are_written_while_the_source_goes_on(pubsub: PubSub, tmp_path: Path) -> None:
    topic = pubsub.new_topic()
    subscription = pubsub.new_subscription(topic)
    publish(pubsub, topic, range(20_000))
    with job(tmp_path, subscription, pubsub.environment) as process:
        log = tmp_path / "log"
        # The last windows close by the clock, as nothing follows.
        assert wait_for(lambda: in_warehouse(tmp_path) == 20_000, 120), log.read_text()
        publish(pubsub, topic, range(20_000, 21_000))
        assert wait_for(lambda: in_warehouse(tmp_path) == 21_000, 90), log.read_text()
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, log.read_text()
    each_once(tmp_path, 21_000)
    assert left(pubsub, subscription) == 0


@pytest.mark.slow
@pytest.mark.long
def test_a_killed_job_loses_and_doubles_nothing(pubsub: PubSub, tmp_path: Path) -> None:
    topic = pubsub.new_topic()
    subscription = pubsub.new_subscription(topic)
    publish(pubsub, topic, range(40_000))
    log = tmp_path / "log"
    with job(tmp_path, subscription, pubsub.environment) as process:
        assert wait_for(lambda: written(tmp_path) > 3_000, 60), log.read_text()
        process.send_signal(signal.SIGKILL)
        process.wait()
    before = written(tmp_path)
    assert 3_000 < before < 40_000
    with job(tmp_path, subscription, pubsub.environment) as process:
        # What the first one held comes again when its leases have run out.
        assert wait_for(lambda: in_warehouse(tmp_path) >= 40_000, 150), log.read_text()
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, log.read_text()
    each_once(tmp_path, 40_000)
    assert left(pubsub, subscription) == 0


def send(pubsub: PubSub, topic: str, *readings: tuple[str, float]) -> None:
    """Publishes readings: (equipment, seconds from now)."""
    publisher = pubsub.publisher()
    messages = [
        {
            "data": json.dumps(
                {"equipment_id": equipment, "time": time.time() + seconds, "voltage": 3.7,
                 "current": 1.0}
            ).encode()
        }
        for equipment, seconds in readings
    ]  # fmt: skip
    publisher.api.publish(topic=topic, messages=messages)
    publisher.transport.close()


@pytest.mark.slow
@pytest.mark.long
def test_readings_of_now_and_of_a_year_ago_are_durable_and_acknowledged_in_time(
    pubsub: PubSub, tmp_path: Path
) -> None:
    topic = pubsub.new_topic()
    # The emulator, too, gives a message again as soon as nobody holds it.
    subscription = pubsub.new_subscription(topic, ack_deadline=10)
    log, year_s = tmp_path / "log", 365 * 86_400.0
    with job(tmp_path, subscription, pubsub.environment, "--account_every=1") as process:
        assert wait_for(lambda: "so far" in log.read_text(), 60), log.read_text()
        send(
            pubsub, topic, *((f"new_{n}", -1.0) for n in range(2)),
            *((f"old_{n}", n - year_s) for n in range(5)),
        )  # fmt: skip
        # The window, what comes out of order, and 30 s besides.
        in_time = time.monotonic() + 10 + 5 + 30
        assert wait_for(lambda: (written(tmp_path), in_warehouse(tmp_path)) == (7, 7), 45), (
            log.read_text()
        )
        time.sleep(max(0.0, in_time - time.monotonic()))
        # Taken or not, it is not acknowledged: it alone comes again from a job that was killed.
        send(pubsub, topic, ("last", 0.0))
        time.sleep(1)
        process.send_signal(signal.SIGKILL)
        process.wait()
    found = {
        json.loads(each.message.data)["equipment_id"]
        for part in pulled(pubsub, subscription, LEASE_S + 5)
        for each in part
    }
    assert found == {"last"}


@pytest.mark.slow
def test_until_latest_reads_what_is_there_and_ends(pubsub: PubSub, tmp_path: Path) -> None:
    topic = pubsub.new_topic()
    subscription = pubsub.new_subscription(topic)
    publish(pubsub, topic, range(5_000))
    with job(tmp_path, subscription, pubsub.environment, "--until=latest") as process:
        assert process.wait(90) == 0, (tmp_path / "log").read_text()
    each_once(tmp_path, 5_000)
    assert left(pubsub, subscription) == 0
    assert "read 5,000" in (tmp_path / "log").read_text()
    # How many came of the subscription is written down beside the sinks.
    told = "SELECT topic, partition_number, sum(messages_read) FROM source_positions GROUP BY ALL"
    name = subscription.rpartition("/")[2]
    assert sql(tmp_path / "warehouse.duckdb", told) == [(name, None, 5_000)]
