"""What is decided about a table as a whole: columns, rows that look alike, what is left, doubts."""

from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pytest

from tests.transforms.interpret import cell
from transforms.convert import Notation
from transforms.interpret.apply import fields
from transforms.interpret.decide import decide, plain
from transforms.interpret.interpretation import (
    SECOND,
    Head,
    Interpretation,
    Kept,
    Sign,
    Use,
    Witness,
    as_json,
)
from transforms.interpret.told import Told

UTC = ZoneInfo("UTC")
LOG = cell.run()


def columns(log=LOG, **others):
    return {"Date_Time": pa.array(log.wall), "Test_Time(s)": log.elapsed_s,
            "Current(A)": log.current_a, "Voltage(V)": log.voltage_v, **others}  # fmt: skip


def told(table, **how):
    table = pa.table(table)
    found = decide(table, **how)
    return found, fields(table, found, UTC)


# --- columns -------------------------------------------------------------------------------------


def test_a_unit_that_is_not_understood_refuses_its_column():
    how, found = told({"Current(furlong)": LOG.current_a, "Voltage(V)": LOG.voltage_v})
    assert dict(how.refused) == {"Current(furlong)": "the unit 'furlong' is not understood"}
    assert "current_a" not in found.found and how.left == ()


def test_what_no_field_is_for_is_left():
    how, found = told(columns(Note=["x"] * LOG.rows))
    assert how.left == ("Note",)
    assert "Note" not in found.found


def test_between_two_names_the_one_that_moves_is_believed():
    how, found = told(columns(**{"Ewe/V": np.full(LOG.rows, 0.0)}))
    assert how.use_of("voltage_v").column == "Voltage(V)"
    stuck = {**columns(), "Voltage(V)": np.full(LOG.rows, 3.3), "Ewe/V": LOG.voltage_v}
    how, found = told(stuck)
    assert how.use_of("voltage_v").column == "Ewe/V" and "Voltage(V)" in how.left
    assert cell.numbers(found, "voltage_v").tolist() == LOG.voltage_v.tolist()


def test_an_empty_column_stands_back_for_one_with_values():
    how, _ = told(columns(**{"Temperature(C)": pa.nulls(LOG.rows, pa.float64()),
                             "Aux_Temperature(C)": np.full(LOG.rows, 25.0)}))  # fmt: skip
    assert how.use_of("temperature_c").column == "Aux_Temperature(C)"


def test_two_columns_that_complete_each_other_are_both_used():
    half = np.where(np.arange(LOG.rows) % 2 == 0, 25.0, np.nan)
    how, found = told(columns(**{"Temperature(C)": pa.array(half, from_pandas=True),
                                 "T1(K)": np.full(LOG.rows, 303.15)}))  # fmt: skip
    assert [use.why for use in how.uses if use.field == "temperature_c"] == ["name", SECOND]
    values = cell.numbers(found, "temperature_c")
    assert values[:4] == pytest.approx([25.0, 30.0, 25.0, 30.0])
    assert "temperature_c (T1(K))" in as_json(how)["columns"]


def test_a_step_number_that_counts_rows_is_none():
    how, found = told(columns(Step=np.arange(LOG.rows), Step_Index=LOG.step))
    assert how.use_of("step_index").column == "Step_Index" and "Step" in how.left
    assert found.found["step_index"].to_pylist() == LOG.step.tolist()
    assert [(w.name, w.agreement) for w in how.witnesses if w.about == "step"] == [("Step", 0.0)]
    how, found = told(columns(Step=np.arange(LOG.rows)))
    assert how.use_of("step_index") is None


def test_of_two_cycle_numbers_the_one_that_changes_is_taken():
    how, _ = told(columns(Cycle_Index=np.ones(LOG.rows, int), Cycle=LOG.cycle))
    assert how.use_of("cycle_index").column == "Cycle"
    how, _ = told(columns(Cycle_Index=np.ones(LOG.rows, int)))
    assert how.use_of("cycle_index").column == "Cycle_Index"


def test_numbers_with_commas_are_read_by_one_rule_for_the_file():
    comma = [f"{v:.4f}".replace(".", ",") for v in LOG.voltage_v.tolist()]
    how, found = told({**columns(), "Voltage(V)": comma})
    assert (how.notation, how.disagreements) == (Notation.COMMA, ())
    np.testing.assert_allclose(cell.numbers(found, "voltage_v"), LOG.voltage_v, atol=1e-4)
    how, _ = told({**columns(), "Voltage(mV)": ["3,700"] * LOG.rows})
    assert "unit_guessed" in how.disagreements


