"""Parses JSON messages into columns, the bad ones one by one with their reason."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from operator import attrgetter
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from schemas.aliases import meaning, normalise, resolve
from schemas.reading import READING, Kind
from transforms import plain_json
from transforms.budget import TOO_LARGE, USUAL, Budget
from transforms.convert import Values

# Reports one refused row: its number, the rule's name, what was wrong.
Refuse = Callable[[int, str, str], None]

# A bare `time` is a date for a gateway and elapsed seconds for a cycler: its values tell, and other
# names beside it.
AMBIGUOUS_TIME = "time"
BARE_TIME = re.compile(r"time(_(s|sec|seconds?|min|minutes|h|hr|hours|ms))?")

_decode = msgspec.json.decode
_ERRORS = (msgspec.MsgspecError, UnicodeError, ValueError, RecursionError, TypeError)

# Messages looked at to learn a batch's field names; one with a name that none of these has is
# decoded on the slower way, to the same result.
_SAMPLES = 8
_MOST_NAMES = 128
# More kinds of messages than this in one batch are decoded as one kind with holes, as long as there
# are not this many times as many holes as values; then so many kinds at a time.
_MOST_KINDS = 16


@dataclass(frozen=True)
class Alike:
    """Messages that are decoded together.

    Attributes:
        rows: their rows in the batch, rising; None for all of them.
        columns: a value per message for every field name; None where a message has none.
        others: a message's further fields, whose names mean nothing to the reading; None where
            all are in `columns`.
    """

    rows: npt.NDArray[np.int64] | list[int] | None
    columns: dict[str, Values]
    others: list[dict[str, Any]] | None = None


@lru_cache(maxsize=64)
def _layout(names: tuple[str, ...]) -> tuple[Callable[[bytes], Any], Callable[[Any], Any]] | None:
    """A decoder of objects with no other fields than `names`, and what takes out their values.

    Such a decoder makes no dict and no keys, which halves the time a message takes.
    """
    fields = [f"f{place}" for place in range(len(names))]
    try:
        shape = msgspec.defstruct(
            "Message",
            [(field, Any, None) for field in fields],
            rename=dict(zip(fields, names, strict=True)),
            forbid_unknown_fields=True,
            gc=False,
        )
    except ValueError:
        return None  # a name with a quote or control character
    # With one name attrgetter gives the bare value instead of a tuple.
    take = attrgetter(*fields) if len(fields) > 1 else lambda message: (message.f0,)
    return msgspec.json.Decoder(shape).decode, take


def _sampled_names(payloads: Sequence[bytes | None]) -> tuple[str, ...]:
    names: set[str] = set()
    for place in range(0, len(payloads), max(1, len(payloads) // _SAMPLES)):
        try:
            message = _decode(payloads[place])  # type: ignore[arg-type] # None is an error too
        except _ERRORS:
            continue
        if isinstance(message, dict):
            names.update(message)
    return tuple(sorted(names))


def parse(payloads: pa.Array, refuse: Refuse, budget: Budget = USUAL) -> list[Alike]:
    """The messages' values as columns, for each set of messages that are decoded together.

    Every payload is a row of one of the sets, or was refused. What a message becomes does not
    depend on its company, but for times of which only the company tells what they are: a batch with
    such is decoded on one way. All takes time and memory by the messages' size, whatever their
    names.

    Args:
        payloads: the messages, an array of type binary.
        refuse: is told what is refused.
        budget: what a message may take.
    """
    plain = plain_json.cut(payloads, lambda names: _is_usual(names, budget), _measured)
    if not plain:
        return _parse_strictly(payloads.to_pylist(), refuse, budget)
    if len(plain[0].rows) == len(payloads):
        return [Alike(None, plain[0].columns)]
    strict = np.ones(len(payloads), dtype=bool)
    for part in plain:
        strict[part.rows] = False
    rows = np.flatnonzero(strict)

    def refuse_strict(row: int, rule: str, message: str) -> None:
        refuse(int(rows[row]), rule, message)

    left = _parse_strictly(payloads.take(pa.array(rows)).to_pylist(), refuse_strict, budget)
    found = [Alike(part.rows, part.columns) for part in plain]
    found += [replace(a, rows=rows if a.rows is None else rows[a.rows]) for a in left]
    if len(found) > 1 and any(_depends_on_others(name) for part in found for name in part.columns):
        return _parse_strictly(payloads.to_pylist(), refuse, budget)
    return found


def _is_usual(names: Collection[str], budget: Budget) -> bool:
    return 0 < len(names) <= min(_MOST_NAMES, budget.names) and not _too_long(names, budget)


@lru_cache(maxsize=256)
def _measured(names: tuple[str, ...]) -> list[bool]:
    """Which of a message's fields are only asked for their number, as a double.

    Not those that may be kept as they are spelled: unknown ones, and second names of a field.
    """
    meant = [_field_of(name) for name in names]
    count = Counter(meant)
    return [
        field is not None and count[field] == 1 and READING.field(field).kind is Kind.DOUBLE
        for field in meant
    ]


def _field_of(name: str) -> str | None:
    """The field of the reading that a name may stand for; None if there is none."""
    alias = resolve(name)
    if alias is None:
        return "test_time_s" if normalise(name) == AMBIGUOUS_TIME else None
    return None if READING.field(alias.field).derived else alias.field


@lru_cache(maxsize=1024)
def _depends_on_others(name: str) -> bool:
    """Whether other messages' names and values decide what the values of that name are."""
    if BARE_TIME.fullmatch(normalise(name)):
        return True
    alias = resolve(name)
    if alias is None or alias.scale == 1.0:
        return False
    return READING.field(alias.field).kind is Kind.TIMESTAMP


