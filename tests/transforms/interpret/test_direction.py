"""What a positive current does is told by steps, counters and the voltage, or named as doubtful."""

from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pytest

from schemas.reading import QUALITY_FLAGS
from tests.transforms.interpret import cell
from transforms.interpret.apply import fields
from transforms.interpret.decide import decide
from transforms.interpret.direction import apply_sign
from transforms.interpret.interpretation import Sign
from transforms.interpret.told import Told

UTC = ZoneInfo("UTC")
LOG = cell.run()
FLAG = 1 << QUALITY_FLAGS.index("direction_disagrees")


def told(current=LOG.current_a, log=LOG, said=None, **columns):
    table = pa.table({"Test_Time(s)": log.elapsed_s, "Step_Index": log.step, "Current(A)": current,
                      "Voltage(V)": log.voltage_v, **columns})  # fmt: skip
    how = decide(table, told=said)
    return how, fields(table, how, UTC)


def flagged(found):
    return np.flatnonzero(found.flags & FLAG).tolist()


@pytest.mark.parametrize("positive", [1, -1])
def test_the_course_of_the_voltage_tells_alone(positive):
    how, found = told(positive * LOG.current_a)
    assert how.sign is (Sign.POSITIVE_CHARGES if positive == 1 else Sign.POSITIVE_DISCHARGES)
    assert "direction_disagrees" not in how.disagreements
    assert cell.numbers(found, "current_a").tolist() == LOG.current_a.tolist()
    (by,) = (w for w in how.witnesses if w.about == "direction")
    assert (by.name, round(by.agreement)) == ("course of the voltage", max(positive, 0))


def test_no_current_has_a_sign_of_its_own_kind_of_zero():
    _, found = told(-LOG.current_a)
    current = cell.numbers(found, "current_a")
    assert not np.signbit(current[current == 0]).any()


def test_states_that_say_the_opposite_of_the_counters_are_named():
    opposite = [{"CC Chg": "CC DChg", "CC DChg": "CC Chg"}.get(word, word) for word in LOG.words]
    how, found = told(Status=opposite, **{"Charge_Capacity(Ah)": LOG.into_ah,
                                          "Discharge_Capacity(Ah)": LOG.out_ah})  # fmt: skip
    assert "direction_disagrees" in how.disagreements
    assert how.sign is Sign.POSITIVE_CHARGES  # two against one
    assert flagged(found) == np.flatnonzero(LOG.current_a).tolist()


def test_a_step_whose_state_is_wrong_is_flagged_alone():
    words = LOG.words
    at = np.flatnonzero(LOG.step == LOG.step[np.flatnonzero(LOG.way == -1)[0]]).tolist()
    for row in at[:5]:
        words[row] = "CC Chg"
    how, found = told(State=words)
    assert "direction_disagrees" not in how.disagreements
    assert flagged(found) == at[:5]


def test_noise_around_zero_contradicts_nobody():
    noisy = LOG.current_a + np.where(LOG.way == 0, -1e-4, 0.0)
    words = ["CC Chg" if way == 0 else word for way, word in zip(LOG.way, LOG.words, strict=True)]
    _, found = told(noisy, State=words)
    assert flagged(found) == []


@pytest.mark.parametrize("words", [["Start"] * LOG.rows, ["Rest"] * LOG.rows, [None] * LOG.rows])
def test_words_that_name_no_direction_are_no_witness(words):
    how, _ = told(State=pa.array(words, pa.string()))
    assert how.use_of("state") is None and "State" in how.left


def test_numbers_under_the_name_of_a_state_are_no_witness():
    how, _ = told(State=np.arange(LOG.rows))
    assert how.use_of("state") is None


def test_of_two_columns_the_one_that_names_directions_is_taken():
    how, _ = told(Status=["ok"] * LOG.rows, **{"Step Type": LOG.words})
    assert how.use_of("state").column == "Step Type"


def test_counters_of_both_sides_that_never_move_tell_nothing():
    none = np.zeros(LOG.rows)
    how, _ = told(**{"Charge_Capacity(Ah)": none, "Discharge_Capacity(Ah)": none})
    assert "growth of the counters" not in {w.name for w in how.witnesses}


def test_a_discharge_alone_without_a_sign_is_a_discharge():
    """Its voltage falls all the time: no charge would do that."""
    only = cell.run(cycles=1, discharge_first=True)
    keep = only.way == -1
    table = pa.table({"Test_Time(s)": only.elapsed_s[keep], "Voltage(V)": only.voltage_v[keep],
                      "Current(A)": np.abs(only.current_a[keep])})  # fmt: skip
    how = decide(table)
    assert how.sign is Sign.POSITIVE_DISCHARGES
    assert "direction_disagrees" not in how.disagreements


def test_without_a_sign_charges_and_discharges_in_one_file_are_in_doubt():
    how, _ = told(np.abs(LOG.current_a))
    assert "direction_disagrees" in how.disagreements


def test_too_few_rows_or_a_steady_voltage_leave_the_sign_as_it_is():
    for count in (1, 2, 5, 40):
        table = pa.table({"Time(s)": np.arange(float(count)), "Voltage(V)": np.full(count, 3.7),
                          "Current(A)": np.ones(count)})  # fmt: skip
        how = decide(table)
        assert how.sign is Sign.POSITIVE_CHARGES
        assert "direction_disagrees" not in how.disagreements


def test_a_table_without_current_has_no_direction():
    for current in (np.zeros(5), np.full(5, np.nan)):
        table = pa.table({"Time(s)": np.arange(5.0), "Voltage(V)": np.full(5, 3.7),
                          "Current(A)": current})  # fmt: skip
        assert decide(table).sign is Sign.POSITIVE_CHARGES


@pytest.mark.parametrize("sign", [Sign.POSITIVE_DISCHARGES, Sign.POSITIVE_CHARGES])
def test_what_a_user_says_overrules_all_witnesses(sign):
    how, found = told(State=LOG.words, said=Told(sign=sign))
    assert (how.sign, "direction_disagrees" in how.disagreements) == (sign, False)
    factor = 1 if sign is Sign.POSITIVE_CHARGES else -1
    assert cell.numbers(found, "current_a").tolist() == (factor * LOG.current_a).tolist()


def test_a_sign_from_the_states_leaves_what_they_do_not_name():
    current = np.array([1.0, 2.0, -3.0, 4.0])
    says = np.array([1, -1, 1, 0])
    assert apply_sign(current, Sign.FROM_STATE, says, None).tolist() == [1.0, -2.0, 3.0, 4.0]
    assert apply_sign(current, Sign.FROM_COUNTERS, None, says).tolist() == [1.0, -2.0, 3.0, 4.0]
    assert apply_sign(current, Sign.FROM_STATE, None, None) is current
