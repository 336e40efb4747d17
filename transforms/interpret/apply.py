"""Turns a table's own columns into the reading's fields, as an interpretation says."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from schemas.aliases import CAPACITY, CLOCK, ENERGY, STATE
from schemas.forms import UTC_MICROSECONDS
from schemas.reading import QUALITY_FLAGS, READING, Kind
from transforms import convert, zones
from transforms.convert import Converted, Mask
from transforms.interpret import counters, states
from transforms.interpret.agreement import added_up, passing, set_back
from transforms.interpret.direction import apply_sign
from transforms.interpret.interpretation import Interpretation, Sign, Use
from transforms.interpret.timeline import measured_order, runs_on

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

# What only all rows of a file show stands beside the rows of a part of it, under these names.
PLACED = "\x00placed "

_CLOCK_FLAG = 1 << QUALITY_FLAGS.index("clock_disagrees")
_DIRECTION_FLAG = 1 << QUALITY_FLAGS.index("direction_disagrees")
# Two clocks of one row are alike within this.
_ALIKE_US = 2_000_000
_SIGN_NOISE = 0.01

_ERROR_OF_KIND = {
    Kind.TIMESTAMP: ("unparsable_time", "cannot be parsed as a date and time"),
    Kind.INTEGER: ("wrong_type", "must be a whole number"),
    Kind.DOUBLE: ("wrong_type", "must be a number"),
    Kind.STRING: ("wrong_type", "must be text"),
    Kind.JSON: ("wrong_type", "must be text"),
}


@dataclass
class Fields:
    """The reading's fields of a table.

    Attributes:
        found: array per field.
        bad: (mask, error type, field, message) of values that do not fit.
        flags: quality flags per row, as bits.
    """

    found: dict[str, pa.Array] = field(default_factory=dict)
    bad: list[tuple[Mask, str, str, str]] = field(default_factory=list)
    flags: I64 = field(default_factory=lambda: np.zeros(0, dtype=np.int64))


def _converted(values: pa.ChunkedArray, use: Use, how: Interpretation, zone: ZoneInfo) -> Converted:
    kind = READING.field(use.field).kind
    if kind is Kind.TIMESTAMP:
        return convert.timestamps(values, zone, use.scale, how.day_first)
    if kind is Kind.INTEGER:
        return convert.integers(values, use.scale, how.notation)
    if kind is Kind.DOUBLE:
        if use.field in ("test_time_s", "step_time_s"):
            return convert.seconds(values, use.scale, how.notation)
        return convert.doubles(values, use.scale, use.offset, how.notation)
    return convert.texts(values)


def error_of(name: str) -> tuple[str, str]:
    """Error type and message of a value that does not fit a field."""
    return _ERROR_OF_KIND[READING.field(name).kind]


def fields(table: pa.Table, how: Interpretation, zone: ZoneInfo) -> Fields:
    """The reading's fields of a table's rows.

    Args:
        table: rows under the source's own names; where `how.in_order`, all of the file.
        how: what was decided about the file.
        zone: of times that carry none.
    """
    own, placed = parted(table)
    if placed:
        return _with_placed(by_row(own, how, zone), placed)
    out = by_row(table, how, zone)
    if how.in_order and (copies := _copies(table, out.flags)) is not None:
        kept = pa.array(copies[0])
        found = {name: array.take(kept) for name, array in out.found.items()}
        bad = [(mask[copies[0]], error, name, message) for mask, error, name, message in out.bad]
        once = Fields(found, bad, out.flags[copies[0]])
        in_order(how, once)
        return expanded(once, copies[1])
    in_order(how, out)
    return out


def parted(table: pa.Table) -> tuple[pa.Table, dict[str, pa.Array]]:
    """A table's own columns, and what `transforms.whole` has put beside them, by field."""
    names = [name for name in table.column_names if name.startswith(PLACED)]
    if not names:
        return table, {}
    placed = {name.removeprefix(PLACED): table.column(name).combine_chunks() for name in names}
    return table.drop_columns(names), placed


