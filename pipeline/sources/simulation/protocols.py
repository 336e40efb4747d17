"""Test protocols: what a cell in steps does in each of its cycles.

A protocol runs one cycle index of a cell and says what kind of cycle that is. Cells charge at C/2
to the upper limit, hold it to C/20, rest, discharge at 1C to the lower limit and rest, except:

    cycling      never
    partial      between two states of charge (discharge_partial); a full cycle first and every
                 `reference_every`-th, before which the discharge goes to the lower limit
                 (charge_partial)
    drive        the discharge is a drive profile with regeneration
    formation    the first three cycle indexes are at C/10, with `per_index` cycles in each
    check_up     the first and every `reference_every`-th cycle is at C/5
    pulse        the first and every `reference_every`-th cycle is a pulse test: pulses of
                 discharge and charge at every tenth of the charge, as in the hybrid pulse power
                 characterization of the FreedomCAR battery test manual (INEEL, 2003)
    multistage   the charge is at 1C, C/2 and C/4
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from pipeline.sources.simulation.config import FleetConfig
from pipeline.sources.simulation.step_cell import CHARGE, DISCHARGE, EARLY_S, StepCell

CHARGE_C: Final = 0.5
DISCHARGE_C: Final = 1.0
CUTOFF_C: Final = 0.05
FORMATION_C: Final = 0.1
CHECK_UP_C: Final = 0.2
STAGES_C: Final = (1.0, 0.5, 0.25)
FORMATION_CYCLES: Final = 3
_REST_S: Final = 600.0
_DRIVE: Final = ((-1.0, 30.0), (-0.4, 15.0), (0.5, 10.0), (0.0, 5.0))  # C, s
_EARLY: Final = len(EARLY_S)

Protocol = Callable[[StepCell, FleetConfig, int], str]


def _charge(cell: StepCell, rates: tuple[float, ...] = (CHARGE_C,)) -> None:
    """To the upper limit in stages of falling current, the limit held, a rest."""
    top = cell.kind.v_max
    swing = cell.swing(CHARGE, rates[0])
    ends = [*(top - below for below in cell.kind.stages_v[: len(rates) - 1]), top]
    number = 0
    for rate, end in zip(rates, ends, strict=True):
        number += 1
        cell.step(number)
        cell.current(rate, until_v=end)
    cell.step(number + 1)
    cell.hold(top, CUTOFF_C, rates[-1])
    cell.rest(number + 2, _REST_S)
    cell.close(swing, True)


def _discharge(cell: StepCell, rate: float = DISCHARGE_C, number: int = 4) -> None:
    """To the lower limit, and a rest."""
    swing = cell.swing(DISCHARGE, rate)
    cell.step(number)
    cell.current(-rate, until_v=cell.kind.v_min, early=_EARLY)
    cell.rest(number + 1, _REST_S)
    cell.close(swing, True)


def _full(cell: StepCell) -> str:
    _charge(cell)
    _discharge(cell)
    return "full"


def cycling(cell: StepCell, _config: FleetConfig, _cycle: int) -> str:
    """Full cycles."""
    return _full(cell)


def partial(cell: StepCell, config: FleetConfig, cycle: int) -> str:
    """Cycles between two states of charge, and full ones as references."""
    every = config.reference_every
    if every and cycle % every == 0:
        return _full(cell)
    capacity = cell.now.capacity_ah
    swing = cell.swing(CHARGE, CHARGE_C)
    cell.step(1)
    wanted = max(config.soc_max - cell.soc, 0.01) * capacity
    cell.current(CHARGE_C, until_v=cell.kind.v_max, ah=wanted)
    cell.rest(3, _REST_S)
    cell.close(swing, False)  # at the upper limit too: it is not held there
    if every and (cycle + 1) % every == 0:
        _discharge(cell)
        return "charge_partial"
    swing = cell.swing(DISCHARGE, DISCHARGE_C)
    cell.step(4)
    wanted = max(cell.soc - config.soc_min, 0.01) * capacity
    reached = cell.current(-DISCHARGE_C, until_v=cell.kind.v_min, ah=wanted, early=_EARLY)
    cell.rest(5, _REST_S)
    cell.close(swing, reached)
    return "charge_partial" if reached else "discharge_partial"


def drive(cell: StepCell, _config: FleetConfig, _cycle: int) -> str:
    """A full charge, then a drive profile to the lower limit; the cycler runs it as one step."""
    _charge(cell)
    swing = cell.swing(DISCHARGE, _drive_rate())
    cell.step(4)
    reached = False
    while not reached:
        for rate, seconds in _DRIVE:
            if rate < 0.0:
                reached = cell.current(rate, until_v=cell.kind.v_min, seconds=seconds)
            elif rate > 0.0:
                # Near full the brakes take what the cell can't.
                cell.current(rate, until_v=cell.kind.v_max, seconds=seconds)
            else:
                cell.pause(seconds)
            if reached:
                break
    cell.rest(5, _REST_S)
    cell.close(swing, True)
    return "drive"


def _drive_rate() -> float:
    """Mean current of the drive profile in C."""
    return -sum(rate * s for rate, s in _DRIVE) / sum(s for _, s in _DRIVE)


def formation(cell: StepCell, config: FleetConfig, cycle: int) -> str:
    """Slow first cycles, several in a cycle index where `per_index` says so."""
    if cycle >= FORMATION_CYCLES:
        return _full(cell)
    for _ in range(config.per_index):
        _charge(cell, (FORMATION_C,))
        _discharge(cell, FORMATION_C)
    return "formation" if config.per_index == 1 else "several"


def check_up(cell: StepCell, config: FleetConfig, cycle: int) -> str:
    """Full cycles, and slow ones as check-ups."""
    if not config.reference_every or cycle % config.reference_every:
        return _full(cell)
    _charge(cell, (CHECK_UP_C,))
    _discharge(cell, CHECK_UP_C)
    return "check_up"


def pulse(cell: StepCell, config: FleetConfig, cycle: int) -> str:
    """Full cycles, and pulse tests."""
    if not config.reference_every or cycle % config.reference_every:
        return _full(cell)
    _charge(cell)
    low, high = cell.kind.v_min, cell.kind.v_max
    swing = cell.swing(DISCHARGE, DISCHARGE_C)
    number, reached = 4, False
    tenth = cell.now.capacity_ah / 10.0
    while not reached:
        start = cell.discharge_ah - cell.charge_ah
        cell.step(number)
        reached = cell.current(-1.0, until_v=low, seconds=30.0, early=_EARLY)
        cell.rest(number + 1, 40.0)
        if reached:
            break
        cell.step(number + 2)
        cell.current(0.75, until_v=high, seconds=10.0)
        cell.rest(number + 3, 40.0)
        cell.step(number + 4)
        left = tenth - (cell.discharge_ah - cell.charge_ah - start)
        reached = cell.current(-1.0, until_v=low, ah=max(left, tenth / 10.0))
        cell.rest(number + 5, _REST_S)
    cell.close(swing, True)
    return "pulse"


def multistage(cell: StepCell, _config: FleetConfig, _cycle: int) -> str:
    """A charge in three stages."""
    _charge(cell, STAGES_C)
    _discharge(cell, number=6)
    return "full"


PROTOCOLS: Final[dict[str, Protocol]] = {
    "cycling": cycling,
    "partial": partial,
    "drive": drive,
    "formation": formation,
    "check_up": check_up,
    "pulse": pulse,
    "multistage": multistage,
}


def of_cell(config: FleetConfig, cell: int) -> str:
    """The name of a cell's protocol; in a mixed fleet the cells take turns."""
    if config.protocol == "mixed":
        return list(PROTOCOLS)[cell % len(PROTOCOLS)]
    return config.protocol


def rates_c(protocol: str, kind: str) -> tuple[float, float]:
    """Charge and discharge rate of a kind of cycle, in C; a drive's discharge is its mean."""
    if kind in ("formation", "several"):
        return FORMATION_C, FORMATION_C
    if kind == "check_up":
        return CHECK_UP_C, CHECK_UP_C
    if kind == "drive":
        return CHARGE_C, _drive_rate()
    return (STAGES_C[0] if protocol == "multistage" else CHARGE_C), DISCHARGE_C
