"""What a run on a real broker says of the offsets it read, passed and lost; and that it is true."""

from __future__ import annotations

import json
import re
import signal
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from kafka import KafkaConsumer, KafkaProducer, OffsetAndMetadata, TopicPartition

from tests.endurance.processes import Job
from tests.running import Ran, run
from tests.services.kafka import Broker

pytestmark = pytest.mark.integration

START_S = 1_717_243_200.0


def reading(number: int, equipment: str | None = "A", **more: Any) -> bytes:
    """One reading of a cell; different for each number."""
    at = datetime.fromtimestamp(START_S + number, UTC).isoformat()
    named = {} if equipment is None else {"equipment_id": equipment}
    return json.dumps(
        {**named, "recorded_at": at, "voltage_v": 3.5 + number % 97 / 1000, "current_a": 1, **more}
    ).encode()


def send(
    broker: Broker, topic: str, values: Iterable[bytes], key: bytes | None = None, **more: Any
) -> None:
    with KafkaProducer(**broker.client_settings(), linger_ms=20, metrics_enabled=False) as producer:
        for value in values:
            producer.send(topic, value, key=key, **more)
        producer.flush()


def readings(first: int, count: int, equipment: str | None = "A") -> list[bytes]:
    return [reading(number, equipment) for number in range(first, first + count)]


def commit(broker: Broker, topic: str, group: str, offsets: Mapping[int, int]) -> None:
    client = KafkaConsumer(**broker.client_settings(), group_id=group, enable_auto_commit=False)
    parts = {TopicPartition(topic, number): offset for number, offset in offsets.items()}
    client.assign(list(parts))
    client.commit({part: OffsetAndMetadata(offset, "", -1) for part, offset in parts.items()})
    client.close(autocommit=False)


def committed(broker: Broker, topic: str, group: str = "g") -> dict[int, int | None]:
    client = KafkaConsumer(**broker.client_settings(), group_id=group, enable_auto_commit=False)
    numbers = client.partitions_for_topic(topic) or set()
    found = {n: client.committed(TopicPartition(topic, n)) for n in sorted(numbers)}
    client.close(autocommit=False)
    return found


def delete_records(broker: Broker, topic: str, before: int) -> None:
    with broker.admin() as admin:
        admin.delete_records({TopicPartition(topic, 0): before})


def once(broker: Broker, folder: Path, topic: str, *flags: str, query: str = "?group=g") -> Ran:
    """Reads what the topic holds."""
    source = f"kafka://{broker.bootstrap}/{topic}{query}"
    return run(folder, source, "--until=latest", *flags)


def stretches(ran: Ran) -> list[tuple[Any, ...]]:
    """The rows of source_positions: (partition, first, last, read, skipped, reason)."""
    return ran.sql(
        "SELECT partition_number, first_offset, last_offset, messages_read, offsets_skipped, "
        "reason FROM source_positions ORDER BY partition_number, first_offset, reason NULLS FIRST"
    )


def numbers(ran: Ran) -> int:
    return int(ran.sql("SELECT count(DISTINCT reading_id) FROM readings")[0][0])


# --- offsets that the log has not ---------------------------------------------------------------


def test_what_retention_took_unread_is_a_loss_and_ends_with_1(
    kafka: Broker, tmp_path: Path
) -> None:
    topic = kafka.new_topic()
    send(kafka, topic, readings(0, 100))
    commit(kafka, topic, "g", {0: 10})
    delete_records(kafka, topic, 70)
    ran = once(kafka, tmp_path, topic)
    assert ran.status == 1
    assert f"topic {topic}, partition 0: offsets 10 to 69 (60) were deleted before" in ran.err
    assert "--allow_data_loss" in ran.err
    assert "offsets: 30 messages read; passed: 60 deleted before they were read" in ran.out
    assert numbers(ran) == 30 and committed(kafka, topic) == {0: 100}
    assert stretches(ran) == [(0, 10, 69, 0, 60, "retention"), (0, 70, 99, 30, 0, None)]
    again = once(kafka, tmp_path, topic)
    assert again.status == 0 and again.err == ""


def test_a_loss_that_is_allowed_is_reported_all_the_same(kafka: Broker, tmp_path: Path) -> None:
    topic = kafka.new_topic()
    send(kafka, topic, readings(0, 20))
    commit(kafka, topic, "g", {0: 5})
    delete_records(kafka, topic, 10)
    ran = once(kafka, tmp_path, topic, "--allow_data_loss")
    assert ran.status == 0 and "offsets 5 to 9 (5) were deleted before" in ran.err


