"""Cycles of tests without a cycle number, from swings of charge; see the model's swings_of_charge.

The level is the net charge since the test began. It turns where it leaves its last high or low by
more than a share of the cell's capacity; on a grid of levels, so that crossing back and forth over
one line is no movement and reaching another one is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from transforms.cycles.measure import F64, I64

# As dbt_project.yml has them: least_swing_fraction, full_swing_fraction.
LEAST_SWING = 0.05
_FULL_SWING = 0.8
_SAME = 1e-6


@dataclass(frozen=True)
class Level:
    """Where a test's level stands at a row; of its beginning if `band` is None.

    Attributes:
        level_ah: net charge since the test began.
        band: the grid's band that it is in.
        line: the last line that was crossed; None before any.
        movement: 1 up, -1 down; 0 before any line was crossed.
        least_ah: the grid's distance; 0 until it is known.
        lead: 1 if charges begin cycles, -1 if discharges do, 0 while it is not known.
        cycle: the number of the cycle that the next row belongs to.
    """

    level_ah: float = 0.0
    band: int | None = None
    line: int | None = None
    movement: int = 0
    least_ah: float = 0.0
    lead: int = 0
    cycle: int = 1


@dataclass(frozen=True)
class Found:
    """The cycles of a stretch of readings of one test.

    Attributes:
        starts: the first row of each cycle; the last one is open.
        levels: where the level stood before each of them.
    """

    starts: list[int]
    levels: list[Level]


def find(net_ah: F64, start: Level) -> Found:
    """Cuts the readings of a test, from where a cycle begins, into cycles.

    Args:
        net_ah: net charge of each reading's interval, shape (n,); 0 at rest.
        start: where the level stood before the first one.
    """
    if start.least_ah <= 0.0:
        return Found([0], [start])
    level = start.level_ah + np.cumsum(net_ah)
    band = np.floor(level / start.least_ah + 0.5).astype(np.int64)
    turns, movements, lines = _turns(band, start)
    # Legs between turns; the first one is the rest of what the stretch begins in.
    borders = np.concatenate(([0], turns, [len(level)])).tolist()
    directions = [start.movement or (-movements[0] if movements else 0), *movements]
    ends, nets = [], []
    before = start.level_ah
    for leg, direction in enumerate(directions):
        ended = _end(level, borders[leg], borders[leg + 1], direction, start, leg)
        ends.append(ended)
        after = start.level_ah if ended < 0 else float(level[ended])
        nets.append(after - before)
        before = after
    lead = start.lead or _lead(nets, start)
    starts, levels = [0], [start if not lead else replace(start, lead=lead)]
    if not lead:
        return Found(starts, levels)
    cycle = start.cycle
    # The test's first swing belongs to its first cycle, whichever way it goes.
    for leg in range(1, len(directions)):
        begins = ends[leg - 1] + 1
        if directions[leg] == lead and begins > 0:
            cycle += 1
            at = begins - 1
            starts.append(begins)
            levels.append(
                Level(
                    float(level[at]), int(band[at]), _line_at(lines, at, start.line),
                    directions[leg - 1], start.least_ah, lead, cycle,
                )
            )  # fmt: skip
    return Found(starts, levels)


def _turns(band: I64, start: Level) -> tuple[I64, list[int], list[tuple[int, int]]]:
    """Rows at which the level turned, which way it moves then, and (row, line) of each crossing."""
    earlier = np.append(band[0] if start.band is None else start.band, band[:-1])
    crossing = np.flatnonzero(band != earlier)
    up = band[crossing] > earlier[crossing]
    line = np.where(up, band[crossing], band[crossing] + 1)
    turns, movements = [], []
    last_line, last_movement = start.line, start.movement
    lines = []
    for row, rises, at in zip(crossing.tolist(), up.tolist(), line.tolist(), strict=True):
        if last_line is None:
            movement = 1 if rises else -1
        elif at != last_line:
            movement = 1 if at > last_line else -1
        else:
            movement = last_movement
        last_line = at
        lines.append((row, at))
        if movement != last_movement:
            turns.append(row)
            movements.append(movement)
            last_movement = movement
    return np.array(turns, dtype=np.int64), movements, lines


def _line_at(lines: list[tuple[int, int]], row: int, found: int | None) -> int | None:
    """The last line that was crossed by then."""
    for place, line in lines:
        if place > row:
            break
        found = line
    return found


def _end(level: F64, begin: int, end: int, direction: int, start: Level, leg: int) -> int:
    """The last row of a leg at its highest or lowest level; -1 if that lies before the stretch."""
    same = _SAME * start.least_ah
    part = direction * level[begin:end]
    if not len(part):
        return -1
    extreme = float(part.max())
    if leg == 0:
        at_start = direction * start.level_ah
        # What the stretch begins in has had its extreme, unless the level goes on from there.
        if start.movement and extreme <= at_start + same:
            return -1
        if not start.movement and extreme <= same:
            return -1
    return begin + int(np.flatnonzero(part >= extreme - same)[-1])


def _lead(nets: list[float], start: Level) -> int:
    """Which direction begins cycles; 0 while that is not known."""
    swings = [net for net in nets if abs(net) > _SAME * start.least_ah]
    if not swings or start.band is not None:
        return 0
    if swings[0] > 0.0:
        return 1
    # The last leg may not be over.
    over = swings[:-1]
    discharges = [net for net in over if net < 0.0]
    if len(discharges) < 2:
        return 0
    return -1 if swings[0] <= _FULL_SWING * min(discharges) else 1
