"""Words of a step name its direction, whatever the tester calls it."""

import doctest

import pyarrow as pa
import pytest

from transforms.interpret import states
from transforms.interpret.states import UNKNOWN, direction, directions


@pytest.mark.parametrize(
    "word",
    ["C", "c", "CHA", "CC Chg", "CV Chg", "CCCV Chg", "CC_Chg", "CCCV_CHG", "Charge", "charging",
     "Constant current charge", "CHG", "Laden", "CC-Charge", "恒流充电", "恒流恒压充电", "充电",
     "step 3: charge", "CHA/CV", "CCC", "CVChg"],
)  # fmt: skip
def test_charges(word):
    assert direction(word) == 1


@pytest.mark.parametrize(
    "word",
    ["D", "DCH", "DIS", "DChg", "CC DChg", "CC_DChg", "Discharge", "discharging", "dis-charge",
     "Dis charge", "Discharge (pulse)", "Entladen", "恒流放电", "放电", "CP DChg", "CCD", "CCDchg"],
)  # fmt: skip
def test_discharges(word):
    assert direction(word) == -1


@pytest.mark.parametrize(
    "word",
    [
        "R",
        "P",
        "O",
        "S",
        "Rest",
        "PAU",
        "Pause",
        "OCV",
        "idle",
        "Relaxation",
        "搁置",
        "静置",
        " rest ",
    ],
)
def test_rests(word):
    assert direction(word) == 0


@pytest.mark.parametrize(
    "word", ["", "UDDS", "0", "impedance", "Message", "SIM", "End", "distance"]
)
def test_other_words_name_no_direction(word):
    assert direction(word) == UNKNOWN


def test_a_column_of_words_is_read_row_by_row():
    words = pa.array(["CC Chg", None, "Rest", "CC DChg", "??", "CC Chg"])
    assert directions(words).tolist() == [1, UNKNOWN, 0, -1, UNKNOWN, 1]
    assert directions(pa.chunked_array([words]).combine_chunks().slice(3)).tolist() == [-1, 2, 1]
    assert directions(pa.array([None, None], pa.string())).tolist() == [UNKNOWN, UNKNOWN]


def test_the_examples_in_the_docstrings_hold():
    assert doctest.testmod(states).failed == 0
