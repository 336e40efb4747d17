"""Decides which column is which clock, in what unit, and how dates are written."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.aliases import CLOCK, normalise
from transforms import convert, stamps
from transforms.interpret.frame import F64, I64, Frame, Mask
from transforms.interpret.interpretation import SECOND, Head, Use, Witness

# Units that elapsed time is met in, in seconds.
UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "ms": 1e-3, "us": 1e-6}
# How far a ratio of two clocks may be from that of two units to count as it.
UNIT_TOLERANCE = 0.05
# Serial days since 1970, Excel's and MATLAB's; and the least time between two rows
# that a test of hours is logged at.
_DAYS = ((25_569.0, 80_000.0), (719_529.0, 800_000.0))
_DENSEST_S = 0.02
# A row's time is good to this, where stamps carry whole seconds only.
_RESOLUTION_S = 1.0
_DAY_US = 86_400_000_000
# Two clocks disagree when they drift apart by more than this share and this many seconds.
DRIFT = 0.01
DRIFT_S = 300.0
# How often in a file, and by how much, a clock is set back.
_MOST_SET_BACK = 100
_FURTHEST_BACK_S = 26 * 3600.0
# Layouts that write the month first wherever the machine stands.
_MONTH_FIRST_DIALECTS = frozenset({"Arbin", "Maccor", "Digatron", "PEC"})

_DAY_FIRST_DIALECTS = frozenset({"Basytec", "BioLogic", "Digatron"})


@dataclass
class Clocks:
    """What was decided about time.

    Attributes:
        uses: the columns of event time, test time, step time.
        left: columns that are no clock of the reading.
        perm: the order in which rows were measured, as row numbers.
        first: in that order, whether a row is the first of its equipment.
        elapsed: seconds of the test's clock per row in that order, NaN where not known.
        wall: microseconds since 1970 UTC in that order, NaN where not known.
        clock: the column of elapsed time, for a person.
        event_time: the source of event time, for a person.
        start_us: when the test began, if only the file's head says so.
        day_first: how dates are written.
        in_order: whether times have to be put right row after row.
        order: see `Interpretation`.
        by_runs: whether the test's clock is made of one that starts again: see `Interpretation`.
        wall_of_runs: whether event time says when a run began: see `Interpretation`.
    """

    uses: list[Use] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    perm: I64 = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    first: Mask = field(default_factory=lambda: np.zeros(0, dtype=bool))
    elapsed: F64 | None = None
    wall: F64 | None = None
    clock: str = "none"
    event_time: str = "none"
    start_us: int | None = None
    day_first: bool | None = None
    in_order: bool = False
    order: str = "file"
    by_runs: bool = False
    wall_of_runs: bool = False
    witnesses: list[Witness] = field(default_factory=list)
    disagreements: list[str] = field(default_factory=list)

    @property
    def interval(self) -> F64:
        """Seconds since the previous row of the same equipment, NaN where not known or none."""
        size = len(self.perm)
        out = np.full(size, np.nan)
        if self.elapsed is not None:
            out[1:] = np.diff(self.elapsed)
            out[out < 0] = np.nan
        if self.wall is not None:
            wall = np.full(size, np.nan)
            wall[1:] = np.diff(self.wall) / 1e6
            wall[wall < 0] = np.nan
            out = np.where(np.isnan(out), wall, out)
        out[self.first] = np.nan
        return out


@dataclass(frozen=True)
class _Absolute:
    """A column of points in time, in the file's order."""

    column: str
    micros: F64
    only_dates: bool


