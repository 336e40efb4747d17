"""Dead letters go to their topic as they came; corrected and sent again they are written once."""

from __future__ import annotations

import contextlib
import datetime as dt
import io
import json
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from google.pubsub_v1.types import PubsubMessage
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.consumer.fetcher import ConsumerRecord

from pipeline.publish import main as publish
from pipeline.replay import main as replay
from tests.running import TABLES, Ran, run
from tests.services.fixtures import set_environment
from tests.services.kafka import Broker
from tests.services.pubsub import PubSub

pytestmark = [pytest.mark.integration, pytest.mark.long]

EQUIPMENT = 5
GOOD = 200
TOLD = ("dead_letter_id", "step", "error_type", "error_message", "field", "source", "position")


def volts(second: int) -> float:
    return 3.5 + second % 97 / 200


def reading(second: int, **changes: object) -> bytes:
    """A gateway's reading that names no equipment; a change to None leaves the field out."""
    fields = {"time": f"2024-06-01T12:{second // 60:02d}:{second % 60:02d}Z", "voltage": volts(second),
              "current": 1.0, **changes}  # fmt: skip
    return json.dumps({name: value for name, value in fields.items() if value is not None}).encode()


# What can't become a reading: the payload, the rule and field it breaks, and the payload corrected.
BAD: list[tuple[bytes, str, str | None, bytes]] = [
    (reading(500)[:-1], "malformed_json", None, reading(500)),
    (b"\xff\x00 no JSON \xfe", "bad_encoding", None, reading(501)),
    (reading(502, voltage=3700), "out_of_bounds", "voltage_v", reading(502)),
    (reading(503, voltage=-3700), "out_of_bounds", "voltage_v", reading(503)),
    (reading(504, time="noon"), "unparsable_time", "recorded_at", reading(504)),
    (reading(505, voltage="3.7 furlongs"), "wrong_type", "voltage_v", reading(505)),
    (
        reading(506, voltage=None, **{"Voltage(furlong)": 3.7}),
        "missing_field",
        "voltage_v",
        reading(506),
    ),
    (b"", "empty_message", None, reading(507)),
]
CORRECTED = {bad: corrected for bad, _, _, corrected in BAD}
RULES = {bad: (rule, field) for bad, rule, field, _ in BAD}


def key_of(number: int) -> bytes:
    return b"G%d" % (number % EQUIPMENT)


def records(kafka: Broker, topic: str) -> list[ConsumerRecord]:
    """All records of a topic."""
    found: list[ConsumerRecord] = []
    with KafkaConsumer(**kafka.client_settings(), fetch_max_wait_ms=100) as consumer:
        parts = [TopicPartition(topic, part) for part in consumer.partitions_for_topic(topic) or ()]
        consumer.assign(parts)
        consumer.seek_to_beginning()
        ends = consumer.end_offsets(parts)
        while any(consumer.position(part) < ends[part] for part in parts):
            found += [one for polled in consumer.poll(500).values() for one in polled]
    return found


class Gateway:
    """A topic with good and bad messages, and the job that reads on from where it was.

    Args:
        kafka: the broker.
        target: the folder of lake and warehouse.
    """

    def __init__(self, kafka: Broker, target: Path) -> None:
        self.kafka, self.target = kafka, target
        self.topic = kafka.new_topic("gateway", partitions=2)
        self.refused = kafka.new_topic("refused")
        messages = [(key_of(at), reading(at)) for at in range(GOOD)]
        messages += [(key_of(at), bad) for at, bad in enumerate(CORRECTED)]
        self.send(messages)

    def send(self, messages: Sequence[tuple[bytes | None, bytes]], headers: Any = ()) -> None:
        """Produces messages to the topic: key and payload."""
        with KafkaProducer(**self.kafka.client_settings()) as producer:
            for key, payload in messages:
                producer.send(self.topic, payload, key, headers=[("site", b"north"), *headers])

    @property
    def to(self) -> str:
        """The topic as the publisher's target."""
        return f"kafka://{self.kafka.bootstrap}/{self.topic}"

    def run(self) -> Ran:
        """The job on what has come since its last run."""
        ran = run(
            self.target, f"{self.to}?group={self.topic}", "--until=latest",
            f"--dead_letter_topic=kafka://{self.kafka.bootstrap}/{self.refused}",
        )  # fmt: skip
        assert ran.status == 0, ran.err
        return ran


