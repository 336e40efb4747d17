"""Reads Arbin's results files (.res): Access databases that hold one or several tests."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.sources.formats import binary, jet
from pipeline.sources.formats.content import Content, Outputs, Settings
from pipeline.sources.formats.meter import Refused
from transforms import naming
from transforms.interpret.interpretation import Head

_DATA, _TESTS = "Channel_Normal_Table", "Global_Table"
_AUXILIARY, _AUXILIARY_UNITS = "Auxiliary_Table", "Aux_Global_Data_Table"

# The database names no units; these are what Arbin writes for the same columns into workbooks.
_UNITS = {
    "Test_Time": "s",
    "Step_Time": "s",
    "Current": "A",
    "Voltage": "V",
    "Charge_Capacity": "Ah",
    "Discharge_Capacity": "Ah",
    "Charge_Energy": "Wh",
    "Discharge_Energy": "Wh",
    "dV/dt": "V/s",
    "Internal_Resistance": "Ohm",
    "AC_Impedance": "Ohm",
    "ACI_Phase_Angle": "Deg",
}
# Days, in the cycler's local time.
_EPOCH = np.datetime64("1899-12-30", "us")
_DAY_MS = 86_400_000
_MOST_DAYS = 100_000.0  # the year 2173
_AUXILIARY_KINDS = {0: ("Aux_Voltage", "V"), 1: ("Aux_Temperature", "C")}
_WORDS = ("Test_Name", "Item_ID", "Schedule_File_Name", "Comments")

_Numbers = npt.NDArray[np.generic]


def read(content: Content, settings: Settings) -> Outputs:
    """The rows of a results file, one batch a test."""
    yield from binary.read(content, settings, tables, "Arbin .res")


def tables(data: bytes) -> binary.Tables:
    """Each test of a results file, its rows by their number.

    Columns are named as in Arbin's workbooks. `Test_ID` only tells apart what lies in the file, so
    it is no column.

    Raises:
        Refused: not an Access database, cut off, contradictory, or without Arbin's data table.
    """
    base = jet.Database(data)
    table = base.table(_DATA)
    if table is None:
        raise Refused(
            "no_data_table",
            f"the database has no table {_DATA} so it is not an Arbin results file; it has "
            f"{', '.join(sorted(base.tables)) or 'none'}",
        )
    present = [column.name for column in table.columns if jet.is_number(column)]
    lacking = {"Test_ID", "Data_Point", "Voltage", "Current"} - set(present)
    if lacking:
        raise Refused(
            "no_data_table",
            f"the database's table {_DATA} lacks {', '.join(sorted(lacking))}; export the test as "
            "xlsx or csv",
        )
    values = table.read(present)
    tests, points = values["Test_ID"].data, values["Data_Point"].data
    order = np.lexsort((points, tests))
    heads = _heads(base)
    auxiliary = _Auxiliary(base)
    several = len(np.unique(tests)) > 1
    found = []
    for rows in _runs(tests, order):
        test = int(tests[rows[0]])
        columns = {
            _named(name): _to_arrow(name, values[name], rows)
            for name in present
            if name != "Test_ID"
        }
        columns |= auxiliary.columns(test, points[rows])
        found.append((_head(heads.get(test, {}), test, several), pa.table(columns)))
    return found


def _runs(tests: _Numbers, order: npt.NDArray[np.int64]) -> Iterator[npt.NDArray[np.int64]]:
    """The rows of each test, in order."""
    edges = np.flatnonzero(np.diff(tests[order])) + 1
    return (rows for rows in np.split(order, edges) if len(rows))


def _named(name: str) -> str:
    if name == "DateTime":
        return "Date_Time"
    return f"{name}({_UNITS[name]})" if name in _UNITS else name


def _to_arrow(name: str, values: jet.Values, rows: npt.NDArray[np.int64]) -> pa.Array:
    data, missing = values.data[rows], values.missing[rows]
    if name == "DateTime":
        stamps, wrong = _to_times(data.astype(np.float64))
        return pa.array(stamps, pa.timestamp("us"), mask=missing | wrong)
    return pa.array(data, mask=missing)


def _to_times(days: npt.NDArray[np.float64]) -> tuple[_Numbers, npt.NDArray[np.bool_]]:
    """Serial numbers of days as times, to the ms: what is below is noise of the serial number."""
    wrong = ~((days > 0) & (days < _MOST_DAYS))
    ms = np.rint(np.where(wrong, 0.0, days) * _DAY_MS).astype(np.int64)
    return _EPOCH + ms * np.timedelta64(1000, "us"), wrong


def _heads(base: jet.Database) -> dict[int, dict[str, str]]:
    """What the file says of each test."""
    table = base.table(_TESTS)
    if table is None:
        return {}
    numbers = table.read([c.name for c in table.columns if jet.is_number(c)])
    words = {name: table.texts(name) for name in _WORDS}
    if "Test_ID" not in numbers:
        return {}
    found: dict[int, dict[str, str]] = {}
    for row, test in enumerate(numbers["Test_ID"].data.tolist()):
        said = {name.lower(): texts[row] for name, texts in words.items() if row < len(texts)}
        for name, values in numbers.items():
            if not values.missing[row]:
                said[name.lower()] = str(values.data[row])
        if "Start_DateTime" in numbers and not numbers["Start_DateTime"].missing[row]:
            days = numbers["Start_DateTime"].data[row : row + 1].astype(np.float64)
            stamps, wrong = _to_times(days)
            said.pop("start_datetime", None)
            if not wrong[0]:
                moment: dt.datetime = stamps[0].item()
                said["start_datetime"] = moment.isoformat(" ", "milliseconds")
        found[test] = {name: text.strip() for name, text in said.items() if text and text.strip()}
    return found


def _head(said: dict[str, str], test: int, several: bool) -> Head:
    """A test's head; the cell is what the item or the test is called, if that says something.

    The test's name is often the schedule's or the day's, so it only counts where it must tell
    apart several tests of one file.
    """
    names = [said.get("item_id")] + ([said.get("test_name")] if several else [])
    equipment = next((name for name in names if name and not naming.is_generic(name)), None)
    values = tuple(sorted({**said, "test_id": str(test)}.items()))
    return Head(values, "Arbin", said.get("start_datetime"), equipment)


class _Auxiliary:
    """The values of auxiliary inputs (temperatures, voltages), by test and record number."""

    def __init__(self, base: jet.Database) -> None:
        self._rows: dict[str, _Numbers] = {}
        self._units: dict[tuple[int, int], str] = {}
        table = base.table(_AUXILIARY)
        wanted = ("Test_ID", "Data_Point", "Auxiliary_Index", "Data_Type", "X")
        if table is None:
            return
        values = table.read(wanted)
        if len(values) < len(wanted) or not len(values["X"].data):
            return
        usable = ~np.any([values[name].missing for name in wanted], axis=0)
        self._rows = {name: values[name].data[usable] for name in wanted}
        self._units = _auxiliary_units(base)

    def columns(self, test: int, points: _Numbers) -> dict[str, pa.Array]:
        """A column for each input of a test, for rows of these (rising) record numbers."""
        if not self._rows:
            return {}
        of_test = self._rows["Test_ID"] == test
        kinds, inputs = self._rows["Data_Type"], self._rows["Auxiliary_Index"]
        pairs = np.unique(np.stack((kinds[of_test], inputs[of_test])).astype(np.int64), axis=1)
        # Inputs are numbered over all kinds and channels; from 1 within a kind says which it is.
        found, counts = {}, dict.fromkeys(_AUXILIARY_KINDS, 0)
        for kind, number in pairs.T.tolist():
            if kind not in _AUXILIARY_KINDS:
                continue
            name, unit = _AUXILIARY_KINDS[kind]
            counts[kind] += 1
            unit = self._units.get((kind, number), unit)
            rows = of_test & (kinds == kind) & (inputs == number)
            found[f"{name}_{counts[kind]}({unit})"] = _at(
                points, self._rows["Data_Point"][rows], self._rows["X"][rows]
            )
        return found


def _auxiliary_units(base: jet.Database) -> dict[tuple[int, int], str]:
    """The unit that the file gives for a kind and number of input."""
    table = base.table(_AUXILIARY_UNITS)
    if table is None:
        return {}
    values, units = table.read(("Data_Type", "Auxiliary_Index")), table.texts("Unit")
    if len(values) < 2 or len(units) != len(values["Data_Type"].data):
        return {}
    keys = zip(
        values["Data_Type"].data.tolist(), values["Auxiliary_Index"].data.tolist(), strict=True
    )
    return {key: unit.strip() for key, unit in zip(keys, units, strict=True) if unit}


def _at(points: _Numbers, given: _Numbers, values: _Numbers) -> pa.Array:
    """The values given for some record numbers, where those rows are; missing elsewhere."""
    order = np.argsort(given, kind="stable")
    given, values = given[order], values[order]
    place = np.minimum(np.searchsorted(given, points), len(given) - 1)
    return pa.array(values[place], mask=given[place] != points)
