"""Converts one source column of any type to a reading's column, telling which rows do not fit."""

from __future__ import annotations

import datetime as dt
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, TypeAlias
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from schemas.forms import UTC_MICROSECONDS
from transforms import stamps
from transforms.stamps import Order
from transforms.zones import Placed, in_zone

Mask = npt.NDArray[np.bool_]
# A column as a source gives it: an Arrow array (chunked or not), or a sequence of Python values.
Values: TypeAlias = Any

# What exports write where there is no value.
MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "-", "--", "nil", "#n/a"})

_DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+(?:[eE][+-]?\d+)?")
# Could be written with either sign between thousands.
_AMBIGUOUS = re.compile(r"[+-]?[1-9]\d{0,2},\d{3}")
_GROUPED = {
    ",": r"^[+-]?\d{1,3}(?:,\d{3})+(?:\.\d*)?$",
    ".": r"^[+-]?\d{1,3}(?:\.\d{3})+(?:,\d*)?$",
}


class Notation(StrEnum):
    """How a file writes numbers."""

    POINT = "point"  # 1,234.5: decimal point, commas between thousands
    COMMA = "comma"  # 1.234,5: decimal comma, points between thousands


_TICKS_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
_DAY_US = 86_400_000_000
# The years 1 to 9999, but for a day at either end, by which a time zone may move a time.
_EARLIEST_US, _LATEST_US = -62_135_510_400_000_000, 253_402_214_400_000_000


@dataclass(frozen=True)
class Converted:
    """A converted column.

    Attributes:
        array: the values; null where there was none or it did not fit.
        bad: True where a value was there and did not fit; None if all did.
        doubtful: of local times: where the zone skips a time or has it twice; None if nowhere.
    """

    array: pa.Array
    bad: Mask | None = None
    doubtful: Mask | None = None


def as_array(values: Values) -> pa.Array | None:
    """The column as one Arrow array, or None if its values have no common type."""
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    if isinstance(values, pa.Array):
        if pa.types.is_dictionary(values.type):
            return values.dictionary_decode()
        return values
    try:
        array = pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, UnicodeError, ValueError):
        return None
    numeric = pa.types.is_floating(array.type) or pa.types.is_integer(array.type)
    # Arrow would take a truth value among numbers for 1.
    return None if numeric and bool in set(map(type, values)) else array


def group_codes(names: Sequence[pa.Array], rows: int) -> npt.NDArray[np.int64]:
    """A code per row for the values that it has in all columns; zeros where there is no column.

    Args:
        names: text columns, shape (n,) each; null is a value of its own.
        rows: n.
    """
    codes = np.zeros(rows, dtype=np.int64)
    for array in names:
        encoded = array.dictionary_encode()
        size = len(encoded.dictionary)
        codes = codes * (size + 1) + encoded.indices.fill_null(size).to_numpy(zero_copy_only=False)
    return codes


def as_before(columns: Iterable[pa.Array | pa.ChunkedArray], rows: int) -> Mask:
    """Where a row has the values of the row before it in all columns; nulls are alike.

    Args:
        columns: arrays of `rows` values.
        rows: how many there are.

    Returns:
        shape (rows - 1,), for all rows but the first.
    """
    same = np.ones(max(rows - 1, 0), dtype=bool)
    for column in columns if rows > 1 else ():
        array = as_array(column)
        assert array is not None  # it is an Arrow array already
        now, before = array.slice(1), array.slice(0, rows - 1)
        equal = pc.fill_null(pc.equal(now, before), False)
        same &= np.asarray(pc.or_(equal, pc.and_(now.is_null(), before.is_null())))
    return same


def items(values: Values) -> list[Any]:
    """The column as Python objects; text for times that Python's own types cannot hold."""
    if not isinstance(values, pa.Array | pa.ChunkedArray):
        return list(values)
    try:
        found: list[Any] = values.to_pylist()
        return found
    except (OverflowError, ValueError):
        return [_item(value) for value in values]


def _item(value: pa.Scalar) -> Any:
    try:
        return value.as_py()
    except (OverflowError, ValueError):
        try:
            return value.cast(pa.string()).as_py()
        except pa.ArrowException:
            return None


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def blank_to_null(array: pa.Array) -> pa.Array:
    """Texts trimmed, null where they are blank or a word for nothing (MISSING)."""
    trimmed = pc.utf8_trim_whitespace(array)
    missing = pc.is_in(pc.utf8_lower(trimmed), value_set=pa.array(sorted(MISSING)))
    return pc.if_else(missing, pa.scalar(None, trimmed.type), trimmed)


