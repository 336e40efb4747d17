"""Which cycles have ended, and which readings have to wait: those of the open cycle.

Readings of cycles that ended within the allowed lateness wait, too: one that comes late corrects its
cycle. So state is bounded by the readings of a cell's current and last cycles, and by MOST_READINGS.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from schemas.profiles import Profile
from schemas.reading import COUNTERS
from transforms.batch import stack
from transforms.cycles import rows as row_columns
from transforms.cycles import swings
from transforms.cycles.measure import (
    F64,
    I64,
    CellLimits,
    Mask,
    Measured,
    Rows,
    before,
    measure,
)  # fmt: skip
from transforms.cycles.noise import Noise
from transforms.cycles.steps import Readings
from transforms.cycles.swings import Level
from transforms.limits import codes

# Of one cell's open cycle: a cycle of 11 days at a reading a second.
MOST_READINGS = 1_000_000
# So many readings before a cycle tell its first intervals, and how fast the voltage moved.
_CONTEXT = 31
# A level must move back by this share of the least swing before it is worth looking for a turn.
_WORTH_LOOKING = 0.5
# By then the grid has noticed a turn.
_NOTICED = 2.5
_NEVER_US = -(2**62)
# More than this between two readings is no interval that a current lasted for.
_LONGEST_S = 3600.0


# Neither changes: all new cells share them.
_BEGINNING, _UNSEEN = Level(), Noise()


class Emitted(NamedTuple):
    """A cycle that has been given on and whose readings still wait.

    Attributes:
        test_id, restarts, cycle: which one it is.
        version: how often it was given on.
        digest: of its readings.
        number: its place in the cell's life.
        throughput_ah: before it.
    """

    test_id: str | None
    restarts: int
    cycle: int
    version: int
    digest: str
    number: int
    throughput_ah: float


@dataclass(slots=True)
class Head:
    """What is known of a cell, beside the readings that wait.

    Attributes:
        test_id, cycle: of its last reading; the cycle is NaN where the cycler gives none.
        last_us: that reading's time.
        restarts: of the first reading that waits.
        number: of the first cycle that waits, counted from 1.
        throughput_ah: of the cycles before it.
        is_whole: whether the first cycle that waits has been seen from its beginning.
        logs_step_starts: of the first waiting reading's test; NaN if that is its first reading.
        largest_a: the largest current of the cell so far.
        level: where the level stood before the first cycle that waits.
        moved_ah, low_ah, high_ah: how far the level has gone, where cycles have no number.
        look_at: how far it must come back, in least swings, before it is looked at.
        waiting: readings.
        noise: of its voltage.
        emitted: cycles that have been given on and still wait.
    """

    test_id: str | None = None
    cycle: float = np.nan
    last_us: int = _NEVER_US
    restarts: int = 0
    number: int = 1
    throughput_ah: float = 0.0
    is_whole: bool = True
    logs_step_starts: float = np.nan
    largest_a: float = 0.0
    level: Level = _BEGINNING
    moved_ah: float = 0.0
    low_ah: float = 0.0
    high_ah: float = 0.0
    look_at: float = _WORTH_LOOKING
    waiting: int = 0
    noise: Noise = _UNSEEN
    emitted: tuple[Emitted, ...] = ()


@dataclass(frozen=True)
class Cycle:
    """A cycle that has ended: rows `start` to `end` (exclusive) of `Ended.rows`.

    Attributes:
        equipment_id, test_id, restarts, cycle, number: which one it is.
        version: 1, then one more with each correction.
        digest: of its readings, hexadecimal.
        is_derived: whether the cycler gave no cycle number.
        is_ended: False where the input ended first.
        is_whole: whether all of it was seen.
        throughput_ah: of the cycles before it.
        noise: of the cell's voltage, with this cycle's.
    """

    equipment_id: str
    test_id: str | None
    restarts: int
    cycle: int
    number: int
    version: int
    digest: str
    is_derived: bool
    is_ended: bool
    is_whole: bool
    throughput_ah: float
    noise: Noise
    start: int
    end: int


@dataclass(frozen=True)
class Ended:
    """Cycles that have ended, with the readings in which they lie."""

    cycles: list[Cycle]
    rows: Rows
    measured: Measured
    numbers: I64  # of each row in its test, from 1; more where only context is before it

    def readings(self, cycle: Cycle) -> Readings:
        """The readings of one cycle, with those before it that are there, for its kernels."""
        begin = max(0, cycle.start - _CONTEXT)
        while self.rows.test[begin] != self.rows.test[cycle.start]:
            begin += 1
        return readings_of(
            self.rows, self.measured, self._step_runs, self.numbers, (begin, cycle.start, cycle.end)
        )

    @cached_property
    def _step_runs(self) -> I64:
        return np.cumsum(self.measured.step_start)


def readings_of(
    rows: Rows, measured: Measured, step_runs: I64, numbers: I64, places: tuple[int, int, int]
) -> Readings:
    """Rows in the form that the kernels of a cycle take.

    Args:
        rows: the readings.
        measured: what follows of each.
        step_runs: a number per step, of each row.
        numbers: of each row in its test.
        places: the first of the readings before the cycle, the cycle's first one, and behind its last.
    """
    begin, start, end = places
    part = slice(begin, end)
    step_time = rows.step_time_s[part]
    numbered = ~np.isnan(rows.step[part])
    return Readings(
        first=start - begin,
        reading_seq=numbers[part],
        step_run=step_runs[part],
        recorded_s=(rows.time_us[part] - rows.time_us[begin]) / 1e6,
        time_delta_s=measured.delta_s[part],
        step_time_s=None if np.isnan(step_time).all() else step_time,
        voltage_v=rows.voltage[part],
        current_a=rows.current[part],
        dq_charge_ah=measured.charge_ah[part],
        dq_discharge_ah=measured.discharge_ah[part],
        is_gap=measured.gap[part],
        is_numbered=None if numbered.all() else numbered,
    )


class OpenCycles:
    """The cycles of one shard's cells that go on.

    Args:
        profiles: of the equipments.
        keep_us: so long after its end a cycle can be corrected.
        bounded: whether the input has a beginning: then the first cycle is seen from there.
    """

    def __init__(self, profiles: Sequence[Profile], keep_us: int, bounded: bool) -> None:
        self._limits = CellLimits(tuple(profiles))
        self._keep_us = keep_us
        self._bounded = bounded
        self.heads: dict[str, Head] = {}
        self.pieces: list[pa.Table] = []

    @property
    def limits(self) -> CellLimits:
        """The profiles' values."""
        return self._limits

    def worth_looking(self, table: pa.Table) -> set[str]:
        """Notes new readings; returns the cells of which a cycle may have ended.

        Args:
            table: `rows.of_cells` of readings in order of equipment and test.
        """
        runs = _Runs(table)
        profile = np.asarray(table.column("profile").to_numpy())[runs.starts].astype(np.int64)
        nominal = self._limits.nominal_ah[profile].tolist()
        found = set()
        for run, name in enumerate(runs.names):
            head = self.heads.get(name)
            if head is None:
                head = self.heads[name] = Head()
                head.test_id, head.cycle = runs.first_test(run), runs.lowest[run]
                head.is_whole = self._bounded or runs.begins[run]
            new = runs.sizes[run]
            if (
                runs.earliest_us[run] < head.last_us
                or runs.is_mixed[run]
                or runs.first_test(run) != head.test_id
                or runs.moves_on(run, head.cycle)
                or head.waiting + new > MOST_READINGS
            ):
                found.add(name)
            head.largest_a = max(head.largest_a, runs.largest_a[run])
            if runs.has_no_cycle[run] and self._turns(
                head, runs.net_ah(run, head.last_us), nominal[run]
            ):
                found.add(name)
            head.waiting += new
            if runs.latest_us[run] >= head.last_us:
                head.last_us = runs.latest_us[run]
                head.test_id = runs.last_test(run)
                if not runs.has_no_cycle[run]:
                    head.cycle = runs.last_cycle[run]
        return found

    def _turns(self, head: Head, net_ah: F64, nominal_ah: float) -> bool:
        """Notes net charge; whether the level has come back by a share of the least swing."""
        level = head.moved_ah + np.cumsum(net_ah)
        high = np.maximum(np.maximum.accumulate(level), head.high_ah)
        low = np.minimum(np.minimum.accumulate(level), head.low_ah)
        head.moved_ah, head.high_ah, head.low_ah = float(level[-1]), float(high[-1]), float(low[-1])
        least = head.level.least_ah or swings.LEAST_SWING * (
            nominal_ah if nominal_ah > 0.0 else max(head.high_ah - head.low_ah, 1e-9)
        )
        # Many cycles may come at once, so that the last reading alone does not tell.
        back = np.minimum(high - level, level - low) / least
        if float(back.max()) < head.look_at:
            return False
        head.look_at += _WORTH_LOOKING
        if back[-1] > _NOTICED:
            head.low_ah = head.high_ah = head.moved_ah
            head.look_at = _WORTH_LOOKING
        return True

    def feed(self, table: pa.Table, horizon_us: int) -> Ended | None:
        """Takes released readings; gives the cycles that end with them.

        Args:
            table: `transforms.sequence.Sequenced.table`.
            horizon_us: before which event time is done with.
        """
        mine = row_columns.of_cells(table)
        if not mine.num_rows:
            return None
        names = self.worth_looking(mine)
        self.pieces.append(mine)
        return self.look(names, horizon_us) if names else None

    def look(self, names: set[str] | None, horizon_us: int, final: bool = False) -> Ended | None:
        """The cycles of some cells that have ended and were not given on as they are.

        Args:
            names: the cells; None: all.
            horizon_us: before which event time is done with.
            final: whether the input is over: then what goes on is given on, too, and waits for
                another run.
        """
        if not self.pieces:
            return None
        table = stack(self.pieces)
        rest: list[pa.Table] = []
        if names is not None:
            ids, which = codes(table, "equipment_id")
            wanted = np.array([name in names for name in ids.to_pylist()], dtype=bool)
            mine = wanted[which]
            if not mine.all():
                rest = [table.filter(pa.array(~mine))]
                table = table.filter(pa.array(mine)).combine_chunks()
        if not table.num_rows:
            return None
        table, equipment, test = row_columns.in_order(table)
        return self._cut(table, equipment, test, rest, horizon_us, final)

    def _cut(
        self, table: pa.Table, equipment: I64, test: I64, rest: list[pa.Table], horizon_us: int,
        final: bool,
    ) -> Ended:  # fmt: skip
        ids, which = codes(table, "equipment_id")
        heads = [self.heads.get(name) for name in ids.to_pylist()]
        first_of_cell = np.append(True, equipment[1:] != equipment[:-1])
        logs = np.full(table.num_rows, np.nan)
        largest = np.zeros(table.num_rows)
        begins = np.flatnonzero(first_of_cell)
        ends = np.append(begins[1:], table.num_rows)
        for begin, end in zip(begins.tolist(), ends.tolist(), strict=True):
            head = heads[which[begin]]
            assert head is not None
            logs[begin] = head.logs_step_starts
            largest[begin:end] = head.largest_a
        rows = row_columns.arrays(table, test, logs, largest)
        measured = measure(rows, self._limits)
        context = _flagged(table)
        high = table.column("id_high").to_numpy()
        low = table.column("id_low").to_numpy()
        tests = _texts(table, "test_id")
        cycles: list[Cycle] = []
        keep = np.zeros(table.num_rows, dtype=bool)
        marks = np.zeros(table.num_rows, dtype=bool)
        for begin, end in zip(begins.tolist(), ends.tolist(), strict=True):
            head = heads[which[begin]]
            assert head is not None
            name = ids[which[begin]].as_py()
            stretch = _Stretch(rows, measured, context, begin, end, head, self._limits, tests)
            cycles += self._of_cell(
                name, head, stretch, (high, low), horizon_us, final, keep, marks
            )
        kept = _with_tops(table, measured, marks)
        kept = kept.filter(pa.array(keep)).combine_chunks()
        self.pieces = [*rest, *([kept] if kept.num_rows else [])]
        return Ended(cycles, rows, measured, _numbers(measured, context))

    def _of_cell(
        self, name: str, head: Head, stretch: _Stretch, identity: tuple[Any, Any],
        horizon_us: int, final: bool, keep: Mask, marks: Mask,
    ) -> Iterable[Cycle]:  # fmt: skip
        """The cycles of one cell; marks in `keep` what waits, in `marks` what is only context."""
        high, low = identity
        groups = stretch.groups()
        known = {(each.test_id, each.restarts, each.cycle): each for each in head.emitted}
        emitted: list[Emitted] = []
        number, throughput = head.number, head.throughput_ah
        moved = stretch.moved_ah()
        runs = np.cumsum(stretch.measured.step_start, dtype=np.int64)
        out: list[Cycle] = []
        open_from: int | None = None
        for place, group in enumerate(groups):
            is_last = place == len(groups) - 1
            cycle = (group.test_id, group.restarts, group.cycle)
            before_ah = throughput
            is_ended = not is_last
            if is_ended or final:
                digest = _digest(high[group.start : group.end], low[group.start : group.end])
                earlier = known.get(cycle)
                version = 1 if earlier is None else earlier.version + (digest != earlier.digest)
                if earlier is None:
                    head.noise = stretch.noise(head.noise, runs, group)
                if earlier is None or digest != earlier.digest:
                    out.append(
                        Cycle(
                            name, group.test_id, group.restarts, group.cycle, number, version,
                            digest, group.is_derived, is_ended,
                            head.is_whole if place == 0 else True, before_ah, head.noise,
                            group.start, group.end,
                        )
                    )  # fmt: skip
                emitted.append(Emitted(*cycle, version, digest, number, before_ah))
            throughput += float(
                moved[group.start - stretch.begin : group.end - stretch.begin].sum()
            )
            ended_us = int(stretch.rows.time_us[group.end - 1])
            waits = not is_ended or ended_us >= horizon_us - self._keep_us
            if open_from is None and waits:
                open_from = place
                head.number, head.throughput_ah = number, before_ah
                head.emitted = ()
                stretch.begin_at(head, group, place == 0)
            number += 1
        if open_from is None:
            return out
        head.emitted = tuple(emitted[open_from:])
        start = groups[open_from].start
        if stretch.end - start > MOST_READINGS:
            # What is more than is kept is left out, and the cycle says so.
            start = stretch.end - MOST_READINGS
            head.is_whole = False
        keep[start : stretch.end] = True
        first = max(stretch.begin, start - _CONTEXT)
        same_test = stretch.rows.test[first:start] == stretch.rows.test[start]
        keep[first:start] = same_test
        marks[first:start] = same_test
        head.waiting = stretch.end - start
        return out


