"""Reads workbooks (xlsx, xlsm, xlsb, xls, ods): the data sheets as one table."""

from __future__ import annotations

import datetime as dt
import itertools
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import apart
from pipeline.apart.answers import Broken, Locked, TooManyCells
from pipeline.apart.workbook import DATA_SHEET, STATISTICS_SHEET
from pipeline.apart.workbook import Rows as _Rows
from pipeline.sources.formats import headers, statistics, tables
from pipeline.sources.formats.content import Content, Outputs, Settings
from pipeline.sources.formats.meter import Refused, over
from schemas.aliases import CLOCK, meaning
from transforms import naming
from transforms.budget import MIB, USUAL, Budget

_IS_CHANNEL = re.compile(r"\d+-\d+")
_CHANNEL = re.compile(r"(?:channel|statistics?)[ _]?(\d+-\d+)(?:_\d+)?$", re.IGNORECASE)
# What keeps counting from one sheet to the next where they continue one another.
_RUNS_ON = frozenset({"record_index", "test_time_s", "recorded_at", CLOCK})
# Rows of a sheet that show what it holds.
_LOOKED_AT = 200
# What a cell takes while a workbook is loaded, and how long that takes at least and per MiB.
_CELL_BYTES = 100
_LEAST_S = 20.0
# What most workbooks do with; those that need more are loaded one at a time.
_USUAL_BYTES = 400 * MIB
_large = threading.Lock()

_MIDNIGHT = dt.time()


def read(content: Content, settings: Settings) -> Outputs:
    """The rows of a workbook as one batch a cell, whatever its size: counters are a test's."""
    tests, others = to_tables(content.read_all(), settings.budget)
    of_channel = {channel: _of_channel(content, settings, channel, tests) for channel in tests}
    first_row = 1
    for channel, table in tests.items():
        # a channel's number tells cells apart; that sheets start over only makes it likely
        doubt = None if len(tests) < 2 or _IS_CHANNEL.fullmatch(channel) else "identity_guessed"
        cell = of_channel[channel]
        yield from tables.one_table(cell, settings, table, first_row=first_row, doubt=doubt)
        first_row += table.num_rows
    for name, other in others:
        cell = of_channel.get(_channel(name), content)
        found = statistics.found_in(cell, settings, other, name)
        if found is not None and found.table.num_rows:
            yield found


def _of_channel(
    content: Content, settings: Settings, channel: str, tests: Mapping[str, pa.Table]
) -> Content:
    """The file as one of a channel's cell: where it holds several each has the channel's name."""
    if len(tests) < 2 or settings.equipment_id is not None:
        return content
    cell = content.equipment_id or naming.equipment_from_path(content.path)
    return replace(content, equipment_id=f"{cell}_{channel}")


def _channel(sheet: str) -> str:
    """The channel that a sheet's name ends in: `1-008` of `Channel_1-008` and `Channel_1-008_2`.

    A sheet that names none by rack and number may well continue another.
    """
    found = _CHANNEL.search(sheet)
    return found[1] if found is not None else ""


def to_table(data: bytes) -> pa.Table:
    """The data sheets of a workbook with one channel alone; see `to_tables`."""
    return next(iter(to_tables(data, USUAL)[0].values()), pa.table({}))


def to_tables(
    data: bytes, budget: Budget
) -> tuple[dict[str, pa.Table], list[tuple[str, pa.Table]]]:
    """The data sheets of a workbook as one table a cell, under the file's own column names.

    Sheets of one channel continue one another, and so do others unless each starts over: then
    they are of as many cells. Numbers are float64, times naive timestamps; a column that mixes kinds is text, so that no
    value is lost. Empty cells are null, empty rows left out.

    Returns:
        the tables by channel or sheet, and the sheets that hold a row per cycle instead, each with its name.
    """
    sheets, rows_of = _sheets(data, budget)
    loaded = [(name, rows) for name, rows in rows_of.items() if DATA_SHEET.match(name)]
    named = bool(loaded)
    if named:
        others = [(name, rows) for name, rows in rows_of.items() if not DATA_SHEET.match(name)]
    else:
        loaded, others = _measuring_sheets(rows_of)
    said = list(_by_cycle(others))
    if not loaded and said:
        return {}, said
    if not loaded:
        raise Refused(
            "no_data_sheet",
            f"no sheet is named Channel… or has columns of voltage and current; the workbook has "
            f"{', '.join(sheets) or 'none'}; rename the data sheet or its headers",
        )
    channels: dict[str, list[tuple[str, _Rows]]] = {}
    for name, rows in loaded:
        channels.setdefault(_channel(name), []).append((name, rows))
    if len(loaded) > 1 and not named:
        alone = {name: _combine([(name, rows)]) for name, rows in loaded}
        if all(_starts_over(*pair) for pair in itertools.pairwise(alone.values())):
            return alone, said
    return {channel: _combine(sheets) for channel, sheets in channels.items()}, said