def _each(
    values: Values,
    convert: Callable[[Any], Any],
    kind: pa.DataType,
    missing: frozenset[str] = MISSING,
) -> Converted:
    """Converts value by value; for the rare column whose values do not all fit."""
    out: list[Any] = []
    found = items(values)
    bad = np.zeros(len(found), dtype=bool)
    for row, item in enumerate(found):
        if item is None or (isinstance(item, str) and item.strip().casefold() in missing):
            out.append(None)
            continue
        try:
            out.append(convert(item))
        except (TypeError, ValueError, OverflowError):
            out.append(None)
            bad[row] = True
    return Converted(pa.array(out, kind), bad if bad.any() else None)


def _to_float(item: Any) -> float:
    if isinstance(item, bool):
        raise TypeError("a truth value is not a number")
    if isinstance(item, int | float):
        return float(item)
    if isinstance(item, str):
        text = item.strip()
        if _AMBIGUOUS.fullmatch(text):
            raise ValueError("may be a decimal comma or one between thousands")
        if _DECIMAL_COMMA.fullmatch(text):
            text = text.replace(",", ".")
        if "_" in text:
            raise ValueError("not a number")
        return float(text)
    if isinstance(item, dt.timedelta):
        return item.total_seconds()
    raise TypeError("not a number")


def plain_numbers(texts: pa.Array, notation: Notation) -> pa.Array:
    """Texts of numbers with a decimal point and nothing between thousands.

    Only what is grouped as thousands are is changed: a column of a file with decimal commas that
    has points as decimal points keeps them.
    """
    thousands, decimal = (",", ".") if notation is Notation.POINT else (".", ",")
    grouped = pc.match_substring_regex(texts, _GROUPED[thousands])
    bare = pc.replace_substring(texts, thousands, "")
    has_other = pc.match_substring(texts, decimal)
    if notation is Notation.COMMA:
        # 1.500 alone says nothing; beside others of the column that are no thousands it is 1.5.
        points = pc.match_substring(texts, ".")
        only = pc.and_(points, pc.invert(has_other))
        odd = pc.any(pc.fill_null(pc.and_(only, pc.invert(grouped)), False)).as_py()
        grouped = pc.and_(grouped, has_other) if odd else grouped
        plain = pc.if_else(pc.fill_null(grouped, False), bare, texts)
        return pc.replace_substring(plain, ",", ".")
    return pc.if_else(pc.fill_null(grouped, False), bare, texts)


def doubles(
    values: Values, scale: float = 1.0, offset: float = 0.0, notation: Notation | None = None
) -> Converted:
    """Numbers, or text that spells them, times `scale` plus `offset`.

    Non-finite numbers are kept: the bounds reject them by name.

    Args:
        values: the column.
        scale: factor to the field's unit.
        offset: added after that.
        notation: how the file writes numbers; None takes a decimal point or, where it can be
            nothing else, a decimal comma.
    """
    array = as_array(values)
    result: Converted | None = None
    if array is not None:
        kind = array.type
        if pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_decimal(kind):
            result = Converted(array.cast(pa.float64(), safe=False))
        elif pa.types.is_null(kind):
            return Converted(pa.nulls(len(array), pa.float64()))
        elif pa.types.is_duration(kind):
            ticks = array.cast(pa.int64()).cast(pa.float64(), safe=False)
            result = Converted(pc.divide(ticks, _TICKS_PER_SECOND[kind.unit]))
        elif _is_text(kind):
            blanked = blank_to_null(array)
            if notation is not None:
                blanked = plain_numbers(blanked, notation)
            try:
                result = Converted(blanked.cast(pa.float64()))
            except pa.ArrowInvalid:
                result = None
    if result is None:
        result = _each(array if array is not None else values, _to_float, pa.float64())
    if scale == 1.0 and offset == 0.0:
        return result
    scaled = pc.add(pc.multiply(result.array, scale), offset)
    return Converted(scaled, result.bad)


def seconds(values: Values, scale: float = 1.0, notation: Notation | None = None) -> Converted:
    """Durations in seconds: numbers in a unit of `scale` seconds, or text such as `1:02:03.5`."""
    array = as_array(values)
    if array is not None and pa.types.is_time(array.type):
        ticks = array.cast(pa.time64("us")).cast(pa.int64())
        return Converted(pc.divide(ticks.cast(pa.float64()), 1e6))
    plain = doubles(values if array is None else array, scale, notation=notation)
    if plain.bad is None:
        return plain
    if array is None or not _is_text(array.type):
        spelled = [item if isinstance(item, str) else None for item in items(values)]
        array = pa.array(spelled, pa.string())
    # Clock notation is in hours, minutes and seconds whatever the column's unit says.
    clock, known = stamps.durations(array.cast(pa.string()))
    merged = pc.if_else(pa.array(known & plain.bad), pa.array(clock), plain.array)
    bad = plain.bad & ~known
    return Converted(merged, bad if bad.any() else None)


