"""What is right for an export: exact where the file says it, a range where its rows leave it open."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.fuzz.log import Floats, Log

TOLERANCE = 0.002


@dataclass(frozen=True)
class Range:
    """Figures that are right, from low to high, before the tolerance."""

    low: float
    high: float

    def holds(self, value: float, floor: float) -> bool:
        """Whether a value is right; `floor` is what counts as nothing."""
        return self.low * (1 - TOLERANCE) - floor <= value <= self.high * (1 + TOLERANCE) + floor

    def __str__(self) -> str:
        low, high = f"{self.low:.6g}", f"{self.high:.6g}"
        return low if low == high else f"{low}..{high}"

    def joined(self, other: Range) -> Range:
        """The smallest range that holds both."""
        return Range(min(self.low, other.low), max(self.high, other.high))


Cycle = tuple[Range, Range]


@dataclass(frozen=True)
class Truth:
    """What is right for one cell of an export.

    Attributes:
        cells: names that are right.
        files: `folder/file` of its files; readings that name another are not of it.
        readings: fewest and most that are right.
        cycles: charge and discharge in Ah.
        counts_cycles: whether the file numbers its cycles; if not, sums are looked at, and the
            number of cycles if `is_full`.
        is_full: as of the log.
        first, last: each a choice of (earliest, latest); empty where the file has no date.
        floor_ah: what counts as nothing.
        harmless: dead letters that the damage to the file explains.
    """

    cells: tuple[str, ...]
    files: tuple[str, ...]
    readings: tuple[int, int]
    cycles: tuple[Cycle, ...]
    counts_cycles: bool
    is_full: bool
    first: tuple[tuple[dt.datetime, dt.datetime], ...]
    last: tuple[tuple[dt.datetime, dt.datetime], ...]
    floor_ah: float
    harmless: int


@dataclass(frozen=True)
class Export:
    """The files of an export and its truths, one per cell.

    Attributes:
        name: of its folder.
        brand: whose layout it is.
        recipe: what was chosen.
        files: content by name below the folder.
        truths: one per cell.
    """

    name: str
    brand: str
    recipe: dict[str, Any]
    files: dict[str, bytes]
    truths: tuple[Truth, ...]


def integrated(log: Log, at: Floats, keep: np.ndarray[Any, Any]) -> list[Cycle]:
    """What an integral of the rows kept can give per cycle, with times `at` as written.

    Between two rows of one step the trapezoid; between two steps either row's current or their
    mean may have flowed, and between two cycles to either.
    """
    at, current = at[keep], log.current_a[keep]
    step, cycle = log.step[keep], log.cycle[keep]
    length = np.maximum(np.diff(at), 0.0) / 3600.0
    choices = np.stack((current[:-1], current[1:], (current[:-1] + current[1:]) / 2.0)) * length
    same = step[:-1] == step[1:]
    choices[0] = np.where(same, choices[2], choices[0])
    choices[1] = np.where(same, choices[2], choices[1])
    found = []
    for number in range(1, len(log.cycles) + 1):
        certain = (cycle[:-1] == number) & (cycle[1:] == number)
        possible = (cycle[:-1] == number) | (cycle[1:] == number)
        pair = []
        for sign in (1.0, -1.0):
            flows = np.maximum(sign * choices, 0.0)
            least, most = flows.min(axis=0), flows.max(axis=0)
            pair.append(Range(float(least[certain].sum()), float(most[possible].sum())))
        found.append((pair[0], pair[1]))
    return found


def cycles_of(
    log: Log,
    *,
    has_counter: bool,
    clocks: list[Floats],
    first_counts: bool,
    lost_last: bool,
    blanked: list[int],
) -> tuple[Cycle, ...]:
    """What is right per cycle.

    Args:
        log: the rows.
        has_counter: whether the file counts charge and discharge.
        clocks: elapsed seconds by each clock of the file, as written.
        first_counts: whether what flowed before the first row is certain to belong to the test.
        lost_last: the last row can't be read.
        blanked: rows that lack something.
    """
    exact = [(Range(c, c), Range(d, d)) for c, d in log.cycles]
    keeps = [np.ones(len(log), bool)]
    if lost_last:
        keeps.append(keeps[0].copy())
        keeps[-1][-1] = False
    if blanked:
        keeps.append(keeps[-1].copy())
        keeps[-1][blanked] = False
    found = exact
    for keep in keeps:
        if has_counter:
            others = [_counted(log, keep, first_counts)]
        else:
            others = [integrated(log, at, keep) for at in (log.at_s, *clocks)]
        for other in others:
            found = [
                (a.joined(c), b.joined(d)) for (a, b), (c, d) in zip(found, other, strict=True)
            ]
    return tuple(found)


def _counted(log: Log, keep: np.ndarray[Any, Any], first_counts: bool) -> list[Cycle]:
    """What the counters of the rows kept show per cycle."""
    found = []
    for number in range(1, len(log.cycles) + 1):
        rows = np.flatnonzero(keep & (log.cycle == number))
        pair = []
        for counter, at in ((log.charge_ah, 0), (log.discharge_ah, 1)):
            high = float(counter[rows[-1]] - log.cycle_began[at, rows[-1]])
            low = high - (0.0 if first_counts or number > 1 else float(counter[rows[0]]))
            pair.append(Range(low, high))
        found.append((pair[0], pair[1]))
    return found


def dates_of(
    log: Log, resolution_s: float | None, lost_last: bool
) -> tuple[tuple[tuple[dt.datetime, dt.datetime], ...], ...]:
    """First and last time that are right; none without a wall clock."""
    if resolution_s is None:
        return (), ()
    slack = dt.timedelta(seconds=max(resolution_s, 1.0) + 0.01)

    def around(row: int, shift: float) -> tuple[dt.datetime, dt.datetime]:
        at = log.start + dt.timedelta(seconds=float(log.at_s[row]) + shift)
        return at - slack, at + slack

    shifts = {0.0, float(log.wall_shift_s[-1])}
    rows = [len(log) - 1, *([len(log) - 2] if lost_last else [])]
    return (
        (around(0, 0.0),),
        tuple(around(row, shift) for row in rows for shift in sorted(shifts)),
    )
