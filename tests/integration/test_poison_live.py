"""Poison among 100,000 good messages: the good are written, each poison is a dead letter, on time."""

from __future__ import annotations

import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from kafka import KafkaProducer

from tests.endurance.processes import Job
from tests.running import sql
from tests.services.kafka import ApacheKafka, Broker
from tests.services.pubsub import PubSub
from transforms.budget import LETTER_BYTES, TOO_LARGE

pytestmark = [pytest.mark.integration, pytest.mark.long, pytest.mark.timeout(900)]

GOOD = 100_000
PARTITIONS = 4
START_S = 1_717_243_200
MESSAGE_BYTES = 20_000_000


def good(n: int, at_s: float | None = None, **more: Any) -> bytes:
    at = START_S + n // 40 if at_s is None else at_s
    return json.dumps(
        {"equipment_id": f"C{n % 40}", "time": at, "voltage": 3.7, "current": 1, "n": n, **more}
    ).encode()


def odd(**changes: Any) -> bytes:
    return json.dumps({**json.loads(good(7)), "equipment_id": "POISON", **changes}).encode()


# What any broker takes as a message, and the error of its dead letter; None for a reading.
PAYLOADS: list[tuple[bytes, str | None]] = [
    (b"", "empty_message"),
    (b"no JSON", "malformed_json"),
    (b"\xff\xfe\x00", "bad_encoding"),
    (b"[" * 100_000, "malformed_json"),
    (b'{"a":' * 50_000, "malformed_json"),
    (odd(equipment_id="\ud800"), "malformed_json"),
    (odd(voltage=10**300), "out_of_bounds"),
    (odd().replace(b"3.7", b"NaN"), "malformed_json"),
    (odd(time="12024-06-01T00:00:00Z"), "unparsable_time"),
    (odd(time=1e30), "unparsable_time"),
    (odd(cycle_index=2**70), "wrong_type"),
    (odd(**{f"k{at}": at for at in range(2_000)}), TOO_LARGE),
    (odd(**{"k" * 2_000: 1}), TOO_LARGE),
    (odd(equipment_id="E" * 1_000), TOO_LARGE),
    (odd(test_id="T" * 1_000), TOO_LARGE),
    (odd(source_file="f" * 1_000), TOO_LARGE),
    (odd(note="x" * 5_000_000), TOO_LARGE),
    (b'{"voltage":' + b"9" * 5_000_000, TOO_LARGE),
    (odd(note="y" * 2_000_000, voltage="no number"), "wrong_type"),
]
# A message that has other names than any other, by the hundred: readings all of them.
NAMES = [
    odd(time=START_S + at, **{f"{at}_{place}": 1 for place in range(900)}) for at in range(200)
]
PAYLOADS += [(each, None) for each in NAMES]


class _NotUtf8(str):
    """A header's name that the client sends as it is."""

    __slots__ = ()

    def encode(self, *_: Any) -> bytes:
        return b"\xff\xfebad"


def poison_kafka(broker: Broker, topic: str, partition: int) -> list[str | None]:
    """Sends each poison to a partition; the errors of the dead letters, None for readings."""
    settings = {**broker.client_settings(), "max_request_size": 2**31 - 1, "metrics_enabled": False}
    expected: list[str | None] = []

    def send(error: str | None, **named: Any) -> None:
        producer.send(topic, partition=partition, **named).get(60)
        expected.append(error)

    with KafkaProducer(**settings, compression_type="zstd") as producer:
        for value, error in PAYLOADS:
            if value:
                send(error, value=value)
        # 200 MB that are a few kilobytes when they are sent.
        send(TOO_LARGE, value=b'{"x":"' + b"A" * (200 << 20))
        send("unreadable_record", value=odd(), headers=[(_NotUtf8("x"), b"v")])
        send("unreadable_record", value=b"junk", headers=[(_NotUtf8("x"), b"v"), ("a", b"b")])
        send("empty_message", key=b"tombstone", value=None)
        send("malformed_json", value=b"{", key=b"k" * 2_000_000)
        send("malformed_json", value=b"{", headers=[("h", b"v" * 2_000_000)])
        send("malformed_json", value=b"{", headers=[(f"h{at}", b"") for at in range(5_000)])
        send("malformed_json", value=b"{", headers=[("equipment_id", b"\xff\xfe"), ("", b"")])
        send(TOO_LARGE, value=odd(), key=b"k" * 5_000_000)
        send(TOO_LARGE, value=odd(time=START_S), headers=[("source_file", b"f" * 1_000)])
        for place, at_ms in enumerate((0, 1)):
            send(None, value=odd(time=START_S + 1000 + place), timestamp_ms=at_ms)
    # A transaction's marker is no message.
    with KafkaProducer(**settings, transactional_id=f"poison-{topic}-{partition}") as producer:
        producer.init_transactions()
        producer.begin_transaction()
        send(None, value=odd(time=START_S + 2000))
        producer.commit_transaction()
    return expected


