"""Recognises a cycler's own statistics beside its measurements, and takes what they say of cycles."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import PurePosixPath

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.sources.formats.content import Content, Settings, Summaries
from schemas.aliases import CLOCK, Alias, meaning, normalise, resolve
from schemas.forms import arrow_schema
from schemas.reading import CYCLE_SUMMARY
from transforms import convert, naming
from transforms.zones import zone_of

SCHEMA = arrow_schema(CYCLE_SUMMARY)

F64 = npt.NDArray[np.float64]


class Kind(StrEnum):
    """What the rows of a table are."""

    MEASUREMENT = "measurement"  # moments of a test
    CYCLES = "cycles"  # a cycle each
    STEPS = "steps"  # a step each
    INFO = "info"  # about the test: settings, schedule, limits


# What Arbin, Neware and Maccor call such files and sheets. A word of a path counts only where it
# stands between other signs than letters, so that no cell's name is one by chance.
_CYCLES_NAME = re.compile(
    r"statistics?_?by_?cycles?|(?<![a-z])cycle_?stat(?:istic)?s?(?![a-z])"
    r"|(?<![a-z])cycle_?(?:data|summary)(?![a-z])|(?<![a-z])statistics?(?![a-z])|\[stats\]",
    re.IGNORECASE,
)
_BY_CYCLE = re.compile(r"statistics?_?by_?cycles?", re.IGNORECASE)
_STEPS_NAME = re.compile(r"statistics?_?by_?steps?", re.IGNORECASE)
_CYCLES_SHEET = re.compile(r"cycles?(?:[ _-]?\d+)?|循环.*|statistics?.*", re.IGNORECASE)
_STEPS_SHEET = re.compile(r"steps?(?:[ _-]?\d+)?|工步.*", re.IGNORECASE)
_INFO_SHEET = re.compile(
    r"(?:global_?)?info(?:rmation)?|unit|test|schedule|log|plan|setup|curve|idle|通道信息.*|测试信息.*",
    re.IGNORECASE,
)
_MARK = re.compile(
    r"(?<![ _.-])[ _.-]*(?:statistics?_?(?:by_?(?:cycles?|steps?))?|cycle_?stat(?:istic)?s?"
    r"|cycle_?(?:data|summary)|\[stats\])$",
    re.IGNORECASE,
)

# Columns that only a table about whole cycles has, normalised: times and extremes of a cycle,
# efficiencies, retention; in Neware's words also the plateau's and the constant current's share.
_OF_CYCLES = re.compile(
    r"(?:dis)?charge_time.*|d?chg_time.*|.*_on_cycle.*|v_?m(?:ax|in)(?:_.*)?"
    r"|(?:max|min)_(?:current|voltage|temperature).*|.*efficiency.*|.*(?:^|_)eff(?:_.*)?|ce(?:_.*)?"
    r"|.*retention.*|plat_.*|constant_curr_.*|(?:start|end)_time.*|ah_(?:in|out)|wh_(?:in|out)"
)
_OF_CYCLES_CHINESE = re.compile(r"效率|充电时间|放电时间|保持率|平台")
_OF_STEPS = re.compile(r"(?:onset|oneset|start|starting|end|ending|first|last)_(?:v|c)(?:ol|ur).*")
_OF_STEPS_CHINESE = re.compile(r"(?:起始|结束|终止)(?:电压|电流)")
_OF_PLANS = re.compile(
    r"cut_?off_.*|c_rate.*|record_settings.*|.*recording_condition.*|(?:max|min)_[vt]i.*"
)
# Voltage or current by whatever name: then the table may be a measurement that nobody knows yet.
_MEASURED = re.compile(
    r"(?:cell_|battery_)?(?:voltage|volt|volts|potential|current|curr|amps?|ewe|ecell|i_m?a|u|v|i)"
    r"(?:_m?[va]|_volts?|_amps?|_amperes?|_measured)?"
)
_MEASURED_CHINESE = re.compile(r"^(?:电压|电流)")

# Names that mean something only in a summary.
_OWN: dict[str, Alias] = {
    "ah_in": Alias("charge_capacity_ah"),
    "ah_out": Alias("discharge_capacity_ah"),
    "wh_in": Alias("charge_energy_wh"),
    "wh_out": Alias("discharge_energy_wh"),
    "end_time": Alias("recorded_at"),
    "end_date": Alias("recorded_at"),
}
_OF_FIELD = {
    "charge_capacity_ah": "charge_ah",
    "discharge_capacity_ah": "discharge_ah",
    "charge_energy_wh": "charge_wh",
    "discharge_energy_wh": "discharge_wh",
}
# A measurement says when, or at least in which order; a plan of steps with their limits doesn't.
_MOMENTS = frozenset({"recorded_at", "test_time_s", CLOCK, "record_index"})
# So many rows show whether the cycle changes with every one of them.
_LOOKED_AT = 500
# So many rows, each of another cycle, are no measurement by chance.
_MANY = 5
_EVIDENCE = 2


def kind_of_table(names: Sequence[str], table: pa.Table, path_or_sheet: str) -> Kind:
    """What a table's rows are, from its columns, its values and its name.

    It is a measurement unless at least two things speak against it, so that a short test, in which
    every row may well be of another cycle, stays one.

    Args:
        names: the columns' names, with units.
        table: the rows, or the first some hundred, with the same columns; texts or numbers.
        path_or_sheet: the file's path, or the sheet's name.
    """
    fields = {alias.field for alias in map(_alias, names) if alias is not None}
    has_both = {"voltage_v", "current_a"} <= fields
    plain = [normalise(name) for name in names]
    sheet = "/" not in path_or_sheet and "." not in path_or_sheet
    stem = naming.stem(PurePosixPath(path_or_sheet.replace("\\", "/")).name)
    plans = _matching(plain, _OF_PLANS)
    timed = any((found := meaning(name)) and found.field in _MOMENTS for name in names)
    about = sheet and _INFO_SHEET.fullmatch(stem) and (plans or not has_both or not timed)
    if plans >= _EVIDENCE or about:
        return Kind.INFO
    cycles = _numbers(names, table, "cycle_index")
    if cycles is None or not fields & _OF_FIELD.keys() or not len(cycles):
        return Kind.MEASUREMENT
    unmeasured = not has_both and not _matching(plain, _MEASURED)
    unmeasured &= not any(_MEASURED_CHINESE.match(name.strip()) for name in names)
    by_step = _STEPS_NAME.search(stem) or (sheet and _STEPS_SHEET.fullmatch(stem))
    by_cycle = not by_step and (
        _CYCLES_NAME.search(stem) or (sheet and _CYCLES_SHEET.fullmatch(stem))
    )
    of_cycles = _matching(plain, _OF_CYCLES) + _found(names, _OF_CYCLES_CHINESE)
    of_steps = _matching(plain, _OF_STEPS) + _found(names, _OF_STEPS_CHINESE)
    every_row_another = bool(np.all(np.diff(cycles) > 0))
    if every_row_another and not by_step and of_steps < _EVIDENCE:
        told = 2 * unmeasured + bool(by_cycle) + min(of_cycles, 2)
        told += 1 if _BY_CYCLE.search(stem) else 0  # Arbin's own word leaves no doubt
        told += len(cycles) >= _MANY
        if told >= _EVIDENCE and (len(cycles) > 1 or by_cycle or unmeasured):
            return Kind.CYCLES
    steps = _numbers(names, table, "step_index")
    if by_step or of_steps:
        told = bool(by_step) + min(of_steps + of_cycles, 2) + unmeasured
        if told >= _EVIDENCE and (steps is None or _pairs_change(cycles, steps)):
            return Kind.STEPS
    return Kind.MEASUREMENT


def _pairs_change(cycles: F64, steps: F64) -> bool:
    """Whether cycle or step is another in every row; repeats of a step within one are allowed."""
    if len(cycles) < 2:
        return True
    changes = (np.diff(cycles) != 0) | (np.diff(steps) != 0)
    return bool(changes.mean() > 0.9)


def _alias(name: str) -> Alias | None:
    return _OWN.get(normalise(name)) or resolve(name)


def _matching(plain: Sequence[str], pattern: re.Pattern[str]) -> int:
    return sum(pattern.fullmatch(name) is not None for name in plain)


def _found(names: Sequence[str], pattern: re.Pattern[str]) -> int:
    return sum(pattern.search(name) is not None for name in names)


def _numbers(names: Sequence[str], table: pa.Table, field: str) -> F64 | None:
    """The first rows' values of a field that must all be whole numbers; None if they are not."""
    for place, name in enumerate(names):
        alias = _alias(name)
        if alias is None or alias.field != field:
            continue
        found = convert.doubles(table.column(place).slice(0, _LOOKED_AT))
        if found.bad is not None:
            return None
        values: F64 = found.array.drop_null().to_numpy(zero_copy_only=False)
        whole = np.isfinite(values).all() and np.array_equal(values, np.floor(values))
        return values if whole else None
    return None


