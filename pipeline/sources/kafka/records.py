"""Packs Kafka's records into raw batches."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from itertools import repeat
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
from kafka import TopicPartition

from pipeline.sources.kafka.columns import Columns, Headers, Part
from schemas.forms import UTC_MICROSECONDS
from transforms.batch import MESSAGES, BatchKind, Origin, RawBatch
from transforms.framing import readable


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
        self, found: Mapping[TopicPartition, Columns | Sequence[Any]]
    ) -> tuple[RawBatch, dict[int, int]]:
        """The records as one raw batch, and how many there are of each partition, in its order.

        Records are kafka-python's, or columns. One that has a `unpack.Refusal` for a checksum is refused in the batch.
        """
        counts = {part.partition: len(records) for part, records in found.items()}
        columns = [
            each if isinstance(each, Columns) else Columns.of(each) for each in found.values()
        ]
        parts = [part for each in columns for part in each.parts]
        offsets = np.concatenate([part.offsets for part in parts])
        attributes, files = _attributes(parts)
        arrived = pa.array(np.concatenate([part.times for part in parts]))
        # A producer's clock may be ahead, and -1 is no time at all: arrived by now is certain.
        now_ms = time.time_ns() // 1_000_000
        unknown = pc.or_(pc.less(arrived, 0), pc.greater(arrived, now_ms))
        arrived = pc.multiply(pc.if_else(unknown, now_ms, arrived), 1000)
        table = pa.table(
            {
                "payload": _together([part.values for part in parts]),
                "key": _together([part.keys for part in parts]),
                "attributes": attributes,
                "position": self._positions(counts, pa.array(offsets)),
                "arrived_at": arrived.cast(UTC_MICROSECONDS),
                "source_file": files,
            },
            schema=MESSAGES,
        )
        origin = Origin(self._name, arrived_at_us=arrived[0].as_py())
        refused: dict[int, tuple[str, str]] = {}
        behind = 0
        for part in parts:
            refused |= {behind + row: (why[0], why[1]) for row, why in part.whys.items()}
            behind += len(part)
        return RawBatch(table, BatchKind.MESSAGES, origin, refused=refused), counts

    def _positions(self, counts: Mapping[int, int], offsets: pa.Array) -> pa.Array:
        prefixes = pa.array([f"{self._topic}/{number}" for number in counts])
        which = np.repeat(np.arange(len(counts)), list(counts.values()))
        return pc.binary_join_element_wise(
            prefixes.take(pa.array(which)), offsets.cast(pa.string()), "/"
        )


def _together(arrays: Sequence[pa.Array]) -> pa.Array:
    return arrays[0] if len(arrays) == 1 else pa.concat_arrays(arrays)


def _attributes(parts: Sequence[Part]) -> tuple[pa.Array, pa.Array]:
    """The headers as JSON objects, and the file that a message says it was published from."""
    rows = sum(map(len, parts))
    if all(part.headers is None for part in parts):
        return pa.nulls(rows, pa.string()), pa.nulls(rows, pa.string())
    named = [
        _named(each or ())
        for part in parts
        for each in (repeat(None, len(part)) if part.headers is None else part.headers)
    ]
    texts = pa.array([_text(each) for each in named], pa.string())
    return texts, pa.array([each.get("source_file") for each in named], pa.string())


def _named(headers: Headers) -> dict[str, str | None]:
    return {name: None if value is None else readable(value) for name, value in headers}


def _text(headers: dict[str, str | None]) -> str | None:
    return orjson.dumps(headers).decode() if headers else None
