"""Kafka's clients as the sources use them, and the offsets at which reading begins and ends."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

from kafka import KafkaConsumer, OffsetAndMetadata, TopicPartition, errors
from kafka.consumer.fetcher import Fetcher
from kafka.errors import CorruptRecordError, KafkaError, NoError
from kafka.protocol.consumer import IsolationLevel
from kafka.record import MemoryRecords

from pipeline.connect.kafka import COMMITTED, KafkaAddress, client_settings
from pipeline.sources.kafka.columns import Columns
from pipeline.sources.kafka.unpack import POLL_BYTES, Unpacked
from pipeline.sources.live.offsets import Gap, Placed, placed, replaced
from transforms.budget import USUAL, Budget

_log = logging.getLogger(__name__)

# A new partition's readings wait until it is found.
_NEW_PARTITIONS_MS = 5_000
_ENDS_S = 5.0
_CALL_MS = 10_000
# So often an offset is asked for that the broker can't read itself, before it is stepped over.
_TRIES = 5
# What the job's own commits begin with in the place for notes; see `Consumer.log`.
_MARK = "log "


class Ends(NamedTuple):
    """Where a partition ends, as its last fetch told.

    Attributes:
        stable: the offset behind what may be read: before the first open transaction, where only
            what is committed is read.
        high: the offset behind its last record.
    """

    stable: int
    high: int


class _Fetcher(Fetcher):  # type: ignore[misc,unused-ignore]
    """The client's fetcher; what can't be read stops nobody, and a poll has a bound of bytes."""

    PartitionRecords = Unpacked

    def __init__(self, budget: Budget, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self._budget = budget
        self.left = POLL_BYTES
        # Whether records are given as columns, of each partition in pieces.
        self.as_columns = False
        # Per partition the offset that the broker could not read last, and how often.
        self._unread: dict[TopicPartition, tuple[int, int]] = {}
        self.ends: dict[TopicPartition, Ends] = {}
        # What was passed without a message since somebody asked for it.
        self.skipped: dict[TopicPartition, list[Gap]] = {}
        # Which partitions somebody else fetches.
        self.leaves: Callable[[TopicPartition], bool] = lambda _part: False

    def _fetchable_partitions(self) -> list[TopicPartition]:
        return [part for part in super()._fetchable_partitions() if not self.leaves(part)]

    def fetched_records(self, *args: Any, **named: Any) -> Any:
        """Records of what has come, of about POLL_BYTES at most."""
        self.left = POLL_BYTES
        return super().fetched_records(*args, **named)

    def _append(self, drained: Any, part: Unpacked, max_records: int, update_offsets: bool) -> int:
        before, part.most_bytes = part.bytes_read, self.left
        part.as_columns = self.as_columns
        count: int = super()._append(drained, part, max_records, update_offsets)
        self.left -= part.bytes_read - before
        if part.skipped:
            self.skipped.setdefault(part.topic_partition, []).extend(part.skipped)
            part.skipped = []
        # As many as were asked for end the poll.
        return count if self.left > 0 else max_records

    def _parse_fetched_data(self, completed: Any) -> Unpacked | None:
        data, found = completed.partition_data, None
        try:
            found = super()._parse_fetched_data(completed)
        except KafkaError:
            if data.error_code == NoError.errno:
                why = "the length of its batch is damaged"
            elif data.error_code == CorruptRecordError.errno:
                why = "the broker can't read it (CORRUPT_MESSAGE)"
                if not self._tried_enough(completed.topic_partition, completed.fetched_offset):
                    return None
            else:
                raise
            found = self._none_of(completed)
            found.step_over(why)
        if found is not None:
            found.budget = self._budget
            found.high = data.high_watermark if data.high_watermark >= 0 else None
            self._note_ends(completed.topic_partition, data)
        return found

    def _note_ends(self, part: TopicPartition, data: Any) -> None:
        """What can't be read yet is not there yet: the end is before the first open transaction."""
        high = data.high_watermark
        if high < 0 or not self._subscriptions.is_assigned(part):
            return
        stable = data.last_stable_offset
        committed = self._isolation_level == IsolationLevel.READ_COMMITTED
        stable = stable if committed and stable is not None and stable >= 0 else high
        self.ends[part] = Ends(min(stable, high), high)
        self._subscriptions.assignment[part].highwater = min(stable, high)

    def _none_of(self, completed: Any) -> Unpacked:
        return Unpacked(
            completed.fetched_offset,
            completed.topic_partition,
            MemoryRecords(b""),
            on_drain=self._on_partition_records_drain,
        )

    def _tried_enough(self, part: TopicPartition, offset: int) -> bool:
        """Whether a broker has refused an offset often enough, or the one before it just now."""
        at, tries = self._unread.get(part, (offset, 0))
        if at != offset:
            tries = _TRIES - 1 if (at == offset - 1 and tries >= _TRIES) else 0
        self._unread[part] = offset, tries + 1
        return tries + 1 >= _TRIES


