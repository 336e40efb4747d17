"""python -m tests.fuzz.decoding: messages cut as columns and decoded one by one must be the same."""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa

from tests.messages import ARRIVED_US, SECOND, messages
from transforms import extra, plain_json
from transforms.batch import RawBatch
from transforms.decode import decode
from transforms.plain_json import AT_ONCE, FEWEST

# Names for each kind of value, of the reading and of nothing it knows.
NUMBERS = (
    "voltage_v", "current_a", "test_time_s", "step_time_s", "charge_capacity_ah", "temperature_c",
    "frequency_hz", "internal_resistance_ohm", "Voltage(V)", "Current(A)", "voltage_mv", "temp",
    "Temperature (C)", "temperature_k", "test_time_ms", "pressure", "dV/dt(V/s)", "a°", "x", "",
)  # fmt: skip
WHOLE = (
    "record_index", "cycle_index", "step_index", "Data_Point", "cyc", "step", "source_row", "count",
)  # fmt: skip
TEXTS = (
    "equipment_id", "equipment_type", "test_id", "cell", "battery_id", "source_file", "state",
    "Step_Type", "note", "extra", "Zustand µ",
)  # fmt: skip
TIMES = ("recorded_at", "streamed_at", "Date_Time", "timestamp", "ingested_at", "sent_at")
# Only the company of such a value tells what it is.
TOLD = ("time", "Time_sec", "timestamp_ms", "time_s")
TRUTHS = ("is_fc_data", "valid")

ODD = (
    b"-0", b"-0.0", b"0", b"0.0", b"1e5", b"1E+5", b"-2.5e-3", b"-0e0", b"1e400", b"-1e999",
    b"1e-400", b"5e-324", b"2e-324", b"1.7976931348623157e308", b"1.7976931348623159e308",
    b"2.2250738585072011e-308", b"9007199254740993", b"9007199254740993.0", b"9223372036854775807",
    b"-9223372036854775808", b"9223372036854775808", b"18446744073709551616", b"1" + b"0" * 29,
    b"1" + b"0" * 400, b"0.1234567890123456789012345", b"0.30000000000000004", b"1234567890123456",
    b"123456789012345678", b"1717243200.5", b"1717243200", b"1717243200000", b"45444.5",
    b"NaN", b"nan", b"Infinity", b"-Infinity", b"inf", b"01", b"-01", b"00", b"+1", b"1.", b".5",
    b"-.5", b"-", b"--1", b"1-2", b"1e", b"1e+", b"1.e5", b"1.2.3", b"0x10", b"1_0", b"1,5", b"e5",
    b" 1", b"1 ", b"\t1", b"1\n", b"null", b"nul", b"nulx", b"nope", b"nulll", b"Null", b"None", b"true", b"false",
    b"tru", b"True", b"truefalse", b"", b" ", b'""', b'" "', b'"NaN"', b'"n/a"', b'"-"', b'"3,7"',
    b'"1,234"', b'"1.5"', b'" 3.7 "', b'"1_0"', b'"0x10"', b'"1e5"', b'"+1"', b'"Infinity"',
    b'"true"', b'"null"', b'"abc"', b'"charge"', b'"rest"', b'"battery_cell"', b'"toaster"',
    b'"a\\"b"', b'"a\\\\"', b'"\\u00e9"', b'"\\ud83d\\ude00"', b'"\\ud800"', b'"\\uDC00\\ud800"',
    b'"\\x"', b'"\\n"', b'"\\u0000"', b'"a\x01b"', b'"a\tb"', b'"a\nb"', b'"\x7f"', b'"\xff"',
    b'"\xc3"', b'"\xed\xa0\x80"', b'"\xc0\x80"', b'"\xf4\x90\x80\x80"', '"é°µ中😀"'.encode(),
    "\"a\u2028b\u00a0\"".encode(), b'"a"b"', b'"a', b'a"', b'"', b'"x":', b'"a","b":1', b"'a'",
    b"{}", b"[]", b'{"a":1}', b"[1,2]", b'{"a":', b"[" * 3, b"[" * 2000, b"1}", b"1]", b"/**/1",
    b'"2024-06-01T12:00:00Z"', b'"2024-06-01T12:00:00.123456789Z"', b'"2024-06-01T12:00:00.1+02:00"',
    b'"2024-06-01 12:00:00"', b'"2024-06-01T12:00:00.1234567"', b'"06/01/2024 12:00:00 PM"',
    b'"2024-06-01T12:00:60Z"', b'"2024-13-01T12:00:00Z"', b'"2024-06-01T12:00:00-0930"',
    b'"1.6.2024 12:00"', b'"2024-06-01 12:00:00+00"', b'"2024-06-01 12:00:00-05"', b'"2024-06-01"', b'"0000-00-00"', b'"99999-01-01T00:00:00Z"',
    b'"2024-03-31T02:30:00"', b'"1:02:03.5"', b'"noon"', b'"' + b"x" * 600 + b'"',
)  # fmt: skip

