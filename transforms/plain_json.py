"""Cuts messages that differ in nothing but their values out of their buffer, as columns.

A producer writes all its messages alike: the same names in the same order with the same signs
between them. What stands around the values of one message, its template, is therefore looked for in
all of them, and what is between is the values. No Python object is made of a message or a value.

That a message is plain is proved, whatever led to the places where it is cut:

- its bytes are the template's literals with values between them, without a gap or an overlap;
- a value is a number by JSON's grammar, `null`, `true` or `false`, or text in quotes without a
  backslash or control character, in UTF-8;
- the message has no more quotes than its literals and texts need: none is within a text.

As JSON can be read in one way only, this is its reading. Everything else is left to the strict way
(`transforms.messages`), which also says what is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from itertools import compress, pairwise

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from transforms.convert import Mask, Values, items

I64 = npt.NDArray[np.int64]
U8 = npt.NDArray[np.uint8]

# Fewer messages are not worth the fixed costs of their columns.
FEWEST = 256
# So many bytes at a time, which a processor's second cache holds with what is found in them.
AT_ONCE = 3 << 19
# So many kinds of messages of a batch are found, and looked for in vain; each costs a look at all
# that are left.
_MOST_KINDS, _MOST_MISSES = 16, 8
# No longer template: what stands between values is compared message by message.
_LONGEST_TEMPLATE = 1 << 16
# Whole numbers of more digits may not fit into 64 bits, and are left to the strict way.
_MOST_DIGITS = 18

_SPACE = rb"[ \t\n\r]*"
_NUMBER = r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?"
_TEXT = rb'"[^"\\\x00-\x1f]*"'
_VALUE = rb"(" + _TEXT + rb"|" + _NUMBER.encode() + rb"|null|true|false)"
_PAIR = re.compile(_SPACE + _TEXT + _SPACE + rb":" + _SPACE + _VALUE + _SPACE)

_QUOTE, _BACKSLASH, _MINUS, _POINT, _ZERO = b'"\\-.0'


class Kind(IntEnum):
    """What the values of a column are; any may be null."""

    NUMBER = 0
    TEXT = 1
    TRUTH = 2


@dataclass(frozen=True)
class Template:
    """What stands around the values of messages that are alike.

    Attributes:
        names: the fields' names, in the messages' order.
        kinds: what their values are.
        literals: the bytes before each value and those behind the last one; a text's quotes belong
            to them.
        before: of each literal but the last: where in it its name's first quote is.
        quotes: which of a message's quotes that is.
        all_quotes: how many quotes a message has.
    """

    names: tuple[str, ...]
    kinds: tuple[Kind, ...]
    literals: tuple[bytes, ...]
    before: tuple[int, ...]
    quotes: tuple[int, ...]
    all_quotes: int


@dataclass(frozen=True)
class Plain:
    """Messages of one template.

    Attributes:
        rows: their rows, rising.
        columns: a value per message for every field name.
    """

    rows: I64
    columns: dict[str, Values]


def cut(
    payloads: pa.Array,
    allowed: Callable[[tuple[str, ...]], bool],
    is_measured: Callable[[tuple[str, ...]], list[bool]],
) -> list[Plain]:
    """The messages that are plain, by their template; each row is in one of them at most.

    Args:
        payloads: the messages, an array of type binary; null for none.
        allowed: whether messages with fields of these names are to be cut here.
        is_measured: which of these names stand for a field of which nothing but the number counts:
            its whole numbers may be doubles like the others.

    Returns:
        a column is an Arrow array as `pa.array` makes it of the values, of type double where only
        the number counts; a list of the values where whole numbers and others are mixed.
    """
    if len(payloads) < FEWEST or payloads.type != pa.binary():
        return []
    found: dict[Template, list[Plain]] = {}
    misses = 0
    for start, stop in _parts(payloads):
        if misses >= _MOST_MISSES and not found:
            break
        block = _block(payloads.slice(start, stop - start))
        if block is None:
            continue
        left = np.arange(stop - start)
        for known in list(found):
            left = _take_out(known, left, block, start, found, is_measured)
        while len(left) >= FEWEST and misses < _MOST_MISSES and len(found) < _MOST_KINDS:
            template = template_of(block.message(left[0]))
            rest = left
            if template is not None and template not in found and allowed(template.names):
                rest = _take_out(template, left, block, start, found, is_measured)
            misses += len(rest) == len(left)
            left = rest[rest != left[0]]
    return [_joined(parts) for parts in found.values()]


def _take_out(
    template: Template,
    rows: I64,
    block: _Block,
    start: int,
    found: dict[Template, list[Plain]],
    is_measured: Callable[[tuple[str, ...]], list[bool]],
) -> I64:
    """Adds those of a block's rows that are plain to `found`, and gives back the others."""
    cuts = _cuts(template, rows, block)
    plain = cuts and _plain(template, is_measured(template.names), cuts, block.data)
    if not plain:
        return rows
    found.setdefault(template, []).append(Plain(start + plain.rows, plain.columns))
    return np.setdiff1d(rows, plain.rows, assume_unique=True)


