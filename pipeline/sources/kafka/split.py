"""Reads a Kafka topic without end as a splittable source: for Dataflow, Flink and Prism."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.io.restriction_trackers import OffsetRange
from apache_beam.metrics import Metrics
from apache_beam.transforms.window import TimestampedValue
from apache_beam.utils.timestamp import Timestamp
from kafka import TopicPartition
from kafka.errors import KafkaError

from pipeline.clock import now_us
from pipeline.connect.kafka import KafkaAddress
from pipeline.engines.checkpointed import Checkpointed
from pipeline.errors import SourceFailed
from pipeline.sources.kafka.client import (
    Consumer,
    committed,
    consumer,
    known_offsets,
    last_offsets,
)
from pipeline.sources.kafka.columns import Columns
from pipeline.sources.kafka.records import Records
from pipeline.sources.kafka.transactions import WAIT_S, OpenTransactions
from pipeline.sources.live.endless import (
    NO_END,
    NUMBERS,
    WATERMARK,
    Numbers,
    advance,
    go_on,
    moment,
)
from pipeline.sources.live.offsets import Gap, Span, before, told, why_compacted
from pipeline.sources.live.positions import Run, table, without_messages
from pipeline.sources.live.reader import believed_times
from pipeline.sources.live.watermark import NEVER, PATIENCE_US, Watermark
from transforms.batch import RawBatch
from transforms.budget import USUAL, Budget
from transforms.decoded import Decoded
from transforms.rejects import Rejects

_log = logging.getLogger(__name__)

# A job that is updated in place hands on the topics that it reads, pickled when this file was
# `kafka_split` beside the others.
sys.modules.setdefault("pipeline.sources.kafka_split", sys.modules[__name__])

_BATCH_ROWS = 20_000
# A runner passes a batch on when the call that made it is over, and may read a worker's partitions
# one after another: so no call waits long.
_POLL_MS = 50
_PAUSE_S = 0.1
_COMMIT_MS = 2_000
_LOOK_FOR_PARTITIONS_S = 10.0
# While nothing comes, the engine's word is asked for so often.
_WORD_S = 0.5


@dataclass(frozen=True)
class Topic:
    """What every worker needs to know to read.

    Attributes:
        address: brokers and topic.
        group: the consumer group that offsets are committed to.
        start: see `client.first_offsets`.
        name: the source as readings' origins carry it.
        disorder_us: see `Watermark`.
        decode: decodes a raw batch; the watermark needs its event times.
        partitions: how many there were at launch; later ones are read from their beginning.
        commits: whether the runner's word that it has made a bundle its own is to be trusted with
            the offsets; else they are committed when the job has ended.
        budget: what a message may take.
        former: the group whose offsets count where `group` has none.
        compacted: whether the topic is; None if that is not known.
        run: which run it is.
        wait_s: how long an open transaction is waited for without a word.
    """

    address: KafkaAddress
    group: str
    start: str | int
    name: str
    disorder_us: int
    decode: Callable[[RawBatch], tuple[Decoded, Rejects]]
    partitions: int
    commits: bool
    budget: Budget = USUAL
    former: str | None = None
    compacted: bool | None = None
    run: str = ""
    wait_s: float = WAIT_S


# Of the readers in this process, which are all where the runner calls back into it: whether they
# are to come to an end, and the next offset of each partition.
_ending = threading.Event()
_following: dict[int, int] = {}


class _Partitions(beam.DoFn):
    """A topic → (topic, partition number), new ones as they are added."""

    @beam.DoFn.unbounded_per_element()
    def process(  # type: ignore[no-untyped-def]
        self,
        topic: Topic,
        tracker=NUMBERS,
        watermark=WATERMARK,
    ) -> Iterable[tuple[Topic, int]]:
        try:
            client = consumer(topic.address)
            there = len(client.partitions_for_topic(topic.address.topic) or ())
            client.close(autocommit=False, timeout_ms=2000)
        except KafkaError as error:
            _log.warning("looking for new partitions failed, trying again (%s)", error)
            there = 0
        number = tracker.current_restriction().start
        while number < there and tracker.try_claim(number):
            yield topic, number
            number += 1
        # Partitions have times of their own; this step holds nothing back.
        watermark.set_watermark(Timestamp.now())
        go_on(tracker, _LOOK_FOR_PARTITIONS_S, _ending)


class _Reader:
    """One partition's client and watermark, kept by a worker from call to call."""

    def __init__(self, topic: Topic, number: int) -> None:
        self.part = TopicPartition(topic.address.topic, number)
        group = topic.group if topic.commits else None
        self.client: Consumer = consumer(topic.address, topic.budget, group_id=group)
        self.client.assign([self.part])
        self.records = Records(topic.address.topic, topic.name)
        self.disorder_us = topic.disorder_us
        self.watermark = Watermark(topic.disorder_us)
        self._at = 0
        self._open = OpenTransactions(topic.address.topic, topic.wait_s)
        self.gaps: list[Gap] = []
        self.lost: list[Gap] = []
        self.lock = threading.Lock()
        self.checkpointed = Checkpointed()
        self._committed: int | None = None
        self._asked_s = float("-inf")
        # How far event time has come here, and since when there has been nothing left to read.
        self.reached_us = NEVER
        self._ended_us: int | None = None

    def seek(self, offset: int) -> None:
        """Goes to an offset; where that is back, event time begins anew."""
        if offset < self._at:
            self.watermark = Watermark(self.disorder_us)
            self.reached_us = NEVER
        self._at = offset
        if self.client.at(self.part) != offset:
            self.gaps = []
            self.client.seek(self.part, offset)

    def poll(self) -> Columns:
        found = self.client.columns(_POLL_MS, _BATCH_ROWS)
        self.gaps += self.client.skipped().get(self.part, [])
        moved = self.client.placed().get(self.part)
        if moved is not None and moved.gap is not None:
            what = told(self.part.topic, self.part.partition, moved.gap)
            if moved.at < self._at:
                # An engine's reader goes on only.
                raise SourceFailed(f"{what}. For that this runner's job has to be started again")
            _log.warning("%s", what)
            self.lost.append(moved.gap)
        return found.get(self.part, Columns())

    def ended(self) -> bool:
        high = self.client.highwater(self.part)
        return high is not None and self.client.position(self.part) >= high

    def commit(self, offset: int) -> None:
        """Commits an offset if it is another than the last one; warns if that fails."""
        former, self._committed = self._committed, offset
        if former is None or former == offset:
            return  # nothing was read since
        try:
            at = committed(offset, self.client.log(self.part.topic))
            self.client.commit({self.part: at}, timeout_ms=_COMMIT_MS)
        except KafkaError as error:
            self._committed = former
            _log.warning("offset of partition %d not committed (%s)", self.part.partition, error)

    def is_word_due(self, now_s: float) -> bool:
        """Whether the engine is to say when this call's bundle is finished, though it read nothing."""
        if self.checkpointed.is_complete or now_s - self._asked_s < _WORD_S:
            return False
        self._asked_s = now_s
        return True

    def look(self, now_us: int) -> int:
        """How far event time has come. A partition with nothing to read for long holds nothing up.

        The engine takes the least of all partitions', and knows of none that it is idle.
        """
        ended = self.ended()
        at = self.client.at(self.part)
        if at is not None:
            self._open.look(self.part.partition, at, self.client.ends(self.part))
        if not ended:
            self._ended_us = None
        elif self._ended_us is None:
            self._ended_us = now_us
        self.watermark.ended({self.part.partition} if ended else (), now_us)
        found = self.watermark.at(now_us)
        if self._ended_us is not None and now_us - self._ended_us > PATIENCE_US:
            found = max(found, *(each.reached_us for each in list(_readers.values())))
            if found == NEVER:
                found = now_us - PATIENCE_US - self.disorder_us
        self.reached_us = max(self.reached_us, found)
        return self.reached_us


