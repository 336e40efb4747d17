"""Simulate lithium-ion cells under CC-CV cycling, any cycle on its own, in closed form.

A cell is two electrodes, a series resistance and one RC pair:

    V(t) = U_p(y) - U_n(x) + I R0 + V_rc,   x = q / Q_n,   y = (L - q) / Q_p

where q (Ah) is the lithium in the graphite, Q_n and Q_p (Ah) the electrodes' capacities and L (Ah)
the lithium that can still travel. Electrode potentials come from the multi-species multi-reaction
(MSMR) form, x(U) = sum_j X_j / (1 + exp(F (U - U_j) / (R T w_j))): every reaction is a peak of
dQ/dV. Graphite's six reactions are those of Verbrugge et al., J. Electrochem. Soc. 164 (2017)
E3243; the LiCoO2-like positive's are this project's own, placed where LiCoO2 shows its plateau
(3.9 V) and its order-disorder pair (4.06 and 4.17 V against lithium).

Ageing follows the usual degradation modes (Birkl et al., J. Power Sources 341 (2017) 373): loss of
lithium (root of cycles + linear + a knee), loss of active material, growth of both resistances.
Because every step at constant current has a closed form and the charge limits of a cycle follow
from its own parameters, no cycle waits for the one before: arrays run over cells and cycles.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

V_MIN: Final = 2.7
V_MAX: Final = 4.2
CHARGE_C: Final = 0.5  # constant-current charge, in multiples of nominal Ah per hour
CUTOFF_C: Final = 0.05  # the constant-voltage step ends here
DISCHARGE_C: Final = 1.0
REST_S: Final = 600.0
END_OF_LIFE: Final = 0.8  # of nominal capacity
CYCLES_PER_TEST: Final = 50  # cyclers start a new test, with new counters, after so many
STEPS: Final = 5  # CC charge, CV charge, rest, CC discharge, rest
CC_CHARGE, CV_CHARGE, REST_FULL, CC_DISCHARGE, REST_EMPTY = range(STEPS)

_F_RT: Final = 38.92  # 1/V at 25 degrees C
_NEGATIVE: Final = (  # U_j (V), X_j, w_j
    (0.08843, 0.43336, 0.08611),
    (0.12799, 0.23963, 0.08009),
    (0.14331, 0.15018, 0.72469),
    (0.16984, 0.05462, 2.53277),
    (0.21446, 0.06744, 0.09470),
    (0.36325, 0.05476, 5.97354),
)
_POSITIVE: Final = (
    (3.620, 0.06, 4.00),
    (3.905, 0.22, 0.50),
    (3.960, 0.13, 1.60),
    (4.060, 0.09, 0.65),
    (4.170, 0.09, 0.50),
    (4.420, 0.41, 1.80),
)
# Per nominal Ah, such that a fresh average cell discharges its nominal capacity at 1C
# (`test_fresh_cells_have_their_nominal_capacity` holds this together with the potentials).
_SCALE: Final = 0.975
_QP: Final = 1.76 * _SCALE
_QN: Final = 1.10 * _SCALE
_LITHIUM: Final = 1.73 * _SCALE
_R0: Final = 0.090  # ohm x Ah: a 2 Ah cell has 45 milliohm
_R1: Final = 0.050
_TAU_S: Final = 40.0
_EFFICIENCY: Final = 0.9995  # share of the charge that becomes lithium in the graphite
_HEAT_OHM: Final = 24.0  # K Ah / W: a 2 Ah cell warms by 12 K per watt
_TAU_HEAT_S: Final = 700.0
_MOST_LOST: Final = 0.70  # where fading levels off, so that a cell never becomes impossible
_FIRST_S: Final = (1.0, 10.0, 30.0)  # extra readings after the load step, as for a resistance pulse


class _Potential:
    """An electrode's potential over its filling, tabulated: value and integral, O(1) a point."""

    POINTS: Final = 8192

    def __init__(self, reactions: tuple[tuple[float, float, float], ...]) -> None:
        u = np.linspace(-1.0, 6.0, 70_001)
        centre, share, width = (np.array(c) for c in zip(*reactions, strict=True))
        z = np.clip(_F_RT * (u[:, None] - centre) / width, -500.0, 500.0)
        filling = (share / share.sum() / (1.0 + np.exp(z))).sum(axis=1)
        grid = np.linspace(0.0, 1.0, self.POINTS + 1)
        self.value: Floats = np.interp(grid, filling[::-1], u[::-1])
        self.slope: Floats = np.diff(self.value)
        areas = (self.value[:-1] + self.value[1:]) / 2.0
        self.area: Floats = np.concatenate(([0.0], np.cumsum(areas)))

    def at(self, filling: Floats) -> Floats:
        """Potential in V at a filling in 0..1; outside, the end's line goes on."""
        u = filling * self.POINTS
        i = np.clip(u.astype(np.int32), 0, self.POINTS - 1)
        return self.value[i] + self.slope[i] * (u - i)

    def both(self, filling: Floats) -> tuple[Floats, Floats]:
        """Potential (V) and its integral from empty to this filling (V x filling)."""
        u = filling * self.POINTS
        i = np.clip(u.astype(np.int32), 0, self.POINTS - 1)
        f = u - i
        value, slope = self.value[i], self.slope[i] * f
        return value + slope, (self.area[i] + f * (value + slope / 2.0)) / self.POINTS