def decide(
    frame: Frame,
    head: Head,
    zone: ZoneInfo,
    day_first: bool | None,
    groups: I64,
    dialect: str | None,
) -> Clocks:
    """Which column is which clock.

    Args:
        frame: the table.
        head: what stands above it.
        zone: of times that carry none.
        day_first: how dates are written, if the user says so.
        groups: a code per row for what was measured; clocks of two never mix.
        dialect: the layout, if known.
    """
    found = Clocks()
    absolute_names, elapsed_names = _sorted_out(frame)
    elapsed = {name: frame.numbers(name) for name in elapsed_names}
    _order_rows(frame, found, groups, elapsed_names, elapsed)
    found.day_first = day_first
    if absolute_names and found.day_first is None:
        found.day_first = _day_first(frame, found, absolute_names, dialect)
    absolute = [_absolute(frame, name, zone, found.day_first) for name in absolute_names]
    absolute = [item for item in absolute if _mostly_known(item.micros)]
    _test_and_step(frame, found, elapsed_names, absolute)
    _choose_absolute(frame, found, absolute)
    _runs(frame, found)
    _unit_of_test_clock(frame, found)
    _start(found, head, zone)
    _compare(frame, found)
    used = {use.column for use in found.uses}
    found.left += [n for n in (*absolute_names, *elapsed_names) if n not in used]
    return found


def _mostly_known(values: F64) -> bool:
    return bool(len(values)) and bool(np.isfinite(values).mean() >= 0.5)


def _sorted_out(frame: Frame) -> tuple[list[str], list[str]]:
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
    return absolute, elapsed


def _kind(frame: Frame, name: str) -> pa.DataType:
    return frame.table.column(name).type


def _is_absolute(frame: Frame, name: str) -> bool:
    """Whether a column named as a duration holds points in time."""
    kind = _kind(frame, name)
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return True
    text = frame.texts(name)
    if text is None:
        return _since_1970(frame, name)
    known = text.drop_null()
    if not len(known):
        return False
    sample = known.slice(0, 1000)
    if (
        stamps.parse(
            sample.combine_chunks() if isinstance(sample, pa.ChunkedArray) else sample
        ).known.mean()
        > 0.5
    ):
        return not frame.in_clock_notation(name) or frame.known_share(name) < 0.5
    return _since_1970(frame, name)


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
    numbers = frame.numbers(name)
    known = np.isfinite(numbers)
    if not known.any() or known.mean() < 0.5:
        return False
    if frame.in_clock_notation(name):
        return True
    # Excel's serial days begin at 20,000 (the year 1954), which a short test's seconds may pass.
    return bool(numbers[known].min() < 20_000)


def _absolute(frame: Frame, name: str, zone: ZoneInfo, day_first: bool | None) -> _Absolute:
    unit = frame.meanings[name].unit
    times = convert.timestamps(
        frame.table.column(name), zone, unit.scale if unit is not None else 1.0, day_first
    ).array
    micros = times.cast(pa.int64()).to_numpy(zero_copy_only=False).astype(np.float64)
    micros = np.where(np.asarray(times.is_valid()), micros, np.nan)
    return _Absolute(name, micros, _only_dates(frame, name))


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


def _order_rows(
    frame: Frame, found: Clocks, groups: I64, names: list[str], elapsed: dict[str, F64]
) -> None:
    """The order of measurement: the file's, or the record numbers' where they differ."""
    records = frame.columns.get("record_index", [])
    if records and frame.rows > 1:
        numbers = frame.numbers(records[0])
        # Numbers that restart with each cycle or file say nothing of the order; those that are
        # all different do.
        if (
            np.isfinite(numbers).all()
            and (np.diff(numbers) <= 0).any()
            and _different_pairs(groups, numbers) == frame.rows
        ):
            found.order = "record"
    if found.order == "file" and frame.rows > 2 and _descends(names, elapsed):
        found.order = "reversed"
    record = frame.numbers(records[0]) if records else None
    found.perm, found.first = measured_order(found.order, groups, record)