_readers: dict[tuple[str, int], _Reader] = {}
# What was missing where a partition began, until the first batch tells it.
_missing: dict[tuple[str, int], Gap] = {}
_making = threading.Lock()


def _reader(topic: Topic, number: int) -> _Reader:
    key = (str(topic.address), number)
    with _making:
        if key not in _readers:
            _readers[key] = _Reader(topic, number)
        return _readers[key]


class _Offsets(Numbers):
    """Offsets of one partition; the backlog is what is there by now, for autoscaling."""

    def initial_restriction(self, element: tuple[Topic, int]) -> OffsetRange:
        topic, number = element
        part = TopicPartition(topic.address.topic, number)
        client = consumer(topic.address, group_id=topic.group)
        try:
            start = topic.start if number < topic.partitions else "earliest"
            found = known_offsets(client, topic.address, [part], start, topic.former, topic.group)
            offset, missing = found[part].at, found[part].gap
            last_offsets(client, {part: offset})
            if (moved := client.placed().get(part)) is not None:
                offset, missing = moved.at, moved.gap
            if missing is not None:
                _log.warning("%s", told(part.topic, number, missing))
                with _making:
                    _missing[topic.run, number] = missing
        finally:
            client.close(autocommit=False, timeout_ms=2000)
        return OffsetRange(offset, NO_END)

    def restriction_size(self, element: tuple[Topic, int], restriction: OffsetRange) -> int:
        high = None
        reader = _readers.get((str(element[0].address), element[1]))
        if reader is not None:
            high = reader.client.highwater(reader.part)
        return max(1, int(high or restriction.start) - int(restriction.start))


