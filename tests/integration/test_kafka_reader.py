"""What the readers of a real topic do where a member joins anew, and a log is cut or has gaps."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pytest
from apache_beam.io.watermark_estimators import ManualWatermarkEstimator
from apache_beam.runners.sdf_utils import (
    RestrictionTrackerView,
    ThreadsafeRestrictionTracker,
    ThreadsafeWatermarkEstimator,
)
from kafka import KafkaProducer, OffsetAndMetadata, TopicPartition

from pipeline.connect.kafka import COMMITTED, KafkaAddress
from pipeline.engines import HERE, properties
from pipeline.engines.flink import ENGINE as FLINK
from pipeline.sources import Told
from pipeline.sources.kafka import native, split
from pipeline.sources.kafka.bounded import Range, ReadRange, There, ends, what_is_there
from pipeline.sources.kafka.broker import KafkaBroker
from pipeline.sources.kafka.client import Consumer, consumer
from pipeline.sources.kafka.source import KafkaSource
from pipeline.sources.kafka.split import Topic
from pipeline.sources.live.offsets import ABORTED, CONTROL, RETENTION, TRUNCATED
from pipeline.sources.live.positions import Ledger, Run
from pipeline.sources.live.reader import Fetched
from tests.integration.test_kafka_truth import (
    commit,
    committed,
    delete_records,
    open_transaction,
    readings,
    send,
    transactions,
)
from tests.integration.test_poison_live import _NotUtf8
from tests.services.kafka import Broker
from transforms.decode import decode

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]


# Every scenario of a reader that librdkafka can serve runs on both clients.
_client = {"client": native.KAFKA_PYTHON}
both = pytest.mark.parametrize("reads", native.CLIENTS, indirect=True)


@pytest.fixture
def reads(request: pytest.FixtureRequest) -> Iterator[str]:
    """The client that fetches."""
    before = dict(_client)
    _client["client"] = request.param
    yield request.param
    _client.update(before)


def address(broker: Broker, topic: str, **parameters: str) -> KafkaAddress:
    return KafkaAddress((broker.bootstrap,), topic, _client | parameters)


def eventually(holds: Callable[[], Any], what: str, seconds: float = 40) -> None:
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until, what


def offsets(table: pa.Table) -> list[int]:
    return [int(position.rpartition("/")[2]) for position in table["position"].to_pylist()]


def told(table: pa.Table) -> list[tuple[Any, ...]]:
    """Rows of source_positions: (first, last, read, skipped, reason)."""
    names = ("first_offset", "last_offset", "messages_read", "offsets_skipped", "reason")
    return sorted((tuple(row[name] for name in names) for row in table.to_pylist()), key=str)


# --- a member of a group --------------------------------------------------------------------------


@contextmanager
def member(
    broker: Broker, topic: str, isolation: str = COMMITTED, **more: Any
) -> Iterator[KafkaBroker]:
    named = address(broker, topic, isolation=isolation)
    found = KafkaBroker(named, "g", "earliest", f"kafka://{topic}", **more)
    found.open(lambda: None)
    try:
        yield found
    finally:
        found.close()


def fetched(reader: KafkaBroker, count: int) -> list[Fetched]:
    """What comes until there are so many messages."""
    found: list[Fetched] = []

    def enough() -> bool:
        each = reader.fetch()
        if each.batch is not None:
            found.append(each)
        return sum(sum(each.rows.values()) for each in found) >= count

    eventually(enough, f"{count} messages")
    return found


def of(found: list[Fetched]) -> list[int]:
    return [offset for each in found if each.batch for offset in offsets(each.batch.table)]


def has_lost_its_place(reader: KafkaBroker) -> None:
    """As a client is that could not commit for long; the next fetch begins anew as a member."""
    reader._commits = False
    reader._well_at -= 1_000


def test_a_member_that_joins_again_gives_what_came_meanwhile(kafka: Broker) -> None:
    topic = kafka.new_topic()
    send(kafka, topic, readings(0, 10))
    with member(kafka, topic) as reader:
        assert of(fetched(reader, 10)) == list(range(10))
        send(kafka, topic, readings(10, 5))
        part = TopicPartition(topic, 0)

        def has_them() -> bool:
            # The client has them ready, so that the next poll gives them whenever it is.
            reader.consumer.poll(timeout_ms=100, update_offsets=False)
            return (reader.consumer.highwater(part) or 0) == 15

        eventually(has_them, "the client has the others")
        has_lost_its_place(reader)
        assert of(fetched(reader, 5)) == list(range(10, 15))
        assert reader.joined == 2


@both
@pytest.mark.usefixtures("reads")
def test_a_member_that_joins_again_gives_again_what_was_refused(kafka: Broker) -> None:
    topic = kafka.new_topic()
    send(kafka, topic, readings(0, 10))
    with member(kafka, topic) as reader:
        (first, *others) = fetched(reader, 10)
        for each in (first, *others):
            reader.refused(each)
        has_lost_its_place(reader)
        assert of(fetched(reader, 10)) == list(range(10))


@both
@pytest.mark.usefixtures("reads")
def test_what_retention_took_to_the_end_is_committed_though_nothing_follows(
    kafka: Broker,
) -> None:
    topic = kafka.new_topic()
    send(kafka, topic, readings(0, 20))
    commit(kafka, topic, "g", {0: 5})
    delete_records(kafka, topic, 20)
    ledger = Ledger(Run("r", "s", topic))
    with member(kafka, topic, ledger=ledger) as reader:
        eventually(
            lambda: reader.fetch() and committed(kafka, topic) == {0: 20},
            "the offset behind the gap is committed",
        )
        due = ledger.due()
        assert due is not None and due.positions is not None
        assert told(due.positions) == [(5, 19, 0, 15, RETENTION)]


def named(topic: str) -> str:
    return (
        f"topic {topic}, partition 0: a transaction that began at offset 5 is not over after 1 s; "
        "it and what follows (5 offsets) are read once it is. "
    )


@both
@pytest.mark.usefixtures("reads")
def test_a_transaction_that_stays_open_is_named_and_then_what_it_held_up_is_read(
    kafka: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    topic = kafka.new_topic()
    with (
        open_transaction(kafka, topic, behind=2) as producer,
        member(kafka, topic, wait_s=1.0) as reader,
    ):
        assert of(fetched(reader, 5)) == list(range(5))
        eventually(lambda: reader.fetch() and named(topic) in caplog.text, "it is named")
        producer.commit_transaction()
        assert of(fetched(reader, 5)) == list(range(5, 10))
        assert caplog.text.count("is not over after") == 1
        over = f"{topic}, partition 0: the transaction at offset 5 is over"
        # Where the log ends now is known with a later fetch.
        eventually(lambda: reader.fetch() and over in caplog.text, "it is over")


# --- a client, where the leader says that the log was cut off -------------------------------------


@pytest.fixture
def client(kafka: Broker) -> Iterator[Consumer]:
    """Has read 10 messages of partition 0 of two."""
    topic = kafka.new_topic(partitions=2)
    send(kafka, topic, readings(0, 10), partition=0)
    found = consumer(address(kafka, topic))
    part = TopicPartition(topic, 0)
    found.assign([part])
    found.seek(part, 0)
    eventually(lambda: (found.poll(timeout_ms=200) and False) or found.at(part) == 10, "10 of them")
    yield found
    found.close(autocommit=False)


def test_a_log_that_was_cut_off_is_read_from_its_start(client: Consumer) -> None:
    (part,) = client.assignment()
    client._place_behind({part: OffsetAndMetadata(4, "", -1)})
    assert client.at(part) == 0
    assert client.placed()[part].gap[:] == (4, 9, 0, TRUNCATED)  # type: ignore[index]
    client.seek(part, 10)
    client._place_behind({part: None})  # of which nobody knows where it was
    assert client.placed()[part].gap[:] == (0, 9, 0, TRUNCATED)  # type: ignore[index]


@pytest.mark.parametrize("cut", [10, 12])
def test_a_log_that_was_cut_off_behind_what_was_read_changes_nothing(
    client: Consumer, cut: int
) -> None:
    (part,) = client.assignment()
    client._place_behind({part: OffsetAndMetadata(cut, "", -1)})
    assert (client.at(part), client.placed()) == (10, {})


def test_a_cut_of_a_partition_that_is_not_this_client_s_any_more_is_passed_over(
    client: Consumer,
) -> None:
    (part,) = client.assignment()
    other = TopicPartition(part.topic, 1)
    # Another member's by now; and one that is, whose place is not known yet.
    client._place_behind({other: OffsetAndMetadata(0, "", -1)})
    client.assign([part, other])
    client._place_behind({other: None})
    assert client.placed() == {} and client.at(part) == 10


# --- ranges ---------------------------------------------------------------------------------------


def read(broker: Broker, topic: str, *pieces: Range) -> tuple[list[int], list[tuple[Any, ...]]]:
    """What ranges give: offsets, and what is told of them."""
    step, found, rows = ReadRange(address(broker, topic), "s", run="r"), [], []
    for piece in pieces:
        for output in step.process(piece):
            if hasattr(output, "tag"):
                rows.append(output.value)
            else:
                found += offsets(output.table)
    return found, told(pa.concat_tables(rows))


@both
@pytest.mark.usefixtures("reads")
def test_a_log_that_became_shorter_ends_the_range_and_is_told(
    kafka: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    topic = kafka.new_topic()
    send(kafka, topic, readings(0, 50))
    # As if it had had 80 when this run looked.
    found, rows = read(kafka, topic, Range(0, 0, 80))
    assert found == list(range(50))
    assert rows == [(0, 49, 50, 0, None), (50, 79, 0, 30, TRUNCATED)]
    assert f"topic {topic}, partition 0: offset 80 was to be read next, but from" in caplog.text
    # What comes there later is new: nothing beyond the end is committed.
    where = f"kafka://{kafka.bootstrap}/{topic}?group=g"
    source = KafkaSource(where, decode, HERE, True, Told())
    source.__dict__["_there"] = There([Range(0, 0, 80)], [])
    source.finish()
    assert committed(kafka, topic) == {0: 50}
    # Another run looks anew.
    assert what_is_there(source.address, "other", "earliest").ranges == [Range(0, 0, 50)]
    assert ends([Range(0, 0, 80)], source.address) == {0: 80}


@both
@pytest.mark.usefixtures("reads")
def test_what_retention_takes_while_ranges_are_read_is_told_once(kafka: Broker) -> None:
    topic = kafka.new_topic()
    send(kafka, topic, readings(0, 100))
    delete_records(kafka, topic, 70)
    found, rows = read(kafka, topic, Range(0, 10, 40), Range(0, 40, 100))
    assert found == list(range(70, 100))
    assert rows == [
        (10, 39, 0, 30, RETENTION), (40, 69, 0, 30, RETENTION), (70, 99, 30, 0, None)
    ]  # fmt: skip


@both
@pytest.mark.usefixtures("reads")
def test_a_range_from_the_middle_is_whole_and_of_many_batches(kafka: Broker) -> None:
    topic = kafka.new_topic()
    send(kafka, topic, readings(0, 9_000))
    found, rows = read(kafka, topic, Range(0, 1_234, 8_765))
    assert found == list(range(1_234, 8_765))
    assert rows == [(1_234, 8_764, 7_531, 0, None)]


def given(broker: Broker, topic: str, client: str, stop: int) -> list[dict[str, Any]]:
    """What a client's range holds, message by message, with what is refused of it."""
    named = address(broker, topic, client=client)
    found = []
    for output in ReadRange(named, "s", run="r").process(Range(0, 0, stop)):
        if not hasattr(output, "tag"):
            whys = output.refused or {}
            rows = output.table.to_pylist()
            for place, row in enumerate(rows):
                row["why"] = whys.get(place)
                if row["why"]:
                    del row["arrived_at"]  # when it was read
                found.append(row)
    return found