def _with_placed(out: Fields, placed: dict[str, pa.Array]) -> Fields:
    """The fields of some rows with what all of the file's show."""
    flags = placed["flags"].to_numpy(zero_copy_only=False).copy()
    found = {**out.found, **placed}
    for name in ("flags", CAPACITY, ENERGY):
        found.pop(name, None)
    return Fields(found, out.bad, flags)


def by_row(table: pa.Table, how: Interpretation, zone: ZoneInfo) -> Fields:
    """The part of `fields` that looks at each row alone; the file may be cut anywhere."""
    if how.standard_time:
        zone = zones.with_gap(zone, zones.Gap.STANDARD)
    out = Fields(flags=np.zeros(table.num_rows, dtype=np.int64))
    names = set(READING.names)
    for use in how.uses:
        if use.column not in table.column_names:
            continue
        if use.field in (CAPACITY, ENERGY) and use.kept is not None:
            read = convert.doubles(table.column(use.column), use.scale, use.offset, how.notation)
            out.found[use.field] = read.array
        if use.field not in names:
            continue
        if use.field == "recorded_at" and how.use_of(CLOCK) is not None:
            continue
        converted = _converted(table.column(use.column), use, how, zone)
        if converted.doubtful is not None and use.field == "recorded_at":
            out.flags[converted.doubtful] |= _CLOCK_FLAG
        if converted.bad is not None:
            error, message = error_of(use.field)
            if use.field in ("test_time_s", "step_time_s"):
                message = "must be a number or a duration such as 1:02:03"
            out.bad.append((converted.bad, error, use.field, f"{use.column} {message}"))
        array = converted.array
        if READING.field(use.field).kind is Kind.DOUBLE and not READING.field(use.field).required:
            # What a table calls no number is no value.
            array = pc.if_else(pc.is_nan(array), pa.scalar(None, pa.float64()), array)
        better = out.found.get(use.field)
        out.found[use.field] = array if better is None else pc.coalesce(better, array)
    if how.open_circuit:
        out.found["current_a"] = pa.array(np.zeros(table.num_rows))
    _dates_and_clocks(table, how, zone, out)
    _signs(how, _directions(table, how), out)
    return out


def in_order(how: Interpretation, out: Fields) -> None:
    """The part of `fields` that takes the rows one after another: of `by_row`'s, all of a file."""
    rows = len(out.flags)
    if how.in_order:
        _in_order(rows, how, out)
    elif how.compared and how.order == "file":
        _flag_set_back(out, rows)
    for single in (CAPACITY, ENERGY):
        out.found.pop(single, None)
    if how.start_us is not None and "recorded_at" not in out.found:
        _from_start(how, out)


def _flag_set_back(out: Fields, rows: int) -> None:
    """Flags rows at which a clock was set back behind the rows that the decision was made on."""
    times = _micros(out)
    if times is None or rows < 2:
        return
    wall = np.diff(times[0]) / 1e6
    if not (wall < 0).any():
        return
    groups = _groups(out, rows)
    first = np.ones(rows, dtype=bool)
    first[1:] = groups[1:] != groups[:-1]
    wall[first[1:] | ~times[1][1:] | ~times[1][:-1]] = np.nan
    passed = passing(first, _numbers(out, "test_time_s"), _numbers(out, "step_time_s"))
    numbered = runs_on(_numbers(out, "record_index"), np.arange(rows), first)
    back = set_back(wall, None if passed is None else passed[1:], numbered)
    out.flags[1:][back] |= _CLOCK_FLAG


def _copies(table: pa.Table, flags: I64) -> tuple[I64, I64] | None:
    """Rows that are no copy of an earlier one, and for every row its place among these.

    A file may hold a block of rows twice; taken one after another they would count twice. None
    where there is no copy.
    """
    texts = joined(table)
    if texts is None:
        return None
    codes = texts.dictionary_encode().indices.to_numpy(zero_copy_only=False)
    return copies_among(codes, flags)


def joined(table: pa.Table) -> pa.Array | None:
    """Each row as one text; None without columns, and with nested values, as no cycler has."""
    texts = []
    for column in table.columns:
        try:
            texts.append(pc.fill_null(column.cast(pa.string()), ""))
        except pa.ArrowException:
            return None
    if not texts:
        return None
    return pc.binary_join_element_wise(*texts, "\x1f").combine_chunks()


