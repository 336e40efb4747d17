"""Decides when a message is due: at once, at a steady rate, or as fast as its own time runs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.publishing.messages import AT_ONCE

Seconds = npt.NDArray[np.float64]

# Sent together at most: what is acknowledged together, and taken back by a stop.
MOST_TOGETHER = 5_000
# Messages due within this time go together: sending each by itself would cost more than sending.
_TICK_S = 0.02


class Pace:
    """Cuts tables of messages to pieces and gives each out when it is due.

    Args:
        rate: messages a second, or None.
        speed: how many times faster than the messages' own time, or None.
        stop: ends the waiting, and with it the pieces.
        clock: seconds, never going back.
    """

    def __init__(
        self,
        rate: float | None,
        speed: float | None,
        stop: threading.Event,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rate, self._speed = rate, speed
        self._stop = stop
        self._clock = clock
        self._started: float | None = None
        self._first_due: int | None = None
        self._given = 0

    def pieces(self, table: pa.Table) -> Iterator[pa.Table]:
        """The table's messages in order, a piece whenever some are due; none after a stop."""
        if self._started is None:
            self._started = self._clock()
        due = self._due(table)
        given = 0
        while given < table.num_rows and not self._stop.is_set():
            now = self._clock() - self._started
            ready = int(np.searchsorted(due, now, side="right"))
            if ready <= given:
                self._stop.wait(max(due[given] - now, _TICK_S))
                continue
            upto = min(ready, given + MOST_TOGETHER)
            yield table.slice(given, upto - given)
            given = upto

    def _due(self, table: pa.Table) -> Seconds:
        """Seconds after the start at which each message is due, never falling."""
        rows = table.num_rows
        if self._rate is not None:
            due = (self._given + np.arange(rows)) / self._rate
            self._given += rows
            return due
        if self._speed is None:
            return np.zeros(rows)
        times = table.column("due_us").to_numpy()
        if self._first_due is None:
            known = times[times > AT_ONCE]
            self._first_due = int(known[0]) if len(known) else None
        if self._first_due is None:
            return np.zeros(rows)
        known_times = np.maximum(times, self._first_due)
        return np.maximum.accumulate((known_times - self._first_due) / (1e6 * self._speed))
