"""Puts readings in order, tells duplicates from corrections, derives what needs the previous one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from schemas.reading import COUNTERS
from transforms.batch import stack
from transforms.convert import Mask
from transforms.limits import F64, Limits, codes, ranked
from transforms.validate import FLAG

I64 = npt.NDArray[np.int64]

# What the next readings need to know of the last one: its place in the order, what was measured,
# and how long its voltage had not moved. This is all that state ever holds of an equipment.
_TAIL = (
    "equipment_id", "equipment_type", "test_id", "recorded_at", "test_time_s", "record_index",
    "source_file", "ingested_at", "voltage_v", "current_a", *COUNTERS, "cycle_index",
    "step_index", "source_row", "profile", "id_high", "id_low", "content_id", "stuck_run",
    "last_delta",
)  # fmt: skip

# Of these a tail must have each, of this type; its equipments are strings, as a dictionary or not.
_TAIL_TYPES = {
    "recorded_at": pa.timestamp("us", "UTC"), "ingested_at": pa.timestamp("us", "UTC"),
    "voltage_v": pa.float64(), "current_a": pa.float64(), "profile": pa.int32(),
    "id_high": pa.uint64(), "id_low": pa.uint64(), "stuck_run": pa.int64(),
    "last_delta": pa.float64(),
}  # fmt: skip

# Later than any reading.
NOTHING_RECENT = 2**62

# What is known of the version that counts: column of a superseded row → of the one that counts.
SUPERSEDED_BY = {
    "superseded_by": "content_id",
    "superseded_by_file": "source_file",
    "superseded_by_ingested_at": "ingested_at",
}

DERIVED = ("time_delta_s", "charge_ah", "discharge_ah", "charge_wh", "discharge_wh")

_SECONDS_PER_HOUR = 3600.0
_COUNTER_NOISE_AH = 1e-9
_SAME_CURRENT = 0.01
# A time to the previous reading is a gap if it is also longer than so many of the test's own
# intervals: a test logged every ten minutes has none.
_INTERVALS = 4.0
# A counter restarted if it fell to this share, or to what can have flowed since (with a margin).
_RESTARTED = 0.5
_FLOWED = 1.5


@dataclass(frozen=True)
class Sequenced:
    """Readings in order.

    Attributes:
        table: the new readings sorted by equipment, test, time, test time and record, without
            duplicates and superseded versions, with the columns DERIVED (double; time_delta_s null for a first or
            late reading; the others the charge and energy since the previous reading, ≥ 0).
        tail: what the next call needs to know of these and earlier readings.
        duplicates: how many rows were dropped because they were there already.
        recent: the new readings in the tail's form; None where the tail keeps them anyway.
        superseded: the new rows that another version of the same reading stands for, in the
            form of `table` with nothing derived, and SUPERSEDED_BY; None if there are none.
        replaced: how many readings that were given on before have a newer version in `table`.
    """

    table: pa.Table
    tail: pa.Table
    duplicates: int
    recent: pa.Table | None = None
    superseded: pa.Table | None = None
    replaced: int = 0


class _Versions(NamedTuple):
    """What is repeated among readings.

    Attributes:
        copies: rows that have the identity and the content of another one, which stays.
        lost: rows of which another version counts.
        winners: the row that counts for each of `lost`.
        late: rows of which a copy arrived earlier, among those that are no copies.
        arrived_us: when that was, for each of `late`.
    """

    copies: I64
    lost: I64
    winners: I64
    late: I64
    arrived_us: I64


class _Rows:
    """A table's columns as numpy arrays; an absent column is all NaN or all `missing`."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table
        self.size = table.num_rows

    def numbers(self, name: str) -> F64 | None:
        if name not in self.table.column_names:
            return None
        column = self.table.column(name)
        if column.null_count == column.length():
            return None
        return np.asarray(column.to_numpy())

    def micros(self, name: str) -> I64:
        return np.asarray(self.table.column(name).cast(pa.int64()).to_numpy())

    def ranks(self, name: str) -> tuple[int, I64]:
        """How many distinct texts there are, and a code per row that sorts as the texts do."""
        if name not in self.table.column_names:
            return 1, np.zeros(self.size, dtype=np.int64)
        words, word_codes = codes(self.table, name)
        return len(words), ranked(words)[word_codes]


