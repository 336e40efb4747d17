"""Tells points in time from elapsed time, by the values, and how dates are written."""

from __future__ import annotations

from dataclasses import dataclass
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.aliases import CLOCK, Meaning
from transforms import convert, stamps
from transforms.interpret.frame import F64, Frame
from transforms.interpret.timeline import Clocks

# Serial days since 1970, Excel's and MATLAB's; and the least time between two rows
# that a test of hours is logged at.
_DAYS = ((25_569.0, 80_000.0), (719_529.0, 800_000.0))
_DENSEST_S = 0.02
_SAMPLE = 1000
_DAY_US = 86_400_000_000
# Layouts that write the month first wherever the machine stands.
MONTH_FIRST_DIALECTS = frozenset({"Arbin", "Maccor", "Digatron", "PEC"})
DAY_FIRST_DIALECTS = frozenset({"Basytec", "BioLogic", "Digatron"})


@dataclass(frozen=True)
class Absolute:
    """A column of points in time, in the file's order."""

    column: str
    micros: F64
    only_dates: bool


def _kind(frame: Frame, name: str) -> pa.DataType:
    return frame.table.column(name).type


def sorted_out(frame: Frame) -> tuple[list[str], list[str]]:
    """The columns that hold points in time, and those that hold elapsed time, by their values."""
    absolute: list[str] = []
    elapsed: list[str] = []
    for name in frame.columns.get("recorded_at", []):
        is_duration = frame.said(name) is None and _is_elapsed(frame, name)
        (elapsed if is_duration else absolute).append(name)
    for field_name in ("test_time_s", CLOCK, "step_time_s"):
        for name in frame.columns.get(field_name, []):
            is_point = frame.said(name) is None and _is_absolute(frame, name)
            (absolute if is_point else elapsed).append(name)
    return absolute or _of_unknown_names(frame), elapsed


def _of_unknown_names(frame: Frame) -> list[str]:
    """A column whose name says nothing and whose values are dates that go on with the rows."""
    for name in frame.table.column_names:
        if name in frame.meanings or name in frame.told.ignore or frame.rows < 2:
            continue
        text = frame.texts(name)
        kind = _kind(frame, name)
        if not (pa.types.is_timestamp(kind) or (text is not None and _names_dates(text))):
            continue
        times = convert.timestamps(frame.table.column(name), ZoneInfo("UTC")).array
        micros = times.drop_null().cast(pa.int64()).to_numpy(zero_copy_only=False)
        steps = np.diff(micros)
        if len(micros) > frame.rows / 2 and (steps > 0).any() and (steps >= 0).mean() > 0.5:
            frame.meanings[name] = Meaning("recorded_at")
            frame.columns.setdefault("recorded_at", []).append(name)
            return [name]
    return []


def _is_absolute(frame: Frame, name: str) -> bool:
    """Whether a column named as a duration holds points in time."""
    kind = _kind(frame, name)
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return True
    text = frame.texts(name)
    if text is None:
        return _since_1970(frame, name)
    if _names_dates(text):
        return not frame.in_clock_notation(name) or frame.known_share(name) < 0.5
    return _since_1970(frame, name)


def _names_dates(text: pa.Array) -> bool:
    """Whether texts are dates, by a sample of them."""
    sample = text.drop_null().slice(0, _SAMPLE)
    if isinstance(sample, pa.ChunkedArray):
        sample = sample.combine_chunks()
    return len(sample) > 0 and bool(stamps.parse(sample).known.mean() > 0.5)


def _since_1970(frame: Frame, name: str) -> bool:
    """Whether a column of numbers is too large throughout to be a test's time."""
    numbers = frame.numbers(name)
    if not np.isfinite(numbers).any():
        return False
    unit = frame.meanings[name].unit
    if unit is None or frame.meanings[name].field == CLOCK:
        low, usual = np.nanquantile(numbers, (0.05, 0.5))
        # However long a test is, its clock begins near 0: its numbers differ by more than that.
        since_1970 = bool(1e8 <= usual <= 1e19 and low >= 0.5 * usual)
        return since_1970 or _serial_days(numbers)
    # Said to be elapsed: it began before any cycler was built.
    return bool(np.nanmin(numbers) * unit.scale >= 5e8)


def _serial_days(numbers: F64) -> bool:
    """Whether numbers are days of MATLAB's or Excel's: as seconds they would be far too dense."""
    known = numbers[np.isfinite(numbers)]
    steps = np.abs(np.diff(known))
    steps = steps[steps > 0]
    if not len(steps) or not any(low <= known.min() <= known.max() < high for low, high in _DAYS):
        return False
    return bool(np.median(steps) < _DENSEST_S)


