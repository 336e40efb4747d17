"""Simulate machines: the readings of mains-fed motors, in chunks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np

from pipeline.sources.simulation import draws
from pipeline.sources.simulation.arrays import Floats, Hashes, Ints
from pipeline.sources.simulation.config import FleetConfig
from pipeline.sources.simulation.parts import CHUNK, Block, Chunk, Kind, scaled

MACHINE: Final = Kind(
    type="machine",
    short="machine",
    columns={
        "voltage_v": 2,
        "current_a": 3,
        "frequency_hz": 3,
        "temperature_c": 2,
    },
    tests=False,
)
CYCLE_S: Final = 14_400.0  # a machine runs as long as a cell takes for its cycles


class Machines:
    """The fleet's machines; `keys` are those of all its equipments."""

    kind = MACHINE

    def __init__(self, config: FleetConfig, keys: Hashes) -> None:
        self._config, self._keys = config, keys

    @property
    def count(self) -> int:
        """Readings of each machine where the configuration's cycles say it."""
        return max(1, round(self._config.cycles * CYCLE_S / self._config.interval))

    def chunks(self, block: Block, wanted: Ints | None, faults: float) -> Iterator[Chunk]:
        """Readings of a block: `wanted` of each machine, or else as many as `count`."""
        limits = np.full(block.stop - block.first, self.count) if wanted is None else wanted
        if limits.size > 1:
            equipment = np.repeat(np.arange(block.first, block.stop), limits)
            starts = np.cumsum(limits) - limits
            reading = np.arange(equipment.size) - np.repeat(starts, limits)
            if equipment.size:
                yield self._readings(equipment, reading, faults)
            return
        for low in range(0, int(limits[0]), CHUNK):
            reading = np.arange(low, min(int(limits[0]), low + CHUNK))
            yield self._readings(np.full(reading.size, block.first), reading, faults)

    def _readings(self, equipment: Ints, reading: Ints, faults: float) -> Chunk:
        """A mains-fed motor: load by the hour of the week, a slow winding, a common grid."""
        keys = self._keys[equipment]
        noise = draws.mix(keys + draws.GOLDEN * reading.astype(np.uint64))
        passed_ms = np.rint(reading * (1000.0 * self._config.interval)).astype(np.int64)
        recorded_ms = self._config.first_ms(equipment) + passed_ms
        seconds = recorded_ms / 1000.0
        hour, part = np.divmod(seconds / 3600.0, 1.0)
        hour_number = hour.astype(np.int64)

        def load(at: Ints) -> Floats:
            weekday, of_day = (at // 24 + 3) % 7, at % 24  # 1970 began on a Thursday
            busy = (weekday < 5) & (of_day >= 6) & (of_day < 22)
            dice = draws.mix(
                draws.mix(keys ^ draws.SALT["load"]) + draws.GOLDEN * at.astype(np.uint64)
            )
            return np.where(busy, 0.75, 0.2) * (0.7 + 0.6 * draws.uniform(dice, 4))

        now = load(hour_number)
        # Winding temperature follows the load with a lag of about an hour: of the exponential's
        # weights the last four hours are kept, blended linearly within the hour.
        weights = np.array([0.55, 0.25, 0.13, 0.07])
        heat = np.zeros(now.shape)
        recent = [now, *(load(hour_number - back) for back in range(1, 5))]
        for back, weight in enumerate(weights):
            heat += weight * (recent[back] * part + recent[back + 1] * (1.0 - part))
        day = np.sin((2.0 * np.pi / 86_400.0) * seconds - 2.2)
        grid = 0.020 * np.sin(seconds * (2.0 * np.pi / 1812.0)) + 0.011 * np.sin(seconds / 97.0)
        rated = 6.0 + 24.0 * draws.uniform(draws.mix(keys ^ draws.SALT["rating"]), 4)
        wobble = 1.0 + 0.02 * draws.normal(noise, 12)
        voltage = 230.0 + 1.8 * day - 3.0 * now + 0.5 * draws.normal(noise, 0)
        return Chunk(
            equipment=equipment,
            reading=reading,
            recorded_ms=recorded_ms,
            noise=noise,
            columns={
                "voltage_v": scaled(voltage, 2),
                "current_a": scaled(rated * (0.15 + 0.85 * now) * wobble, 3),
                "frequency_hz": scaled(50.0 + grid + 0.003 * draws.normal(noise, 24), 3),
                "temperature_c": scaled(
                    self._config.temperature
                    + 3.0 * day
                    + 42.0 * heat
                    + 0.15 * draws.normal(noise, 36),
                    2,
                ),
            },
            test=None,
            fault=np.zeros(equipment.size, np.int8),
            chance=faults,
        )
