"""Age cells in steps: capacity and resistances of each cycle."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

from pipeline.sources.simulation import draws
from pipeline.sources.simulation.arrays import Hashes
from pipeline.sources.simulation.chemistry import Chemistry
from pipeline.sources.simulation.config import FleetConfig

FADE: Final = 4.0  # per cent in 100 cycles
_MOST_LOST: Final = 0.70  # where fading ends, so that a cell never becomes impossible
_GROWTH: Final = 1.5  # resistance grows by so many times the share of capacity that is lost
_FALL: Final = 0.03  # share by which resistances fall per K (about 25 kJ/mol)
_COLD: Final = 0.004  # share of the capacity that can't be used per K below 25 degrees C
ONSET_SHARE: Final = 0.8  # the knee's onset lies at this share of the knee's cycle
ONSET_FADE: Final = 4.0  # fade between onset and point, in multiples of the fade before
POINT_FADE: Final = 12.0  # fade after the point


@dataclass(frozen=True)
class Now:
    """A cell in one cycle: capacity in Ah between the open-circuit limits, ohms at its warmth."""

    capacity_ah: float
    r0: float
    r1: float


class Ageing:
    """What one cell loses from cycle to cycle, in straight lines.

    Capacity falls by `fade` per cent in 100 cycles. With a knee the fall is four times as steep
    from the onset (0.8 of the knee's cycle) and twelve times from the knee's point on: three lines
    that meet, which is what a double Bacon-Watts model describes (Fermin-Cueto et al., Energy and
    AI 1 (2020) 100006). From cycle to cycle capacity scatters by 0.06 %.
    """

    def __init__(self, config: FleetConfig, chemistry: Chemistry, key: Hashes) -> None:
        own = draws.mix(key ^ draws.SALT["cell"])
        self._own, self._nominal = own, config.nominal_ah
        self._size = config.nominal_ah * float(1.0 + 0.006 * draws.normal(own, 0)[0])
        resistance = float(1.0 + 0.05 * draws.normal(own, 12)[0]) / config.nominal_ah
        self._r0, self._r1 = chemistry.r0 * resistance, chemistry.r1 * resistance
        self._fade = (
            (FADE if config.fade is None else config.fade)
            / 1e4
            * float(np.exp(0.10 * draws.normal(own, 24)[0]))
        )
        self.point = None if config.knee is None else float(config.knee)
        self.onset = None if self.point is None else ONSET_SHARE * self.point

    def lost(self, cycle: float) -> float:
        """Share of the capacity lost before a cycle, without scatter; cycles count from 0."""
        bends = 0.0
        if self.onset is not None and self.point is not None:
            bends = (ONSET_FADE - 1.0) * max(cycle - self.onset, 0.0)
            bends += (POINT_FADE - ONSET_FADE) * max(cycle - self.point, 0.0)
        return min(self._fade * (cycle + bends), _MOST_LOST)

    def at(self, cycle: int, ambient_c: float, scatter: bool = True) -> Now:
        """The cell in a cycle that begins in these surroundings."""
        lost = self.lost(cycle)
        grown = (1.0 + _GROWTH * lost) * math.exp(-_FALL * (ambient_c - 25.0))
        if scatter:
            dice = draws.mix(self._own + draws.GOLDEN * np.array([cycle], np.uint64))
            lost += 0.0006 * float(draws.normal(dice, 0)[0])
        usable = 1.0 - _COLD * min(max(25.0 - ambient_c, 0.0), 60.0)
        return Now(self._size * usable * (1.0 - lost), self._r0 * grown, self._r1 * grown)
