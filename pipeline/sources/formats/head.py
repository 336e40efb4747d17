"""Reads what stands above a table: whose layout it is, when the test began, which cell it was."""

from __future__ import annotations

import re
from collections.abc import Sequence

from schemas.aliases import normalise
from transforms.interpret.interpretation import Head

# Lines above the table are looked at up to this many; protocols may be longer.
_MOST_LINES = 2000

_DIALECTS = (
    ("BioLogic", re.compile(r"EC-Lab|BT-Lab", re.IGNORECASE)),
    ("Novonix", re.compile(r"Novonix", re.IGNORECASE)),
    ("Basytec", re.compile(r"basytec", re.IGNORECASE)),
    ("Maccor", re.compile(r"maccor|\A(?>.*?Today'?s Date).*Date of Test", re.IGNORECASE)),
    ("Digatron", re.compile(r"digatron|Measurement ID", re.IGNORECASE)),
    ("Landt", re.compile(r"landt", re.IGNORECASE)),
    ("Ivium", re.compile(r"ivium", re.IGNORECASE)),
    ("PEC", re.compile(r"TestRegime Name|#END RESULTS CHECK", re.IGNORECASE)),
    ("Arbin", re.compile(r"arbin", re.IGNORECASE)),
    ("Neware", re.compile(r"neware|新威", re.IGNORECASE)),
)
_START = (
    "acquisition_started_on", "start_of_test", "start_time", "started", "test_start",
    "test_start_time", "started_on", "started_at", "start_date_time", "start_date", "date_started",
    "date_of_test", "test_date", "start", "begin", "begin_time", "开始时间", "启动时间",
)  # fmt: skip
_EQUIPMENT = (
    "cell_id", "cell_name", "battery_id", "battery_name", "cell", "battery", "barcode",
    "cell_barcode", "cell_serial", "cell_serial_number", "battery_serial_number", "电池条码",
)  # fmt: skip
_MARKS = re.compile(r"\W*+")
_KEY = re.compile(r"(?P<key>[^:：=\t,;]{2,60}?)\s*(?::=|[:：=\t,;])")
_DATE_OF_TEST = re.compile(
    r"Date of Test[:\s]+([\d/.-]+(?:\s+\d[\d:.]*(?:\s*[AP]M)?)?)", re.IGNORECASE
)


def read(lines: Sequence[str]) -> Head:
    """What the lines above a table say.

    Args:
        lines: in the file's order, without their ends.
    """
    values: dict[str, str] = {}
    dialect = start = None
    for line in lines[:_MOST_LINES]:
        if dialect is None:
            dialect = next((name for name, sign in _DIALECTS if sign.search(line)), None)
        if (found := _DATE_OF_TEST.search(line)) is not None:
            start = start or found[1]
        if (pair := _pair(line)) is not None:
            values.setdefault(*pair)
    start = start or _first(values, _START, dated=True)
    return Head(tuple(values.items()), dialect, start, _first(values, _EQUIPMENT))


def _pair(line: str) -> tuple[str, str] | None:
    """A setting and its value: `Cell ID: 7` is `cell_id`, `7`; None if the line names none.

    Step by step, because one expression for the line would take the cube of its length.
    """
    marks = _MARKS.match(line)
    begin = marks.end() if marks is not None else 0
    # A key of a single letter counts with the sign before it.
    found = _KEY.match(line, begin) or (_KEY.match(line, begin - 1) if begin else None)
    if found is None:
        return None
    value = line[found.end() :].lstrip()
    end = len(value)
    while end and (value[end - 1] in ",;" or value[end - 1].isspace()):
        end -= 1
    key = normalise(found["key"])
    return (key, value[:end].strip('"')) if key and end else None


def _first(values: dict[str, str], keys: Sequence[str], dated: bool = False) -> str | None:
    for key in keys:
        value = values.get(key, "").strip()
        if value and (not dated or re.search(r"\d[-/.年]\s?\d|\d{8}", value)):
            return value
    return None
