"""Reads what a Kafka topic holds now: ranges of offsets, for every runner."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import apache_beam as beam
from apache_beam.metrics import Metrics
from kafka import TopicPartition

from pipeline.connect.kafka import KafkaAddress
from pipeline.progress import PROGRESS
from pipeline.sources.kafka_client import consumer, first_offsets, last_offsets
from pipeline.sources.kafka_records import Records
from transforms.batch import RawBatch
from transforms.budget import USUAL, Budget

_log = logging.getLogger(__name__)

_BATCH_ROWS = 20_000
# One worker takes this many offsets at a time.
_RANGE = 200_000


@dataclass(frozen=True)
class Range:
    """The offsets `start` to before `stop` of a partition."""

    partition: int
    start: int
    stop: int


def what_is_there(address: KafkaAddress, group: str, start: str | int) -> list[Range]:
    """Per partition what lies between where the group is, or begins, and the end."""
    client = consumer(address, group_id=group)
    try:
        numbers = sorted(client.partitions_for_topic(address.topic) or ())
        parts = [TopicPartition(address.topic, number) for number in numbers]
        offsets = {part: client.committed(part) for part in parts}
        unread = [part for part in parts if offsets[part] is None]
        offsets |= first_offsets(client, unread, start)
        # What retention has taken in the meantime is not there any more.
        oldest = client.beginning_offsets(parts)
        offsets = {part: max(offset, oldest[part]) for part, offset in offsets.items()}
        ends = last_offsets(client, offsets)
    finally:
        client.close(autocommit=False, timeout_ms=2000)
    return [Range(part.partition, offsets[part], ends[part]) for part in parts]


def cut(ranges: Iterable[Range]) -> list[Range]:
    """Ranges of a size that one worker takes at a time; partitions take turns."""
    pieces = [
        (at - whole.start, Range(whole.partition, at, min(at + _RANGE, whole.stop)))
        for whole in ranges
        for at in range(whole.start, whole.stop, _RANGE)
    ]
    return [piece for _, piece in sorted(pieces, key=lambda piece: piece[0])]


def ends(ranges: Iterable[Range]) -> Mapping[int, int]:
    """What is to be committed when the ranges are done: the next offset per partition."""
    return {whole.partition: whole.stop for whole in ranges}


class ReadRange(beam.DoFn):
    """Ranges → raw batches."""

    def __init__(self, address: KafkaAddress, name: str, budget: Budget = USUAL) -> None:
        self._address = address
        self._name = name
        self._budget = budget
        self._read = Metrics.counter("account", "read")

    def process(self, piece: Range) -> Iterator[RawBatch]:
        """One range; an outage is waited for."""
        records = Records(self._address.topic, self._name)
        part = TopicPartition(self._address.topic, piece.partition)
        client = consumer(self._address, self._budget)
        try:
            client.assign([part])
            client.seek(part, piece.start)
            # The position also passes offsets that hold no record (compacted, transactional).
            while client.position(part) < piece.stop:
                found = client.poll(timeout_ms=500, max_records=_BATCH_ROWS).get(part, [])
                mine = [record for record in found if record.offset < piece.stop]
                if mine:
                    batch, _ = records.batch({part: mine})
                    self._read.inc(len(mine))
                    PROGRESS.advance(len(mine))
                    yield batch
        finally:
            client.close(autocommit=False, timeout_ms=2000)
