"""Kafka's clients as the sources use them, and the offsets at which reading begins and ends."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from typing import Any

from kafka import KafkaConsumer, OffsetAndMetadata, TopicPartition
from kafka.consumer.fetcher import Fetcher
from kafka.errors import CorruptRecordError, KafkaError, NoError
from kafka.record import MemoryRecords

from pipeline.connect.kafka import KafkaAddress, client_settings
from pipeline.sources.kafka_unpack import POLL_BYTES, Unpacked
from transforms.budget import USUAL, Budget

_NEW_PARTITIONS_MS = 30_000
_ENDS_S = 5.0
_CALL_MS = 10_000
# So often an offset is asked for that the broker can't read itself, before it is stepped over.
_TRIES = 5


class _Fetcher(Fetcher):  # type: ignore[misc,unused-ignore]
    """The client's fetcher; what can't be read stops nobody, and a poll has a bound of bytes."""

    PartitionRecords = Unpacked

    def __init__(self, budget: Budget, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self._budget = budget
        self.left = POLL_BYTES
        # Per partition the offset that the broker could not read last, and how often.
        self._unread: dict[TopicPartition, tuple[int, int]] = {}

    def fetched_records(self, *args: Any, **named: Any) -> Any:
        """Records of what has come, of about POLL_BYTES at most."""
        self.left = POLL_BYTES
        return super().fetched_records(*args, **named)

    def _append(self, drained: Any, part: Unpacked, max_records: int, update_offsets: bool) -> int:
        before, part.most_bytes = part.bytes_read, self.left
        count: int = super()._append(drained, part, max_records, update_offsets)
        self.left -= part.bytes_read - before
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
        return found

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
    """The client, which steps over what it can't read; see `kafka_unpack`.

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

    @property
    def polled_bytes(self) -> int:
        """Bytes of what the last poll gave."""
        return POLL_BYTES - int(self._fetcher.left)


def consumer(address: KafkaAddress, budget: Budget = USUAL, **settings: Any) -> Consumer:
    """A consumer of raw bytes that commits nothing by itself."""
    chosen = {
        "enable_auto_commit": False,
        # Where retention has taken what was to be read: lose no more than that.
        "auto_offset_reset": "earliest",
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
    return Consumer(budget, bootstrap_servers=address.servers, **chosen)


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
    client: KafkaConsumer, starts: Mapping[TopicPartition, int]
) -> dict[TopicPartition, int]:
    """The offset behind each partition's last record now; `client` is assigned to them for it.

    A fetch tells it for certain; some brokers' answer to the plain question is the last batch's
    first record.
    """
    ends = dict(client.end_offsets(list(starts)))
    client.assign(list(starts))
    for part, offset in starts.items():
        client.seek(part, offset)
    until = time.monotonic() + _ENDS_S
    while time.monotonic() < until:
        client.poll(timeout_ms=100, max_records=1, update_offsets=False)
        high = {part: client.highwater(part) for part in starts}
        if None not in high.values():
            return {part: max(end, high[part]) for part, end in ends.items()}
    return ends


def committed(offset: int) -> OffsetAndMetadata:
    """An offset as commits take it."""
    return OffsetAndMetadata(offset, "", -1)


def commit_offsets(address: KafkaAddress, group: str, offsets: Mapping[int, int]) -> None:
    """Commits offsets for a group that has no members; raises KafkaError if it can't."""
    client = consumer(address, group_id=group)
    try:
        client.assign([TopicPartition(address.topic, number) for number in offsets])
        client.commit(
            {
                TopicPartition(address.topic, number): committed(offset)
                for number, offset in offsets.items()
            },
            timeout_ms=10_000,
        )
    finally:
        client.close(autocommit=False, timeout_ms=2000)