def _starts_over(before: pa.Table, after: pa.Table) -> bool:
    """Whether neither clock nor record number of a sheet continues where those of another end."""
    seen = False
    for name in before.column_names:
        found = meaning(name)
        if found is None or found.field not in _RUNS_ON or name not in after.column_names:
            continue
        ends, begins = before.column(name).drop_null(), after.column(name).drop_null()
        if not len(ends) or not len(begins) or ends.type != begins.type:
            continue
        seen = True
        if begins[0].as_py() >= ends[-1].as_py():
            return False
    return seen


def _by_cycle(sheets: list[tuple[str, _Rows]]) -> Iterator[tuple[str, pa.Table]]:
    """Of sheets that are no data those with a row per cycle; never a reason to refuse a workbook."""
    for name, rows in sheets:
        at = headers.find_header(rows)
        if at is not None and "cycle_index" in headers.fields_of(rows[at]):
            table = _combine([(name, rows)])
            kind = statistics.kind_of_table(table.column_names, table, name)
            if kind is statistics.Kind.CYCLES:
                yield name, table


def _sheets(data: bytes, budget: Budget) -> tuple[list[str], dict[str, _Rows]]:
    """Names of the sheets, and the rows of those that may hold data; raises Refused."""
    memory, seconds = budget.cells * _CELL_BYTES, _LEAST_S + len(data) / MIB
    try:
        try:
            found = _call(data, min(memory, _USUAL_BYTES), seconds, budget)
        except (apart.Died, apart.OverLimit):
            with _large:
                found = _call(data, memory, seconds, budget)
    except Locked:
        raise Refused(
            "encrypted_workbook", "the workbook has a password; save it without one"
        ) from None
    except TooManyCells as told:
        raise over(budget, "cells", f"the sheets have {told.args[0]:,} cells") from None
    except (apart.Died, apart.OverLimit):
        raise over(
            budget,
            "cells",
            f"the workbook takes more than {memory // MIB:,} MiB of memory or {seconds:.0f} s, as a "
            "cell far from the others or a text in very many cells makes it",
        ) from None
    except Broken as told:
        raise Refused(
            "corrupt_workbook",
            f"the workbook cannot be read: {told}; open and save it again, or send it again",
        ) from None
    return found


def _call(
    data: bytes, memory_bytes: int, seconds: float, budget: Budget
) -> tuple[list[str], dict[str, _Rows]]:
    found: tuple[list[str], dict[str, _Rows]] = apart.call(
        "sheets", data, memory_bytes, seconds, most_cells=budget.cells
    )
    return found


def _measuring_sheets(
    rows_of: Mapping[str, _Rows],
) -> tuple[list[tuple[str, _Rows]], list[tuple[str, _Rows]]]:
    """The sheets whose header names at least voltage and current, whatever they are called.

    And the others.
    """
    found, others = [], []
    for name, rows in rows_of.items():
        at = headers.find_header(rows)
        measuring = at is not None and headers.is_measurement(headers.fields_of(rows[at]))
        if measuring and not STATISTICS_SHEET.match(name) and not _is_about(name, rows, at):
            found.append((name, rows))
        else:
            others.append((name, rows))
    return found, others


def _is_about(name: str, rows: _Rows, at: int | None) -> bool:
    """Whether a sheet holds cycles, steps or a plan, though it has columns of both."""
    few = _combine([(name, rows[: (at or 0) + _LOOKED_AT])])
    kind = statistics.kind_of_table(few.column_names, few, name)
    return kind is not statistics.Kind.MEASUREMENT