def test_a_first_run_of_a_log_that_retention_has_cut_loses_nothing(
    kafka: Broker, tmp_path: Path
) -> None:
    topic = kafka.new_topic()
    send(kafka, topic, readings(0, 20))
    delete_records(kafka, topic, 10)
    ran = once(kafka, tmp_path, topic)
    assert (ran.status, ran.err, numbers(ran)) == (0, "", 10)
    assert stretches(ran) == [(0, 10, 19, 10, 0, None)]


def test_an_offset_beyond_the_end_is_of_another_log_which_is_read_from_its_start(
    kafka: Broker, tmp_path: Path
) -> None:
    topic = kafka.new_topic()
    send(kafka, topic, readings(0, 50))
    commit(kafka, topic, "g", {0: 1000})
    ran = once(kafka, tmp_path, topic)
    assert ran.status == 1 and numbers(ran) == 50
    assert f"topic {topic}, partition 0: offset 1,000 was to be read next, but" in ran.err
    assert committed(kafka, topic) == {0: 50}
    assert stretches(ran) == [(0, 0, 49, 50, 0, None), (0, 50, 999, 0, 0, "truncated")]
    again = once(kafka, tmp_path, topic)
    assert again.status == 0 and again.account()["read"] == 0


def test_a_topic_made_anew_between_runs_is_read_from_its_start_though_it_is_longer(
    kafka: Broker, tmp_path: Path
) -> None:
    topic = kafka.new_topic()
    send(kafka, topic, readings(0, 30))
    assert once(kafka, tmp_path, topic).status == 0
    client = KafkaConsumer(**kafka.client_settings(), group_id="g", enable_auto_commit=False)
    part = TopicPartition(topic, 0)
    kept = client.committed(part, metadata=True)
    kafka.delete_topic(topic)
    time.sleep(1)
    kafka.create_topic(topic)
    send(kafka, topic, readings(100, 40))
    # As a tool does that restores a group's offsets, with what stands beside them.
    client.assign([part])
    client.commit({part: OffsetAndMetadata(kept.offset, kept.metadata, -1)})
    client.close(autocommit=False)
    ran = once(kafka, tmp_path, topic)
    assert ran.account()["read"] == 40 and numbers(ran) == 70
    assert ran.status == 1 and "offset 30 was to be read next, but from offset 0 on" in ran.err
    assert committed(kafka, topic) == {0: 40}


# --- transactions and compaction ----------------------------------------------------------------


@contextmanager
def transactional(broker: Broker, topic: str) -> Iterator[KafkaProducer]:
    with KafkaProducer(
        **broker.client_settings(), transactional_id=f"of-{topic}", metrics_enabled=False
    ) as producer:
        producer.init_transactions()
        yield producer


def begin(producer: KafkaProducer, topic: str, values: Iterable[bytes]) -> None:
    """Sends the values in a transaction that stays open."""
    producer.begin_transaction()
    for value in values:
        producer.send(topic, value)
    producer.flush()


@contextmanager
def open_transaction(broker: Broker, topic: str, behind: int) -> Iterator[KafkaProducer]:
    """A transaction of 3 readings on a topic that has 5 before it and others behind it."""
    send(broker, topic, readings(0, 5))
    with transactional(broker, topic) as producer:
        begin(producer, topic, readings(10, 3))
        send(broker, topic, readings(20, behind))
        yield producer


def transactions(broker: Broker, topic: str, *parts: tuple[list[bytes], bool]) -> None:
    with transactional(broker, topic) as producer:
        for values, kept in parts:
            begin(producer, topic, values)
            if kept:
                producer.commit_transaction()
            else:
                producer.abort_transaction()


@pytest.mark.parametrize("isolation", ["read_committed", "read_uncommitted"])
def test_messages_of_aborted_transactions_are_no_readings(
    kafka: Broker, tmp_path: Path, isolation: str
) -> None:
    topic = kafka.new_topic()
    parts = ((readings(0, 5), True), (readings(10, 7), False), (readings(20, 3), True))
    transactions(kafka, topic, *parts)
    query = "?group=g" if isolation == "read_committed" else f"?group=g&isolation={isolation}"
    ran = once(kafka, tmp_path, topic, query=query)
    kept = 8 if isolation == "read_committed" else 15
    assert ran.status == 0 and numbers(ran) == kept == ran.account()["read"]
    assert committed(kafka, topic) == {0: 18}
    found = {reason: (read, skipped) for *_, read, skipped, reason in stretches(ran)}
    aborted = {"aborted_transaction": (0, 7)} if kept == 8 else {}
    assert found == {None: (kept, 0), "control": (0, 3)} | aborted


