"""Publishing to a real Kafka broker and the Pub/Sub emulator: all there, once, through failures."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path

import apache_beam as beam
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.testing.test_pipeline import TestPipeline
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.consumer.fetcher import ConsumerRecord

from pipeline.connect.kafka import producer
from pipeline.connect.pubsub import PubSubAddress, check_subscription
from pipeline.connect.pubsub import check_topic as check_pubsub_topic
from pipeline.errors import ConfigError
from pipeline.publish import main
from pipeline.sinks.topic import sink as topic_sink
from pipeline.sinks.topic.sink import TopicSink
from pipeline.sources.simulation.source import SimulatorSource
from tests.services.fixtures import set_environment, started
from tests.services.kafka import ApacheKafka, Broker
from tests.services.processes import free_port
from tests.services.pubsub import PubSub
from transforms import dead_letter
from transforms.batch import RawBatch
from transforms.dead_letter import DeadLetter

pytestmark = pytest.mark.integration

FLEET = "simulator:?equipment=6&readings=30000&faults=0.01&late=0.05&duplicates=0.02"


def messages_of(source: str) -> list[tuple[bytes, bytes]]:
    """Key and payload of each of the simulator's messages, in its order."""
    found: list[tuple[bytes, bytes]] = []
    for raw in SimulatorSource(source).batches():
        assert isinstance(raw, RawBatch)
        found += zip(raw.table["key"].to_pylist(), raw.table["payload"].to_pylist(), strict=True)
    return found


def records(kafka: Broker, topic: str, count: int, seconds: float = 30) -> list[ConsumerRecord]:
    """The topic's records, once there are `count` and no more follow, or time is up."""
    found: list[ConsumerRecord] = []
    with KafkaConsumer(**kafka.client_settings(), fetch_max_wait_ms=100) as consumer:
        parts = consumer.partitions_for_topic(topic) or set()
        consumer.assign([TopicPartition(topic, part) for part in parts])
        consumer.seek_to_beginning()
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            polled = consumer.poll(timeout_ms=500, max_records=10_000)
            found += [record for part in polled.values() for record in part]
            if len(found) >= count and not polled:
                break
    return found


def start(*flags: str) -> subprocess.Popen[str]:
    argv = [sys.executable, "-m", "pipeline.publish", "--no_progress", *flags]
    return subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ}
    )


def acknowledged(path: Path) -> int:
    try:
        return int(json.loads(path.read_text())["acknowledged"])
    except FileNotFoundError:
        return 0


def wait_until_acknowledged(path: Path, count: int, process: subprocess.Popen[str]) -> None:
    ends = time.monotonic() + 60
    while acknowledged(path) < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < ends
        time.sleep(0.05)


def test_every_message_arrives_once_under_its_equipment(
    kafka: Broker, capsys: pytest.CaptureFixture[str]
) -> None:
    topic = f"publish-{os.getpid()}-{time.time_ns()}"
    to = f"--to=kafka://{kafka.bootstrap}/{topic}"
    assert main([f"--source={FLEET}", to, "--create_topic=3", "--no_progress"]) == 0
    sent = messages_of(FLEET)
    assert capsys.readouterr().out.startswith(f"published {len(sent):,} to kafka://")
    found = records(kafka, topic, len(sent))
    assert {record.partition for record in found} == {0, 1, 2}
    assert len({(record.key, record.partition) for record in found}) == 6
    for key in {key for key, _ in sent}:
        assert [record.value for record in found if record.key == key] == [
            payload for mine, payload in sent if mine == key
        ]


def test_in_order_of_time_with_event_timestamps_and_a_limit(kafka: Broker) -> None:
    topic = kafka.new_topic(configs={"retention.ms": "-1"})
    fleet = "simulator:?equipment=5&readings=5000"
    to = f"--to=kafka://{kafka.bootstrap}/{topic}"
    flags = [f"--source={fleet}", to, "--order=time", "--timestamp=event", "--limit=4321"]
    assert main([*flags, "--no_progress"]) == 0
    found = records(kafka, topic, 4321)
    assert len(found) == 4321
    times = [orjson.loads(record.value)["streamed_at"] for record in found]
    assert times == sorted(times)
    assert len({record.key for record in found[:100]}) == 5
    first = orjson.loads(found[0].value)["recorded_at"]
    assert first.startswith("2024-01-01T00:00:01")
    assert found[0].timestamp == 1_704_067_201_000


