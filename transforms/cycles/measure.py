"""What each reading of a cell adds to its cycle: intervals, gaps, steps, charge and energy.

The definitions are those of the models: int_reading_sequence for intervals, gaps and steps,
battery_features for what counters gained and what the current's integral gives.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from schemas.profiles import Profile
from schemas.reading import COUNTERS
from transforms.cycles.steps import REST

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

# As dbt_project.yml has them (tests/transforms/cycles compares): rest_current_fraction,
# gap_interval_factor, counter_restart_share, counter_flow_factor.
REST_CURRENT = 0.005
_GAP_INTERVALS = 4.0
_RESTART_SHARE = 0.5
_FLOW_FACTOR = 1.5
_NOISE = 1e-6
_HOUR_S = 3600.0


class CellLimits:
    """The profiles' values for cells, by the index that `transforms.limits.Limits` gives; NaN: not set."""

    def __init__(self, profiles: tuple[Profile, ...]) -> None:
        self.nominal_ah = _column(p.nominal_capacity_ah for p in profiles)
        self.v_min = _column(p.v_min_v for p in profiles)
        self.v_max = _column(p.v_max_v for p in profiles)
        self.cutoff_a = _column(p.cutoff_current_a for p in profiles)
        self.gap_s = _column(p.gap_s for p in profiles)
        self.gap_cv_s = _column(p.gap_cv_s for p in profiles)
        rated = _column(p.rated_current_a for p in profiles)
        self.rated_a = np.where(np.isnan(rated), self.nominal_ah, rated)
        self.end_of_life = _column(p.end_of_life_soh for p in profiles)
        self.chemistry = tuple(p.chemistry for p in profiles)


def _column(values: object) -> F64:
    return np.array([np.nan if v is None else float(v) for v in values], dtype=np.float64)  # type: ignore[attr-defined]


@dataclass
class Rows:
    """Readings of cells in the order of the models, shape (n,) each; NaN where there is no value.

    Attributes:
        test: a number per equipment and test; rows of one stand together.
        time_us: event time, microseconds since 1970.
        test_time_s, step_time_s, cycle, step: as the cycler gave them.
        voltage, current: V, A; positive charges.
        counters: by field of COUNTERS; None where the readings have no such field.
        resistance, temperature, ambient: Ohm, °C, °C; None as above.
        flags: quality flags, as bits.
        profile: index into CellLimits.
        logs_step_starts: of each test (1 per row): whether its first reading carried a current at time
            zero; NaN where the rows themselves begin with it.
        largest_current: of the cell so far, A, for cells whose profile names no current.
    """

    test: I64
    time_us: I64
    test_time_s: F64
    step_time_s: F64
    cycle: F64
    step: F64
    voltage: F64
    current: F64
    counters: dict[str, F64 | None]
    resistance: F64 | None
    temperature: F64 | None
    ambient: F64 | None
    flags: I64
    profile: I64
    logs_step_starts: F64
    largest_current: F64


@dataclass
class Measured:
    """What follows of each row, shape (n,) each.

    Attributes:
        first: whether it is the first row of its test.
        delta_s: since the row before it; NaN for the first.
        phase: 1 charge, 0 rest, -1 discharge.
        rest_current_a: below which the cell rests.
        step_start: whether a step begins with it.
        gap: whether readings are missing before it.
        weight_s: the time that it stands for.
        charge_ah, discharge_ah, charge_wh, discharge_wh: since the row before it, ≥ 0.
        by_counter: whether charge or discharge is what a counter gained.
        tops: by counter, its highest value since it restarted, this row included; NaN before any.
        logs_step_starts: see Rows; now known.
    """

    first: Mask
    delta_s: F64
    phase: I64
    rest_current_a: F64
    step_start: Mask
    gap: Mask
    weight_s: F64
    charge_ah: F64
    discharge_ah: F64
    charge_wh: F64
    discharge_wh: F64
    by_counter: Mask
    tops: dict[str, F64]
    logs_step_starts: Mask


def before(values: npt.NDArray[np.generic], first: Mask) -> F64:
    """The value of the row before, NaN for a first row."""
    out = np.empty(len(values))
    out[1:] = values[:-1]
    out[first] = np.nan
    return out


def after(values: npt.NDArray[np.generic], first: Mask) -> F64:
    """The value of the row behind, NaN for a last row."""
    out = np.empty(len(values))
    out[:-1] = values[1:]
    out[:-1][first[1:]] = np.nan
    out[-1] = np.nan
    return out


