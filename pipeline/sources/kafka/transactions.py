"""Tells of transactions that are open for long: nothing behind them can be read before they end."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

from pipeline.sources.kafka.client import Ends

_log = logging.getLogger(__name__)

# How long an open transaction is waited for without a word, s.
WAIT_S = 30.0


def told(topic: str, partition: int, first: int, offsets: int, wait_s: float, then: str) -> str:
    """What is said of a transaction that is not over.

    Args:
        topic: the topic.
        partition: its partition.
        first: the transaction's first offset.
        offsets: how many there are from there on.
        wait_s: how long it was waited for.
        then: what becomes of them.
    """
    return (
        f"topic {topic}, partition {partition}: a transaction that began at offset {first:,} is "
        f"not over after {wait_s:.0f} s; it and what follows ({offsets:,} offsets) {then}. Is "
        "its producer gone? Kafka aborts it then (transactional.id's timeout), or "
        "kafka-transactions.sh does"
    )


@dataclass
class _Held:
    at: int
    since_s: float
    told: bool = False


class OpenTransactions:
    """Those that a reader without end waits for; each is told once, and that it is over.

    Args:
        topic: the topic.
        wait_s: how long they are waited for without a word.
    """

    def __init__(self, topic: str, wait_s: float = WAIT_S) -> None:
        self._topic = topic
        self._wait_s = wait_s
        self._held: dict[int, _Held] = {}

    def look(self, partition: int, at: int, ends: Ends | None) -> None:
        """Looks whether one holds up a partition that was read up to `at`."""
        if ends is None or not ends.stable <= at < ends.high:
            held = self._held.pop(partition, None)
            if held is not None and held.told:
                where = f"topic {self._topic}, partition {partition}"
                _log.warning("%s: the transaction at offset %s is over", where, f"{held.at:,}")
            return
        now_s = time.monotonic()
        held = self._held.get(partition)
        if held is None or held.at != at:
            held = self._held[partition] = _Held(at, now_s)
        waited_s = now_s - held.since_s
        if waited_s >= self._wait_s and not held.told:
            held.told = True
            then = "are read once it is"
            _log.warning("%s", told(self._topic, partition, at, ends.high - at, waited_s, then))