def test_a_rate_is_kept(kafka: Broker, capsys: pytest.CaptureFixture[str]) -> None:
    topic = kafka.new_topic()
    to = f"--to=kafka://{kafka.bootstrap}/{topic}"
    began = time.monotonic()
    assert main([f"--source={FLEET}", to, "--rate=1000", "--limit=3000", "--no_progress"]) == 0
    assert 2.9 < time.monotonic() - began < 10
    assert len(records(kafka, topic, 3000)) == 3000
    assert capsys.readouterr().out.startswith("published 3,000 to ")


@pytest.mark.long
@pytest.mark.slow
def test_after_a_kill_a_rerun_goes_on_and_nothing_is_lost(kafka: Broker, tmp_path: Path) -> None:
    topic, position = kafka.new_topic(partitions=2), tmp_path / "position.json"
    flags = [f"--source={FLEET}", f"--to=kafka://{kafka.bootstrap}/{topic}",
             f"--resume={position}", "--rate=4000"]  # fmt: skip
    sent = messages_of(FLEET)
    for part in (3000, 12_000):
        process = start(*flags)
        wait_until_acknowledged(position, part, process)
        process.kill()
        process.communicate()
    process = start(*flags)
    # Its own first ones, wherever the killed one had got to: before, it heeds no signal yet.
    wait_until_acknowledged(position, max(18_000, acknowledged(position) + 1), process)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert out.startswith("published ")
    assert "stopped" in err
    process = start(*flags[:-1])
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert acknowledged(position) == len(sent)
    found = Counter((record.key, record.value) for record in records(kafka, topic, len(sent)))
    missing = Counter(sent) - found
    assert not missing
    # What was under way when a process was killed comes again; after a signal nothing does.
    again = found - Counter(sent)
    assert sum(again.values()) <= 2 * 20_000
    assert start(*flags[:-1]).communicate(timeout=60)[0].startswith("published 0 to ")


@pytest.mark.long
@pytest.mark.slow
def test_a_broker_that_is_gone_for_a_while_gets_everything_once(
    apache: ApacheKafka, tmp_path: Path
) -> None:
    topic, position = apache.new_topic(partitions=2), tmp_path / "position.json"
    process = start(f"--source={FLEET}", f"--to=kafka://{apache.bootstrap}/{topic}",
                    f"--resume={position}", "--rate=5000")  # fmt: skip
    try:
        for kill in (False, True):
            wait_until_acknowledged(position, acknowledged(position) + 5000, process)
            apache.stop(kill=kill)
            time.sleep(3)
            apache.start()
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 0, err
    sent = messages_of(FLEET)
    assert out.startswith(f"published {len(sent):,} to ")
    found = records(apache, topic, len(sent))
    assert Counter((record.key, record.value) for record in found) == Counter(sent)
    for key in {key for key, _ in sent}:
        assert [record.value for record in found if record.key == key] == [
            payload for mine, payload in sent if mine == key
        ]


def test_a_wrong_login_is_named_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with started(ApacheKafka, tmp_path, users={"alice": "hunter2"}) as broker:
        flags = ["--source=simulator:?readings=10", "--no_progress"]
        flags.append(f"--to=kafka://{broker.bootstrap}/{broker.new_topic()}")
        monkeypatch.setenv("KAFKA_SECURITY_PROTOCOL", "SASL_PLAINTEXT")
        monkeypatch.setenv("KAFKA_SASL_USERNAME", "alice")
        monkeypatch.setenv("KAFKA_SASL_PASSWORD", "hunter2")
        assert main(flags) == 0
        monkeypatch.setenv("KAFKA_SASL_PASSWORD", "hunter3")
        began = time.monotonic()
        assert main(flags) == 2
        assert time.monotonic() - began < 15
        said = capsys.readouterr().err
        assert "--to=kafka://" in said
        assert "KAFKA_SASL_PASSWORD" in said
        assert "hunter" not in said


def letters() -> pa.Table:
    common = {"step": "validate", "source": "kafka://host/topic", "ingested_at_us": 1_750_000_000_123_456}  # fmt: skip
    return dead_letter.table(
        [
            DeadLetter(
                **common, error_type="missing_field", error_message="voltage_v is missing",
                payload=b'{"current": 1,  "\xc3\xa4": 2}', field="voltage_v", position="topic/0/17",
                message_key=b"cell-1", attributes='{"site":"north","n":3}',
            ),
            DeadLetter(
                **common, error_type="malformed_json", error_message="broken " + "x" * 2000,
                payload=b"\x00\xff{", source_file="f/c.csv", position="2", equipment_id="cell-2",
                attributes='{"equipment_id":"cell-2"}',
            ),
            DeadLetter(
                **common, error_type="large", error_message="large", payload=b"z" * 1_048_576,
                equipment_id="cell-3",
            ),
        ]
    )  # fmt: skip


