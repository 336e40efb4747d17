"""The machine's clock, and one that spans are measured by: it never goes back, whoever sets that."""

from __future__ import annotations

import time

from transforms.clock import Clock


def now_us() -> int:
    """µs since 1970 by the machine's clock."""
    return time.time_ns() // 1000


_BEGAN_US = now_us()
_BEGAN = time.monotonic_ns()


def steady_us() -> int:
    """µs since 1970 by the machine's clock when this process began, and the time since then."""
    return _BEGAN_US + (time.monotonic_ns() - _BEGAN) // 1000


def now_s() -> float:
    """Seconds since 1970 by the machine's clock."""
    return time.time()


# What steps are given.
CLOCK = Clock(now_s, steady_us)