def test_what_a_user_says_is_taken_before_all():
    table = {"a": LOG.elapsed_s / 3600, "b": -LOG.current_a * 1e3, "c": LOG.voltage_v}
    said = Told(columns=(("test_time_s", "a"), ("current_a", "b"), ("voltage_v", "c")),
                units=(("a", "h"), ("b", "mA")), sign=Sign.POSITIVE_DISCHARGES)  # fmt: skip
    how, found = told(table, told=said)
    np.testing.assert_allclose(cell.numbers(found, "current_a"), LOG.current_a, atol=1e-12)
    np.testing.assert_allclose(cell.numbers(found, "test_time_s"), LOG.elapsed_s)
    assert "direction_disagrees" not in how.disagreements


@pytest.mark.parametrize("said", [True, False])
def test_an_order_of_dates_in_the_file_of_rules_goes_before_the_flag(said):
    table = columns()
    table["Date_Time"] = ["03/04/2024 10:00:00"] * LOG.rows
    how, _ = told(table, told=Told(day_first=said), day_first=not said)
    assert how.day_first is said


# --- which rows are which ------------------------------------------------------------------------


def test_two_equipments_of_one_table_never_mix():
    """Interleaved, each with clocks and counters of its own, the second with another direction."""
    other = cell.run(discharge_first=True, charge_a=0.5)
    count = min(LOG.rows, other.rows)
    both = np.argsort(np.tile(np.arange(count), 2), kind="stable")

    def mixed(name):
        values = np.concatenate([getattr(LOG, name)[:count], getattr(other, name)[:count]])
        return values[both]

    names = np.array(["a"] * count + ["b"] * count)[both]
    net = mixed("into_ah") - mixed("out_ah")
    how, found = told({"Cell_ID": names, "Test_Time(s)": mixed("elapsed_s"), "Step": mixed("step"),
                       "Current(A)": -mixed("current_a"), "Voltage(V)": mixed("voltage_v"),
                       "Capacity(mAh)": net * 1e3})  # fmt: skip
    assert set(how.disagreements) == {"time_assumed"}
    for name, log in (("a", LOG), ("b", other)):
        rows = names == name
        for field, wanted in (("charge_capacity_ah", log.into_ah),
                              ("discharge_capacity_ah", log.out_ah),
                              ("current_a", log.current_a)):  # fmt: skip
            got = cell.numbers(found, field)[rows]
            np.testing.assert_allclose(got, wanted[:count], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("by", ["record", "clock"])
@pytest.mark.parametrize("kept", [Kept.UNSIGNED, Kept.NET_CHARGE, Kept.NET_DISCHARGE])
def test_counters_are_split_in_order_of_measurement(by, kept):
    """Newest row first, or shuffled with record numbers."""
    net = LOG.into_ah - LOG.out_ah
    values = {Kept.NET_CHARGE: net, Kept.NET_DISCHARGE: -net,
              Kept.UNSIGNED: LOG.restarting(LOG.into_ah + LOG.out_ah, "step")}[kept]  # fmt: skip
    order = np.arange(LOG.rows)[::-1]
    table = columns(Step=LOG.step, **{"Capacity(Ah)": values})
    if by == "record":
        order = np.random.default_rng(7).permutation(LOG.rows)
        table["Record"] = np.arange(1, LOG.rows + 1)
    how, found = told(pa.table(table).take(pa.array(order)))
    assert how.in_order and how.order == ("record" if by == "record" else "reversed")
    for field, wanted in (("charge_capacity_ah", LOG.into_ah),
                          ("discharge_capacity_ah", LOG.out_ah)):  # fmt: skip
        np.testing.assert_allclose(cell.numbers(found, field), wanted[order], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("kept", [Kept.UNSIGNED, Kept.NET_CHARGE])
def test_a_block_of_rows_that_stands_twice_counts_once(kept):
    """In the middle of a discharge, and behind the end of the file."""
    values = LOG.into_ah - LOG.out_ah
    if kept is Kept.UNSIGNED:
        values = LOG.restarting(LOG.into_ah + LOG.out_ah, "step")
    table = pa.table(columns(Step=LOG.step, **{"Capacity(Ah)": values}))
    at = int(np.flatnonzero(LOG.way == -1)[20])
    for again in (at + 10, LOG.rows):
        twice = pa.concat_tables([table.slice(0, again), table.slice(at, 10), table.slice(again)])
        place = np.concatenate(
            [np.arange(again), np.arange(at, at + 10), np.arange(again, LOG.rows)]
        )
        _, found = told(twice)
        for field, wanted in (("charge_capacity_ah", LOG.into_ah),
                              ("discharge_capacity_ah", LOG.out_ah)):  # fmt: skip
            np.testing.assert_allclose(
                cell.numbers(found, field), wanted[place], rtol=1e-6, atol=1e-9
            )


def test_a_record_number_under_which_different_rows_stand_is_none():
    table = columns(Record=np.ones(LOG.rows, int))
    table["Test_Time(s)"] = np.floor(LOG.elapsed_s / 60)
    table["Date_Time"] = [time.replace(second=0) for time in LOG.wall]
    how, _ = told(table)
    assert how.use_of("record_index") is None and "Record" in how.left
    assert [w.name for w in how.witnesses if w.about == "identity"] == ["Record"]


def test_copies_alone_leave_the_record_number_what_it_is():
    table = pa.table(columns(Record=np.arange(LOG.rows)))
    how, _ = told(pa.concat_tables([table, table.slice(0, 50)]))
    assert how.use_of("record_index").column == "Record"


@pytest.mark.parametrize("seconds", [True, False])
def test_rows_of_one_moment_that_are_alike_have_to_be_read_together(seconds):
    """Whether they follow each other or not: here a, b, a, b within a second."""
    table = {"Date_Time": [LOG.wall[at // 4] if seconds else LOG.wall[at] for at in range(40)],
             "Voltage(V)": [3.7 + at % 2 / 10 for at in range(40)], "Current(A)": [1.0] * 40}  # fmt: skip
    how, _ = told(table)
    assert how.in_order is seconds
    assert bool([w for w in how.witnesses if w.about == "identity"]) is seconds


def test_rows_without_any_clock_that_are_alike_have_to_be_read_together():
    alike = {"Voltage(V)": [3.7, 3.8, 3.7], "Current(A)": [0.0, 1.0, 0.0]}
    assert told(alike)[0].in_order
    assert not told({**alike, "Voltage(V)": [3.7, 3.8, 3.9]})[0].in_order


# --- what it is of -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("others", "is_cell"),
    [
        ({}, None),
        ({"freq/Hz": 50.0}, None),
        ({"frequency_hz": 50.0}, None),
        ({"freq/Hz": 1e3, "z_real": 0.1}, True),
        ({"freq/Hz": 1e3, "AC_Impedance(Ohm)": 0.1}, True),
        ({"freq/Hz": 0.0}, True),
        ({"freq/Hz": 1e3, "Re(Z)/Ohm": 0.1}, True),
        ({"freq/Hz": 1e3, "Cycle_Index": 1}, True),
        ({"freq/Hz": 1e3, "Q discharge/mA.h": 1.0}, True),
    ],
)
def test_a_frequency_alone_makes_a_machine(others, is_cell):
    table = {"timestamp": LOG.wall, "Voltage(V)": LOG.voltage_v, "Current(A)": LOG.current_a,
             **{name: np.full(LOG.rows, value) for name, value in others.items()}}  # fmt: skip
    assert told(table)[0].is_cell is is_cell


def test_rows_of_a_spectrum_carry_no_charge():
    """Alternating current of half an hour in between: the counter knows nothing of it."""
    frequency = np.zeros(LOG.rows)
    current, rests = LOG.current_a.copy(), np.flatnonzero(LOG.way == 0)
    frequency[rests], current[rests] = 1e3, 0.7
    how, _ = told({**columns(Step=LOG.step), "freq/Hz": frequency, "Current(A)": current,
                   "Capacity(Ah)": LOG.into_ah - LOG.out_ah})  # fmt: skip
    assert how.use_of("capacity").kept is Kept.NET_CHARGE
    assert how.disagreements == ()


# --- edges ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [0, 1, 2])
@pytest.mark.parametrize("as_text", [True, False])
def test_tables_with_hardly_a_row_are_decided_too(rows, as_text):
    table = pa.table(columns(Step=LOG.step, Record=np.arange(LOG.rows), Status=LOG.words,
                             **{"Charge_Capacity(Ah)": LOG.into_ah,
                                "Capacity(Ah)": LOG.out_ah}))  # fmt: skip
    part = (cell.as_texts(table) if as_text else table).slice(0, rows)
    how, found = told(part)
    assert len(found.flags) == rows
    assert not found.bad
    for name in ("voltage_v", "current_a"):
        assert len(found.found[name]) == rows


def test_columns_without_any_value_decide_nothing():
    names = ["Date_Time", "Test_Time(s)", "Time", "Step_Time(s)", "Record", "Cycle", "Step",
             "Current(A)", "Voltage(V)", "Capacity(Ah)", "Charge_Capacity(Ah)", "Status"]  # fmt: skip
    for kind in (pa.string(), pa.float64(), pa.null()):
        table = pa.table({name: pa.nulls(12, kind) for name in names})
        how, found = told(table)
        assert "time_assumed" in how.disagreements
        assert not found.bad


def test_a_long_table_is_decided_by_its_beginning():
    count = 300_000
    seconds = 10.0 * np.arange(count + 5_000)
    way = np.where(seconds // 3600 % 2 == 0, 1.0, -1.0)
    voltage = 3.6 + 0.4 * (np.abs(seconds / 3600 % 2 - 1.0) - 0.5) * -1.0
    table = {"TestTime": seconds / 60, "Amps": -way, "Volts": voltage,
             "Date_Time": pa.array((seconds * 1e6).astype(np.int64) + 1_700_000_000_000_000,
                                   pa.timestamp("us", "UTC"))}  # fmt: skip
    how, found = told(table)
    assert how.use_of("test_time_s").scale == 60.0 and how.sign is Sign.POSITIVE_DISCHARGES
    assert cell.numbers(found, "test_time_s")[-1] == pytest.approx(seconds[-1])
    assert cell.numbers(found, "current_a").tolist() == way.tolist()


# --- tables that this job wrote itself -------------------------------------------------------------


def test_an_own_table_is_taken_by_its_names_alone():
    table = pa.table({"voltage_v": [3.7], "Voltage(V)": [1.0], "current_a": [-1.0],
                      "state": ["x"], "capacity": [1.0], "note": ["n"]})  # fmt: skip
    how = plain(table)
    assert not how.compared and how.sign is Sign.POSITIVE_CHARGES
    assert {use.column for use in how.uses} == {"voltage_v", "current_a"}
    assert set(how.left) == {"Voltage(V)", "state", "capacity", "note"}
    assert fields(table, how, UTC).found["current_a"].to_pylist() == [-1.0]


# --- for a person ----------------------------------------------------------------------------------


def test_a_decision_can_be_shown():
    how = Interpretation(
        uses=(Use("T(K)", "temperature_c", "K", 1.0, -273.15), Use("Q", "capacity", "mAh", 1e-3,
              why="integral", kept=Kept.NET_CHARGE)),
        notation=Notation.COMMA, day_first=False, dialect="Maccor",
        witnesses=(Witness("clock", "a / b", 1.0, "same"),), refused=(("X", "why"),),
    )  # fmt: skip
    shown = as_json(how)
    assert shown["columns"] == {
        "temperature_c": {"column": "T(K)", "unit": "K", "factor": 1.0, "offset": -273.15,
                          "why": "name"},
        "capacity": {"column": "Q", "unit": "mAh", "factor": 1e-3, "counts": "net_charge",
                     "why": "integral"},
    }  # fmt: skip
    assert (shown["date_order"], shown["numbers"], shown["refused"]) == (
        "mdy",
        "comma",
        {"X": "why"},
    )
    assert shown["witnesses"] == [
        {"about": "clock", "witness": "a / b", "agreement": 1.0, "text": "same"}
    ]
    empty = as_json(Interpretation())
    assert (empty["numbers"], empty["date_order"], empty["dialect"]) == (None, None, None)


def test_the_layout_is_that_of_head_or_names():
    assert told(columns(), head=Head(dialect="Basytec"))[0].dialect == "Basytec"
    assert told({"Rec#": [1], "Amps": [1.0], "Volts": [3.7]})[0].dialect == "Maccor"
