"""What --dialect says counts more than any witness, and what it can't say is an error."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from transforms.interpret.decide import decide
from transforms.interpret.interpretation import TOLD, Interpretation, Sign
from transforms.interpret.told import Told, ToldError, told_from

ROWS = 120


def table(**more: Any) -> pa.Table:
    """Two hours at 1 A: an hour of charge, an hour of discharge, a row a minute, no date."""
    charging = np.arange(ROWS) < ROWS // 2
    rising = np.linspace(3.4, 4.0, ROWS // 2)
    columns: dict[str, Any] = {
        "Voltage(V)": np.concatenate([rising, rising[::-1]]),
        "Current(A)": np.where(charging, 1.0, -1.0),
        "TestTime": np.arange(ROWS) * 60.0,
    }
    return pa.table({name: pa.array(values) for name, values in (columns | more).items()})


def decided(values: dict[str, Any], rows: pa.Table | None = None) -> Interpretation:
    return decide(table() if rows is None else rows, told=told_from(values, "x.toml"))


def use(how: Interpretation, field: str) -> tuple[str, str, float, str]:
    found = how.use_of(field)
    assert found is not None
    return found.column, found.unit, found.scale, found.why


def test_without_a_word_nothing_is_told() -> None:
    assert told_from({}, "x.toml") == Told()
    assert TOLD not in {each.why for each in decided({}).uses}


def test_a_unit_counts_more_than_the_wall_clock() -> None:
    dates = np.datetime64("2024-03-01T09:00:00", "us") + np.arange(ROWS) * np.timedelta64(60, "s")
    rows = table(TestTime=np.arange(ROWS) * 1.0, Date_Time=dates)
    assert use(decided({}, rows), "test_time_s") == ("TestTime", "min", 60.0, "wall clock")
    how = decided({"units": {"TestTime": "s"}}, rows)
    assert use(how, "test_time_s") == ("TestTime", "s", 1.0, TOLD)
    assert "clock_disagrees" in how.disagreements


def test_a_unit_counts_more_than_the_name() -> None:
    how = decided({"units": {"Current(A)": "mA"}})
    assert use(how, "current_a") == ("Current(A)", "mA", 0.001, TOLD)


def test_a_column_counts_more_than_its_course() -> None:
    """A clock that restarts with each half would be the step's by itself."""
    rows = table(Time=np.arange(ROWS) % 60 * 60.0, Step_Index=np.arange(ROWS) // 60 + 1)
    rows = rows.drop_columns(["TestTime"])
    assert use(decided({}, rows), "step_time_s")[0] == "Time"
    how = decided({"columns": {"test_time_s": "Time"}}, rows)
    assert use(how, "test_time_s")[0] == "Time"
    assert how.use_of("step_time_s") is None


def test_a_column_takes_the_place_of_the_one_with_the_better_name() -> None:
    rows = table(**{"Ewe of the pair": np.full(ROWS, 3.5)})
    how = decided({"columns": {"voltage_v": "Ewe of the pair"}}, rows)
    assert use(how, "voltage_v")[0] == "Ewe of the pair"
    assert "Voltage(V)" in how.left


def test_a_told_column_keeps_the_unit_in_its_name() -> None:
    rows = table(**{"Kanal 3 [mA]": np.full(ROWS, 500.0)})
    how = decided({"columns": {"current_a": "Kanal 3 [mA]"}}, rows)
    assert use(how, "current_a") == ("Kanal 3 [mA]", "mA", 0.001, TOLD)


def test_a_told_column_with_a_unit_that_is_not_understood_is_refused_until_it_is_given() -> None:
    rows = table(**{"Kanal 3 [furlong]": np.full(ROWS, 500.0)})
    columns = {"current_a": "Kanal 3 [furlong]"}
    how = decided({"columns": columns}, rows)
    assert how.use_of("current_a") is None
    assert dict(how.refused) == {"Kanal 3 [furlong]": "the unit 'furlong' is not understood"}
    how = decided({"columns": columns, "units": {"Kanal 3 [furlong]": "mA"}}, rows)
    assert use(how, "current_a")[2] == 0.001


def test_a_column_that_is_not_there_is_named_and_leaves_the_others() -> None:
    how = decided({"columns": {"voltage_v": "Ewe/v"}})
    assert use(how, "voltage_v")[0] == "Voltage(V)"
    assert dict(how.refused) == {"Ewe/v": "--dialect names it, but the file has no such column"}


def test_an_ignored_column_is_kept_as_unknown() -> None:
    how = decided({"ignore": ["TestTime"]})
    assert how.use_of("test_time_s") is None
    assert "TestTime" in how.left


@pytest.mark.parametrize("sign", [Sign.POSITIVE_CHARGES, Sign.POSITIVE_DISCHARGES])
def test_the_sign_counts_more_than_the_voltage(sign: Sign) -> None:
    how = decided({"sign": sign.value})
    assert (how.sign, how.disagreements) == (sign, ("time_assumed", "unit_guessed"))
    assert "--dialect" in {witness.name for witness in how.witnesses}


@pytest.mark.parametrize("sign", [Sign.FROM_STATE, Sign.FROM_COUNTERS])
def test_a_direction_from_what_is_not_there_is_in_doubt(sign: Sign) -> None:
    assert "direction_disagrees" in decided({"sign": sign.value}).disagreements


def test_the_order_of_dates_counts_more_than_the_flag() -> None:
    dates = [f"03/04/2024 09:{minute:02d}:00" for minute in range(60)] * 2
    rows = table(Date_Time=dates)
    assert decide(rows, day_first=False).day_first is False
    told = told_from({"date_order": "dmy"}, "x.toml")
    how = decide(rows, told=told, day_first=False)
    assert (how.day_first, "date_order_guessed" in how.disagreements) == (True, False)


def test_the_decimal_sign_is_as_told() -> None:
    rows = table(**{"Voltage(V)": [f"3,{n:03d}" for n in range(500, 500 + ROWS)]})
    assert decided({}, rows).notation != told_from({"decimal": "point"}, "x").notation
    assert decided({"decimal": "point"}, rows).notation is not None
    assert (
        decided({"decimal": "point"}, rows).notation
        == told_from({"decimal": "point"}, "x").notation
    )


@pytest.mark.parametrize(
    ("files", "path", "covered"),
    [
        ([], "any/a.csv", True),
        (["*.txt"], "lab/a.txt", True),
        (["lab/*.txt"], "lab/a.txt", True),
        (["*.txt"], "lab/a.csv", False),
        (["a.txt"], "other\\a.txt", True),
    ],
)
def test_files_are_named_by_patterns(files: list[str], path: str, covered: bool) -> None:
    assert told_from({"files": files}, "x.toml").covers(path) is covered


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"colums": {}}, "unknown key 'colums'; the keys are files, columns"),
        ({"columns": {"voltage": "U"}}, "[columns] voltage: no such field; the fields are"),
        ({"columns": {"voltage_v": 3}}, "[columns] must hold lines such as"),
        ({"units": {"Current(A)": "furlong"}}, "'furlong' is not a unit of current_a"),
        ({"units": {"Cycle": "s"}}, "'s' is not a unit of cycle_index"),
        ({"units": {"Kanal 3": "mA"}}, "no field is known for this column; add it to [columns]"),
        ({"columns": {"current_a": "K"}, "units": {"K": "V"}}, "'V' is not a unit of current_a"),
        ({"files": "*.txt"}, 'files must be a list of texts, such as ["*.txt"]'),
        ({"ignore": [1]}, "ignore must be a list of texts"),
        ({"sign": "+"}, "sign must be one of positive_charges, positive_discharges"),
        ({"decimal": ","}, "decimal must be one of"),
        ({"date_order": "ymd"}, "date_order must be one of mdy, dmy"),
    ],
)
def test_what_can_not_be_used_is_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ToldError) as error:
        told_from(values, "x.toml")
    assert str(error.value).startswith("x.toml: ")
    assert message in str(error.value)