def test_published_dead_letters_keep_payload_key_and_attributes(
    kafka: Broker, tmp_path: Path
) -> None:
    folder = tmp_path / "dead_letters" / "dt=2025-06-15"
    folder.mkdir(parents=True)
    small = letters().slice(0, 2)
    pq.write_table(small, folder / "x.parquet")
    topic = kafka.new_topic()
    to = f"--to=kafka://{kafka.bootstrap}/{topic}"
    assert main([f"--source={tmp_path / 'dead_letters'}", to, "--no_progress"]) == 0
    found = {record.key: record for record in records(kafka, topic, 2)}
    assert {key: record.value for key, record in found.items()} == {
        b"cell-1": b'{"current": 1,  "\xc3\xa4": 2}',
        b"cell-2": b"\x00\xff{",
    }
    assert dict(found[b"cell-1"].headers) == {"site": b"north", "n": b"3"}
    assert dict(found[b"cell-2"].headers) == {
        "equipment_id": b"cell-2",
        "source_file": b"f/c.csv",
    }


def write_letters(uri: str, tables: list[pa.Table], prepare: bool = True) -> None:
    sink = TopicSink(uri)
    if prepare:
        sink.prepare()
    with TestPipeline() as pipeline:
        made = pipeline | beam.Create(tables)
        sink.write_dead_letters(made)


def test_the_sink_sends_dead_letters_with_what_was_wrong(kafka: Broker) -> None:
    topic, table = kafka.new_topic(), letters()
    write_letters(f"kafka://{kafka.bootstrap}/{topic}", [table.slice(0, 1), table.slice(1)])
    found = {record.key: record for record in records(kafka, topic, 3)}
    assert found[b"cell-1"].value == b'{"current": 1,  "\xc3\xa4": 2}'
    assert {name: value.decode() for name, value in found[b"cell-1"].headers} == {
        "site": "north", "n": "3", "step": "validate", "error_type": "missing_field",
        "error_message": "voltage_v is missing", "field": "voltage_v",
        "source": "kafka://host/topic", "position": "topic/0/17",
        "dead_letter_id": table["dead_letter_id"][0].as_py(),
        "ingested_at": "2025-06-15T15:06:40.123456Z",
    }  # fmt: skip
    assert found[b"cell-2"].value == b"\x00\xff{"
    assert not found[b"cell-3"].value
    assert dict(found[b"cell-3"].headers)["payload_bytes"] == b"1048576"


def test_a_topic_that_takes_little_gets_what_was_wrong(kafka: Broker) -> None:
    topic = kafka.new_topic(configs={"max.message.bytes": "2000"})
    (letter,) = dead_letter.table(
        [
            DeadLetter(
                step="decode", error_type="e", error_message="m", source="kafka://b/t",
                ingested_at_us=0, payload=os.urandom(3000), position="t/0/1",
                attributes='{"h":"v"}',
            )
        ]
    ).to_batches()  # fmt: skip
    write_letters(f"kafka://{kafka.bootstrap}/{topic}", [pa.Table.from_batches([letter])])
    (found,) = records(kafka, topic, 1)
    told = dict(found.headers)
    assert not found.value and told["position"] == b"t/0/1"
    assert (told["payload_bytes"], told["attributes_bytes"]) == (b"3000", b"9")


def test_the_sink_needs_the_topic(kafka: Broker) -> None:
    with pytest.raises(ConfigError, match="there is no topic none; create"):
        TopicSink(f"kafka://{kafka.bootstrap}/none").prepare()