def _is_elapsed(frame: Frame, name: str) -> bool:
    """Whether a column named as a point in time holds elapsed time."""
    kind = _kind(frame, name)
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return False
    if pa.types.is_time(kind) or pa.types.is_duration(kind):
        return True
    text = frame.texts(name)
    if text is not None and _names_dates(text):
        return False
    numbers = frame.numbers(name)
    known = np.isfinite(numbers)
    if not known.any() or known.mean() < 0.5:
        return False
    if frame.in_clock_notation(name):
        return True
    # Excel's serial days begin at 20,000 (the year 1954), which a short test's seconds may pass.
    return bool(numbers[known].min() < 20_000)


def absolute_of(frame: Frame, name: str, zone: ZoneInfo, day_first: bool | None) -> Absolute:
    """A column's points in time."""
    unit = frame.meanings[name].unit
    times = convert.timestamps(
        frame.table.column(name), zone, unit.scale if unit is not None else 1.0, day_first
    ).array
    micros = times.cast(pa.int64()).to_numpy(zero_copy_only=False).astype(np.float64)
    micros = np.where(np.asarray(times.is_valid()), micros, np.nan)
    return Absolute(name, micros, _only_dates(frame, name))


def _only_dates(frame: Frame, name: str) -> bool:
    kind = _kind(frame, name)
    if pa.types.is_date32(kind):
        return True
    text = frame.texts(name)
    if text is None:
        if pa.types.is_timestamp(kind):
            column = frame.table.column(name)
            ticks = pc.drop_null(column.cast(pa.timestamp("us", tz=kind.tz)).cast(pa.int64()))
            return len(ticks) > 1 and bool(np.all(np.asarray(ticks) % _DAY_US == 0))
        return False
    timed = pc.match_substring_regex(
        text, r"\d日?[\sT_,]+\d{1,2}[:.hH时]\d{2}|^\s*\d{5,}(?:\.\d+)?\s*$"
    )
    return not bool(pc.any(pc.fill_null(timed, False)).as_py())


def date_order(
    frame: Frame,
    found: Clocks,
    names: list[str],
    dialect: str | None,
) -> bool | None:
    """Whether the day comes first: by a part above 12, AM and PM, or what makes time run evenly."""
    for name in names:
        text = frame.texts(name)
        if text is None:
            continue
        parts = stamps.ambiguous_parts(text)
        if parts is None:
            continue
        order = stamps.order_of(text)
        if order is not None:
            return order is stamps.Order.DAY_FIRST
        a, b = parts
        if (a == b).all():
            return None
        better = _evener(text, found)
        if better is not None:
            return better
        if dialect in MONTH_FIRST_DIALECTS:
            return False
        if _has_halves(text):  # as a rule the month comes first where AM and PM are written
            found.disagreements.append("date_order_guessed")
            return False
        if "." in (text.drop_null()[0].as_py() or "")[:4]:
            if dialect not in DAY_FIRST_DIALECTS:
                found.disagreements.append("date_order_guessed")
            return True
        found.disagreements.append("date_order_guessed")
        return False
    return None


def _has_halves(text: pa.Array) -> bool:
    halves = pc.match_substring_regex(text, r"(?i)\d\s*[ap]\.?m")
    return bool(pc.any(pc.fill_null(halves, False)).as_py())


def _evener(text: pa.Array, found: Clocks) -> bool | None:
    """The order under which the dates pass as the clock does, or else pass the fewest days."""
    spans = {}
    for order in stamps.Order:
        parsed = stamps.parse(text, order)
        if not parsed.known.any():
            continue
        times = np.where(parsed.known, parsed.micros / 1e6, np.nan)[found.perm]
        steps = np.diff(times)
        steps[found.first[1:]] = np.nan
        spans[order] = float(np.nansum(np.abs(steps)))
    if len(spans) < 2:
        return None
    by_day, by_month = spans[stamps.Order.DAY_FIRST], spans[stamps.Order.MONTH_FIRST]
    if max(by_day, by_month) < 1.5 * min(by_day, by_month) + 3600:
        return None
    return by_day < by_month


def mostly_known(values: F64) -> bool:
    """Whether at least half of the values are there."""
    return bool(len(values)) and bool(np.isfinite(values).mean() >= 0.5)
