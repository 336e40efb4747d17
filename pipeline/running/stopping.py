"""Ends a live job when it is asked to: the first signal drains it, the second stops it at once."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_COMMAND = "pipeline.__main__"
# `timeout` and some launchers send a signal to a process and to its group, so it comes twice.
_ECHO_S = 0.5
_SAID = "stopping: what was read is written and committed first; again to stop at once\n"
_SAID_EARLY = "stopping: the job has not begun; again to stop at once\n"
STOPPED_EARLY = "stopped before it began; nothing was read"


class StoppedEarly(Exception):
    """A signal has come before anything was read."""

    def __init__(self) -> None:
        super().__init__(STOPPED_EARLY)


class Early:
    """Signals that come before the job runs: its imports alone take a second.

    While modules are imported the first signal ends the process, with exit status 0; from then on
    it only raises a flag, until `stop_on_signals` or `end` takes over. The second one does what
    it always did.
    """

    def __init__(self) -> None:
        self._former: dict[int, Any] = {}
        self._asked_at: float | None = None
        self._importing = True

    @property
    def asked(self) -> bool:
        """Whether a signal has come."""
        return self._asked_at is not None

    def begin(self) -> None:
        """Takes the signals from now on."""
        for number in (signal.SIGINT, signal.SIGTERM):
            found = signal.getsignal(number)
            if found not in (None, signal.SIG_IGN):
                self._former[number] = found
                signal.signal(number, self._signalled)

    def imported(self) -> None:
        """From now on a signal is left to `check`, `stop_on_signals` and `end`."""
        self._importing = False
        gc.enable()

    def check(self) -> None:
        """Raises StoppedEarly if a signal has come."""
        if self.asked:
            raise StoppedEarly

    def former(self, number: int, found: Any) -> Any:
        """What a signal's handler is beside this one."""
        return self._former.get(number) if found == self._signalled else found

    def end(self) -> None:
        """Signals do again what they always did."""
        for number, former in self._former.items():
            if signal.getsignal(number) == self._signalled:
                signal.signal(number, former)
        self._former = {}

    def _signalled(self, number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._importing:
            _say(f"{STOPPED_EARLY}\n")
            os._exit(0)
        if self._asked_at is None:
            self._asked_at = now
            _say(_SAID_EARLY)
        elif now - self._asked_at > _ECHO_S:
            signal.signal(number, self._former[number])
            signal.raise_signal(number)


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
    asked_at = time.monotonic() if EARLY.asked else None

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
            former[number] = EARLY.former(number, found)
            signal.signal(number, asked)
    if asked_at is None and EARLY.asked:
        asked_at = time.monotonic()
    if asked_at is not None:
        stop()
        _say(_SAID)
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


EARLY = Early()
# Others that import this module have signals of their own.
_spec = getattr(sys.modules.get("__main__"), "__spec__", None)
if _spec is not None and _spec.name == _COMMAND:
    EARLY.begin()
    # Imports make a million objects and no garbage; looking for some took a quarter of the start.
    gc.disable()
