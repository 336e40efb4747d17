"""What every step that writes to the lake shares: threads that write while it goes on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import apache_beam as beam

from pipeline.sinks.base.background import Background
from pipeline.stores import Store


class Writing(beam.DoFn):
    """A step that begins to write and, before a bundle is over, waits until all is written.

    Args:
        store: the lake.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._background: Background | None = None

    def setup(self) -> None:
        """Makes the threads: a folder is limited by the processor, a server by its distance."""
        if self._background is None:
            threads = 2 if self._store.near else 12
            self._background = Background(threads, waiting=16 if self._store.near else 24)

    def finish_bundle(self) -> None:
        """Waits until all is written."""
        assert self._background is not None
        for result in self._background.drain():
            self.done(result)

    def done(self, result: Any) -> None:
        """Told within a bundle what a task has returned."""

    def begin(self, task: Callable[..., Any], *arguments: Any) -> None:
        """Has a thread do a task, whose first argument is the store."""
        assert self._background is not None
        self._background.submit(task, self._store, *arguments)
