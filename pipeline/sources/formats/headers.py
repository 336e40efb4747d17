"""Finds a table's header row among titles and notes, and makes column names of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from schemas.aliases import CLOCK, WITNESSES, dimension_of, meaning
from schemas.units import Dimension

# Rows of a sheet among which the header is looked for.
SEARCHED_ROWS = 200
# Of a sheet so wide that those rows hold more texts than this, fewer are looked at.
SEARCHED_TEXTS = 20_000

_NUMBER = re.compile(r"\s*[+-]?(?:\d++(?:[.,]\d*+)?|[.,]\d++)(?:[eE][+-]?\d++)?\s*")
_BRACKETS = "()[]{}<> \t"


def fields_of(cells: Sequence[Any]) -> set[str]:
    """The reading's fields that a row of cells names."""
    meanings = (meaning(cell) for cell in cells if isinstance(cell, str) and cell)
    return {found.field for found in meanings if found is not None}


def is_measurement(fields: set[str]) -> bool:
    """Whether a table with these fields can hold readings."""
    return "voltage_v" in fields and "current_a" in fields


def find_header(rows: Sequence[Sequence[Any]]) -> int | None:
    """Index of the row that names the most fields, the first one of equals; None if none does."""
    best, most = None, 0
    texts = 0
    for index, row in enumerate(rows[:SEARCHED_ROWS]):
        texts += sum(isinstance(cell, str) and cell != "" for cell in row)
        if texts > SEARCHED_TEXTS and index:
            break
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
    counted: dict[str, int] = {}
    for number, cell in enumerate(cells, 1):
        name = base = " ".join(str(cell).split()) if cell is not None else ""
        if not name:
            name = base = f"column_{number}"
        # From where the last of the same name ended, or equal names would take their square.
        count = counted.get(base, 1)
        while name in taken:
            count += 1
            name = f"{base}_{count}"
        counted[base] = count
        taken.add(name)
        names.append(name)
    return names


def with_units(names: Sequence[str], cells: Sequence[Any]) -> list[str] | None:
    """The names with the units of the row below the header, or None if that is no unit row.

    `Voltage` over `mV` becomes `Voltage(mV)`. At least one unit has to be understood; one that is
    not stays with its name, so that the column is refused rather than taken for volts.
    """
    if len(cells) != len(names):
        return None
    units: list[str] = []
    for cell in cells:
        if cell is not None and not isinstance(cell, str):
            return None
        unit = (cell or "").strip(_BRACKETS)
        if len(unit) > 20 or _NUMBER.fullmatch(unit):
            return None
        units.append(unit)
    combined = list(names)
    understood = 0
    for index, (name, unit) in enumerate(zip(names, units, strict=True)):
        if not unit:
            continue
        alone, both = meaning(name), meaning(f"{name}({unit})")
        if alone is not None and alone.unit is not None:
            continue
        known = both is not None and both.unknown is None and both.unit is not None
        same = alone is None or (both is not None and both.field == alone.field)
        if known and (same or (alone is not None and alone.field == CLOCK)):
            understood += 1
            combined[index] = f"{name}({unit})"
        elif alone is not None and alone.field not in WITNESSES and _measures(alone.field):
            combined[index] = f"{name}({unit})"
    return combined if understood else None


def _measures(field: str) -> bool:
    return dimension_of(field) not in (Dimension.NONE, Dimension.INSTANT, Dimension.TIME)
