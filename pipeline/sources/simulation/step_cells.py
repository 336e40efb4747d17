"""Simulate cells in steps: their lives, cut into chunks of measured readings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.sources.simulation import draws, protocols, step_sampling, step_segments, surroundings
from pipeline.sources.simulation.arrays import Floats, Hashes, Ints
from pipeline.sources.simulation.cell_model import CYCLES_PER_TEST
from pipeline.sources.simulation.cell_sensors import kind_of
from pipeline.sources.simulation.chemistry import CHEMISTRIES, curve
from pipeline.sources.simulation.config import FleetConfig
from pipeline.sources.simulation.faults import STUCK_CODE, stuck_runs
from pipeline.sources.simulation.parts import CHUNK, Block, Chunk, scaled
from pipeline.sources.simulation.step_life import Life, Lived, cycle_dice
from pipeline.sources.simulation.step_segments import REST

_AT_ONCE: Final = 10  # cycles that are run before their readings are counted


@dataclass(frozen=True)
class _Read:
    """Cycles of one cell with the times of their readings, (n,) each."""

    lived: Lived
    which: Ints  # segment
    after_ms: Ints  # since it began
    rows: Ints  # (k,) readings of each cycle
    in_charge: Ints  # (k,) how many of them, from the first on, are in a first charge


class StepCells:
    """The fleet's cells where they are simulated in steps; `keys` are all its equipments'."""

    def __init__(self, config: FleetConfig, keys: Hashes) -> None:
        self._config, self._keys = config, keys
        self.kind = replace(kind_of(config), short=CHEMISTRIES[config.chemistry].short)

    @cached_property
    def _typical(self) -> tuple[int, int]:
        """Readings and ms of a long cycle."""
        rows, ms = 1, 1
        for cell in range(min(self._config.cell_count, len(protocols.PROTOCOLS))):
            read = self._read(Life(self._config, cell, self._keys[cell : cell + 1]), 2)
            spent = read.lived.segments["duration_ms"].sum()
            rows, ms = max(rows, int(read.rows.max())), max(ms, int(spent) // 2)
        return rows, ms

    @property
    def cycle_rows(self) -> int:
        """Readings of a cycle, about."""
        return self._typical[0]

    @property
    def cycle_ms(self) -> int:
        """Milliseconds that a cycle takes, about."""
        return self._typical[1]

    def counts(self) -> Ints:
        """Readings of each cell over the configuration's cycles; the cells are run for it."""
        found = np.zeros(self._config.cell_count, np.int64)
        for cell in range(found.size):
            found[cell] = sum(int(read.rows.sum()) for read in self._reads(cell))
        return found

    def chunks(self, block: Block, wanted: Ints | None, faults: float) -> Iterator[Chunk]:
        """Readings of a block: `wanted` of each cell, or else all of the configuration's cycles."""
        group = []
        for cell in range(block.first, block.stop):
            left = None if wanted is None else int(wanted[cell - block.first])
            for chunk in self._of_cell(cell, left, faults):
                if block.stop - block.first == 1:
                    yield chunk
                else:
                    group.append(chunk)
        # A group is one chunk, so that it can be put in order of arrival.
        if group:
            yield _together(group)

    def _reads(self, cell: int, forever: bool = False) -> Iterator[_Read]:
        """All cycles of a cell, a few at a time, with the times of their readings."""
        life = Life(self._config, cell, self._keys[cell : cell + 1])
        while forever or life.done < self._config.cycles:
            # Cycles of many readings come one by one: memory stays bounded.
            few = max(1, min(_AT_ONCE, CHUNK // self.cycle_rows))
            left = few if forever else min(few, self._config.cycles - life.done)
            yield self._read(life, left)

    def _read(self, life: Life, cycles: int) -> _Read:
        lived = life.run(cycles)
        segments = lived.segments
        which, after = step_sampling.times(self._config, life.kind, life.curve, segments, life.key)
        cycle = segments["cycle"][which] - lived.first
        first_charge = (segments["run"] == 0) & (segments["current_a"] > 0.0)
        return _Read(
            lived=lived,
            which=which,
            after_ms=after,
            rows=np.bincount(cycle, minlength=cycles),
            in_charge=np.bincount(cycle[first_charge[which]], minlength=cycles),
        )

    def _of_cell(self, cell: int, wanted: int | None, faults: float) -> Iterator[Chunk]:
        """One cell's readings."""
        done, record, test = 0, 0, 1
        measured = 0.0
        for read in self._reads(cell, wanted is not None):
            chunk, record, test, measured = self._measure(
                cell, read, done, record, test, measured, faults
            )
            size = chunk.equipment.size
            if wanted is not None and done + size >= wanted:
                yield _first(chunk, wanted - done)
                return
            done += size
            yield chunk

    def _measure(
        self,
        cell: int,
        read: _Read,
        done: int,
        record: int,
        test: int,
        measured: float,
        faults: float,
    ) -> tuple[Chunk, int, int, float]:
        """Readings as measured after `done` others, and what their successors need to know.

        That is the last record index, the last test and the last measured resistance.
        """  # fmt: skip
        config, lived = self._config, read.lived
        segments, which = lived.segments, read.which
        kind = CHEMISTRIES[config.chemistry]
        exact = step_segments.points(kind, curve(config.chemistry), segments, which, read.after_ms)
        place = segments["cycle"][which] - lived.first  # of each reading's cycle
        cycle = place + lived.first
        since_ms = segments["start_ms"][which] + read.after_ms
        key = self._keys[cell : cell + 1]
        reading = done + np.arange(which.size)
        noise = draws.mix(key + draws.GOLDEN * reading.astype(np.uint64))
        recorded_ms = int(config.first_ms(np.array([cell]))[0]) + since_ms

        volts = scaled(exact.voltage_v + config.noise / 1000.0 * draws.normal(noise, 0), 4)
        resting = segments["kind"][which] == REST
        current = exact.current_a + (1e-4 * config.nominal_ah) * draws.normal(noise, 12)
        current[resting] = 0.0  # the relay is open: no current, no noise
        around = surroundings.ambient_c(config, recorded_ms.astype(np.float64))
        test_of = cycle // CYCLES_PER_TEST + 1
        begins = np.flatnonzero(np.diff(test_of, prepend=test) != 0)
        index = record + 1 + np.arange(which.size)
        for begin in begins.tolist():
            index[begin:] -= index[begin] - 1
        resistance = self._resistance(cell, read, place, exact.current_a, measured)
        moved = lived.moved[place]
        columns = {
            "record_index": index,
            "test_time_s": since_ms - lived.test_ms[place],
            "step_time_s": since_ms - segments["step_ms"][which],
            "cycle_index": cycle % CYCLES_PER_TEST + 1,
            "step_index": segments["step"][which],
            "voltage_v": volts,
            "current_a": scaled(current, 4),
            "charge_capacity_ah": scaled(exact.charge_ah - moved[:, 0], 6),
            "discharge_capacity_ah": scaled(exact.discharge_ah - moved[:, 1], 6),
            "charge_energy_wh": scaled(exact.charge_wh - moved[:, 2], 6),
            "discharge_energy_wh": scaled(exact.discharge_wh - moved[:, 3], 6),
            "internal_resistance_ohm": scaled(resistance, 6),
            "temperature_c": scaled(around + exact.heat_k + 0.05 * draws.normal(noise, 24), 2),
            "ambient_temperature_c": scaled(around + 0.03 * draws.normal(noise, 36), 2),
        }
        fault = np.zeros(which.size, np.int8)
        chance: Floats | float = 0.0
        if faults:
            dice = cycle_dice(key, lived.first + np.arange(read.rows.size))
            within = np.arange(which.size) - (np.cumsum(read.rows) - read.rows)[place]
            stuck = stuck_runs(faults, dice, read.rows, read.in_charge, place, within)
            volts[stuck.rows] = volts[stuck.source]
            fault[stuck.rows] = STUCK_CODE
            chance = stuck.chance
        chunk = Chunk(
            equipment=np.full(which.size, cell),
            reading=reading,
            recorded_ms=recorded_ms,
            noise=noise,
            columns={name: columns[name] for name in self.kind.columns},
            test=test_of,
            fault=fault,
            chance=chance,
        )
        return chunk, int(index[-1]), int(test_of[-1]), float(resistance[-1])

    def _resistance(
        self, cell: int, read: _Read, place: Ints, current: Floats, measured: float
    ) -> Floats:
        """Ohms as the cycler shows them, (n,): measured when a cycle's first discharge comes on.

        Until then the last value stands; 0 in a test that has none yet.
        """
        lived = read.lived
        cycles = lived.first + np.arange(read.rows.size)
        dice = cycle_dice(self._keys[cell : cell + 1], cycles)
        r0 = np.array([now.r0 for now in lived.now])
        now = r0 * (1.0 + 0.01 * draws.normal(dice, 0))
        before = np.concatenate(([measured], now[:-1]))
        before[cycles % CYCLES_PER_TEST == 0] = 0.0
        on = (current < 0.0).astype(np.int64)
        starts = (np.cumsum(read.rows) - read.rows)[place]
        total = np.cumsum(on)
        come = total - (total[starts] - on[starts]) > 0
        found: Floats = np.where(come, now[place], before[place])
        return found


def _together(parts: list[Chunk]) -> Chunk:
    """Chunks as one."""

    def stacked(name: str) -> NDArray[Any]:
        return np.concatenate([getattr(part, name) for part in parts])

    return Chunk(
        equipment=stacked("equipment"),
        reading=stacked("reading"),
        recorded_ms=stacked("recorded_ms"),
        noise=stacked("noise"),
        columns={
            name: np.concatenate([part.columns[name] for part in parts])
            for name in parts[0].columns
        },
        test=stacked("test"),
        fault=stacked("fault"),
        chance=np.concatenate(
            [np.broadcast_to(part.chance, part.equipment.shape) for part in parts]
        ),
    )


def _first(chunk: Chunk, count: int) -> Chunk:
    """The first `count` readings of a chunk."""
    chance = chunk.chance
    return Chunk(
        equipment=chunk.equipment[:count],
        reading=chunk.reading[:count],
        recorded_ms=chunk.recorded_ms[:count],
        noise=chunk.noise[:count],
        columns={name: values[:count] for name, values in chunk.columns.items()},
        test=None if chunk.test is None else chunk.test[:count],
        fault=chunk.fault[:count],
        chance=chance if isinstance(chance, float) else chance[:count],
    )
