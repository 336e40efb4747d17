"""Changes bytes: bits, signs, numbers, lines and cells; the same for the same seed."""

from __future__ import annotations

import random
import re
import struct
from collections.abc import Sequence

from tests.fuzz.doors.door import Door

# Beyond this an input only takes time.
_LONGEST = 1 << 19
_BYTES = bytes([0, 1, 9, 10, 13, 31, 34, 39, 44, 59, 92, 123, 127, 128, 191, 192, 224, 239, 255])
_NUMBERS = [
    b"0", b"-1", b"1e308", b"1e400", b"-0", b"nan", b"inf", b"9" * 40, b"0.1", b"2147483648",
    b"-9223372036854775809", b"18446744073709551616", b"1,5", b"1.234.567", b"0x7f", b"1_000",
    b"20240601120000", b"253402300800", b"-62135596801",
]  # fmt: skip
_TEXTS = [
    b"", b" ", b"\t", b'"', b'""', b"'", b"\\", b"null", b"true", b"[]", b"{}", b"[" * 300,
    b"\xff\xfe", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\xf0\x9f\x94\x8b", b"\x00", b"\x1b[31m",
    b"../../x", b"/dev/zero", b"=1+1", b"9999-12-31T23:59:59Z", b"0001-01-01", b"1969-12-31",
    b"2024-02-30 25:61:61", b"03/04/2024", b"24:00:00", b"-1:00:00", b"Europe/Berlin", b"x" * 5000,
    b"1 of 31 of 3", b"\xe2\x80\xae", b"a\xcc\x81" * 50,
]  # fmt: skip
_PACKED = [
    struct.pack(kind, value)
    for kind in ("<i", ">i", "<q", ">q", "<h", ">h")
    for value in (-1, 0, 1, 2**15 - 1, -(2**15))
] + [b"\xff\xff\xff\x7f", b"\x00\x00\x00\x80", b"\x7f\xf0\0\0\0\0\0\0", b"\x80\x80\x80\x80\x08"]
_DIGITS = re.compile(rb"-?\d++(?:\.\d++)?+")


def change(door: Door, seeds: Sequence[bytes], rng: random.Random) -> bytes:
    """A new input, made from one or two of a door's."""
    data = rng.choice(seeds)
    if door.unpack is not None and door.pack is not None and rng.random() < 0.7:
        parts = door.unpack(data)
        if parts:
            at = rng.randrange(len(parts))
            parts[at] = _changed(parts[at], seeds, door.words, rng)
            return door.pack(data, parts)[:_LONGEST]
    return _changed(data, seeds, door.words, rng)[:_LONGEST]


def _changed(
    data: bytes, seeds: Sequence[bytes], words: Sequence[bytes], rng: random.Random
) -> bytes:
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        data = _once(data, seeds, words, rng)
    return data


def _once(data: bytes, seeds: Sequence[bytes], words: Sequence[bytes], rng: random.Random) -> bytes:
    if not data:
        return rng.choice([*_TEXTS, *words])
    at = rng.randrange(len(data))
    end = min(len(data), at + int(rng.paretovariate(0.6)))
    kind = rng.randrange(14)
    if kind == 0:
        return data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]
    if kind == 1:
        return data[:at] + bytes([rng.choice(_BYTES)]) + data[at + 1 :]
    if kind == 2:
        return data[:at] + data[end:]
    if kind == 3:
        return data[:at] + rng.randbytes(rng.randrange(1, 16)) + data[at:]
    if kind == 4:
        return data[:end] + data[at:end] * rng.choice((1, 2, 40)) + data[end:]
    if kind == 5:
        return data[:at]
    if kind == 6:
        piece = rng.choice(_PACKED)
        return data[:at] + piece + data[at + len(piece) :]
    if kind == 7:
        return data[:at] + rng.choice([*_TEXTS, *words]) + data[end:]
    if kind == 8:
        other = rng.choice(seeds)
        return data[:at] + other[rng.randrange(len(other) + 1) :]
    if kind == 9:
        other = rng.randrange(len(data))
        first, second = sorted((at, other))
        return data[second:] + data[first:second] + data[:first]
    if kind == 10:
        numbers = list(_DIGITS.finditer(data, at, at + 2_000))
        if numbers:
            found = rng.choice(numbers)
            return data[: found.start()] + rng.choice(_NUMBERS) + data[found.end() :]
        return data
    if kind == 11:  # lines
        lines = data.split(b"\n")
        row, other = rng.randrange(len(lines)), rng.randrange(len(lines))
        lines[row:row] = [lines[other]] * rng.choice((1, 1, 3, 200))
        return b"\n".join(lines)
    if kind == 12:  # cells
        sign = rng.choice((b",", b";", b"\t", b'"', b":", b"/", b"="))
        cells = data.split(sign)
        place = rng.randrange(len(cells))
        cells[place] = rng.choice([*_TEXTS, *_NUMBERS, *words])
        return sign.join(cells)
    first, second = rng.choice(((b",", b";"), (b".", b","), (b"\n", b"\r"), (b" ", b"\t")))
    return data.replace(first, second)