_OFFSETS = beam.DoFn.RestrictionParam(_Offsets())


def claimed(tracker: Any, found: Columns) -> Columns:
    """Those messages of `found`, the next of a restriction, that are this bundle's."""
    if not found or tracker.try_claim(found.last):
        return found
    # Nothing beyond can be claimed any more, so that its end stays where it is, and all before it has
    # to be given.
    return found.before(tracker.current_restriction().stop)


class _Read(beam.DoFn):
    """(topic, partition number) → raw batches, with event-time watermarks."""

    def __init__(self) -> None:
        self._read = Metrics.counter("account", "read")

    @beam.DoFn.unbounded_per_element()
    def process(  # type: ignore[no-untyped-def]
        self, element: tuple[Topic, int], tracker=_OFFSETS, watermark=WATERMARK
    ) -> Iterable[TimestampedValue]:
        yield from self._poll(element, tracker, watermark)

    def _poll(
        self, element: tuple[Topic, int], tracker: Any, watermark: Any
    ) -> Generator[TimestampedValue, None, int | None]:
        """One poll's messages; returns the next offset if it passed any, or some are lost."""
        topic, number = element
        reader = _reader(topic, number)
        following: int | None = None
        with reader.lock:
            reader.seek(tracker.current_restriction().start)
            found = reader.poll()
            mine = claimed(tracker, found)
            if mine:
                start = tracker.current_restriction().start
                following = _following[number] = mine.last + 1
                yield self._batch(topic, number, reader, mine, start)
            else:
                # Offsets that hold no record are passed too, or they would be fetched for ever.
                # Not those of a record that another bundle is to read.
                at = None if found else reader.client.at(reader.part)
                if (
                    at is not None
                    and at > tracker.current_restriction().start
                    and tracker.try_claim(at - 1)
                ):
                    following = _following[number] = at
                lost = [] if at is None else self._lost(topic, number, reader)
                if at is not None and lost:
                    # Told and committed though nothing follows, or the next run misses it again.
                    following = _following[number] = at
                    yield self._told(topic, number, reader, lost)
            advance(watermark, reader.look(now_us()))
        go_on(tracker, 0 if mine else _PAUSE_S, _ending)
        return following

    def _batch(
        self, topic: Topic, number: int, reader: _Reader, records: Columns, start: int
    ) -> TimestampedValue:
        batch, _ = reader.records.batch({reader.part: records})
        decoded = topic.decode(batch)
        self._read.inc(len(records))
        at = reader.watermark.at(0)
        latest = believed_times(decoded[0], now_us()).latest
        if len(latest):
            reader.watermark.saw(number, int(latest.max()))
        positions = self._positions(topic, number, reader, records, start)
        batch = replace(batch, ahead=decoded, positions=positions)
        return TimestampedValue(batch, moment(at))

    def _told(
        self, topic: Topic, number: int, reader: _Reader, lost: list[Gap]
    ) -> TimestampedValue:
        """A batch without messages that tells what is lost."""
        run = Run(topic.run, topic.name, topic.address.topic)
        log = reader.client.log(topic.address.topic)
        batch = without_messages([run.of_gap(number, gap, now_us(), log) for gap in lost])
        return TimestampedValue(batch, moment(reader.watermark.at(0)))

    @staticmethod
    def _lost(topic: Topic, number: int, reader: _Reader) -> list[Gap]:
        """What was lost since this was asked last."""
        lost, reader.lost = reader.lost, []
        with _making:
            missing = _missing.pop((topic.run, number), None)
        return lost if missing is None else [*lost, missing]

    def _positions(
        self, topic: Topic, number: int, reader: _Reader, records: Columns, start: int
    ) -> pa.Table:
        """The rows of what one batch holds; they are brought together behind it."""
        following = records.last + 1
        lost = self._lost(topic, number, reader)
        # What was lost on the way is no part of what was read.
        start = max([start, *(gap.last + 1 for gap in lost if gap.last < records.first)])
        gaps = why_compacted(before(reader.gaps, following), topic.compacted)
        reader.gaps = []
        run = Run(topic.run, topic.name, topic.address.topic)
        at_us, log = now_us(), reader.client.log(topic.address.topic)
        rows = run.of_span(number, Span(start, following, len(records), gaps, log), at_us)
        return table(rows + [run.of_gap(number, gap, at_us, log) for gap in lost])


