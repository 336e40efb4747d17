"""What came of a door's inputs, counted from the lines that its processes tell."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass
class Broken:
    """An input that a door did not stand."""

    door: str
    index: int
    kind: str  # crash, hang, memory, killed
    message: str


@dataclass
class Figures:
    """What came of a door's inputs.

    `peak` is the largest resident memory of a process while it took one, bytes; `slowest` the
    longest time of processor one took, and `seconds` what all took, making them included.
    """

    inputs: int = 0
    read: int = 0
    refused: int = 0
    nothing: int = 0
    peak: int = 0
    slowest: float = 0.0
    seconds: float = 0.0
    broken: list[Broken] = field(default_factory=list)

    def of(self, *kinds: str) -> int:
        """How many were broken in one of these ways."""
        return sum(each.kind in kinds for each in self.broken)

    @property
    def rate(self) -> float:
        """Inputs in a second of one processor."""
        return self.inputs / self.seconds if self.seconds else math.nan


def distinct(broken: list[Broken]) -> Iterator[tuple[Broken, int]]:
    """One of each kind of fault, by what was said and where, and how many there are."""
    counts = Counter((each.kind, _without_numbers(each.message)) for each in broken)
    seen: set[tuple[str, str]] = set()
    for each in broken:
        key = (each.kind, _without_numbers(each.message))
        if key not in seen:
            seen.add(key)
            yield each, counts[key]


def _without_numbers(message: str) -> str:
    """The kind of the error and its place."""
    return f"{message.partition(':')[0]} {message.rpartition('@')[2]}"
