"""Compares what the job left in lake and warehouse with what lies in the topic."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import duckdb
import orjson
import pyarrow as pa
from kafka import KafkaConsumer, TopicPartition

from tests.endurance.processes import Job, Producer
from tests.services.kafka import Broker

_TRUTH = pa.schema(
    [
        ("partition", pa.int32()),
        ("offset", pa.int64()),
        ("payload", pa.binary()),
        ("equipment_id", pa.string()),
        ("recorded_at", pa.string()),
    ]
)

# Every query counts what must not be.
_CHECKS = {
    # What the broker acknowledged and the topic lacks: the broker's loss, not the job's.
    "acknowledged_not_in_topic": "SELECT count(*) FROM acknowledged ANTI JOIN topic "
    'USING ("partition", "offset")',
    "lost": "SELECT count(*) FROM sent ANTI JOIN readings USING (equipment_id, recorded_at)",
    "invented": "SELECT count(*) FROM readings ANTI JOIN sent USING (equipment_id, recorded_at)",
    "doubled": "SELECT count(*) - count(DISTINCT (equipment_id, recorded_at)) FROM readings",
    "doubled_ids": "SELECT count(*) - count(DISTINCT reading_id) FROM readings",
    "lake_lost": "SELECT count(*) FROM readings ANTI JOIN lake USING (reading_id)",
    "lake_invented": "SELECT count(*) FROM lake ANTI JOIN readings USING (reading_id)",
    "lake_doubled": "SELECT count(*) - count(DISTINCT reading_id) FROM lake",
    "archive_lost": "SELECT count(*) FROM topic ANTI JOIN archive USING (position)",
    "archive_invented": "SELECT count(*) FROM archive ANTI JOIN topic USING (position)",
    "archive_doubled": "SELECT count(*) - count(DISTINCT position) FROM archive",
    "archive_altered": "SELECT count(*) FROM topic JOIN archive USING (position) "
    "WHERE topic.digest IS DISTINCT FROM archive.digest",
    "letters_lost": "SELECT count(*) FROM topic ANTI JOIN dead_letters USING (position) "
    "WHERE equipment_id IS NULL",
    "letters_invented": "SELECT count(*) FROM dead_letters JOIN topic USING (position) "
    "WHERE topic.equipment_id IS NOT NULL",
    "letters_doubled": "SELECT count(*) - count(DISTINCT position) FROM dead_letters",
    "delta_missing": "SELECT count(*) FROM deltas WHERE time_delta_s IS NULL AND expected_s > 0",
    "delta_wrong": "SELECT count(*) FROM deltas WHERE abs(time_delta_s - expected_s) > 1e-4 "
    "OR expected_s IS NULL AND time_delta_s IS NOT NULL",
    "stats_wrong": "SELECT count(*) FROM counted FULL JOIN summed USING (equipment_id, "
    "window_start) WHERE counted.readings IS DISTINCT FROM summed.readings",
}

_VIEWS = """
CREATE VIEW sent AS SELECT equipment_id, recorded_at FROM topic WHERE equipment_id IS NOT NULL;
CREATE VIEW readings AS FROM warehouse.readings;
CREATE VIEW dead_letters AS FROM warehouse.dead_letters;
-- A reading that came late is in its place in the order, but its successor was written before.
CREATE VIEW deltas AS
SELECT *, epoch_us(recorded_at) / 1e6 - epoch_us(lag(recorded_at) OVER turns) / 1e6 AS expected_s
FROM readings
WINDOW turns AS (PARTITION BY equipment_id, test_id ORDER BY recorded_at)
QUALIFY NOT list_contains(quality_flags, 'late')
    AND coalesce(lag(extra) OVER turns, '') NOT LIKE '%sent_late_s%';
CREATE VIEW summed AS
SELECT equipment_id, window_start, sum(readings)::BIGINT AS readings
FROM warehouse.window_stats GROUP BY ALL;
CREATE VIEW windows AS SELECT min(window_end - window_start) AS length FROM warehouse.window_stats;
CREATE VIEW counted AS
SELECT equipment_id, time_bucket((SELECT length FROM windows), recorded_at) AS window_start,
    count(*) AS readings
