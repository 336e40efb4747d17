"""Decides how the rows of a file are to be understood, by what agrees in it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from schemas.aliases import CAPACITY, ENERGY, NET_CAPACITY, STATE, normalise
from transforms import convert
from transforms.interpret import clocks as clock_rules
from transforms.interpret import counters as counter_rules
from transforms.interpret import direction as direction_rules
from transforms.interpret import layouts
from transforms.interpret.frame import F64, I64, SURVEY_ROWS, Frame
from transforms.interpret.interpretation import (
    SECOND,
    TOLD,
    Head,
    Interpretation,
    Sign,
    Use,
    Witness,
)
from transforms.interpret.timeline import Clocks
from transforms.interpret.told import Told

# Read as they are; the others have rules of their own.
_PLAIN = ("voltage_v", "current_a", "internal_resistance_ohm", "temperature_c",
          "ambient_temperature_c", "frequency_hz")  # fmt: skip
_NAMED = ("equipment_id", "equipment_type", "test_id", "source_file", "streamed_at", "ingested_at",
          "source_row")  # fmt: skip
# A step or cycle number that goes up with nearly every row counts rows.
_COUNTS_ROWS = 0.8
# Whose clocks are in seconds without saying so.
_SECONDS_LAYOUTS = frozenset({"NASA PCoE", "Arbin", "BioLogic"})
# Fewer intervals say nothing of how often a test is logged.
_LEAST_INTERVALS = 5
_CELL_FIELDS = ("cycle_index", "step_index", "record_index", "test_time_s", "step_time_s",
                "charge_capacity_ah", "discharge_capacity_ah", CAPACITY, NET_CAPACITY,
                STATE)  # fmt: skip
_IMPEDANCE = re.compile(r"(?:^|_)(?:re|im|mod|phase)?_?z(?:_|$)|impedance", re.IGNORECASE)


def decide(
    table: pa.Table,
    head: Head | None = None,
    zone: ZoneInfo | None = None,
    told: Told | None = None,
    day_first: bool | None = None,
) -> Interpretation:
    """How the rows of a file's table are to be understood.

    Args:
        table: the rows in the file's order under its own names; of a long file its beginning.
        head: what stands outside the table.
        zone: of times that carry none; UTC if None.
        told: what the user said.
        day_first: whether dates have the day first, if the user says so.
    """
    head, told = head or Head(), told or Told()
    frame = Frame(table.slice(0, SURVEY_ROWS), told)
    named = layouts.name_of(table.column_names, head)
    groups = _groups(frame)
    given = told.day_first if told.day_first is not None else day_first
    times = clock_rules.decide(frame, head, zone or ZoneInfo("UTC"), given, groups, named)
    uses, left, refused = list(times.uses), list(times.left), list(frame.refused)
    witnesses, doubts = list(times.witnesses), list(times.disagreements)
    _plain_columns(frame, uses, left)
    _numbers_of_place(frame, times, uses, left, witnesses)
    sign = Sign.POSITIVE_CHARGES
    grain, in_order = None, times.in_order
    current, voltage = (
        _value(frame, uses, "current_a", times),
        _value(frame, uses, "voltage_v", times),
    )
    if current is not None and voltage is not None and frame.rows:
        _without_impedance(frame, uses, times, current)
        direction = direction_rules.decide(frame, times, current, voltage, told.sign)
        sign = direction.sign
        uses += direction_rules.use_of_state(direction.state)
        witnesses += direction.witnesses
        doubts += direction.disagreements
        _unit_by_counters(frame, times, uses, direction.signed, witnesses)
        charge = counter_rules.flow(direction.signed, times)
        energy = counter_rules.flow(direction.signed * voltage, times)
        counted = counter_rules.decide(frame, times, charge, energy)
        uses += counted.uses
        left += counted.left
        witnesses += counted.witnesses
        doubts += counted.disagreements
        grain, in_order = counted.grain, in_order or counted.in_order
        in_order = in_order or sign is Sign.FROM_COUNTERS
    else:
        uses += _named_counters(frame)
    if frame.notation[1]:
        doubts.append("unit_guessed")
    in_order = _looks_alike(frame, times, uses, left, witnesses) or in_order
    _unit_doubt(frame, times, uses, witnesses, doubts, named)
    uses = [replace(use, why=TOLD) if _is_told(frame, use) else use for use in uses]
    known = {use.column for use in uses} | {column for column, _ in refused}
    others = [name for name in table.column_names if name not in known]
    interval = times.interval
    typical = interval[np.isfinite(interval) & (interval > 0)]
    return Interpretation(
        uses=tuple(uses),
        left=tuple(others),
        refused=tuple(refused),
        dialect=named,
        sign=sign,
        notation=frame.notation[0],
        order=times.order,
        day_first=times.day_first,
        clock=times.clock,
        event_time=times.event_time,
        start_us=times.start_us,
        counter_grain=grain,
        sampling_s=float(np.median(typical)) if len(typical) >= _LEAST_INTERVALS else None,
        typical_current_a=_large(current),
        by_runs=times.by_runs,
        wall_of_runs=times.wall_of_runs,
        standard_time=times.standard_time,
        in_order=in_order or times.order != "file",
        counted=any(w.about == "identity" and w.name == "clock" for w in witnesses),
        open_circuit=_is_open_circuit(frame, table.column_names, named),
        is_cell=_is_cell(frame, table.column_names),
        witnesses=tuple(witnesses),
        disagreements=tuple(sorted(set(doubts))),
    )


def _is_told(frame: Frame, use: Use) -> bool:
    """Whether nothing but the user says what a column stands for, or in what unit it is."""
    said = frame.said(use.column) == use.field or frame.unit_is_said(use.column)
    return said and use.why == "name"


def _groups(frame: Frame) -> I64:
    """A code per row for the equipment and test it names; zeros where none does."""
    names = [
        convert.texts(frame.table.column(column)).array
        for field in ("equipment_id", "test_id")
        for column in frame.columns.get(field, [])[:1]
    ]
    return convert.group_codes(names, frame.rows)


def _plain_use(frame: Frame, column: str, field: str) -> Use:
    unit = frame.meanings[column].unit
    if unit is None:
        return Use(column, field)
    return Use(column, field, unit.text, unit.scale, unit.offset)


def _plain_columns(frame: Frame, uses: list[Use], left: list[str]) -> None:
    """Measurements: the best name whose column has values, and names that are read as they are."""
    for field in _PLAIN:
        columns = frame.columns.get(field, [])
        if not columns:
            continue
        filled = [column for column in columns if frame.known_share(column) > 0]
        if field in ("voltage_v", "current_a") and len(filled) > 1:
            filled.sort(key=lambda column: not frame.varying(column))
        chosen = (filled or columns)[0]
        uses.append(_plain_use(frame, chosen, field))
        others = [column for column in columns if column != chosen]
        if 0 < frame.known_share(chosen) < 1:
            _seconds(frame, others, field, uses)
        else:
            left += others
    for field in _NAMED:
        columns = frame.columns.get(field, [])
        if columns:
            uses.append(_plain_use(frame, columns[0], field))
            _seconds(frame, columns[1:], field, uses)


def _seconds(frame: Frame, columns: Sequence[str], field: str, uses: list[Use]) -> None:
    uses += [replace(_plain_use(frame, column, field), why=SECOND) for column in columns]


def _numbers_of_place(
    frame: Frame, times: Clocks, uses: list[Use], left: list[str], witnesses: list[Witness]
) -> None:
    """Record, cycle and step: of several names the better one whose values are what it says."""
    for field in ("record_index", "cycle_index", "step_index"):
        columns = frame.columns.get(field, [])
        fitting = columns
        if field != "record_index":
            fitting = [column for column in columns if not _counts_rows(frame, times, column)]
            witnesses += [
                Witness("step", column, 0.0, "it goes up with every row: it counts rows, not steps")
                for column in columns
                if column not in fitting
            ]
            varied = [column for column in fitting if frame.varying(column)]
            fitting = varied or fitting
        if fitting:
            uses.append(_plain_use(frame, fitting[0], field))
        left += [column for column in columns if not fitting or column != fitting[0]]


def _counts_rows(frame: Frame, times: Clocks, column: str) -> bool:
    values = frame.numbers(column)[times.perm]
    if frame.rows < 10:
        return False
    steps = np.diff(values)
    return bool((steps[~times.first[1:]] == 1).mean() > _COUNTS_ROWS)


def _value(frame: Frame, uses: Sequence[Use], field: str, times: Clocks) -> F64 | None:
    use = next((use for use in uses if use.field == field), None)
    if use is None:
        return None
    return (frame.numbers(use.column) * use.scale + use.offset)[times.perm]


def _large(current: F64 | None) -> float | None:
    if current is None or not np.isfinite(current).any():
        return None
    return float(np.nanquantile(np.abs(current), 0.9))


def _without_impedance(frame: Frame, uses: Sequence[Use], times: Clocks, current: F64) -> None:
    """Rows of a spectrum carry no charge."""
    frequency = _value(frame, uses, "frequency_hz", times)
    if frequency is not None:
        with np.errstate(invalid="ignore"):
            current[frequency > 0] = 0.0


def _named_counters(frame: Frame) -> list[Use]:
    return [
        replace(_plain_use(frame, column, field), kept=kept)
        for field, kept in counter_rules.SIDES.items()
        for column in frame.columns.get(field, [])[:1]
    ]


def _clock_without_unit(frame: Frame, uses: Sequence[Use]) -> Use | None:
    """The test clock whose unit neither its name, its notation nor another clock says."""
    use = next((use for use in uses if use.field == "test_time_s"), None)
    if use is None or use.why != "name" or use.unit == "h:m:s" or use.column == use.field:
        return None
    return use if frame.meanings[use.column].unit is None else None


def _unit_by_counters(
    frame: Frame, times: Clocks, uses: list[Use], signed: F64, witnesses: list[Witness]
) -> None:
    """The unit of a test clock that has none, where there is no wall clock: by what was counted."""
    use = _clock_without_unit(frame, uses)
    if use is None or times.elapsed is None or times.wall is not None:
        return
    ratio = counter_rules.ratio_to_integral(frame, times, counter_rules.flow(signed, times))
    if ratio is None:
        return
    for text, seconds in clock_rules.UNITS.items():
        if abs(ratio / seconds - 1.0) <= clock_rules.UNIT_TOLERANCE:
            witnesses.append(
                Witness("unit", "counters", ratio / seconds, f"{use.column} runs as {text}")
            )
            clock_rules.rescale(times, uses, use, text, seconds, "counters")
            return


def _unit_doubt(
    frame: Frame,
    times: Clocks,
    uses: Sequence[Use],
    witnesses: Sequence[Witness],
    doubts: list[str],
    named: str | None,
) -> None:
    """A test clock without a unit that nothing confirms may be in minutes."""
    if _clock_without_unit(frame, uses) is None or named in _SECONDS_LAYOUTS:
        return
    confirmed = any(
        w.about == "unit" or (w.about in ("charge", "discharge") and abs(w.agreement - 1) < 0.05)
        for w in witnesses
    )
    if not confirmed and times.elapsed is not None and frame.rows > 1:
        doubts.append("unit_guessed")


def _looks_alike(
    frame: Frame, times: Clocks, uses: list[Use], left: list[str], witnesses: list[Witness]
) -> bool:
    """Drops a record number that does not distinguish rows; returns whether it did.

    Rows of one number and time that measure different things show that it does not. Those that
    are equal in everything are copies.
    """
    if frame.rows < 2:
        return False
    record = next((use for use in uses if use.field == "record_index"), None)
    keys = [values for values in (times.elapsed, times.wall) if values is not None]
    measured = [
        values
        for field in ("voltage_v", "current_a")
        if (values := _value(frame, uses, field, times)) is not None
    ]
    if record is None:
        together = _alike(keys, np.arange(frame.rows)) if keys else np.zeros(0, dtype=bool)
        if together.any():
            text = (
                f"{int(together.sum())} rows have the time of the row before: their values and "
                "their order in the file distinguish them"
            )
            witnesses.append(Witness("identity", "clock", 1.0 - float(together.mean()), text))
        return False
    keys.append(frame.numbers(record.column)[times.perm])
    order = np.lexsort([*keys, np.cumsum(times.first)])
    alike = _alike([*keys, np.cumsum(times.first).astype(np.float64)], order)
    if (alike & ~_alike(measured, order)).any():
        uses.remove(record)
        left.append(record.column)
        text = "rows with one number and time have different values: it is not a record number"
        witnesses.append(Witness("identity", record.column, 0.0, text))
        return True
    return False


def _alike(keys: Sequence[F64], order: I64) -> npt.NDArray[np.bool_]:
    """Where each row and the one before it in an order have the same values."""
    same = np.ones(max(len(order) - 1, 0), dtype=bool)
    for key in keys:
        ordered = key[order]
        same &= (ordered[1:] == ordered[:-1]) | (np.isnan(ordered[1:]) & np.isnan(ordered[:-1]))
    return same


def _is_open_circuit(frame: Frame, names: Sequence[str], named: str | None) -> bool:
    """Whether a table without a current is BioLogic's record of an open circuit (OCV)."""
    if named != "BioLogic" or frame.has("current_a") or not frame.has("voltage_v"):
        return False
    known = {normalise(name) for name in names}
    # Techniques that control anything write a control column or a current.
    return not any(name.startswith(("control_", "i_", "freq", "dq_", "q_")) for name in known)