def measure(rows: Rows, limits: CellLimits) -> Measured:
    """Measures rows; at least one."""
    first = np.ones(len(rows.test), dtype=bool)
    first[1:] = rows.test[1:] != rows.test[:-1]
    with np.errstate(invalid="ignore"):
        delta = _deltas(rows, first)
        rated = limits.rated_a[rows.profile]
        rest = REST_CURRENT * np.where(np.isnan(rated), rows.largest_current, rated)
        phase = (rows.current > rest).astype(np.int64) - (rows.current < -rest)
        step_start = _step_starts(rows, phase, first)
        gap = _gaps(rows, limits, delta, step_start, first)
        decay = _decays(rows, delta, phase, step_start, first)
        logs = _logs_step_starts(rows, phase, first)
        kept = np.where(gap | np.isnan(delta), 0.0, delta)
        behind = after(kept, first)
        weight = (kept + np.where(np.isnan(behind), 0.0, behind)) / 2.0
        lead = _lead_s(rows, delta, first)
        own = np.fmin(
            delta,
            np.where(np.isnan(rows.step_time_s), np.where(logs, 0.0, delta), rows.step_time_s),
        )
        integral = _Integral(delta, lead, own, gap, step_start, decay, first)
        gains = {name: _gained(rows, name, delta, lead, first) for name in COUNTERS}
    out: dict[str, F64] = {}
    power = rows.voltage * rows.current
    for name, values in (
        ("charge_capacity_ah", rows.current),
        ("discharge_capacity_ah", -rows.current),
        ("charge_energy_wh", power),
        ("discharge_energy_wh", -power),
    ):
        gained, has, _ = gains[name]
        out[name] = np.where(has, gained, integral(values)) if not has.all() else gained
    return Measured(
        first=first,
        delta_s=delta,
        phase=phase,
        rest_current_a=rest,
        step_start=step_start,
        gap=gap,
        weight_s=weight,
        charge_ah=out["charge_capacity_ah"],
        discharge_ah=out["discharge_capacity_ah"],
        charge_wh=out["charge_energy_wh"],
        discharge_wh=out["discharge_energy_wh"],
        by_counter=gains["charge_capacity_ah"][1] | gains["discharge_capacity_ah"][1],
        tops={name: gains[name][2] for name in COUNTERS},
        logs_step_starts=logs,
    )


def _deltas(rows: Rows, first: Mask) -> F64:
    elapsed = rows.test_time_s - before(rows.test_time_s, first)
    clock = np.full(len(first), np.nan)
    clock[1:] = (rows.time_us[1:] - rows.time_us[:-1]) / 1e6
    clock[first] = np.nan
    return np.where(elapsed >= 0, elapsed, clock)


def _step_starts(rows: Rows, phase: I64, first: Mask) -> Mask:
    cycle, step = before(rows.cycle, first), before(rows.step, first)
    changed: Mask = first | (rows.step_time_s < before(rows.step_time_s, first))
    changed |= (rows.cycle != cycle) & ~np.isnan(rows.cycle) & ~np.isnan(cycle)
    changed |= (rows.step != step) & ~np.isnan(rows.step) & ~np.isnan(step)
    changed |= np.isnan(rows.step) & (phase != before(phase, first))
    return changed


def _logs_step_starts(rows: Rows, phase: I64, first: Mask) -> Mask:
    """Of each row's test; see `Rows`."""
    number = np.cumsum(first) - 1
    starts = np.flatnonzero(first)
    at_zero = np.nan_to_num(rows.test_time_s[starts]) == 0.0
    here = at_zero & (phase[starts] != REST)
    told = rows.logs_step_starts[starts]
    known = np.where(np.isnan(told), here, told != 0)
    return np.asarray(known[number])


def _lead_s(rows: Rows, delta: F64, first: Mask) -> F64:
    """Of a test's first reading: seconds since the test began, if that is about one interval."""
    lead = np.full(len(first), np.nan)
    starts = np.flatnonzero(first)
    since = np.where(
        np.isnan(rows.test_time_s[starts]), rows.step_time_s[starts], rows.test_time_s[starts]
    )
    ends = np.append(starts[1:], len(first))
    for place, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
        # Rows that go on with a test begin with what came before the cycle.
        if since[place] > 0.0 and end > start + 1:
            interval = float(np.median(delta[start + 1 : end]))
            if since[place] <= _GAP_INTERVALS * interval:
                lead[start] = since[place]
    return lead