def summaries(
    table: pa.Table,
    equipment_id: str,
    source_file: str | None,
    arrived_us: int,
    time_zone: str = "UTC",
    day_first: bool | None = None,
) -> pa.Table:
    """What a table of `Kind.CYCLES` says, as a table of schema CYCLE_SUMMARY.

    Counters that run on over the cycles (Arbin's do where the schedule does not reset them) become
    what each cycle added; a cycle whose predecessor is missing then has no value. Where a table
    begins in the middle of a test and leaves open whether they do, it says nothing.

    Args:
        table: one row per cycle, under the file's own names.
        equipment_id: the cell.
        source_file: the file, with its folder.
        arrived_us: when the file arrived, microseconds since 1970 UTC.
        time_zone: the zone of times that carry none.
        day_first: whether dates with slashes are day/month/year; None: the values decide.
    """
    columns = _columns(table)
    if "cycle_index" not in columns:
        return SCHEMA.empty_table()
    numbers = _doubles(columns["cycle_index"])
    known = np.isfinite(numbers)
    times = _times(columns, time_zone, day_first, table.num_rows).filter(pa.array(known))
    cycle = numbers[known].astype(np.int64)
    values = {
        to: _doubles(columns[field])[known] if field in columns else np.full(len(cycle), np.nan)
        for field, to in _OF_FIELD.items()
    }
    runs_on = _run_on(cycle, list(values.values()))
    if runs_on is None:
        return SCHEMA.empty_table()
    if runs_on:
        values = {name: _increments(cycle, column) for name, column in values.items()}
    # A cell's own convention may show what came out as negative.
    values = {name: np.abs(column) for name, column in values.items()}
    said = np.zeros(len(cycle), dtype=bool)
    for column in values.values():
        said |= np.isfinite(column)
    rows = int(said.sum())
    made: dict[str, pa.Array] = {
        name: pa.array(column[said], from_pandas=True) for name, column in values.items()
    }
    made["summary_id"] = pa.array(
        _keys(equipment_id, source_file, cycle[said], [column[said] for column in values.values()]),
        pa.string(),
    )
    made["equipment_id"] = pa.repeat(pa.scalar(equipment_id), rows)
    made["source_file"] = pa.repeat(pa.scalar(source_file, pa.string()), rows)
    made["cycle_index"] = pa.array(cycle[said])
    made["recorded_at"] = times.filter(pa.array(said))
    made["ingested_at"] = pa.repeat(pa.scalar(arrived_us, pa.int64()), rows)
    return pa.table([made[field.name].cast(field.type) for field in SCHEMA], schema=SCHEMA)