@pytest.mark.parametrize("size", [1, 4000])
def test_aborted_and_committed_transactions_interleave(
    kafka: Broker, tmp_path: Path, size: int
) -> None:
    """Two producers at the same time, one of which gives up, over several fetches."""
    topic = kafka.new_topic()
    settings = {**kafka.client_settings(), "metrics_enabled": False, "linger_ms": 5}
    note = "x" * (200 if size > 1 else 1)
    with (
        KafkaProducer(**settings, transactional_id=f"a-{topic}") as good,
        KafkaProducer(**settings, transactional_id=f"b-{topic}") as bad,
    ):
        good.init_transactions()
        bad.init_transactions()
        for turn in range(3):
            good.begin_transaction()
            bad.begin_transaction()
            for number in range(size):
                at = (turn * size + number) * 2
                good.send(topic, reading(at, "good", note=note))
                bad.send(topic, reading(at + 1, "bad", note=note))
            good.flush()
            bad.flush()
            good.commit_transaction()
            bad.abort_transaction()
    ran = once(kafka, tmp_path, topic)
    counts = ran.sql("SELECT equipment_id, count(*) FROM readings GROUP BY 1")
    assert ran.status == 0 and counts == [("good", 3 * size)]
    skipped = {reason: count for *_, count, reason in stretches(ran) if reason}
    assert skipped == {"aborted_transaction": 3 * size, "control": 6}


