"""Holds a file's clocks against each other and against the order of its rows."""

from __future__ import annotations

import numpy as np

from transforms.interpret.frame import F64, Frame, Mask
from transforms.interpret.interpretation import Witness
from transforms.interpret.timeline import Clocks, runs_on

# A row's time is good to this, where stamps carry whole seconds only.
_RESOLUTION_S = 1.0
# Two clocks disagree when they drift apart by more than this share and this many seconds.
DRIFT = 0.01
DRIFT_S = 300.0
# How often in a file, and by how much, a clock is set back.
_MOST_SET_BACK = 100
_FURTHEST_BACK_S = 26 * 3600.0


def passing(first: Mask, elapsed: F64 | None, step_time: F64 | None) -> F64 | None:
    """Seconds since the row before by the test's clock, or by the step's; NaN for first rows.

    A test's clock that began again gives a negative number; a step's gives what it shows.
    """
    if elapsed is None and step_time is None:
        return None
    values = elapsed if elapsed is not None else step_time
    assert values is not None
    out = np.full(len(first), np.nan)
    out[1:] = np.diff(values)
    if elapsed is None:
        out = np.where(out < 0, values, out)
    out[first] = np.nan
    return out


def added_up(run: F64, first: Mask) -> F64:
    """Seconds since an equipment's first run began, of a clock that starts again with every run."""
    passed = passing(first, None, run)
    assert passed is not None
    passed = np.where(first, run, passed)
    total = np.cumsum(np.where(np.isfinite(passed), passed, 0.0))
    begun = np.maximum.accumulate(np.where(first, np.arange(len(run)), 0))
    before = total - np.where(np.isfinite(passed), passed, 0.0)
    return np.where(np.isfinite(run), total - before[begun], np.nan) if len(run) else run


def set_back(wall: F64, passed: F64 | None, numbered: Mask | None) -> Mask:
    """Where the wall clock goes back though time passed.

    Args:
        wall: seconds since the row before by the wall clock, NaN where not known.
        passed: the same by the test's or the step's clock, negative where that began again.
        numbered: where the record numbers go up; None if they do not tell the order.

    Without either only a change of the clocks by an hour in a file that is otherwise in order is
    believed: other files are simply not sorted.
    """
    with np.errstate(invalid="ignore"):
        back: Mask = wall < -2.0 * _RESOLUTION_S
        if passed is not None:
            back &= passed >= 0
        if numbered is not None:
            back &= numbered
        elif passed is None:
            typical = float(np.nanmedian(wall[wall > 0])) if (wall > 0).any() else 0.0
            back &= np.abs(wall + 3600.0) <= max(2.0 * typical, 5.0)
            if (wall < -2.0 * _RESOLUTION_S).sum() != back.sum():
                back &= False
        # Clocks are set now and then, and by hours: a file of older tests behind newer ones is
        # another thing.
        if back.sum() > _MOST_SET_BACK or (wall[back] < -_FURTHEST_BACK_S).any():
            back &= False
    return back


def compare(frame: Frame, found: Clocks) -> None:
    """Holds the wall clock against the test's clock, and both against the order of the rows."""
    if found.wall is None or found.wall_of_runs:
        return
    wall = np.diff(found.wall) / 1e6
    wall[found.first[1:]] = np.nan
    step = next((use.column for use in found.uses if use.field == "step_time_s"), None)
    step_time = None if step is None else frame.scaled(step)[found.perm]
    passed = passing(found.first, found.elapsed, step_time)
    records = frame.columns.get("record_index", [])
    numbered = runs_on(frame.numbers(records[0]) if records else None, found.perm, found.first)
    back = set_back(wall, None if passed is None else passed[1:], numbered)
    if back.any():
        found.in_order = True
        found.disagreements.append("clock_disagrees")
        text = (
            f"{found.event_time} goes back {_times(int(back.sum()))}, by up to "
            f"{-np.nanmin(np.where(back, wall, np.nan)):.0f} s, while the test runs on"
        )
        witness = Witness("clock", "order of the rows", 1.0 - float(back.mean()), text)
        found.witnesses.append(witness)
        return
    elapsed = None
    if found.elapsed is not None:
        elapsed = np.diff(found.elapsed)
        elapsed[found.first[1:]] = np.nan
    if elapsed is None:
        return
    both = np.isfinite(wall) & np.isfinite(elapsed) & (wall >= 0) & (elapsed >= 0)
    if not both.any():
        return
    # A pause shows in the wall clock alone: it is no disagreement.
    pause = wall > 10 * elapsed + 600
    walls, clocks = float(wall[both & ~pause].sum()), float(elapsed[both & ~pause].sum())
    if walls <= 0 or clocks <= 0:
        return
    ratio = clocks / walls
    found.witnesses.append(Witness("clock", "test clock / wall clock", ratio))
    if abs(ratio - 1.0) > DRIFT and abs(walls - clocks) > DRIFT_S:
        found.disagreements.append("clock_disagrees")


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