def fill(broker: Broker, topic: str, numbers: range) -> None:
    settings = broker.client_settings()
    with KafkaProducer(**settings, linger_ms=50, metrics_enabled=False) as producer:
        for n in numbers:
            producer.send(topic, good(n), partition=n % PARTITIONS)
        producer.flush()


def new_topic(broker: Broker) -> str:
    return broker.new_topic("poison", PARTITIONS, {"max.message.bytes": str(MESSAGE_BYTES)})


def check(job: Job, expected: list[str | None], status: int, found: int = GOOD) -> None:
    """All good ones are in lake and warehouse, each poison is a dead letter, the account balances."""
    assert status == 0, job.err.read_text()[-3000:]
    letters = Counter(error for error in expected if error)
    readings = found + expected.count(None)
    account = job.account()
    assert account["read"] == len(expected) + found == sum(account.values()) - account["read"]
    assert account["dead_letters"] == letters.total() and account["written"] == readings
    for place in (job.lake / "readings", job.warehouse):
        query = f"SELECT count(*), count(DISTINCT (equipment_id, recorded_at)) FROM {_from(place)}"
        where = " WHERE equipment_id LIKE 'C%'"
        assert sql(job.warehouse, query + where) == [(found, found)], place
    for place in (job.lake / "dead_letters", job.warehouse) if expected else ():
        query = f"SELECT error_type, count(*) FROM {_from(place, 'dead_letters')} GROUP BY ALL"
        assert dict(sql(job.warehouse, query)) == letters, place
    most = sql(
        job.warehouse,
        "SELECT max(octet_length(payload)), max(octet_length(message_key)), "
        "max(length(attributes::VARCHAR)), max(length(error_message)), "
        "count(*) FILTER (position IS NULL) FROM dead_letters",
    )
    assert max(size or 0 for size in most[0][:3]) <= LETTER_BYTES
    assert (most[0][3] or 0) < 5_000 and most[0][4] == 0


def _from(place: Path, table: str = "readings") -> str:
    return table if place.suffix == ".duckdb" else f"read_parquet('{place}/**/*.parquet')"


def run_to_end(job: Job, seconds: float = 300) -> tuple[int, float]:
    """The exit status and the most memory it had, MiB."""
    most = 0.0
    ends = time.monotonic() + seconds
    while job.runs and time.monotonic() < ends:
        most = max(most, job.rss_mb())
        time.sleep(0.1)
    return job.wait(1), most


