"""Decides what a positive current does, by states, counters and the voltage."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from schemas.aliases import STATE
from transforms.interpret import states
from transforms.interpret.frame import F64, I64, Frame, Mask, counts_below_zero
from transforms.interpret.interpretation import Sign, Use, Witness
from transforms.interpret.timeline import Clocks

# How sure a witness has to be, from -1 (the other way round) to 1.
_SURE = 0.6
# A voltage that moves less says nothing.
_LEAST_VOLTS = 0.02
# Share of the throughput in a direction from which on it counts as met.
_MET = 0.02
# Fewer rows are no test.
_FEW_ROWS = 20


@dataclass
class Direction:
    """What was decided about the current's direction.

    Attributes:
        sign: what a positive current does.
        state: the column of states, where it names directions.
        signed: the current in A, positive where it charges, in the order of measurement.
    """

    sign: Sign
    state: str | None
    signed: F64
    witnesses: list[Witness] = field(default_factory=list)
    disagreements: list[str] = field(default_factory=list)


def decide(
    frame: Frame, clocks: Clocks, current: F64, voltage: F64, told: Sign | None
) -> Direction:
    """What a positive current does.

    Args:
        frame: the table.
        clocks: its times; all arrays are in their order of measurement.
        current: in A as the file has it, shape (n,).
        voltage: in V, shape (n,).
        told: what the user says.
    """
    interval = clocks.interval
    weight = np.abs(current) * np.where(np.isfinite(interval), interval, _typical(interval))
    weight = np.where(np.isfinite(weight), weight, 0.0)
    scores: dict[str, float] = {}
    witnesses: list[Witness] = []
    state = _state_column(frame)
    by_state = None
    if state is not None:
        by_state = states.directions(frame.texts(state)).astype(np.int64)[clocks.perm]
        by_state[by_state == states.UNKNOWN] = 0
        _weigh("direction", state, current, by_state, weight, scores, witnesses)
    by_counter = _counter_direction(frame, clocks)
    if by_counter is not None:
        _weigh(
            "direction", "growth of the counters", current, by_counter, weight, scores, witnesses
        )
    by_voltage = _voltage_direction(current, voltage, clocks.first)
    _weigh("direction", "course of the voltage", current, by_voltage, weight, scores, witnesses)
    turns = _turns(current, voltage)
    sign, doubts = _judge(current, weight, by_state, by_counter, scores, state, turns)
    if told is not None:
        source = {Sign.FROM_STATE: by_state, Sign.FROM_COUNTERS: by_counter}
        # Without what it is to be taken from, the direction is not known.
        doubts = ["direction_disagrees"] if source.get(told, current) is None else []
        sign = told
        witnesses.append(Witness("direction", "--dialect", 1.0, "the sign is as it says"))
    signed = apply_sign(current, sign, by_state, by_counter)
    return Direction(sign, state, signed, witnesses, doubts)


def apply_sign(current: F64, sign: Sign, by_state: I64 | None, by_counter: F64 | I64 | None) -> F64:
    """The current in A with the sign of the reading: positive where it charges."""
    if sign is Sign.POSITIVE_DISCHARGES:
        return -current
    if sign is Sign.FROM_STATE and by_state is not None:
        return np.where(
            by_state < 0, -np.abs(current), np.where(by_state > 0, np.abs(current), current)
        )
    if sign is Sign.FROM_COUNTERS and by_counter is not None:
        return np.where(by_counter < 0, -np.abs(current), np.abs(current))
    return current


def _typical(interval: F64) -> float:
    known = interval[np.isfinite(interval)]
    return float(np.median(known)) if len(known) else 1.0


def _state_column(frame: Frame) -> str | None:
    """The column whose words name directions, if there is one."""
    for name in frame.columns.get(STATE, []):
        text = frame.texts(name)
        if text is None:
            continue
        found = states.directions(text)
        if ((found == 1) | (found == -1)).any() and (found != states.UNKNOWN).mean() > 0.5:
            return name
    return None


def _weigh(
    about: str,
    name: str,
    current: F64,
    says: I64,
    weight: F64,
    scores: dict[str, float],
    witnesses: list[Witness],
) -> None:
    heard = (says != 0) & (weight > 0)
    total = float(weight[heard].sum())
    if total <= 0 or total < 0.05 * float(weight.sum()):
        return
    score = float((weight * np.sign(current) * says)[heard].sum() / total)
    scores[name] = score
    witnesses.append(Witness(about, name, (1.0 + score) / 2.0))


def _counter_direction(frame: Frame, clocks: Clocks) -> I64 | None:
    """1 where only the charge counter grows, -1 where only the discharge counter does, else 0."""
    growth = []
    for field_name in ("charge_capacity_ah", "discharge_capacity_ah"):
        columns = frame.columns.get(field_name, [])
        if not columns:
            return None
        values = frame.numbers(columns[0])[clocks.perm]
        if counts_below_zero(values):
            values = -values
        steps = np.zeros(len(values))
        steps[1:] = np.diff(values)
        steps[clocks.first] = 0.0
        growth.append(np.where(np.isfinite(steps), steps, 0.0))
    up, down = growth[0] > 0, growth[1] > 0
    if not (up & ~down).any() and not (down & ~up).any():
        return None
    found: I64 = (up & ~down).astype(np.int64) - (down & ~up).astype(np.int64)
    return found


def _voltage_direction(current: F64, voltage: F64, first: Mask) -> I64:
    """1 in runs of one sign of the current in which the voltage rises, -1 where it falls, else 0.

    The first row of a run is left out: its voltage jumped with the current.
    """
    out = np.zeros(len(current), dtype=np.int64)
    if len(current) < 3:
        return out
    small = 0.001 * np.nanmax(np.abs(current)) if np.isfinite(current).any() else 0.0
    sign = np.where(np.abs(current) > small, np.sign(current), 0.0)
    sign = np.where(np.isfinite(sign), sign, 0.0)
    begins = first.copy()
    begins[1:] |= sign[1:] != sign[:-1]
    starts = np.flatnonzero(begins)
    ends = np.append(starts[1:], len(current))
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        if sign[start] == 0 or end - start < 3:
            continue
        change = voltage[end - 1] - voltage[start + 1]
        if np.isfinite(change) and abs(change) >= _LEAST_VOLTS:
            out[start:end] = 1 if change > 0 else -1
    return out


def _judge(
    current: F64,
    weight: F64,
    by_state: I64 | None,
    by_counter: I64 | None,
    scores: dict[str, float],
    state: str | None,
    turns: bool,
) -> tuple[Sign, list[str]]:
    total = float(weight.sum())
    if total <= 0:
        return Sign.POSITIVE_CHARGES, []
    small = 1e-3 * float(np.nanmax(np.abs(current)))
    negative = float(weight[current < -small].sum()) / total
    unsigned = negative < 1e-4
    if unsigned:
        for says, sign in ((by_state, Sign.FROM_STATE), (by_counter, Sign.FROM_COUNTERS)):
            if says is not None and all(
                weight[says == way].sum() > _MET * total for way in (1, -1)
            ):
                return sign, []
    strong = [scores[name] for name in (state, "growth of the counters") if name in scores]
    by_voltage = scores.get("course of the voltage")
    if strong:
        if all(score >= _SURE for score in strong):
            return Sign.POSITIVE_CHARGES, []
        if all(score <= -_SURE for score in strong):
            return Sign.POSITIVE_DISCHARGES, []
        votes = [*strong, *([by_voltage] if by_voltage is not None else [])]
        sign = Sign.POSITIVE_CHARGES if sum(votes) >= 0 else Sign.POSITIVE_DISCHARGES
        return sign, ["direction_disagrees"]
    if unsigned and turns:
        # One direction by its sign, both by the voltage.
        return Sign.POSITIVE_CHARGES, ["direction_disagrees"]
    if by_voltage is not None and by_voltage <= -_SURE:
        return Sign.POSITIVE_DISCHARGES, []
    if (by_voltage is None or by_voltage < 0) and len(current) >= _FEW_ROWS:
        return Sign.POSITIVE_CHARGES, ["direction_guessed"]
    return Sign.POSITIVE_CHARGES, []


def _turns(current: F64, voltage: F64) -> bool:
    """Whether the voltage of the rows that carry a current goes both ways by much."""
    small = 0.001 * np.nanmax(np.abs(current)) if np.isfinite(current).any() else 0.0
    with np.errstate(invalid="ignore"):
        course = voltage[(np.abs(current) > small) & np.isfinite(voltage)]
    if len(course) < 10:
        return False
    span = float(course.max() - course.min())
    if span < _LEAST_VOLTS:
        return False
    # The largest fall from an earlier high, and the largest rise from an earlier low.
    fall = float((np.maximum.accumulate(course) - course).max())
    rise = float((course - np.minimum.accumulate(course)).max())
    return min(fall, rise) > 0.3 * span


def use_of_state(state: str | None) -> list[Use]:
    """The state's column as one that is used."""
    return [] if state is None else [Use(state, STATE, why="names directions")]
