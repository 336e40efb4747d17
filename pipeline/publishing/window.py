"""Keeps what has been sent and not yet acknowledged within bounds, and in order."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from dataclasses import dataclass

import pyarrow as pa

from pipeline.connect.topics import Receipt, Topic

_MOST_ROWS = 50_000
_MOST_BYTES = 64 * 1024 * 1024
# After a stop: how long what is under way may still take.
_PARTING_S = 15.0
_LOOK_S = 0.2
# A stall this long is told, once.
_STALL_S = 10.0

_log = logging.getLogger(__name__)


class GaveUp(Exception):
    """What was under way at a stop was not acknowledged in time."""


@dataclass(frozen=True)
class _Sent:
    rows: int
    size: int
    receipt: Receipt
    at: float


class Window:
    """Sends to a topic, waiting when too much is under way, and counts what is safe there.

    Attributes:
        acknowledged: messages that are, with all that were sent before them, dealt with.
        too_large: how many of these the topic refused for their size.
    """

    def __init__(self, topic: Topic, stop: threading.Event) -> None:
        self._topic = topic
        self._stop = stop
        self._sent: deque[_Sent] = deque()
        self._rows = self._bytes = 0
        self._stopped_at: float | None = None
        self._told = False
        self.acknowledged = 0
        self.too_large = 0

    def send(self, messages: pa.Table) -> None:
        """Sends messages; raises Undelivered if earlier ones can't be delivered."""
        size = int(messages.nbytes)
        while self._sent and (
            self._rows + messages.num_rows > _MOST_ROWS or self._bytes + size > _MOST_BYTES
        ):
            self._settle_oldest()
        receipt = self._topic.send(messages)
        self._sent.append(_Sent(messages.num_rows, size, receipt, time.monotonic()))
        self._rows += messages.num_rows
        self._bytes += size
        while self._sent and self._sent[0].receipt.wait(0):
            self._drop_oldest()
        self._tell_of_a_stall()

    def drain(self) -> None:
        """Waits for all; GaveUp if that takes too long after a stop."""
        while self._sent:
            self._settle_oldest()

    def _settle_oldest(self) -> None:
        while not self._sent[0].receipt.wait(_LOOK_S):
            self._tell_of_a_stall()
            if self._stop.is_set():
                if self._stopped_at is None:
                    self._stopped_at = time.monotonic()
                if time.monotonic() > self._stopped_at + _PARTING_S:
                    raise GaveUp
        self._drop_oldest()

    def _tell_of_a_stall(self) -> None:
        stalled = bool(self._sent) and time.monotonic() > self._sent[0].at + _STALL_S
        if stalled and not self._told:
            _log.warning("the broker has acknowledged nothing for %.0f s; still trying", _STALL_S)
        self._told = stalled

    def _drop_oldest(self) -> None:
        oldest = self._sent.popleft()
        self._rows -= oldest.rows
        self._bytes -= oldest.size
        self.acknowledged += oldest.rows
        self.too_large += len(oldest.receipt.too_large)