_U_N: Final = _Potential(_NEGATIVE)
_U_P: Final = _Potential(_POSITIVE)


@dataclass(frozen=True)
class CellSpread:
    """What makes each of c cells its own: arrays of shape (c,), 1 or 0 for the average cell."""

    capacity: Floats  # factor
    resistance: Floats  # factor
    fade: Floats  # factor on every ageing rate
    knee: Floats  # cycle at which fading turns fast
    jitter: Floats  # (c, cycles): capacity scatter from cycle to cycle, share of nominal


@dataclass(frozen=True)
class CellPlan:
    """What every row of p (cell, cycle) pairs follows from; steps in the order CC … rest.

    Shapes: (p,) for per-cycle figures, (p, 5) per step, (p, n + 1) for the CV step's nodes
    (node 0 is the end of the CC step and is no reading).
    """

    nominal_ah: float
    interval_s: float
    lithium: Floats
    q_n: Floats
    q_p: Floats
    r0: Floats
    r1: Floats
    q_start: Floats  # (p, 5) Ah in the graphite at each step's start
    rows: Ints  # (p, 5) readings of each step
    duration_ms: Ints  # (p, 5)
    heat_start: Floats  # (p, 5) K above ambient at each step's start
    rc_start: Floats  # (p, 5) V over the RC pair at each step's start
    cv_ms: Ints  # (p, n + 1)
    cv_current: Floats  # (p, n + 1) A
    cv_charge: Floats  # (p, n + 1) Ah since the CV step's start
    charge_ah: Floats  # (p, 5) Ah into the cell during each step
    discharge_ah: Floats  # (p, 5)
    charge_wh: Floats  # (p, 5)
    discharge_wh: Floats  # (p, 5)

    @property
    def cycle_rows(self) -> Ints:
        """Readings of each cycle, (p,)."""
        total: Ints = self.rows.sum(axis=1)
        return total

    @property
    def cycle_ms(self) -> Ints:
        """Duration of each cycle in ms, (p,)."""
        total: Ints = self.duration_ms.sum(axis=1)
        return total


@dataclass(frozen=True)
class CellRows:
    """Noise-free readings, all (n,): n = the readings of the chosen pairs, in order.

    Counters are those since the pair's own first reading; the caller adds what came before.
    """

    pair: Ints  # position within the chosen pairs
    step: Ints  # 0..4
    step_ms: Ints  # since the step began
    cycle_ms: Ints  # since the cycle began
    voltage_v: Floats
    current_a: Floats
    charge_ah: Floats
    discharge_ah: Floats
    charge_wh: Floats
    discharge_wh: Floats
    heat_k: Floats  # above ambient


def cv_rows(interval_s: float) -> int:
    """Readings of a CV step. Cyclers log it on a change of current, so its number is fixed."""
    return int(np.clip(round(2100.0 / interval_s), 12, 2000))


