"""Temperature of the surroundings over time: mean, day, season, and a cold week."""

from __future__ import annotations

from typing import Final

import numpy as np

from pipeline.sources.simulation.arrays import Floats
from pipeline.sources.simulation.config import FleetConfig

DAILY_K: Final = 0.3  # a laboratory's day
COLD_K: Final = 20.0  # what a cold week lacks
_DAY_MS: Final = 86.4e6


def varies(config: FleetConfig) -> bool:
    """Whether more than the time of day changes the temperature."""
    return config.temperature_swing != 0.0 or config.cold_week is not None


def ambient_c(config: FleetConfig, at_ms: Floats) -> Floats:
    """Degrees C at each time (ms since 1970 UTC).

    The season is a sine of `temperature_period` days that starts with the fleet, upwards.
    """
    found = config.temperature + DAILY_K * np.sin(at_ms * (2.0 * np.pi / _DAY_MS))
    days = (at_ms - config.start_ms) / _DAY_MS
    if config.temperature_swing:
        found = found + config.temperature_swing * np.sin(
            days * (2.0 * np.pi / config.temperature_period)
        )
    if config.cold_week is not None:
        cold = (days >= config.cold_week) & (days < config.cold_week + 7.0)
        found = np.where(cold, found - COLD_K, found)
    out: Floats = found
    return out