def copies_among(codes: npt.NDArray[Any], flags: I64) -> tuple[I64, I64] | None:
    """The same by a number per row, shape (rows,), that only copies share; with `by_row`'s flags.

    Rows that only repeat what stood in the hour that the zone has twice are no copies.
    """
    _, first, place = np.unique(codes, return_index=True, return_inverse=True)
    if len(first) == len(codes):
        return None
    kept = np.sort(first)
    again = np.ones(len(codes), dtype=bool)
    again[kept] = False
    if (flags[again] & _CLOCK_FLAG).all():
        return None
    return kept, np.searchsorted(kept, first)[place]


def expanded(once: Fields, place: I64) -> Fields:
    """The fields of all rows from those of the rows that are no copies."""
    at = pa.array(place)
    return Fields(
        {name: array.take(at) for name, array in once.found.items()},
        [(mask[place], error, name, message) for mask, error, name, message in once.bad],
        once.flags[place],
    )


def _dates_and_clocks(table: pa.Table, how: Interpretation, zone: ZoneInfo, out: Fields) -> None:
    """A date and a time of day in two columns as one point in time."""
    clock, date = how.use_of(CLOCK), how.use_of("recorded_at")
    if clock is None or date is None:
        return
    if date.column not in table.column_names or clock.column not in table.column_names:
        return
    days = convert.timestamps(table.column(date.column), ZoneInfo("UTC"), 1.0, how.day_first)
    times = convert.seconds(table.column(clock.column), notation=how.notation)
    for converted, use in ((days, date), (times, clock)):
        if converted.bad is not None:
            error, message = error_of("recorded_at")
            out.bad.append((converted.bad, error, "recorded_at", f"{use.column} {message}"))
    micros = pc.round(pc.multiply(times.array, 1e6)).cast(pa.int64())
    local = pc.add(days.array.cast(pa.int64()), micros).cast(pa.timestamp("us"))
    placed = zones.in_zone(local, zone)
    if placed.refused is not None:
        error, message = error_of("recorded_at")
        out.bad.append((placed.refused, error, "recorded_at", f"{date.column} {message}"))
    if placed.doubtful is not None:
        out.flags[placed.doubtful] |= _CLOCK_FLAG
    out.found["recorded_at"] = placed.array


def _directions(table: pa.Table, how: Interpretation) -> I64 | None:
    use = how.use_of(STATE)
    if use is None or use.column not in table.column_names:
        return None
    found = states.directions(convert.texts(table.column(use.column)).array).astype(np.int64)
    found[found == states.UNKNOWN] = 0
    return found


def _signs(how: Interpretation, direction: I64 | None, out: Fields) -> None:
    """The current positive where it charges; flags rows whose state says otherwise."""
    current = out.found.get("current_a")
    if current is None:
        return
    values = current.to_numpy(zero_copy_only=False)
    if how.sign in (Sign.POSITIVE_DISCHARGES, Sign.FROM_STATE):
        values = apply_sign(values, how.sign, direction, None) + 0.0
        out.found["current_a"] = pa.array(values, mask=np.asarray(current.is_null()))
    if direction is not None and how.sign is not Sign.FROM_STATE:
        with np.errstate(invalid="ignore"):
            large = np.abs(values) > _SIGN_NOISE * (how.typical_current_a or 0.0)
            against = (direction != 0) & large & (np.sign(values) == -direction)
        out.flags[against] |= _DIRECTION_FLAG


def _numbers(out: Fields, name: str) -> F64 | None:
    array = out.found.get(name)
    if array is None or array.null_count == len(array):
        return None
    return np.asarray(array.cast(pa.float64()).to_numpy(zero_copy_only=False))


def _micros(out: Fields) -> tuple[I64, Mask] | None:
    recorded = out.found.get("recorded_at")
    if recorded is None:
        return None
    known = np.asarray(recorded.is_valid())
    return recorded.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False).copy(), known


def _groups(out: Fields, rows: int) -> I64:
    names = [out.found[name] for name in ("equipment_id", "test_id") if name in out.found]
    return convert.group_codes(names, rows)


