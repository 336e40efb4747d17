"""What ended cycles say of health: which cells, which stretches, how they travel."""

from __future__ import annotations

import numpy as np
import pytest

from schemas import profiles
from tests.transforms.cycles.test_ended import readings
from transforms.cycles.ended import OpenCycles
from transforms.cycles.table import cycle_rows
from transforms.prediction import curves as module
from transforms.prediction.curves import SCHEMA, curves, cycle_segments

PROFILES = profiles.load()


def found(name: str, cycles: int = 3):
    cells = OpenCycles(PROFILES, 0, bounded=True)
    ended = cells.feed(readings(cycles, name), 2**62)
    assert ended is not None
    return curves(ended, cycle_rows(ended, cells.limits), cells.limits)


def test_a_cell_whose_limits_are_known_has_its_segments() -> None:
    table = found("sim_cell_001")
    assert table.schema.equals(SCHEMA)
    first, second = table.to_pylist()
    assert (first["cycle_number"], second["cycle_number"]) == (1, 2)
    assert first["nominal_ah"] == 2.0 and first["threshold_soh"] == 0.8
    assert first["capacity_ah"] is None  # it is nowhere near its limits
    cycle, known = cycle_segments(first)
    assert known.v_max_v == 4.2
    charge, discharge = cycle.segments
    assert (charge.direction, discharge.direction) == (1.0, -1.0)
    assert charge.ah[-1] == pytest.approx(17 / 60, abs=0.02)
    assert charge.temperature_c is not None
    assert np.all(np.diff(charge.ah) > 0) and np.all(np.diff(charge.voltage_v) > 0)
    assert charge.skipped_ah == pytest.approx(2 / 60, abs=0.02)


def test_of_a_cell_that_no_profile_knows_nothing_is_said() -> None:
    assert found("unknown").num_rows == 0


def test_long_segments_travel_with_fewer_readings(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = cycle_segments(found("sim_cell_001").to_pylist()[0])[0].segments[0]
    monkeypatch.setattr(module, "_MOST_READINGS", 7)
    fewer = cycle_segments(found("sim_cell_001").to_pylist()[0])[0].segments[0]
    assert len(fewer.ah) <= 7 < len(whole.ah)
    assert fewer.ah[0] == whole.ah[0] and set(fewer.voltage_v) <= set(whole.voltage_v)