class Consumer(KafkaConsumer):  # type: ignore[misc,unused-ignore]
    """The client, which steps over what it can't read; see `unpack`.

    Args:
        budget: what a message may take.
        settings: the client's.
    """

    def __init__(self, budget: Budget, **settings: Any) -> None:
        super().__init__(**settings)
        # In the place of its own, which has just been made and has fetched nothing.
        self._fetcher = _Fetcher(
            budget, self._client, self._subscription, metrics=self._metrics, **self.config
        )
        # The client's own rule would go on in silence; see `placed`.
        self._subscription.has_default_offset_reset_policy = lambda: False
        # Where the log had not what was to be read, since somebody asked for it.
        self._placed: dict[TopicPartition, Placed] = {}

    def poll(self, *args: Any, **named: Any) -> Any:
        """Records; where the log has not what was asked for it reads on by the rule `placed`."""
        try:
            return super().poll(*args, **named)
        except errors.OffsetOutOfRangeError as error:
            self._place(dict(error.args[0]))
        except errors.LogTruncationError as error:
            self._place_behind(error.divergent_offsets)
        return {}

    def columns(self, timeout_ms: int, most: int) -> dict[TopicPartition, Columns]:
        """The same as columns, `most` messages at the most."""
        self._fetcher.as_columns = True
        try:
            found = self.poll(timeout_ms=timeout_ms, max_records=most)
        finally:
            self._fetcher.as_columns = False
        return {
            part: Columns([p for each in pieces for p in each.parts])
            for part, pieces in found.items()
        }

    def rest(self) -> None:
        """Stays what it is, while all partitions are paused."""
        self.poll(timeout_ms=0)

    def position(self, *args: Any, **named: Any) -> Any:
        """The next offset of a partition; by the rule `placed` where the log was cut off."""
        try:
            return super().position(*args, **named)
        except errors.LogTruncationError as error:
            self._place_behind(error.divergent_offsets)
        return super().position(*args, **named)

    def _place(self, asked: Mapping[TopicPartition, int]) -> None:
        first = self.beginning_offsets(list(asked), timeout_ms=_CALL_MS)
        ends = self.end_offsets(list(asked), timeout_ms=_CALL_MS)
        for part, offset in asked.items():
            # The broker has refused it, wherever the end seems to be by now.
            end = ends[part] if offset < first[part] else min(ends[part], offset - 1)
            self.go_to(part, placed(offset, first[part], end))

    def _place_behind(self, divergent: Mapping[TopicPartition, OffsetAndMetadata | None]) -> None:
        """The log was cut off at an offset, or is another one, as its leader's history says."""
        first = self.beginning_offsets(list(divergent), timeout_ms=_CALL_MS)
        for part, cut in divergent.items():
            state = self._subscription.assignment.get(part)
            # It may have gone to another member meanwhile, or somebody has gone back already.
            if state is None or state.position is None:
                continue
            asked = state.position.offset
            if cut is not None and asked <= cut.offset:
                continue
            end = first[part] if cut is None else cut.offset
            self.go_to(part, placed(asked, first[part], min(end, asked - 1)))

    def go_to(self, part: TopicPartition, where: Placed) -> None:
        """Reads on there, and remembers what is missing."""
        self.seek(part, where.at)
        if where.gap is not None:
            self._placed[part] = where

    def placed(self) -> dict[TopicPartition, Placed]:
        """Where the log had not what was to be read, since this was asked last."""
        found, self._placed = self._placed, {}
        return found

    def skipped(self) -> dict[TopicPartition, list[Gap]]:
        """What the polls passed without a message, since this was asked last."""
        found, self._fetcher.skipped = self._fetcher.skipped, {}
        return found

    def ends(self, part: TopicPartition) -> Ends | None:
        """Where a partition ends, as its last fetch told; None before the first."""
        return self._fetcher.ends.get(part)

    def is_there(self, topic: str) -> bool:
        """Whether the brokers know the topic, as far as they were asked."""
        return self._cluster.partitions_for_topic(topic) is not None

    def log(self, topic: str) -> str | None:
        """What tells a topic from one of its name that was made anew; None if not known."""
        found, cluster = self._cluster.topic_id(topic), self._cluster.cluster_id
        return f"{_MARK}{cluster}/{found}" if cluster and found is not None and found.int else None

    def at(self, part: TopicPartition) -> int | None:
        """The next offset of a partition, as far as known; asks nobody."""
        state = self._subscription.assignment.get(part)
        return None if state is None or state.position is None else int(state.position.offset)

    @property
    def polled_bytes(self) -> int:
        """Bytes of what the last poll gave."""
        return POLL_BYTES - int(self._fetcher.left)


