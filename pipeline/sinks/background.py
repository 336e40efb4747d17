"""Lets a sink write while the steps before it go on: Arrow, Parquet and DuckDB free the GIL."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class Background:
    """Runs tasks in threads of this process, at most `waiting` of them ahead of the caller.

    A bundle has to call `drain` before it finishes: only then is what it was given durable, and
    only there does a failed task raise.
    """

    def __init__(self, threads: int, waiting: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="sink")
        self._waiting = waiting
        self._tasks: deque[Future[Any]] = deque()
        self._results: list[Any] = []

    def submit(self, task: Callable[..., Any], *arguments: Any) -> None:
        """Starts a task; waits first if too many are under way, so that memory stays bounded."""
        while len(self._tasks) >= self._waiting:
            self._results.append(self._tasks.popleft().result())
        self._tasks.append(self._pool.submit(task, *arguments))

    def drain(self) -> list[Any]:
        """Waits for all tasks; returns their results since the last call, raises their errors."""
        tasks, self._tasks = self._tasks, deque()
        results, self._results = self._results, []
        return results + [task.result() for task in tasks]
