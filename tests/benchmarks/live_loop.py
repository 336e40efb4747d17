"""The live job's work in a plain loop without Beam, and a loop that only counts the messages."""

from __future__ import annotations

import time
import uuid
from collections import defaultdict, deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
from kafka import KafkaConsumer, TopicPartition

from pipeline.connect.kafka import KafkaAddress
from pipeline.sinks.duckdb import DuckDBSink, insert_new, warehouse
from pipeline.sinks.lake.archive import write_messages
from pipeline.sinks.lake.files import write_parquet
from pipeline.sinks.lake.tables import by_day
from pipeline.sources.kafka.client import committed, consumer
from pipeline.sources.kafka.records import Records
from pipeline.sources.live.reader import believed_times
from pipeline.sources.live.watermark import NEVER, Watermark
from pipeline.stores.local import LocalStore
from schemas import profiles
from schemas.reading import READING, WINDOW_STATS
from tests.benchmarks.plain_loop import BATCH, SHARDS, WINDOW_US, Stages
from tests.benchmarks.span import Span
from transforms.batch import stack
from transforms.decode import decode
from transforms.decoded import Decoded
from transforms.enrich import enrich
from transforms.limits import Limits
from transforms.order import by_shard, split_at
from transforms.sequence import sequence
from transforms.summarise import summarise
from transforms.validate import validate

# What was released is written when a second is over, as far as somebody who looks can tell at
# once, or when it is a good transaction of DuckDB's, as much as the job itself gathers.
FLUSH_S = 1.0
FLUSH_ROWS = 150_000
_DISORDER_US = 5_000_000
_LATENESS_US = 300_000_000
_LINGER_S = 0.1

Found = dict[TopicPartition, list[Any]]


def count(address: KafkaAddress, messages: int, span: Span) -> None:
    """Reads so many messages as fast as kafka-python can and only counts them."""
    client = KafkaConsumer(bootstrap_servers=address.servers, metrics_enabled=False)
    take_all(client, address.topic)
    seen = 0
    while seen < messages:
        polled = client.poll(timeout_ms=100, max_records=BATCH)
        if polled:
            span.begin()
        seen += sum(len(records) for records in polled.values())
    span.end()
    client.close()


def take_all(client: KafkaConsumer, topic: str) -> None:
    """Reads all partitions from their beginning; no group has to agree about them first."""
    parts = [TopicPartition(topic, number) for number in client.partitions_for_topic(topic)]
    client.assign(parts)
    client.seek_to_beginning(*parts)


