"""Stable identities of readings and of their content, and the shard of an equipment."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

U64 = npt.NDArray[np.uint64]

# Odd constants of two independent lanes: the golden ratio's and those of the splitmix64 finaliser
# (Steele, Lea, Flood: Fast splittable pseudorandom number generators, OOPSLA 2014).
_LANES = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD1B54A32D192ED03))
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_NULL = np.uint64(0x7FF8DEADBEEF0001)
_HEX = np.array([f"{value:02x}".encode() for value in range(256)], dtype="S2")


def _mix(value: U64) -> U64:
    """splitmix64's finaliser: every bit of the input moves every bit of the output."""
    value = (value ^ (value >> np.uint64(30))) * _MIX_1
    value = (value ^ (value >> np.uint64(27))) * _MIX_2
    return value ^ (value >> np.uint64(31))


class Identity:
    """Two 64-bit lanes per row, into which columns are absorbed one after another."""

    def __init__(self, high: U64, low: U64) -> None:
        self.high, self.low = high, low

    def absorb(self, words: U64) -> None:
        """Mixes one 64-bit word per row into both lanes; the order of calls matters."""
        with np.errstate(over="ignore"):
            self.high = _mix(self.high * _LANES[0] + words)
            self.low = _mix(self.low * _LANES[1] ^ (words * _LANES[0] + _LANES[1]))

    def absorb_column(self, column: pa.Array | None, rows: int) -> None:
        """Mixes a numeric, timestamp or text column in; a missing column is all nulls."""
        self.absorb(_words(column, rows))


def _words(column: pa.Array | None, rows: int) -> U64:
    if column is None or pa.types.is_null(column.type):
        return np.full(rows, _NULL)
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    if pa.types.is_floating(column.type):
        # Adding zero makes -0.0 the same as 0.0, which compare equal and mean the same.
        numbers = column.to_numpy(zero_copy_only=False) + 0.0
        words = numbers.view(np.uint64).copy()
    elif pa.types.is_string(column.type):
        digests = [
            b"" if text is None else hashlib.blake2b(text.encode(), digest_size=8).digest()
            for text in column.to_pylist()
        ]
        words = np.array([int.from_bytes(digest, "big") for digest in digests], dtype=np.uint64)
    else:
        words = column.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
        words = words.view(np.uint64).copy()
    found: U64 = words
    if column.null_count:
        found[~np.asarray(column.is_valid())] = _NULL
    return found


# Of a double's 52 binary digits so many do not count as content: another way of converting a unit
# changes the last ones, and no instrument measures that well.
_IGNORED_BITS = np.uint64(20)
_HALF = np.uint64(1 << 19)
# Odd steps of the golden ratio's multiples: a factor for every column, whatever others there are.
_STEP = np.uint64(0x9E3779B97F4A7C16)


def content(table: pa.Table, names: Sequence[str], high: U64 | None = None) -> pa.Array:
    """A 64-bit digest of some numeric columns for each row, int64, shape (n,).

    A column that is missing is as one of nulls. Doubles count to ten decimal digits. The identity
    counts too, so that the digests of many readings, as one, tell whether any has changed.

    Args:
        table: the readings.
        names: the columns.
        high: the first lane of each reading's identity; None: it is in `reading_id`.
    """
    rows = table.num_rows
    digest = _high_lane(table.column("reading_id")) if high is None else high.copy()
    factor = _LANES[0]
    with np.errstate(over="ignore"):
        for name in names:
            factor = factor + _STEP
            column = table.column(name) if name in table.column_names else None
            if column is None or column.null_count == rows:
                continue
            digest += _content_words(column) * factor
        mixed = _mix(digest)
    return pa.array(mixed.view(np.int64))


def _high_lane(reading_ids: pa.ChunkedArray) -> U64:
    """What `to_hex` was given as `high`; of ids that somebody else has given, a digest."""
    texts = reading_ids.to_pylist()
    try:
        return np.fromiter((int(text[:16], 16) for text in texts), np.uint64, len(texts))
    except ValueError:
        return of_names(texts)[0]


def _content_words(column: pa.ChunkedArray) -> U64:
    """A word for each value of a numeric column, 0 for null."""
    found: U64
    if pa.types.is_floating(column.type):
        # Adding zero makes -0.0 the same as 0.0; one more tells 0.0 from null.
        numbers = column.to_numpy() + 0.0
        found = ((numbers.view(np.uint64) + _HALF) >> _IGNORED_BITS) + np.uint64(1)
        if column.null_count:
            found[np.isnan(numbers)] = 0
        return found
    found = column.cast(pa.int64()).fill_null(-1).to_numpy().view(np.uint64) + np.uint64(1)
    return found


# Far above any fleet: when the cache has grown to this, it is simply begun anew.
_MOST_CACHED = 1_000_000
_digests: dict[str, bytes] = {}


def _digest(name: str) -> bytes:
    if len(_digests) >= _MOST_CACHED:
        _digests.clear()
    found = _digests[name] = hashlib.blake2b(name.encode(), digest_size=16).digest()
    return found


def of_names(names: Sequence[str | None]) -> tuple[U64, U64]:
    """The two lanes an equipment's name starts with, for each of `names`."""
    known = _digests.get
    joined = b"".join([known(name or "") or _digest(name or "") for name in names])
    lanes = np.frombuffer(joined, dtype=">u8").astype(np.uint64).reshape(-1, 2)
    return lanes[:, 0].copy(), lanes[:, 1].copy()


def shards(names: Sequence[str | None], count: int) -> npt.NDArray[np.int64]:
    """The shard of each equipment: a hash of its name modulo `count`, the same in every run."""
    high, _ = of_names(names)
    return (high % np.uint64(count)).astype(np.int64)


def shard(table: pa.Table, count: int) -> int:
    """The shard of a table's readings, which are all of one; see `shards`."""
    return int(shards([table.column("equipment_id")[0].as_py()], count)[0])


def to_hex(high: U64, low: U64) -> pa.Array:
    """The identities as 32 hexadecimal digits each, shape (n,)."""
    both = np.empty((len(high), 2), dtype=">u8")
    both[:, 0], both[:, 1] = high, low
    digits = _HEX[both.view(np.uint8).reshape(-1)]
    offsets = np.arange(0, 32 * (len(high) + 1), 32, dtype=np.int32)
    return pa.StringArray.from_buffers(
        len(high), pa.py_buffer(offsets), pa.py_buffer(digits.tobytes())
    )
