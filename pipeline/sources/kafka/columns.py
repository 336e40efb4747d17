"""Kafka's messages of one partition as columns, which both clients fill and batches are packed from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from kafka.consumer.fetcher import ConsumerRecord

I64 = npt.NDArray[np.int64]
Headers = Sequence[tuple[str, bytes | None]]

# What stands for a time that a message has not.
NO_TIME = -1
# Of kafka-python's record, which is a tuple: what a message needs, in the order of the fields here.
_PLACES = [
    ConsumerRecord._fields.index(name)
    for name in ("offset", "timestamp", "key", "value", "headers", "checksum")
]


@dataclass(frozen=True)
class Part:
    """Messages that follow each other; all columns have the length n.

    Attributes:
        offsets: where they stand in the partition, rising, shape (n,).
        times: milliseconds since 1970; negative for no time, shape (n,).
        keys: an array of type binary.
        values: an array of type binary.
        headers: (name, bytes or None) of each, None or empty for none; None where none has any.
        whys: why one is no message (`unpack.Refusal`), by its place.
    """

    offsets: I64
    times: I64
    keys: pa.Array
    values: pa.Array
    headers: Sequence[Headers | None] | None = None
    whys: Mapping[int, Any] = field(default_factory=dict)

    @classmethod
    def listed(
        cls,
        offsets: Sequence[int],
        times: Sequence[int | None],
        keys: Sequence[bytes | None],
        values: Sequence[bytes | None],
        headers: Sequence[Headers | None],
        whys: Sequence[Any] = (),
    ) -> Self:
        """The same of lists; a time may be None."""
        if None in times:
            times = [NO_TIME if each is None else each for each in times]
        return cls(
            np.array(offsets, np.int64),
            np.array(times, np.int64),
            pa.array(keys, pa.binary()),
            pa.array(values, pa.binary()),
            headers if any(headers) else None,
            {place: why for place, why in enumerate(whys) if why} if any(whys) else {},
        )

    def __len__(self) -> int:
        return len(self.offsets)

    def slice(self, start: int, stop: int) -> Part:
        """The messages from one place to before another, without a copy."""
        if start == 0 and stop == len(self):
            return self
        return Part(
            self.offsets[start:stop],
            self.times[start:stop],
            self.keys[start:stop],
            self.values[start:stop],
            None if self.headers is None else self.headers[start:stop],
            {place - start: why for place, why in self.whys.items() if start <= place < stop},
        )


@dataclass
class Columns:
    """Messages in the order of their offsets, in parts of which none is empty."""

    parts: list[Part] = field(default_factory=list)

    @classmethod
    def of(cls, records: Iterable[Any]) -> Self:
        """What kafka-python's records hold."""
        # Turned on their side at once, which is cheaper than six loops.
        columns = list(zip(*records, strict=True))
        return cls([Part.listed(*(columns[place] for place in _PLACES))] if columns else [])

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    @property
    def first(self) -> int:
        """The first message's offset."""
        return int(self.parts[0].offsets[0])

    @property
    def last(self) -> int:
        """The last message's offset."""
        return int(self.parts[-1].offsets[-1])

    @property
    def has_refused(self) -> bool:
        """Whether one of them is no message."""
        return any(part.whys for part in self.parts)

    def extend(self, other: Columns) -> None:
        """Puts later messages behind these."""
        self.parts.extend(other.parts)

    def slice(self, start: int, stop: int) -> Columns:
        """The messages from one place to before another."""
        found, behind = [], 0
        for part in self.parts:
            mine = slice(max(0, start - behind), min(len(part), stop - behind))
            if mine.start < mine.stop:
                found.append(part.slice(mine.start, mine.stop))
            behind += len(part)
        return Columns(found)

    def before(self, stop: int) -> Columns:
        """Those before an offset."""
        if not self.parts or self.last < stop:
            return self
        return self.slice(0, sum(int(np.searchsorted(p.offsets, stop)) for p in self.parts))
