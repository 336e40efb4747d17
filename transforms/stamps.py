"""Parses dates and times however cyclers write them, a whole column at once."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

I64 = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

_MONTHS = {name: number for number, name in enumerate(
    ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"), 1
)} | {"mrz": 3, "mär": 3, "mai": 5, "okt": 10, "dez": 12}  # fmt: skip

_TIME = (
    r"(?:[\sT_,]+(?P<Q>上午|下午)?\s*(?P<H>\d{1,2})[:.hH时](?P<M>\d{1,2})(?:[:.mM分](?P<S>\d{1,2})(?:[.,:](?P<F>\d{1,9}))?秒?)?"
    r"\s*(?P<P>[aApP]\.?[mM]\.?|上午|下午)?)?"
    r"\s*(?P<Z>[zZ]|UTC|GMT|[+-]\d{2}:?\d{2})?\s*$"
)
_NUMERIC = r"^\s*(?P<a>\d{1,4})(?P<sep>[-/. 年])(?P<b>\d{1,2})[-/. 月](?P<c>\d{1,4})日?" + _TIME
_DAY_NAMED = (
    r"^\s*(?:[A-Za-z]{3,9},?\s+)?(?P<a>\d{1,4})[-/. ]\s*(?P<b>\pL+)\.?[-/. ,]\s*(?P<c>\d{1,4})"
    + _TIME
)
_NAMED_FIRST = (
    r"^\s*(?:[A-Za-z]{3,9},?\s+)?(?P<b>\pL+)\.?[-/. ](?P<a>\d{1,2})(?:st|nd|rd|th)?[-/. ,]\s*(?P<c>\d{4})"
    + _TIME
)

# A pattern is compiled for every column, and each \pL costs a millisecond: so there is one of it, and
# both are left out where no three signs could be a month's name.
_LONGEST_MONTH = 9
_MAYBE_NAMED = r"[A-Za-z\x{80}-\x{10FFFF}]{3}"

_HYPHENED = r"([ T]\d{1,2})-(\d{2})-(\d{2})\s*$"

_DURATION = (
    r"^\s*(?P<sign>-)?(?:(?P<d>\d+)\s*(?:d(?:ays?)?[,: ]?|[- ,])\s*)?(?P<h>\d+):(?P<m>\d{1,2})"
    r"(?::(?P<s>\d{1,3})(?:[.,:](?P<f>\d{1,9}))?)?\s*$"
)


class Order(StrEnum):
    """How a numeric date is written."""

    MONTH_FIRST = "mdy"
    DAY_FIRST = "dmy"


@dataclass(frozen=True)
class Stamps:
    """Local times of a column of texts.

    Attributes:
        micros: microseconds since 1970 of the same zone, shape (n,); 0 where not known.
        known: where a text could be parsed.
        offset_us: what its own zone is ahead of UTC, where it names one; 0 elsewhere.
        zoned: where it names one.
    """

    micros: I64
    known: Mask
    offset_us: I64
    zoned: Mask


def _ints(texts: pa.Array) -> I64:
    return np.asarray(
        pc.fill_null(pc.if_else(pc.equal(texts, ""), None, texts).cast(pa.int64()), 0)
    )


def _groups(array: pa.Array, pattern: str) -> dict[str, Any] | None:
    found = pc.extract_regex(array, pattern)
    if found.null_count == len(found):
        return None
    names = [found.type.field(index).name for index in range(found.type.num_fields)]
    groups: dict[str, Any] = {name: pc.struct_field(found, name) for name in names}
    groups["matched"] = np.asarray(found.is_valid())
    return groups


def _is_maybe_named(array: pa.Array) -> bool:
    """Whether a text may name a month, or anything else."""
    return bool(pc.any(pc.match_substring_regex(array, _MAYBE_NAMED)).as_py())


def ambiguous_parts(array: pa.Array) -> tuple[I64, I64] | None:
    """First and second part of the dates with the year at the end; None if there are none."""
    return _ambiguous_parts(_groups(array, _NUMERIC))


def _ambiguous_parts(groups: dict[str, Any] | None) -> tuple[I64, I64] | None:
    if groups is None:
        return None
    a, b = groups["a"], groups["b"]
    last = groups["matched"] & (_lengths(a) <= 2)
    first = _ints(a)
    last &= first <= 31
    if not last.any():
        return None
    return first[last], _ints(b)[last]


def order_of(array: pa.Array) -> Order | None:
    """How a column's dates are written, if a part above 12 shows it.

    One that fits neither way (14/15/2024) decides nothing by itself: the majority does.
    """
    return _order_of(ambiguous_parts(array))


def _order_of(parts: tuple[I64, I64] | None) -> Order | None:
    if parts is None:
        return None
    first, second = parts
    day_first = int(((first > 12) & (second <= 12)).sum())
    month_first = int(((second > 12) & (first <= 12)).sum())
    if day_first == month_first:
        return None
    return Order.DAY_FIRST if day_first > month_first else Order.MONTH_FIRST


def _lengths(texts: pa.Array) -> I64:
    return np.asarray(pc.fill_null(pc.utf8_length(texts), 0).cast(pa.int64()))


def parse(array: pa.Array, order: Order | None = None, by_values: bool = False) -> Stamps:
    """The times that the texts of a column name.

    Args:
        array: texts, shape (n,), in one chunk.
        order: of dates like 03/04/2024 and 03-04-2024; None means month first, and that a date
            which can only be the other way round is taken so. Dates with points have the day first
            unless they can't.
        by_values: whether the column's own values decide the order first, as `order_of` says.
    """
    rows = len(array)
    micros = np.zeros(rows, dtype=np.int64)
    known = np.zeros(rows, dtype=bool)
    offset = np.zeros(rows, dtype=np.int64)
    zoned = np.zeros(rows, dtype=bool)
    for turn, pattern in enumerate((_NUMERIC, _DAY_NAMED, _NAMED_FIRST, _NUMERIC)):
        if known.all():
            break
        if turn == 1:
            # Only now: a minus behind a time is a zone's as a rule.
            array = pc.replace_substring_regex(array, _HYPHENED, r"\1:\2:\3")
        groups = _groups(array, pattern) if pattern is _NUMERIC or _is_maybe_named(array) else None
        if turn == 0 and by_values:
            order = _order_of(_ambiguous_parts(groups))
        if groups is None:
            continue
        days, fits = _days(groups, order, numeric=pattern is _NUMERIC)
        time, in_day = _time_of_day(groups)
        zone, has_zone = _zones(groups["Z"])
        take = groups["matched"] & fits & in_day & ~known
        micros[take] = (days * 86_400_000_000 + time)[take]
        offset[take], zoned[take] = zone[take], has_zone[take]
        known |= take
    return Stamps(micros, known, offset, zoned)


def _days(groups: dict[str, Any], order: Order | None, numeric: bool) -> tuple[I64, Mask]:
    """Days since 1970, and whether there is such a day."""
    a, c = _ints(groups["a"]), _ints(groups["c"])
    if not numeric:
        month = _months(groups["b"])
        year_first = _lengths(groups["a"]) == 4
        year, day = np.where(year_first, a, c), np.where(year_first, c, a)
        short = _lengths(groups["c"]) <= 2
        return _civil(np.where(short & ~year_first, year + 2000, year), month, day)
    b = _ints(groups["b"])
    first_is_year = (_lengths(groups["a"]) >= 3) | (a > 31)
    day_first = _day_first(groups, a, b, order)
    year = np.where(first_is_year, a, c)
    short = np.where(first_is_year, _lengths(groups["a"]), _lengths(groups["c"])) <= 2
    year = np.where(short, year + np.where(year < 70, 2000, 1900), year)
    month = np.where(first_is_year, b, np.where(day_first, b, a))
    day = np.where(first_is_year, c, np.where(day_first, a, b))
    return _civil(year, month, day)


def _day_first(groups: dict[str, Any], a: I64, b: I64, order: Order | None) -> Mask:
    if order is not None:
        return np.full(len(a), order is Order.DAY_FIRST)
    points = np.asarray(pc.fill_null(pc.equal(groups["sep"], "."), False))
    return np.where(points, ~((b > 12) & (a <= 12)), (a > 12) & (b <= 12))


def _months(names: pa.Array) -> I64:
    encoded = names.dictionary_encode()
    numbers = [
        _MONTHS.get(word.casefold()[:3], 0) if word and len(word) <= _LONGEST_MONTH else 0
        for word in encoded.dictionary.to_pylist()
    ]
    taken = pa.array(numbers, pa.int64()).take(encoded.indices)
    return np.asarray(pc.fill_null(taken, 0))


def _civil(year: I64, month: I64, day: I64) -> tuple[I64, Mask]:
    fits = (month >= 1) & (month <= 12) & (day >= 1) & (day <= 31) & (year >= 1) & (year <= 9999)
    months = (np.where(fits, year, 1970) - 1970) * 12 + np.where(fits, month, 1) - 1
    begins = months.astype("M8[M]").astype("M8[D]")
    days = begins.astype(np.int64) + np.where(fits, day, 1) - 1
    same = days.astype("M8[D]").astype("M8[M]").astype(np.int64) == months
    return days, fits & same


def _time_of_day(groups: dict[str, Any]) -> tuple[I64, Mask]:
    hour, minute, second = _ints(groups["H"]), _ints(groups["M"]), _ints(groups["S"])
    # In Chinese the half of the day stands before the time.
    half = pc.utf8_lower(
        pc.binary_join_element_wise(
            pc.fill_null(groups["P"], ""), pc.fill_null(groups["Q"], ""), ""
        )
    )
    is_pm = np.asarray(pc.or_(pc.starts_with(half, "p"), pc.equal(half, "下午")))
    is_am = np.asarray(pc.or_(pc.starts_with(half, "a"), pc.equal(half, "上午")))
    halved = is_pm | is_am
    fits = (hour <= 23) & (minute <= 59) & (second <= 59) & ~(halved & ((hour > 12) | (hour < 1)))
    hour = np.where(halved, hour % 12 + 12 * is_pm, hour)
    fraction = pc.utf8_rpad(pc.fill_null(groups["F"], ""), 6, "0")
    micros = _ints(pc.utf8_slice_codeunits(fraction, 0, 6))
    return ((hour * 60 + minute) * 60 + second) * 1_000_000 + micros, fits


def _zones(texts: pa.Array) -> tuple[I64, Mask]:
    encoded = pc.fill_null(texts, "").dictionary_encode()
    offsets = []
    for word in encoded.dictionary.to_pylist():
        if word[:1] in "+-" and word:
            digits = word[1:].replace(":", "")
            minutes = int(digits[:2]) * 60 + int(digits[2:4])
            offsets.append((-minutes if word[0] == "-" else minutes) * 60_000_000)
        else:
            offsets.append(0)
    has = pa.array([bool(word) for word in encoded.dictionary.to_pylist()])
    return (
        np.asarray(pa.array(offsets, pa.int64()).take(encoded.indices)),
        np.asarray(has.take(encoded.indices)),
    )


def durations(array: pa.Array) -> tuple[npt.NDArray[np.float64], Mask]:
    """Seconds that texts in clock notation name, and where they do: `1:02:03.5`, `0d 00:01:00`.

    Without seconds the two parts are hours and minutes.
    """
    groups = _groups(array, _DURATION)
    if groups is None:
        return np.full(len(array), np.nan), np.zeros(len(array), dtype=bool)
    with np.errstate(over="ignore"):
        whole = _ints_of(groups["d"]) * 86400.0 + _ints_of(groups["h"]) * 3600.0
    whole += _ints_of(groups["m"]) * 60.0 + _ints_of(groups["s"])
    fraction = pc.utf8_rpad(pc.fill_null(groups["f"], ""), 9, "0")
    whole += _ints_of(fraction) / 1e9
    minus = np.asarray(pc.fill_null(pc.equal(groups["sign"], "-"), False))
    matched = groups["matched"]
    return np.where(matched, np.where(minus, -whole, whole), np.nan), matched


def _ints_of(texts: pa.Array) -> npt.NDArray[np.float64]:
    """Numbers as floats: a count of hours may be beyond any integer."""
    blank = pc.equal(pc.fill_null(texts, ""), "")
    numbers = pc.if_else(blank, "0", pc.fill_null(texts, "0")).cast(pa.float64())
    return np.asarray(numbers)
