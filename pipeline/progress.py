"""Counts what this process has read so far, for whoever shows it."""

from __future__ import annotations

import threading


class Progress:
    """A counter that sources advance and the progress bar looks at; safe under threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._done = 0

    def advance(self, amount: int) -> None:
        """Adds `amount` of the source's unit: bytes of files, readings of the simulator."""
        with self._lock:
            self._done += amount

    @property
    def done(self) -> int:
        """The amount so far."""
        return self._done

    def reset(self) -> None:
        """Starts again at zero."""
        with self._lock:
            self._done = 0


# One per process: DoFns can't hold it, they are copied. Under several worker processes the bar
# only sees its own one's work, so the job shows none there.
PROGRESS = Progress()
