"""Run the life of one cell in steps, a few cycles at a time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.sources.simulation import draws, protocols, step_segments, surroundings
from pipeline.sources.simulation.arrays import Hashes, Ints
from pipeline.sources.simulation.cell_model import CYCLES_PER_TEST
from pipeline.sources.simulation.chemistry import CHEMISTRIES, curve
from pipeline.sources.simulation.config import FleetConfig
from pipeline.sources.simulation.step_ageing import Ageing, Now
from pipeline.sources.simulation.step_cell import Done, StepCell, Swing
from pipeline.sources.simulation.step_segments import Segments


@dataclass(frozen=True)
class Lived:
    """Some cycles of a cell: their segments and, (k,) per cycle, what they are.

    Times in ms since the cell's first reading would be due at 0, as in Segment; `moved` (k, 4) are
    the counters (Ah in, Ah out, Wh in, Wh out) and `test_ms` the time at which the cycle's test
    began.
    """

    first: int
    segments: Segments
    swings: list[Swing]
    kinds: list[str]
    now: list[Now]
    ambient_c: list[float]
    test_ms: Ints
    moved: np.ndarray[tuple[int, int], np.dtype[np.float64]]


class Life:
    """One cell from its first cycle on; `number` counts the fleet's cells from 0."""

    def __init__(self, config: FleetConfig, number: int, key: Hashes) -> None:
        """`key` is the equipment's, (1,)."""
        self.config, self.key = config, key
        self.kind = CHEMISTRIES[config.chemistry]
        self.curve = curve(config.chemistry)
        self.protocol = protocols.of_cell(config, number)
        self.begins_ms = int(config.first_ms(np.array([number]))[0])
        self.ageing = Ageing(config, self.kind, key)
        self.done = 0
        self._cell = StepCell(self.kind, self.curve, config.nominal_ah,
                              self.ageing.at(0, config.temperature))  # fmt: skip
        self._test_ms = 0
        self._moved = np.zeros(4)

    def run(self, cycles: int) -> Lived:
        """The next cycles."""
        cell, config = self._cell, self.config
        cell.done = Done()
        first = self.done
        kinds, nows, ambient, tests, moved = [], [], [], [], []
        for cycle in range(first, first + cycles):
            if cycle % CYCLES_PER_TEST == 0:
                self._open_test(cycle)
            warmth = float(
                surroundings.ambient_c(config, np.array([float(self.begins_ms + cell.ms)]))[0]
            )
            now = self.ageing.at(cycle, warmth)
            cell.begin_cycle(cycle, now)
            kinds.append(protocols.PROTOCOLS[self.protocol](cell, config, cycle))
            nows.append(now)
            ambient.append(warmth)
            tests.append(self._test_ms)
            moved.append(self._moved)
        self.done += cycles
        return Lived(
            first=first,
            segments=step_segments.columns(cell.done.segments, cell.done.nodes),
            swings=cell.done.swings,
            kinds=kinds,
            now=nows,
            ambient_c=ambient,
            test_ms=np.array(tests),
            moved=np.stack(moved),
        )

    def _open_test(self, cycle: int) -> None:
        """A new test with new counters; between two the cycler stands still for 1 to 24 hours."""
        cell = self._cell
        if cycle:
            dice = cycle_dice(self.key, np.array([cycle]))
            cell.stand(int((1.0 + 23.0 * draws.uniform(dice, 4)[0]) * 3.6e6))
        self._test_ms = cell.ms
        self._moved = np.array(
            [cell.charge_ah, cell.discharge_ah, cell.charge_wh, cell.discharge_wh]
        )


def cycle_dice(key: Hashes, cycle: Ints) -> Hashes:
    """A hash of each cycle of the cell with this key."""
    return draws.mix(draws.mix(key ^ draws.SALT["cycle"]) + draws.GOLDEN * cycle.astype(np.uint64))
