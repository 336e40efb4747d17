"""Kafka's messages of one partition as columns, which both clients fill and batches are packed from."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from kafka.consumer.fetcher import ConsumerRecord

# Of kafka-python's record, which is a tuple: what a message needs, in the order of the fields here.
_PLACES = [
    ConsumerRecord._fields.index(name)
    for name in ("offset", "timestamp", "key", "value", "headers", "checksum")
]


@dataclass
class Columns:
    """Messages in the order of their offsets; all columns are of one length.

    Attributes:
        offsets: where they stand in the partition.
        times: milliseconds since 1970; negative or None for no time.
        keys: bytes or None.
        values: bytes or None.
        headers: (name, bytes or None) of each; None or empty for none.
        whys: why one is no message (`unpack.Refusal`), else None.
    """

    offsets: list[int] = field(default_factory=list)
    times: list[int | None] = field(default_factory=list)
    keys: list[bytes | None] = field(default_factory=list)
    values: list[bytes | None] = field(default_factory=list)
    headers: list[Sequence[tuple[str, bytes | None]] | None] = field(default_factory=list)
    whys: list[Any] = field(default_factory=list)

    @classmethod
    def of(cls, records: Iterable[Any]) -> Self:
        """What kafka-python's records hold."""
        # Turned on their side at once, which is cheaper than six loops.
        columns = list(zip(*records, strict=True))
        return cls(*(list(columns[place]) for place in _PLACES)) if columns else cls()

    @property
    def all(self) -> tuple[list[Any], ...]:
        """The columns."""
        return self.offsets, self.times, self.keys, self.values, self.headers, self.whys

    def __len__(self) -> int:
        return len(self.offsets)

    def extend(self, other: Columns) -> None:
        """Puts later messages behind these."""
        for mine, more in zip(self.all, other.all, strict=True):
            mine.extend(more)

    def before(self, stop: int) -> Columns:
        """Those before an offset."""
        if not self.offsets or self.offsets[-1] < stop:
            return self
        count = bisect_left(self.offsets, stop)
        return Columns(*(each[:count] for each in self.all))