def measured_order(order: str, groups: I64, records: F64 | None) -> tuple[I64, Mask]:
    """The rows in order of measurement, equipment by equipment.

    Args:
        order: see `Interpretation`.
        groups: a code per row for what was measured.
        records: record numbers, where that is the order.

    Returns:
        row numbers in that order, and whether each is the first of its equipment.
    """
    rows = np.arange(len(groups))
    key = records if order == "record" and records is not None else rows
    if order == "reversed":
        key = -rows
    perm = np.lexsort((key, groups)).astype(np.int64)
    ordered = groups[perm]
    first = np.ones(len(groups), dtype=bool)
    first[1:] = ordered[1:] != ordered[:-1]
    return perm, first


def _different_pairs(groups: I64, numbers: F64) -> int:
    """How many different pairs there are."""
    pairs = np.empty(len(numbers), dtype=[("g", np.int64), ("n", np.float64)])
    pairs["g"], pairs["n"] = groups, numbers
    return len(np.unique(pairs))


def _descends(names: list[str], elapsed: dict[str, F64]) -> bool:
    """Whether the newest row is the first."""
    for name in names:
        values = elapsed[name]
        steps = np.diff(values[np.isfinite(values)])
        if len(steps) and (steps < 0).mean() > 0.9:
            return True
    return False