def account(read: int, written: int, dead_letters: int, duplicates: int = 0) -> dict[str, int]:
    return {"read": read, "written": written, "duplicates": duplicates,
            "dead_letters": dead_letters}  # fmt: skip


def once_or_known(ran: Ran, corrected: int) -> bool:
    """Whether one letter was refused and the others written; or dropped, which are remembered."""
    found = ran.account()
    return found["dead_letters"] == 1 and found["written"] + found["duplicates"] == corrected


def rows(ran: Ran) -> list[tuple[Any, ...]]:
    """Which readings the warehouse holds: equipment, seconds after noon, measurements."""
    return ran.sql(
        "SELECT equipment_id, epoch(recorded_at)::BIGINT - epoch(TIMESTAMPTZ '2024-06-01 12:00Z'), "
        "voltage_v, current_a FROM readings ORDER BY 2"
    )


def expected(bad: Sequence[bytes] = ()) -> list[tuple[Any, ...]]:
    """Rows for the good messages and those of the bad ones that were corrected."""
    numbers = [(key_of(at), at) for at in range(GOOD)]
    numbers += [(key_of(at), 500 + at) for at, payload in enumerate(CORRECTED) if payload in bad]
    return [(key.decode(), at, volts(at), 1.0) for key, at in numbers]


def in_lake(ran: Ran, folder: str) -> list[dict[str, Any]]:
    return pq.read_table(ran.lake / folder).to_pylist()


@pytest.fixture
def gateway(kafka: Broker, tmp_path: Path) -> Gateway:
    return Gateway(kafka, tmp_path)


def test_the_topic_lake_and_warehouse_get_exactly_the_bad_messages(gateway: Gateway) -> None:
    ran = gateway.run()
    assert ran.account() == account(GOOD + len(BAD), GOOD, len(BAD))
    assert rows(ran) == expected()
    came = {record.value: record for record in records(gateway.kafka, gateway.topic)}
    sent = records(gateway.kafka, gateway.refused)
    assert len(sent) == len(BAD)
    assert {record.value for record in sent} == set(CORRECTED)
    kept = {letter["payload"]: letter for letter in in_lake(ran, "dead_letters")}
    assert len(in_lake(ran, "dead_letters")) == len(BAD)
    for record in sent:
        first, letter = came[record.value], kept[record.value]
        assert record.key == first.key == letter["message_key"]
        told = {name: value.decode() for name, value in record.headers}
        assert told.pop("site") == "north"
        position = f"{gateway.topic}/{first.partition}/{first.offset}"
        assert (told["position"], told["source"]) == (position, gateway.to)
        assert (told["error_type"], told.get("field")) == RULES[record.value]
        assert told["error_message"] and told["step"] in ("decode", "validate")
        assert {name: told.get(name) for name in TOLD} == {name: letter[name] for name in TOLD}
        assert json.loads(letter["attributes"]) == {"site": "north"}
    assert set(ran.sql(f"SELECT payload, message_key, {', '.join(TOLD)} FROM dead_letters")) == {
        tuple(letter[name] for name in ("payload", "message_key", *TOLD))
        for letter in kept.values()
    }


def correct_in_lake(ran: Ran, left: bytes, to: Path) -> None:
    """Writes the lake's dead letters with corrected payloads; one is left as it is."""
    pairs = [(bad, bad if bad == left else good) for bad, good in CORRECTED.items()]
    corrections = pa.table([pa.array(part, pa.binary()) for part in zip(*pairs, strict=True)],
                           names=["bad", "corrected"])  # fmt: skip
    with duckdb.connect() as database:
        database.register("corrections", corrections)
        database.execute(
            "COPY (SELECT letters.* REPLACE (corrected AS payload) "
            f"FROM '{ran.lake}/dead_letters/*/*.parquet' AS letters "
            f"JOIN corrections ON letters.payload = bad) TO '{to}'"
        )