def _in_order(rows: int, how: Interpretation, out: Fields) -> None:
    """What takes the rows one after another: a clock set back, counters for both directions."""
    perm, first = measured_order(how.order, _groups(out, rows), _numbers(out, "record_index"))
    _runs(how, out, perm, first)
    elapsed, step_time = _numbers(out, "test_time_s"), _numbers(out, "step_time_s")
    if "clock_disagrees" in how.disagreements:
        passed = passing(
            first,
            None if elapsed is None else elapsed[perm],
            None if step_time is None else step_time[perm],
        )
        numbered = runs_on(_numbers(out, "record_index"), perm, first)
        _put_right(out, perm, first, passed, numbered)
    current = _numbers(out, "current_a")
    if current is None:
        return
    if how.sign is Sign.FROM_COUNTERS:
        current = _signed_by_counters(out, current, perm, first)
    interval = _intervals(out, perm, first, elapsed)
    turns = _turns(out, perm)
    for single, names in (
        (CAPACITY, ("charge_capacity_ah", "discharge_capacity_ah")),
        (ENERGY, ("charge_energy_wh", "discharge_energy_wh")),
    ):
        use, read = how.use_of(single), out.found.get(single)
        if use is None or use.kept is None or read is None:
            continue
        values = read.to_numpy(zero_copy_only=False)
        flowing = current
        if single == ENERGY and (voltage := _numbers(out, "voltage_v")) is not None:
            flowing = current * voltage
        moved = np.abs(counters.moved(flowing[perm], interval, turns))
        begun = np.zeros(rows)
        since = elapsed if elapsed is not None else step_time
        if since is not None:
            begun = np.where(first, np.abs(flowing * np.nan_to_num(since))[perm] / 3600.0, 0.0)
        into, from_ = counters.split(
            values[perm],
            use.kept,
            flowing[perm],
            first,
            moved,
            np.nan_to_num(begun),
            turns,
        )
        missing = np.isnan(values)
        for name, counter in zip(names, (into, from_), strict=True):
            placed = np.empty(rows)
            placed[perm] = counter
            out.found[name] = pa.array(placed, mask=missing)


def _runs(how: Interpretation, out: Fields, perm: I64, first: Mask) -> None:
    """A clock that starts again: event time from when its runs began, test time from all of them."""
    run = _numbers(out, "test_time_s")
    if run is None:
        return
    times = _micros(out)
    if how.wall_of_runs and times is not None:
        known = times[1] & np.isfinite(run)
        since = np.round(np.where(known, run, 0.0) * 1e6).astype(np.int64)
        out.found["recorded_at"] = pa.array(times[0] + since, mask=~times[1]).cast(UTC_MICROSECONDS)
    if how.by_runs:
        placed = np.empty(len(run))
        placed[perm] = added_up(run[perm], first)
        out.found["test_time_s"] = pa.array(placed, mask=np.isnan(placed))


def _turns(out: Fields, perm: I64) -> Mask:
    """Where a step or cycle begins: by their numbers, the step's clock or the current's sign."""
    found = np.zeros(len(perm), dtype=bool)
    for name in ("step_index", "cycle_index"):
        if (numbers := _numbers(out, name)) is not None:
            found[1:] |= np.diff(numbers[perm]) != 0
    with np.errstate(invalid="ignore"):
        if (clock := _numbers(out, "step_time_s")) is not None:
            found[1:] |= np.diff(clock[perm]) < 0
        if (current := _numbers(out, "current_a")) is not None:
            found[1:] |= np.diff(np.sign(current[perm])) != 0
    return found


def _intervals(out: Fields, perm: I64, first: Mask, elapsed: F64 | None) -> F64:
    found = np.full(len(perm), np.nan)
    if elapsed is not None:
        found[1:] = np.diff(elapsed[perm])
    times = _micros(out)
    if times is not None:
        wall = np.where(times[1], times[0].astype(np.float64), np.nan)[perm]
        by_wall = np.full(len(perm), np.nan)
        by_wall[1:] = np.diff(wall) / 1e6
        found = np.where(np.isfinite(found) & (found >= 0), found, by_wall)
    found[first] = np.nan
    return np.where(np.isfinite(found) & (found >= 0), found, 0.0)


