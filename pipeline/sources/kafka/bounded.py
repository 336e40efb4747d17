"""Reads what a Kafka topic holds now: ranges of offsets, for every runner."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
from apache_beam.metrics import Metrics
from kafka import TopicPartition

from pipeline.clock import now_us
from pipeline.connect.kafka import KafkaAddress
from pipeline.errors import SourceFailed
from pipeline.progress import PROGRESS
from pipeline.sources.kafka import transactions
from pipeline.sources.kafka.client import (
    Consumer,
    Ends,
    consumer,
    known_offsets,
    last_offsets,
)
from pipeline.sources.kafka.native import reader
from pipeline.sources.kafka.records import Records
from pipeline.sources.live.offsets import (
    LOST,
    OPEN,
    RETENTION,
    TRUNCATED,
    Gap,
    Span,
    before,
    gap,
    told,
    why_compacted,
)
from pipeline.sources.live.positions import Run, table
from transforms.budget import USUAL, Budget

_log = logging.getLogger(__name__)

_BATCH_ROWS = 20_000
# A client reads one partition here: a batch's rows at a time, if they are packed at all.
_FETCH_BYTES = 4 << 20
# One worker takes this many offsets at a time.
_RANGE = 200_000
_LOOK_S = 0.25
# So many polls in vain, of half a second each, and the log's end is where it seems to be.
_EMPTY = 6
# A topic that is made anew is away for a moment.
_GONE_S = 30.0


# Where partitions ended of which this process found that the log became shorter while it was read.
_shorter: dict[tuple[str, int], int] = {}


@dataclass(frozen=True)
class Range:
    """The offsets `start` to before `stop` of a partition."""

    partition: int
    start: int
    stop: int


@dataclass(frozen=True)
class There:
    """What a topic holds for a group.

    Attributes:
        ranges: what is to be read of each partition.
        gaps: (partition, gap): what is missing before it, or left behind it.
        log: what tells it from another one of its name; None if that is not known.
    """

    ranges: list[Range]
    gaps: list[tuple[int, Gap]]
    log: str | None = None


def what_is_there(
    address: KafkaAddress,
    group: str,
    start: str | int,
    former: str | None = None,
    wait_s: float = 0.0,
) -> There:
    """Per partition what lies between where the group is, or begins, and the end.

    Args:
        address: brokers and topic.
        group: the consumer group.
        start: see `client.first_offsets`.
        former: the group whose offsets count where this one has none.
        wait_s: how long a transaction that is open is waited for.
    """
    for key in [key for key in _shorter if key[0] == str(address)]:
        del _shorter[key]  # of a run before
    client = consumer(address, group_id=group)
    try:
        numbers = sorted(client.partitions_for_topic(address.topic) or ())
        parts = [TopicPartition(address.topic, number) for number in numbers]
        log = client.log(address.topic)
        known = known_offsets(client, address, parts, start, former, group)
        offsets = {part: each.at for part, each in known.items()}
        gaps = [(part.partition, each.gap) for part, each in known.items() if each.gap is not None]
        ends = last_offsets(client, offsets)
        for part, where in client.placed().items():
            offsets[part] = where.at
            if where.gap is not None:
                gaps.append((part.partition, where.gap))
        stops = _committed_by(client, ends, wait_s)
    finally:
        client.close(autocommit=False, timeout_ms=2000)
    ranges = []
    for part in parts:
        stop = max(offsets[part], stops[part])
        ranges.append(Range(part.partition, offsets[part], stop))
        if stop < ends[part].high:
            gaps.append((part.partition, gap(stop, ends[part].high - 1, OPEN)))
    for number, each in gaps:
        if each.reason in LOST:
            _log.warning("%s", told(address.topic, number, each))
        elif each.reason == OPEN:
            then = "are left for the next run"
            what = transactions.told(address.topic, number, each.first, each.offsets, wait_s, then)
            _log.warning("%s", what)
    return There(ranges, gaps, log)


def _committed_by(
    client: Consumer, ends: Mapping[TopicPartition, Ends], wait_s: float
) -> dict[TopicPartition, int]:
    """The end of what is committed of what was there; open transactions are waited for."""
    stops = {part: end.stable for part, end in ends.items()}
    until = time.monotonic() + wait_s
    while left := [part for part, end in ends.items() if stops[part] < end.high]:
        if time.monotonic() > until:
            break
        time.sleep(_LOOK_S)
        # Of a client that reads what is committed it is the end of that.
        for part, stable in client.end_offsets(left).items():
            stops[part] = max(stops[part], min(stable, ends[part].high))
    return stops


def cut(ranges: Iterable[Range]) -> list[Range]:
    """Ranges of a size that one worker takes at a time; partitions take turns."""
    pieces = [
        (at - whole.start, Range(whole.partition, at, min(at + _RANGE, whole.stop)))
        for whole in ranges
        for at in range(whole.start, whole.stop, _RANGE)
    ]
    return [piece for _, piece in sorted(pieces, key=lambda piece: piece[0])]


def ends(ranges: Iterable[Range], address: KafkaAddress | None = None) -> dict[int, int]:
    """What is to be committed when the ranges are done: the next offset per partition.

    With an `address`, of a log that became shorter meanwhile where it ended then: what is written
    there later would otherwise never be read.
    """
    found = {whole.partition: whole.stop for whole in ranges}
    shorter = {number: _shorter.get((str(address), number), stop) for number, stop in found.items()}
    return {number: min(stop, shorter[number]) for number, stop in found.items()}


class ReadRange(beam.DoFn):
    """Ranges → raw batches; `positions` tells what was read of them, and what was passed."""

    def __init__(
        self,
        address: KafkaAddress,
        name: str,
        budget: Budget = USUAL,
        run: str = "",
        compacted: bool | None = None,
        log: str | None = None,
    ) -> None:
        self._log = log
        self._address = address
        self._name = name
        self._budget = budget
        self._run = Run(run, name, address.topic)
        self._compacted = compacted
        self._read = Metrics.counter("account", "read")

    def process(self, piece: Range) -> Iterator[Any]:
        """One range; an outage is waited for."""
        began_us = now_us()
        records = Records(self._address.topic, self._name)
        part = TopicPartition(self._address.topic, piece.partition)
        client = reader(self._address, self._budget, max_partition_fetch_bytes=_FETCH_BYTES)
        reads, gaps, lost, empty = 0, [], [], 0
        rows: list[Any] = []
        first, stop, done = piece.start, piece.stop, 0
        try:
            client.assign([part])
            client.seek(part, piece.start)
            gone = Gone(client, self._address.topic)
            # The position also passes offsets that hold no record (compacted, transactional).
            while (at := client.position(part)) < stop:
                found = client.columns(500, _BATCH_ROWS).get(part)
                mine = found.before(stop) if found else None
                gaps += before(client.skipped().get(part, []), stop)
                moved = client.placed().get(part)
                if moved is not None and moved.gap is not None:
                    # The log has lost them, or is another one, since this run has looked.
                    _log.warning("%s", told(part.topic, part.partition, moved.gap))
                    # Other ranges tell their own part of what retention took.
                    own = moved.gap.reason == RETENTION
                    lost += before([moved.gap], stop) if own else [moved.gap]
                    if moved.at < at:
                        stop = min(stop, client.end_offsets([part])[part])
                        self._ends_before(piece, stop)
                    rows += self._span(piece, first, at, reads, gaps, began_us)
                    first, reads, gaps = moved.at, 0, []
                if found:
                    empty = 0
                else:
                    gone.look()
                    empty += 1
                    end = client.ends(part)
                    at = client.position(part)
                    if empty >= _EMPTY and end is not None and at >= end.high and end.high < stop:
                        # It was longer when this run looked.
                        lost.append(gap(at, stop - 1, TRUNCATED))
                        _log.warning("%s", told(part.topic, part.partition, lost[-1]))
                        stop = at
                        self._ends_before(piece, stop)
                reached = min(client.position(part), stop) - piece.start
                PROGRESS.advance(max(0, reached - done))
                done = max(done, reached)
                if mine:
                    batch, _ = records.batch({part: mine})
                    self._read.inc(len(mine))
                    reads += len(mine)
                    yield batch
        finally:
            client.close(autocommit=False, timeout_ms=2000)
        rows += self._span(piece, first, max(first, stop), reads, gaps, began_us)
        rows += [self._run.of_gap(piece.partition, each, began_us, self._log) for each in lost]
        yield beam.pvalue.TaggedOutput("positions", table(rows))

    def _ends_before(self, piece: Range, stop: int) -> None:
        key = (str(self._address), piece.partition)
        _shorter[key] = min(stop, _shorter.get(key, stop))

    def _span(
        self, piece: Range, first: int, following: int, reads: int, gaps: list[Gap], began_us: int
    ) -> list[Any]:
        named = why_compacted(gaps, self._compacted)
        span = Span(first, following, reads, named, self._log)
        return list(self._run.of_span(piece.partition, span, began_us))


class Gone:
    """Notices that a topic is not there any more; SourceFailed after a while."""

    def __init__(self, client: Consumer, topic: str) -> None:
        self._client = client
        self._topic = topic
        self._since_s: float | None = None

    def look(self) -> None:
        """Looks, after a poll that gave nothing."""
        if self._client.is_there(self._topic):
            self._since_s = None
            return
        now_s = time.monotonic()
        self._since_s = self._since_s or now_s
        if now_s - self._since_s > _GONE_S:
            raise SourceFailed(
                f"the topic {self._topic} was deleted while it was read; what was read before is "
                "written"
            )