def replayed_twice(gateway: Gateway, before: Ran, send: Callable[[], object], left: bytes) -> Ran:
    """Sends the corrected letters, and once more, and looks at what the job makes of them.

    Args:
        gateway: the topic and its job, which has read everything.
        before: its last run.
        send: sends all letters, corrected but for one.
        left: the payload that is not.
    """
    corrected = [bad for bad in CORRECTED if bad != left]
    first_ids = {letter["dead_letter_id"] for letter in in_lake(before, "dead_letters")}
    tables: list[pa.Table] = []
    for round_ in (1, 2):
        send()
        ran = gateway.run()
        assert once_or_known(ran, len(corrected))
        assert rows(ran) == expected(corrected)
        tables.append(ran.table("readings", TABLES["readings"]))
        assert tables[0].equals(tables[-1])
        # A letter that is sent again is another message, with a position and so an id of its own.
        letters = in_lake(ran, "dead_letters")
        assert Counter(letter["payload"] for letter in letters) == Counter(
            {**dict.fromkeys(CORRECTED, 1), left: 1 + round_}
        )
        ids = {letter["dead_letter_id"] for letter in letters}
        assert len(ids) == len(letters) and ids > first_ids
        assert {row[0] for row in ran.sql("SELECT dead_letter_id FROM dead_letters")} == ids
        readings = in_lake(ran, "readings")
        assert {row["reading_id"] for row in readings} == set(tables[-1]["reading_id"].to_pylist())
        # What a run no longer remembers it takes for late; only the warehouse knows all.
        assert round_ > 1 or len(readings) == GOOD + len(corrected)
    return ran


def test_letters_corrected_in_the_lake_are_written_once(gateway: Gateway, tmp_path: Path) -> None:
    before, left, file = gateway.run(), BAD[1][0], tmp_path / "corrected.parquet"
    correct_in_lake(before, left, file)
    flags = [f"--source={file}", f"--to={gateway.to}", "--no_progress"]
    replayed_twice(gateway, before, lambda: publish(flags), left)
    # Nothing was bad about the others: they have gone to the topic of dead letters once.
    sent = Counter(record.value for record in records(gateway.kafka, gateway.refused))
    assert sent == Counter({**dict.fromkeys(CORRECTED, 1), left: 3})