class _Group(NamedTuple):
    """Rows `start` to `end` (exclusive) of one cycle."""

    start: int
    end: int
    test_id: str | None
    restarts: int
    cycle: int
    is_derived: bool
    level: Level


class _Stretch:
    """All waiting rows of one cell."""

    def __init__(
        self, rows: Rows, measured: Measured, context: Mask, begin: int, end: int, head: Head,
        limits: CellLimits, tests: list[str | None] | None,
    ) -> None:  # fmt: skip
        self.rows, self.begin, self.end = rows, begin, end
        self.measured, self._head, self._limits, self._tests = measured, head, limits, tests
        self._first = begin + int(np.count_nonzero(context[begin:end]))

    def moved_ah(self) -> F64:
        """Charge in and out of each row's interval."""
        part = slice(self.begin, self.end)
        return self.measured.charge_ah[part] + self.measured.discharge_ah[part]

    def noise(self, known: Noise, runs: I64, group: _Group) -> Noise:
        """What is known of the voltage's noise, with a cycle's."""
        # The place of a reading in its test matters to nobody here.
        places = (group.start, group.start, group.end)
        readings = readings_of(self.rows, self.measured, runs, runs, places)
        rest_a = float(self.measured.rest_current_a[group.start])
        upper_v = float(self._limits.v_max[self.rows.profile[group.start]])
        return known.with_cycle(readings, rest_a, upper_v)

    def groups(self) -> list[_Group]:
        """The cycles, in order; the last one is open."""
        rows, out = self.rows, []
        first = self._first
        test = rows.test[first : self.end]
        borders = np.flatnonzero(np.append(True, test[1:] != test[:-1])) + first
        for place, start in enumerate(borders.tolist()):
            end = borders[place + 1] if place + 1 < len(borders) else self.end
            test_id = None if self._tests is None else self._tests[start]
            out += self._of_test(start, int(end), test_id, place == 0)
        return out

    def _of_test(self, start: int, end: int, test_id: str | None, is_first: bool) -> list[_Group]:
        cycle = self.rows.cycle[start:end]
        if np.isnan(cycle).all():
            return self._by_swings(start, end, test_id, is_first)
        known = np.flatnonzero(~np.isnan(cycle))
        filled = cycle.copy()
        place = np.maximum.accumulate(np.where(np.isnan(cycle), -1, np.arange(len(cycle))))
        filled = np.where(place < 0, cycle[known[0]], cycle[np.maximum(place, 0)])
        fell = np.zeros(len(filled), dtype=bool)
        fell[1:] = (filled[1:] < filled[:-1]) & (filled[1:] <= 1)
        restarts = np.cumsum(fell)
        if is_first:
            restarts += self._head.restarts
        # A cycle number that falls back otherwise belongs to the open cycle.
        high = filled + (restarts - restarts[0]) * (float(filled.max()) + 2.0)
        high = np.maximum.accumulate(high)
        borders = np.flatnonzero(np.append(True, high[1:] != high[:-1]))
        ends = np.append(borders[1:], len(high))
        return [
            _Group(start + b, start + e, test_id, int(restarts[b]), int(filled[b]), False, Level())
            for b, e in zip(borders.tolist(), ends.tolist(), strict=True)
        ]

    def _by_swings(self, start: int, end: int, test_id: str | None, is_first: bool) -> list[_Group]:
        measured, head = self.measured, self._head
        level = head.level if is_first else Level()
        part = slice(start, end)
        if level.least_ah <= 0.0:
            level = replace(level, least_ah=self._least_swing(start, end))
        phase = measured.phase[part]
        earlier = before(measured.phase, measured.first)[part]
        resting = (phase == 0) & ((earlier == 0) | np.isnan(earlier))
        net = np.where(resting, 0.0, measured.charge_ah[part] - measured.discharge_ah[part])
        found = swings.find(net, level)
        ends = [*found.starts[1:], end - start]
        return [
            _Group(start + b, start + e, test_id, 0, at.cycle, True, at)
            for b, e, at in zip(found.starts, ends, found.levels, strict=True)
        ]

    def _least_swing(self, start: int, end: int) -> float:
        """The model's least_swing_ah, of the steps so far."""
        nominal = float(self._limits.nominal_ah[self.rows.profile[start]])
        part = slice(start, end)
        new = self.measured.step_start[part].copy()
        new[0] = True
        begin = np.flatnonzero(new)
        charge = np.add.reduceat(self.measured.charge_ah[part], begin)
        discharge = np.add.reduceat(self.measured.discharge_ah[part], begin)
        step = float(np.maximum(charge, discharge).max())
        if nominal > 0.0:
            return swings.LEAST_SWING * nominal
        # A step that is not over may become the largest one.
        return swings.LEAST_SWING * step if len(begin) > 1 else 0.0

    def begin_at(self, head: Head, group: _Group, is_first: bool) -> None:
        """From now on the cell's waiting rows begin with this cycle."""
        head.restarts = group.restarts
        head.level = group.level
        if not is_first:
            head.is_whole = True
        own = self.rows.test[group.start]
        if group.start > self.begin and self.rows.test[group.start - 1] == own:
            head.logs_step_starts = float(self.measured.logs_step_starts[group.start])
        elif not is_first:
            head.logs_step_starts = np.nan
        head.moved_ah = head.low_ah = head.high_ah = 0.0
        head.look_at = _WORTH_LOOKING