@dataclass(frozen=True)
class _Column:
    values: pa.ChunkedArray
    alias: Alias


def _columns(table: pa.Table) -> dict[str, _Column]:
    """The column that stands for each field: the first of several."""
    found: dict[str, _Column] = {}
    for place, name in enumerate(table.column_names):
        alias = _alias(name)
        if alias is not None:
            found.setdefault(alias.field, _Column(table.column(place), alias))
    return found


def _doubles(column: _Column) -> F64:
    """The column's numbers in the field's unit; NaN where there is none."""
    found = convert.doubles(column.values, column.alias.scale, column.alias.offset).array
    values: F64 = found.to_numpy(zero_copy_only=False).astype(np.float64)
    return values


def _times(
    columns: Mapping[str, _Column], time_zone: str, day_first: bool | None, rows: int
) -> pa.Array:
    column = columns.get("recorded_at")
    if column is None:
        return pa.nulls(rows, SCHEMA.field("recorded_at").type)
    zone = zone_of(time_zone)
    return convert.timestamps(column.values, zone, column.alias.scale, day_first).array


def _run_on(cycle: npt.NDArray[np.int64], columns: Sequence[F64]) -> bool | None:
    """Whether the counters run on over the cycles instead of beginning each at zero.

    What runs on grows about in proportion to the number of cycles, also of a cell that fades or
    had a first cycle unlike the others; what one cycle gives stays about the same. All columns
    that say anything have to grow like that, and never fall. None: not known.
    """
    used = [column for column in columns if np.nanmax(np.abs(column), initial=0.0) > 0]
    if not used or not len(cycle):
        return False
    late = int(cycle.min()) > 1
    if len(cycle) < 2:
        return None if late else False
    if all(_grows(cycle - cycle.min() + 1, np.abs(column)) for column in used):
        return True
    # Counted from the test's first cycle, the growth over a few late ones is small.
    return None if late and all(_grows(cycle, np.abs(column)) for column in used) else False


