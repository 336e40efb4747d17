"""Cycles that have ended as rows of schema CYCLES_LIVE."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pyarrow as pa

from schemas.forms import UTC_MICROSECONDS, arrow_schema
from schemas.reading import CYCLES_LIVE
from transforms.cycles import ica, resistance
from transforms.cycles.ended import Cycle, Ended
from transforms.cycles.measure import F64, CellLimits, Mask
from transforms.cycles.steps import Steps, steps_of
from transforms.cycles.totals import Cycles

SCHEMA = arrow_schema(CYCLES_LIVE)
# As dbt_project.yml has it: return_tolerance.
_RETURN_TOLERANCE = 0.02
_COUNTS = ("readings", "gaps", "flagged_readings")


def cycle_id(cycle: Cycle) -> str:
    """The same for every version of a cycle."""
    return _hash(cycle.equipment_id, cycle.test_id, cycle.restarts, cycle.cycle)


def _hash(*parts: object) -> str:
    # The lengths keep two lists of parts from being one text.
    text = "".join("-" if part is None else f"{len(str(part))}:{part}" for part in parts)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def cycle_rows(ended: Ended, limits: CellLimits) -> pa.Table:
    """A row of schema CYCLES_LIVE for each cycle, in their order."""
    cycles = sorted(ended.cycles, key=lambda cycle: cycle.start)
    if not cycles:
        return SCHEMA.empty_table()
    starts = np.array([cycle.start for cycle in cycles])
    ends = np.array([cycle.end for cycle in cycles])
    sums = Cycles(ended.rows, ended.measured, starts, ends, limits)
    found = sums.columns()
    is_full = sums.is_full(found)
    full = np.array([each is True for each in is_full])
    # What is lost as heat shows in a partial cycle, too, if it comes back to where it began.
    moved = np.abs(found["charge_ah"] - found["discharge_ah"])
    returned = moved <= _RETURN_TOLERANCE * found["charge_ah"]
    ids = [cycle_id(cycle) for cycle in cycles]
    by_counter = found.pop("by_counter") > 0
    columns: dict[str, Any] = {
        "version_id": [_hash(each, cycle.digest) for each, cycle in zip(ids, cycles, strict=True)],
        "cycle_id": ids,
        "version": [cycle.version for cycle in cycles],
        "equipment_id": [cycle.equipment_id for cycle in cycles],
        "test_id": [cycle.test_id for cycle in cycles],
        "cycle_index": [cycle.cycle for cycle in cycles],
        "cycle_restarts": [cycle.restarts for cycle in cycles],
        "cycle_number": [cycle.number for cycle in cycles],
        "is_cycle_derived": [cycle.is_derived for cycle in cycles],
        "is_ended": [cycle.is_ended for cycle in cycles],
        "is_whole": [cycle.is_whole for cycle in cycles],
        "started_at": pa.array(ended.rows.time_us[starts]).cast(UTC_MICROSECONDS),
        "ended_at": pa.array(ended.rows.time_us[ends - 1]).cast(UTC_MICROSECONDS),
        "charge_method": np.where(by_counter, "counter", "integrated").tolist(),
        "is_full": is_full,
        "coulombic_efficiency": _ratio(found, "discharge_ah", "charge_ah", full),
        "energy_efficiency": _ratio(found, "discharge_wh", "charge_wh", full | returned),
        "voltage_time_s": sums.voltage_times(),
        "throughput_ah": [cycle.throughput_ah for cycle in cycles]
        + found["charge_ah"]
        + found["discharge_ah"],
    }
    columns |= _of_curves(ended, cycles, limits)
    for name, values in found.items():
        if name in _COUNTS:
            columns[name] = values.astype(np.int64)
        else:
            columns[name] = pa.array(values, mask=np.isnan(values))
    missing = pa.nulls(len(cycles))
    return pa.table(
        [_typed(columns.get(field.name, missing), field.type) for field in SCHEMA], schema=SCHEMA
    )


def _of_curves(ended: Ended, cycles: list[Cycle], limits: CellLimits) -> dict[str, Any]:
    """Resistance and main peaks of dQ/dV of each cycle."""
    ohm_10s, ohm_30s, asked = [], [], []
    for cycle in cycles:
        readings = ended.readings(cycle)
        rest_a = float(ended.measured.rest_current_a[cycle.start])
        steps = steps_of(readings, rest_a)
        found = resistance.resistance(readings, steps, rest_a, cycle.noise.any_v)
        ohm_10s.append(found.ohm[0])
        ohm_30s.append(found.ohm[1])
        nominal = float(limits.nominal_ah[ended.rows.profile[cycle.start]])
        capacity = nominal if nominal > 0.0 else _largest_ah(steps)
        asked.append(ica.Asked(readings, steps, capacity, cycle.noise.rest_v))
    peaks = ica.peaks_of(asked)
    out: dict[str, Any] = {"dc_resistance_10s_ohm": ohm_10s, "dc_resistance_30s_ohm": ohm_30s}
    for direction in ("charge", "discharge"):
        own = [getattr(peak, direction) for peak in peaks]
        out[f"{direction}_peak_v"] = [None if one is None else one.voltage_v for one in own]
        out[f"{direction}_peak_ah_per_v"] = [
            None if one is None else one.dq_dv_ah_per_v for one in own
        ]
    return out


def _largest_ah(steps: Steps) -> float:
    return max([*steps.charge_ah, *steps.discharge_ah, 0.0])


def _typed(values: Any, kind: pa.DataType) -> pa.Array:
    return values.cast(kind) if isinstance(values, pa.Array) else pa.array(values, kind)


def _ratio(found: dict[str, F64], out: str, into: str, where: Mask) -> pa.Array:
    with np.errstate(invalid="ignore", divide="ignore"):
        values = found[out] / found[into]
    return pa.array(values, mask=~(where & np.isfinite(values)))