def _numbers(measured: Measured, context: Mask) -> I64:
    """The number of each row in its test, from 1; at least 2 where the test began before the rows."""
    size = len(context)
    begins = np.maximum.accumulate(np.where(measured.first, np.arange(size), 0))
    numbers: I64 = np.arange(size) - begins + 1
    numbers += context[begins]
    return numbers


def _texts(table: pa.Table, name: str) -> list[str | None] | None:
    if name not in table.column_names:
        return None
    words, which = codes(table, name)
    known = words.to_pylist()
    return [known[code] for code in which.tolist()]


class _Runs:
    """What new readings say of each cell, in plain numbers: there may be very many cells.

    Rows of one cell stand together, and among them those of one test, in order of time.

    Attributes:
        starts: the first row of each cell.
        names, sizes: its name, and how many rows it has.
        earliest_us, latest_us: of its rows.
        largest_a: its largest current.
        is_mixed: whether its rows are of several tests.
        lowest, highest, last_cycle: its cycle numbers; NaN without any.
        has_no_cycle: whether its latest row has none.
        begins: whether its first row is about the first one of its test.
    """

    def __init__(self, table: pa.Table) -> None:
        ids, equipment = codes(table, "equipment_id")
        self.starts = np.flatnonzero(np.append(True, equipment[1:] != equipment[:-1]))
        ends = np.append(self.starts[1:], len(equipment))
        self._ends = ends.tolist()
        self.sizes: list[int] = (ends - self.starts).tolist()
        self.names: list[str] = ids.take(pa.array(equipment[self.starts])).to_pylist()
        times = row_columns.micros(table)
        self.earliest_us: list[int] = np.minimum.reduceat(times, self.starts).tolist()
        self.latest_us: list[int] = np.maximum.reduceat(times, self.starts).tolist()
        latest = ends - 1
        for run in np.flatnonzero(times[latest] != np.array(self.latest_us)).tolist():
            begin = int(self.starts[run])
            latest[run] = begin + int(np.argmax(times[begin : self._ends[run]]))
        current = row_columns.numbers(table, "current_a")
        assert current is not None
        self.largest_a: list[float] = np.maximum.reduceat(np.abs(current), self.starts).tolist()
        self._current = current
        self._net_ah = _flowed(current, times)
        self._tests, which = None, np.zeros(len(times), dtype=np.int64)
        if "test_id" in table.column_names:
            words, which = codes(table, "test_id")
            self._tests = words.to_pylist()
        self._first, self._last = which[self.starts].tolist(), which[latest].tolist()
        mixed = np.minimum.reduceat(which, self.starts) != np.maximum.reduceat(which, self.starts)
        self.is_mixed: list[bool] = mixed.tolist()
        cycle = row_columns.numbers(table, "cycle_index")
        if cycle is None:
            cycle = np.full(len(times), np.nan)
        self.lowest: list[float] = np.fmin.reduceat(cycle, self.starts).tolist()
        self.highest: list[float] = np.fmax.reduceat(cycle, self.starts).tolist()
        self.last_cycle: list[float] = cycle[latest].tolist()
        self.has_no_cycle: list[bool] = np.isnan(cycle[latest]).tolist()
        self.begins: list[bool] = _begins(table, self.starts).tolist()

    def first_test(self, run: int) -> str | None:
        """The test of a cell's first row."""
        return None if self._tests is None else self._tests[self._first[run]]

    def last_test(self, run: int) -> str | None:
        """The test of its latest row."""
        return None if self._tests is None else self._tests[self._last[run]]

    def moves_on(self, run: int, known: float) -> bool:
        """Whether any of its rows has another cycle number than the open one."""
        low, high = self.lowest[run], self.highest[run]
        # NaN is equal to nothing: of rows without a number none is another.
        return low == low and not (low == high == known)  # noqa: PLR0124

    def net_ah(self, run: int, last_us: int) -> F64:
        """About what flowed in the interval of each of its rows, the first since `last_us`."""
        start = int(self.starts[run])
        flowed = self._net_ah[start : self._ends[run]]
        since_s = 0.0 if last_us == _NEVER_US else (self.earliest_us[run] - last_us) / 1e6
        flowed[0] = self._current[start] * min(max(since_s, 0.0), _LONGEST_S) / 3600.0
        return flowed


