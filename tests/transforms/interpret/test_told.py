"""What a user says about files is checked when it is read, with the key and the fix in the error."""

import pytest

from transforms.convert import Notation
from transforms.interpret.interpretation import Sign
from transforms.interpret.told import Told, ToldError, told_from

ALL = {
    "files": ["*.txt", "lab2/*"],
    "columns": {"voltage_v": "U", "current_a": "Strom", "state": "Zustand"},
    "units": {"U": "mV", "Current(A)": "mA"},
    "ignore": ["Temp2"],
    "sign": "positive_discharges",
    "decimal": "comma",
    "date_order": "dmy",
}


def test_everything_that_can_be_said():
    assert told_from(ALL, "a.toml") == Told(
        files=("*.txt", "lab2/*"),
        columns=(("voltage_v", "U"), ("current_a", "Strom"), ("state", "Zustand")),
        units=(("U", "mV"), ("Current(A)", "mA")),
        ignore=("Temp2",),
        sign=Sign.POSITIVE_DISCHARGES,
        notation=Notation.COMMA,
        day_first=True,
    )
    assert told_from({}, "a.toml") == Told()
    assert told_from({"date_order": "mdy"}, "a.toml").day_first is False


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"colums": {}}, "unknown key 'colums'"),
        ({"columns": {"volts": "U"}}, "[columns] volts: no such field"),
        ({"columns": {"power_watt": "P"}}, "[columns] power_watt: no such field"),
        ({"columns": ["U"]}, "[columns] must hold lines"),
        ({"columns": {"voltage_v": 1}}, "[columns] must hold lines"),
        ({"columns": {"voltage_v": "U"}, "units": {"U": "furlong"}}, "'furlong' is not a unit of voltage_v"),
        ({"units": "mV"}, "[units] must hold lines"),
        ({"sign": "minus"}, "sign must be one of positive_charges"),
        ({"decimal": ";"}, "decimal must be one of"),
        ({"date_order": "ymd"}, "date_order must be one of mdy, dmy"),
        ({"files": "*.txt"}, "files must be a list of texts"),
        ({"ignore": [1]}, "ignore must be a list of texts"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_named_with_its_file(values, says):
    with pytest.raises(ToldError) as caught:
        told_from(values, "lab.toml")
    assert str(caught.value).startswith("lab.toml: ")
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("files", "path", "covers"),
    [
        ((), "any/file.csv", True),
        (("*.txt",), "a/b.txt", True),
        (("*.txt",), "a/b.csv", False),
        (("cell_?.csv",), "C:\\lab\\cell_1.csv", True),
        (("a/*",), "a/b.csv", True),
        (("a/*",), "c/b.csv", False),
    ],
)
def test_it_is_about_the_files_it_names(files, path, covers):
    assert Told(files=files).covers(path) is covers


@pytest.mark.parametrize("value", [[], {}, ["positive_charges"]])
def test_a_list_where_one_of_several_words_belongs_is_told(value: object) -> None:
    with pytest.raises(ToldError, match="sign must be one of"):
        told_from({"sign": value}, "a.toml")
