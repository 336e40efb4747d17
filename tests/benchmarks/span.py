"""Wall and CPU time from a variant's first message to its last reading's being durable."""

from __future__ import annotations

import time


class Span:
    """A stretch of this process's time.

    Attributes:
        seconds: of the clock.
        cpu: of all threads of this process; unlike the clock it knows little of who else computes.
    """

    def __init__(self) -> None:
        self._began: tuple[float, float] | None = None
        self.seconds = self.cpu = 0.0

    def begin(self) -> None:
        """Begins; only the first call counts."""
        if self._began is None:
            self._began = time.perf_counter(), time.process_time()

    def end(self) -> None:
        """Ends; before `begin` it has no length."""
        if self._began is not None:
            self.seconds = time.perf_counter() - self._began[0]
            self.cpu = time.process_time() - self._began[1]