def integers(values: Values, scale: float = 1.0, notation: Notation | None = None) -> Converted:
    """Whole numbers; a fraction is cut off, since cyclers exist that count half cycles."""
    array = as_array(values)
    if array is not None and pa.types.is_integer(array.type) and array.type != pa.uint64():
        return Converted(array.cast(pa.int64()))
    if array is None and scale == 1.0:
        # Of mixed types: no double, which has 53 digits, comes between.
        return _each(values, _to_whole, pa.int64())
    numbers = doubles(values if array is None else array, scale, notation=notation)
    raw = numbers.array.to_numpy(zero_copy_only=False)
    valid = np.asarray(numbers.array.is_valid())
    with np.errstate(invalid="ignore"):
        fits = np.isfinite(raw) & (np.abs(raw) < 2.0**63)
    bad = valid & ~fits
    if numbers.bad is not None:
        bad |= numbers.bad
    whole = np.floor(np.where(fits, raw, 0.0)).astype(np.int64)
    return Converted(pa.array(whole, mask=~(valid & fits)), bad if bad.any() else None)


def _to_whole(item: Any) -> int:
    whole = item if type(item) is int else math.floor(_to_float(item))
    if not -(2**63) <= whole < 2**63:
        raise OverflowError("no integer of 64 bits")
    return whole


def _to_text(item: Any) -> str:
    if isinstance(item, str):
        item.encode()  # a lone surrogate is not text any system could store
        return item.strip()
    if isinstance(item, bool) or not isinstance(item, int | float):
        raise TypeError("not a name")
    if isinstance(item, float) and item.is_integer():
        return str(int(item))
    return str(item)


def texts(values: Values) -> Converted:
    """Names as trimmed text; whole numbers are spelled without a fraction, blanks are null."""
    array = as_array(values)
    if array is not None:
        if pa.types.is_null(array.type):
            return Converted(pa.nulls(len(array), pa.string()))
        if _is_text(array.type):
            trimmed = pc.utf8_trim_whitespace(array.cast(pa.string()))
            blank = pc.equal(trimmed, "")
            return Converted(pc.if_else(blank, pa.scalar(None, pa.string()), trimmed))
        if pa.types.is_binary(array.type) or pa.types.is_large_binary(array.type):
            return _each(array, lambda item: item.decode().strip() or None, pa.string())
    # As in a column of texts alone, where `n/a` is a name like others.
    return _each(array if array is not None else values, _to_text, pa.string(), frozenset({""}))


def _numeric_times(raw: npt.NDArray[np.float64], zone: ZoneInfo) -> Placed:
    """Times given as numbers: the magnitude tells the epoch and unit, no two ranges overlap.

    MATLAB datenum (days since year 0), Excel serial (days since 1899-12-30), both local time;
    Unix seconds, milliseconds, microseconds or nanoseconds, UTC.
    """
    out = np.zeros(len(raw), dtype=np.int64)
    known = np.zeros(len(raw), dtype=bool)
    local = np.zeros(len(raw), dtype=bool)
    days = 86_400.0
    for low, high, shift, unit, is_local in (
        (20_000.0, 80_000.0, 25_569.0, days, True),  # Excel: 1954 … 2119
        (700_000.0, 800_000.0, 719_529.0, days, True),  # MATLAB: 1916 … 2190
        (1e8, 1e11, 0.0, 1.0, False),
        (1e11, 1e14, 0.0, 1e-3, False),
        (1e14, 1e17, 0.0, 1e-6, False),
        (1e17, 1e19, 0.0, 1e-9, False),
    ):
        with np.errstate(invalid="ignore"):
            here = (raw >= low) & (raw < high)
        if here.any():
            micros = (raw[here] - shift) * (unit * 1e6)
            # Day fractions carry no more than milliseconds.
            out[here] = (np.round(micros / 1e3) * 1e3 if is_local else np.round(micros)).astype(
                np.int64
            )
            known |= here
            local |= here & is_local
    times = pa.array(out, mask=~known).cast(UTC_MICROSECONDS)
    if not local.any():
        return Placed(times)
    return _local_only(in_zone(times.cast(pa.timestamp("us")), zone), local, times)


