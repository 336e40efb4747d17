"""Clocks that start again with every run: what passed is added up, stamps of a run are its start."""

from __future__ import annotations

from collections.abc import Sequence
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pytest

from transforms.interpret.agreement import added_up
from transforms.interpret.apply import fields
from transforms.interpret.decide import decide

UTC = ZoneInfo("UTC")
MINUTES = 30
RUN_S = [60.0 * minute for minute in range(MINUTES + 1)]


def runs(**more: Sequence[object]) -> pa.Table:
    """Three discharges of half an hour at 2 A, each on a clock of its own."""
    # a cell that fades: no row is the copy of another
    volts = [4.0 - 0.001 * run - 0.02 * minute for run in range(3) for minute in range(MINUTES + 1)]
    table = {
        "Voltage_measured": volts,
        "Current_measured": [-2.0] * len(volts),
        "Time": RUN_S * 3,
        **more,
    }
    return pa.table(table)


def seconds(array: pa.Array) -> list[float]:
    return [at / 1e6 for at in array.cast(pa.int64()).to_pylist()]


def test_a_stamp_that_stands_still_while_the_clock_runs_is_the_runs_start() -> None:
    stamps = [f"2024-03-{15 + run} 15:25:41" for run in range(3) for _ in RUN_S]
    cycles = [run + 1 for run in range(3) for _ in RUN_S]
    table = runs(datetime=stamps, cycle=cycles)
    how = decide(table)
    assert how.wall_of_runs and how.in_order
    found = fields(table, how, UTC).found
    at = seconds(found["recorded_at"])
    begin = at[0]
    expected = [86400.0 * run + passed for run in range(3) for passed in RUN_S]
    assert [value - begin for value in at] == pytest.approx(expected)
    # Between two runs nobody measured: they follow one another on the test's clock.
    elapsed = found["test_time_s"].to_pylist()
    assert elapsed == pytest.approx([1800.0 * run + t for run in range(3) for t in RUN_S])


@pytest.mark.parametrize("with_cycles", [True, False])
def test_runs_without_any_stamp_are_added_up(with_cycles: bool) -> None:
    cycles = [run + 1 for run in range(3) for _ in RUN_S]
    table = runs(cycle=cycles) if with_cycles else runs()
    how = decide(table)
    assert how.by_runs and not how.wall_of_runs
    elapsed = fields(table, how, UTC).found["test_time_s"].to_pylist()
    assert elapsed == pytest.approx([1800.0 * run + t for run in range(3) for t in RUN_S])


def test_a_wall_clock_that_moves_within_the_runs_needs_no_help() -> None:
    stamps = [
        f"2024-03-{15 + run} 15:{minute % 60:02d}:00"
        for run in range(3)
        for minute in range(MINUTES + 1)
    ]
    how = decide(runs(datetime=stamps, cycle=[run for run in range(3) for _ in RUN_S]))
    assert not how.wall_of_runs and not how.by_runs


def test_a_clock_that_only_falls_for_a_moment_has_not_started_again() -> None:
    clock = [60.0 * row for row in range(3 * len(RUN_S))]
    clock[40] -= 90.0
    table = runs().set_column(2, "Time", pa.array(clock))
    assert not decide(table).by_runs


def test_runs_of_two_cells_are_not_mixed() -> None:
    run = np.array([0.0, 10.0, 0.0, 10.0, 5.0, 15.0, 0.0])
    first = np.array([True, False, False, False, True, False, False])
    assert added_up(run, first).tolist() == [0.0, 10.0, 10.0, 20.0, 5.0, 15.0, 15.0]


@pytest.mark.parametrize("first_day", [739_325.375, 45_365.375])
def test_a_bare_time_in_days_is_a_point_in_time(first_day: float) -> None:
    days = [first_day + minute / 1440 for minute in range(MINUTES + 1)]
    table = pa.table(
        {
            "Time": days,
            "Voltage": np.linspace(4.0, 3.5, len(days)),
            "Current": -2.0 + 0 * np.arange(len(days)),
        }
    )
    how = decide(table)
    assert how.use_of("recorded_at") and not how.use_of("test_time_s")
    at = seconds(fields(table, how, UTC).found["recorded_at"])
    assert at[0] == 1710406800.0  # 2024-03-14 09:00
    assert np.diff(at) == pytest.approx(60.0, abs=0.01)


@pytest.mark.parametrize("interval", [0.1, 1.0, 60.0])
def test_a_long_tests_seconds_are_no_days(interval: float) -> None:
    elapsed = [40_000.0 + interval * row for row in range(100)]
    table = pa.table(
        {
            "Time": elapsed,
            "Voltage": np.linspace(4.0, 3.5, 100),
            "Current": -2.0 + 0 * np.arange(100),
        }
    )
    assert decide(table).use_of("test_time_s")
