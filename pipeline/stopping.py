"""Ends a live job when it is asked to: the first signal drains it, the second stops it at once."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

# `timeout` and some launchers send a signal to a process and to its group, so it comes twice.
_ECHO_S = 0.5
_SAID = "stopping: what was read is written and committed first; again to stop at once\n"


@contextmanager
def stop_on_signals(stop: Callable[[], None]) -> Iterator[None]:
    """Within it the first SIGINT or SIGTERM calls `stop`, and the second does what it always did.

    What it always did is KeyboardInterrupt in the main thread for SIGINT and the end of the
    process for SIGTERM. A signal that is ignored, as SIGINT in a shell's background job, stays so.
    Outside the main thread, where Python takes no signals, it does nothing.

    Args:
        stop: may come between any two steps of the main thread, so it may only raise a flag.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former: dict[int, Any] = {}
    asked_at: float | None = None

    def asked(number: int, _frame: FrameType | None) -> None:
        nonlocal asked_at
        now = time.monotonic()
        if asked_at is None:
            asked_at = now
            stop()
            _say(_SAID)
        elif now - asked_at > _ECHO_S:
            signal.signal(number, former[number])
            signal.raise_signal(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        found = signal.getsignal(number)
        if found not in (None, signal.SIG_IGN):
            former[number] = found
            signal.signal(number, asked)
    try:
        yield
    finally:
        for kept, handler in former.items():
            signal.signal(kept, handler)


def _say(line: str) -> None:
    """To standard error, past Python's buffers: the signal may have come amid a print."""
    if sys.__stderr__ is not None:
        with contextlib.suppress(OSError):  # nobody may be there to read it
            os.write(sys.__stderr__.fileno(), line.encode())
