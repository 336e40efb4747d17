"""What the model of the remaining life is compared with: dbt's straight line, and the other cells."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.training.life_cells import LifeCell
from transforms.life.history import Floats

LOOKS = (25, 50, 100)


@dataclass(frozen=True)
class Said:
    """Cycles left with a range; NaN: nothing said, or without an end."""

    cycles: float
    low: float
    high: float


NOTHING = Said(math.nan, math.nan, math.nan)


def straight_line(cell: LifeCell, now: float, threshold: float) -> Said:
    """int_remaining_life of what was measured up to now: medians of five, lines of 25, 50 and 100."""
    known = [(p.cycle, p.soh) for p in cell.points if p.cycle <= now]
    if not known:
        return NOTHING
    cycle, soh = np.array(known, np.float64).T
    median = np.array([np.median(soh[max(0, k - 2) : k + 3]) for k in range(soh.size)])
    margin = max(float(median[-1]) - threshold, 0.0)
    fades = {}
    for look in LOOKS:
        x, y = cycle[-look:], median[-look:]
        if x.size >= 10:
            x = x - x.mean()
            xx, xy = float(x @ x), float(x @ y)
            left = max(float(((y - y.mean()) ** 2).sum()) - xy * xy / xx, 0.0)
            fades[look] = (-xy / xx, math.sqrt(5.0 * left / (x.size - 2) / xx))
    if not fades:
        return NOTHING
    pace = fades.get(50, (0.0, 0.0))[0]
    fastest = [fade + 2.0 * error for fade, error in fades.values()]
    slowest = [fade - 2.0 * error for fade, error in fades.values()]
    return Said(
        margin / pace if pace > 0.0 else math.nan,
        min((margin / one for one in fastest if one > 0.0), default=math.nan),
        max(margin / one for one in slowest) if min(slowest) > 0.0 else math.nan,
    )


def mean_life(lives: Sequence[float], own: int, now: float) -> Said:
    """What the mean life of the other cells leaves; a range of 5 to 95 % of their lives."""
    others = np.delete(np.array(lives), own)
    if others.size == 0:
        return NOTHING
    low, high = np.quantile(others, (0.05, 0.95))
    return Said(*(max(float(life) - now, 0.0) for life in (others.mean(), low, high)))


@dataclass(frozen=True)
class Course:
    """Cycles and falling health of a cell, for looking up when it had a health."""

    cycle: Floats
    falling: Floats
    life: float

    @classmethod
    def of(cls, cell: LifeCell, life: float) -> Course:
        """By its truth."""
        return cls(cell.cycle, np.minimum.accumulate(cell.soh), life)

    def left_at(self, soh: float) -> float:
        """Cycles that were left when it had this health; NaN where it never had."""
        below = self.falling <= soh
        return self.life - float(self.cycle[int(np.argmax(below))]) if below.any() else math.nan


def same_health(courses: Sequence[Course], own: int, soh: float) -> Said:
    """What was left to the other cells at this health: median, 5 and 95 %."""
    left = np.array([one.left_at(soh) for k, one in enumerate(courses) if k != own])
    left = np.maximum(left[np.isfinite(left)], 0.0)
    if left.size == 0:
        return NOTHING
    low, middle, high = np.quantile(left, (0.05, 0.5, 0.95))
    return Said(float(middle), float(low), float(high))