def plan(
    spread: CellSpread, nominal_ah: float, interval_s: float, first_cycle: int = 0
) -> CellPlan:
    """Work out c cells over k cycles from `first_cycle` on; p = c x k pairs, cells outermost.

    `spread.jitter` is (c, k); `first_cycle` opens a test. A cycle starts at the charge at which the
    one before ended; both ends follow from the voltage limits alone, so all are solved at once. A
    test's first cycle starts empty and cool.
    """
    cells, cycles = spread.jitter.shape
    k = np.arange(first_cycle, first_cycle + cycles, dtype=np.float64)
    opens = k % CYCLES_PER_TEST == 0
    knee = spread.knee[:, None]
    # softplus: nothing before the knee, a straight line after it, about 15 cycles wide
    beyond = 15.0 * np.logaddexp(0.0, (k - knee) / 15.0)
    ageing = spread.fade[:, None]
    lost = ageing * (0.0024 * np.sqrt(k) + 1.1e-4 * k + 9.0e-4 * beyond)
    lost = lost / (1.0 + (lost / _MOST_LOST) ** 4) ** 0.25 + spread.jitter
    material = ageing * (1.0e-4 * k + 2.0e-4 * beyond)
    material = 0.30 * np.tanh(material / 0.30)
    growth = ageing * (9.0e-4 * k + 4.0e-3 * beyond)
    growth = 1.0 + 2.5 * np.tanh(growth / 2.5)

    size = (nominal_ah * spread.capacity)[:, None]
    resistance = spread.resistance[:, None] * growth / nominal_ah
    # Positive material is lost half full, and takes that lithium with it.
    lithium = (size * (_LITHIUM - lost - 0.5 * _QP * material)).ravel()
    q_p = (size * _QP * (1.0 - material)).ravel()
    q_n = (size * _QN * (1.0 - material)).ravel()
    r0, r1 = (_R0 * resistance).ravel(), (_R1 * resistance).ravel()

    def ocv(q: Floats) -> Floats:
        return _U_P.at((lithium - q) / q_p) - _U_N.at(q / q_n)

    def charge_at(voltage: Floats) -> Floats:
        low, high = np.zeros_like(q_n), np.minimum(q_n, lithium)
        for _ in range(26):
            middle = (low + high) / 2.0
            below = ocv(middle) < voltage
            low, high = np.where(below, middle, low), np.where(below, high, middle)
        return (low + high) / 2.0

    i_charge, i_cut = CHARGE_C * nominal_ah, CUTOFF_C * nominal_ah
    i_discharge = DISCHARGE_C * nominal_ah
    drop = r0 + r1  # the RC pair (40 s) is settled long before a step ends
    q_empty = charge_at(V_MIN + i_discharge * drop)
    q_full = charge_at(V_MAX - i_cut * drop)
    own = q_empty.reshape(cells, cycles)
    q_first = np.where(opens, own, np.roll(own, 1, axis=1)).ravel()
    q_cc = np.maximum(charge_at(V_MAX - i_charge * drop), q_first + 1e-3 * nominal_ah)

    # CV: nodes placed so that the current falls by about the same factor from one to the next.
    n = cv_rows(interval_s)
    ratio = CUTOFF_C / CHARGE_C
    share = (1.0 - ratio ** (np.arange(n + 1) / n)) / (1.0 - ratio)
    q_cv = q_cc[:, None] + (q_full - q_cc)[:, None] * share
    open_v = _U_P.at((lithium[:, None] - q_cv) / q_p[:, None]) - _U_N.at(q_cv / q_n[:, None])
    cv_current = np.clip((V_MAX - open_v) / drop[:, None], i_cut, i_charge)
    cv_charge = (q_cv - q_cc[:, None]) / _EFFICIENCY
    seconds = 3600.0 * np.diff(cv_charge) / ((cv_current[:, 1:] + cv_current[:, :-1]) / 2.0)
    cv_ms = np.zeros(q_cv.shape, np.int64)
    cv_ms[:, 1:] = np.rint(1000.0 * np.cumsum(seconds, axis=1))

    cc_ah = (q_cc - q_first) / _EFFICIENCY
    out_ah = q_full - q_empty
    duration = np.empty((cells * cycles, STEPS), np.int64)
    duration[:, CC_CHARGE] = np.rint(3.6e6 * cc_ah / i_charge)
    duration[:, CV_CHARGE] = cv_ms[:, -1]
    duration[:, CC_DISCHARGE] = np.rint(3.6e6 * out_ah / i_discharge)
    duration[:, (REST_FULL, REST_EMPTY)] = round(1000.0 * REST_S)
    rows = np.empty_like(duration)
    for step in range(STEPS):
        rows[:, step] = _readings(duration[:, step], len(_first(step, interval_s)), interval_s)
    rows[:, CV_CHARGE] = n

    charge_ah, discharge_ah = np.zeros(rows.shape), np.zeros(rows.shape)
    charge_ah[:, CC_CHARGE] = i_charge * duration[:, CC_CHARGE] / 3.6e6
    charge_ah[:, CV_CHARGE] = cv_charge[:, -1]
    discharge_ah[:, CC_DISCHARGE] = i_discharge * duration[:, CC_DISCHARGE] / 3.6e6

    rc_start = np.zeros(rows.shape)
    rc_start[:, CV_CHARGE] = i_charge * r1
    rc_start[:, REST_FULL] = i_cut * r1
    rc_start[:, REST_EMPTY] = -i_discharge * r1
    heat_start = _heat(duration, drop, nominal_ah, np.tile(opens, cells))
    q_start = np.stack((q_first, q_cc, q_full, q_full, q_empty), axis=1)

    charge_wh, discharge_wh = np.zeros(rows.shape), np.zeros(rows.shape)
    charge_wh[:, CV_CHARGE] = V_MAX * cv_charge[:, -1]
    for step, current, target in (
        (CC_CHARGE, i_charge, charge_wh),
        (CC_DISCHARGE, -i_discharge, discharge_wh),
    ):
        q0 = q_start[:, step]
        t = duration[:, step] / 1000.0
        q = q0 + _graphite_rate(current) * t
        _, n0 = _U_N.both(q0 / q_n)
        _, p0 = _U_P.both((lithium - q0) / q_p)
        _, n1 = _U_N.both(q / q_n)
        _, p1 = _U_P.both((lithium - q) / q_p)
        open_wh = (q_p * (p0 - p1) - q_n * (n1 - n0)) * (current / _graphite_rate(current) / 3600.0)
        settled = 1.0 - np.exp(-t / _TAU_S)
        loss = current * (r0 + r1) * t + (rc_start[:, step] - current * r1) * _TAU_S * settled
        target[:, step] = np.abs(open_wh + current * loss / 3600.0)

    return CellPlan(
        nominal_ah=nominal_ah,
        interval_s=interval_s,
        lithium=lithium,
        q_n=q_n,
        q_p=q_p,
        r0=r0,
        r1=r1,
        q_start=q_start,
        rows=rows,
        duration_ms=duration,
        heat_start=heat_start,
        rc_start=rc_start,
        cv_ms=cv_ms,
        cv_current=cv_current,
        cv_charge=cv_charge,
        charge_ah=charge_ah,
        discharge_ah=discharge_ah,
        charge_wh=charge_wh,
        discharge_wh=discharge_wh,
    )