@pytest.mark.parametrize("codec", [None, "gzip", "snappy", "lz4", "zstd"])
def test_both_clients_give_the_same_bytes_and_refusals(kafka: Broker, codec: str | None) -> None:
    # The messages are old: the broker, which looks now and then, must not delete them meanwhile.
    configs = {"max.message.bytes": str(64 << 20), "retention.ms": "-1"}
    topic = kafka.new_topic(configs=configs)
    at = {"timestamp_ms": 1_700_000_000_000}
    settings = {**kafka.client_settings(), "max_request_size": 2**31 - 1, "metrics_enabled": False}
    with KafkaProducer(**settings, compression_type=codec) as producer:
        for value, key, headers in (
            (b"{}", b"A", [("equipment_id", b"B"), ("n", b"")]),
            (None, b"tombstone", []),
            (b"", b"", [("", b"\xff")]),
            (b"x" * 5_000_000, None, []),
            (b"{}", b"k" * 5_000_000, []),
            (b"\xff\x00", None, [("h", b"v" * 2_000_000)]),
            (b"{}", None, [(_NotUtf8("x"), b"v")]),
            (b'{"x":"' + b"A" * ((60 if codec is None else 200) << 20), None, []),
        ):
            producer.send(topic, value, key=key, headers=headers, **at).get(60)
        for number in range(6_000):
            producer.send(topic, b"%d" % number, **at)
        producer.flush()
    there = 6_008
    plain = given(kafka, topic, native.KAFKA_PYTHON, there)
    assert len(plain) == there and sum(row["why"] is not None for row in plain) == 4
    assert given(kafka, topic, native.LIBRDKAFKA, there) == plain


