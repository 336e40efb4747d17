"""What a tester's log says comes out right, or is named as doubtful, in whatever way it says it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.transforms.interpret import cell
from transforms.interpret.apply import fields
from transforms.interpret.decide import decide
from transforms.interpret.interpretation import Interpretation, Sign

UTC = ZoneInfo("UTC")
SIGNS = ("charges", "discharges", "none")
CURRENT = {"Current(A)": 1.0, "Current(mA)": 1e3, "I/uA": 1e6, "Amps": 1.0}
CLOCKS = {"Test_Time(s)": 1.0, "Test Time (min)": 60.0, "TestTime/h": 3600.0,
          "test_time_millisecond": 1e-3, "TestTime": 60.0, "Total Time": 3600.0,
          "Elapsed Time": 1.0}  # fmt: skip
CHARGE = {"Ah": 1.0, "mAh": 1e3}
COUNTERS = ("none", "pair", "unsigned", "net_charge", "net_discharge")


@dataclass(frozen=True)
class Convention:
    """How a tester writes."""

    sign: str
    current: str
    clock: str
    wall: bool
    state: bool
    counters: str
    unit: str
    grain: str
    sampling_s: float
    record: bool
    discharge_first: bool
    as_text: bool

    def log(self) -> cell.Log:
        return cell.run(sampling_s=self.sampling_s, discharge_first=self.discharge_first)

    def table(self, log: cell.Log) -> pa.Table:
        current = {"charges": log.current_a, "discharges": -log.current_a}.get(
            self.sign, np.abs(log.current_a)
        )
        columns: dict[str, Any] = {}
        if self.record:
            columns["Record"] = np.arange(1, log.rows + 1)
        columns[self.clock] = log.elapsed_s / CLOCKS[self.clock]
        if self.wall:
            columns["Date_Time"] = pa.array(log.wall)
        columns["Cycle_Index"] = log.cycle
        columns["Step_Index"] = log.step
        if self.state:
            columns["Step Type"] = log.words
        columns[self.current] = current * CURRENT[self.current]
        columns["Voltage(V)"] = log.voltage_v
        into = log.restarting(log.into_ah, self.grain) * CHARGE[self.unit]
        out = log.restarting(log.out_ah, self.grain) * CHARGE[self.unit]
        if self.counters == "pair":
            columns[f"Charge_Capacity({self.unit})"] = into
            columns[f"Discharge_Capacity({self.unit})"] = out
        elif self.counters == "unsigned":
            columns[f"Capacity({self.unit})"] = log.restarting(
                (log.into_ah + log.out_ah) * CHARGE[self.unit], "step"
            )
        elif self.counters == "net_charge":
            columns[f"Capacity({self.unit})"] = into - out
        elif self.counters == "net_discharge":
            columns[f"Capacity({self.unit})"] = out - into
        table = pa.table(columns)
        return cell.as_texts(table) if self.as_text else table


conventions = st.builds(
    Convention,
    sign=st.sampled_from(SIGNS),
    current=st.sampled_from(sorted(CURRENT)),
    clock=st.sampled_from(sorted(CLOCKS)),
    wall=st.booleans(),
    state=st.booleans(),
    counters=st.sampled_from(COUNTERS),
    unit=st.sampled_from(sorted(CHARGE)),
    grain=st.sampled_from(("test", "cycle", "step")),
    sampling_s=st.sampled_from((5.0, 10.0, 30.0, 60.0)),
    record=st.booleans(),
    discharge_first=st.booleans(),
    as_text=st.booleans(),
)


def check(convention: Convention) -> Interpretation:
    """Nothing of the log is wrong without a word."""
    log = convention.log()
    table = convention.table(log)
    how = decide(table)
    found = fields(table, how, UTC)
    doubts = set(how.disagreements)
    assert not found.bad
    if "direction_disagrees" not in doubts:
        np.testing.assert_allclose(cell.numbers(found, "current_a"), log.current_a, atol=1e-9)
    if not doubts & {"unit_guessed", "clock_disagrees"}:
        np.testing.assert_allclose(
            cell.numbers(found, "test_time_s"), log.elapsed_s, atol=1e-6, rtol=1e-9
        )
    if convention.wall:
        assert cell.times(found) == log.wall
    else:
        assert "time_assumed" in doubts
    if doubts & {"direction_disagrees", "charge_disagrees", "unit_guessed"}:
        return how
    wanted = log.per_cycle(log.into_ah), log.per_cycle(log.out_ah)
    given_by = cell.integrated(found, log)
    for got, right in zip(given_by, wanted, strict=True):
        np.testing.assert_allclose(got, right, rtol=2e-3)
    if "charge_capacity_ah" in found.found:
        for name, right in zip(
            ("charge_capacity_ah", "discharge_capacity_ah"), wanted, strict=True
        ):
            np.testing.assert_allclose(cell.counted(found, name, log.cycle), right, rtol=2e-3)
    return how


@given(convention=conventions)
def test_sign_time_and_charge_are_right_or_named(convention: Convention) -> None:
    check(convention)


@given(convention=conventions)
def test_a_counter_is_used_wherever_its_file_has_one(convention: Convention) -> None:
    how = check(convention)
    if convention.counters == "none":
        assert not any(use.kept for use in how.uses)
    elif not how.disagreements or set(how.disagreements) == {"time_assumed"}:
        assert any(use.kept for use in how.uses)


PLAIN = Convention("charges", "Current(A)", "Test_Time(s)", True, False, "pair", "Ah", "test",
                   30.0, True, False, False)  # fmt: skip


def changed(**what: Any) -> Convention:
    return Convention(**{**PLAIN.__dict__, **what})


@pytest.mark.parametrize("counters", COUNTERS)
@pytest.mark.parametrize("sign", ["charges", "discharges"])
@pytest.mark.parametrize("state", [True, False])
def test_a_signed_log_is_never_in_doubt(counters: str, sign: str, state: bool) -> None:
    how = check(changed(counters=counters, sign=sign, state=state))
    assert how.disagreements == ()
    wanted = Sign.POSITIVE_CHARGES if sign == "charges" else Sign.POSITIVE_DISCHARGES
    assert how.sign is wanted


@pytest.mark.parametrize("first", [True, False])
def test_without_a_sign_the_direction_comes_from_words_or_counters(first: bool) -> None:
    by_state = check(changed(sign="none", state=True, discharge_first=first))
    assert (by_state.sign, by_state.disagreements) == (Sign.FROM_STATE, ())
    by_counters = check(changed(sign="none", discharge_first=first))
    assert (by_counters.sign, by_counters.disagreements) == (Sign.FROM_COUNTERS, ())


@pytest.mark.parametrize("first", [True, False])
def test_without_a_sign_and_anything_that_names_it_the_direction_is_in_doubt(first: bool) -> None:
    how = check(changed(sign="none", counters="none", discharge_first=first))
    assert "direction_disagrees" in how.disagreements


@pytest.mark.parametrize("clock", sorted(CLOCKS))
def test_the_wall_clock_shows_the_unit_of_a_test_clock(clock: str) -> None:
    assert check(changed(clock=clock)).disagreements == ()


@pytest.mark.parametrize("clock", ["TestTime", "Total Time"])
def test_a_clock_without_unit_is_named_where_nothing_shows_its_unit(clock: str) -> None:
    how = check(changed(clock=clock, wall=False, counters="none"))
    assert set(how.disagreements) == {"time_assumed", "unit_guessed"}


@pytest.mark.parametrize("clock", ["TestTime", "Total Time"])
def test_counters_show_the_unit_of_a_test_clock_too(clock: str) -> None:
    assert check(changed(clock=clock, wall=False)).disagreements == ("time_assumed",)


@pytest.mark.parametrize("grain", ["test", "cycle", "step"])
def test_where_counters_restart_is_seen(grain: str) -> None:
    assert check(changed(grain=grain)).counter_grain == grain


@pytest.mark.parametrize("sampling_s", [1.0, 5.0, 60.0])
def test_the_sampling_interval_is_the_logs(sampling_s: float) -> None:
    assert check(changed(sampling_s=sampling_s)).sampling_s == pytest.approx(sampling_s)


def test_the_readings_own_table_is_left_as_it_is() -> None:
    log = cell.run()
    own = {
        "recorded_at": pa.array(log.wall, pa.timestamp("us", "UTC")),
        "record_index": pa.array(np.arange(1, log.rows + 1)),
        "test_time_s": pa.array(log.elapsed_s),
        "step_time_s": pa.array(log.step_s),
        "cycle_index": pa.array(log.cycle),
        "step_index": pa.array(log.step),
        "current_a": pa.array(log.current_a),
        "voltage_v": pa.array(log.voltage_v),
        "charge_capacity_ah": pa.array(log.into_ah),
        "discharge_capacity_ah": pa.array(log.out_ah),
    }
    how = decide(pa.table(own))
    assert (how.disagreements, how.left, how.refused) == ((), (), ())
    found = fields(pa.table(own), how, UTC)
    assert not found.bad and not found.flags.any()
    assert {name: array.to_pylist() for name, array in found.found.items()} == {
        name: array.to_pylist() for name, array in own.items()
    }


@given(convention=conventions)
def test_what_came_out_is_left_as_it_is_when_it_is_read_again(convention: Convention) -> None:
    log = convention.log()
    table = convention.table(log)
    first = fields(table, decide(table), UTC).found
    again = pa.table(first)
    how = decide(again)
    second = fields(again, how, UTC).found
    assert second.keys() == first.keys()
    for name, array in first.items():
        if pa.types.is_floating(array.type):
            np.testing.assert_allclose(np.asarray(second[name]), np.asarray(array), err_msg=name)
        else:
            assert second[name].equals(array), name
