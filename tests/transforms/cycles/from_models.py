"""The cycles of a warehouse, as the kernels take them, and what the models say of each."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
from numpy.typing import NDArray

from transforms.cycles.steps import Readings

BEFORE = 31  # readings that a cycle is given of those before it

# A step run belongs to the cycle of its first reading: as battery_steps.
_READINGS = """
    WITH readings AS (
        SELECT *, min(test_cycle) OVER step AS cycle, min(cycle_restarts) OVER step AS restarts
        FROM battery_features
        WHERE equipment_type = 'battery_cell' AND NOT is_impedance
        WINDOW step AS (PARTITION BY test_key, step_run)
    )
    SELECT cycle_key, reading_seq, step_run,
        (epoch_us(recorded_at) - min(epoch_us(recorded_at)) OVER (PARTITION BY readings.test_key)) / 1e6
            AS recorded_s,
        time_delta_s, step_time_s, voltage_v, current_a, dq_charge_ah, dq_discharge_ah, is_gap,
        step_index IS NOT NULL AS is_numbered, rest_current_a
    FROM readings INNER JOIN battery_cycles
        ON readings.test_key = battery_cycles.test_key
        AND readings.cycle = battery_cycles.test_cycle
        AND readings.restarts = battery_cycles.cycle_restarts
    ORDER BY readings.test_key, reading_seq
"""
_CYCLES = """
    SELECT cycle_key, equipment_id, cycle_number, nominal_capacity_ah, largest_step_ah,
        rest_noise_v, held_noise_v, dc_resistance_10s_ohm, dc_resistance_30s_ohm,
        dc_resistance_reason
    FROM battery_cycles
    LEFT JOIN (SELECT equipment_id, nominal_capacity_ah FROM dim_equipment) USING (equipment_id)
    LEFT JOIN int_voltage_noise USING (equipment_id)
    LEFT JOIN (
        SELECT equipment_id, max(greatest(charge_ah, discharge_ah)) AS largest_step_ah
        FROM battery_steps WHERE direction <> 'rest' GROUP BY equipment_id
    ) USING (equipment_id)
"""
_PEAKS = "SELECT * FROM battery_ica_peaks WHERE is_main"


@dataclass(frozen=True)
class Cycle:
    """One cycle.

    Attributes:
        key: of battery_cycles.
        readings: what the kernels take.
        rest_current_a: up to which the cell rests, A.
        model: the row of battery_cycles, with what is known of the equipment.
        peaks: the row of battery_ica_peaks of the main peak by direction.
    """

    key: str
    readings: Readings
    rest_current_a: float
    model: dict[str, Any]
    peaks: dict[str, dict[str, Any]]

    @property
    def noise_v(self) -> float | None:
        """The noise of the cell's voltage, as battery_resistance takes it."""
        rest, held = self.model["rest_noise_v"], self.model["held_noise_v"]
        return held if rest is None else rest

    @property
    def capacity_ah(self) -> float:
        """The nominal capacity, or the largest step of the equipment, as int_ica_steps has it."""
        nominal = self.model["nominal_capacity_ah"]
        largest = self.model["largest_step_ah"]
        return float(nominal if nominal is not None else largest or math.nan)


def cycles(warehouse: Path) -> Iterator[Cycle]:
    """Every cycle of a warehouse that the job and the models made."""
    with duckdb.connect(str(warehouse), read_only=True) as database:
        database.execute("SET TimeZone = 'UTC'")
        columns = database.sql(_READINGS).fetchnumpy()
        models = {
            row["cycle_key"]: row for row in database.sql(_CYCLES).to_arrow_table().to_pylist()
        }
        peaks: dict[str, dict[str, dict[str, Any]]] = {}
        for row in database.sql(_PEAKS).to_arrow_table().to_pylist():
            peaks.setdefault(row["cycle_key"], {})[row["direction"]] = row
    keys = columns.pop("cycle_key")
    arrays = {name: _plain(values) for name, values in columns.items()}
    starts = np.flatnonzero(np.concatenate(([True], keys[1:] != keys[:-1])))
    for start, end in zip(starts, [*starts[1:], len(keys)], strict=True):
        begin = max(start - BEFORE, _test_start(arrays["reading_seq"], start))
        part = {name: values[begin:end] for name, values in arrays.items()}
        rest = part.pop("rest_current_a")
        key = str(keys[start])
        yield Cycle(
            key,
            Readings(first=int(start - begin), **part),
            float(rest[-1]),
            models[key],
            peaks.get(key, {}),
        )


def _test_start(numbers: NDArray[Any], at: int) -> int:
    """The place of the first reading of the test, at most BEFORE places before `at`."""
    while at > 0 and numbers[at - 1] < numbers[at]:
        at -= 1
        if numbers[at] == 1:
            break
    return at


def _plain(values: Any) -> NDArray[Any]:
    if isinstance(values, np.ma.MaskedArray):
        return np.asarray(values.astype(np.float64).filled(np.nan))
    return np.asarray(values)
