"""Counts what a file of the source unpacks to, and refuses what is over its limits."""

from __future__ import annotations

from transforms.budget import MIB, TOO_LARGE, USUAL, Budget

# Below this nobody asks how well a file was packed: a few repeated lines pack very well.
_FREE_BYTES = 64 * MIB


class Refused(Exception):
    """A file, or the rest of it, cannot be read: what is wrong with it and what to do."""

    def __init__(self, error_type: str, message: str) -> None:
        super().__init__(message)
        self.error_type = error_type
        self.message = message


def over(budget: Budget, name: str, what: str) -> Refused:
    """The refusal of what is over the limit `name`."""
    return Refused(TOO_LARGE, budget.over(name, what))


class Meter:
    """What one file of the source unpacks to, with all files in it.

    Args:
        packed: its bytes as they lie.
        budget: what it may take.
    """

    def __init__(self, packed: int, budget: Budget = USUAL) -> None:
        self._packed = max(packed, 1)
        self._budget = budget
        self._seen: dict[str, int] = {}
        self._total = 0

    def reached(self, name: str, position: int) -> None:
        """Notes that what is called `name` was unpacked up to `position`; again is no more.

        Raises:
            Refused: the file is over a limit.
        """
        more = position - self._seen.get(name, 0)
        if more <= 0:
            return
        self._seen[name] = position
        self.check(self._total + more)
        self._total += more

    def check(self, total: int) -> None:
        """Finds out whether the file may unpack to `total` bytes; raises Refused."""
        if total > self._budget.unpacked_bytes:
            raise over(
                self._budget, "unpacked_mb", f"the file unpacks to {total // MIB:,} MiB or more"
            )
        ratio = total // self._packed
        if total > _FREE_BYTES and ratio > self._budget.ratio:
            raise over(
                self._budget,
                "ratio",
                f"the file unpacks to {ratio:,} times its size or more ({total // MIB:,} MiB)",
            )
