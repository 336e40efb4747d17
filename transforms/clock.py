"""What steps that wait ask for the time; given to them, so that they stay pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Clock:
    """Two clocks; both can be pickled, as steps are.

    Attributes:
        now_s: the machine's, seconds since 1970, which timers fire by.
        steady_us: one that never goes back within a process, µs, which spans are measured by.
    """

    now_s: Callable[[], float]
    steady_us: Callable[[], int]