def _local_only(placed: Placed, local: Mask, others: pa.Array) -> Placed:
    """The placed times where they are local; the others elsewhere."""
    masks = (None if m is None else m & local for m in (placed.refused, placed.doubtful))
    return Placed(pc.if_else(pa.array(local), placed.array, others), *masks)


def _placed(placed: Placed, bad: Mask | None = None) -> Converted:
    """Placed times as a column, with what else did not fit."""
    refused = placed.refused
    if refused is not None:
        bad = refused if bad is None else bad | refused
    return Converted(placed.array, bad, placed.doubtful)


def _parse_texts(array: pa.Array, zone: ZoneInfo, day_first: bool | None) -> Converted:
    encoded = array.dictionary_encode()
    words = encoded.dictionary
    parsed = _parse_unique(words, zone, day_first)
    out = parsed.array.take(encoded.indices)
    bad = np.asarray(pc.and_(array.is_valid(), out.is_null()))
    doubtful = None
    if parsed.doubtful is not None:
        doubtful = np.asarray(pa.array(parsed.doubtful).take(encoded.indices).fill_null(False))
    return Converted(out, bad if bad.any() else None, doubtful)


def _parse_unique(words: pa.Array, zone: ZoneInfo, day_first: bool | None) -> Placed:
    """Times of distinct texts; null where none can be read."""
    order = None if day_first is None else Order.DAY_FIRST if day_first else Order.MONTH_FIRST
    found = stamps.parse(words, order, by_values=day_first is None)
    micros, known = found.micros - found.offset_us, found.known.copy()
    local = known & ~found.zoned
    for position in np.flatnonzero(~known).tolist():
        word = words[position].as_py()
        try:
            # A number means the same in a column that also holds other spellings.
            number = _numeric_times(np.array([float(word)]), zone).array
            if not number[0].is_valid:
                continue
            micros[position], known[position] = number.cast(pa.int64())[0].as_py(), True
            continue
        except (TypeError, ValueError):
            pass
        try:
            moment = dt.datetime.fromisoformat(word.upper())
        except (TypeError, ValueError):
            continue
        local[position] = moment.tzinfo is None
        moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=dt.UTC)
        micros[position], known[position] = to_micros(moment), True
    out = pa.array(micros, pa.int64(), mask=~known)
    # By the same function as a uniform column, so that a time means the same in every company.
    placed = in_zone(out.cast(pa.timestamp("us")), zone)
    return _local_only(placed, local, out.cast(UTC_MICROSECONDS))


_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


def to_micros(moment: dt.datetime) -> int:
    """Microseconds since 1970 of a time that knows its zone."""
    return (moment - _EPOCH) // dt.timedelta(microseconds=1)


def day_first(columns: Iterable[pa.Array]) -> bool | None:
    """Whether text dates have the day before the month; None if no value decides it."""
    for column in columns:
        if _is_text(column.type):
            order = stamps.order_of(column.cast(pa.string()))
            if order is not None:
                return order is Order.DAY_FIRST
    return None


def timestamps(
    values: Values, zone: ZoneInfo, scale: float = 1.0, day_first: bool | None = None
) -> Converted:
    """Points in time as UTC microseconds: timestamps, dates, text, or numbers (see the source).

    Times outside the years 1 to 9999 do not fit: no calendar downstream can hold them.

    Args:
        values: the column.
        zone: the zone of times that carry none.
        scale: 1e-3 for numbers known to be in milliseconds.
        day_first: whether dates with slashes are day/month/year; None lets the column decide.
    """
    found = _timestamps(values, zone, scale, day_first)
    return replace(
        _within(found.array, _EARLIEST_US, _LATEST_US, found.bad), doubtful=found.doubtful
    )


def _within(array: pa.Array, low: int, high: int, bad: Mask | None = None) -> Converted:
    """The values of an integer-like array that lie in the range; the others are bad."""
    ticks = array.cast(pa.int64())
    low, high = max(low, -(2**63)), min(high, 2**63 - 1)
    outside = pc.fill_null(pc.or_(pc.less(ticks, low), pc.greater(ticks, high)), False)
    if not pc.any(outside).as_py():
        return Converted(array, bad)
    beyond = np.asarray(outside)
    fitting = pc.if_else(outside, pa.scalar(None, array.type), array)
    return Converted(fitting, beyond if bad is None else bad | beyond)