def rows(plan: CellPlan, pairs: Ints, most: Ints) -> CellRows:
    """The first `most` (p,) readings of each chosen pair (positions into the plan), in order.

    A step's readings stand at 1 s (the load step also at 10 and 30 s), at every whole interval and
    at its end; the CV step's at its nodes.
    """
    full = plan.rows[pairs]
    earlier = np.cumsum(full, axis=1) - full
    kept = np.clip(most[:, None] - earlier, 0, full)
    counts = kept.ravel()
    starts = np.cumsum(counts) - counts
    total = int(counts.sum())
    segment = np.repeat(np.arange(counts.size), counts)
    j = np.arange(total) - starts[segment]
    pair, step = np.divmod(segment, STEPS)
    source = pairs[pair]

    interval = plan.interval_s
    early = np.zeros((STEPS, len(_FIRST_S)))
    early_n = np.zeros(STEPS, np.int64)
    for s in range(STEPS):
        first = _first(s, interval)
        early[s, : len(first)], early_n[s] = first, len(first)
    ordinal = j - early_n[step]
    t = (ordinal + 1) * interval
    is_early = np.flatnonzero(ordinal < 0)
    t[is_early] = early[step[is_early], j[is_early]]
    step_ms = np.rint(1000.0 * t).astype(np.int64)
    whole = (kept == full).ravel()
    step_ms[(starts + counts - 1)[whole]] = plan.duration_ms[pairs].ravel()[whole]
    in_cv = np.flatnonzero(step == CV_CHARGE)
    node = (source[in_cv], j[in_cv] + 1)
    step_ms[in_cv] = plan.cv_ms[node]
    t = step_ms / 1000.0

    def per_step(values: Floats) -> Floats:
        taken: Floats = values[pairs].ravel()[segment]
        return taken

    load = np.array([CHARGE_C, 0.0, 0.0, -DISCHARGE_C, 0.0]) * plan.nominal_ah
    rate = np.array([_graphite_rate(i) for i in load])
    current = load[step]
    q_n, q_p, lithium = plan.q_n[source], plan.q_p[source], plan.lithium[source]
    r0, r1 = plan.r0[source], plan.r1[source]
    q0 = plan.q_start[pairs].ravel()
    q = q0[segment] + rate[step] * t
    u_n, n1 = _U_N.both(q / q_n)
    u_p, p1 = _U_P.both((lithium - q) / q_p)

    # Integrals at the step's start: few, so looked up once per step and spread over its rows.
    q_n5, q_p5 = np.repeat(plan.q_n[pairs], STEPS), np.repeat(plan.q_p[pairs], STEPS)
    _, n0 = _U_N.both(q0 / q_n5)
    _, p0 = _U_P.both((np.repeat(plan.lithium[pairs], STEPS) - q0) / q_p5)
    decay = np.exp(-t / _TAU_S)
    rc_change = per_step(plan.rc_start) - current * r1
    voltage = u_p - u_n + current * (r0 + r1) + rc_change * decay

    worth = np.array([1.0 / _EFFICIENCY, 0.0, 0.0, 1.0, 0.0])  # terminal Ah per Ah of lithium
    energy = worth[step] * (q_p * (p0[segment] - p1) - q_n * (n1 - n0[segment]))
    loss = current * (r0 + r1) * t + rc_change * (_TAU_S * (1.0 - decay))
    energy = np.abs(energy + current * loss / 3600.0)

    voltage[in_cv] = V_MAX
    current[in_cv] = plan.cv_current[node]
    charge = np.maximum(current, 0.0) * t / 3600.0
    charge[in_cv] = plan.cv_charge[node]
    energy[in_cv] = V_MAX * charge[in_cv]
    out = np.maximum(-current, 0.0) * t / 3600.0

    warm = np.exp(-t / _TAU_HEAT_S)
    settled = current * current * ((r0 + r1) * (_HEAT_OHM / plan.nominal_ah))
    heat = settled + (per_step(plan.heat_start) - settled) * warm

    # Counters since the cycle began: what the steps before have moved, plus this step's part.
    charging, discharging = step <= CV_CHARGE, step == CC_DISCHARGE
    return CellRows(
        pair=pair,
        step=step,
        step_ms=step_ms,
        cycle_ms=step_ms + _before(plan.duration_ms[pairs])[segment],
        voltage_v=voltage,
        current_a=current,
        charge_ah=charge + _before(plan.charge_ah[pairs])[segment],
        discharge_ah=out + _before(plan.discharge_ah[pairs])[segment],
        charge_wh=np.where(charging, energy, 0.0) + _before(plan.charge_wh[pairs])[segment],
        discharge_wh=np.where(discharging, energy, 0.0)
        + _before(plan.discharge_wh[pairs])[segment],
        heat_k=heat,
    )


