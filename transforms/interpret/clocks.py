"""Decides which column is which clock, and in what unit."""

from __future__ import annotations

from dataclasses import replace
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa

from schemas.aliases import CLOCK, normalise
from transforms import convert, stamps, zones
from transforms.interpret.agreement import added_up, compare
from transforms.interpret.frame import F64, I64, Frame, Mask
from transforms.interpret.interpretation import SECOND, Head, Use, Witness
from transforms.interpret.points import (
    DAY_FIRST_DIALECTS,
    MONTH_FIRST_DIALECTS,
    Absolute,
    absolute_of,
    date_order,
    mostly_known,
    sorted_out,
)
from transforms.interpret.timeline import Clocks, order_rows

# Units that elapsed time is met in, in seconds.
UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "ms": 1e-3, "us": 1e-6}
# How far a ratio of two clocks may be from that of two units to count as it.
UNIT_TOLERANCE = 0.05
# 1990: a cycler's log that says it is older has a clock that was never set. Such a clock stands at
# 1900, 1904, 1970 or 1980, and some of these are before anything that a reading's time may be.
_OLDEST_US = 631_152_000_000_000
# A row's time is good to this, where stamps carry whole seconds only.
_RESOLUTION_S = 1.0


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
    absolute_names, elapsed_names = sorted_out(frame)
    elapsed = {name: frame.numbers(name) for name in elapsed_names}
    order_rows(frame, found, groups, elapsed_names, elapsed)
    found.day_first = day_first
    if absolute_names and found.day_first is None:
        found.day_first = date_order(frame, found, absolute_names, dialect)
    absolute = [absolute_of(frame, name, zone, found.day_first) for name in absolute_names]
    absolute = [item for item in absolute if mostly_known(item.micros)]
    _test_and_step(frame, found, elapsed_names, absolute)
    absolute = _seasons(frame, found, _once_set(frame, found, absolute), zone)
    _choose_absolute(frame, found, absolute)
    _runs(frame, found)
    _unit_of_test_clock(frame, found)
    _start(found, head, zone)
    compare(frame, found)
    used = {use.column for use in found.uses}
    found.left += [n for n in (*absolute_names, *elapsed_names) if n not in used]
    return found


# A clock that is set back by so much was set to standard time: it was not on it all year.
_SET_BACK_US = 1800e6
_MINUTE_US = 60e6


def _seasons(
    frame: Frame, found: Clocks, absolute: list[Absolute], zone: ZoneInfo
) -> list[Absolute]:
    """The points in time of a clock that stays on standard time all year, where one does.

    A change to or from daylight saving time within the file tells: on a clock that does not take
    part, what the zone makes of its times goes back, or does not pass as the test's clock does.
    """
    if zones.gap_of(zone) is not zones.Gap.AUTO or zone.key == "UTC":
        return absolute
    chosen = next((item for item in absolute if not item.only_dates), None)
    if chosen is None:
        return absolute
    fixed = zones.with_gap(zone, zones.Gap.STANDARD)
    standard = absolute_of(frame, chosen.column, fixed, found.day_first)
    by_zone, by_standard = (np.diff(item.micros[found.perm]) for item in (chosen, standard))
    differs = np.isfinite(by_zone) & (np.abs(by_zone - by_standard) > _MINUTE_US) & ~found.first[1:]
    with np.errstate(invalid="ignore"):
        if not differs.any() or (by_standard[~found.first[1:]] < -_SET_BACK_US).any():
            return absolute
        if found.elapsed is not None:
            passed = np.diff(found.elapsed) * 1e6
            wrong_zone, wrong_standard = (
                float(np.nansum(np.abs(steps - passed)[differs]))
                for steps in (by_zone, by_standard)
            )
            stays = wrong_standard + _MINUTE_US < wrong_zone
            witness = found.clock
        else:
            stays = bool((by_zone[differs] < 0).any() and (by_standard[differs] >= 0).all())
            witness = "order of the rows"
    if not stays:
        return absolute
    found.standard_time = True
    text = f"{chosen.column} stays on standard time while {zone.key} changes"
    found.witnesses.append(Witness("clock", witness, 1.0, text))
    return [
        item if item.only_dates else absolute_of(frame, item.column, fixed, found.day_first)
        for item in absolute
    ]


def _test_and_step(frame: Frame, found: Clocks, names: list[str], absolute: list[Absolute]) -> None:
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


def _is_time_of_day(frame: Frame, found: Clocks, name: str, absolute: list[Absolute]) -> bool:
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


def _once_set(frame: Frame, found: Clocks, absolute: list[Absolute]) -> list[Absolute]:
    """The points in time of clocks that were set; all of them where nothing else says what passed.

    The times of a clock that was never set are no times. The test's own clock is right all the
    same, and with it the file is read as one without a date.
    """
    fit = [item for item in absolute if np.nanmax(item.micros) >= _OLDEST_US]
    if len(fit) == len(absolute) or not (fit or _has_clock(frame, found)):
        return absolute
    for item in absolute:
        if item not in fit:
            shown = np.datetime64(int(np.nanmin(item.micros)), "us").astype("M8[s]")
            text = f"{item.column} begins at {shown}: that clock was never set"
            found.witnesses.append(Witness("clock", item.column, 0.0, text))
    return fit


def _has_clock(frame: Frame, found: Clocks) -> bool:
    """Whether the test's clock, or that of its steps, tells most rows apart from the others."""
    for use in found.uses:
        if use.field in ("test_time_s", "step_time_s"):
            values = frame.numbers(use.column)
            if mostly_known(values) and (len(values) == 1 or np.nanmax(values) > np.nanmin(values)):
                return True
    return False


def _choose_absolute(frame: Frame, found: Clocks, absolute: list[Absolute]) -> None:
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
        start_us = times.cast(pa.int64())[0].as_py()
        if start_us is not None and start_us < _OLDEST_US:
            text = f"the file's head says {head.start}: that clock was never set"
            found.witnesses.append(Witness("clock", "start", 0.0, text))
        elif start_us is not None:
            found.start_us = start_us
            parts = stamps.ambiguous_parts(text)
            if (
                parts is not None
                and found.day_first is None
                and stamps.order_of(text) is None
                and (parts[0] != parts[1]).any()
                and head.dialect not in MONTH_FIRST_DIALECTS
                and not ("." in head.start[:4] and head.dialect in DAY_FIRST_DIALECTS)
                and not any(half in head.start.casefold() for half in (" am", " pm"))
            ):
                found.disagreements.append("date_order_guessed")
            found.event_time = f"start in the file's head + {found.clock}"
    if found.start_us is None:
        found.event_time = "file modification time"
        found.disagreements.append("time_assumed")