def _timestamps(values: Values, zone: ZoneInfo, scale: float, day_first: bool | None) -> Converted:
    array = as_array(values)
    if array is None:
        return _each_time(values, zone, day_first)
    kind = array.type
    if pa.types.is_timestamp(kind):
        ticks = _TICKS_PER_SECOND[kind.unit]
        known = _within(array, _EARLIEST_US * ticks // 1_000_000, _LATEST_US * ticks // 1_000_000)
        if kind.tz is not None:
            return Converted(known.array.cast(UTC_MICROSECONDS, safe=False), known.bad)
        return _placed(in_zone(known.array, zone), known.bad)
    if pa.types.is_null(kind):
        return Converted(pa.nulls(len(array), UTC_MICROSECONDS))
    if pa.types.is_date64(kind):
        return _timestamps(array.cast(pa.int64()).cast(pa.timestamp("ms")), zone, scale, day_first)
    if pa.types.is_date32(kind):
        days = array.cast(pa.int32())
        known = _within(days, _EARLIEST_US // _DAY_US, _LATEST_US // _DAY_US)
        midnights = pc.multiply(known.array.cast(pa.int64()), _DAY_US)
        return _placed(in_zone(midnights.cast(pa.timestamp("us")), zone), known.bad)
    if _is_text(kind):
        return _text_times(array, zone, day_first)
    if pa.types.is_floating(kind) or pa.types.is_integer(kind):
        numbers = array.cast(pa.float64(), safe=False)
        raw = numbers.to_numpy(zero_copy_only=False)
        out = _numeric_times(raw * scale if scale != 1.0 and _all_above(raw) else raw, zone)
        bad = np.asarray(pc.and_(array.is_valid(), out.array.is_null()))
        return _placed(out, bad if bad.any() else None)
    return Converted(pa.nulls(len(array), UTC_MICROSECONDS), np.asarray(array.is_valid()))


def _all_above(raw: npt.NDArray[np.float64]) -> bool:
    """Whether numbers are so large that a unit of milliseconds is believable."""
    finite = raw[np.isfinite(raw)]
    return bool(len(finite)) and bool(finite.min() >= 1e11)


def _each_time(values: Values, zone: ZoneInfo, day_first: bool | None) -> Converted:
    """A column of mixed types: numbers and texts each by their own rule."""
    in_doubt: set[int] = set()

    def one(item: Any) -> int:
        single = timestamps(pa.array([item]), zone, 1.0, day_first)
        if single.bad is not None or not single.array[0].is_valid:
            raise ValueError("not a point in time")
        micros = int(single.array.cast(pa.int64())[0].as_py())
        if single.doubtful is not None and single.doubtful.any():
            in_doubt.add(micros)
        return micros

    found = _each(values, one, pa.int64())
    doubtful = np.array([item in in_doubt for item in found.array.to_pylist()])
    return Converted(
        found.array.cast(UTC_MICROSECONDS), found.bad, doubtful if doubtful.any() else None
    )


# A zone of hours alone (PostgreSQL, DuckDB) stands behind a time only: else it is the day.
_ZONED = re.compile(r"(?:[zZ]|[+-]\d\d:?\d\d|:\d\d(?:\.\d+)?[+-]\d\d)$")


def _text_times(array: pa.Array, zone: ZoneInfo, day_first: bool | None) -> Converted:
    texts = array.cast(pa.string())
    # What Arrow takes as it is has nothing around it, and is no word for nothing.
    uniform = _uniform_times(texts, zone)
    if uniform is not None:
        return uniform
    blanked = blank_to_null(texts)
    if blanked.null_count == len(blanked):
        return Converted(pa.nulls(len(array), UTC_MICROSECONDS))
    uniform = _uniform_times(blanked, zone)
    if uniform is not None:
        return uniform
    try:
        numbers = blanked.cast(pa.float64())
    except pa.ArrowInvalid:
        return _parse_texts(blanked, zone, day_first)
    out = _numeric_times(numbers.to_numpy(zero_copy_only=False), zone)
    bad = np.asarray(pc.and_(blanked.is_valid(), out.array.is_null()))
    return _placed(out, bad if bad.any() else None)


def _uniform_times(texts: pa.Array, zone: ZoneInfo) -> Converted | None:
    """Times of a column of ISO 8601, which Arrow parses fast; None if it is anything else."""
    first = next((item.as_py() for item in texts if item.is_valid), None)
    if first is None:
        return None
    try:
        if _ZONED.search(first):
            return Converted(texts.cast(UTC_MICROSECONDS))
        return _placed(in_zone(texts.cast(pa.timestamp("us")), zone))
    except pa.ArrowInvalid:
        return None