def consumer(
    address: KafkaAddress,
    budget: Budget = USUAL,
    kind: type[Consumer] = Consumer,
    **settings: Any,
) -> Consumer:
    """A consumer of raw bytes, of a `kind`, that commits nothing by itself."""
    chosen = {
        "enable_auto_commit": False,
        # Of partitions that a group gives, until it is known where to begin.
        "auto_offset_reset": "earliest",
        "isolation_level": address.parameters.get("isolation", COMMITTED),
        "fetch_max_wait_ms": 100,
        # Small enough that partitions take turns within one batch.
        "max_partition_fetch_bytes": 512 * 1024,
        # Of all partitions together; a larger batch comes alone.
        "fetch_max_bytes": POLL_BYTES,
        "metadata_max_age_ms": _NEW_PARTITIONS_MS,
        "reconnect_backoff_max_ms": 1000,
        "allow_auto_create_topics": False,
        "metrics_enabled": False,
        **client_settings(address.environment),
        **settings,
    }
    return kind(budget, bootstrap_servers=address.servers, **chosen)


def first_offsets(
    client: KafkaConsumer, parts: Collection[TopicPartition], start: str | int
) -> dict[TopicPartition, int]:
    """Where to begin with partitions that the group has not read.

    Args:
        client: a connected client.
        parts: the partitions.
        start: `earliest`, `latest`, or milliseconds since 1970: the first record of that time
            or later, the end where there is none.
    """
    if not parts:
        return {}
    if start == "earliest":
        return dict(client.beginning_offsets(list(parts), timeout_ms=_CALL_MS))
    ends = dict(client.end_offsets(list(parts), timeout_ms=_CALL_MS))
    if start == "latest":
        return ends
    found = client.offsets_for_times({part: int(start) for part in parts}, timeout_ms=_CALL_MS)
    return {part: ends[part] if found[part] is None else found[part].offset for part in parts}


def last_offsets(
    client: Consumer, starts: Mapping[TopicPartition, int]
) -> dict[TopicPartition, Ends]:
    """Where each partition ends; `client` is assigned to them, and goes where the rule says.

    A fetch tells it for certain; some brokers' answer to the plain question is the last batch's
    first record.
    """
    first = client.beginning_offsets(list(starts), timeout_ms=_CALL_MS)
    plain = client.end_offsets(list(starts), timeout_ms=_CALL_MS)
    client.assign(list(starts))
    for part, offset in starts.items():
        client.go_to(part, placed(offset, first[part], max(offset, plain[part])))
    until = time.monotonic() + _ENDS_S
    while time.monotonic() < until and any(client.ends(part) is None for part in starts):
        client.poll(timeout_ms=100, max_records=1, update_offsets=False)
    found = {}
    for part in starts:
        told = client.ends(part) or Ends(plain[part], plain[part])
        if client.ends(part) is None and client.position(part) > told.high:
            client.go_to(part, placed(client.position(part), first[part], told.high))
        found[part] = Ends(max(told.stable, min(plain[part], told.high)), told.high)
    # What was looked at here is read, and passed, again.
    client.skipped()
    return found


class Known(NamedTuple):
    """Where a group is with a partition.

    Attributes:
        at: the next offset to be read.
        gap: what is missing before it, because the log is another one; None for nothing.
        committed: whether it is the group's own commit.
    """

    at: int
    gap: Gap | None = None
    committed: bool = True


def before_ends(address: KafkaAddress, offsets: Mapping[int, int]) -> dict[int, int]:
    """Offsets per partition, none of them behind the end that its log has now."""
    client = consumer(address)
    try:
        starts = {TopicPartition(address.topic, each): at for each, at in offsets.items()}
        found = last_offsets(client, starts)
    finally:
        client.close(autocommit=False, timeout_ms=2000)
    return {part.partition: min(at, found[part].high) for part, at in starts.items()}


