"""Cuts the plain records of Kafka's batches out of their bytes as columns, none by itself.

A batch's records are found by their lengths alone. What they are is proved of many at once: a
record is plain if its fields, read one behind the other, end where it does, and it has no headers.
Whatever is not plain is left to the strict way, which takes record by record.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.sources.kafka.columns import I64, NO_TIME, Columns, Headers, Part

U8 = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]

# A length in two bytes, as most records have it: what each of them adds, None for another length.
_LOW = [(low & 0x7F) // 2 + 2 if low >= 0x80 and not low & 1 else None for low in range(256)]
_HIGH = [high << 6 if high < 0x80 else None for high in range(256)]
# No number here is longer, in bytes; a longer one is left to the strict way.
_LONGEST = 5
# How far behind a record's end the strict way may look, who finds out what is wrong with it.
_BEHIND = 64
# Behind the last record, so that nothing is read beyond the end: as many as its first fields take.
_PAD = bytes(32)
# Arrow's offsets have 32 bits.
_MOST_BYTES = 2**31 - 64
# Times within this can be added without a look at each.
_FAR_MS = 2**61
# Where more records than one of so many are not plain, all are left to the strict way.
_ODD_SHARE, _ODD_LEAST = 3, 4


class Batch(NamedTuple):
    """What a batch's header says of its records.

    Attributes:
        base: its first offset.
        last: its last offset.
        first_ms: what its records' times are counted from, ms since 1970.
        sent_ms: the time of all of them, where the broker has set it.
    """

    base: int
    last: int
    first_ms: int
    sent_ms: int | None

    @property
    def is_near(self) -> bool:
        """Whether its times can be calculated with."""
        sent_ms = 0 if self.sent_ms is None else self.sent_ms
        return abs(self.first_ms) < _FAR_MS and abs(sent_ms) < _FAR_MS


# Reads a record strictly: its batch, its bytes and some behind them, how many are its own, the offset
# before it.
Strict = Callable[[Batch, bytes, int, int], Any]


class _Stretch(NamedTuple):
    """Records of a batch, as many as were taken at once.

    Attributes:
        batch: the batch.
        rows: how many they are.
        first: the first one's offset.
        shift: what to add to a place in the batch's bytes for that in those of all stretches.
        stop: where they end in the batch's bytes.
        behind: what stands there.
    """

    batch: Batch
    rows: int
    first: int
    shift: int
    stop: int
    behind: bytes


class Borders:
    """Records of some batches, as far as their lengths tell where they are.

    Args:
        longest: the most bytes that a record may have.
    """

    def __init__(self, longest: int) -> None:
        self._longest = longest
        self._data = bytearray()
        # Where each record ends in the batch that it is of, and what to add for its place in `data`.
        self._stops = array("q")
        self._stretches: list[_Stretch] = []

    def __len__(self) -> int:
        return len(self._stops)

    def add(
        self, batch: Batch, data: bytes, at: int, first: int, rows: int, most: int
    ) -> tuple[int, int]:
        """Takes records of a batch, up to the first that is none by its length.

        Args:
            batch: the batch.
            data: its records, unpacked.
            at: where the next one stands.
            first: its offset.
            rows: how many to take at most.
            most: the record that makes it so many bytes is the last.

        Returns:
            how many there are, and where the next one stands.
        """
        stops, before = self._stops, len(self._stops)
        append, began, size = stops.append, at, len(data)
        left = rows
        while left > 0:
            try:
                for _ in range(left):
                    at += _LOW[data[at]] + _HIGH[data[at + 1]]  # type: ignore[operator]
                    append(at)
                break
            except (TypeError, IndexError):
                stop = self._stop_of(data, at)
                if stop is None:
                    break
                append(stop)
                at = stop
            left = rows - (len(stops) - before)
        # The last one may be said to end behind the batch's end; and there may be too many bytes.
        del stops[bisect_right(stops, size, before) :]
        del stops[bisect_left(stops, began + most, before) + 1 :]
        found = len(stops) - before
        if not found:
            return 0, began
        stop = stops[-1]
        behind = data[stop : stop + _BEHIND]
        self._stretches.append(_Stretch(batch, found, first, len(self._data) - began, stop, behind))
        self._data += memoryview(data)[began:stop]
        return found, stop

    def _stop_of(self, data: bytes, at: int) -> int | None:
        """Where a record of any length ends; None if it is none, or is too long."""
        length = 0
        for place, byte in enumerate(data[at : at + _LONGEST]):
            length |= (byte & 0x7F) << 7 * place
            if byte < 0x80:
                stop = at + place + 1 + (length >> 1)
                fits = not length & 1 and length >> 1 <= self._longest and stop <= len(data)
                return stop if fits else None
        return None

    def parts(self, strict: Strict) -> list[Part] | None:
        """The records as columns; None if they have to be read strictly, all of them.

        Args:
            strict: reads one that is not plain; it has to have the offset behind the one before.
        """
        rows = len(self._stops)
        if not rows:
            return []
        stretches = self._stretches
        counts = np.array([each.rows for each in stretches])
        firsts = np.cumsum(counts) - counts

        def each_of(values: Iterable[int]) -> I64:
            return np.repeat(np.fromiter(values, np.int64, len(counts)), counts)

        stops = np.frombuffer(self._stops, np.int64) + each_of(each.shift for each in stretches)
        end = int(stops[-1])
        if end > _MOST_BYTES:
            return None
        starts = np.concatenate([[0], stops[:-1]])
        self._data += _PAD
        data = np.frombuffer(self._data, np.uint8)
        ahead = np.fromiter((each.first for each in stretches), np.int64, len(counts)) - firsts
        offsets = np.arange(rows) + np.repeat(ahead, counts)
        _, begins, odd = _numbers(data, starts)
        since_ms, at, endless = _numbers(data, begins + 1)  # behind attributes, which nobody has
        odd |= endless
        delta, at, endless = _numbers(data, at)
        odd |= endless
        keys = _Fields(data, at, end)
        values = _Fields(data, keys.stops, end)
        odd |= keys.endless | values.endless | (values.stops != stops - 1) | (data[stops - 1] != 0)
        odd |= stops - begins > self._longest
        wrong = delta != offsets - each_of(each.batch.base for each in stretches)
        if (wrong & ~odd).any():
            return None
        times = since_ms + each_of(each.batch.first_ms for each in stretches)
        is_sent = [each.batch.sent_ms is not None for each in stretches]
        if any(is_sent):
            sent_ms = each_of(each.batch.sent_ms or 0 for each in stretches)
            times = np.where(np.repeat(is_sent, counts), sent_ms, times)
        times[times < 0] = NO_TIME
        if not odd.any():
            return [Part(offsets, times, keys.taken(), values.taken())]
        places = np.flatnonzero(odd)
        if len(places) > _ODD_LEAST and len(places) * _ODD_SHARE > rows:
            return None
        records = []
        for place in places.tolist():
            mine = stretches[int(np.searchsorted(firsts, place, side="right")) - 1]
            offset, begin, stop = int(offsets[place]), int(begins[place]), int(stops[place])
            content = data[begin : min(stop + _BEHIND, mine.stop + mine.shift)].tobytes()
            record = strict(mine.batch, content + mine.behind, stop - begin, offset - 1)
            if record is None or record.offset != offset:
                return None
            records.append(record)
        keys.leave_out(odd)
        values.leave_out(odd)
        plain = Part(offsets, times, keys.taken(), values.taken())
        return [_placed(plain, Columns.of(records).parts[0], places)]


def _placed(plain: Part, odd: Part, places: I64) -> Part:
    """Puts messages into the places of those that are missing among the plain ones."""
    order = np.arange(len(plain))
    order[places] = len(plain) + np.arange(len(odd))
    plain.times[places] = odd.times
    headers: list[Headers | None] | None = None
    if odd.headers is not None:
        headers = [None] * len(plain)
        for place, each in zip(places.tolist(), odd.headers, strict=True):
            headers[place] = each
    keys, values = (
        pa.concat_arrays(pair).take(pa.array(order))
        for pair in ((plain.keys, odd.keys), (plain.values, odd.values))
    )
    whys = {int(places[place]): why for place, why in odd.whys.items()}
    return Part(plain.offsets, plain.times, keys, values, headers, whys)


class _Fields:
    """A field of each record: bytes behind their length, or null.

    Args:
        data: the records, and _PAD.
        at: where each record's field is, shape (n,).
        end: where the records end.

    Attributes:
        stops: where each field ends, shape (n,); it may be anywhere where that is not its record's.
        endless: which lengths are no numbers.
    """

    def __init__(self, data: U8, at: I64, end: int) -> None:
        self._data = data
        length, self._starts, self.endless = _numbers(data, np.minimum(at, end))
        null = length < 0
        self._valid: Mask | None = ~null if null.any() else None
        # A number of _LONGEST bytes can't take them over the end of all numbers.
        self.stops = self._starts + np.maximum(length, 0)

    def leave_out(self, rows: Mask) -> None:
        """Makes these rows null, whatever stands there."""
        self._valid = ~rows if self._valid is None else self._valid & ~rows
        # Their places lead nowhere; what is between two fields may be anything that goes on.
        self._starts[rows] = self.stops[rows] = 0

    def taken(self) -> pa.Array:
        """The fields as an array of type binary, with memory of its own."""
        rows = len(self._starts)
        # An array of which every other item is a field, and those between are what is between.
        places = np.empty(2 * rows + 1, dtype=np.int32)
        places[:-1:2] = self._starts
        places[1::2] = self.stops
        places[-1] = len(self._data)
        whole = pa.Array.from_buffers(
            pa.binary(), 2 * rows, [None, pa.py_buffer(places), pa.py_buffer(self._data)]
        )
        wanted = np.arange(0, 2 * rows, 2, dtype=np.int32)
        mask = None if self._valid is None else ~self._valid
        return whole.take(pa.array(wanted, mask=mask))


def _numbers(data: U8, at: I64) -> tuple[I64, I64, Mask]:
    """Kafka's varints at some places: their values, what is behind them, which of them go on."""
    value = data[at].astype(np.int64)
    more: Mask = value >= 0x80
    behind = at + 1
    if more.any():
        value &= 0x7F
        for place in range(1, _LONGEST):
            byte = data[at + place].astype(np.int64)
            value |= np.where(more, (byte & 0x7F) << 7 * place, 0)
            behind += more
            more = more & (byte >= 0x80)
            if not more.any():
                break
    return (value >> 1) ^ -(value & 1), behind, more
