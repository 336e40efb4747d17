"""Packs Kafka's records into raw batches."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc
from kafka import TopicPartition

from schemas.forms import UTC_MICROSECONDS
from transforms.batch import MESSAGES, BatchKind, Origin, RawBatch


class Records:
    """Packs records of one topic.

    Args:
        topic: the topic, which positions begin with (`topic/3/1702`).
        name: the source as readings' origins carry it.
    """

    def __init__(self, topic: str, name: str) -> None:
        self._topic = topic
        self._name = name

    def batch(
        self, found: Mapping[TopicPartition, Sequence[Any]]
    ) -> tuple[RawBatch, dict[int, int]]:
        """The records as one raw batch, and how many there are of each partition, in its order."""
        counts = {part.partition: len(records) for part, records in found.items()}
        records = [record for part in found for record in found[part]]
        arrived = pa.array([record.timestamp for record in records], pa.int64())
        # A producer's clock may be ahead, and -1 is no time at all: arrived by now is certain.
        now_ms = time.time_ns() // 1_000_000
        unknown = pc.or_(pc.less(arrived, 0), pc.greater(arrived, now_ms))
        arrived = pc.multiply(pc.if_else(unknown, now_ms, arrived), 1000)
        headers = [_named(record.headers) for record in records]
        columns = {
            "payload": pa.array([record.value for record in records], pa.binary()),
            "key": pa.array([record.key for record in records], pa.binary()),
            "attributes": pa.array([_text(found) for found in headers], pa.string()),
            "position": self._positions(found),
            "arrived_at": arrived.cast(UTC_MICROSECONDS),
            # A message that was published from a file says so.
            "source_file": pa.array([found.get("source_file") for found in headers], pa.string()),
        }
        table = pa.table(columns, schema=MESSAGES)
        origin = Origin(self._name, arrived_at_us=arrived[0].as_py())
        return RawBatch(table, BatchKind.MESSAGES, origin), counts

    def _positions(self, found: Mapping[TopicPartition, Sequence[Any]]) -> pa.Array:
        parts = []
        for part, records in found.items():
            offsets = pa.array([record.offset for record in records], pa.int64())
            prefix = f"{self._topic}/{part.partition}"
            parts.append(pc.binary_join_element_wise(prefix, offsets.cast(pa.string()), "/"))
        return pa.concat_arrays(parts)


def _named(headers: Sequence[tuple[str, bytes | None]]) -> dict[str, str | None]:
    return {
        name: None if value is None else value.decode("utf-8", "replace") for name, value in headers
    }


def _text(headers: dict[str, str | None]) -> str | None:
    return orjson.dumps(headers).decode() if headers else None