_STYLES = ((b",", b":", b"{", b"}"), (b", ", b": ", b"{", b"}"), (b" ,\t", b" : ", b"{ ", b" }\n"),
           (b",\n  ", b": ", b"\n{\n  ", b"\n}\r\n"))  # fmt: skip


@dataclass(frozen=True)
class Shape:
    """How a producer writes its messages: names, the kind of their values, and the signs between."""

    names: tuple[str, ...]
    kinds: tuple[str, ...]
    style: tuple[bytes, bytes, bytes, bytes]


def _shape(rng: random.Random, told: bool) -> Shape:
    pairs = [
        *((name, rng.choice(("float", "float", "float", "mixed", "whole", "textual", "long")))
          for name in rng.sample(NUMBERS, rng.randint(1, 9))),
        *((name, rng.choice(("whole", "whole", "whole", "mixed", "float")))
          for name in rng.sample(WHOLE, rng.randint(0, 3))),
        *((name, "text") for name in rng.sample(TEXTS, rng.randint(0, 4))),
        *((name, rng.choice(("zoned", "zoned", "micros", "local", "epoch", "slashed")))
          for name in rng.sample(TIMES, rng.randint(0, 2))),
        *((name, "truth") for name in rng.sample(TRUTHS, rng.randint(0, 1))),
        *((name, rng.choice(("epoch", "float", "whole", "zoned")))
          for name in rng.sample(TOLD, rng.randint(1, 2) if told else 0)),
    ]  # fmt: skip
    if rng.random() < 0.03:
        pairs.append(rng.choice(pairs))
    rng.shuffle(pairs)
    return Shape(*map(tuple, zip(*pairs, strict=True)), rng.choice(_STYLES))  # type: ignore[arg-type]


def _value(kind: str, name: str, row: int, rng: random.Random) -> bytes:
    if kind == "mixed":
        kind = rng.choice(("float", "whole"))
    if kind == "float":
        return repr(round(rng.uniform(-5, 50), rng.randint(1, 6))).encode()
    if kind == "long":
        # Of many digits, and near the middle between two doubles, where rounding is decided.
        double = rng.uniform(0, 1) * 10 ** rng.randint(-300, 300)
        middle = (Decimal(double) + Decimal(math.nextafter(double, math.inf))) / 2
        return format(middle, f".{rng.randint(15, 40)}{rng.choice('eg')}").encode()
    if kind == "whole":
        return str(rng.randint(0, 10 ** rng.randint(1, 5))).encode()
    if kind == "textual":
        return b'"%.3f"' % rng.uniform(-5, 50)
    if kind == "truth":
        return rng.choice((b"true", b"false"))
    second = row % 3_600
    if kind in ("zoned", "micros", "local"):
        tail = {"zoned": "Z", "micros": f".{row:06d}Z", "local": ""}[kind]
        return f'"2024-06-01T12:{second // 60:02d}:{second % 60:02d}{tail}"'.encode()
    if kind == "slashed":
        return f'"06/01/2024 12:{second // 60:02d}:{second % 60:02d}"'.encode()
    if kind == "epoch":
        return str(1_717_243_200 + second).encode() + rng.choice((b"", b"000", b".5"))
    if name == "equipment_type":
        return rng.choice((b'"battery_cell"', b'"machine"'))
    if name in ("state", "Step_Type"):
        return rng.choice((b'"charge"', b'"discharge"', b'"rest"', b'"CC_Chg"'))
    return rng.choice((b'"CS2_%d"' % rng.randint(0, 30), '"Zelle °µ"'.encode(), b'" a "'))


def _written(shape: Shape, row: int, rng: random.Random, nulls: float, odd: float) -> bytes:
    comma, colon, opening, closing = shape.style
    pairs = []
    for name, kind in zip(shape.names, shape.kinds, strict=True):
        if rng.random() < nulls:
            value = b"null"
        else:
            value = rng.choice(ODD) if rng.random() < odd else _value(kind, name, row, rng)
        pairs.append(json.dumps(name, ensure_ascii=False).encode() + colon + value)
    if rng.random() < odd:
        change = rng.randrange(5)
        at = rng.randrange(len(pairs))
        if change == 0:
            rng.shuffle(pairs)
        elif change == 1:
            del pairs[at]
        elif change == 2:
            pairs.insert(at, rng.choice(pairs))
        elif change == 3:
            pairs.append(
                b'"%s":%s' % (rng.choice((b"more", b"voltage_v", b"a\\u0062")), rng.choice(ODD))
            )
        else:
            pairs[at] = rng.choice(
                (b"", b"1", b'"a"', b"voltage_v:1", pairs[at].replace(b'"', b"'"))
            )
    return opening + comma.join(pairs) + closing


