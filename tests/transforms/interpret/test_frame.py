"""What a table's columns could mean, in what unit, and what a user said instead."""

import datetime as dt

import numpy as np
import pyarrow as pa
import pytest

from schemas.units import Unit
from transforms.convert import Notation
from transforms.interpret.frame import Frame
from transforms.interpret.told import Told


def frame(table, **told):
    return Frame(pa.table(table), Told(**told))


def test_every_column_of_a_field_is_a_candidate_the_best_name_first():
    found = frame({"Time": [1.0], "Amps": [1.0], "Current(mA)": [1.0], "Aux": [1.0]})
    assert found.columns["current_a"] == ["Current(mA)", "Amps"]
    assert "Aux" not in found.meanings and found.has("current_a") and not found.has("voltage_v")


def test_a_unit_that_is_not_understood_refuses_its_column_with_its_name():
    found = frame({"Current(furlong)": [1.0], "Voltage(V)": [3.7]})
    assert found.refused == [("Current(furlong)", "the unit 'furlong' is not understood")]
    assert not found.has("current_a")


def test_a_unit_that_is_told_is_believed():
    found = frame({"Current(furlong)": [2000.0]}, units=(("Current(furlong)", "mA"),))
    assert not found.refused
    assert found.scaled("Current(furlong)").tolist() == [2.0]
    other = frame({"Current(mA)": [2.0]}, units=(("Current(mA)", "A"),))
    assert other.scaled("Current(mA)").tolist() == [2.0]
    unknown = frame({"Current": [2.0]}, units=(("Current", "furlong"),))
    assert unknown.meanings["Current"].unit == Unit("furlong", 1.0)


def test_a_column_that_is_told_takes_its_field_from_all_others():
    found = frame({"Voltage(V)": [1.0], "U2": [3.7]}, columns=(("voltage_v", "U2"),))
    assert found.columns["voltage_v"] == ["U2"]


def test_a_column_to_be_ignored_stands_for_nothing():
    found = frame({"Voltage(V)": [1.0], "Ewe/V": [3.7]}, ignore=("Voltage(V)",))
    assert found.columns["voltage_v"] == ["Ewe/V"]


def test_numbers_are_read_however_they_are_written():
    found = frame(
        {
            "Voltage(V)": ["3,7", "n/a"],
            "Test_Time(s)": ["0:01:00", "1:00:00"],
            "Step_Time(s)": [dt.timedelta(seconds=5), None],
            "Date_Time": [dt.datetime(2024, 1, 1, tzinfo=dt.UTC)] * 2,
        }
    )
    assert found.notation == (Notation.COMMA, False)
    assert found.numbers("Voltage(V)")[0] == 3.7 and np.isnan(found.numbers("Voltage(V)")[1])
    assert found.numbers("Test_Time(s)").tolist() == [60.0, 3600.0]
    assert found.in_clock_notation("Test_Time(s)") and found.in_clock_notation("Step_Time(s)")
    assert not found.in_clock_notation("Date_Time")
    assert np.isnan(found.numbers("Date_Time")).all()
    assert found.known_share("Voltage(V)") == 0.5
    assert not found.varying("Voltage(V)") and found.varying("Test_Time(s)")
    assert found.texts("Voltage(V)").to_pylist() == ["3,7", None]
    assert found.texts("Step_Time(s)") is None


def test_a_notation_that_is_told_is_no_guess():
    assert frame({"Voltage(mV)": ["3,700", "3,600"]}).notation == (Notation.COMMA, True)
    told = frame({"Voltage(mV)": ["3,700"]}, notation=Notation.POINT)
    assert told.notation == (Notation.POINT, False)
    assert told.scaled("Voltage(mV)").tolist() == [3.7]


def test_units_scale_and_clock_notation_has_none():
    found = frame({"Test_Time(min)": [2.0], "Step_Time(min)": ["0:02:00"], "T1(K)": [273.15]})
    assert found.scaled("Test_Time(min)").tolist() == [120.0]
    assert found.scaled("Step_Time(min)").tolist() == [120.0]
    assert found.scaled("T1(K)") == pytest.approx([0.0])


def test_a_table_without_rows_has_columns_all_the_same():
    found = frame({"Voltage(V)": pa.array([], pa.float64())})
    assert (found.rows, found.known_share("Voltage(V)"), found.varying("Voltage(V)")) == (
        0,
        0,
        False,
    )
