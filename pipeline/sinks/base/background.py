"""Lets a sink write while the steps before it go on: Arrow, Parquet and DuckDB free the GIL."""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

# Whether a bundle may end before what it was given is durable, because somebody else asks for it.
_ahead = False
_all: weakref.WeakSet[Background] = weakref.WeakSet()
_lock = threading.Lock()


class Background:
    """Runs tasks in threads of this process, at most `waiting` of them ahead of the caller.

    A bundle has to call `drain` before it finishes: only then is what it was given durable, and
    only there does a failed task raise; `writing_ahead` changes that.
    """

    def __init__(self, threads: int, waiting: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="sink")
        self._waiting = waiting
        self._tasks: deque[Future[Any]] = deque()
        self._results: list[Any] = []
        self._submitted = self._done = self._border = 0
        self._failed: BaseException | None = None
        with _lock:
            _all.add(self)

    def submit(self, task: Callable[..., Any], *arguments: Any) -> None:
        """Starts a task; waits first if too many are under way, so that memory stays bounded."""
        self._raise_failure()
        while len(self._tasks) >= self._waiting:
            self._take_first()
        self._tasks.append(self._pool.submit(task, *arguments))
        self._submitted += 1

    def drain(self) -> list[Any]:
        """Waits for all tasks; returns their results since the last call, raises their errors.

        Where the job writes ahead it waits for none.
        """
        self._raise_failure()
        while self._tasks and (not _ahead or self._tasks[0].done()):
            self._take_first()
        results, self._results = self._results, []
        return results

    def settle(self, everything: bool) -> None:
        """Waits for all tasks that were there at the last call; for all there are, if asked to."""
        self._raise_failure()
        border, self._border = self._border, self._submitted
        while self._done < (self._submitted if everything else border):
            self._take_first()

    def _take_first(self) -> None:
        self._done += 1
        try:
            self._results.append(self._tasks.popleft().result())
        except BaseException as error:
            if _ahead:
                # The bundle that gave the task is over and won't be tried again.
                self._failed = error
            raise

    def _raise_failure(self) -> None:
        if self._failed is not None:
            raise self._failed


@contextmanager
def writing_ahead() -> Iterator[None]:
    """Within it bundles end before what they were given is durable; `settle` tells when it is.

    For the local streaming runner, whose source asks before it gives anything back. A task that
    fails then fails the job.
    """
    global _ahead
    with _lock:
        # An earlier job's steps may still be there, and what they failed at.
        _all.clear()
    _ahead = True
    try:
        yield
    finally:
        _ahead = False


def settle(everything: bool = False) -> None:
    """Returns when all that was given to any sink before the last call is durable.

    Args:
        everything: whether to wait for what was given since, too.
    """
    with _lock:
        found = list(_all)
    for background in found:
        background.settle(everything)
