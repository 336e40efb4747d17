import doctest

import pytest

from transforms import naming


@pytest.mark.parametrize(
    ("path", "equipment"),
    [
        ("CS2_35/CS2_35_8_18_10.xlsx", "CS2_35"),
        ("/data/CS2_35/CS2_35_1_10_11.xlsx", "CS2_35"),
        ("cs2_35/CS2_35_1_10_11.xlsx", "cs2_35"),
        ("CS2_35_1_10_11.xlsx", "CS2_35"),
        ("uploads/CS2_35_2024-06-01.csv", "CS2_35"),
        ("uploads/cell-7.20240601.ndjson.gz", "cell-7"),
        ("CS2_3/CS2_35_8_18_10.xlsx", "CS2_35"),
        ("C:\\lab\\PL12\\PL12.csv", "PL12"),
        ("a/PL_01.parquet", "PL_01"),
        ("8_18_10.xlsx", "8_18_10"),
        ("_8_18_10.xlsx", "_8_18_10"),
        ("plain", "plain"),
        ("", ""),
    ],
)
def test_the_equipment_is_told_from_the_path(path, equipment):
    assert naming.equipment_from_path(path) == equipment


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/data/CS2_35/a.xlsx", "CS2_35/a.xlsx"),
        ("a.xlsx", "a.xlsx"),
        ("./a.xlsx", "a.xlsx"),
        ("gs://bucket/x//a.csv", "x/a.csv"),
        ("C:\\x\\..\\a.csv", "x/a.csv"),
    ],
)
def test_a_source_file_is_named_with_its_folder(path, name):
    assert naming.source_file(path) == name


def test_double_extensions_are_taken_off():
    assert naming.stem("a.ndjson.gz") == "a"
    assert naming.stem("a.b.CSV") == "a.b"


def test_the_examples_in_the_docstrings_hold():
    assert doctest.testmod(naming).failed == 0


@pytest.mark.parametrize(
    ("path", "equipment"),
    [
        ("lab/CellY_Channel_7_Wb_2.csv", "CellY"),
        ("lab/CellY_Channel_7.CSV", "CellY"),
        ("lab/CellY_StatisticByCycle.csv", "CellY"),
        ("lab/CellY_Channel_7_StatisticByCycle.csv", "CellY"),
        ("cellA/data_1.csv", "cellA"),
        ("cellA/dt=2024-01-01/part-0001.parquet", "cellA"),
        ("cellC/2024-01-01.csv", "cellC"),
        ("raw/data/export_3.csv", "export_3"),
        ("x/Copy of CS9_1.xlsx", "CS9_1"),
        ("x/CS9_1 (1).xlsx", "CS9_1"),
        ("gs://bucket/data.csv", "bucket"),
        ("gs:/data.csv", "data"),
    ],
)
def test_words_that_say_nothing_of_a_cell_are_passed_over(path, equipment):
    assert naming.equipment_from_path(path) == equipment


@pytest.mark.parametrize(
    ("path", "part"),
    [
        ("CellY_Channel_7_Wb_2.csv", ("CellY_Channel_7_Wb_*.csv", 2)),
        ("CellY/CellY_Wb_12.CSV", ("CellY/CellY_Wb_*.CSV", 12)),
        ("C:\\lab\\CellY_Wb_1.csv.gz", ("C:/lab/CellY_Wb_*.csv.gz", 1)),
        ("lab/paused.052", ("lab/paused.*", 52)),
        ("lab/long run_part3.txt", ("lab/long run_part*.txt", 3)),
        ("lab/long-part-3.txt", ("lab/long-part-*.txt", 3)),
        ("CS2_35_8_18_10.xlsx", None),
        ("cell_2.csv", None),
        ("part3.txt", None),
        ("a.csv", None),
        ("", None),
    ],
)
def test_parts_of_one_test_are_told_from_their_names(path, part):
    assert naming.part_of(path) == part


def test_each_later_part_belongs_to_the_first_one_there_is():
    paths = ["a/X_Wb_3.csv", "a/X_Wb_1.csv", "a/X_Wb_10.csv", "b/X_Wb_1.csv", "b/X_Wb_2.csv",
             "c.002", "c.003", "alone_Wb_4.csv", "other.csv"]  # fmt: skip
    assert naming.first_parts(paths) == {
        "a/X_Wb_3.csv": "a/X_Wb_1.csv", "a/X_Wb_10.csv": "a/X_Wb_1.csv",
        "b/X_Wb_2.csv": "b/X_Wb_1.csv", "c.003": "c.002",
    }  # fmt: skip
    assert naming.first_parts([]) == {}


@pytest.mark.parametrize(
    ("path", "tells"),
    [
        ("CS2_35/CS2_35_8_18_10.xlsx", True),
        ("uploads/CS2_35_8_18_10.xlsx", False),
        ("cellA/data_1.csv", True),
        ("CS2_35.xlsx", False),
        ("", False),
    ],
)
def test_whether_the_folder_names_the_cell(path, tells):
    assert naming.folder_tells(path) is tells


@pytest.mark.parametrize(
    ("path", "little"),
    [
        ("data/export_1.csv", True),
        ("2024-01-01.csv", True),
        ("test.csv", True),
        ("cellA/data_1.csv", False),
        ("CS2_35.xlsx", False),
    ],
)
def test_whether_names_leave_the_cell_open(path, little):
    assert naming.says_little(path) is little


@pytest.mark.parametrize(
    ("path", "equipment"),
    [
        ("x/A_8_18_10_20240601_2024-06-01.csv", "A"),
        ("x/A__8_18_10 - 9_19_11.csv", "A"),
        ("x/A_8_18_101.csv", "A"),
        ("x/A_8_18.csv", "A_8_18"),
        ("x/A_1234567.csv", "A_1234567"),
        ("x/A8_18_10.csv", "A8_18_10"),
        ("x/A_12345_1_10.csv", "A_12345_1_10"),
    ],
)
def test_dates_and_running_numbers_are_taken_off_the_end(path, equipment):
    assert naming.equipment_from_path(path) == equipment


@pytest.mark.parametrize(
    ("name", "generic"),
    [
        ("part 1 of 3", True), ("1-of-31-of-3", True), ("1 of 3 of 3", False),
        ("1 of 12 of 3", True), ("1of3", False), ("data12 3.4", True), ("data12x", False),
    ],
)  # fmt: skip
def test_which_names_say_nothing_of_an_equipment(name, generic):
    assert naming.is_generic(name) is generic
