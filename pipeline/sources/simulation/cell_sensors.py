"""Read the sensors of cells: clocks, counters, noise and stuck sensors over the exact readings."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.sources.simulation import cell_rows, draws
from pipeline.sources.simulation.arrays import Floats, Hashes, Ints
from pipeline.sources.simulation.cell_model import CC_CHARGE, CC_DISCHARGE, CYCLES_PER_TEST
from pipeline.sources.simulation.cell_plan import CellPlan
from pipeline.sources.simulation.config import OMISSIONS, FleetConfig
from pipeline.sources.simulation.faults import STUCK_CODE, stuck_runs
from pipeline.sources.simulation.parts import Chunk, Kind, scaled

CELL: Final = Kind(
    type="battery_cell",
    short="cell",
    columns={
        "record_index": 0,
        "test_time_s": 3,
        "step_time_s": 3,
        "cycle_index": 0,
        "step_index": 0,
        "voltage_v": 4,
        "current_a": 4,
        "charge_capacity_ah": 6,
        "discharge_capacity_ah": 6,
        "charge_energy_wh": 6,
        "discharge_energy_wh": 6,
        "internal_resistance_ohm": 6,
        "temperature_c": 2,
        "ambient_temperature_c": 2,
    },
    tests=True,
)


def kind_of(config: FleetConfig) -> Kind:
    """Cells as the configuration's messages show them: without what it omits."""
    if not config.omitted:
        return CELL
    out = {column for name in config.omitted for column in OMISSIONS[name]}
    return replace(CELL, columns={n: d for n, d in CELL.columns.items() if n not in out})


class CellSensors:
    """What the readings of some cells need beside their plan: tests, clocks, counters."""

    def __init__(
        self,
        config: FleetConfig,
        keys: Hashes,
        first: int,
        plan: CellPlan,
        begin: int,
        clock_ms: Ints,
        done: Ints,
    ) -> None:
        """`plan` is of the cells from `first` on, with these keys.

        It begins at cycle `begin`, at `clock_ms` since 1970 UTC, after `done` readings.
        """
        cells = keys.size
        cycles = plan.lithium.size // cells
        self._config, self._own, self._first, self._plan = config, keys, first, plan
        self._begin, self._cycles = begin, cycles
        number = np.arange(cycles)
        self._opens = number // CYCLES_PER_TEST * CYCLES_PER_TEST
        shape = (cells, cycles)
        dice = draws.mix(
            draws.mix(keys ^ draws.SALT["cycle"])[:, None]
            + draws.GOLDEN * (begin + number).astype(np.uint64)
        )
        self._dice: Hashes = dice.ravel()
        # Between two tests the cycler stands still for 1 to 24 hours.
        gap = ((1.0 + 23.0 * draws.uniform(dice, 4)) * 3.6e6).astype(np.int64)
        gap[:, (begin + number == 0) | (number != self._opens)] = 0
        duration = plan.cycle_ms.reshape(shape)
        begins = np.cumsum(duration + gap, axis=1) - duration
        begins += clock_ms[:, None]
        self.ends_ms: Ints = begins[:, -1] + duration[:, -1]
        self.begins_ms: Ints = begins.ravel()
        self._test_ms = (begins - begins[:, self._opens]).ravel()
        rows = plan.cycle_rows.reshape(shape)
        self._reading = (done[:, None] + np.cumsum(rows, axis=1) - rows).ravel()
        self._record = self._in_test(rows)
        self._moved = tuple(
            self._in_test(per_step.sum(axis=1).reshape(shape))
            for per_step in (
                plan.charge_ah,
                plan.discharge_ah,
                plan.charge_wh,
                plan.discharge_wh,
            )
        )
        # Resistance is measured when the load comes on; until then the last value stands.
        measured = (plan.r0 * (1.0 + 0.01 * draws.normal(self._dice, 0))).reshape(shape)
        earlier = np.concatenate((np.zeros((cells, 1)), measured[:, :-1]), axis=1)
        earlier[:, number == self._opens] = 0.0
        self._measured = np.stack((earlier.ravel(), measured.ravel()))

    def _in_test(self, per_cycle: NDArray[Any]) -> NDArray[Any]:
        """Sum over a test's earlier cycles, (cells x cycles,)."""
        before = np.cumsum(per_cycle, axis=1) - per_cycle
        total: NDArray[Any] = (before - before[:, self._opens]).ravel()
        return total

    def readings(self, pairs: Ints, most: Ints, faults: float) -> Chunk:
        """The first `most` readings of each pair, measured: with noise, at the cycler's digits."""
        config, plan = self._config, self._plan
        exact = cell_rows.rows(plan, pairs, most)
        source = pairs[exact.pair]
        within = np.arange(source.size) - np.repeat(np.cumsum(most) - most, most)
        cell, cycle = np.divmod(source, self._cycles)
        cycle += self._begin
        reading = self._reading[source] + within
        noise = draws.mix(self._own[cell] + draws.GOLDEN * reading.astype(np.uint64))
        recorded_ms = self.begins_ms[source] + exact.cycle_ms

        voltage = scaled(exact.voltage_v + config.noise / 1000.0 * draws.normal(noise, 0), 4)
        current = exact.current_a + (1e-4 * config.nominal_ah) * draws.normal(noise, 12)
        current[exact.current_a == 0.0] = 0.0  # the relay is open: no current, no noise
        daily = 0.3 * np.sin(recorded_ms * (2.0 * np.pi / 86.4e6))
        ambient = config.temperature + daily + 0.03 * draws.normal(noise, 36)
        warm = config.temperature + daily + exact.heat_k + 0.05 * draws.normal(noise, 24)
        loaded = exact.step >= CC_DISCHARGE
        columns = {
            "record_index": self._record[source] + within + 1,
            "test_time_s": self._test_ms[source] + exact.cycle_ms,
            "step_time_s": exact.step_ms,
            "cycle_index": cycle % CYCLES_PER_TEST + 1,
            "step_index": exact.step + 1,
            "voltage_v": voltage,
            "current_a": scaled(current, 4),
            "charge_capacity_ah": scaled(exact.charge_ah + self._moved[0][source], 6),
            "discharge_capacity_ah": scaled(exact.discharge_ah + self._moved[1][source], 6),
            "charge_energy_wh": scaled(exact.charge_wh + self._moved[2][source], 6),
            "discharge_energy_wh": scaled(exact.discharge_wh + self._moved[3][source], 6),
            "internal_resistance_ohm": scaled(
                np.where(loaded, self._measured[1][source], self._measured[0][source]), 6
            ),
            "temperature_c": scaled(warm, 2),
            "ambient_temperature_c": scaled(ambient, 2),
        }
        fault = np.zeros(source.size, np.int8)
        chance: Floats | float = 0.0
        if faults:
            stuck = stuck_runs(
                faults,
                self._dice[pairs],
                plan.cycle_rows[pairs],
                plan.rows[pairs, CC_CHARGE],
                exact.pair,
                within,
            )
            voltage[stuck.rows] = voltage[stuck.source]
            fault[stuck.rows] = STUCK_CODE
            chance = stuck.chance
        return Chunk(
            equipment=cell + self._first,
            reading=reading,
            recorded_ms=recorded_ms,
            noise=noise,
            columns=columns,
            test=cycle // CYCLES_PER_TEST + 1,
            fault=fault,
            chance=chance,
        )