# --- an engine's reader ---------------------------------------------------------------------------


class Engine:
    """Calls the reader of partition 0 as an engine does, from one checkpoint to the next.

    Attributes:
        at: the next offset that is not claimed.
        found: the offsets of the messages.
        positions: what is told of them.
    """

    def __init__(self, broker: Broker, topic: str, isolation: str = COMMITTED) -> None:
        self._element = (
            Topic(
                address(broker, topic, isolation=isolation), "g", "earliest", "s", 0, decode, 1, False, run=topic,
                wait_s=1.0,
            ),
            0,
        )  # fmt: skip
        self._read = split._Read()
        self._provider = split._Offsets()
        self._left = self._provider.initial_restriction(self._element)
        self._watermark = ManualWatermarkEstimator(None)
        self.found: list[int] = []
        self.positions: list[pa.Table] = []

    @property
    def at(self) -> int:
        return int(self._left.start)

    def step(self) -> None:
        tracker = ThreadsafeRestrictionTracker(self._provider.create_tracker(self._left))
        given = self._read.process(
            self._element,
            tracker=RestrictionTrackerView(tracker),
            watermark=ThreadsafeWatermarkEstimator(self._watermark),
        )
        for output in given:
            self.found += offsets(output.value.table)
            self.positions.append(output.value.positions)
        left = tracker.deferred_status()
        assert left is not None
        self._left = left[0]

    def until(self, offset: int) -> None:
        eventually(lambda: self.step() or self.at >= offset, f"offset {offset} is claimed", 20)

    @property
    def told(self) -> list[tuple[Any, ...]]:
        return told(pa.concat_tables(self.positions)) if self.positions else []


