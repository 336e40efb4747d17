"""Plan the cycles of ageing cells: charges, durations and readings of every step.

Ageing follows the usual degradation modes (Birkl et al., J. Power Sources 341 (2017) 373): loss of
lithium (root of cycles + linear + a knee), loss of active material, growth of both resistances.
Because every step at constant current has a closed form and the charge limits of a cycle follow
from its own parameters, no cycle waits for the one before: arrays run over cells and cycles.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.sources.simulation.arrays import Floats, Ints
from pipeline.sources.simulation.cell_model import (
    CC_CHARGE,
    CC_DISCHARGE,
    CHARGE_C,
    CUTOFF_C,
    CV_CHARGE,
    CYCLES_PER_TEST,
    DISCHARGE_C,
    EFFICIENCY,
    HEAT_OHM,
    LITHIUM,
    QN,
    QP,
    R0,
    R1,
    REST_EMPTY,
    REST_FULL,
    REST_S,
    STEPS,
    TAU_HEAT_S,
    TAU_S,
    U_N,
    U_P,
    V_MAX,
    V_MIN,
    early_readings,
    graphite_rate,
)

_MOST_LOST: Final = 0.70  # where fading levels off, so that a cell never becomes impossible


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
    lithium = (size * (LITHIUM - lost - 0.5 * QP * material)).ravel()
    q_p = (size * QP * (1.0 - material)).ravel()
    q_n = (size * QN * (1.0 - material)).ravel()
    r0, r1 = (R0 * resistance).ravel(), (R1 * resistance).ravel()

    def ocv(q: Floats) -> Floats:
        return U_P.at((lithium - q) / q_p) - U_N.at(q / q_n)

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
    open_v = U_P.at((lithium[:, None] - q_cv) / q_p[:, None]) - U_N.at(q_cv / q_n[:, None])
    cv_current = np.clip((V_MAX - open_v) / drop[:, None], i_cut, i_charge)
    cv_charge = (q_cv - q_cc[:, None]) / EFFICIENCY
    seconds = 3600.0 * np.diff(cv_charge) / ((cv_current[:, 1:] + cv_current[:, :-1]) / 2.0)
    cv_ms = np.zeros(q_cv.shape, np.int64)
    cv_ms[:, 1:] = np.rint(1000.0 * np.cumsum(seconds, axis=1))

    cc_ah = (q_cc - q_first) / EFFICIENCY
    out_ah = q_full - q_empty
    duration = np.empty((cells * cycles, STEPS), np.int64)
    duration[:, CC_CHARGE] = np.rint(3.6e6 * cc_ah / i_charge)
    duration[:, CV_CHARGE] = cv_ms[:, -1]
    duration[:, CC_DISCHARGE] = np.rint(3.6e6 * out_ah / i_discharge)
    duration[:, (REST_FULL, REST_EMPTY)] = round(1000.0 * REST_S)
    rows = np.empty_like(duration)
    for step in range(STEPS):
        rows[:, step] = _readings(
            duration[:, step], len(early_readings(step, interval_s)), interval_s
        )
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
        q = q0 + graphite_rate(current) * t
        _, n0 = U_N.both(q0 / q_n)
        _, p0 = U_P.both((lithium - q0) / q_p)
        _, n1 = U_N.both(q / q_n)
        _, p1 = U_P.both((lithium - q) / q_p)
        open_wh = (q_p * (p0 - p1) - q_n * (n1 - n0)) * (current / graphite_rate(current) / 3600.0)
        settled = 1.0 - np.exp(-t / TAU_S)
        loss = current * (r0 + r1) * t + (rc_start[:, step] - current * r1) * TAU_S * settled
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


def _readings(duration_ms: Ints, early: int, interval_s: float) -> Ints:
    """Readings of a step: the early ones, whole intervals until 0.5 s before its end, its end."""
    whole = np.ceil((duration_ms / 1000.0 - 0.5) / interval_s).astype(np.int64) - 1
    return early + np.maximum(whole, 0) + 1


def _heat(duration_ms: Ints, drop: Floats, nominal_ah: float, opens: NDArray[np.bool_]) -> Floats:
    """K above ambient at each step's start, (p, 5): a first-order lag behind I^2 R.

    The discharge lasts many time constants, so a cycle's last heat depends on that cycle alone.
    """
    keep = np.exp(-duration_ms / (1000.0 * TAU_HEAT_S))
    load = np.array([CHARGE_C, CUTOFF_C, 0.0, DISCHARGE_C, 0.0]) * nominal_ah
    settled = (load * load) * (drop[:, None] * (HEAT_OHM / nominal_ah))
    last = settled[:, CC_DISCHARGE] * (1.0 - keep[:, CC_DISCHARGE]) * keep[:, REST_EMPTY]
    start = np.zeros(duration_ms.shape)
    start[:, 0] = np.where(opens, 0.0, np.roll(last, 1))  # a cell's first cycle opens a test
    for step in range(STEPS - 1):
        start[:, step + 1] = settled[:, step] + (start[:, step] - settled[:, step]) * keep[:, step]
    return start
