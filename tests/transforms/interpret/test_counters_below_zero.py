"""A counter of discharge that is written as a negative number counts the same charge."""

from __future__ import annotations

from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pytest

from transforms.interpret.apply import fields
from transforms.interpret.decide import decide

UTC = ZoneInfo("UTC")


def cycle(unit: float, below: bool, signed: bool) -> pa.Table:
    """An hour of charge and an hour of discharge at 2 A, a row a minute."""
    hours = np.arange(61) / 60.0
    charge = np.concatenate([2.0 * hours, np.full(60, 2.0)])
    discharge = np.concatenate([np.zeros(61), 2.0 * hours[1:]])
    current = np.concatenate([np.full(61, 2.0), np.full(60, -2.0)])
    return pa.table(
        {
            "Test Time (s)": np.arange(121) * 60.0,
            "Voltage (V)": np.concatenate([3.0 + hours, 3.9 - hours[1:]]),
            "Current (A)": current if signed else np.abs(current),
            "Charge Capacity": charge * unit,
            "Discharge Capacity": discharge * (-unit if below else unit),
        }
    )


@pytest.mark.parametrize("unit", [1.0, 1000.0])
@pytest.mark.parametrize("below", [True, False])
@pytest.mark.parametrize("signed", [True, False])
def test_the_sign_of_a_counter_changes_nothing(unit: float, below: bool, signed: bool) -> None:
    if not signed and unit != 1.0:
        pytest.skip("without a direction nothing tells the counters' unit")
    table = cycle(unit, below, signed)
    how = decide(table)
    assert how.disagreements == ("time_assumed",)
    found = fields(table, how, UTC).found
    assert max(found["charge_capacity_ah"].to_pylist()) == pytest.approx(2.0)
    assert max(found["discharge_capacity_ah"].to_pylist()) == pytest.approx(2.0)
    assert min(found["discharge_capacity_ah"].to_pylist()) == 0.0
    assert found["current_a"].to_pylist()[-1] == pytest.approx(-2.0)