@pytest.fixture(autouse=True)
def _readers() -> Iterator[None]:
    yield
    for reader in split._readers.values():
        reader.client.close(autocommit=False)
    split._readers.clear()
    split._following.clear()
    split._missing.clear()


def test_an_engine_s_reader_claims_offsets_that_hold_no_record(kafka: Broker) -> None:
    topic = kafka.new_topic()
    transactions(kafka, topic, (readings(0, 5), True), (readings(10, 7), False))
    engine = Engine(kafka, topic)
    # 5 readings and a marker, 7 that were taken back and another one.
    engine.until(14)
    assert engine.found == list(range(5)) and engine.at == 14
    send(kafka, topic, readings(20, 3))
    engine.until(17)
    assert engine.found == [*range(5), 14, 15, 16]
    skipped: dict[str | None, int] = {}
    for _, _, count, passed, reason in engine.told:
        skipped[reason] = skipped.get(reason, 0) + count + passed
    assert skipped == {None: 8, CONTROL: 2, ABORTED: 7}


def test_an_engine_s_reader_tells_a_loss_that_nothing_follows(kafka: Broker) -> None:
    topic = kafka.new_topic()
    send(kafka, topic, readings(0, 20))
    commit(kafka, topic, "g", {0: 5})
    delete_records(kafka, topic, 20)
    engine = Engine(kafka, topic)
    engine.step()
    assert engine.found == [] and engine.told == [(5, 19, 0, 15, RETENTION)]
    engine.step()
    send(kafka, topic, readings(20, 2))
    engine.until(22)
    assert engine.told == [(20, 21, 2, 0, None), (5, 19, 0, 15, RETENTION)]


def test_an_engine_s_reader_names_a_transaction_that_stays_open(
    kafka: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    topic = kafka.new_topic()
    with open_transaction(kafka, topic, behind=2) as producer:
        engine = Engine(kafka, topic)
        eventually(lambda: engine.step() or named(topic) in caplog.text, "it is named")
        assert engine.found == list(range(5))
        producer.abort_transaction()
        engine.until(11)
    assert engine.found == [0, 1, 2, 3, 4, 8, 9]


@both
@pytest.mark.usefixtures("reads")
def test_every_reader_takes_what_is_not_committed_where_it_is_told_to(kafka: Broker) -> None:
    topic, isolation = kafka.new_topic(), "read_uncommitted"
    with open_transaction(kafka, topic, behind=2):
        with member(kafka, topic, isolation) as reader:
            assert of(fetched(reader, 10)) == list(range(10))
        engine = Engine(kafka, topic, isolation)
        engine.until(10)
        assert engine.found == list(range(10))


def test_what_an_engine_holds_of_committed_offsets_is_pointed_at(
    kafka: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    topic = kafka.new_topic()
    send(kafka, topic, readings(0, 10))
    where = f"kafka://{kafka.bootstrap}/{topic}?group={topic}"

    def said(engine: properties.Engine) -> bool:
        caplog.clear()
        KafkaSource(where, decode, engine, False, Told()).check()
        return "lies in its last checkpoint" in caplog.text

    assert not said(FLINK)
    commit(kafka, topic, topic, {0: 5})
    assert said(FLINK) and "--savepoint_path" in caplog.text
    assert not said(dataclasses.replace(FLINK, restored=True))
    assert not said(HERE)