def _parse_strictly(
    payloads: Sequence[bytes | None], refuse: Refuse, budget: Budget
) -> list[Alike]:
    """The same by a decoder that makes objects, and finds out what is wrong with which message."""
    names = _sampled_names(payloads)
    layout = _layout(names) if _is_usual(names, budget) else None
    if layout is None:
        return _parse_singly(payloads, range(len(payloads)), refuse, budget)
    decode, take = layout
    rows: list[int] | None = None
    left: list[int] = []
    try:
        messages = list(map(decode, payloads))  # type: ignore[arg-type]
    except _ERRORS:
        rows, messages = [], []
        for row, payload in enumerate(payloads):
            try:
                messages.append(decode(payload))  # type: ignore[arg-type]
            except _ERRORS:
                left.append(row)
            else:
                rows.append(row)
    found = []
    if messages:
        columns = dict(zip(names, zip(*map(take, messages), strict=True), strict=True))
        found.append(Alike(rows, columns))
    return found + _parse_singly(payloads, left, refuse, budget)


def _too_long(names: Iterable[str], budget: Budget) -> bool:
    return max(map(len, names), default=0) > budget.text


def _parse_singly(
    payloads: Sequence[bytes | None], rows: Collection[int], refuse: Refuse, budget: Budget
) -> list[Alike]:
    messages: dict[int, dict[str, Any]] = {}
    for row in rows:
        message = _parse_one(row, payloads[row], refuse, budget)
        if message is not None:
            messages[row] = message
    kinds = _kinds(messages)
    if len(kinds) <= _MOST_KINDS:
        return [
            Alike(mine, {name: [messages[row][name] for row in mine] for name in kind})
            for kind, mine in kinds.items()
        ]
    # Names that nothing is known of need no column: with one for each of them a batch would cost
    # its messages times all their names.
    others = {
        row: {
            name: message.pop(name)
            for name in list(message)
            # A replayed reading's own further fields are taken out of it.
            if meaning(name) is None and name != "extra"
        }
        for row, message in messages.items()
    }
    return [
        Alike(
            mine,
            {name: [messages[row].get(name) for row in mine] for name in sorted(names)},
            [others[row] for row in mine],
        )
        for names, mine in _together(_kinds(messages))
    ]


def _kinds(messages: Mapping[int, dict[str, Any]]) -> dict[tuple[str, ...], list[int]]:
    """The messages' rows by their names."""
    kinds: dict[tuple[str, ...], list[int]] = {}
    for row, message in messages.items():
        kinds.setdefault(tuple(sorted(message)), []).append(row)
    return kinds


def _together(
    kinds: Mapping[tuple[str, ...], list[int]],
) -> Iterator[tuple[set[str], list[int]]]:
    """Names and rows of the kinds that are decoded as one."""
    values = sum(len(kind) * len(mine) for kind, mine in kinds.items())
    cells = len(set().union(*kinds)) * sum(map(len, kinds.values()))
    # Those with many names do not share their columns with those that have few.
    ordered = sorted(kinds, key=len)
    at_once = len(ordered) if cells <= _MOST_KINDS * values else _MOST_KINDS
    for start in range(0, len(ordered), at_once):
        part = ordered[start : start + at_once]
        yield set().union(*part), sorted(row for kind in part for row in kinds[kind])


def _parse_one(
    row: int, payload: bytes | None, refuse: Refuse, budget: Budget
) -> dict[str, Any] | None:
    if payload is None or not payload.strip():
        refuse(row, "empty_message", "the message has no payload")
        return None
    try:
        message = _decode(payload)
    except _ERRORS as error:
        try:
            payload.decode()
        except UnicodeDecodeError as broken:
            refuse(row, "bad_encoding", f"not UTF-8: {broken.reason} at {broken.start}")
        else:
            refuse(row, "malformed_json", str(error)[:300] or type(error).__name__)
        return None
    if isinstance(message, dict):
        if len(message) > budget.names:
            what = f"the message has {len(message):,} names of fields"
            refuse(row, TOO_LARGE, budget.over("names", what))
        elif _too_long(message, budget):
            what = f"a field's name has {max(map(len, message)):,} characters"
            refuse(row, TOO_LARGE, budget.over("text", what))
        else:
            return message
        return None
    refuse(row, "not_an_object", f"a JSON object is needed, got {type(message).__name__}")
    return None