def _signed_by_counters(out: Fields, current: F64, perm: I64, first: Mask) -> F64:
    """The current with the sign of the counter that grows."""
    way = np.zeros(len(current))
    for name, sign in (("charge_capacity_ah", 1.0), ("discharge_capacity_ah", -1.0)):
        counter = _numbers(out, name)
        if counter is not None:
            gained, _ = counters.growth(counter[perm], first)
            way += sign * (gained > 0)
    # A row that gained nothing goes with the next one that did: it is the first of its step.
    ahead = np.where(way != 0, np.arange(len(way)), len(way))
    ahead = np.minimum.accumulate(ahead[::-1])[::-1]
    filled = np.where(ahead < len(way), way[np.minimum(ahead, len(way) - 1)], 1.0)
    placed = np.empty(len(way))
    placed[perm] = filled
    signed = apply_sign(current, Sign.FROM_COUNTERS, None, placed)
    out.found["current_a"] = pa.array(signed, mask=np.isnan(signed))
    return signed


def _put_right(
    out: Fields, perm: I64, first: Mask, passed_s: F64 | None, numbered: Mask | None
) -> None:
    """Event times that went back though time passed, moved on by what the clock was set back.

    From there on the test's clock shows what passed; the wall clock is believed again where it
    says the same as before. Rows that were moved are flagged.
    """
    times = _micros(out)
    if times is None:
        return
    micros, known = times
    wall, valid = micros[perm], known[perm]
    step = np.zeros(len(wall), dtype=np.int64)
    step[1:] = np.diff(wall)
    turns = np.zeros(len(wall), dtype=bool)
    turns[1:] = set_back(step[1:] / 1e6, None if passed_s is None else passed_s[1:], numbered)
    forward = step[(step > 0) & ~first]
    typical = int(np.median(forward)) if len(forward) else 0
    passed = np.full(len(wall), np.nan) if passed_s is None else passed_s * 1e6
    passed = np.where(np.isfinite(passed) & (passed >= 0), passed, typical)
    turns &= ~first & valid
    ahead = (step - passed) > _ALIKE_US
    shift = np.zeros(len(wall), dtype=np.int64)
    # Turns are few: between two of them the shift is constant.
    current = 0
    places = np.flatnonzero(turns | first | ahead)
    for at, place in enumerate(places.tolist()):
        end = places[at + 1] if at + 1 < len(places) else len(wall)
        if first[place]:
            current = 0
        elif turns[place]:
            current += int(passed[place]) - int(step[place])
        elif current and abs(int(step[place]) - current - int(passed[place])) <= max(
            _ALIKE_US, typical
        ):
            current = 0  # set forward again by as much
        shift[place:end] = current
    moved = np.zeros(len(wall), dtype=np.int64)
    moved[perm] = shift
    recorded = pa.array(micros + moved, mask=~known).cast(UTC_MICROSECONDS)
    out.found["recorded_at"] = recorded
    out.flags[moved != 0] |= _CLOCK_FLAG


def _from_start(how: Interpretation, out: Fields) -> None:
    """Event times from the test's start and its clock."""
    elapsed = _numbers(out, "test_time_s")
    if elapsed is None or how.start_us is None:
        return
    known = np.isfinite(elapsed) & (np.abs(elapsed) < 1e10)
    micros = np.round(np.where(known, elapsed, 0.0) * 1e6).astype(np.int64) + how.start_us
    out.found["recorded_at"] = pa.array(micros, mask=~known).cast(UTC_MICROSECONDS)


def event_times(table: pa.Table, how: Interpretation, zone: ZoneInfo) -> pa.Array | None:
    """The event times of rows, without anything else of them; None if only the file's does.

    Args:
        table: rows under the source's own names.
        how: what was decided about the file; not for one that is to be read in order.
        zone: of times that carry none.
    """
    if how.start_us is None and how.use_of("recorded_at") is None:
        return None
    wanted = ("recorded_at", CLOCK, "test_time_s")
    some = tuple(use for use in how.uses if use.field in wanted)
    part = Interpretation(
        uses=some, notation=how.notation, day_first=how.day_first, start_us=how.start_us,
        standard_time=how.standard_time,
    )  # fmt: skip
    names = [use.column for use in some if use.column in table.column_names]
    return fields(table.select(names), part, zone).found.get("recorded_at")