_SIGNS = b'"\\{}[],:.-+eE0123456789 \t\n\x00\x01\x03\x7f\x80\xc3\xff/nulltrue'


def _mangled(message: bytes, rng: random.Random) -> bytes | None:
    changed = bytearray(message)
    how = rng.randrange(12)
    if how < 5:
        # Also two changes that undo each other: a quote taken here and put there.
        for _ in range(rng.randint(1, 2)):
            at = rng.randrange(len(changed))
            if how == 0:
                changed[at] = rng.choice(_SIGNS)
            elif how == 1:
                changed.insert(at, rng.choice(_SIGNS))
            elif how == 2:
                del changed[at : at + rng.randint(1, 3)]
            elif how == 3:
                quotes = [place for place, byte in enumerate(changed) if byte == 0x22]
                if quotes:
                    del changed[rng.choice(quotes)]
                    changed.insert(rng.randrange(len(changed) + 1), 0x22)
            elif how == 4:
                other = rng.randrange(len(changed))
                changed[at], changed[other] = changed[other], changed[at]
            if not changed:
                break
        return bytes(changed)
    if how == 5:
        return message[: rng.randrange(len(message))]
    if how == 6:
        return message + rng.choice((message, b",", b"}", b" ", b"\n", b"\x00", b"x", b"\xff"))
    if how == 7:
        return (
            rng.choice((b"\xef\xbb\xbf", b" ", b"\n", b"[", b"\x00", b"\x00\x00\x00\x00\x07", b"1"))
            + message
        )
    if how == 8:
        return rng.choice(
            (None, b"", b" ", b"{}", b"[]", b"null", b"1", b'"a"', b"{", b"\xff\xfe{")
        )
    if how == 9:
        return message.replace(b":", b" :  ", 1).replace(b",", b" , ", 1)
    if how == 10:
        return message.decode("utf-8", "replace").encode("utf-16")
    return message.replace(b'"', b'\\"')


