"""Work out the noise-free readings of planned cycles, any of them on their own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.sources.simulation.arrays import Floats, Ints
from pipeline.sources.simulation.cell_model import (
    CC_DISCHARGE,
    CHARGE_C,
    CV_CHARGE,
    DISCHARGE_C,
    EFFICIENCY,
    FIRST_S,
    HEAT_OHM,
    STEPS,
    TAU_HEAT_S,
    TAU_S,
    U_N,
    U_P,
    V_MAX,
    early_readings,
    graphite_rate,
)
from pipeline.sources.simulation.cell_plan import CellPlan


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
    early = np.zeros((STEPS, len(FIRST_S)))
    early_n = np.zeros(STEPS, np.int64)
    for s in range(STEPS):
        first = early_readings(s, interval)
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
    rate = np.array([graphite_rate(i) for i in load])
    current = load[step]
    q_n, q_p, lithium = plan.q_n[source], plan.q_p[source], plan.lithium[source]
    r0, r1 = plan.r0[source], plan.r1[source]
    q0 = plan.q_start[pairs].ravel()
    q = q0[segment] + rate[step] * t
    u_n, n1 = U_N.both(q / q_n)
    u_p, p1 = U_P.both((lithium - q) / q_p)

    # Integrals at the step's start: few, so looked up once per step and spread over its rows.
    q_n5, q_p5 = np.repeat(plan.q_n[pairs], STEPS), np.repeat(plan.q_p[pairs], STEPS)
    _, n0 = U_N.both(q0 / q_n5)
    _, p0 = U_P.both((np.repeat(plan.lithium[pairs], STEPS) - q0) / q_p5)
    decay = np.exp(-t / TAU_S)
    rc_change = per_step(plan.rc_start) - current * r1
    voltage = u_p - u_n + current * (r0 + r1) + rc_change * decay

    worth = np.array([1.0 / EFFICIENCY, 0.0, 0.0, 1.0, 0.0])  # terminal Ah per Ah of lithium
    energy = worth[step] * (q_p * (p0[segment] - p1) - q_n * (n1 - n0[segment]))
    loss = current * (r0 + r1) * t + rc_change * (TAU_S * (1.0 - decay))
    energy = np.abs(energy + current * loss / 3600.0)

    voltage[in_cv] = V_MAX
    current[in_cv] = plan.cv_current[node]
    charge = np.maximum(current, 0.0) * t / 3600.0
    charge[in_cv] = plan.cv_charge[node]
    energy[in_cv] = V_MAX * charge[in_cv]
    out = np.maximum(-current, 0.0) * t / 3600.0

    warm = np.exp(-t / TAU_HEAT_S)
    settled = current * current * ((r0 + r1) * (HEAT_OHM / plan.nominal_ah))
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


def _before(per_step: NDArray[Any]) -> NDArray[Any]:
    """Sum over a cycle's earlier steps, flat in step order."""
    total: NDArray[Any] = (np.cumsum(per_step, axis=1) - per_step).ravel()
    return total
