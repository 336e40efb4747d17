"""An hour of event time on a topic of a random kind; the live job has what a bounded run has."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
from kafka import KafkaProducer, TopicPartition
from kafka.structs import OffsetAndMetadata

from tests.endurance.event_time import bound_s
from tests.endurance.processes import Job
from tests.endurance.rig import Rig

_HOUR_S = 3_600
_CHUNKS = 12
# What a partition may give, beside nothing at all: seconds between readings, and from when on.
_KINDS = {
    "live": (6.0, -_HOUR_S),
    "sparse": (300.0, -_HOUR_S),
    "old": (30.0, -365 * 86_400.0),
    "ahead": (30.0, -_HOUR_S + 240.0),
    "idle": (0.0, 0.0),
}
# A reader sees a compacted log with gaps: what is gone was sent again under the same key.
_COMPACT = {
    "cleanup.policy": "compact", "segment.ms": "1000", "min.cleanable.dirty.ratio": "0.01",
    "max.compaction.lag.ms": "1000", "delete.retention.ms": "0",
}  # fmt: skip


# By equipment and start: how many readings, and whether some came late.
_Windows = dict[tuple[str, int], tuple[int, bool]]


@dataclass
class _Topic:
    """What was sent: what must be read, and what must not."""

    rig: Rig
    choose: random.Random
    kinds: dict[int, str]
    began_s: float = field(default_factory=time.time)
    truth: set[tuple[str, int]] = field(default_factory=set)
    # Readings that were sent more than once: equipment and time.
    again: list[tuple[str, int]] = field(default_factory=list)
    sent: int = 0

    def reading(self, equipment: str, at_s: float) -> tuple[bytes, bytes, tuple[str, int]]:
        at_us = round(at_s) * 1_000_000
        value = {
            "equipment_id": equipment,
            "recorded_at": datetime.fromtimestamp(at_us / 1e6, UTC).isoformat(),
            "voltage_v": 3.0 + at_us // 1_000_000 % 997 / 1000,
            "current_a": 1.0,
        }
        self.sent += 1
        key = f"{equipment} {at_us}".encode()
        return key, json.dumps(value).encode(), (equipment, at_us)

    def chunk(self, number: int, producer: Any, counts: bool = True) -> None:
        """Sends a part of the hour to every partition, some of it out of order or again."""
        for partition, kind in self.kinds.items():
            step, begins = _KINDS[kind]
            if not step:
                continue
            span = _HOUR_S / _CHUNKS
            times = [
                self.began_s + begins + number * span + at * step
                for at in range(max(1, round(span / step)))
            ]
            if self.choose.random() < 0.3:
                times.append(self.choose.choice(times) - self.choose.choice((20, 400, 3_000)))
            if self.choose.random() < 0.3:
                times.append(times[-1])
            equipment = f"{kind}_{partition}_{self.choose.randrange(2)}"
            if not counts:
                equipment = f"aborted_{partition}"
            for at_s in times:
                key, value, read = self.reading(equipment, at_s)
                producer.send(self.rig.topic, value, key=key, partition=partition)
                if counts:
                    self.again += [read] if read in self.truth else []
                    self.truth.add(read)
        producer.flush()

    def idle_gets_one(self, producer: Any) -> None:
        """A partition that had nothing gets a reading of ten minutes ago."""
        for partition, kind in self.kinds.items():
            if kind == "idle":
                key, value, read = self.reading(f"straggler_{partition}", time.time() - 600)
                producer.send(self.rig.topic, value, key=key, partition=partition)
                self.truth.add(read)
        producer.flush()


def random_topic(rig: Rig) -> dict[str, int]:
    """Any mix of partitions, old, early and late readings, transactions, compaction, retention."""
    choose = rig.choose
    partitions = choose.randint(1, 5)
    compacts, retains = choose.random() < 0.3, choose.random() < 0.3
    in_transactions, adds = choose.random() < 0.5, choose.random() < 0.4
    rig.topic = rig.broker.new_topic("random", partitions, _COMPACT if compacts else None)
    kinds = {number: choose.choice(list(_KINDS)) for number in range(partitions)}
    kinds[0] = "live"
    topic = _Topic(rig, choose, kinds)
    rig.figures |= {"partitions": partitions, "compacts": compacts, "retains": retains,
                    "transactions": in_transactions, "adds": adds}  # fmt: skip
    settings = rig.broker.client_settings() | {"metrics_enabled": False}
    lost = _retained(rig, topic, settings) if retains and not compacts else 0
    job = rig.job(f"--window={rig.window_s}")
    rig.until(job.warehouse.exists, 180, "the job did not start")
    for number in range(_CHUNKS):
        if in_transactions and choose.random() < 0.4:
            _transaction(topic, number, settings, choose.random() < 0.5)
        else:
            # A new one knows of new partitions.
            with KafkaProducer(**settings) as plain:
                topic.chunk(number, plain)
        if adds and number == _CHUNKS // 2:
            with rig.broker.admin() as admin:
                admin.create_partitions({rig.topic: partitions + 1})
            topic.kinds[partitions] = choose.choice(list(_KINDS))
            time.sleep(1)
        time.sleep(choose.random())
    with KafkaProducer(**settings) as plain:
        topic.idle_gets_one(plain)
    wrong = _written_in_time(rig, job, topic)
    status = job.stop()
    rig.figures |= {"readings": len(topic.truth), "lost_to_retention": lost}
    wrong |= {"exit_status": status} if status else {}
    wrong |= _differences(job, _bounded(rig), topic, rig.window_s) | _positions(job, lost)
    return {name: n for name, n in wrong.items() if n}


def _retained(rig: Rig, topic: _Topic, settings: dict[str, Any]) -> int:
    """Readings that the group has read up to the 10th, and of which retention took 30."""
    with KafkaProducer(**settings) as producer:
        for at in range(50):
            key, value, read = topic.reading("retained", topic.began_s - 1_800 + at)
            producer.send(rig.topic, value, key=key, partition=0)
            if at >= 30:
                topic.truth.add(read)
        producer.flush()
    with rig.broker.admin() as admin:
        admin.alter_group_offsets(
            rig.topic, {TopicPartition(rig.topic, 0): OffsetAndMetadata(10, "", -1)}
        )
        admin.delete_records({TopicPartition(rig.topic, 0): 30})
    return 20


def _transaction(topic: _Topic, number: int, settings: dict[str, Any], commits: bool) -> None:
    with KafkaProducer(**settings, transactional_id=f"{topic.rig.topic}-{number}") as producer:
        producer.init_transactions()
        producer.begin_transaction()
        topic.chunk(number, producer, counts=commits)
        (producer.commit_transaction if commits else producer.abort_transaction)()


def _written_in_time(rig: Rig, job: Job, topic: _Topic) -> dict[str, int]:
    began = time.monotonic()

    def there() -> bool:
        paths = (job.lake / "readings").rglob("*.parquet")
        return sum(pq.read_metadata(path).num_rows for path in paths) >= len(topic.truth)

    try:
        rig.until(there, 300, "not all readings are in the lake")
    except TimeoutError:
        return {"not_written": 1}
    took = time.monotonic() - began
    rig.figures["took_s"] = took
    return {"not_in_time": round(took)} if took > bound_s(rig) else {}


def _bounded(rig: Rig) -> Path:
    """The warehouse of a run that reads what is there, in a group of its own."""
    folder = rig.folder / f"bounded-{rig.topic}"
    folder.mkdir()
    source = f"kafka://{rig.broker.bootstrap}/{rig.topic}?group={rig.topic}-bounded"
    job = Job("bounded", folder, source, "--until=latest", f"--window={rig.window_s}")
    with job:
        try:
            status = job.wait(180)
        except TimeoutError:
            status = 124
    if status:
        raise TimeoutError(f"the bounded run ended with {status}, see {job.err}")
    return job.warehouse


def _differences(job: Job, bounded: Path, topic: _Topic, window_s: int) -> dict[str, int]:
    truth = topic.truth
    with duckdb.connect() as database:
        database.execute("SET TimeZone = 'UTC'")
        database.execute(f"ATTACH '{job.warehouse}' AS live (READ_ONLY)")
        database.execute(f"ATTACH '{bounded}' AS bounded (READ_ONLY)")

        def number(query: str) -> int:
            ((found,),) = database.sql(query).fetchall()
            return int(found)

        def read(name: str) -> list[tuple[str, int]]:
            return database.sql(
                f"SELECT equipment_id, epoch_us(recorded_at) FROM {name}.readings"
            ).fetchall()

        columns = "reading_id, equipment_id, recorded_at, voltage_v, current_a, content_id"

        def windows(name: str) -> _Windows:
            rows = database.sql(
                "SELECT equipment_id, epoch_us(window_start), sum(readings)::BIGINT, "
                f"bool_or(list_contains(quality_flags, 'late')) FROM {name}.window_stats GROUP BY ALL"
            ).fetchall()
            return {(equipment, start): (count, late) for equipment, start, count, late in rows}

        live, once = read("live"), read("bounded")
        return {
            "lost": len(truth - set(live)),
            "invented": len(set(live) - truth),
            "doubled": len(live) - len(set(live)),
            "lost_bounded": len(truth - set(once)),
            "invented_bounded": len(set(once) - truth),
            "other_readings": number(
                f"SELECT count(*) FROM (SELECT {columns} FROM live.readings EXCEPT "
                f"SELECT {columns} FROM bounded.readings)"
            ),
            "other_deltas": number(
                "SELECT count(*) FROM live.readings AS l JOIN bounded.readings AS b "
                "USING (reading_id) WHERE l.time_delta_s IS DISTINCT FROM b.time_delta_s AND "
                "l.equipment_id NOT IN (SELECT equipment_id FROM live.readings "
                "WHERE list_contains(quality_flags, 'late')) AND l.time_delta_s IS NULL"
            ),
            "other_windows": _other_windows(windows("live"), windows("bounded"), topic, window_s),
        }


def _other_windows(live: _Windows, once: _Windows, topic: _Topic, window_s: int) -> int:
    """Windows with another number of readings.

    What is sent again after the allowed lateness is late, and its row of late readings counts it.
    """
    window_us = window_s * 1_000_000
    again = Counter((name, at_us // window_us * window_us) for name, at_us in topic.again)
    wrong = 0
    for window in live.keys() | once.keys():
        (found, late), (expected, _) = live.get(window, (0, False)), once.get(window, (0, False))
        more = again[window] if late else 0
        wrong += not expected <= found <= expected + more
    return wrong


def _positions(job: Job, lost: int) -> dict[str, int]:
    """Every offset from the first to the last is accounted for, and every message that was read."""
    paths = (job.lake / "raw").rglob("*.parquet")
    archived = sum(pq.read_metadata(path).num_rows for path in paths)
    with duckdb.connect(str(job.warehouse), read_only=True) as database:
        rows = database.sql(
            "SELECT partition_number, first_offset, last_offset, messages_read, offsets_skipped, "
            "reason FROM source_positions"
        ).fetchall()
    gaps = 0
    for partition in {row[0] for row in rows}:
        mine = [row for row in rows if row[0] == partition]
        begins = min(first for _, first, *_ in mine)
        ends = max(last for _, _, last, *_ in mine)
        passed = sum(read + skipped for *_, read, skipped, _ in mine)
        gaps += abs(ends - begins + 1 - passed)
    return {
        "offsets_unaccounted": gaps,
        "messages_unaccounted": abs(sum(row[3] for row in rows) - archived),
        "retention_not_told": abs(lost - sum(row[4] for row in rows if row[5] == "retention")),
    }
