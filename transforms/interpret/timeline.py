"""What is known of a file's times, and in which order its rows were measured."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from transforms.interpret.frame import F64, I64, Frame, Mask
from transforms.interpret.interpretation import Use, Witness


@dataclass
class Clocks:
    """What was decided about time.

    Attributes:
        uses: the columns of event time, test time, step time.
        left: columns that are no clock of the reading.
        perm: the order in which rows were measured, as row numbers.
        first: in that order, whether a row is the first of its equipment.
        elapsed: seconds of the test's clock per row in that order, NaN where not known.
        wall: microseconds since 1970 UTC in that order, NaN where not known.
        clock: the column of elapsed time, for a person.
        event_time: the source of event time, for a person.
        start_us: when the test began, if only the file's head says so.
        day_first: how dates are written.
        in_order: whether times have to be put right row after row.
        order: see `Interpretation`.
        by_runs: whether the test's clock is made of one that starts again: see `Interpretation`.
        wall_of_runs: whether event time says when a run began: see `Interpretation`.
        standard_time: whether the clock stays on standard time: see `Interpretation`.
    """

    uses: list[Use] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    perm: I64 = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    first: Mask = field(default_factory=lambda: np.zeros(0, dtype=bool))
    elapsed: F64 | None = None
    wall: F64 | None = None
    clock: str = "none"
    event_time: str = "none"
    start_us: int | None = None
    day_first: bool | None = None
    in_order: bool = False
    order: str = "file"
    by_runs: bool = False
    wall_of_runs: bool = False
    standard_time: bool = False
    witnesses: list[Witness] = field(default_factory=list)
    disagreements: list[str] = field(default_factory=list)

    @property
    def interval(self) -> F64:
        """Seconds since the previous row of the same equipment, NaN where not known or none."""
        size = len(self.perm)
        out = np.full(size, np.nan)
        if self.elapsed is not None:
            out[1:] = np.diff(self.elapsed)
            out[out < 0] = np.nan
        if self.wall is not None:
            wall = np.full(size, np.nan)
            wall[1:] = np.diff(self.wall) / 1e6
            wall[wall < 0] = np.nan
            out = np.where(np.isnan(out), wall, out)
        out[self.first] = np.nan
        return out


def order_rows(
    frame: Frame, found: Clocks, groups: I64, names: list[str], elapsed: dict[str, F64]
) -> None:
    """The order of measurement: the file's, or the record numbers' where they differ."""
    records = frame.columns.get("record_index", [])
    if records and frame.rows > 1:
        numbers = frame.numbers(records[0])
        # Numbers that restart with each cycle or file say nothing of the order; those that are
        # all different do.
        if (
            np.isfinite(numbers).all()
            and (np.diff(numbers) <= 0).any()
            and _different_pairs(groups, numbers) == frame.rows
        ):
            found.order = "record"
    if found.order == "file" and frame.rows > 2 and _descends(names, elapsed):
        found.order = "reversed"
    record = frame.numbers(records[0]) if records else None
    found.perm, found.first = measured_order(found.order, groups, record)


def measured_order(order: str, groups: I64, records: F64 | None) -> tuple[I64, Mask]:
    """The rows in order of measurement, equipment by equipment.

    Args:
        order: see `Interpretation`.
        groups: a code per row for what was measured.
        records: record numbers, where that is the order.

    Returns:
        row numbers in that order, and whether each is the first of its equipment.
    """
    rows = np.arange(len(groups))
    key = records if order == "record" and records is not None else rows
    if order == "reversed":
        key = -rows
    perm = np.lexsort((key, groups)).astype(np.int64)
    ordered = groups[perm]
    first = np.ones(len(groups), dtype=bool)
    first[1:] = ordered[1:] != ordered[:-1]
    return perm, first


def _different_pairs(groups: I64, numbers: F64) -> int:
    """How many different pairs there are."""
    pairs = np.empty(len(numbers), dtype=[("g", np.int64), ("n", np.float64)])
    pairs["g"], pairs["n"] = groups, numbers
    return len(np.unique(pairs))


def _descends(names: list[str], elapsed: dict[str, F64]) -> bool:
    """Whether the newest row is the first."""
    for name in names:
        values = elapsed[name]
        steps = np.diff(values[np.isfinite(values)])
        if len(steps) and (steps < 0).mean() > 0.9:
            return True
    return False


def runs_on(records: F64 | None, perm: I64, first: Mask) -> Mask | None:
    """Where record numbers go up from the row before; None if they do not tell the order.

    They may fall once or twice: where a file holds a block of rows again.
    """
    if records is None or len(records) < 2:
        return None
    steps = np.diff(records[perm])
    up: Mask = (steps > 0) | first[1:]
    return up if (~up).sum() <= 2 else None