def _versions(rows: _Rows, is_new: Mask, first_stays: bool = False) -> _Versions:
    """Which rows repeat a reading, and of which another version counts.

    Of several copies the one already released stays, else the one of the first source file (by
    name), so that the order in which files are read makes no difference. Of several versions the
    one that arrived last counts, a version having arrived when its first copy did; of those that
    arrived together the one of the first file. `first_stays`: the one already released or that
    arrived first counts instead. A version whose content is unknown never does beside a known one,
    which is handed on: the warehouse has both and can tell.
    """
    high = rows.table.column("id_high").to_numpy()
    none = np.zeros(0, dtype=np.int64)
    ordered = np.sort(high)
    repeated = ordered[1:][ordered[1:] == ordered[:-1]]
    if not len(repeated):
        return _Versions(none, none, none, none, none)
    among = np.flatnonzero(np.isin(high, repeated))
    high, low = high[among], rows.table.column("id_low").to_numpy()[among]
    part = _Rows(rows.table.take(pa.array(among)))
    _, files = part.ranks("source_file")
    arrived = part.micros("ingested_at")
    content, unknown = _content(part)
    order = np.lexsort((arrived, files, is_new[among], content, low, high))
    reading, version = _changes(high[order]), _changes(content[order])
    reading |= _changes(low[order])
    version |= reading
    copies = among[order[~version]]
    heads = order[version]
    first_arrival = np.minimum.reduceat(arrived[order], np.flatnonzero(version))
    late = first_arrival < arrived[heads]
    earlier = among[heads[late]], first_arrival[late]
    if int(version.sum()) == int(reading.sum()):
        return _Versions(copies, none, none, *earlier)
    number = (np.cumsum(reading) - 1)[version]
    preferred: tuple[npt.NDArray[Any], ...] = (content[heads], files[heads])
    preferred += (first_arrival, is_new[among][heads]) if first_stays else (-first_arrival,)
    rank = np.lexsort((*preferred, unknown[heads], number))
    wins = _changes(number[rank])
    ranked = among[heads[rank]]
    winners = ranked[wins][np.cumsum(wins) - 1]
    return _Versions(copies, ranked[~wins], winners[~wins], *earlier)


def _content(rows: _Rows) -> tuple[I64, Mask]:
    """The digest of each row's content, shape (n,), and where it is unknown.

    What an older version of the job remembered has none, and can't be told to be a copy.
    """
    if "content_id" not in rows.table.column_names:
        return np.zeros(rows.size, dtype=np.int64), np.ones(rows.size, dtype=bool)
    column = rows.table.column("content_id")
    unknown = np.asarray(column.is_null().to_numpy())
    return np.array(column.fill_null(0).to_numpy()), unknown


def _order(rows: _Rows, groups: I64, times: I64) -> I64:
    """The permutation that sorts by group, time, test time, record, row of the file, identity."""
    span = int(times.max()) - int(times.min()) + 1
    if int(groups.max()) * span < 2**62:
        key = groups * span + (times - times.min())
        order = np.argsort(key, kind="stable")
        ordered = key[order]
        if not (ordered[1:] == ordered[:-1]).any():
            return order
        keys: tuple[npt.NDArray[np.generic], ...] = (key,)
    else:
        keys = (times, groups)
    low = rows.table.column("id_low").to_numpy()
    high = rows.table.column("id_high").to_numpy()
    elapsed = rows.numbers("test_time_s")
    index = rows.numbers("record_index")
    place = rows.numbers("source_row")
    # NaN sorts last; a reading without a number comes after those that have one.
    return np.lexsort(
        (low, high)
        + (() if place is None else (place,))
        + (() if index is None else (index,))
        + (() if elapsed is None else (elapsed,))
        + keys
    )


