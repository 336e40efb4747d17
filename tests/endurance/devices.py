"""A fleet of simulated devices that goes on for ever: each stamps what it measures with its clock."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import orjson

from pipeline.sources.simulation.config import FleetConfig
from pipeline.sources.simulation.fleet import Fleet

# So many readings of each device are simulated; then its measurements repeat under new times.
_READINGS = 60


class Devices:
    """The devices take turns; no device stamps two readings with the same time.

    Args:
        count: how many there are; a quarter are machines.
        seed: another seed is another fleet; its devices still have the same names.
        prefix: put before every equipment's name.
    """

    def __init__(self, count: int, seed: int = 1, prefix: str = "") -> None:
        fleet = Fleet(
            FleetConfig(equipment=count, readings=count * _READINGS, interval=1.0, seed=seed)
        )
        self._readings: dict[bytes, list[dict[str, Any]]] = {}
        for block in fleet.blocks(200_000):
            for part in fleet.messages(block):
                for key, payload in zip(part.keys, part.payloads, strict=True):
                    reading = orjson.loads(payload)
                    reading["equipment_id"] = prefix + reading["equipment_id"]
                    self._readings.setdefault(prefix.encode() + key, []).append(reading)
        self._turns = self._endless()
        self._latest_us: dict[bytes, int] = {}
        self._first_us: dict[bytes, int] = {}
        self._counts: dict[bytes, int] = {}

    def _endless(self) -> Iterator[tuple[bytes, dict[str, Any]]]:
        for at in itertools.cycle(range(_READINGS)):
            for key, readings in self._readings.items():
                yield key, readings[at % len(readings)]

    def next(self, now_us: int, late_us: int = 0) -> tuple[bytes, bytes]:
        """The next device's reading.

        Args:
            now_us: the device's clock, µs since 1970.
            late_us: by how much the reading is older; it then says so in the field `sent_late_s`.

        Returns:
            the key and the payload.
        """
        key, reading = next(self._turns)
        if late_us:
            # An odd microsecond: on-time readings have even ones, so that no two are equal.
            at_us = (now_us - late_us) | 1
        else:
            at_us = max(now_us & ~1, self._latest_us.get(key, 0) + 2)
            self._latest_us[key] = at_us
        reading["recorded_at"] = reading["streamed_at"] = _iso(at_us)
        if "record_index" in reading:
            self._counts[key] = reading["record_index"] = self._counts.get(key, 0) + 1
            started_us = self._first_us.setdefault(key, at_us - 86_400_000_000)
            reading["test_time_s"] = (at_us - started_us) / 1e6
        payload = {**reading, "sent_late_s": late_us / 1e6} if late_us else reading
        return key, orjson.dumps(payload)


def _iso(us: int) -> str:
    seconds, rest = divmod(us, 1_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:06d}Z"
