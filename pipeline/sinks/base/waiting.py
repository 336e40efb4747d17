"""Logs that a sink waits: after 5 s, then at growing intervals, and when it continues."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

# What a busy target lets wait for this long is not worth a line.
FIRST_S = 5.0
_GROWS = 3.0
_PROC = Path("/proc")
# One line of /proc/locks: kind, who, which file.
_LOCK = re.compile(r"^\d+: (?:->\s*)?\w+\s+\w+\s+\w+\s+(\d+)\s+([0-9a-f]+):([0-9a-f]+):(\d+)\s")
_DUCKDB = re.compile(r"held in (.+?) \(PID (\d+)\)")
_log = logging.getLogger(__name__)


class Notice:
    """The lines about one wait; not safe under threads.

    Args:
        what: what the lines begin with: the flag and its value.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._next_s = FIRST_S
        self._is_told = False

    def still(self, lasted_s: float, why: str, until: str) -> None:
        """It waits; says so if a line is due.

        Args:
            lasted_s: for how long by now.
            why: what it waits for.
            until: how long it will, such as `for up to 300 s`.
        """
        if lasted_s < self._next_s:
            return
        self._is_told = True
        self._next_s = max(self._next_s, lasted_s, 1.0) * _GROWS
        _log.warning("%s: %s; waiting for %.0f s, %s", self._what, why, lasted_s, until)

    def over(self, lasted_s: float) -> None:
        """It goes on; says so if it was said that it waits."""
        if self._is_told:
            _log.warning("%s: goes on, after %.0f s", self._what, lasted_s)


@contextmanager
def told(what: str, why: Callable[[], str], until: str) -> Iterator[None]:
    """Within it something waits, and a thread says so when a line is due.

    Args:
        what: what the lines begin with: the flag and its value.
        why: asked when a line is due.
        until: how long it will wait.
    """
    over = threading.Event()
    notice, began = Notice(what), time.monotonic()

    def follow() -> None:
        while not over.wait(0.5):
            lasted_s = time.monotonic() - began
            if lasted_s >= FIRST_S:
                notice.still(lasted_s, why(), until)

    follower = threading.Thread(target=follow, daemon=True, name="waiting")
    follower.start()
    try:
        yield
    except BaseException:
        over.set()
        follower.join()
        raise
    over.set()
    follower.join()
    notice.over(time.monotonic() - began)


def holder(path: str, error: str = "") -> str:
    """Who holds a file: `python (PID 4711)`, as far as the system tells; else `another program`.

    Args:
        path: the file.
        error: what a database said about it, which may name the process.
    """
    found = _DUCKDB.search(error)
    pid = int(found[2]) if found else _locker(path)
    if not pid:
        return "another program"
    name = _name(pid) or (Path(found[1]).name if found else "a process")
    return f"{name} (PID {pid})"


def _name(pid: int) -> str | None:
    try:
        return (_PROC / str(pid) / "comm").read_text().strip() or None
    except OSError:
        return None


def _locker(path: str) -> int:
    """The process that has a lock on a file, or has it open; 0 where that can't be seen."""
    try:
        stat = Path(path).stat()
        for line in (_PROC / "locks").read_text().splitlines():
            # Waiting ones are marked by an arrow.
            lock = None if "->" in line else _LOCK.match(line)
            if lock and int(lock[4]) == stat.st_ino and int(lock[1]) > 0:
                return int(lock[1])
    except OSError:
        pass
    return 0