def _same(values: F64 | None, size: int) -> Mask:
    """Whether each row's value equals the one before; True where neither has any."""
    out = np.ones(size, dtype=bool)
    if values is not None and size:
        before, now = values[:-1], values[1:]
        out[1:] = (now == before) | (np.isnan(now) & np.isnan(before))
    return out


def _run_lengths(continues: Mask, start: I64) -> I64:
    """How many rows each run has had up to and with this row; `start` is a run's first length."""
    position = np.arange(len(continues))
    begins = np.where(continues, 0, position)
    begins = np.maximum.accumulate(begins)
    return position - begins + start[begins]


def sequence(
    new: pa.Table,
    tail: pa.Table | None,
    limits: Limits,
    keep_from_us: int | None = None,
    first_stays: bool = False,
) -> Sequenced:
    """Orders `new` behind `tail` and derives what depends on the previous reading.

    Args:
        new: validated readings of any order.
        tail: `Sequenced.tail` of the readings before them, or None.
        limits: the bounds per equipment profile.
        keep_from_us: readings from this event time on stay in the tail, so that one that comes
            late still finds its place, beside the last one of every equipment's latest test;
            NOTHING_RECENT keeps that one alone, None the last of every test.
        first_stays: whether the first version of a reading counts, not the last one.

    time_delta_s is the difference in test time where both readings have one that did not run
    backwards, else in event time. A reading that belongs before everything the tail still knows
    of its test has lost its place: null, flagged `late`. Charge and energy follow the integration
    rule: trapezoid inside a step, rectangle on a step's first reading, nothing over a gap.
    """
    held = 0 if tail is None else tail.num_rows
    table = stack([new] if tail is None or not held else [tail, new])
    rows = _Rows(table)
    is_new = np.arange(rows.size) >= held
    found = _versions(rows, is_new, first_stays)
    rows = _first_arrivals(rows, found)
    table = rows.table
    superseded = _superseded(table, found, is_new)
    replaced = _replaced(table, found, is_new)
    rows, kept = _without(rows, found)
    is_new = is_new[kept]
    _, id_ranks = rows.ranks("equipment_id")
    tests, test_ranks = rows.ranks("test_id")
    times = rows.micros("recorded_at")
    groups = id_ranks * tests + test_ranks
    order = _order(rows, groups, times)
    if not (order[1:] > order[:-1]).all():
        rows, is_new = _Rows(rows.table.take(pa.array(order))), is_new[order]
        groups, times = groups[order], times[order]
    first = _changes(groups)
    late = _behind_the_tail(first, is_new) if held else np.zeros(rows.size, dtype=bool)
    table, run = _derive(rows, times, first, late, limits)
    kept_on = _kept(first, groups // tests, times, keep_from_us)
    released = table.filter(pa.array(is_new)) if not is_new.all() else table
    remembered = [name for name in ("stuck_run", "last_delta") if name in released.column_names]
    return Sequenced(
        released.drop_columns(remembered) if remembered else released,
        _new_tail(table, run, kept_on),
        len(found.copies),
        _new_tail(table, run, is_new) if keep_from_us == NOTHING_RECENT else None,
        superseded,
        replaced,
    )


def _first_arrivals(rows: _Rows, found: _Versions) -> _Rows:
    """The rows, where copies were dropped with the arrival of the first of them."""
    if not len(found.late):
        return rows
    micros = rows.micros("ingested_at").copy()
    micros[found.late] = found.arrived_us
    kind = rows.table.schema.field("ingested_at").type
    return _Rows(_replace(rows.table, "ingested_at", pa.array(micros).cast(kind)))


def _without(rows: _Rows, found: _Versions) -> tuple[_Rows, I64 | slice]:
    """The rows that count, and which ones of the given they are."""
    if not len(found.copies) and not len(found.lost):
        return rows, slice(None)
    stays = np.ones(rows.size, dtype=bool)
    stays[found.copies] = False
    stays[found.lost] = False
    kept = np.flatnonzero(stays)
    return _Rows(rows.table.take(pa.array(kept))), kept


def _replaced(table: pa.Table, found: _Versions, is_new: Mask) -> int:
    """How many readings of the tail have a newer version; one of unknown content may be a copy."""
    lost = found.lost[~is_new[found.lost]]
    if not len(lost) or "content_id" not in table.column_names:
        return 0
    return len(lost) - int(table.column("content_id").take(pa.array(lost)).null_count)


def _superseded(table: pa.Table, found: _Versions, is_new: Mask) -> pa.Table | None:
    """The new rows of which another version counts, with SUPERSEDED_BY and the flag."""
    mine = is_new[found.lost]
    if not mine.any():
        return None
    by = table.take(pa.array(found.winners[mine]))
    lost = table.take(pa.array(found.lost[mine]))
    flags = pc.bit_wise_or(lost.column("flags").fill_null(0), FLAG["superseded"])
    lost = _replace(lost, "flags", flags)
    for name, column in SUPERSEDED_BY.items():
        there = column in by.column_names
        lost = lost.append_column(
            name, by.column(column) if there else pa.nulls(by.num_rows, pa.string())
        )
    remembered = [name for name in ("stuck_run", "last_delta") if name in lost.column_names]
    return lost.drop_columns(remembered)


def tail_problem(schema: pa.Schema) -> str | None:
    """Why a table of this schema can't be a tail; None if it can."""
    twice = [name for name in schema.names if schema.names.count(name) > 1]
    if twice:
        return f"has the column {twice[0]} twice"
    for name, kind in _TAIL_TYPES.items():
        if name not in schema.names or schema.field(name).type != kind:
            return f"has no column {name} of type {kind}"
    ids = schema.field("equipment_id").type if "equipment_id" in schema.names else None
    if ids not in (pa.string(), pa.dictionary(pa.int32(), pa.string())):
        return "has no column equipment_id of type string"
    unknown = set(schema.names) - set(_TAIL)
    return f"has a column {min(unknown)}, which no reading has" if unknown else None


def gathered(tails: Sequence[pa.Table], keep_from_us: int) -> pa.Table:
    """Several tails, which may overlap, as one.

    Args:
        tails: `Sequenced.tail` or `Sequenced.recent`; at least one, with any rows.
        keep_from_us: as of `sequence`.
    """
    rows = _Rows(stack(tails))
    found = _versions(rows, np.zeros(rows.size, dtype=bool))
    rows, _ = _without(_first_arrivals(rows, found), found)
    _, id_ranks = rows.ranks("equipment_id")
    tests, test_ranks = rows.ranks("test_id")
    groups, times = id_ranks * tests + test_ranks, rows.micros("recorded_at")
    order = _order(rows, groups, times)
    groups, times = groups[order], times[order]
    kept = _kept(_changes(groups), groups // tests, times, keep_from_us)
    return rows.table.take(pa.array(order[kept]))


def _changes(groups: I64) -> Mask:
    """Whether each row is its group's first."""
    first = np.ones(len(groups), dtype=bool)
    first[1:] = groups[1:] != groups[:-1]
    return first


def _kept(first: Mask, equipment: I64, times: I64, keep_from_us: int | None) -> Mask:
    """Which of the ordered rows the next ones have to know; see `sequence`."""
    kept = np.ones(len(times), dtype=bool)
    kept[:-1] = first[1:]  # the last of its test
    if keep_from_us is not None:
        _keep_latest_test(kept, equipment, times)
        recent = times >= keep_from_us
        # With the last one before that time, which is the previous reading of the earliest kept.
        kept |= recent
        kept[:-1] |= recent[1:] & ~first[1:]
    return kept


def _keep_latest_test(last: Mask, equipment: I64, times: I64) -> None:
    """Of the last readings of an equipment's tests, leaves the latest one.

    State must not grow with the number of tests.
    """
    ends = np.flatnonzero(last)
    latest = np.full(int(equipment.max()) + 1, np.iinfo(np.int64).min)
    np.maximum.at(latest, equipment[ends], times[ends])
    last[ends] = times[ends] == latest[equipment[ends]]


def _behind_the_tail(first: Mask, is_new: Mask) -> Mask:
    """New readings that sort before the first known one of their test."""
    group = np.cumsum(first) - 1
    known = np.bincount(group, weights=~is_new) > 0
    seen = np.cumsum(~is_new)
    before = np.concatenate(([0], seen[:-1]))
    at_start = before[np.flatnonzero(first)]
    behind: Mask = is_new & known[group] & (seen == at_start[group])
    return behind


def _derive(
    rows: _Rows, times: I64, first: Mask, late: Mask, limits: Limits
) -> tuple[pa.Table, I64]:
    """The rows with their flags and the DERIVED columns; and their runs of equal voltage."""
    # Behind a late reading comes another one or one that was released long ago.
    alone = first | late
    delta = _time_deltas(times, rows.numbers("test_time_s"), alone)
    # Not by the column of that name: what was remembered may be from a run with other profiles.
    profile = limits.rows(rows.table)
    voltage, current = rows.numbers("voltage_v"), rows.numbers("current_a")
    assert voltage is not None and current is not None
    in_cv = (current > 0) & (voltage >= limits.cv_voltage[profile])
    flags = _flags_of(rows)
    both_cv = in_cv.copy()
    both_cv[1:] &= in_cv[:-1]
    longest = np.where(both_cv, limits.gap_cv[profile], limits.gap[profile])
    interval = rows.numbers("interval_s")
    if interval is not None:
        longest = np.fmax(longest, _INTERVALS * interval)
    with np.errstate(invalid="ignore"):
        gap = (delta > longest) & ~(delta <= _INTERVALS * _deltas_before(rows, delta, first))
    # An alternating current carries no charge, and nothing is known of the way to the next row.
    spectrum = flags & FLAG["impedance"] != 0
    flags[gap] |= FLAG["gap"]
    flags[late] |= FLAG["late"]
    # What comes behind a late reading begins anew too: it followed another one when it was given on.
    begins = alone.copy()
    begins[1:] |= late[:-1]
    run = _stuck_runs(rows, voltage, current, in_cv, begins)
    flags[run >= limits.stuck[profile]] |= FLAG["stuck"]
    _flag_counters(rows, flags, current, delta, limits.counter_jump[profile])
    table = _replace(rows.table, "flags", pa.array(flags))
    table = table.append_column("time_delta_s", pa.array(delta, mask=np.isnan(delta)))
    for name, values in _integrals(rows, voltage, current, delta, gap | spectrum).items():
        table = table.append_column(name, pa.array(values))
    return table, run


def _deltas_before(rows: _Rows, delta: F64, first: Mask) -> F64:
    """The time delta of the reading before each one, of the same test; NaN where not known."""
    known = rows.numbers("last_delta")
    own = delta if known is None else np.where(first & np.isnan(delta), known, delta)
    before = np.full(len(delta), np.nan)
    before[1:] = own[:-1]
    before[first] = np.nan
    return before


def _flags_of(rows: _Rows) -> I64:
    column = rows.table.column("flags")
    return np.asarray(column.fill_null(0).to_numpy()).copy()


def _replace(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, values)


def _time_deltas(times: I64, elapsed: F64 | None, first: Mask) -> F64:
    delta = np.empty(len(times))
    delta[1:] = (times[1:] - times[:-1]) / 1e6
    if elapsed is not None:
        by_test = np.empty(len(times))
        by_test[1:] = elapsed[1:] - elapsed[:-1]
        by_test[0] = np.nan
        with np.errstate(invalid="ignore"):
            known = by_test >= 0
        delta = np.where(known, by_test, delta)
    delta[first] = np.nan
    return delta


def _stuck_runs(rows: _Rows, voltage: F64, current: F64, in_cv: Mask, first: Mask) -> I64:
    """How many equal voltages in a row each reading ends, at constant current outside CV."""
    steady = np.zeros(len(voltage), dtype=bool)
    steady[1:] = (
        (voltage[1:] == voltage[:-1])
        & (np.abs(current[1:] - current[:-1]) <= _SAME_CURRENT * np.abs(current[1:]))
        & (current[1:] != 0)
        & ~in_cv[1:]
        & ~first[1:]
    )
    start = np.ones(len(voltage), dtype=np.int64)
    if "stuck_run" in rows.table.column_names:
        start = rows.table.column("stuck_run").fill_null(1).to_numpy()
        # Only the first known row of a test brings its run's length along; behind it, rows count
        # on, and a reading that came late may have broken the run.
        start = np.where(first, start, 1)
    return _run_lengths(steady, start)


def _flag_counters(rows: _Rows, flags: I64, current: F64, delta: F64, allowed: F64) -> None:
    known = ~np.isnan(delta)
    largest = np.abs(current)
    largest[1:] = np.maximum(largest[1:], np.abs(current[:-1]))
    expected = largest * np.where(known, delta, 0.0) / _SECONDS_PER_HOUR
    for name in COUNTERS:
        counter = rows.numbers(name)
        if counter is None:
            continue
        step = np.zeros(len(counter))
        step[1:] = counter[1:] - counter[:-1]
        with np.errstate(invalid="ignore"):
            fell = known & (step < -_COUNTER_NOISE_AH)
            before = counter - step
            restarted = (counter <= _RESTARTED * before) | (counter <= _FLOWED * expected)
            flags[fell & restarted] |= FLAG["counter_reset"]
            flags[fell & ~restarted] |= FLAG["counter_dip"]
            if name.endswith("_ah"):
                flags[known & (step > expected + allowed)] |= FLAG["counter_jump"]


def _integrals(rows: _Rows, voltage: F64, current: F64, delta: F64, gap: Mask) -> dict[str, F64]:
    """Charge and energy since the previous reading, each split by direction, in Ah and Wh."""
    size = len(current)
    hours = np.where(np.isnan(delta) | gap, 0.0, delta) / _SECONDS_PER_HOUR
    same_step = _same(rows.numbers("step_index"), size) & _same(rows.numbers("cycle_index"), size)
    same_step[1:] &= np.sign(current[1:]) == np.sign(current[:-1])
    power = voltage * current
    out: dict[str, F64] = {}
    for values, charge, discharge in (
        (current, "charge_ah", "discharge_ah"),
        (power, "charge_wh", "discharge_wh"),
    ):
        mean = values.copy()
        mean[1:] = np.where(same_step[1:], (values[1:] + values[:-1]) / 2.0, values[1:])
        amount = mean * hours
        out[charge] = np.maximum(amount, 0.0)
        out[discharge] = np.maximum(-amount, 0.0)
    return out


def _new_tail(table: pa.Table, run: I64, kept: Mask) -> pa.Table:
    """The kept rows with what the next readings need of them."""
    derived = ("stuck_run", "last_delta")
    names = [name for name in _TAIL if name in table.column_names and name not in derived]
    places = pa.array(np.flatnonzero(kept))
    tail = table.select(names).take(places)
    tail = tail.append_column("stuck_run", pa.array(run[kept]))
    last = table.column("time_delta_s").combine_chunks()
    if "last_delta" in table.column_names:  # a reading kept from before has no delta now
        last = pc.coalesce(last, table.column("last_delta").combine_chunks())
    return tail.append_column("last_delta", last.take(places))
