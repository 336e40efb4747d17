"""Finds a table's header row among titles and notes, and makes column names of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from schemas.aliases import resolve

# Cyclers write up to some dozen lines about the test before the table.
SEARCHED_ROWS = 200

_NUMBER = re.compile(r"\s*[+-]?(?:\d+[.,]?\d*|[.,]\d+)(?:[eE][+-]?\d+)?\s*")
_BRACKETS = "()[]{}<> \t"


def fields_of(cells: Sequence[Any]) -> set[str]:
    """The reading's fields that a row of cells names."""
    aliases = (resolve(cell) for cell in cells if isinstance(cell, str))
    return {alias.field for alias in aliases if alias is not None}


def is_measurement(fields: set[str]) -> bool:
    """Whether a table with these fields can hold readings."""
    return "voltage_v" in fields and "current_a" in fields


def find_header(rows: Sequence[Sequence[Any]]) -> int | None:
    """Index of the row that names the most fields, the first one of equals; None if none does."""
    best, most = None, 0
    for index, row in enumerate(rows[:SEARCHED_ROWS]):
        known = len(fields_of(row))
        if known > most:
            best, most = index, known
    return best


def unique_names(cells: Sequence[Any]) -> list[str]:
    """Column names of a header's cells: text, none empty, none twice.

    >>> unique_names(["Voltage(V)", " Voltage(V)", ""])
    ['Voltage(V)', 'Voltage(V)_2', 'column_3']
    """
    names: list[str] = []
    taken: set[str] = set()
    for number, cell in enumerate(cells, 1):
        name = base = " ".join(str(cell).split()) if cell is not None else ""
        if not name:
            name = base = f"column_{number}"
        count = 1
        while name in taken:
            count += 1
            name = f"{base}_{count}"
        taken.add(name)
        names.append(name)
    return names


def with_units(names: Sequence[str], cells: Sequence[Any]) -> list[str] | None:
    """The names with the units of the row below the header, or None if that is no unit row.

    A unit is taken over only where name and unit together mean what the name alone does (or mean
    anything, where it alone does not), so that `Voltage` over `mV` becomes `Voltage(mV)`.
    """
    if len(cells) != len(names):
        return None
    units: list[str] = []
    for cell in cells:
        if cell is not None and not isinstance(cell, str):
            return None
        unit = (cell or "").strip(_BRACKETS)
        if _NUMBER.fullmatch(unit) or len(unit) > 20:
            return None
        units.append(unit)
    combined = list(names)
    for index, (name, unit) in enumerate(zip(names, units, strict=True)):
        alone, both = resolve(name), resolve(f"{name}({unit})")
        if unit and both is not None and (alone is None or alone.field == both.field):
            combined[index] = f"{name}({unit})"
    return combined if combined != list(names) else None