def test_a_bundle_fails_when_the_topic_is_gone(
    kafka: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    impatient = partial(
        producer, delivery_timeout_ms=3000, request_timeout_ms=2000, max_block_ms=3000
    )
    monkeypatch.setattr("pipeline.connect.kafka.producer", impatient)
    topic = kafka.new_topic()
    uri = f"kafka://{kafka.bootstrap}/{topic}"
    TopicSink(uri).prepare()
    kafka.delete_topic(topic)
    with pytest.raises(Exception, match=f"--dead_letter_topic={uri}: "):
        write_letters(uri, [letters()], prepare=False)
    topic_sink._topics.pop(uri).close()


def test_dead_letters_of_the_topic_can_be_corrected_and_sent_again(kafka: Broker) -> None:
    """A letter's key and attributes are enough to send a corrected payload as it came."""
    refused, back = kafka.new_topic("refused"), kafka.new_topic("back")
    write_letters(f"kafka://{kafka.bootstrap}/{refused}", [letters().slice(0, 1)])
    record = records(kafka, refused, 1)[0]
    corrected = {**json.loads(record.value), "voltage": 3.3}
    with KafkaProducer(**kafka.client_settings()) as producer:
        producer.send(back, json.dumps(corrected).encode(), record.key, headers=record.headers)
    again = records(kafka, back, 1)[0]
    assert again.key == b"cell-1"
    assert dict(again.headers)["site"] == b"north"
    assert json.loads(again.value) == {"current": 1, "ä": 2, "voltage": 3.3}


# --- Pub/Sub ---


def pulled(pubsub: PubSub, subscription: str, count: int) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    ends = time.monotonic() + 30
    with pubsub.subscriber() as subscriber:
        while len(found) < count and time.monotonic() < ends:
            answer = subscriber.pull(subscription=subscription, max_messages=1000, timeout=10)
            for each in answer.received_messages:
                message = each.message
                found.append(
                    {
                        "data": message.data,
                        "attributes": dict(message.attributes),
                        "ordering_key": message.ordering_key,
                    }
                )
            ids = [each.ack_id for each in answer.received_messages]
            if ids:
                subscriber.acknowledge(subscription=subscription, ack_ids=ids)
    return found


@pytest.fixture
def emulator(pubsub: PubSub, monkeypatch: pytest.MonkeyPatch) -> PubSub:
    set_environment(monkeypatch, pubsub.environment)
    return pubsub


@pytest.mark.parametrize("ordered", [False, True])
def test_every_message_arrives_at_pubsub(emulator: PubSub, ordered: bool) -> None:
    topic = emulator.new_topic()
    subscription = emulator.new_subscription(topic, ordering=ordered)
    name = topic.rpartition("/")[2]
    fleet = "simulator:?equipment=4&readings=5000&faults=0.01"
    to = f"--to=pubsub://{emulator.project}/{name}" + ("?ordered=true" if ordered else "")
    assert main([f"--source={fleet}", to, "--no_progress"]) == 0
    sent = messages_of(fleet)
    found = pulled(emulator, subscription, len(sent))
    assert Counter(message["data"] for message in found) == Counter(text for _, text in sent)
    assert {message["attributes"]["equipment_id"] for message in found} == {  # type: ignore[index]
        key.decode() for key, _ in sent
    }
    if ordered:
        for key in {key for key, _ in sent}:
            assert [
                message["data"] for message in found if message["ordering_key"] == key.decode()
            ] == [payload for mine, payload in sent if mine == key]


def test_the_sink_sends_dead_letters_to_pubsub(emulator: PubSub) -> None:
    topic = emulator.new_topic()
    subscription = emulator.new_subscription(topic)
    name = topic.rpartition("/")[2]
    write_letters(f"pubsub://{emulator.project}/{name}", [letters()])
    found = pulled(emulator, subscription, 3)
    by_error = {message["attributes"]["error_type"]: message for message in found}  # type: ignore[index]
    assert by_error["missing_field"]["data"] == b'{"current": 1,  "\xc3\xa4": 2}'
    assert by_error["missing_field"]["attributes"]["equipment_id"] == "cell-1"  # type: ignore[index]
    assert by_error["malformed_json"]["data"] == b"\x00\xff{"
    assert len(by_error["malformed_json"]["attributes"]["error_message"]) == 1024  # type: ignore[index]
    assert by_error["large"]["attributes"]["payload_bytes"] == "1048576"  # type: ignore[index]


def test_a_missing_topic_is_created_only_when_asked(
    emulator: PubSub, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"made-{time.time_ns()}"
    flags = ["--source=simulator:?readings=10", f"--to=pubsub://{emulator.project}/{name}"]
    assert main([*flags, "--no_progress"]) == 2
    assert f"there is no topic {name}" in capsys.readouterr().err
    assert main([*flags, "--create_topic", "--no_progress"]) == 0
    assert main([*flags, "--create_topic", "--no_progress"]) == 0


def test_a_missing_subscription_is_named(emulator: PubSub) -> None:
    address = PubSubAddress.parse(f"pubsub://{emulator.project}/none", "--source", "subscription")
    with pytest.raises(ConfigError, match="there is no subscription none in project"):
        check_subscription(address, "--source")
    topic = emulator.new_topic()
    made = emulator.new_subscription(topic, ack_deadline=42).rpartition("/")[2]
    there = PubSubAddress.parse(f"pubsub://{emulator.project}/{made}", "--source", "subscription")
    found = check_subscription(there, "--source")
    assert found is not None
    assert (found.topic, found.ack_deadline_seconds) == (topic, 42)


def test_an_emulator_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    host = f"127.0.0.1:{free_port()}"
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", host)
    began = time.monotonic()
    with pytest.raises(ConfigError, match=f"PUBSUB_EMULATOR_HOST={host}"):
        check_pubsub_topic(PubSubAddress.parse("pubsub://p/topic", "--to", "topic"), "--to")
    assert time.monotonic() - began < 15
