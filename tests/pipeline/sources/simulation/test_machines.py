"""Machines run on mains with a load that follows the day."""

from __future__ import annotations

import numpy as np

from pipeline.sources.simulation.fleet import Fleet
from tests.pipeline.sources.simulation.reading import columns_of


def test_machines_run_on_mains_with_a_daily_load(default: Fleet) -> None:
    c = columns_of(default, 6)
    assert np.all(np.abs(c["frequency_hz"] - 50.0) < 0.1)
    assert np.all(np.abs(c["voltage_v"] - 230.0) < 15.0)
    assert np.all(np.diff(c["recorded_at_us"]) == 60_000_000)
    hour = c["recorded_at_us"] // 3_600_000_000
    weekday, of_day = (hour // 24 + 3) % 7, hour % 24
    day = (weekday < 5) & (of_day >= 8) & (of_day < 20)
    night = (of_day < 4) & (of_day >= 1)
    assert c["current_a"][day].mean() > 2 * c["current_a"][night].mean() > 0
    assert c["temperature_c"][day].mean() > c["temperature_c"][night].mean() + 10
    # The winding is slow: from minute to minute it moves by little.
    assert np.abs(np.diff(c["temperature_c"])).mean() < 0.5
