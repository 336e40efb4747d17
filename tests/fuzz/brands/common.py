"""What all brands share: damage to clocks and counters, and an export put together."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tests.fuzz.draw import Draw
from tests.fuzz.log import Floats, Log
from tests.fuzz.truth import Export, Truth, cycles_of, dates_of
from tests.fuzz.writing import Damage, Written

SUMMER = dt.timedelta(hours=1)


def hurt(draw: Draw, log: Log, *, wall: bool = False, counter: bool = False) -> Log:
    """Now and then sets the wall clock back by an hour, or lets the counters dip for a moment."""
    rows = len(log)
    if wall and draw.chance("clock_set_back", 0.08):
        shift = np.zeros(rows)
        shift[draw.whole(rows // 3, 2 * rows // 3) :] = -SUMMER.total_seconds()
        log = replace(log, wall_shift_s=shift)
    if counter and draw.chance("counter_dips", 0.08):
        at = draw.whole(rows // 4, 3 * rows // 4)
        within = np.flatnonzero((log.step == log.step[at]) & (log.kind != "rest"))
        if within.size > 12:
            start = int(within[within.size // 2])
            into = log.kind[start] != "discharge"
            row = 0 if into else 1
            shown = log.counters[row] - log.step_began[row]
            dip = np.zeros(rows)
            dip[start : start + 2] = draw.choose("dip", (0.001, 0.02, 0.4)) * shown[start]
            log = replace(log, dip_ah=dip)
    return log


def spectrum(log: Log) -> Log:
    """The log with a sweep of ten rows at its end, without current."""
    rows = 10
    last = {
        name: np.repeat(np.asarray(getattr(log, name))[..., -1:], rows, axis=-1)
        for name in (
            "step_s", "cycle", "step", "line", "kind", "current_a", "voltage_v", "temperature_c",
            "charge_ah", "discharge_ah", "charge_wh", "discharge_wh", "step_began", "cycle_began",
            "frequency_hz", "wall_shift_s", "dip_ah",
        )
    }  # fmt: skip
    last["at_s"] = log.at_s[-1] + np.arange(1.0, rows + 1)
    last["step_s"] = np.arange(1.0, rows + 1)
    last["step"], last["line"] = last["step"] + 1, last["line"] + 1
    last["kind"] = np.full(rows, "rest", dtype="<U9")
    last["current_a"] = np.zeros(rows)
    last["frequency_hz"] = 1000.0 / 2.0 ** np.arange(rows)
    last["step_began"] = np.repeat(log.counters[:, -1:], rows, axis=1)
    return replace(
        log,
        **{
            name: np.concatenate((np.asarray(getattr(log, name)), added), axis=-1)
            for name, added in last.items()
        },
    )


def truth(
    log: Log,
    written: Sequence[Written],
    *,
    cells: tuple[str, ...],
    files: Sequence[str],
    counter: bool,
    cycle: bool = True,
    clocks: Sequence[Floats] = (),
    resolution_s: float | None = None,
    first_counts: bool = True,
) -> Truth:
    """What is right of a log that was written to these files.

    Args:
        log: the rows, over all files.
        written: the files, the last one last.
        cells: names that are right.
        files: their names with the folder.
        counter: whether charge and discharge are counted.
        cycle: whether cycles are numbered.
        clocks: elapsed seconds as written.
        resolution_s: of the wall clock; None without one.
        first_counts: whether what flowed before the first row is certain to belong to the test.
    """
    damage = Damage(
        lost_last=written[-1].damage.lost_last,
        blanked=written[0].damage.blanked if len(written) == 1 else [],
        repeated=sum(one.damage.repeated for one in written),
    )
    first, last = dates_of(log, resolution_s, damage.lost_last)
    lost = int(damage.lost_last) + len(damage.blanked)
    return Truth(
        cells=cells,
        files=tuple(files),
        readings=(sum(one.different for one in written) - lost, len(log) + damage.repeated),
        cycles=cycles_of(
            log,
            has_counter=counter,
            clocks=list(clocks),
            first_counts=first_counts,
            lost_last=damage.lost_last,
            blanked=damage.blanked,
        ),
        counts_cycles=cycle,
        is_full=log.is_full,
        first=first,
        last=last,
        # a hundred-thousandth of the cell: a second or less of current at a turn
        floor_ah=1e-5 * log.nominal_ah,
        harmless=lost + sum(one.damage.headers for one in written),
    )


def single(
    draw: Draw, brand: str, folder: str, file: str, written: Written, right: Truth
) -> Export:
    """An export of one file and one cell."""
    return Export(folder, brand, draw.recipe, {file: written.content}, (right,))