def known_offsets(
    client: Consumer,
    address: KafkaAddress,
    parts: Collection[TopicPartition],
    start: str | int,
    former: str | None = None,
    group: str = "",
) -> dict[TopicPartition, Known]:
    """Where to go on with partitions.

    Args:
        client: a client of the group.
        address: brokers and topic.
        parts: the partitions.
        start: see `first_offsets`; for those that no group has read.
        former: the group whose offsets count where this one has none.
        group: the group's name, for what is said.
    """
    log = client.log(address.topic)
    found = {}
    commits = _commits(client, parts)
    others = [part for part, each in commits.items() if _is_other(each.metadata, log)]
    first = client.beginning_offsets(others, timeout_ms=_CALL_MS) if others else {}
    for part, each in commits.items():
        where = replaced(each.offset, first[part]) if part in first else Placed(each.offset, None)
        found[part] = Known(where.at, where.gap)
    unread = [part for part in parts if part not in found]
    inherited = _inherited(address, former, unread)
    if inherited:
        _log.warning(
            "the group %s has no offsets of the topic %s yet; it goes on from those of %s, which "
            "was the default group before", group, address.topic, former,
        )  # fmt: skip
    begun = inherited | first_offsets(client, [p for p in unread if p not in inherited], start)
    return found | {part: Known(offset, committed=False) for part, offset in begun.items()}


def _commits(
    client: KafkaConsumer, parts: Collection[TopicPartition]
) -> dict[TopicPartition, OffsetAndMetadata]:
    """What the client's group has committed of the partitions."""
    if not parts:
        return {}
    found = client._coordinator.fetch_committed_offsets(list(parts), timeout_ms=_CALL_MS)
    return {part: each for part, each in found.items() if each.offset >= 0}


def _inherited(
    address: KafkaAddress, former: str | None, parts: Collection[TopicPartition]
) -> dict[TopicPartition, int]:
    """What another group, from which this one takes over, has committed of these partitions."""
    if former is None or not parts:
        return {}
    client = consumer(address, group_id=former)
    try:
        return {part: each.offset for part, each in _commits(client, parts).items()}
    except errors.GroupAuthorizationFailedError:
        return {}  # nor can this account have read with it
    finally:
        client.close(autocommit=False, timeout_ms=2000)


def _is_other(mark: str | None, log: str | None) -> bool:
    """Whether a commit says that it is of another log of the same name.

    Offsets that were carried to another cluster say which one they are from, and nothing of this.
    """
    if not mark or not log or not mark.startswith(_MARK):
        return False
    cluster, _, _ = log.rpartition("/")
    return mark.startswith(f"{cluster}/") and mark != log


def committed(offset: int, log: str | None = None) -> OffsetAndMetadata:
    """An offset as commits take it, with the log that it is of."""
    return OffsetAndMetadata(offset, log or "", -1)


def commit_offsets(
    address: KafkaAddress, group: str, offsets: Mapping[int, int], log: str | None = None
) -> None:
    """Commits offsets for a group that has no members; raises KafkaError if it can't."""
    client = consumer(address, group_id=group)
    try:
        client.assign([TopicPartition(address.topic, number) for number in offsets])
        client.commit(
            {
                TopicPartition(address.topic, number): committed(offset, log)
                for number, offset in offsets.items()
            },
            timeout_ms=10_000,
        )
    finally:
        client.close(autocommit=False, timeout_ms=2000)


def adopt(address: KafkaAddress, group: str, former: str | None) -> None:
    """Commits for a group what a former one has committed, where it has nothing yet itself."""
    client = consumer(address, group_id=group)
    try:
        numbers = client.partitions_for_topic(address.topic) or ()
        parts = [TopicPartition(address.topic, number) for number in numbers]
        own = _commits(client, parts)
    finally:
        client.close(autocommit=False, timeout_ms=2000)
    found = _inherited(address, former, [part for part in parts if part not in own])
    if found:
        offsets = {part.partition: offset for part, offset in found.items()}
        commit_offsets(address, group, offsets)


class _NotCancelled(logging.Filter):
    """Leaves out what a client says of a question that its own end has cut off."""

    def filter(self, record: logging.LogRecord) -> bool:
        args = record.args if isinstance(record.args, tuple) else (record.args,)
        return not any(isinstance(each, errors.Cancelled) for each in args)


logging.getLogger("kafka.cluster").addFilter(_NotCancelled())
# It warns whenever the machine was too busy for a tenth of a second; nobody can do anything about it.
logging.getLogger("kafka.net.selector").setLevel(logging.ERROR)