def _combine(sheets: list[tuple[str, _Rows]]) -> pa.Table:
    """One table of sheets that continue one another."""
    parts: list[tuple[list[str], _Rows]] = []
    for name, rows in sheets:
        at = headers.find_header(rows)
        if at is not None:
            parts.append(_headed(rows, at))
        elif parts and rows and len(rows[0]) == len(parts[-1][0]):
            parts.append((parts[-1][0], rows))  # it goes on without a header of its own
        elif any(cell != "" for row in rows for cell in row):
            raise Refused(
                "no_header",
                f"no row of sheet {name} names a column that is known; add a header such as "
                "Date_Time, Current(A), Voltage(V)",
            )
    if not parts:
        return pa.table({})
    names = list(dict.fromkeys(itertools.chain.from_iterable(part[0] for part in parts)))
    if all(part[0] == names for part in parts):
        together = itertools.chain.from_iterable(part[1] for part in parts)
        columns = list(zip(*together, strict=True))
    else:
        columns = [tuple(_column_of(parts, name)) for name in names]
    if not columns:
        return pa.table({})
    table = pa.table([_to_arrow(values) for values in columns], names=names)
    return _without_nothing(table)


def _headed(rows: _Rows, at: int) -> tuple[list[str], _Rows]:
    names = headers.unique_names(rows[at])
    body = rows[at + 1 :]
    if body and (named := headers.with_units(names, body[0])) is not None:
        return headers.unique_names(named), body[1:]
    return names, body


def _column_of(parts: list[tuple[list[str], _Rows]], name: str) -> Iterator[Any]:
    for names, rows in parts:
        if name in names:
            index = names.index(name)
            yield from (row[index] for row in rows)
        else:
            yield from itertools.repeat("", len(rows))


def _without_nothing(table: pa.Table) -> pa.Table:
    """The table without empty rows, and without nameless columns that are empty."""
    nothing = [
        name
        for name, column in zip(table.column_names, table.columns, strict=True)
        if name.startswith("column_") and column.null_count == table.num_rows
    ]
    table = table.drop_columns(nothing)
    if all(column.null_count for column in table.columns):
        empty = np.ones(table.num_rows, dtype=bool)
        for column in table.columns:
            empty &= np.asarray(column.is_null())
        if empty.any():
            table = table.filter(pa.array(~empty))
    return table


def _to_arrow(values: Sequence[Any]) -> pa.Array:
    """A column's cells: numbers, times or truth values if all are of that kind, else texts."""
    kinds = set(map(type, values))
    if kinds == {float}:
        return pa.array(values, pa.float64())
    if str in kinds and "" in values:
        values = [None if value == "" else value for value in values]
        kinds = set(map(type, values))
    kinds.discard(type(None))
    if kinds <= {float, int}:
        try:
            return pa.array(values, pa.float64())
        except pa.ArrowInvalid:  # a whole number that is not exactly a float
            pass
    elif kinds <= {dt.datetime, dt.date}:
        return _to_times(values, dt.date in kinds)
    elif kinds == {bool}:
        return pa.array(values, pa.bool_())
    elif kinds <= {dt.timedelta, dt.time}:
        return pa.array([_to_seconds(value) for value in values], pa.float64())
    return pa.array([None if value is None else _to_text(value) for value in values], pa.string())


def _to_times(values: Sequence[Any], dates: bool) -> pa.Array:
    if dates:  # what falls exactly on midnight comes as a date
        values = [
            dt.datetime.combine(value, _MIDNIGHT) if type(value) is dt.date else value
            for value in values
        ]
    # A serial number of days has a resolution of some 0.6 µs: what is beyond ms is noise.
    return pc.round_temporal(pa.array(values, pa.timestamp("us")), 1, "millisecond")


def _to_seconds(value: dt.timedelta | dt.time | None) -> float | None:
    if isinstance(value, dt.time):
        value = dt.timedelta(
            hours=value.hour,
            minutes=value.minute,
            seconds=value.second,
            microseconds=value.microsecond,
        )
    return None if value is None else value.total_seconds()


def _to_text(value: Any) -> str:
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    if isinstance(value, dt.datetime):
        return value.isoformat(" ")
    return str(value)
