"""librdkafka fetches what is plain; whatever else there is, kafka-python reads from there on."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from kafka import TopicPartition
from kafka.errors import KafkaError
from kafka.structs import OffsetAndMetadata

from pipeline.connect.kafka import COMMITTED, KafkaAddress, native_settings
from pipeline.sources.kafka.client import Consumer, Ends, consumer
from pipeline.sources.kafka.columns import Columns, Part
from pipeline.sources.kafka.unpack import POLL_BYTES
from transforms.budget import USUAL, Budget

rd: Any = None  # where no wheel fits this machine
with suppress(ImportError):
    import confluent_kafka

    rd = confluent_kafka

_log = logging.getLogger(__name__)

KAFKA_PYTHON = "kafka-python"
LIBRDKAFKA = "librdkafka"
CLIENTS = (KAFKA_PYTHON, LIBRDKAFKA)

# One call's messages; it ends early where they are large, so that a poll stays within its bytes.
_TAKE = 4_000
_TAKE_LEAST = 50
# Where kafka-python reads too, neither is waited for longer.
_BOTH_S = 0.02
# So many plain messages, and librdkafka goes on; twice as many each time that was too soon.
_PLAIN = 5_000
_PLAIN_MOST = 320_000
# A partition with more to read that gives nothing for so long, s; and how often ends are asked for.
_STALLED_S = 3.0
_LOOK_S = 5.0
# A poll that comes later than this was not waited for by librdkafka alone.
_AWAY_S = 1.0
# What a record takes beside key, value and headers, at most.
_FRAME_BYTES = 64

_SETTINGS = {
    "group.id": "battery-pipeline",  # it joins none; the client wants a name
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    # An offset that is not there is kafka-python's to place.
    "auto.offset.reset": "error",
    "enable.partition.eof": True,
    "check.crcs": True,
    "allow.auto.create.topics": False,
    "fetch.wait.max.ms": 100,
    # Its second costs a second whenever the queue was full.
    "fetch.queue.backoff.ms": 2,
    # What is fetched ahead; what lies beyond a range's end is fetched in vain.
    "queued.min.messages": 20_000,
    "queued.max.messages.kbytes": POLL_BYTES // 1024,
    "max.partition.fetch.bytes": 1 << 20,
    "fetch.max.bytes": POLL_BYTES,
    # Also the most that it unpacks of a batch, but for gzip.
    "receive.message.max.bytes": 100_000_000,
    "topic.metadata.refresh.interval.ms": 5_000,
    "reconnect.backoff.max.ms": 1_000,
    "log.connection.close": False,
}


def is_there() -> bool:
    """Whether librdkafka can be used here."""
    return rd is not None


def reader(address: KafkaAddress, budget: Budget = USUAL, **settings: Any) -> Consumer:
    """A consumer whose messages librdkafka fetches where the address asks for it, else kafka-python.

    Not by itself: librdkafka makes every message of a batch before anybody sees one, so that a batch
    of very many tiny ones takes memory that no limit here bounds.

    Args:
        address: brokers and topic.
        budget: what a message may take.
        settings: kafka-python's.
    """
    if address.parameters.get("client") != LIBRDKAFKA:
        return consumer(address, budget, **settings)
    found = consumer(address, budget, Fast, **settings)
    assert isinstance(found, Fast)
    found.begin(address)
    return found


def _logger() -> logging.Logger:
    """Takes what librdkafka says of its connections; what matters is told by whoever reads."""
    found = logging.getLogger("librdkafka")
    if not found.handlers:
        found.addHandler(logging.NullHandler())
        found.propagate = False
    return found


@dataclass
class _Slow:
    """A partition that kafka-python reads, until it has given so many plain messages."""

    left: int


class Fast(Consumer):
    """kafka-python for groups, commits and positions; librdkafka for the messages that are plain.

    Plain is what follows offset by offset, is whole, and is no larger than the budget has it. At
    anything else (an offset that holds no message, a damaged batch, an offset that is not there, a
    partition that gives nothing) kafka-python goes on with the partition at that very offset, and
    finds out what it is; after a stretch of plain messages librdkafka has it back.
    """

    _rd: Any = None

    def begin(self, address: KafkaAddress) -> None:
        """Starts librdkafka; it fetches nothing yet."""
        self._address = address
        self._committed = address.parameters.get("isolation", COMMITTED) == COMMITTED
        self._budget = self._fetcher._budget
        # The next offset that librdkafka gives of each partition that is its own.
        self._at: dict[TopicPartition, int] = {}
        # Where it said that there is no more, and when it was last known to be well.
        self._eof: dict[TopicPartition, int] = {}
        self._well: dict[TopicPartition, float] = {}
        self._slow: dict[TopicPartition, _Slow] = {}
        self._wait: dict[TopicPartition, int] = {}
        self._said = False
        self._size = 0
        self._each = 500
        self._polled_s = self._looked_s = time.monotonic()
        settings = {
            **_SETTINGS,
            "bootstrap.servers": ",".join(address.servers),
            "isolation.level": address.parameters.get("isolation", COMMITTED),
            **native_settings(address.environment),
        }
        self._rd = rd.Consumer(settings, logger=_logger(), error_cb=lambda _error: None)
        self._fetcher.leaves = self._is_fast

    def _is_fast(self, part: TopicPartition) -> bool:
        return part not in self._slow

    @property
    def slow(self) -> Collection[TopicPartition]:
        """The partitions that kafka-python reads."""
        return self._slow.keys()

    def columns(self, timeout_ms: int, most: int) -> dict[TopicPartition, Columns]:
        """Messages of the next offsets, `most` at the most."""
        self._size = 0
        self._share_out()
        if not self._at or self._joins():
            # As kafka-python has it: nothing is given while the group shares out, for nothing can
            # be committed then.
            found = super().columns(timeout_ms, most)
            self._seen(found)
            return found
        found = super().columns(0, most)
        self._seen(found)
        if self._joins():
            return found
        # Positions may have moved, or partitions gone, meanwhile.
        self._share_out()
        left_s = 0.0 if found else timeout_ms / 1000
        if self._slow:
            left_s = min(left_s, _BOTH_S)
        for part, more in self._take(left_s, most - sum(map(len, found.values()))).items():
            found[part] = more
        self._look()
        return found

    def _joins(self) -> bool:
        """Whether the group shares out its partitions, or is about to."""
        group = self._coordinator
        member = self.config["group_id"] is not None and bool(self._subscription.subscription)
        return member and (group.rejoining or group.need_rejoin())

    def _share_out(self) -> None:
        """Tells librdkafka which partitions are its own now, and from where."""
        states = dict(self._subscription.assignment)
        now_s = time.monotonic()
        wanted = {
            part: state.position.offset
            for part, state in states.items()
            if part not in self._slow and state.is_fetchable()
        }
        kept = set(wanted)
        if not wanted:
            # All of them rest: what was fetched ahead is kept.
            kept = {p for p, at in self._at.items() if p in states and self._still(p, at)}
        gone = [
            part for part, at in self._at.items() if part not in kept or wanted.get(part, at) != at
        ]
        if gone:
            self._give_back(gone)
        fresh = [(part, at) for part, at in wanted.items() if part not in self._at]
        if fresh:
            self._rd.incremental_assign(
                [rd.TopicPartition(part.topic, part.partition, at) for part, at in fresh]
            )
            for part, at in fresh:
                self._at[part], self._well[part] = at, now_s
        if now_s - self._polled_s > _AWAY_S:
            self._well = dict.fromkeys(self._well, now_s)
        self._polled_s = now_s

    def _still(self, part: TopicPartition, at: int) -> bool:
        state = self._subscription.assignment.get(part)
        return state is not None and state.position is not None and state.position.offset == at

    def _give_back(self, parts: Collection[TopicPartition]) -> None:
        self._rd.incremental_unassign(
            [rd.TopicPartition(part.topic, part.partition) for part in parts]
        )
        for part in parts:
            self._at.pop(part, None)
            self._eof.pop(part, None)
            self._well.pop(part, None)

    def _leave(self, part: TopicPartition, why: str) -> None:
        """Lets kafka-python read a partition from where it stands."""
        if part in self._slow:
            return
        self._give_back([part])
        wait = self._wait.get(part, _PLAIN)
        self._slow[part] = _Slow(wait)
        self._wait[part] = min(2 * wait, _PLAIN_MOST)
        say = _log.debug if self._said else _log.info
        self._said = True
        say(
            "topic %s, partition %d: %s; kafka-python reads on from there, more slowly",
            part.topic, part.partition, why,
        )  # fmt: skip

    def _seen(self, found: Mapping[TopicPartition, Columns]) -> None:
        """Gives librdkafka back what kafka-python has read a stretch of without finding anything."""
        for part, each in list(self._slow.items()):
            if part not in self._subscription.assignment:
                del self._slow[part]
                continue
            came = found.get(part)
            if self._fetcher.skipped.get(part) or (came is not None and came.has_refused):
                each.left = self._wait[part]
            elif came is not None:
                each.left -= len(came)
            if each.left <= 0:
                del self._slow[part]

    def _take(self, wait_s: float, most: int) -> dict[TopicPartition, Columns]:
        """What librdkafka has, or gets within a time."""
        found: dict[TopicPartition, Columns] = {}
        rows = 0
        while self._at and rows < most and self._size < POLL_BYTES:
            count = max(_TAKE_LEAST, min(_TAKE, (POLL_BYTES - self._size) // self._each))
            count = min(count, most - rows)
            try:
                got = self._rd.consume(count, 0.0 if rows else min(wait_s, 0.005))
                if not got and not rows and wait_s > 0.005:
                    # One of them ends the wait, where many would be waited for to the end.
                    got = self._rd.consume(1, wait_s - 0.005)
                    got += self._rd.consume(max(1, count - 1), 0.0) if got else []
            except (rd.KafkaException, RuntimeError) as error:
                _logger().warning("%s", error)
                break
            if not got:
                break
            rows += self._sort(got, found)
            if len(got) < count:
                break
        return found

    def _sort(self, got: list[Any], found: dict[TopicPartition, Columns]) -> int:
        """Puts messages to those of their partitions; returns how many."""
        numbers = [message.partition() for message in got]
        first, rows, topic = 0, 0, self._address.topic
        for number, stretch in groupby(numbers):
            last = first + sum(1 for _ in stretch)
            part = TopicPartition(topic, number)
            rows += self._plain(part, got[first:last], found)
            first = last
        return rows

    def _plain(
        self, part: TopicPartition, got: list[Any], found: dict[TopicPartition, Columns]
    ) -> int:
        """Takes messages of one partition up to the first thing that is no plain message."""
        at = self._at.get(part)
        if at is None:
            return 0
        if not self._still(part, at):
            self._give_back([part])
            return 0
        why, ended = None, None
        if any(errors := [message.error() for message in got]):
            place = next(i for i, error in enumerate(errors) if error is not None)
            code = errors[place].code()
            if code == rd.KafkaError._PARTITION_EOF:
                ended = got[place].offset()
                if any(error is not None for error in errors[place + 1 :]) or place + 1 < len(got):
                    # More came behind it.
                    return self._plain(part, got[: place + 1], found) + self._plain(
                        part, got[place + 1 :], found
                    )
            else:
                why = f"offset {at + place:,} can't be read ({errors[place].name()})"
            got = got[:place]
        rows = 0
        if got:
            offsets = [message.offset() for message in got]
            if offsets[0] != at or offsets[-1] - at != len(got) - 1:
                count = next(i for i, offset in enumerate(offsets) if offset != at + i)
                why = f"offset {at + count:,} holds no message"
                got, offsets = got[:count], offsets[:count]
        if got:
            try:
                columns, size, large = self._columns(got, offsets)
            except (UnicodeError, SystemError):  # by whom the error is noticed
                columns, large, why = None, True, f"a message from offset {at:,} on has odd headers"
            if large:
                # Before one of them: which, kafka-python says.
                why = why if columns is None else f"a large message from offset {at:,} on"
            else:
                assert columns is not None
                rows = len(got)
                self._size += size
                self._each = max(100, size // rows)
                if part in found:
                    found[part].extend(columns)
                else:
                    found[part] = columns
                epoch = got[-1].leader_epoch()
                self._go_on(part, at + rows, -1 if epoch is None else epoch)
        at = self._at[part]
        if ended is not None and why is None:
            if ended > at:
                why = f"offset {at:,} holds no message"
            else:
                self._eof[part] = at
                self._well[part] = time.monotonic()
        if why is not None:
            self._leave(part, why)
        return rows

    def _go_on(self, part: TopicPartition, at: int, epoch: int) -> None:
        state = self._subscription.assignment.get(part)
        if state is not None:
            state.position = OffsetAndMetadata(at, "", epoch)
        self._at[part] = at
        self._eof.pop(part, None)
        self._well[part] = time.monotonic()

    def _columns(self, got: list[Any], offsets: list[int]) -> tuple[Columns, int, bool]:
        """The columns of messages, their bytes, and whether one may be over the budget."""
        values = [message.value() for message in got]
        keys = [message.key() for message in got]
        headers = [message.headers() for message in got]
        times = [message.timestamp()[1] for message in got]
        sizes = [len(v or b"") + len(k or b"") for v, k in zip(values, keys, strict=True)]
        largest = max(sizes)
        if any(headers):
            largest += max(
                sum(len(name) + len(value or b"") + 10 for name, value in each or ())
                for each in headers
            )
        large = largest + _FRAME_BYTES > self._budget.message_bytes
        columns = Columns([Part.listed(offsets, times, keys, values, headers)])
        return columns, sum(sizes), large

    def _look(self) -> None:
        """Finds out whether a partition gives nothing though there is more."""
        now_s = time.monotonic()
        if self._eof and now_s - self._looked_s > _LOOK_S:
            self._looked_s = now_s
            ended = [part for part, at in self._eof.items() if self._still(part, at)]
            try:
                ends = self.end_offsets(ended, timeout_ms=500) if ended else {}
            except KafkaError:
                ends = {}  # an outage is told by others
            for part, end in ends.items():
                if end <= self._at.get(part, end):
                    self._well[part] = now_s
                else:
                    self._eof.pop(part, None)
        for part, at in list(self._at.items()):
            ended_at = self._eof.get(part)
            high = self._high(part)
            if ended_at == at and (high is None or high <= at):
                if now_s - self._looked_s < _LOOK_S:
                    self._well[part] = now_s
            elif now_s - self._well[part] > _STALLED_S:
                self._leave(part, f"nothing comes from offset {at:,} on")

    def _high(self, part: TopicPartition) -> int | None:
        """The offset behind a partition's last record, as its last fetch told."""
        try:
            where = rd.TopicPartition(part.topic, part.partition)
            found = self._rd.get_watermark_offsets(where, cached=True)
        except rd.KafkaException:
            return None
        return int(found[1]) if found is not None and found[1] >= 0 else None

    def ends(self, part: TopicPartition) -> Ends | None:
        """Where a partition ends, as its last fetch told; None before the first."""
        at = self._at.get(part)
        if at is None:
            return super().ends(part)
        high = self._high(part)
        if high is None:
            return None
        high = max(high, at)
        # It says that nothing is left where only what is not committed is.
        held = self._committed and self._eof.get(part) == at
        return Ends(at if held else high, high)

    def highwater(self, partition: TopicPartition) -> int | None:
        """The offset behind what may be read of a partition."""
        if partition not in self._at:
            return super().highwater(partition)  # type: ignore[no-any-return]
        found = self.ends(partition)
        return None if found is None else found.stable

    @property
    def polled_bytes(self) -> int:
        """Bytes of what the last poll gave."""
        return super().polled_bytes + self._size

    def close(self, *args: Any, **named: Any) -> None:
        """Leaves the group, and disconnects."""
        client, self._rd = self._rd, None
        try:
            super().close(*args, **named)
        finally:
            if client is not None:
                client.close()