class _Ordered:
    """The readings of all shards that wait for their window, and the tails of those before."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._waiting: dict[int, list[pa.Table]] = defaultdict(list)
        self._tails: dict[int, pa.Table] = {}

    def add(self, valid: pa.Table) -> None:
        for shard, (_, piece) in by_shard(valid, SHARDS):
            self._waiting[shard].append(piece.table)

    def release(self, border: int) -> Iterator[pa.Table]:
        """Everything before `border` (µs), a table a shard."""
        for shard, tables in self._waiting.items():
            due, self._waiting[shard] = split_at(tables, border)
            if due:
                known = self._tails.get(shard)
                out = sequence(stack(due), known, self._limits, border - _LATENESS_US)
                self._tails[shard] = out.tail
                if out.table.num_rows:
                    yield out.table


class _Sinks:
    """Lake and warehouse, and what is gathered for them."""

    def __init__(self, out: Path, topic: str, stages: Stages) -> None:
        self._lake = LocalStore(str(out / "lake"))
        self._raw = f"raw/source={topic}"
        self._path = str(out / "warehouse.duckdb")
        self._stages = stages
        self._readings: list[pa.Table] = []
        self._stats: list[pa.Table] = []
        self.rows = self.written = self.flushes = 0
        DuckDBSink(self._path, profiles.load()).prepare()

    def archive(self, messages: pa.Table) -> None:
        with self._stages.of("archive"):
            write_messages(self._lake, self._raw, messages)

    def add(self, ordered: pa.Table) -> None:
        with self._stages.of("enrich"):
            self._readings.append(enrich(ordered))
        with self._stages.of("summarise"):
            self._stats.append(summarise(ordered, WINDOW_US))
        self.rows += ordered.num_rows

    def flush(self) -> None:
        if not self.rows:
            return
        readings, stats = pa.concat_tables(self._readings), pa.concat_tables(self._stats)
        with self._stages.of("parquet"):
            for day, rows in by_day(readings, "recorded_at"):
                write_parquet(self._lake, f"readings/dt={day}", rows, ["reading_id"])
        with self._stages.of("duckdb"), warehouse(self._path).borrowed() as database:
            database.begin()
            insert_new(database, READING, readings)
            insert_new(database, WINDOW_STATS, stats)
            database.commit()
        self._readings, self._stats = [], []
        self.written += self.rows
        self.rows = 0
        self.flushes += 1

    def close(self) -> None:
        warehouse(self._path).close()


class _Positions:
    """The watermark, and which messages may be committed behind it."""

    def __init__(self, client: KafkaConsumer) -> None:
        self._client = client
        self._watermark = Watermark(_DISORDER_US)
        # Per batch the latest event time in it, µs, and the offsets behind it.
        self._under_way: deque[tuple[int, dict[TopicPartition, int]]] = deque()

    def saw(self, found: Found, decoded: Decoded) -> None:
        """Takes note of a batch."""
        times = believed_times(decoded, time.time_ns() // 1000)
        first = 0
        for part, records in found.items():
            mine = times.latest[(times.rows >= first) & (times.rows < first + len(records))]
            if len(mine):
                self._watermark.saw(part.partition, int(mine.max()))
            first += len(records)
        offsets = {part: records[-1].offset + 1 for part, records in found.items()}
        self._under_way.append((int(times.latest.max(initial=NEVER)), offsets))

    def border(self) -> int:
        """The end of the last window that the watermark has passed, µs."""
        mine = self._client.assignment()
        self._watermark.keep([part.partition for part in mine])
        now_us = time.time_ns() // 1000
        self._watermark.ended({part.partition for part in mine if self._is_read(part)}, now_us)
        return self._watermark.at(now_us) // WINDOW_US * WINDOW_US

    def _is_read(self, part: TopicPartition) -> bool:
        high = self._client.highwater(part)
        return high is not None and self._client.position(part) >= high

    def commit(self, border: int) -> None:
        """Commits the batches whose readings all came before `border` (µs)."""
        offsets: dict[TopicPartition, int] = {}
        while self._under_way and self._under_way[0][0] < border:
            offsets |= self._under_way.popleft()[1]
        if offsets:
            behind = {part: committed(offset) for part, offset in offsets.items()}
            self._client.commit(behind, timeout_ms=5000)


def _polled(client: KafkaConsumer) -> Found:
    """Up to a batch of records; what there is after a tenth of a second."""
    until = time.monotonic() + _LINGER_S
    found: Found = {}
    rows = 0
    while rows < BATCH and (left := until - time.monotonic()) > 0:
        polled = client.poll(timeout_ms=int(left * 1000), max_records=BATCH - rows)
        for part, records in polled.items():
            found.setdefault(part, []).extend(records)
            rows += len(records)
    return found


def run(
    address: KafkaAddress, messages: int, out: Path, span: Span
) -> tuple[dict[str, float], int]:
    """Takes a topic to lake and DuckDB until so many readings are durable.

    Returns:
        CPU seconds per stage, and how often it wrote.
    """
    stages = Stages(time.process_time)
    limits = Limits(profiles.load())
    now_us = time.time_ns() // 1000
    sinks = _Sinks(out, address.topic, stages)
    ordered = _Ordered(limits)
    client = consumer(address, group_id=f"loop-{uuid.uuid4().hex}")
    take_all(client, address.topic)
    records, positions = Records(address.topic, str(address)), _Positions(client)
    flushed_at, released = time.monotonic(), NEVER
    while sinks.written < messages:
        with stages.of("kafka"):
            found = _polled(client)
        if found:
            span.begin()
            with stages.of("pack"):
                raw, _ = records.batch(found)
            with stages.of("decode"):
                decoded, _ = decode(raw)
            with stages.of("watermark"):
                positions.saw(found, decoded)
            sinks.archive(raw.table)
            with stages.of("validate"):
                valid, _ = validate(decoded, limits, now_us)
            with stages.of("shard"):
                ordered.add(valid)
        with stages.of("watermark"):
            border = positions.border()
        if border > released:
            released = border
            for part in _timed(ordered.release(border), stages):
                sinks.add(part)
        if sinks.rows >= FLUSH_ROWS or time.monotonic() - flushed_at >= FLUSH_S:
            sinks.flush()
            with stages.of("commit"):
                positions.commit(released)
            flushed_at = time.monotonic()
    span.end()
    client.close(autocommit=False)
    sinks.close()
    return dict(stages.seconds), sinks.flushes


def _timed(parts: Iterator[pa.Table], stages: Stages) -> Iterator[pa.Table]:
    while True:
        with stages.of("order"):
            part = next(parts, None)
        if part is None:
            return
        yield part