def _median_by(group: I64, values: F64) -> tuple[F64, I64]:
    """Median and count of the values that are not NaN, per group 0…g-1."""
    groups = int(group.max()) + 1
    known = ~np.isnan(values)
    count = np.bincount(group[known], minlength=groups)
    order = np.lexsort((values[known], group[known]))
    ordered = values[known][order]
    begin = np.cumsum(count) - count
    out = np.full(groups, np.nan)
    some = count > 0
    low = begin[some] + (count[some] - 1) // 2
    high = begin[some] + count[some] // 2
    out[some] = (ordered[low] + ordered[high]) / 2.0
    return out, count


def _gaps(rows: Rows, limits: CellLimits, delta: F64, step_start: Mask, first: Mask) -> Mask:
    near_top = (rows.current > 0) & (rows.voltage >= limits.v_max[rows.profile] - 0.05)
    held = near_top & (before(near_top, first) == 1.0)
    longest = np.where(held, limits.gap_cv_s[rows.profile], limits.gap_s[rows.profile])
    candidate: Mask = delta > longest
    if not candidate.any():
        return candidate
    run = np.cumsum(step_start) - 1
    test = np.cumsum(first) - 1
    dv = np.where(step_start, np.nan, np.abs(rows.voltage - before(rows.voltage, first)))
    di = np.where(step_start, np.nan, np.abs(rows.current - before(rows.current, first)))
    usual, count = _median_by(run, delta)
    usual_s = np.where(count[run] >= 3, usual[run], _median_by(test, delta)[0][test])
    usual_dv, usual_di = _median_by(run, dv)[0][run], _median_by(run, di)[0][run]
    earlier, later = before(delta, first), after(delta, first)
    step_before = np.where(step_start, np.nan, earlier)
    step_after = np.where(after(step_start, first) == 0.0, later, np.nan)
    steady = di <= 0.05 * np.abs(rows.current)
    by_voltage = (dv >= 0.3 * usual_dv) & (dv <= 3.0 * usual_dv) & (usual_dv > 0.0) & steady
    by_current = (di >= 0.3 * usual_di) & (di <= 3.0 * usual_di) & (usual_di > 0.0) & (dv <= 0.005)
    widest = np.fmax(np.nan_to_num(step_before), np.nan_to_num(step_after))
    as_around = (delta <= _GAP_INTERVALS * widest) & steady
    at_start = step_start & (delta <= _GAP_INTERVALS * earlier) & (delta <= _GAP_INTERVALS * later)
    gap: Mask = candidate & (delta > _GAP_INTERVALS * usual_s)
    gap &= ~by_voltage & ~by_current & ~as_around & ~at_start
    return gap


def _decays(rows: Rows, delta: F64, phase: I64, step_start: Mask, first: Mask) -> Mask:
    """Where a held voltage lets the current decay over the interval."""
    size = np.abs(rows.current)
    size_before = before(size, first)
    goes_on = after(step_start, first) == 0.0
    size_after = np.where(goes_on, after(size, first), np.nan)
    delta_after = np.where(goes_on, after(delta, first), np.nan)
    at_start = (size - size_after) * delta >= 0.05 * (size_before - size) * delta_after
    within = np.abs(rows.voltage - before(rows.voltage, first)) <= 0.005
    falls = (phase != REST) & (phase == before(phase, first)) & (size < size_before)
    return np.asarray(falls & np.where(step_start, at_start, within))


class _Integral:
    """Integrates the positive part of values over each row's interval, in value hours."""

    def __init__(
        self, delta: F64, lead: F64, own: F64, gap: Mask, step_start: Mask, decay: Mask, first: Mask
    ) -> None:
        self._delta, self._own, self._gap = delta, own, gap
        self._lead = np.nan_to_num(lead)
        self._step_start, self._decay, self._first = step_start, decay, first

    def __call__(self, values: F64) -> F64:
        now = np.maximum(values, 0.0)
        earlier = before(values, self._first)
        was = np.maximum(np.nan_to_num(earlier), 0.0)
        mean = (now + was) / 2.0
        with np.errstate(invalid="ignore", divide="ignore"):
            curved = self._decay & (values > 0.0) & (earlier > 1.02 * values)
            if curved.any():
                a, b = earlier[curved], values[curved]
                mean[curved] = (a - b) / np.log(np.maximum(a, 1e-9) / np.maximum(b, 1e-9))
            head = np.where(self._decay, mean, now) * self._own + was * (self._delta - self._own)
            amount = np.where(self._step_start, head, mean * self._delta)
        amount = np.where(self._gap, 0.0, amount)
        return np.where(np.isnan(self._delta), now * self._lead, amount) / _HOUR_S