def _graphite_rate(current: float) -> float:
    """Ah per second that reach the graphite: side reactions take their part of a charge."""
    return current * (_EFFICIENCY if current > 0.0 else 1.0) / 3600.0


def _first(step: int, interval_s: float) -> tuple[float, ...]:
    """Seconds of a step's readings before its first whole interval."""
    if step == CV_CHARGE:
        return ()
    wanted = _FIRST_S if step == CC_DISCHARGE else _FIRST_S[:1]
    return tuple(s for s in wanted if s < interval_s)


def _readings(duration_ms: Ints, early: int, interval_s: float) -> Ints:
    """Readings of a step: the early ones, whole intervals until 0.5 s before its end, its end."""
    whole = np.ceil((duration_ms / 1000.0 - 0.5) / interval_s).astype(np.int64) - 1
    return early + np.maximum(whole, 0) + 1


def _before(per_step: NDArray[Any]) -> NDArray[Any]:
    """Sum over a cycle's earlier steps, flat in step order."""
    total: NDArray[Any] = (np.cumsum(per_step, axis=1) - per_step).ravel()
    return total


def _heat(duration_ms: Ints, drop: Floats, nominal_ah: float, opens: NDArray[np.bool_]) -> Floats:
    """K above ambient at each step's start, (p, 5): a first-order lag behind I^2 R.

    The discharge lasts many time constants, so a cycle's last heat depends on that cycle alone.
    """
    keep = np.exp(-duration_ms / (1000.0 * _TAU_HEAT_S))
    load = np.array([CHARGE_C, CUTOFF_C, 0.0, DISCHARGE_C, 0.0]) * nominal_ah
    settled = (load * load) * (drop[:, None] * (_HEAT_OHM / nominal_ah))
    last = settled[:, CC_DISCHARGE] * (1.0 - keep[:, CC_DISCHARGE]) * keep[:, REST_EMPTY]
    start = np.zeros(duration_ms.shape)
    start[:, 0] = np.where(opens, 0.0, np.roll(last, 1))  # a cell's first cycle opens a test
    for step in range(STEPS - 1):
        start[:, step + 1] = settled[:, step] + (start[:, step] - settled[:, step]) * keep[:, step]
    return start
