"""Cells are physically sound over their whole life."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.sources.simulation.config import FleetConfig
from pipeline.sources.simulation.fleet import Fleet
from tests.pipeline.sources.simulation.reading import Columns, columns_of


def lives(c: Columns) -> tuple[NDArray[Any], NDArray[Any]]:
    """Discharge capacity (Ah) and start row of each cycle over a cell's life, from the counters."""
    starts = np.flatnonzero(np.diff(c["cycle_index"], prepend=-1) != 0)
    ends = np.append(starts[1:], len(c["cycle_index"])) - 1
    out = c["discharge_capacity_ah"]
    return out[ends] - out[starts], starts


def dq_dv(c: Columns, cycle: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Smoothed dQ/dV (Ah/V) of a cycle's CC charge in 10 mV bins, and the bins (V)."""
    _, starts = lives(c)
    rows = np.flatnonzero(c["step_index"][starts[cycle] :] != 1)[0]
    part = slice(starts[cycle], starts[cycle] + rows)
    volts = np.maximum.accumulate(c["voltage_v"][part])
    bins = np.arange(3.4, 4.2, 0.01)
    slope = np.diff(np.interp(bins, volts, c["charge_capacity_ah"][part])) / 0.01
    kernel = np.exp(-0.5 * (np.arange(-4, 5) / 1.5) ** 2)
    return np.convolve(slope, kernel / kernel.sum(), "same"), bins[:-1]


def peaks(slope: NDArray[Any], least: float) -> NDArray[Any]:
    inner = slope[1:-1]
    found = (inner > slope[:-2]) & (inner >= slope[2:]) & (inner > least)
    return np.flatnonzero(found) + 1


def test_every_test_restarts_its_counters_and_clock(cell: Columns) -> None:
    begins = np.flatnonzero(cell["test_id"][1:] != cell["test_id"][:-1]) + 1
    assert len(begins) == 9
    assert cell["test_id"][0] == b"sim_cell_001_t01"
    assert cell["test_id"][-1] == b"sim_cell_001_t10"
    for row in (0, *begins):
        assert cell["record_index"][row] == cell["cycle_index"][row] == 1
        assert cell["test_time_s"][row] == 1.0
        assert cell["charge_capacity_ah"][row] < 0.001
        assert cell["discharge_capacity_ah"][row] == 0.0
        assert cell["internal_resistance_ohm"][row] == 0.0
    assert cell["cycle_index"].max() == 50
    unmeasured = np.mean(cell["internal_resistance_ohm"] == 0.0)
    assert 0.01 < unmeasured < 0.025
    same = np.diff(cell["record_index"]) == 1
    assert np.count_nonzero(~same) == 9
    assert np.all(np.diff(cell["test_time_s"])[same] >= 0.4)
    assert np.all(np.diff(cell["recorded_at_us"]) > 0)
    gaps = np.diff(cell["recorded_at_us"])[begins - 1] / 3.6e9
    assert np.all((gaps > 0.9) & (gaps < 25))


@pytest.mark.parametrize("interval", [10.0, 60.0])
def test_counters_are_the_integrals_of_current_and_power(interval: float) -> None:
    c = columns_of(Fleet(FleetConfig(machines=0, cycles=4, interval=interval)), 1)
    t, i, v = c["test_time_s"], c["current_a"], c["voltage_v"]
    dt = np.diff(t, prepend=0.0)
    first = np.diff(c["step_index"], prepend=-1) != 0
    # Trapezoid inside a step, rectangle on its first reading.
    mean_i = np.where(first, i, (i + np.roll(i, 1)) / 2)
    mean_p = np.where(first, i * v, (i * v + np.roll(i * v, 1)) / 2)
    for name, part, sign in (
        ("charge_capacity_ah", mean_i, 1),
        ("discharge_capacity_ah", mean_i, -1),
        ("charge_energy_wh", mean_p, 1),
        ("discharge_energy_wh", mean_p, -1),
    ):
        integral = np.sum(np.maximum(sign * part, 0) * dt) / 3600.0
        assert c[name][-1] == pytest.approx(integral, rel=0.005)
        assert np.all(np.diff(c[name]) >= 0)


def test_a_cycle_is_cc_cv_charge_rest_cc_discharge_rest(cell: Columns) -> None:
    rows = cell["cycle_index"][:500] == 1
    step, i, v = (cell[n][:500][rows] for n in ("step_index", "current_a", "voltage_v"))
    assert np.all(np.diff(step) >= 0)
    assert set(step.tolist()) == {1, 2, 3, 4, 5}
    assert np.all(np.abs(i[step == 1] - 1.0) < 0.002)
    assert np.all(np.diff(v[step == 1]) > -0.003)
    assert v[step == 1][-1] == pytest.approx(4.2, abs=0.003)
    assert np.all(np.abs(v[step == 2] - 4.2) < 0.002)
    assert np.all(np.diff(i[step == 2]) < 0)
    assert i[step == 2][-1] == pytest.approx(0.1, abs=0.002)
    assert np.all(i[(step == 3) | (step == 5)] == 0.0)
    assert np.all(np.abs(i[step == 4] + 2.0) < 0.002)
    assert v[step == 4][-1] == pytest.approx(2.7, abs=0.003)
    assert v[step == 3][-1] > v[step == 4][0]
    assert np.all(np.diff(v[step == 5]) > -0.002)


def test_voltage_and_temperature_stay_within_the_limits(default: Fleet) -> None:
    for equipment in (0, 3):
        c = columns_of(default, equipment)
        assert c["voltage_v"].min() > 2.69
        assert c["voltage_v"].max() < 4.21
        assert 24.0 < c["ambient_temperature_c"].min() < c["ambient_temperature_c"].max() < 26.0
        assert 24.0 < c["temperature_c"].min() < c["temperature_c"].max() < 50.0
        assert c["temperature_c"].max() > 27.0
        # A healthy sensor is never taken for a stuck one.
        run, longest = 1, 1
        loaded = (c["step_index"] == 1) | (c["step_index"] == 4)
        for same in ((np.diff(c["voltage_v"]) == 0) & loaded[1:]).tolist():
            run = run + 1 if same else 1
            longest = max(longest, run)
        assert longest < 6


def test_fresh_cells_have_their_nominal_capacity() -> None:
    fleet = Fleet(FleetConfig(equipment=200, machines=0, cycles=1, nominal_ah=5.0))
    parts = [c for b in fleet.blocks(20_000) for c in fleet.columns(b, 10**6)]
    last = [np.append(np.diff(c["record_index"]) < 0, True) for c in parts]
    capacity = np.concatenate(
        [c["discharge_capacity_ah"][rows] for c, rows in zip(parts, last, strict=True)]
    )
    assert capacity.size == 200
    assert np.mean(capacity) == pytest.approx(5.0, rel=0.015)
    assert 0.003 < np.std(capacity) / 5.0 < 0.012


def test_capacity_fades_with_a_knee_and_most_cells_reach_end_of_life(default: Fleet) -> None:
    ended = 0
    for equipment in range(6):
        capacity, _ = lives(columns_of(default, equipment))
        assert capacity.size == 500
        smooth = np.convolve(capacity, np.ones(25) / 25, "valid")
        assert np.all(np.diff(smooth[::25]) < 0)
        early = (smooth[50] - smooth[200]) / 150
        late = (smooth[-51] - smooth[-1]) / 50
        assert late > 3 * early
        median = np.median(np.lib.stride_tricks.sliding_window_view(capacity, 5), axis=1)
        below = np.flatnonzero(median < 0.8 * 2.0)
        if below.size:
            assert below[0] > 300
            ended += 1
    assert 4 <= ended <= 6


def test_resistance_grows(cell: Columns) -> None:
    r = cell["internal_resistance_ohm"]
    fresh, aged = r[r > 0][:1000].mean(), r[-1000:].mean()
    assert 0.03 < fresh < 0.06
    assert aged > 1.5 * fresh


def test_dq_dv_has_peaks_that_shrink_and_shift_with_age(cell: Columns) -> None:
    new, volts = dq_dv(cell, 5)
    old, _ = dq_dv(cell, 360)
    found = peaks(new, 2.0)
    assert len(found) >= 3
    assert np.all(np.diff(volts[found]) > 0.05)
    for low, high in itertools.pairwise(found):
        assert new[low:high].min() < 0.7 * min(new[low], new[high])
    assert old.max() < 0.9 * new.max()
    assert 0.01 < volts[old.argmax()] - volts[new.argmax()] < 0.15