FROM readings GROUP BY ALL;
"""


class Tables:
    """What was sent and what was written, side by side; a context manager.

    Args:
        broker: the broker.
        topic: the topic; None once it is deleted.
        job: the job, which has ended.
    """

    def __init__(self, broker: Broker, topic: str, job: Job) -> None:
        self._database = duckdb.connect()
        self._database.execute("SET TimeZone = 'UTC'")
        self._database.execute(
            'CREATE TABLE topic ("partition" INT, "offset" BIGINT, position VARCHAR, '
            "digest UBIGINT, equipment_id VARCHAR, recorded_at TIMESTAMPTZ)"
        )
        self._database.execute('CREATE TABLE acknowledged ("partition" INT, "offset" BIGINT)')
        for part in messages(broker, topic):
            self._database.register("part", part)
            self._database.execute(
                'INSERT INTO topic SELECT "partition", "offset", '
                'concat_ws(\'/\', $1, "partition", "offset"), hash(payload), equipment_id, '
                "recorded_at::TIMESTAMPTZ FROM part",
                [topic],
            )
        self._database.execute(f"ATTACH '{job.warehouse}' AS warehouse (READ_ONLY)")
        self._parquet("lake", job.lake / "readings", "reading_id")
        self._parquet("archive", job.lake / "raw", "position, hash(payload) AS digest")
        self._database.execute(_VIEWS)

    def _parquet(self, name: str, folder: Path, columns: str) -> None:
        files = [str(path) for path in folder.rglob("*.parquet")]
        read = f"read_parquet({files}, hive_partitioning = false)"
        source = read if files else "(SELECT NULL AS reading_id, NULL AS position, NULL AS payload)"
        where = "" if files else " WHERE false"
        self._database.execute(f"CREATE TABLE {name} AS SELECT {columns} FROM {source}{where}")

    def acknowledged(self, producers: Sequence[Producer]) -> None:
        """Takes note of what the broker told these producers it has."""
        for producer in producers:
            self._database.execute(
                f"INSERT INTO acknowledged FROM read_csv('{producer.log}', delim = ' ', "
                "header = false, columns = {'partition': 'INT', 'offset': 'BIGINT'})"
            )

    def sql(self, query: str) -> list[tuple[Any, ...]]:
        """The rows of a query on topic, readings, lake, archive, deltas, …"""
        return self._database.execute(query).fetchall()

    def number(self, query: str) -> int:
        """The one number a query answers with."""
        return int(self.sql(query)[0][0])

    def counts(self) -> dict[str, int]:
        """How many messages there are in the topic, and what must not be; see _CHECKS."""
        found = {name: self.number(query) for name, query in _CHECKS.items()}
        return {"messages": self.number("SELECT count(*) FROM topic"), **found}

    def __enter__(self) -> Tables:
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()


def messages(broker: Broker, topic: str) -> Iterator[pa.Table]:
    """Every message of a topic, in tables; equipment and time are null where it is no reading."""
    with KafkaConsumer(
        **broker.client_settings(), fetch_max_wait_ms=100, metrics_enabled=False,
        max_partition_fetch_bytes=8 << 20,
    ) as consumer:  # fmt: skip
        parts = [TopicPartition(topic, at) for at in consumer.partitions_for_topic(topic) or ()]
        consumer.assign(parts)
        consumer.seek_to_beginning()
        ends = consumer.end_offsets(parts)
        while any(consumer.position(part) < ends[part] for part in parts):
            found = consumer.poll(timeout_ms=500, max_records=20_000)
            rows = [
                (record.partition, record.offset, record.value, *_identity(record.value))
                for records in found.values()
                for record in records
            ]
            if rows:
                columns = zip(*rows, strict=True)
                yield pa.table(
                    [pa.array(list(values), field.type)
                     for values, field in zip(columns, _TRUTH, strict=True)],
                    schema=_TRUTH,
                )  # fmt: skip


def _identity(payload: bytes | None) -> tuple[str | None, str | None]:
    try:
        reading = orjson.loads(payload or b"")
        return reading["equipment_id"], reading["recorded_at"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return None, None


def wrong(counts: dict[str, int], but: Sequence[str] = ()) -> dict[str, int]:
    """The counts that are not what they must be, without those named in `but`."""
    return {name: n for name, n in counts.items() if n and name not in ("messages", *but)}