class _ReadAndCommit(_Read):
    """The same; commits offsets when the engine surely has what was read in a checkpoint."""

    @beam.DoFn.unbounded_per_element()
    def process(  # type: ignore[no-untyped-def]
        self,
        element: tuple[Topic, int],
        finalizer=beam.DoFn.BundleFinalizerParam,  # Beam wants it before the other two
        tracker=_OFFSETS,
        watermark=WATERMARK,
    ) -> Iterable[TimestampedValue]:
        reader = _reader(*element)
        known, start = reader.checkpointed, int(tracker.current_restriction().start)
        with reader.lock:
            known.begin(start)
            reader.commit(known.through)
        following = yield from self._poll(element, tracker, watermark)
        if following is not None:
            known.did(following)
        if following is not None or reader.is_word_due(time.monotonic()):
            finalizer.register(partial(known.heard, known.word()))


def end() -> None:
    """Lets the readers in this process come to an end."""
    _ending.set()


def read_to() -> dict[int, int]:
    """The next offset of every partition that was read in this process."""
    return dict(_following)


def lag() -> int | None:
    """Messages left to read in the partitions that are read in this process; None if that is unknown."""
    left = []
    for reader in list(_readers.values()):
        high, at = reader.client.highwater(reader.part), reader.client.at(reader.part)
        if high is None or at is None:
            return None
        left.append(max(0, high - at))
    return sum(left) if left else None


def reached_us() -> int | None:
    """How far event time has come in them, µs since 1970; None where none is read here."""
    return min((reader.reached_us for reader in list(_readers.values())), default=None)


class ReadSplit(beam.PTransform):
    """Raw batches of a topic, for runners that keep a source's position themselves.

    Offsets are committed to the group when a checkpoint surely has what was read (`checkpointed`).
    """

    def __init__(self, topic: Topic) -> None:
        super().__init__()
        self._topic = topic

    def expand(self, begin: beam.pvalue.PBegin) -> beam.PCollection:
        """Adds the steps."""
        _ending.clear()
        _following.clear()
        _readers.clear()
        read = _ReadAndCommit() if self._topic.commits else _Read()
        return (
            begin
            | "Topic" >> beam.Create([self._topic])
            | "Partitions" >> beam.ParDo(_Partitions())
            | "Spread" >> beam.Reshuffle()
            | "Read" >> beam.ParDo(read).with_output_types(RawBatch)
        )