def _day_first(
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
        if dialect in _MONTH_FIRST_DIALECTS:
            return False
        if _has_halves(text):  # as a rule the month comes first where AM and PM are written
            found.disagreements.append("date_order_guessed")
            return False
        if "." in (text.drop_null()[0].as_py() or "")[:4]:
            if dialect not in _DAY_FIRST_DIALECTS:
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


def _test_and_step(
    frame: Frame, found: Clocks, names: list[str], absolute: list[_Absolute]
) -> None:
    """Which elapsed times are the test's and which the step's, by whether they fall."""
    test: list[str] = []
    step: list[str] = []
    bare: list[str] = []
    why: dict[str, str] = {}
    for name in names:
        meant = frame.meanings[name].field
        if meant == "step_time_s":
            step.append(name)
        elif meant == CLOCK or (_is_bare(name) and frame.said(name) is None):
            bare.append(name)
        else:
            test.append(name)
    # A clock that is called the test's and restarts with every step, next to one that does not.
    if test and frame.said(test[0]) is None and _falls(frame, found, test[0]) > 2:
        steady = [n for n in (*test[1:], *bare) if _falls(frame, found, n) == 0]
        if steady:
            step.append(test[0])
            why[test[0]] = f"it restarts, {steady[0]} runs on"
            test = [steady[0], *[n for n in test[1:] if n != steady[0]]]
            bare = [n for n in bare if n != steady[0]]
    dates_alone = absolute and all(item.only_dates for item in absolute)
    for name in bare:
        if (
            dates_alone
            and frame.in_clock_notation(name)
            and _is_time_of_day(frame, found, name, absolute)
        ):
            found.uses.append(Use(name, CLOCK, why="added to the date"))
            dates_alone = False
        elif test:
            why.setdefault(name, f"beside {test[0]}")
            (step if not step else found.left).append(name)
        elif _falls(frame, found, name) and _falls_with_steps(frame, found, name):
            why[name] = "it restarts with the steps"
            step.append(name)
        else:
            test.append(name)
    if test:
        found.uses.append(_elapsed_use(frame, test[0], "test_time_s"))
        found.elapsed = _in_seconds(frame, test[0])[found.perm]
        found.clock = _said(found.uses[-1])
        found.left += test[1:]
    if step:
        use = _elapsed_use(frame, step[0], "step_time_s")
        found.uses.append(replace(use, why=why.get(step[0], use.why)))
        found.left += step[1:]


def _is_bare(name: str) -> bool:
    return normalise(name).split("_")[0] in ("time", "t", "zeit", "时间")


def _elapsed_use(frame: Frame, name: str, field_name: str) -> Use:
    unit = frame.meanings[name].unit
    if frame.in_clock_notation(name):
        return Use(name, field_name, "h:m:s", 1.0)
    if unit is None:
        return Use(name, field_name, "s", 1.0, why="name")
    return Use(name, field_name, unit.text, unit.scale)


def _said(use: Use) -> str:
    return (
        f"{use.column} ({use.unit})"
        if use.unit and f"({use.unit})" not in use.column
        else use.column
    )


def _in_seconds(frame: Frame, name: str) -> F64:
    values = frame.numbers(name)
    unit = frame.meanings[name].unit
    if unit is None or frame.in_clock_notation(name):
        return values
    return values * unit.scale


def _falls(frame: Frame, found: Clocks, name: str) -> int:
    """How often a clock runs backwards."""
    values = frame.numbers(name)[found.perm]
    with np.errstate(invalid="ignore"):
        steps = np.diff(values) < 0
    steps[found.first[1:]] = False
    return int(steps.sum())


def _falls_with_steps(frame: Frame, found: Clocks, name: str) -> bool:
    """Whether a clock begins again where steps, cycles or the current's direction change."""
    values = frame.numbers(name)[found.perm]
    with np.errstate(invalid="ignore"):
        falls = np.diff(values) < 0
    falls[found.first[1:]] = False
    changes = np.zeros(len(falls), dtype=bool)
    for field_name in ("step_index", "cycle_index", "current_a"):
        for column in frame.columns.get(field_name, []):
            numbers = frame.numbers(column)[found.perm]
            if field_name == "current_a":
                numbers = np.sign(numbers)
            changes |= np.diff(numbers) != 0
    return bool(changes[falls].mean() >= 0.6)


def _is_time_of_day(frame: Frame, found: Clocks, name: str, absolute: list[_Absolute]) -> bool:
    """Whether durations below a day beside dates are times of day: they fall with the date alone."""
    values = frame.numbers(name)[found.perm]
    known = values[np.isfinite(values)]
    if not len(known) or known.min() < 0 or known.max() >= 86_400:
        return False
    dates = absolute[0].micros[found.perm]
    with np.errstate(invalid="ignore"):
        falls = np.diff(values) < 0
        turns = np.diff(dates) > 0
    falls[found.first[1:]] = False
    if turns.any() and falls[turns].mean() <= 0.5:
        return False
    # A day's clock begins again with the date; rows that a file holds twice, and a clock that was
    # set back, make it fall, too.
    return int((falls & ~turns).sum()) <= 2


def _choose_absolute(frame: Frame, found: Clocks, absolute: list[_Absolute]) -> None:
    """The column of event time: one with a time of day before one with dates alone."""
    full = [item for item in absolute if not item.only_dates]
    if not full and not absolute:
        return
    chosen = (full or absolute)[0]
    # Of several the one that distinguishes more rows, where the better name distinguishes none.
    if len(full) > 1 and len(np.unique(chosen.micros)) <= 1 < len(np.unique(full[1].micros)):
        chosen = full[1]
    wall = chosen.micros[found.perm]
    why = "name"
    found.event_time = chosen.column
    if chosen.only_dates:
        clock = next((use for use in found.uses if use.field == CLOCK), None)
        if clock is not None:
            found.event_time = f"{chosen.column} + {clock.column}"
            wall = wall + frame.numbers(clock.column)[found.perm] * 1e6
        elif found.elapsed is not None and np.isfinite(found.elapsed).any():
            # The date of the test: its clock gives the rest.
            found.event_time = f"{chosen.column} + {found.clock}"
            known = wall[np.isfinite(wall)]
            found.start_us = int(known.min())
            found.uses.append(Use(chosen.column, "date", why="the day the test began"))
            found.wall = None
            return
    unit = frame.meanings[chosen.column].unit
    scale = (
        unit.scale
        if unit is not None and frame.meanings[chosen.column].field == "recorded_at"
        else 1.0
    )
    found.uses.append(Use(chosen.column, "recorded_at", unit.text if unit else "", scale, why=why))
    if np.isnan(wall).any():
        for other in full:
            if other is not chosen and frame.meanings[other.column].field == "recorded_at":
                found.uses.append(Use(other.column, "recorded_at", why=SECOND))
                wall = np.where(np.isnan(wall), other.micros[found.perm], wall)
    found.wall = wall


# A wall clock that stands still for so long while another runs says when that one began.
_STANDS_STILL_S = 120.0


def _runs(frame: Frame, found: Clocks) -> None:
    """A clock that starts again with each step or cycle, where no other tells what passed.

    Its runs are added up to the test's clock; a wall clock that stands still during each of them
    says when it began.
    """
    use = next((use for use in found.uses if use.field == "test_time_s"), None)
    if use is None:
        use = next((use for use in found.uses if use.field == "step_time_s"), None)
    if use is None:
        return
    run = (frame.numbers(use.column) * use.scale)[found.perm]
    begins = found.first.copy()
    with np.errstate(invalid="ignore"):
        begins[1:] |= np.diff(run) < 0
    if found.wall is not None:
        if not _stands_still(found.wall, run, begins):
            return
        found.wall = found.wall + np.where(np.isfinite(run), run, 0.0) * 1e6
        found.wall_of_runs = True
        text = f"{found.event_time} stands still while {use.column} runs: it says when that began"
        found.witnesses.append(Witness("clock", use.column, 1.0, text))
        found.event_time = f"{found.event_time} + {use.column}"
    elif use.field == "test_time_s":
        if not _starts_again(run, begins & ~found.first):
            return
        count = int((begins & ~found.first).sum())
        text = f"{use.column} starts again {count} times: a run follows the other"
        found.witnesses.append(Witness("clock", use.column, 1.0, text))
    found.in_order = True
    if use.field == "step_time_s" or not np.array_equal(begins, found.first):
        found.by_runs = True
        found.elapsed = added_up(run, found.first)
        found.clock = f"{_said(use)}, its runs added up"
        if use.field == "step_time_s":
            found.uses.append(replace(use, field="test_time_s"))


def _starts_again(run: F64, falls: Mask) -> bool:
    """Whether a clock that falls begins at nought again every time, after a run of some length."""
    at = np.flatnonzero(falls)
    return bool(len(at)) and bool((run[at] <= 0.02 * run[at - 1]).all())


def _stands_still(wall: F64, run: F64, begins: Mask) -> bool:
    """Whether a wall clock never moves during the runs of another clock, long ones too."""
    with np.errstate(invalid="ignore"):
        moves = np.abs(np.diff(wall)) > 0
    if (moves & ~begins[1:]).any():
        return False
    starts = np.flatnonzero(begins)
    spans = np.fmax.reduceat(run, starts) - np.fmin.reduceat(run, starts)
    return bool(np.isfinite(spans).any()) and bool(np.nanmax(spans) > _STANDS_STILL_S)


def added_up(run: F64, first: Mask) -> F64:
    """Seconds since an equipment's first run began, of a clock that starts again with every run."""
    passed = passing(first, None, run)
    assert passed is not None
    passed = np.where(first, run, passed)
    total = np.cumsum(np.where(np.isfinite(passed), passed, 0.0))
    begun = np.maximum.accumulate(np.where(first, np.arange(len(run)), 0))
    before = total - np.where(np.isfinite(passed), passed, 0.0)
    return np.where(np.isfinite(run), total - before[begun], np.nan) if len(run) else run


def chunk_ratio(numerator: F64, denominator: F64) -> float | None:
    """The typical ratio of what two clocks say passed, robust to pauses and whole seconds.

    The rows are cut to up to 40 parts; each gives a ratio, and the median counts.
    """
    known = np.isfinite(numerator) & np.isfinite(denominator)
    top, bottom = numerator[known], denominator[known]
    if len(top) < 2:
        return None
    edges = np.unique(np.linspace(0, len(top) - 1, min(41, len(top))).astype(np.int64))
    above, below = np.diff(top[edges]), np.diff(bottom[edges])
    fits = (above > 0) & (below > 0)
    if not fits.any():
        return None
    weights = below[fits]
    ratios = above[fits] / weights
    order = np.argsort(ratios)
    cumulated = np.cumsum(weights[order])
    return float(ratios[order][np.searchsorted(cumulated, cumulated[-1] / 2)])


def _unit_of_test_clock(frame: Frame, found: Clocks) -> None:
    """The unit of the test's clock, by the wall clock where there is one."""
    use = next((use for use in found.uses if use.field == "test_time_s"), None)
    if use is None or found.elapsed is None or found.wall is None or found.wall_of_runs:
        return
    span = np.nanmax(found.wall) - np.nanmin(found.wall)
    if not span > 20e6 * _RESOLUTION_S:
        return
    ratio = chunk_ratio(found.wall / 1e6, found.elapsed)
    if ratio is None:
        return
    said = frame.meanings[use.column].unit is not None or use.unit == "h:m:s"
    if abs(ratio - 1.0) <= UNIT_TOLERANCE:
        found.witnesses.append(
            Witness("unit", "wall clock", ratio, f"{use.column} is in {use.unit}")
        )
        return
    if frame.unit_is_said(use.column):
        return
    for text, seconds in UNITS.items():
        factor = seconds / use.scale
        if factor != 1.0 and abs(ratio / factor - 1.0) <= UNIT_TOLERANCE:
            rescale(found, found.uses, use, text, seconds, "wall clock")
            found.witnesses.append(
                Witness("unit", "wall clock", ratio / factor,
                        f"{use.column} runs as {text}" + (", not as its name says" if said else ""))
            )  # fmt: skip
            return


def rescale(found: Clocks, uses: list[Use], use: Use, text: str, seconds: float, why: str) -> None:
    """Gives the test's clock another unit: in `uses`, and in what was worked out from it."""
    uses[uses.index(use)] = Use(use.column, use.field, text, seconds, why=why)
    if found.elapsed is not None:
        found.elapsed = found.elapsed * (seconds / use.scale)
    _same_unit_for_steps(uses, use.scale, text, seconds)
    found.clock = _said(Use(use.column, use.field, text, seconds))


def _same_unit_for_steps(uses: list[Use], before: float, text: str, seconds: float) -> None:
    """A step's clock is in the unit of the test's, where neither name says another one."""
    for place, use in enumerate(uses):
        if use.field == "step_time_s" and use.scale == before and use.unit != "h:m:s":
            uses[place] = Use(use.column, use.field, text, seconds, why="as the test's clock")


def _start(found: Clocks, head: Head, zone: ZoneInfo) -> None:
    """Event time from the head's start, where no column has it."""
    if found.wall is not None:
        return
    if found.start_us is None and head.start:
        text = pa.array([head.start])
        times = convert.timestamps(text, zone, 1.0, found.day_first).array
        if times[0].is_valid:
            found.start_us = int(times.cast(pa.int64())[0].as_py())
            parts = stamps.ambiguous_parts(text)
            if (
                parts is not None
                and found.day_first is None
                and stamps.order_of(text) is None
                and (parts[0] != parts[1]).any()
                and head.dialect not in _MONTH_FIRST_DIALECTS
                and not ("." in head.start[:4] and head.dialect in _DAY_FIRST_DIALECTS)
                and not any(half in head.start.casefold() for half in (" am", " pm"))
            ):
                found.disagreements.append("date_order_guessed")
            found.event_time = f"start in the file's head + {found.clock}"
    if found.start_us is None:
        found.event_time = "file modification time"
        found.disagreements.append("time_assumed")


def passing(first: Mask, elapsed: F64 | None, step_time: F64 | None) -> F64 | None:
    """Seconds since the row before by the test's clock, or by the step's; NaN for first rows.

    A test's clock that began again gives a negative number; a step's gives what it shows.
    """
    if elapsed is None and step_time is None:
        return None
    values = elapsed if elapsed is not None else step_time
    assert values is not None
    out = np.full(len(first), np.nan)
    out[1:] = np.diff(values)
    if elapsed is None:
        out = np.where(out < 0, values, out)
    out[first] = np.nan
    return out


def runs_on(records: F64 | None, perm: I64, first: Mask) -> Mask | None:
    """Where record numbers go up from the row before; None if they do not tell the order.

    They may fall once or twice: where a file holds a block of rows again.
    """
    if records is None or len(records) < 2:
        return None
    steps = np.diff(records[perm])
    up: Mask = (steps > 0) | first[1:]
    return up if (~up).sum() <= 2 else None


def _compare(frame: Frame, found: Clocks) -> None:
    """Holds the wall clock against the test's clock, and both against the order of the rows."""
    if found.wall is None or found.wall_of_runs:
        return
    wall = np.diff(found.wall) / 1e6
    wall[found.first[1:]] = np.nan
    step = next((use.column for use in found.uses if use.field == "step_time_s"), None)
    step_time = None if step is None else frame.scaled(step)[found.perm]
    passed = passing(found.first, found.elapsed, step_time)
    records = frame.columns.get("record_index", [])
    numbered = runs_on(frame.numbers(records[0]) if records else None, found.perm, found.first)
    back = set_back(wall, None if passed is None else passed[1:], numbered)
    if back.any():
        found.in_order = True
        found.disagreements.append("clock_disagrees")
        text = (
            f"{found.event_time} goes back {_times(int(back.sum()))}, by up to "
            f"{-np.nanmin(np.where(back, wall, np.nan)):.0f} s, while the test runs on"
        )
        witness = Witness("clock", "order of the rows", 1.0 - float(back.mean()), text)
        found.witnesses.append(witness)
        return
    elapsed = None
    if found.elapsed is not None:
        elapsed = np.diff(found.elapsed)
        elapsed[found.first[1:]] = np.nan
    if elapsed is None:
        return
    both = np.isfinite(wall) & np.isfinite(elapsed) & (wall >= 0) & (elapsed >= 0)
    if not both.any():
        return
    # A pause shows in the wall clock alone: it is no disagreement.
    pause = wall > 10 * elapsed + 600
    walls, clocks = float(wall[both & ~pause].sum()), float(elapsed[both & ~pause].sum())
    if walls <= 0 or clocks <= 0:
        return
    ratio = clocks / walls
    found.witnesses.append(Witness("clock", "test clock / wall clock", ratio))
    if abs(ratio - 1.0) > DRIFT and abs(walls - clocks) > DRIFT_S:
        found.disagreements.append("clock_disagrees")


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def set_back(wall: F64, passed: F64 | None, numbered: Mask | None) -> Mask:
    """Where the wall clock goes back though time passed.

    Args:
        wall: seconds since the row before by the wall clock, NaN where not known.
        passed: the same by the test's or the step's clock, negative where that began again.
        numbered: where the record numbers go up; None if they do not tell the order.

    Without either only a change of the clocks by an hour in a file that is otherwise in order is
    believed: other files are simply not sorted.
    """
    with np.errstate(invalid="ignore"):
        back: Mask = wall < -2.0 * _RESOLUTION_S
        if passed is not None:
            back &= passed >= 0
        if numbered is not None:
            back &= numbered
        elif passed is None:
            typical = float(np.nanmedian(wall[wall > 0])) if (wall > 0).any() else 0.0
            back &= np.abs(wall + 3600.0) <= max(2.0 * typical, 5.0)
            if (wall < -2.0 * _RESOLUTION_S).sum() != back.sum():
                back &= False
        # Clocks are set now and then, and by hours: a file of older tests behind newer ones is
        # another thing.
        if back.sum() > _MOST_SET_BACK or (wall[back] < -_FURTHEST_BACK_S).any():
            back &= False
    return back
