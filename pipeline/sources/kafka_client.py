"""Kafka's clients as the sources use them, and the offsets at which reading begins and ends."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from typing import Any

from kafka import KafkaConsumer, OffsetAndMetadata, TopicPartition

from pipeline.connect.kafka import KafkaAddress, client_settings

_NEW_PARTITIONS_MS = 30_000
_ENDS_S = 5.0
_CALL_MS = 10_000


def consumer(address: KafkaAddress, **settings: Any) -> KafkaConsumer:
    """A consumer of raw bytes that commits nothing by itself."""
    chosen = {
        "enable_auto_commit": False,
        # Where retention has taken what was to be read: lose no more than that.
        "auto_offset_reset": "earliest",
        "fetch_max_wait_ms": 100,
        # Small enough that partitions take turns within one batch.
        "max_partition_fetch_bytes": 512 * 1024,
        "metadata_max_age_ms": _NEW_PARTITIONS_MS,
        "reconnect_backoff_max_ms": 1000,
        "allow_auto_create_topics": False,
        "metrics_enabled": False,
        **client_settings(address.environment),
        **settings,
    }
    return KafkaConsumer(bootstrap_servers=address.servers, **chosen)


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
