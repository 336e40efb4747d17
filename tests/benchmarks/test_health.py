"""The benchmark of health with a few cells: errors, coverage, and the way that looks ahead."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.benchmarks import health
from tests.benchmarks.health_cells import WHOLE_CYCLES, Windows, simulated
from tests.calce import calce_dir

WINDOWS = Windows(0.25, 0.5, 0.1, WHOLE_CYCLES, "both")


@pytest.mark.parametrize("number", [0, 1, 2, 3])  # default, lco, nmc, lfp
def test_windows_of_a_quarter_follow_a_simulated_cell(number: int) -> None:
    judged = health.judge(simulated(3, number, 60), WINDOWS)
    there = np.isfinite(judged.found)
    assert there.mean() > 0.8
    assert health._rmse(judged.found - judged.true) < 0.02
    assert judged.state_bytes <= 4096
    inside = (judged.true >= judged.low) & (judged.true <= judged.high)
    assert inside[there].mean() > 0.7


def test_the_truth_fades_as_the_simulator_says() -> None:
    cell = simulated(3, 1, 40)
    soh = [cycle.soh for cycle in cell.cycles]
    assert soh[0] == 1.0
    assert 0.5 < soh[-1] < 0.99
    assert len(soh) == 40


def test_tables_have_a_line_for_each_group_and_for_all() -> None:
    one = health.judge(simulated(3, 2, 30), WINDOWS)
    other = replace(one, traits={**one.traits, "chemistry": "other"}, found=one.found * np.nan)
    lines = list(health.tables([one, other], ["chemistry"]))
    assert [line.split()[0] for line in lines[1:]] == ["chemistry", "nmc", "other", "all"]
    assert "0%" in lines[3]


def test_intervals_are_calibrated_to_nine_tenths() -> None:
    true = np.zeros(1000)
    found = np.random.default_rng(0).normal(0.0, 0.02, 1000)
    factor = health.health.default().intervals["full"].factor
    one = health.Judged(
        "a", {"beginning": "whole cycles"}, true, found, found - 0.01 * factor,
        found + 0.01 * factor, found, found, health.Counter(), 0,
    )  # fmt: skip
    other = replace(one, traits={"beginning": "windows only"})
    factors = health.calibrated([one, other], health.health.default())
    assert factors["full"] == pytest.approx(1.645 * 2.0, rel=0.1)


@pytest.mark.calce
@pytest.mark.slow
def test_calce_is_read_as_the_reference_says() -> None:
    cell = health.calce(calce_dir())
    valid = [cycle for cycle in cell.cycles if np.isfinite(cycle.soh)]
    assert len(cell.cycles) == 886
    assert valid[0].capacity_ah == pytest.approx(1.138, abs=0.001)
    early = replace(cell, cycles=cell.cycles[:60])
    judged = health.judge(early, replace(WINDOWS, directions="discharge", place=0.0))
    assert health._rmse(judged.found - judged.true) < 0.03
