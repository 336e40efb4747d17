"""How far event time has come on a live source, from what each of its partitions gave."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

# Before any event.
NEVER = -(2**62)
# A partition with nothing left to read counts as idle after this long.
IDLE_US = 1_000_000
# So far behind the others' event time a partition without backlog may hold them up.
_BEHIND_US = 300_000_000


@dataclass
class _Partition:
    latest_us: int | None = None  # event time; None if nothing has come
    ended_us: int | None = None  # since when there is nothing left to read; None if there is


class Watermark:
    """The event time before which nothing more is expected; it never goes back.

    Per partition it is the latest event time less the disorder bound. A partition that has been
    read to its end goes on at the pace of the clock, as readings would, so that it does not hold
    up the others and its own last windows fire; one that never gave anything is left out then.
    Nor may one whose readings are dated far behind the others' (a clock that is slow), once it has
    been read to its end, hold them up by more than five minutes.

    Args:
        disorder_us: how much later than its successors a reading may come and still be on time.
    """

    def __init__(self, disorder_us: int) -> None:
        self._disorder_us = disorder_us
        self._partitions: dict[int, _Partition] = {}
        self._at = NEVER

    def copy(self) -> Watermark:
        """Another one that knows the same."""
        other = Watermark(self._disorder_us)
        other._at = self._at
        other._partitions = {number: replace(kept) for number, kept in self._partitions.items()}
        return other

    def keep(self, partitions: Collection[int]) -> None:
        """Goes on with these partitions alone; new ones begin with nothing known."""
        self._partitions = {
            number: self._partitions.get(number, _Partition()) for number in partitions
        }

    def saw(self, partition: int, latest_us: int) -> None:
        """Takes note of what a partition gave: the latest event time, µs, no later than it came."""
        found = self._partitions.setdefault(partition, _Partition())
        before = found.latest_us
        found.latest_us = latest_us if before is None else max(before, latest_us)
        found.ended_us = None

    def ended(self, partitions: Collection[int], now_us: int) -> None:
        """Takes note of which partitions have nothing left to read now."""
        for number, found in self._partitions.items():
            if number not in partitions:
                found.ended_us = None
            elif found.ended_us is None:
                found.ended_us = now_us

    def at(self, now_us: int) -> int:
        """The watermark, µs since 1970; NEVER before anything is known."""
        known = []
        times = [found.latest_us for found in self._partitions.values()]
        leading = max((time for time in times if time is not None), default=NEVER)
        for found in self._partitions.values():
            idle_us = 0
            if found.ended_us is not None:
                idle_us = max(0, now_us - found.ended_us - IDLE_US)
            if found.latest_us is not None:
                latest = found.latest_us + idle_us
                if found.ended_us is not None:
                    latest = max(latest, leading - _BEHIND_US)
                known.append(latest - self._disorder_us)
            elif not idle_us:
                return self._at
        if known:
            self._at = max(self._at, min(known))
        return self._at
