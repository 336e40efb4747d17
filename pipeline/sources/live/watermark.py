"""How far event time has come on a live source, from what each of its partitions gave."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, replace

from pipeline.sources import Behind

# Before any event.
NEVER = -(2**62)
# A partition with nothing left to read counts as idle after this long.
IDLE_US = 1_000_000
# So long, by the clock, event time waits for the partitions that are behind the one furthest ahead.
PATIENCE_US = 15_000_000
# What a partition is behind is told from here on.
_WORTH_TELLING_US = 5_000_000
# How far ahead the first partition was is remembered at these distances.
_STEP_US = 500_000
# Of the time between two looks so much counts as waiting: the process may have been stopped.
_COUNTS_US = 1_000_000


@dataclass
class _Partition:
    reached_us: int | None = None  # event time; None if nothing has come
    ended_us: int | None = None  # since when there is nothing left to read; None if there is
    idle_from_us: int | None = None  # what it had reached then


class Watermark:
    """The event time before which nothing more is expected; it never goes back.

    Per partition it is the latest event time less the disorder bound. A partition that has been
    read to its end goes on at the pace of the clock, as readings would, so that it does not hold
    up the others and its own last windows fire, and what comes then moves it back no more; one
    that never gave anything is left out then.

    The one furthest behind counts, but not for longer than PATIENCE_US: whatever a partition
    gives, event time passes what another one had reached so long ago. What is behind that is
    ordered by the rules of lateness.

    Args:
        disorder_us: how much later than its successors a reading may come and still be on time.
    """

    def __init__(self, disorder_us: int) -> None:
        self._disorder_us = disorder_us
        self._partitions: dict[int, _Partition] = {}
        self._at = NEVER
        # How long it has been waited in all; and (when, by that; what the partition furthest ahead
        # had reached), oldest first.
        self._waited_us = 0
        self._ahead: deque[tuple[int, int]] = deque()
        self._behind: Behind | None = None
        self._asked_us = 0

    def copy(self) -> Watermark:
        """Another one that knows the same."""
        other = Watermark(self._disorder_us)
        other._at = self._at
        other._partitions = {number: replace(kept) for number, kept in self._partitions.items()}
        other._ahead, other._waited_us = deque(self._ahead), self._waited_us
        other._behind, other._asked_us = self._behind, self._asked_us
        return other

    @property
    def behind(self) -> Behind | None:
        """What event time waited for when it was asked last; None if for nothing worth telling."""
        found = self._behind
        # One that is behind for longer is not waited for any more.
        waits = found is not None and self._asked_us - found.since_us <= PATIENCE_US
        return found if waits else None

    def keep(self, partitions: Collection[int]) -> None:
        """Goes on with these partitions alone; new ones begin with nothing known."""
        self._partitions = {
            number: self._partitions.get(number, _Partition()) for number in partitions
        }

    def saw(self, partition: int, latest_us: int) -> None:
        """Takes note of what a partition gave: the latest event time, µs, no later than it came."""
        found = self._partitions.setdefault(partition, _Partition())
        before = found.reached_us
        found.reached_us = latest_us if before is None else max(before, latest_us)
        found.ended_us = None

    def ended(self, partitions: Collection[int], now_us: int) -> None:
        """Takes note of which partitions have nothing left to read now."""
        for number, found in self._partitions.items():
            if number not in partitions:
                self._idle(found, now_us)
                found.ended_us = None
            elif found.ended_us is None:
                found.ended_us, found.idle_from_us = now_us, found.reached_us

    @staticmethod
    def _idle(found: _Partition, now_us: int) -> bool:
        """Whether a partition is idle; it then has gone on with the clock."""
        if found.ended_us is None:
            return False
        idle_us = now_us - found.ended_us - IDLE_US
        if idle_us > 0 and found.reached_us is not None and found.idle_from_us is not None:
            found.reached_us = max(found.reached_us, found.idle_from_us + idle_us)
        return idle_us > 0

    def at(self, now_us: int, answered: bool = True) -> int:
        """The watermark, µs since 1970; NEVER before anything is known.

        Args:
            now_us: the clock.
            answered: whether there was an answer since the last time; without one no partition
                could come nearer, and patience does not run out.
        """
        last: tuple[int, int] | None = None  # of the partition furthest behind
        unknown: int | None = None
        leading = NEVER
        for number, found in self._partitions.items():
            idle = self._idle(found, now_us)
            if found.reached_us is not None:
                leading = max(leading, found.reached_us)
                if last is None or found.reached_us < last[0]:
                    last = found.reached_us, number
            elif not idle:
                unknown = number
        if answered and self._asked_us:
            self._waited_us += min(max(now_us - self._asked_us, 0), _COUNTS_US)
        self._asked_us = now_us
        self._tell(last, unknown, leading, now_us)
        long_ago = self._long_ago(leading, self._waited_us)
        if last is not None and unknown is None:
            self._at = max(self._at, last[0] - self._disorder_us)
        if long_ago != NEVER:
            self._at = max(self._at, long_ago - self._disorder_us)
        return self._at

    def _long_ago(self, leading: int, waited_us: int) -> int:
        """What the partition furthest ahead had reached when patience began to run out."""
        ahead = self._ahead
        if leading != NEVER and (not ahead or waited_us >= ahead[-1][0] + _STEP_US):
            ahead.append((waited_us, leading))
        while len(ahead) > 1 and ahead[1][0] <= waited_us - PATIENCE_US:
            ahead.popleft()
        if ahead and ahead[0][0] <= waited_us - PATIENCE_US:
            return ahead[0][1]
        return NEVER

    def _tell(
        self, last: tuple[int, int] | None, unknown: int | None, leading: int, now_us: int
    ) -> None:
        if last is None:
            self._behind = None
            return
        behind_us = None if unknown is not None else leading - last[0]
        number = last[1] if unknown is None else unknown
        if behind_us is not None and behind_us < _WORTH_TELLING_US:
            self._behind = None
            return
        same = self._behind is not None and self._behind.partition == number
        since_us = self._behind.since_us if same and self._behind else now_us
        self._behind = Behind(number, behind_us, since_us)