def test_kafka_until_latest(kafka: Broker, tmp_path: Path) -> None:
    topic = new_topic(kafka)
    fill(kafka, topic, range(GOOD // 2))
    expected = [each for part in range(PARTITIONS) for each in poison_kafka(kafka, topic, part)]
    # Readings of the same moment are one.
    doubled = expected.count(None) * (PARTITIONS - 1) // PARTITIONS
    fill(kafka, topic, range(GOOD // 2, GOOD))
    source = f"kafka://{kafka.bootstrap}/{topic}"
    with Job("job", tmp_path, source, "--until=latest") as job:
        status, most_mb = run_to_end(job)
    print(f"most memory: {most_mb:,.0f} MiB")
    account = job.account()
    assert account["duplicates"] == doubled, job.told
    assert account["read"] == GOOD + len(expected)
    assert account["dead_letters"] == sum(each is not None for each in expected)
    assert status == 0 and most_mb < 1500
    assert sql(job.warehouse, "SELECT count(*) FROM readings WHERE equipment_id LIKE 'C%'") == [
        (GOOD,)
    ]
    assert dict(
        sql(job.warehouse, "SELECT error_type, count(*) FROM dead_letters GROUP BY ALL")
    ) == Counter(each for each in expected if each)


def steady(broker: Broker, topic: str, seconds: float, poison: Callable[[], Any] | None) -> int:
    """Sends good messages of now at a steady rate, with poison amid them; how many."""
    settings = broker.client_settings()
    rate, sent = GOOD / seconds, 0
    began = time.time()
    thread = threading.Timer(seconds / 4, poison) if poison else None
    if thread:
        thread.start()
    with KafkaProducer(**settings, linger_ms=20, metrics_enabled=False) as producer:
        while sent < GOOD:
            due = min(GOOD, int((time.time() - began) * rate))
            for n in range(sent, due):
                producer.send(topic, good(n, time.time()), partition=n % PARTITIONS)
            sent = max(sent, due)
            time.sleep(0.01)
        producer.flush()
    if thread:
        thread.join()
    return sent


def until_it_reads(job: Job, broker: Broker, topic: str) -> int:
    """Sends a message now and then until the job reads; how many."""
    sent = 0
    with KafkaProducer(**broker.client_settings(), metrics_enabled=False) as producer:
        while not job.has_read():
            producer.send(topic, good(sent, time.time()), partition=sent % PARTITIONS).get(10)
            sent += 1
            time.sleep(0.5)
    return sent


def latency_p99_s(job: Job) -> float:
    found = re.search(r"latency p50 [\d.]+ s p99 ([\d.,]+) s", job.told.splitlines()[-1])
    found = found or re.findall(r"latency p50 [\d.]+ s p99 ([\d.,]+) s", job.told)[-1:]
    text = found[1] if isinstance(found, re.Match) else found[0]
    return float(text.replace(",", ""))


def test_kafka_endless_and_the_latency_of_all_others(kafka: Broker, tmp_path: Path) -> None:
    waits: dict[str, float] = {}
    for name in ("clean", "poisoned"):
        topic = new_topic(kafka)
        expected: list[str | None] = []

        def spoil(topic: str = topic, expected: list[str | None] = expected) -> None:
            expected += poison_kafka(kafka, topic, 0)

        folder = tmp_path / name
        folder.mkdir()
        fill_topic = spoil if name == "poisoned" else None
        source = f"kafka://{kafka.bootstrap}/{topic}"
        with Job("job", folder, source, "--window=2") as job:
            first = until_it_reads(job, kafka, topic)
            steady(kafka, topic, 40, fill_topic)
            ends = time.monotonic() + 120
            while job.runs and time.monotonic() < ends and not job.caught_up():
                time.sleep(0.5)
            time.sleep(3)
            status = job.stop()
        check(job, expected, status, GOOD + first)
        waits[name] = latency_p99_s(job)
    print(f"p99 latency, s: {waits}")
    assert waits["poisoned"] <= 10 * max(waits["clean"], 1.0)


def test_a_log_with_damaged_batches_is_read_around_them(
    apache: ApacheKafka, tmp_path: Path
) -> None:
    topic = new_topic(apache)
    with KafkaProducer(**apache.client_settings(), metrics_enabled=False) as producer:
        for n in range(200):
            producer.send(topic, good(n), partition=n % PARTITIONS).get(10)
    apache.stop()
    logs = [apache.folder / "data" / f"{topic}-{part}" / f"{0:020}.log" for part in (1, 2)]
    checksum, length = (bytearray(log.read_bytes()) for log in logs)
    checksum[checksum.index(b'"n": 101}')] ^= 0xFF
    # Behind the 41st batch the broker finds no batch any more.
    at = _begin(length, 40)
    length[at + 8 : at + 12] = (10**6).to_bytes(4, "big")
    for log, data in zip(logs, (checksum, length), strict=True):
        log.write_bytes(data)
    apache.start()
    source = f"kafka://{apache.bootstrap}/{topic}"
    with Job("job", tmp_path, source, "--until=latest") as job:
        status, _ = run_to_end(job, 120)
    assert status == 0, job.err.read_text()[-2000:]
    letters = sql(job.warehouse, "SELECT position, error_type, payload FROM dead_letters")
    assert {error for _, error, _ in letters} == {"unreadable_record"}
    assert [payload in bytes(checksum) for where, _, payload in letters
            if where == f"{topic}/1/25"] == [True]  # fmt: skip
    assert {where for where, _, _ in letters} <= {
        f"{topic}/1/25", *(f"{topic}/2/{offset}" for offset in range(40, 50))
    }  # fmt: skip
    assert job.account()["written"] == 189


def _begin(log: bytes, number: int) -> int:
    """Where a log's batch begins."""
    at = 0
    for _ in range(number):
        at += 12 + int.from_bytes(log[at + 8 : at + 12], "big")
    return at


def test_pubsub(pubsub: PubSub, tmp_path: Path) -> None:
    topic = pubsub.new_topic()
    subscription = pubsub.new_subscription(topic, ack_deadline=60)
    publisher = pubsub.publisher()
    expected = [error for value, error in PAYLOADS if value]
    sending = []
    for n in range(GOOD):
        if n == GOOD // 2:
            sending += [publisher.publish(topic, value) for value, _ in PAYLOADS if value]
            sending.append(publisher.publish(topic, odd(time=START_S + 1), source_file="f" * 1000))
            expected.append(TOO_LARGE)
            for _ in range(50):
                # As many attributes as Pub/Sub takes.
                names = {f"a{place}": "x" * 1000 for place in range(100)}
                sending.append(publisher.publish(topic, b"{", **names))
                expected.append("malformed_json")
        sending.append(publisher.publish(topic, good(n)))
        if len(sending) > 5_000:
            for each in sending:
                each.result(60)
            sending.clear()
    for each in sending:
        each.result(60)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in pubsub.environment.items():
            patch.setenv(name, value)
        source = f"pubsub://{pubsub.project}/{subscription.rsplit('/', 1)[-1]}"
        with Job("job", tmp_path, source, "--until=latest") as job:
            status, most_mb = run_to_end(job)
    print(f"most memory: {most_mb:,.0f} MiB")
    check(job, expected, status)
    archived = pq.read_table(job.lake / "raw", columns=["position"]).num_rows
    assert archived == GOOD + len(expected)