def test_an_open_transaction_is_waited_for_then_named_and_left_for_the_next_run(
    kafka: Broker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    topic = kafka.new_topic()
    with open_transaction(kafka, topic, behind=5) as producer:
        ran = once(kafka, tmp_path, topic, query="?group=g&transaction_wait=2")
        assert ran.status == 0 and numbers(ran) == 5
        said = f"topic {topic}, partition 0: a transaction that began at offset 5 is not over"
        assert said in caplog.text
        assert "8 behind open transactions, left for the next run" in ran.out
        assert committed(kafka, topic) == {0: 5}
        assert stretches(ran) == [(0, 0, 4, 5, 0, None), (0, 5, 12, 0, 8, "open_transaction")]
        producer.commit_transaction()
    again = once(kafka, tmp_path, topic)
    assert again.status == 0 and again.account()["read"] == 8 and numbers(again) == 13


def test_a_transaction_that_ends_while_it_is_waited_for_is_read(
    kafka: Broker, tmp_path: Path
) -> None:
    topic = kafka.new_topic()
    with transactional(kafka, topic) as producer:
        begin(producer, topic, readings(0, 3))
        soon = threading.Timer(3, producer.commit_transaction)
        soon.start()
        ran = once(kafka, tmp_path, topic)
        soon.join()
    assert (ran.status, ran.err, numbers(ran)) == (0, "", 3)


def test_gaps_of_a_compacted_topic_are_no_loss(kafka: Broker, tmp_path: Path) -> None:
    topic = kafka.new_topic(
        configs={
            "cleanup.policy": "compact",
            "segment.ms": "500",
            "min.cleanable.dirty.ratio": "0.01",
            "max.compaction.lag.ms": "500",
        }
    )
    for number in range(40):
        send(kafka, topic, [reading(number, f"K{number % 4}")], key=b"K%d" % (number % 4))
        if number % 20 == 19:
            time.sleep(1)
    send(kafka, topic, [reading(100, "K0")], key=b"K0")
    there = 41
    until = time.monotonic() + 60
    while there == 41 and time.monotonic() < until:
        client = KafkaConsumer(
            topic, **kafka.client_settings(), auto_offset_reset="earliest", consumer_timeout_ms=1500
        )
        there = len(list(client))
        client.close()
    if there == 41:
        pytest.skip("the broker has compacted nothing within a minute")
    ran = once(kafka, tmp_path, topic)
    found = {reason: (read, skipped) for *_, read, skipped, reason in stretches(ran)}
    assert ran.status == 0 and ran.err == ""
    assert found[None][0] + found["compaction"][1] == 41 and found[None][0] <= there


# --- groups ---------------------------------------------------------------------------------------


def test_the_former_default_group_s_offsets_are_taken_over_once(
    kafka: Broker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    topic = kafka.new_topic(partitions=2)
    for number in (0, 1):
        send(kafka, topic, readings(100 * number, 10, f"P{number}"), partition=number)
    commit(kafka, topic, "battery-pipeline", {0: 4})
    ran = once(kafka, tmp_path, topic, query="")
    assert ran.status == 0 and ran.account()["read"] == 6 + 10
    assert "goes on from those of battery-pipeline" in caplog.text
    own = f"battery-pipeline.{topic}"
    assert committed(kafka, topic, own) == {0: 10, 1: 10}
    caplog.clear()
    again = once(kafka, tmp_path, topic, query="")
    assert again.account()["read"] == 0 and "goes on from" not in caplog.text


def test_a_group_that_another_job_reads_with_is_refused_before_anything_is_read(
    kafka: Broker, tmp_path: Path
) -> None:
    topic, other = kafka.new_topic(), kafka.new_topic()
    send(kafka, topic, readings(0, 5))
    member = KafkaConsumer(other, **kafka.client_settings(), group_id=f"busy-{topic}")
    member.poll(timeout_ms=3000)
    beat = threading.Event()

    def stay() -> None:
        while not beat.wait(0.2):
            member.poll(timeout_ms=100)

    staying = threading.Thread(target=stay)
    staying.start()
    try:
        ran = once(kafka, tmp_path, topic, query=f"?group=busy-{topic}")
    finally:
        beat.set()
        staying.join()
        member.close()
    assert ran.status == 2 and "?group=NAME" in ran.err and not ran.warehouse.exists()
    # The default groups of two topics have nothing to do with each other.
    assert once(kafka, tmp_path, topic, query="").status == 0


# --- keys and frames --------------------------------------------------------------------------------


def test_binary_keys_are_different_equipments_and_frames_are_known(
    kafka: Broker, tmp_path: Path
) -> None:
    topic = kafka.new_topic()
    for device in (200, 201):
        key = struct.pack(">q", device)
        send(kafka, topic, readings(device, 3, None), key=key)
    send(kafka, topic, [b"\0\0\0\0\x07" + reading(300, "SR"), b"\0\0\0\0\x08\x02\x04SR"])
    ran = once(kafka, tmp_path, topic)
    found = ran.sql(
        "SELECT equipment_id, count(*), list_contains(any_value(quality_flags), 'binary_id') "
        "FROM readings GROUP BY 1 ORDER BY 1"
    )
    assert found == [
        ("0x00000000000000c8", 3, True), ("0x00000000000000c9", 3, True), ("SR", 1, False)
    ]  # fmt: skip
    ((kind, message, payload),) = ran.sql(
        "SELECT error_type, error_message, payload FROM dead_letters"
    )
    assert kind == "schema_registry" and "schema id 8" in message
    assert payload == b"\0\0\0\0\x08\x02\x04SR"
    # The archive has what came: read again from there, it is the same.
    replay = run(tmp_path / "again", ran.lake / "raw")
    assert replay.account()["dead_letters"] == 1
    assert replay.sql("SELECT reading_id FROM readings ORDER BY 1") == ran.sql(
        "SELECT reading_id FROM readings ORDER BY 1"
    )


def test_the_hour_that_a_zone_skips_is_no_heap_of_copies(kafka: Broker, tmp_path: Path) -> None:
    """A logger on standard time all year, a reading a minute from 01:50 on, at rest and not."""
    topic = kafka.new_topic()
    began = datetime.fromisoformat("2025-03-30T01:50")
    for equipment, amperes in (("REST", 0.0), ("DIS", -1.0)):
        values = []
        for minute in range(80):
            fields = {"equipment_id": equipment, "current": amperes,
                      "recorded_at": (began + timedelta(minutes=minute)).isoformat(),
                      "voltage": 3.65 + amperes * minute / 1000}  # fmt: skip
            values.append(json.dumps(fields).encode())
        send(kafka, topic, values, key=equipment.encode())
    ran = once(kafka, tmp_path, topic, "--time_zone=Europe/Berlin")
    account = ran.account()
    assert (account["written"], account["duplicates"], account["dead_letters"]) == (160, 0, 0)
    assert ran.sql(
        "SELECT equipment_id, count(*), count(DISTINCT recorded_at), "
        "count(*) FILTER (list_contains(quality_flags, 'clock_disagrees')) >= 60 "
        "FROM readings GROUP BY 1 ORDER BY 1"
    ) == [("DIS", 80, 80, True), ("REST", 80, 80, True)]


# --- while a job runs -------------------------------------------------------------------------------


class Live:
    """A live job on a topic, and what it has written so far."""

    def __init__(
        self, broker: Broker, folder: Path, topic: str, query: str = "?group=g", name: str = "job"
    ) -> None:
        folder.mkdir(exist_ok=True)
        source = f"kafka://{broker.bootstrap}/{topic}{query}"
        self.job = Job(name, folder, source, "--window=2", "--runner=DirectRunner")
        self.ran = Ran(0, "", "", self.job.lake, self.job.warehouse)

    def has_written(self, readings: int) -> bool:
        """Whether its last account line says so."""
        return self.written == readings

    @property
    def line(self) -> str:
        """Its last account line."""
        return "".join(line for line in self.job.told.splitlines()[-1:] if "so far: " in line)

    @property
    def written(self) -> int:
        """What that says is written."""
        found = re.search(r", written ([\d,]+),", self.line)
        return int(found[1].replace(",", "")) if found else 0

    def until(self, holds: Callable[[], bool], what: str, patience_s: float = 60) -> None:
        until = time.monotonic() + patience_s
        while not holds():
            assert self.job.runs, f"{what}: it ended, {self.err}"
            assert time.monotonic() < until, f"{what}: {self.job.told[-300:]} {self.err}"
            time.sleep(0.5)

    @property
    def err(self) -> str:
        return self.job.err.read_text()


@pytest.mark.long
def test_a_topic_deleted_and_made_anew_while_the_job_runs_is_read_from_its_start(
    kafka: Broker, tmp_path: Path
) -> None:
    topic = kafka.new_topic()
    send(kafka, topic, readings(0, 100))
    live = Live(kafka, tmp_path, topic)
    with live.job:
        live.until(lambda: live.has_written(100), "the first log")
        kafka.delete_topic(topic)
        live.until(lambda: f"there is no topic {topic} any more" in live.err, "it is gone")
        gone = f"lag unknown, watermark .*; nothing can be read: there is no topic {topic} any more"
        live.until(lambda: re.search(gone, live.line) is not None, "each line says so")
        kafka.create_topic(topic)
        send(kafka, topic, readings(1000, 30))
        live.until(lambda: live.has_written(130), "the second log")
        assert "nothing can be read" not in live.line
        assert f"the topic {topic} is there again" in live.err
        # At once, and longer than what was read of the one before.
        kafka.delete_topic(topic)
        anew(kafka, topic)
        send(kafka, topic, readings(2000, 60))
        live.until(lambda: live.has_written(190), "the third log")
        assert live.job.stop() == 0
    assert "ERROR" not in live.err and "Cancelled" not in live.err
    assert "from offset 0 on the log is not the one it was of" in live.err
    assert "no broker answers" not in live.err
    assert sum(row[3] for row in stretches(live.ran)) >= 190
    assert {row[5] for row in stretches(live.ran)} == {None, "truncated"}
    assert numbers(live.ran) == 190
    # What was read of the logs before is committed to none that came after.
    assert committed(kafka, topic) == {0: 60}
    rest = once(kafka, tmp_path, topic)
    assert rest.account()["read"] == 0


def anew(broker: Broker, topic: str) -> None:
    """Creates a topic that was just deleted, as soon as that can be."""
    for _ in range(50):
        try:
            broker.create_topic(topic)
        except Exception:
            time.sleep(0.1)
        else:
            return
    raise TimeoutError(topic)


@pytest.mark.long
def test_a_live_job_begins_anew_where_its_offset_is_beyond_the_end(
    kafka: Broker, tmp_path: Path
) -> None:
    topic = kafka.new_topic()
    send(kafka, topic, readings(0, 50))
    commit(kafka, topic, "g", {0: 1000})
    live = Live(kafka, tmp_path, topic)
    with live.job:
        live.until(lambda: live.has_written(50), "the log")
        assert live.job.stop() == 0
    assert "offset 1,000 was to be read next, but from offset 50 on" in live.err
    assert numbers(live.ran) == 50
    assert committed(kafka, topic) == {0: 50}
    assert stretches(live.ran) == [(0, 0, 49, 50, 0, None), (0, 50, 999, 0, 0, "truncated")]


@pytest.mark.long
def test_what_retention_takes_before_a_live_job_has_read_it_is_told_and_it_goes_on(
    kafka: Broker, tmp_path: Path
) -> None:
    topic = kafka.new_topic()
    send(kafka, topic, readings(0, 50))
    live = Live(kafka, tmp_path, topic)
    with live.job:
        live.until(lambda: live.has_written(50), "what was there")
        live.job.process.send_signal(signal.SIGSTOP)
        send(kafka, topic, readings(100, 100))
        delete_records(kafka, topic, 120)
        live.job.process.send_signal(signal.SIGCONT)
        live.until(lambda: live.has_written(80), "the rest")
        assert live.job.stop() == 0
    assert f"topic {topic}, partition 0: offsets 50 to 119 (70) were deleted before" in live.err
    assert committed(kafka, topic) == {0: 150}
    assert "70 deleted before they were read" in live.job.told
    found = [row for row in stretches(live.ran) if row[5] == "retention"]
    assert found == [(0, 50, 119, 0, 70, "retention")]
    assert sum(row[3] for row in stretches(live.ran)) == 80 == numbers(live.ran)


@pytest.mark.long
def test_a_live_job_passes_transactions_and_commits_to_the_end(
    kafka: Broker, tmp_path: Path
) -> None:
    topic = kafka.new_topic()
    live = Live(kafka, tmp_path, topic)
    with live.job:
        live.until(lambda: "so far" in live.job.told, "it runs")
        transactions(kafka, topic, (readings(0, 5), True), (readings(10, 7), False))
        live.until(lambda: live.has_written(5), "what is committed")
        live.until(live.job.caught_up, "nothing is left")
        transactions(kafka, topic, (readings(20, 3), True))
        live.until(lambda: live.has_written(8), "what is committed then")
        live.until(live.job.caught_up, "nothing is left")
        assert live.job.stop() == 0
    assert committed(kafka, topic) == {0: 18}
    found: dict[Any, int] = {}
    for *_, read, skipped, reason in stretches(live.ran):
        found[reason] = found.get(reason, 0) + read + skipped
    assert found == {None: 8, "aborted_transaction": 7, "control": 3}


@pytest.mark.long
def test_two_live_jobs_of_the_default_group_share_a_topic_and_another_topic_is_its_own(
    kafka: Broker, tmp_path: Path
) -> None:
    topic, other = kafka.new_topic(partitions=4), kafka.new_topic(partitions=2)
    first, second = (Live(kafka, tmp_path / "both", topic, "", name) for name in "ab")
    third = Live(kafka, tmp_path / "other", other, "")
    sent = 0

    def more(rounds: int) -> None:
        nonlocal sent
        for _ in range(rounds):
            for number in range(4):
                send(kafka, topic, readings(sent, 5, f"P{number}"), partition=number)
            for number in range(2):
                send(kafka, other, readings(sent, 5, f"Q{number}"), partition=number)
            sent += 5

    def stored(job: Live, parts: int) -> Callable[[], bool]:
        def all_there() -> bool:
            paths = (job.job.lake / "readings").rglob("*.parquet")
            return len(set().union(*(ids(path) for path in paths))) == parts * sent

        return all_there

    def ids(path: Path) -> set[str]:
        return set(pq.read_table(path, columns=["reading_id"])["reading_id"].to_pylist())

    with first.job, third.job:
        more(4)
        first.until(stored(first, 4), "one job reads all")
        with second.job:
            second.until(lambda: "so far" in second.job.told, "the second one runs")
            before = first.written
            for _ in range(60):
                more(1)
                time.sleep(0.5)
                if second.written and first.written > before:
                    break
            first.until(stored(first, 4), "both have all together")
            assert second.written and first.written > before, "they share the partitions"
            # What had been written is not read again by the one that has the partitions now.
            assert first.written + second.written < 4 * sent + 40
            assert second.job.stop() == 0
        more(4)
        first.until(stored(first, 4), "what the second one has left")
        third.until(stored(third, 2), "the other topic's")
        assert first.job.stop() == 0
        assert third.job.stop() == 0
    for topic_, parts, job in ((topic, 4, first), (other, 2, third)):
        own = f"battery-pipeline.{topic_}"
        assert committed(kafka, topic_, own) == dict.fromkeys(range(parts), sent)
        assert job.ran.sql("SELECT count(*), count(DISTINCT reading_id) FROM readings") == [
            (parts * sent, parts * sent)
        ]
    for job in (first, second, third):
        assert "ERROR" not in job.err and "WARNING" not in job.err, job.err