def batch(rng: random.Random, size: int) -> RawBatch:
    """A batch of messages: of one producer or several, most of them good, some changed."""
    told = rng.random() < 0.1
    shapes = [_shape(rng, told) for _ in range(rng.choice((1, 1, 1, 2, 3)))]
    nulls, odd = rng.choice((0, 0, 0, 0.02, 0.3)), rng.choice((0, 0.0002, 0.002, 0.03))
    mangled = rng.choice((0, 0.001, 0.01, 0.1))
    payloads: list[bytes | None] = []
    for row in range(size):
        payload: bytes | None = _written(rng.choice(shapes), row, rng, nulls, odd)
        if payload and rng.random() < mangled:
            payload = _mangled(payload, rng)
        payloads.append(payload)
    more: dict[str, Any] = {}
    if rng.random() < 0.5:
        more["keys"] = [rng.choice((b"K1", b"K2", b"\xff\x01", b"", None)) for _ in payloads]
    if rng.random() < 0.3:
        more["attributes"] = [rng.choice(('{"equipment_id":"A1"}', "{", None)) for _ in payloads]
    if rng.random() < 0.3:
        more["files"] = [rng.choice(("lab/CS2_35_8_18_10.csv", None)) for _ in payloads]
    if rng.random() < 0.3:
        more["arrived"] = [ARRIVED_US + row * SECOND for row in range(size)]
    raw = messages(payloads, **more)
    if rng.random() < 0.2:
        refused = dict.fromkeys(rng.sample(range(size), 3), ("unread", "not held"))
        raw = replace(raw, refused=refused)
    if rng.random() < 0.2:
        raw = raw.slice(3, size - 5)
    elif rng.random() < 0.2:
        parts = [raw.table.slice(0, size // 3), raw.table.slice(size // 3)]
        raw = replace(raw, table=pa.concat_tables(parts))
    return raw


@contextmanager
def _cutting(fewest: int, at_once: int) -> Iterator[None]:
    """Fewer messages than `fewest` are not cut; the others in parts of `at_once` bytes."""
    before = plain_json.FEWEST, plain_json.AT_ONCE
    plain_json.FEWEST, plain_json.AT_ONCE = fewest, at_once
    try:
        yield
    finally:
        plain_json.FEWEST, plain_json.AT_ONCE = before


@contextmanager
def _strictly() -> Iterator[None]:
    """Every message is decoded by itself, and what is kept of it beside is spelled by itself."""
    before = extra._of_plain
    extra._of_plain = lambda columns, names, better: None
    try:
        with _cutting(1 << 60, AT_ONCE):
            yield
    finally:
        extra._of_plain = before


def _bits(column: pa.ChunkedArray) -> list[Any]:
    """What a column holds, doubles to the last bit."""
    if not pa.types.is_floating(column.type):
        found: list[Any] = (
            column.cast(column.type.value_type).to_pylist()
            if pa.types.is_dictionary(column.type)
            else column.to_pylist()
        )
        return found
    array = column.combine_chunks()
    words = array.fill_null(0.0).to_numpy(zero_copy_only=False).view(np.uint64)
    return list(zip(words.tolist(), array.is_valid().to_pylist(), strict=True))


class Differs(AssertionError):
    """The two ways gave something else; the message says what."""


def compare(
    raw: RawBatch, fewest: int = FEWEST, at_once: int = AT_ONCE, zone: str = "UTC"
) -> tuple[int, int]:
    """Decodes a batch on both ways.

    The rejects are compared, of which and the batch alone the dead letters are made.

    Args:
        raw: the batch.
        fewest: messages of one kind that are cut.
        at_once: bytes that are cut at once.
        zone: of times without one.

    Returns:
        how many readings and how many dead letters came of it.

    Raises:
        Differs: not the same of both.
    """
    with _strictly():
        wanted, refused = decode(raw, zone)
    with _cutting(fewest, at_once):
        found, also = decode(raw, zone)
    payloads = raw.table.column("payload")

    def show(row: int) -> str:
        return f"row {row}: {payloads[row].as_py()!r:.2000}"

    for row in sorted({*refused.rows, *also.rows}):
        if refused.rows.get(row) != also.rows.get(row):
            raise Differs(f"refused {refused.rows.get(row)}, cut {also.rows.get(row)}; {show(row)}")
    if wanted.table.schema != found.table.schema:
        raise Differs(f"{wanted.table.schema}\ncut:\n{found.table.schema}")
    rows = wanted.table.column("row").to_pylist()
    if rows != found.table.column("row").to_pylist():
        raise Differs(f"rows {rows} and {found.table.column('row').to_pylist()}")
    for name in wanted.table.column_names:
        one, other = (_bits(table.column(name)) for table in (wanted.table, found.table))
        if one != other:
            at = next(
                i for i, pair in enumerate(zip(one, other, strict=True)) if pair[0] != pair[1]
            )
            raise Differs(f"{name} is {one[at]!r}, cut {other[at]!r}; {show(rows[at])}")
    return found.table.num_rows, len(also.rows)


def run(count: int, seed: int, size: int, fewest: int = FEWEST) -> Counter[str]:
    """Compares `count` messages in batches of about `size`; what came of them.

    Raises:
        Differs: a message became something else; says how to make its batch again.
    """
    done: Counter[str] = Counter()
    number = 0
    while done["messages"] < count:
        rng = random.Random(f"{seed}:{number}")
        raw = batch(rng, rng.randint(size // 2, size + size // 2))
        payloads = raw.table.column("payload").combine_chunks()
        at_once = rng.choice((AT_ONCE, 30_000))
        with _cutting(fewest, at_once):
            cut = plain_json.cut(payloads, lambda names: True, lambda names: [False] * len(names))
        try:
            readings, letters = compare(raw, fewest, at_once, rng.choice(("UTC", "Europe/Berlin")))
        except Differs as why:
            raise Differs(f"batch {number} of seed {seed}, size {size}: {why}") from None
        done["messages"] += raw.table.num_rows
        done["cut"] += sum(len(part.rows) for part in cut)
        done["readings"] += readings
        done["dead letters"] += letters
        done["batches"] += 1
        number += 1
    return done


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit status: 1 if anything differs."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.decoding", description=__doc__)
    parser.add_argument("--messages", type=int, default=100_000, help="how many; default: 100,000")
    parser.add_argument("--seed", type=int, default=1, help="of all choices; default: 1")
    parser.add_argument("--batch", type=int, default=2_000, help="messages of one; default: 2,000")
    flags = parser.parse_args(arguments)
    began = time.monotonic()
    try:
        done = run(flags.messages, flags.seed, flags.batch)
    except Differs as why:
        print(why, file=sys.stderr)
        return 1
    print(", ".join(f"{number:,} {what}" for what, number in done.items()))
    print(f"all the same, {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
