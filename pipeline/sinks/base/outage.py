"""Waits out a warehouse's outage: said at growing distances, tried again, not for ever."""

from __future__ import annotations

import random
import threading
import time

from pipeline.errors import WarehouseFailed
from pipeline.sinks.base.waiting import Notice

_FIRST_PAUSE_S = 0.2


class Outage:
    """What keeps a table from being written just now, if anything does; shared by threads.

    Args:
        told: what messages begin with: the flag and the table.
        patience_s: how long an outage may last.
        longest_pause_s: what the pauses between two tries grow to.
        advice: what to do about one that lasts longer.
    """

    def __init__(self, told: str, patience_s: float, longest_pause_s: float, advice: str) -> None:
        self._told, self._advice = told, advice
        self._patience_s, self._longest_pause_s = patience_s, longest_pause_s
        self._lock = threading.Lock()
        self._began_s: float | None = None
        self._failed_s = self._ended_s = 0.0
        self._tries = 0
        self._notice = Notice(told)

    @property
    def lasted_s(self) -> float:
        """For how long it has lasted by now; 0 if there is none."""
        with self._lock:
            return 0.0 if self._began_s is None else time.monotonic() - self._began_s

    def wait(self, reason: str, sent_s: float) -> None:
        """Pauses before the next try.

        Args:
            reason: why the last one failed.
            sent_s: when that was sent, by the monotonic clock; if an outage has ended since, there
                is no need to wait.

        Raises:
            WarehouseFailed: the outage has lasted for `patience_s`.
        """
        now = time.monotonic()
        with self._lock:
            if self._began_s is None and sent_s < self._ended_s:
                return
            # What failed long ago, and was then given up, is another outage.
            if self._began_s is None or now - self._failed_s > self._patience_s:
                self._began_s, self._tries, self._notice = now, 0, Notice(self._told)
            lasted, self._failed_s = now - self._began_s, now
            if lasted < self._patience_s:
                self._notice.still(
                    lasted, reason, f"trying again for up to {self._patience_s:.0f} s"
                )
            self._tries += 1
            pause = min(_FIRST_PAUSE_S * 2 ** min(self._tries, 20), self._longest_pause_s)
        if lasted >= self._patience_s:
            raise WarehouseFailed(
                f"{self._told}: {reason}, for {lasted:.0f} s by now; {self._advice}, then run the "
                "job again: it goes on where it was"
            )
        # Workers that failed together must not come back together.
        time.sleep(min(pause * random.uniform(0.5, 1.0), self._patience_s - lasted + 0.01))

    def over(self) -> None:
        """Something was written."""
        if self._began_s is None:
            return
        with self._lock:
            if self._began_s is not None:
                self._ended_s = time.monotonic()
                lasted, self._began_s = self._ended_s - self._began_s, None
                self._notice.over(lasted)