def _gained(rows: Rows, name: str, delta: F64, lead: F64, first: Mask) -> tuple[F64, Mask, F64]:
    """What a counter gained up to each row, whether the test has the counter, and its tops."""
    size = len(first)
    values = rows.counters[name]
    if values is None:
        none = np.full(size, np.nan)
        return np.zeros(size), np.zeros(size, dtype=bool), none
    known = ~np.isnan(values)
    starts = np.flatnonzero(first)
    number = np.cumsum(first) - 1
    has = np.maximum.reduceat(np.where(known, values, 0.0), starts) > 0
    previous = _last_known(values, first)
    first_known = known & np.isnan(previous)
    gain = np.where(known, np.maximum(values - previous, 0.0), 0.0)
    # Where the counter never falls, the last known value is the highest.
    tops = np.where(known, values, previous)
    falls = known & (values < previous)
    if falls.any():
        energy = name.endswith("_wh")
        flow = _flows(rows, delta, first, energy)
        for test in np.unique(number[falls]).tolist():
            start = starts[test]
            end = starts[test + 1] if test + 1 < len(starts) else size
            part = slice(start, end)
            gain[part], tops[part] = _gains_with_falls(values[part], flow[part])
    if first_known.any():
        amount = (
            np.abs(rows.voltage * rows.current) if name.endswith("_wh") else np.abs(rows.current)
        )
        since = np.where(np.isnan(rows.test_time_s), rows.step_time_s, rows.test_time_s)
        may = np.where(first, amount * since / _HOUR_S, np.nan)
        near = ~np.isnan(lead) | (values >= may / _FLOW_FACTOR)
        counts = (values <= _FLOW_FACTOR * may + _NOISE) & near
        gain[first_known] = np.where(counts[first_known], values[first_known], 0.0)
    return gain, has[number], tops


def _last_known(values: F64, first: Mask) -> F64:
    """The last known value before each row, of its test."""
    place = np.where(np.isnan(values), -1, np.arange(len(values)))
    begin = np.maximum.accumulate(np.where(first, np.arange(len(values)), 0))
    last = np.maximum.accumulate(place)
    out = np.full(len(values), np.nan)
    earlier = np.full(len(values), -1)
    earlier[1:] = last[:-1]
    there = earlier >= begin
    out[there] = values[earlier[there]]
    return out


def _flows(rows: Rows, delta: F64, first: Mask, energy: bool) -> F64:
    """What may have flowed in each row's interval, in either direction, in Ah or Wh."""
    amount = np.abs(rows.voltage * rows.current) if energy else np.abs(rows.current)
    larger = np.fmax(amount, before(amount, first))
    return np.asarray(np.nan_to_num(larger * delta) / _HOUR_S)


def _gains_with_falls(values: F64, flow: F64) -> tuple[F64, F64]:
    """Gains and tops of one test whose counter falls somewhere; see `_gained`."""
    known = np.flatnonzero(~np.isnan(values))
    value = values[known]
    so_far = np.cumsum(flow)[known]
    previous = np.append(np.nan, value[:-1])
    flowed = np.append(np.nan, np.diff(so_far))
    behind = np.append(value[1:], np.nan)
    flows_next = np.append(np.diff(so_far), np.nan)
    falls = value < previous - _NOISE
    like_restart = (value <= _RESTART_SHARE * previous) | (value <= _FLOW_FACTOR * flowed + _NOISE)
    comes_back = (
        (behind - value > _FLOW_FACTOR * flows_next + _NOISE)
        & (behind >= previous - _NOISE)
        & (behind <= previous + _FLOW_FACTOR * (flowed + flows_next) + _NOISE)
    )
    restarted = falls & like_restart & ~comes_back
    top = np.empty(len(value))
    gain = np.zeros(len(value))
    begins = np.flatnonzero(restarted)
    for start, end in zip(
        np.append(0, begins).tolist(), np.append(begins, len(value)).tolist(), strict=True
    ):
        if start == end:
            continue
        run = value[start:end]
        highest = np.maximum.accumulate(run)
        top[start:end] = highest
        gain[start + 1 : end] = np.maximum(run[1:] - highest[:-1], 0.0)
        if start in begins:
            gain[start] = run[0]
    gains = np.zeros(len(values))
    gains[known] = gain
    tops = np.full(len(values), np.nan)
    tops[known] = top
    filled = _last_known(tops, np.append(True, np.zeros(len(values) - 1, dtype=bool)))
    return gains, np.where(np.isnan(tops), filled, tops)
