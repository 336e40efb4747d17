"""What is true of cells of the default's electrodes: every cycle is a full one."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np

from pipeline.sources.simulation import cell_rows, surroundings, truth_peaks
from pipeline.sources.simulation.arrays import Floats, Hashes, Ints
from pipeline.sources.simulation.cell_model import (
    CC_CHARGE,
    CC_DISCHARGE,
    CHARGE_C,
    CYCLES_PER_TEST,
    DISCHARGE_C,
    TAU_S,
    U_N,
    U_P,
    V_MAX,
    V_MIN,
    graphite_rate,
)
from pipeline.sources.simulation.cell_plan import CellPlan
from pipeline.sources.simulation.cell_sensors import CellSensors
from pipeline.sources.simulation.cells import Cells
from pipeline.sources.simulation.config import FleetConfig
from pipeline.sources.simulation.step_cell import CHARGE, DISCHARGE

_END: Final = 0.8  # of capacity: end of life


def add(
    config: FleetConfig,
    number: int,
    keys: Hashes,
    name: str,
    rows: dict[str, list[dict[str, Any]]],
) -> None:
    """Adds the rows of one cell to each of the four tables."""
    nominal = config.nominal_ah
    cells = Cells(config, keys)
    plan = cells.plan(number, number + 1, 0, config.cycles)
    smooth = cells.plan(number, number + 1, 0, config.cycles, scatter=False)
    own = keys[number : number + 1]
    sensors = CellSensors(
        config, own, number, plan, 0, config.first_ms(np.array([number])), np.zeros(1, np.int64)
    )
    begins = sensors.begins_ms
    charged = begins + plan.duration_ms[:, :CC_DISCHARGE].sum(axis=1)
    ends = begins + plan.cycle_ms
    capacity = plan.discharge_ah.sum(axis=1)
    series = smooth.discharge_ah.sum(axis=1)
    charge = plan.charge_ah.sum(axis=1)
    through = np.cumsum(charge + capacity)
    warmth = _temperatures(config, plan, begins)
    knee = float(cells.knees(number, number + 1)[0])
    below = {
        "end_of_life_nominal_cycle": series < _END * nominal,
        "end_of_life_initial_cycle": series < _END * series[0],
    }
    rows["cells"].append(
        {
            "equipment_id": name,
            "protocol": config.protocol,
            "chemistry": config.chemistry,
            "nominal_ah": nominal,
            "v_min_v": V_MIN,
            "v_max_v": V_MAX,
            "cycles": config.cycles,
            "knee_onset_cycle": None,
            "knee_point_cycle": knee if knee < config.cycles else None,
        }
        | {key: int(np.argmax(is_so)) + 1 if is_so.any() else None for key, is_so in below.items()}
    )
    for cycle in range(config.cycles):
        rows["cycles"].append(
            {
                "equipment_id": name,
                "cycle_number": cycle + 1,
                "test_id": f"{name}_t{cycle // CYCLES_PER_TEST + 1:02d}",
                "cycle_index": cycle % CYCLES_PER_TEST + 1,
                "begins_at": 1000 * int(begins[cycle]),
                "ends_at": 1000 * int(ends[cycle]),
                "kind": "full",
                "swings": 2,
                "charge_ah": float(charge[cycle]),
                "discharge_ah": float(capacity[cycle]),
                "net_charge_ah": float(charge[cycle]),
                "net_discharge_ah": float(capacity[cycle]),
                "charge_is_full": True,
                "discharge_is_full": True,
                "is_valid": True,
                "capacity_ah": float(capacity[cycle]),
                "depth": 1.0,
                "charge_rate_a": CHARGE_C * nominal,
                "discharge_rate_a": DISCHARGE_C * nominal,
                "throughput_ah": float(through[cycle]),
                "equivalent_full_cycles": float(through[cycle] / (2.0 * nominal)),
                "temperature_mean_c": float(warmth[cycle]),
                "resistance_10s_ohm": _resistance(plan, cycle, 10.0),
                "resistance_30s_ohm": _resistance(plan, cycle, 30.0),
            }
        )
        for direction, start, end, moved, amps in (
            (CHARGE, begins, charged, charge, CHARGE_C * nominal),
            (DISCHARGE, charged, ends, capacity, DISCHARGE_C * nominal),
        ):
            rows["swings"].append(
                {
                    "equipment_id": name,
                    "swing_number": 2 * cycle + (1 if direction == CHARGE else 2),
                    "cycle_number": cycle + 1,
                    "direction": direction,
                    "begins_at": 1000 * int(start[cycle]),
                    "ends_at": 1000 * int(end[cycle]),
                    "net_ah": float(moved[cycle]),
                    "is_full": True,
                    "rate_a": amps,
                }
            )
        for step, current in (
            (CC_CHARGE, CHARGE_C * nominal),
            (CC_DISCHARGE, -DISCHARGE_C * nominal),
        ):
            volts, ah = _curve(plan, cycle, step, current)
            rows["peaks"] += [
                {
                    "equipment_id": name,
                    "cycle_number": cycle + 1,
                    "step_run": step + 1,
                    "direction": CHARGE if current > 0.0 else DISCHARGE,
                    "current_a": current,
                    "voltage_v": peak.voltage_v,
                    "dq_dv_ah_per_v": peak.dq_dv_ah_per_v,
                    "prominence_ah_per_v": peak.prominence_ah_per_v,
                    "is_main": peak.is_main,
                }
                for peak in truth_peaks.peaks(volts, ah)
            ]


def capacities(
    config: FleetConfig, number: int, keys: Hashes, cycle: Ints
) -> tuple[Floats, Floats]:
    """Ah discharged in these cycles, and ohms 30 s into it, without scatter."""
    plan = Cells(config, keys).plan(number, number + 1, 0, config.cycles, scatter=False)
    ohms = plan.r0 + plan.r1 * (1.0 - math.exp(-30.0 / TAU_S))
    return plan.discharge_ah.sum(axis=1)[cycle], ohms[cycle]


def _resistance(plan: CellPlan, cycle: int, seconds: float) -> float:
    """Ohms so many seconds after a step of current."""
    return float(plan.r0[cycle] + plan.r1[cycle] * (1.0 - math.exp(-seconds / TAU_S)))


def _curve(plan: CellPlan, cycle: int, step: int, current: float) -> tuple[Floats, Floats]:
    """Voltage (V) and charge moved (Ah, signed) of a step at constant current."""
    t = np.linspace(0.0, float(plan.duration_ms[cycle, step]) / 1000.0, truth_peaks.POINTS)
    q = plan.q_start[cycle, step] + graphite_rate(current) * t
    r0, r1 = plan.r0[cycle], plan.r1[cycle]
    volts = U_P.at((plan.lithium[cycle] - q) / plan.q_p[cycle]) - U_N.at(q / plan.q_n[cycle])
    beside = (plan.rc_start[cycle, step] - current * r1) * np.exp(-t / TAU_S)
    return volts + current * (r0 + r1) + beside, current * t / 3600.0


def _temperatures(config: FleetConfig, plan: CellPlan, begins: Any) -> Floats:
    """Mean temperature of each cycle, weighted by time, from the noise-free readings."""
    pairs = np.arange(plan.lithium.size)
    exact = cell_rows.rows(plan, pairs, plan.cycle_rows)
    at = begins[exact.pair] + exact.cycle_ms
    warm = exact.heat_k + surroundings.ambient_c(config, at.astype(np.float64))
    first = np.diff(exact.pair, prepend=-1) != 0
    before = np.where(first, warm, np.roll(warm, 1))
    spent = np.where(first, exact.cycle_ms, exact.cycle_ms - np.roll(exact.cycle_ms, 1))
    total = np.bincount(exact.pair, (warm + before) / 2.0 * spent)
    mean: Floats = total / np.bincount(exact.pair, spent)
    return mean
