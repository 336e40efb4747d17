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