def replayed(*flags: str) -> tuple[int, str]:
    """Status and output of the command."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        status = replay([*flags])
    return status, out.getvalue()


def test_letters_corrected_by_the_command_are_sent_once_and_read(gateway: Gateway) -> None:
    before = gateway.run()
    came = len(records(gateway.kafka, gateway.topic))
    volts_of = (
        "CASE WHEN voltage > 0 THEN 3.5 + (502 % 97) / 200.0 ELSE 3.5 + (503 % 97) / 200.0 END"
    )
    flags = [
        f"--lake={before.lake}", f"--to={gateway.to}",
        "--where=error_type = 'out_of_bounds' AND equipment_id IN ('G2', 'G3')",
        f"--set=voltage={volts_of}",
    ]  # fmt: skip
    status, told = replayed(*flags)
    assert status == 0
    assert f"2 of {len(BAD)} dead letters meet --where: 2 would be sent" in told
    assert "nothing was sent; --send sends them" in told
    assert len(records(gateway.kafka, gateway.topic)) == came
    status, told = replayed(*flags, "--send")
    assert (status, "sent 2 to kafka://" in told) == (0, True), told
    there = records(gateway.kafka, gateway.topic)
    first = {record.value: record for record in there}
    sent = [record for record in there if "replayed_by" in dict(record.headers)]
    assert len(sent) == 2
    letters = {each["dead_letter_id"]: each for each in in_lake(before, "dead_letters")}
    for record in sent:
        headers = {name: value.decode() for name, value in record.headers}
        letter = letters[headers["dead_letter_id"]]
        assert record.key == letter["message_key"] == first[letter["payload"]].key
        assert headers["site"] == "north"
        assert (
            abs(time.time() - dt.datetime.fromisoformat(headers["replayed_at"]).timestamp()) < 300
        )
        assert headers["replayed_by"]
    ran = gateway.run()
    assert (ran.account()["written"], ran.account()["dead_letters"]) == (2, 0)
    assert rows(ran) == expected([BAD[2][0], BAD[3][0]])
    # The same correction is never sent again; another one of the same letters is.
    status, told = replayed(*flags, "--send")
    assert (status, "0 to send, 2 sent before" in told) == (0, True), told
    assert len(records(gateway.kafka, gateway.topic)) == came + 2
    status, told = replayed(*flags[:-1], "--set=voltage=3.9")
    assert "2 would be sent, 0 sent before" in told


def test_what_would_be_refused_again_is_not_sent(gateway: Gateway) -> None:
    before = gateway.run()
    came = len(records(gateway.kafka, gateway.topic))
    flags = [f"--lake={before.lake}", f"--to={gateway.to}", "--send"]
    status, told = replayed(
        *flags, "--where=error_type = 'out_of_bounds'", "--set=voltage=voltage * 2"
    )
    assert status == 0
    assert re.search(r": 0 to send, 0 sent before, 0 not changed by --set, 2 still wrong", told), (
        told
    )
    assert re.search(r"still wrong: 2 by out_of_bounds of voltage_v, such as gateway\S+: ", told), (
        told
    )
    status, told = replayed(*flags, "--where=error_type = 'no_such'", "--set=voltage=3.7")
    assert status == 0
    assert f"no dead letter meets --where=error_type = 'no_such'; there are {len(BAD)} (" in told
    # A payload that is no JSON can be replaced as a whole; then its fields can be set.
    status, told = replayed(
        *flags, "--where=error_type = 'malformed_json'",
        "--set=payload=letter.payload || '}'", "--set=current=current + 1",
    )  # fmt: skip
    assert (status, "1 to send" in told) == (0, True), told
    there = records(gateway.kafka, gateway.topic)
    assert len(there) == came + 1
    (last,) = [record for record in there if "replayed_by" in dict(record.headers)]
    assert json.loads(last.value) == {**json.loads(BAD[0][3]), "current": 2.0}
    # From the warehouse it is the same letters, with a memory of its own.
    status, told = replayed(
        f"--warehouse=duckdb:{before.warehouse}", f"--to={gateway.to}",
        "--where=field = 'voltage_v' AND message.voltage::VARCHAR LIKE '%furlongs'",
        "--set=voltage=split_part(voltage, ' ', 1)::DOUBLE",
    )  # fmt: skip
    assert (status, "1 would be sent" in told) == (0, True), told


def test_letters_corrected_from_their_topic_are_written_once(gateway: Gateway) -> None:
    before, left = gateway.run(), BAD[2][0]
    letters = records(gateway.kafka, gateway.refused)

    def send() -> None:
        with KafkaProducer(**gateway.kafka.client_settings()) as producer:
            for letter in letters:
                payload = left if letter.value == left else CORRECTED[letter.value]
                producer.send(gateway.topic, payload, letter.key, headers=letter.headers)

    ran = replayed_twice(gateway, before, send, left)
    # The letter that was refused again tells which one it was before.
    id_before = {letter.value: dict(letter.headers)["dead_letter_id"] for letter in letters}[left]
    again = [letter for letter in in_lake(ran, "dead_letters") if letter["payload"] == left
             and letter["dead_letter_id"] != id_before.decode()]  # fmt: skip
    assert len(again) == 2
    for letter in again:
        assert json.loads(letter["attributes"])["dead_letter_id"] == id_before.decode()
    told = [dict(letter.headers) for letter in records(gateway.kafka, gateway.refused)]
    assert sorted(each["dead_letter_id"].decode() for each in told) == sorted(
        letter["dead_letter_id"] for letter in in_lake(ran, "dead_letters")
    )


# --- Pub/Sub ---


def pulled(pubsub: PubSub, subscription: str, count: int) -> list[PubsubMessage]:
    """The next `count` messages of a subscription, acknowledged."""
    found: list[PubsubMessage] = []
    ends = time.monotonic() + 30
    with pubsub.subscriber() as subscriber:
        while len(found) < count and time.monotonic() < ends:
            answer = subscriber.pull(subscription=subscription, max_messages=100, timeout=10)
            found += [received.message for received in answer.received_messages]
            ids = [received.ack_id for received in answer.received_messages]
            if ids:
                subscriber.acknowledge(subscription=subscription, ack_ids=ids)
    return found


def test_letters_corrected_from_a_pubsub_topic_are_written_once(
    pubsub: PubSub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_environment(monkeypatch, pubsub.environment)
    topic, refused = pubsub.new_topic("gateway"), pubsub.new_topic("refused")
    subscription, letters_of = pubsub.new_subscription(topic), pubsub.new_subscription(refused)

    def send(messages: Sequence[PubsubMessage]) -> None:
        publisher = pubsub.publisher()
        publisher.api.publish(topic=topic, messages=messages)
        publisher.transport.close()

    def job() -> Ran:
        ran = run(
            tmp_path, f"pubsub://{pubsub.project}/{subscription.rpartition('/')[2]}",
            "--until=latest",
            f"--dead_letter_topic=pubsub://{pubsub.project}/{refused.rpartition('/')[2]}",
        )  # fmt: skip
        assert ran.status == 0, ran.err
        return ran

    # An emulator takes no message that is empty.
    bad = [payload for payload in CORRECTED if payload]
    payloads = [(at, reading(at)) for at in range(GOOD)] + list(enumerate(bad))
    send(
        [
            PubsubMessage(data=payload, attributes={"equipment_id": key_of(at).decode()})
            for at, payload in payloads
        ]
    )
    ran = job()
    assert ran.account() == account(GOOD + len(bad), GOOD, len(bad))
    letters = pulled(pubsub, letters_of, len(bad))
    kept = {letter["payload"]: letter for letter in in_lake(ran, "dead_letters")}
    assert {letter.data for letter in letters} == set(bad) == set(kept)
    for letter in letters:
        told = dict(letter.attributes)
        assert (told["error_type"], told.get("field")) == RULES[letter.data]
        assert {name: told.get(name) for name in TOLD} == {
            name: kept[letter.data][name] for name in TOLD
        }
    left = bad[3]
    corrected = [payload for payload in bad if payload != left]
    again = [
        PubsubMessage(
            data=left if letter.data == left else CORRECTED[letter.data],
            attributes=letter.attributes,
        )
        for letter in letters
    ]
    tables = []
    for _ in (1, 2):
        send(again)
        ran = job()
        assert once_or_known(ran, len(corrected))
        assert rows(ran) == expected(corrected)
        tables.append(ran.table("readings", TABLES["readings"]))
        (told_again,) = pulled(pubsub, letters_of, 1)
        assert told_again.data == left
    assert tables[0].equals(tables[1])
    readings = in_lake(ran, "readings")
    assert len({row["reading_id"] for row in readings}) == len(readings) == GOOD + len(corrected)
    ids = [row["dead_letter_id"] for row in in_lake(ran, "dead_letters")]
    assert len(ids) == len(set(ids)) == len(bad) + 2


def test_letters_of_a_pubsub_topic_are_corrected_by_the_command(
    pubsub: PubSub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_environment(monkeypatch, pubsub.environment)
    topic = pubsub.new_topic("gateway")
    subscription = pubsub.new_subscription(topic)
    source = f"pubsub://{pubsub.project}/{subscription.rpartition('/')[2]}"
    publisher = pubsub.publisher()
    message = PubsubMessage(
        data=reading(502, voltage=3700), attributes={"equipment_id": "G2", "site": "north"}
    )
    publisher.api.publish(topic=topic, messages=[message])
    publisher.transport.close()
    before = run(tmp_path, source, "--until=latest")
    assert before.account() == account(1, 0, 1)
    flags = [
        f"--lake={before.lake}", f"--to=pubsub://{pubsub.project}/{topic.rpartition('/')[2]}",
        "--where=equipment_id = 'G2'", "--set=voltage=3.7", "--send",
    ]  # fmt: skip
    for sent in ("1 to send, 0 sent before", "0 to send, 1 sent before"):
        status, told = replayed(*flags)
        assert (status, sent in told) == (0, True), told
    ran = run(tmp_path, source, "--until=latest")
    assert ran.account() == account(1, 1, 0)
    assert ran.sql("SELECT equipment_id, voltage_v FROM readings") == [("G2", 3.7)]
