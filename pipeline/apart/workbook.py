"""Loads the sheets of a workbook with calamine."""

from __future__ import annotations

import io
import re
from typing import Any

from python_calamine import CalamineWorkbook, PasswordError, SheetTypeEnum

from pipeline.apart.answers import Locked, TooManyCells

# Arbin's names: `Channel_1-008`, and `Channel_1-008_1` where the rows of one sheet did not do.
DATA_SHEET = re.compile(r"channel(?!_?chart)", re.IGNORECASE)
STATISTICS_SHEET = re.compile(r"statistic", re.IGNORECASE)
_NO_DATA_SHEET = re.compile(r"info|global_info|channel_?chart", re.IGNORECASE)

Rows = list[list[Any]]


def sheets(data: bytes, most_cells: int) -> tuple[list[str], dict[str, Rows]]:
    """The names of a workbook's sheets, and the rows of those that may hold data.

    Args:
        data: the workbook.
        most_cells: rows times columns that the sheets may have together.

    Raises:
        Locked: it has a password.
        TooManyCells: it has more cells.
    """
    try:
        book = CalamineWorkbook.from_filelike(io.BytesIO(data))
    except PasswordError:
        raise Locked from None
    names = [meta.name for meta in book.sheets_metadata if meta.typ is SheetTypeEnum.WorkSheet]
    found: dict[str, Rows] = {}
    cells = 0
    for name in _wanted(names):
        sheet = book.get_sheet_by_name(name)
        # Its last row and column, counted from 0.
        cells += (sheet.total_height + 1) * (sheet.total_width + 1)
        if cells > most_cells:
            raise TooManyCells(cells)
        found[name] = sheet.to_python()
    return names, found


def _wanted(names: list[str]) -> list[str]:
    if any(DATA_SHEET.match(name) for name in names):
        return [name for name in names if DATA_SHEET.match(name) or STATISTICS_SHEET.match(name)]
    return [name for name in names if not _NO_DATA_SHEET.match(name)]