def _grows(cycle: npt.NDArray[np.int64], column: F64) -> bool:
    """Whether a column grows at least half as fast as the number of cycles, and never falls."""
    there = np.isfinite(column)
    values, at = column[there], cycle[there]
    if len(values) < 2 or np.any(np.diff(values) < -1e-9 * values.max()):
        return False
    # A half cycle may come first, in which one of the two counters stays at zero.
    begun = int(np.argmax(values > 0))
    first, last = values[begun], values[-1]
    counted, passed = int(at[begun]), int(at[-1])
    if passed <= counted:
        return False
    return bool(last >= first * (1 + 0.5 * (passed / counted - 1)))


def _increments(cycle: npt.NDArray[np.int64], column: F64) -> F64:
    """What each cycle added to a counter; NaN where the cycle before it is not there."""
    found = np.full(len(column), np.nan)
    # Where a summary begins in the middle of a test nobody knows what its first cycle added.
    if len(column) and cycle[0] <= 1:
        found[0] = column[0]
    follows = np.diff(cycle) == 1
    found[1:][follows] = np.diff(column)[follows]
    return found


def _keys(
    equipment_id: str,
    source_file: str | None,
    cycle: npt.NDArray[np.int64],
    columns: Sequence[F64],
) -> list[str]:
    shared = hashlib.blake2b(digest_size=16)
    for part in (equipment_id, source_file or ""):
        shared.update(len(part.encode()).to_bytes(8, "big") + part.encode())
    packed = np.column_stack([cycle.astype(np.float64), *columns]).astype(">f8")
    keys = []
    for row in packed:
        digest = shared.copy()
        digest.update(row.tobytes())
        keys.append(digest.hexdigest())
    return keys


def equipment_of(content: Content, settings: Settings) -> str:
    """The cell that a file of statistics speaks of: that of the measurements beside it."""
    if settings.equipment_id:
        return settings.equipment_id
    path = PurePosixPath(content.path.replace("\\", "/"))
    stem = naming.stem(path.name)
    own = _MARK.sub("", stem)
    if not own or own == stem:
        return content.equipment_id or naming.equipment_from_path(content.path)
    return naming.equipment_from_path(str(path.with_name(own + path.name[len(stem) :])))


def found_in(
    content: Content, settings: Settings, table: pa.Table, sheet: str | None = None
) -> Summaries | None:
    """What is to be taken of a table that holds no measurements; None if it does hold some.

    Args:
        content: the file.
        settings: how files are read.
        table: all rows of the file, or of one of its sheets.
        sheet: the sheet's name; None where the file is a table itself.
    """
    kind = kind_of_table(table.column_names, table, content.path if sheet is None else sheet)
    if kind is Kind.MEASUREMENT:
        return None
    if kind is not Kind.CYCLES:
        return Summaries(content, SCHEMA.empty_table())
    equipment = equipment_of(content, settings)
    at, file = content.arrived_at_us, content.source_file
    made = summaries(table, equipment, file, at, settings.time_zone, settings.day_first)
    return Summaries(content, made)
