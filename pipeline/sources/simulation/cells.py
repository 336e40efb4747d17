"""Simulate battery cells: their cycles, cut into chunks of readings."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from itertools import pairwise
from typing import Final

import numpy as np

from pipeline.sources.simulation import cell_plan, draws
from pipeline.sources.simulation.arrays import Floats, Hashes, Ints
from pipeline.sources.simulation.cell_model import CYCLES_PER_TEST
from pipeline.sources.simulation.cell_plan import CellPlan, CellSpread
from pipeline.sources.simulation.cell_sensors import CellSensors, kind_of
from pipeline.sources.simulation.config import FleetConfig
from pipeline.sources.simulation.parts import CHUNK, Block, Chunk

_AT_ONCE: Final = 10 * CYCLES_PER_TEST  # cycles of a cell planned at once


class Cells:
    """The fleet's battery cells; `keys` are those of all its equipments."""

    def __init__(self, config: FleetConfig, keys: Hashes) -> None:
        self._config, self._keys = config, keys
        self.kind = kind_of(config)

    @property
    def cycle_rows(self) -> int:
        """Readings of a cycle, about."""
        return int(self._first_cycle.cycle_rows[0])

    @property
    def cycle_ms(self) -> int:
        """Milliseconds that a cycle takes, about."""
        return int(self._first_cycle.cycle_ms[0])

    @cached_property
    def _first_cycle(self) -> CellPlan:
        """The first cycle of an average cell."""
        one = np.ones(1)
        spread = CellSpread(one, one, one, 1e9 * one, np.zeros((1, 1)))
        return cell_plan.plan(spread, self._config.nominal_ah, self._config.interval)

    def counts(self) -> Ints:
        """Readings of each cell over the configuration's cycles: planned, about 2 ms a cell."""
        config, cells = self._config, self._config.cell_count
        counts = np.zeros(cells, np.int64)
        at_once = max(1, CHUNK // min(config.cycles, _AT_ONCE))
        for first in range(0, cells, at_once):
            stop = min(cells, first + at_once)
            for cycle in range(0, config.cycles, _AT_ONCE):
                plan = self.plan(first, stop, cycle, min(_AT_ONCE, config.cycles - cycle))
                counts[first:stop] += plan.cycle_rows.reshape(stop - first, -1).sum(axis=1)
        return counts

    def chunks(self, block: Block, wanted: Ints | None, faults: float) -> Iterator[Chunk]:
        """Readings of a block: `wanted` of each cell, or else all of the configuration's cycles."""
        config, cells = self._config, block.stop - block.first
        rest = np.full(cells, 1 << 62)  # readings still wanted of each cell
        left = config.cycles
        if wanted is not None:
            rest = wanted
            left = 1 << 62
        clock = config.first_ms(np.arange(block.first, block.stop))
        own = self._keys[block.first : block.stop]
        done = np.zeros(cells, np.int64)
        begin = 0
        while left and rest.any():
            # Few cycles of many cells, or a part of one cell's life: memory stays bounded.
            cycles = min(left, _AT_ONCE)
            if wanted is not None:
                guess = int(rest.max()) // self.cycle_rows
                cycles = min(cycles, guess + 1)
                cycles += -cycles % CYCLES_PER_TEST if cells == 1 else 0  # so the next opens a test
            plan = self.plan(block.first, block.stop, begin, cycles)
            while cells > 1 and wanted is not None:
                # A group must come out whole to be put in order of arrival. Ageing cells have
                # shorter cycles than the guess.
                if np.all(plan.cycle_rows.reshape(cells, cycles).sum(axis=1) >= rest):
                    break
                cycles += cycles // 4 + 1
                plan = self.plan(block.first, block.stop, begin, cycles)
            by_cell = plan.cycle_rows.reshape(cells, cycles)
            before = np.cumsum(by_cell, axis=1) - by_cell
            most = np.clip(rest[:, None] - before, 0, by_cell).ravel()
            sensors = CellSensors(config, own, block.first, plan, begin, clock, done)
            pairs = np.flatnonzero(most)
            # A group of cells is one chunk; a single cell's life is cut at whole cycles.
            cuts = [0, pairs.size]
            if cells == 1:
                total = np.cumsum(most[pairs])
                marks = np.arange(CHUNK, int(total[-1]), CHUNK)
                cuts = np.unique(np.concatenate((cuts, np.searchsorted(total, marks)))).tolist()
            for low, high in pairwise(cuts):
                part = pairs[low:high]
                yield sensors.readings(part, most[part], faults)
            given = by_cell.sum(axis=1)
            rest = np.maximum(rest - given, 0)
            done = done + given
            clock = sensors.ends_ms
            begin += cycles
            left -= cycles

    def knees(self, first: int, stop: int) -> Floats:
        """The cycle at which each of cells first … stop - 1 begins to fade fast."""
        own = draws.mix(self._keys[first:stop] ^ draws.SALT["cell"])
        return np.maximum(320.0 + 45.0 * draws.normal(own, 36), 60.0)

    def plan(
        self, first: int, stop: int, begin: int, cycles: int, scatter: bool = True
    ) -> CellPlan:
        """Cycles begin … begin + cycles - 1 of cells first … stop - 1, cells outermost.

        Without `scatter` capacity does not vary from cycle to cycle.
        """
        own = draws.mix(self._keys[first:stop] ^ draws.SALT["cell"])
        jitter = draws.mix(
            own[:, None] + draws.GOLDEN * np.arange(begin, begin + cycles, dtype=np.uint64)
        )
        spread = CellSpread(
            capacity=1.0 + 0.006 * draws.normal(own, 0),
            resistance=1.0 + 0.05 * draws.normal(own, 12),
            fade=np.exp(0.10 * draws.normal(own, 24)),
            knee=self.knees(first, stop),
            jitter=(0.0006 if scatter else 0.0) * draws.normal(jitter, 0),
        )
        return cell_plan.plan(spread, self._config.nominal_ah, self._config.interval, begin)