def _begins(table: pa.Table, places: I64) -> Mask:
    """Whether the readings at some places are about the first ones of their tests."""

    def at_most_one(name: str) -> Mask:
        values = row_columns.numbers(table, name)
        if values is None:
            return np.zeros(len(places), dtype=bool)
        return np.asarray(values[places] <= 1.0)

    return at_most_one("test_time_s") | at_most_one("record_index")


def _flowed(current: F64, times: I64) -> F64:
    """About what flowed in each row's interval, Ah; enough to tell where the level turns."""
    seconds = np.append(0.0, np.diff(times) / 1e6)
    return np.asarray(current * np.clip(seconds, 0.0, _LONGEST_S) / 3600.0)


def _digest(high: Any, low: Any) -> str:
    """Of a cycle's readings, in any order."""
    with np.errstate(over="ignore"):
        total, both = np.add.reduce(high), np.bitwise_xor.reduce(low)
    return f"{int(total):016x}{int(both):016x}"


def _flagged(table: pa.Table) -> Mask:
    """Which rows only tell what was before a cycle."""
    if "is_context" not in table.column_names:
        return np.zeros(table.num_rows, dtype=bool)
    column = table.column("is_context")
    return np.asarray(column.fill_null(False).to_numpy()).astype(bool)


def _with_tops(table: pa.Table, measured: Measured, context: Mask) -> pa.Table:
    """The rows, where those that are context have the counters' highest values so far."""
    if "is_context" in table.column_names:
        table = table.drop_columns(["is_context"])
    if context.any():
        for name in COUNTERS:
            values = row_columns.numbers(table, name)
            if values is not None:
                values = np.where(context, measured.tops[name], values)
                place = table.column_names.index(name)
                table = table.set_column(place, name, pa.array(values, mask=np.isnan(values)))
    return table.append_column("is_context", pa.array(context))