def _parts(payloads: pa.Array) -> Iterator[tuple[int, int]]:
    """First and last row of parts of about AT_ONCE bytes; equal ones, so that none is small."""
    size = int(pc.sum(pc.binary_length(payloads)).as_py() or 0)
    parts = max(1, min(round(size / AT_ONCE), len(payloads) // (4 * FEWEST)))
    return pairwise(np.linspace(0, len(payloads), parts + 1).astype(int).tolist())


def _joined(parts: list[Plain]) -> Plain:
    """The messages of one template of all parts.

    Each column has its own memory: several are pieces of one before, and a table that is pickled
    would take all of it along for each of them.
    """
    columns: dict[str, Values] = {}
    for name in parts[0].columns:
        mine = [part.columns[name] for part in parts]
        arrays = [column for column in mine if isinstance(column, pa.Array)]
        kinds = {array.type for array in arrays} - {pa.null()}
        if len(arrays) < len(mine) or len(kinds) > 1:
            # Whole numbers here and others there.
            columns[name] = [item for column in mine for item in items(column)]
        else:
            kind = kinds.pop() if kinds else pa.null()
            columns[name] = pa.concat_arrays([array.cast(kind) for array in arrays])
    return Plain(np.concatenate([part.rows for part in parts]), columns)


@dataclass(frozen=True)
class _Block:
    """The bytes of some messages.

    Attributes:
        starts: where each begins, and the last one ends, shape (n + 1,).
        data: the bytes.
        quotes: where there are quotes.
        first: which of these is each message's first, shape (n + 1,).
    """

    starts: I64
    data: U8
    quotes: I64
    first: I64

    def message(self, row: int) -> bytes:
        """The bytes of one."""
        return self.data[self.starts[row] : self.starts[row + 1]].tobytes()


def _block(payloads: pa.Array) -> _Block | None:
    """The bytes of messages; None if they have none."""
    _, offsets, data = payloads.buffers()
    places = np.frombuffer(offsets, np.int32)[payloads.offset :][: len(payloads) + 1]
    if data is None or places[0] == places[-1]:
        return None
    # Before the first and behind the last one there may be others, if it is a slice of an array.
    inside = np.frombuffer(data, np.uint8)[places[0] : places[-1]]
    starts = places.astype(np.int64) - places[0]
    quotes = np.flatnonzero(inside == _QUOTE)
    return _Block(starts, inside, quotes, np.searchsorted(quotes, starts))


@lru_cache(maxsize=256)
def _template(literals: tuple[bytes, ...], kinds: tuple[Kind, ...]) -> Template | None:
    values = (b"" if kind is Kind.TEXT else b"0" for kind in (*kinds, Kind.TEXT))
    empty = b"".join(b"%b%b" % pair for pair in zip(literals, values, strict=True))
    try:
        message = msgspec.json.decode(empty)
    except (msgspec.MsgspecError, UnicodeError):
        return None
    if not isinstance(message, dict) or len(message) != len(kinds):
        return None  # a name that comes twice
    seen, quotes, before = 0, [], []
    for literal, kind, last in zip(literals, kinds, (None, *kinds), strict=False):
        quotes.append(seen)
        before.append(literal.index(b'"', 1 if last is Kind.TEXT else 0))
        seen += 4 if kind is Kind.TEXT else 2
    return Template(tuple(message), kinds, literals, tuple(before), tuple(quotes), seen)


def template_of(message: bytes) -> Template | None:
    """The template of a message; None if it is not plain itself.

    >>> found = template_of(b'{"a": 1, "b":"x"}')
    >>> found.names, found.literals
    (('a', 'b'), (b'{"a": ', b', "b":"', b'"}'))
    """
    bare = message.lstrip(b" \t\n\r")
    if bare[:1] != b"{" or len(message) > _LONGEST_TEMPLATE:
        return None
    literals: list[bytes] = []
    kinds: list[Kind] = []
    at = len(message) - len(bare) + 1
    behind = 0
    while (pair := _PAIR.match(message, at)) is not None:
        first = pair.group(1)[:1]
        kinds.append(Kind.TEXT if first == b'"' else Kind.TRUTH if first in b"tf" else Kind.NUMBER)
        quote = kinds[-1] is Kind.TEXT
        literals.append(message[behind : pair.start(1) + quote])
        behind, at = pair.end(1) - quote, pair.end() + 1
        if message[pair.end() : at] != b",":
            break
    literals.append(message[behind:])
    if not kinds or literals[-1].strip(b'" \t\n\r') != b"}":
        return None
    return _template(tuple(literals), tuple(kinds))


@dataclass(frozen=True)
class _Cuts:
    """Messages whose literals are the template's.

    Attributes:
        rows: their rows, shape (n,).
        starts, ends: where each value is in the buffer, shape (fields, n).
    """

    rows: I64
    starts: I64
    ends: I64

    def only(self, mask: Mask) -> _Cuts:
        return (
            self if mask.all() else _Cuts(self.rows[mask], self.starts[:, mask], self.ends[:, mask])
        )


def _cuts(template: Template, rows: I64, block: _Block) -> _Cuts | None:
    """Those of `rows` that have the template's literals, and as many quotes as it has."""
    starts, first = block.starts, block.first
    rows = rows[first[rows + 1] - first[rows] == template.all_quotes]
    if len(rows) < FEWEST:
        return None
    # Where each literal begins: the first with the message, the last where it must end with it, and
    # the others by their name's quote.
    fields = len(template.names)
    begins = np.empty((fields + 1, len(rows)), dtype=np.int64)
    begins[0] = starts[rows]
    mine = first[rows]
    for place in range(1, fields):
        begins[place] = block.quotes[mine + template.quotes[place]] - template.before[place]
    begins[fields] = starts[rows + 1] - len(template.literals[-1])
    lengths = np.array([len(literal) for literal in template.literals])[:, None]
    found = _Cuts(rows, begins[:-1] + lengths[:-1], begins[1:])
    # Now every literal is within its message, too.
    least = np.array([kind is not Kind.TEXT for kind in template.kinds])[:, None]
    mask: Mask = np.all(found.starts + least <= found.ends, axis=0)
    if not mask.all():
        found, begins = found.only(mask), begins[:, mask]
    for place, literal in enumerate(template.literals):
        if len(found.rows) < FEWEST:
            return None
        mask = _is_at(begins[place], literal, block.data)
        if not mask.all():
            found, begins = found.only(mask), begins[:, mask]
    return found if len(found.rows) >= FEWEST else None


def _is_at(places: I64, literal: bytes, data: U8) -> Mask:
    """Whether the literal is at these places of the data."""
    length = len(literal)
    # Every place of the data as one item of the literal's length, of which some are taken.
    items_at = np.ndarray((len(data) - length + 1,), f"V{length}", buffer=data, strides=(1,))
    found = items_at[places].tobytes()
    if found == literal * len(places):
        return np.ones(len(places), dtype=bool)
    each = np.frombuffer(found, np.uint8).reshape(-1, length)
    return np.asarray((each == np.frombuffer(literal, np.uint8)).all(axis=1))


def _plain(template: Template, is_measured: Sequence[bool], cuts: _Cuts, data: U8) -> Plain | None:
    """The columns of those messages of which all values are plain."""
    kinds, measured = np.array(template.kinds), np.array(is_measured)
    rows = len(cuts.rows)
    bad = np.zeros(rows, dtype=bool)
    found: dict[int, Values] = {}
    number = kinds == Kind.NUMBER
    for places, read in (
        (np.flatnonzero(number & measured), _doubles),
        (np.flatnonzero(number & ~measured), _numbers),
        (np.flatnonzero(kinds == Kind.TEXT), _texts),
        (np.flatnonzero(kinds == Kind.TRUTH), _truths),
    ):
        if len(places):
            columns, mask = read(_taken(cuts, places, data), rows)
            bad |= mask.reshape(-1, rows).any(axis=0)
            found |= zip(places.tolist(), columns, strict=True)
    if bad.any():
        good = ~bad
        if np.count_nonzero(good) < FEWEST:
            return None
        kept = pa.array(good)
        found = {
            place: column.filter(kept)
            if isinstance(column, pa.Array)
            else list(compress(column, good.tolist()))
            for place, column in found.items()
        }
        cuts = cuts.only(good)
    return Plain(cuts.rows, {name: found[at] for at, name in enumerate(template.names)})


@dataclass(frozen=True)
class _Tokens:
    """The bytes of values, column by column, without anything between them.

    Attributes:
        offsets: where each begins, and the last one ends, shape (n + 1,).
        data: the bytes.
    """

    offsets: npt.NDArray[np.int32]
    data: U8

    def column(self, at: int, rows: int) -> _Tokens:
        """Those of one column."""
        return _Tokens(self.offsets[at * rows : (at + 1) * rows + 1], self.data)

    def array(self, valid: Mask | None, kind: pa.DataType | None = None) -> pa.Array:
        """An Arrow array of texts; null where not `valid`."""
        bits = None if valid is None or valid.all() else np.packbits(valid, bitorder="little")
        return pa.Array.from_buffers(
            kind or pa.string(),
            len(self.offsets) - 1,
            [
                bits if bits is None else pa.py_buffer(bits),
                *map(pa.py_buffer, (self.offsets, self.data)),
            ],
        )

    def of(self, mask: Mask) -> I64:
        """Which tokens have a byte where `mask` is True."""
        return np.searchsorted(self.offsets, np.flatnonzero(mask), side="right") - 1


def _taken(cuts: _Cuts, columns: I64, data: U8) -> _Tokens:
    """The bytes of some columns' values."""
    fields, rows = len(columns), len(cuts.rows)
    # An array of which every other item is a value, and those between are what is between.
    places = np.empty((rows, fields, 2), dtype=np.int32)
    places[:, :, 0] = cuts.starts[columns].T
    places[:, :, 1] = cuts.ends[columns].T
    offsets = np.append(places.reshape(-1), places[-1, -1, 1])
    whole = pa.Array.from_buffers(
        pa.binary(), len(offsets) - 1, [None, pa.py_buffer(offsets), pa.py_buffer(data)]
    )
    wanted = 2 * (np.arange(fields)[:, None] + np.arange(rows)[None, :] * fields)
    taken = whole.take(pa.array(wanted.reshape(-1)))
    _, own, content = taken.buffers()
    found = np.frombuffer(own, np.int32)[: len(taken) + 1]
    return _Tokens(found, np.frombuffer(content or b"", np.uint8)[: found[-1]])


def _checked(tokens: _Tokens) -> tuple[Mask, Mask]:
    """Which tokens are null, and which are surely no number that may be read here.

    What else is no number by JSON's grammar, Arrow does not take for one either.
    """
    data, starts, ends = tokens.data, tokens.offsets[:-1], tokens.offsets[1:]
    first, length = data[starts], ends - starts
    null = first == ord("n")
    is_digit = (data - _ZERO) < 10  # bytes wrap around
    if null.any():
        at = starts[null]
        whole = length[null] == 4
        at = np.where(whole, at, 0)
        for place, byte in enumerate(b"null"):
            whole &= data[np.minimum(at + place, len(data) - 1)] == byte
        null[null] = whole
    # It begins with a digit, or with a minus and a digit; of a zero alone no more digits follow.
    minus = first == _MINUS
    lead = starts + minus
    inside = np.minimum(lead, len(data) - 1)
    digit = is_digit[inside] & (lead < ends)
    more = np.minimum(lead + 1, len(data) - 1)
    zero = digit & (data[inside] == _ZERO)
    bad = ~null & (~digit | ~is_digit[ends - 1])
    bad |= zero & (lead + 1 < ends) & is_digit[more]
    # The strict way reads it as the whole number 0, which has no sign.
    bad |= minus & zero & (length == 2)
    point = data == _POINT
    # Neither first nor last of its token, as was seen above.
    lonely = point[1:-1] & ~(is_digit[:-2] & is_digit[2:])
    if lonely.any():
        bad[tokens.of(np.concatenate([[False], lonely, [False]]))] = True
    return null, bad


def _parsed(tokens: _Tokens, null: Mask, bad: Mask) -> pa.Array:
    """The tokens as doubles; those that are none, or beyond all doubles, are added to `bad`."""
    try:
        numbers = tokens.array(~(null | bad)).cast(pa.float64())
    except pa.ArrowInvalid:
        texts = tokens.array(~(null | bad))
        fits = pc.fill_null(pc.match_substring_regex(texts, f"^{_NUMBER}$"), True)
        bad |= ~np.asarray(fits)
        numbers = tokens.array(~(null | bad)).cast(pa.float64())
    beyond = np.isinf(numbers.to_numpy(zero_copy_only=False))
    if beyond.any():
        bad |= beyond
    return numbers


def _doubles(tokens: _Tokens, rows: int) -> tuple[list[Values], Mask]:
    """Columns of doubles, and which of their values are not to be read here."""
    null, bad = _checked(tokens)
    numbers = _parsed(tokens, null, bad)
    return [numbers.slice(at, rows) for at in range(0, len(numbers), rows)], bad


def _numbers(tokens: _Tokens, rows: int) -> tuple[list[Values], Mask]:
    """The same of columns in which a whole number differs from the same one with a point."""
    null, bad = _checked(tokens)
    point = (tokens.data == _POINT) | ((tokens.data | 0x20) == ord("e"))
    whole = np.add.reduceat(point, tokens.offsets[:-1], dtype=np.int32) == 0
    bad |= whole & (np.diff(tokens.offsets) > _MOST_DIGITS)
    numbers = _parsed(tokens, null, bad)
    found: list[Values] = []
    for column in range(len(numbers) // rows):
        mine = slice(column * rows, (column + 1) * rows)
        valid = ~(null | bad)[mine]
        is_whole = whole[mine][valid]
        if not len(is_whole):
            found.append(pa.nulls(rows))
        elif is_whole.all():
            found.append(tokens.column(column, rows).array(valid).cast(pa.int64()))
        elif not is_whole.any():
            found.append(numbers.slice(column * rows, rows))
        else:
            texts = tokens.column(column, rows).array(valid).fill_null("null")
            found.append(msgspec.json.decode(f"[{','.join(texts.to_pylist())}]"))
    return found, bad


def _texts(tokens: _Tokens, rows: int) -> tuple[list[Values], Mask]:
    """Columns of texts, and which of them are not to be read here."""
    bad = np.zeros(len(tokens.offsets) - 1, dtype=bool)
    special = (tokens.data < 0x20) | (tokens.data == _BACKSLASH)
    if special.any():
        bad[tokens.of(special)] = True
    try:
        texts = tokens.array(~bad, pa.binary()).cast(pa.string())
    except pa.ArrowInvalid:
        for token in np.unique(tokens.of(tokens.data > 0x7F)).tolist():
            try:
                tokens.data[tokens.offsets[token] : tokens.offsets[token + 1]].tobytes().decode()
            except UnicodeDecodeError:
                bad[token] = True
        texts = tokens.array(~bad)
    return [texts.slice(at, rows) for at in range(0, len(texts), rows)], bad


def _truths(tokens: _Tokens, rows: int) -> tuple[list[Values], Mask]:
    """Columns of truth values, and which of their values are none."""
    words = tokens.array(None, pa.binary())
    true, false, null = (np.asarray(pc.equal(words, word)) for word in (b"true", b"false", b"null"))
    truths = pa.array(true, mask=null)
    return [truths.slice(at, rows) for at in range(0, len(truths), rows)], ~(true | false | null)