def _is_cell(frame: Frame, names: Sequence[str]) -> bool | None:
    """Whether a table with a frequency is a cell's all the same: cyclers write spectra too."""
    if not frame.has("frequency_hz"):
        return None
    if any(frame.has(field) for field in _CELL_FIELDS):
        return True
    if any(_IMPEDANCE.search(normalise(name)) for name in names):
        return True
    column = frame.columns["frequency_hz"][0]
    return None if bool(np.nansum(frame.numbers(column)) > 0) else True


def without_counters(interpretation: Interpretation) -> bool:
    """Whether charge can only be integrated."""
    return not any(use.kept is not None for use in interpretation.uses)


def plain(table: pa.Table) -> Interpretation:
    """Each column as its name says, nothing compared: for tables that this job wrote itself."""
    frame = Frame(table.slice(0, 0))
    uses: list[Use] = []
    left: list[str] = []
    for field, columns in frame.columns.items():
        if field in (STATE, CAPACITY, ENERGY, NET_CAPACITY):
            left += columns
            continue
        uses.append(_plain_use(frame, columns[0], field))
        left += columns[1:]
    known = {use.column for use in uses}
    return Interpretation(
        uses=tuple(uses),
        left=tuple(name for name in table.column_names if name not in known),
        compared=False,
    )
