"""What ended cycles say of health: their stretches of constant current, in rows that travel."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from schemas.forms import UTC_MICROSECONDS
from transforms.cycles.ended import Ended
from transforms.cycles.measure import CellLimits
from transforms.health import CycleSegments, Known, Segment, segments

F64 = npt.NDArray[np.float64]
# A segment travels with about so many readings; the fit thins them further.
_MOST_READINGS = 400

SCHEMA = pa.schema(
    [
        pa.field("equipment_id", pa.string()),
        pa.field("cycle_id", pa.string()),
        pa.field("version", pa.int64()),
        pa.field("cycle_number", pa.int64()),
        pa.field("ended_at", UTC_MICROSECONDS),
        pa.field("duration_s", pa.float64()),
        pa.field("is_whole", pa.bool_()),
        pa.field("throughput_ah", pa.float64()),
        pa.field("capacity_ah", pa.float64()),
        pa.field("temperature_c", pa.float64()),
        pa.field("resistance_ohm", pa.float64()),
        pa.field("nominal_ah", pa.float64()),
        pa.field("v_min_v", pa.float64()),
        pa.field("v_max_v", pa.float64()),
        pa.field("chemistry", pa.string()),
        pa.field("threshold_soh", pa.float64()),
        # Per segment: readings, Ah before the first of them, whether it has temperatures.
        pa.field("sizes", pa.list_(pa.int64())),
        pa.field("skipped_ah", pa.list_(pa.float64())),
        # Voltages, Ah, times, currents and temperatures, segment after segment.
        pa.field("values", pa.list_(pa.float64())),
    ]
)


def curves(ended: Ended, rows: pa.Table, limits: CellLimits) -> pa.Table:
    """A row of SCHEMA for each ended cycle of cells whose profile names capacity and limits.

    Args:
        ended: the cycles.
        rows: of schema CYCLES_LIVE, those of the same cycles in order of `start`.
        limits: of the profiles.
    """
    cycles = sorted(ended.cycles, key=lambda cycle: cycle.start)
    given = rows.select(
        ["cycle_id", "ended_at", "duration_s", "discharge_ah", "is_full", "temperature_mean_c",
         "dc_resistance_30s_ohm", "throughput_ah"]
    ).to_pylist()  # fmt: skip
    out: list[dict[str, Any]] = []
    for cycle, row in zip(cycles, given, strict=True):
        profile = ended.rows.profile[cycle.start]
        known = [float(each[profile]) for each in (limits.nominal_ah, limits.v_min, limits.v_max)]
        if not cycle.is_ended or not all(math.isfinite(each) for each in known):
            continue
        found = _segments(ended, cycle.start, cycle.end, known[0], known[2])
        out.append(
            {
                "equipment_id": cycle.equipment_id,
                "cycle_id": row["cycle_id"],
                "version": cycle.version,
                "cycle_number": cycle.number,
                "ended_at": row["ended_at"],
                "duration_s": row["duration_s"],
                "is_whole": cycle.is_whole,
                "throughput_ah": row["throughput_ah"],
                "capacity_ah": row["discharge_ah"] if row["is_full"] and cycle.is_whole else None,
                "temperature_c": row["temperature_mean_c"],
                "resistance_ohm": row["dc_resistance_30s_ohm"],
                "nominal_ah": known[0],
                "v_min_v": known[1],
                "v_max_v": known[2],
                "chemistry": limits.chemistry[profile],
                "threshold_soh": float(limits.end_of_life[profile]),
                "sizes": [len(each.ah) for each in found],
                "skipped_ah": [each.skipped_ah for each in found],
                "values": _packed(found),
            }
        )
    return pa.Table.from_pylist(out, schema=SCHEMA)


def _segments(ended: Ended, start: int, end: int, nominal_ah: float, v_max: float) -> list[Segment]:
    part = slice(start, end)
    rows, measured = ended.rows, ended.measured
    time_s = (rows.time_us[part] - rows.time_us[start]) / 1e6
    moved = measured.charge_ah[part] - measured.discharge_ah[part]
    warm = None if rows.temperature is None else rows.temperature[part]
    found = segments(time_s, rows.voltage[part], rows.current[part], moved, warm, nominal_ah, v_max)
    return [_fewer(each) for each in found]


def _fewer(segment: Segment) -> Segment:
    step = -(-len(segment.ah) // _MOST_READINGS)
    if step == 1:
        return segment
    kept = slice(None, None, step)
    warm = segment.temperature_c
    return Segment(
        segment.voltage_v[kept], segment.ah[kept], segment.time_s[kept], segment.current_a[kept],
        None if warm is None else warm[kept], segment.skipped_ah,
    )  # fmt: skip


def _packed(found: list[Segment]) -> F64:
    parts: list[F64] = []
    for each in found:
        warm = each.temperature_c
        none = np.full(len(each.ah), np.nan)
        parts += [each.voltage_v, each.ah, each.time_s, each.current_a]
        parts.append(none if warm is None else warm)
    return np.concatenate(parts) if parts else np.zeros(0)


def cycle_segments(row: dict[str, Any]) -> tuple[CycleSegments, Known]:
    """What `transforms.health` takes of a row of SCHEMA."""
    values = np.asarray(row["values"], dtype=np.float64)
    found, at = [], 0
    for size, skipped in zip(row["sizes"], row["skipped_ah"], strict=True):
        own = values[at : at + 5 * size].reshape(5, size)
        at += 5 * size
        warm = own[4] if np.isfinite(own[4]).any() else None
        found.append(Segment(own[0], own[1], own[2], own[3], warm, skipped))
    cycle = CycleSegments(
        found,
        row["capacity_ah"],
        row["throughput_ah"],
        row["ended_at"].timestamp(),
        row["temperature_c"],
        row["resistance_ohm"],
    )
    return cycle, Known(row["nominal_ah"], row["v_min_v"], row["v_max_v"], row["chemistry"])
