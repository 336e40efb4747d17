"""Say what is simulated, and read that from a source's parameters."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any

import numpy as np

from pipeline.errors import ConfigError
from pipeline.sources.simulation.arrays import Ints


@dataclass(frozen=True)
class FleetConfig:
    """What is simulated; every field is a parameter of `simulator:?name=value&…`.

    Attributes:
        equipment: equipments in the fleet; cells first, then machines.
        machines: how many of them are machines; None for a quarter.
        cycles: charge-discharge cycles of each cell; machines run 4 h per cycle. The default lets
            most cells reach 80 % of their nominal capacity.
        interval: seconds between readings; cells add one at every change of step.
        readings: readings of the whole fleet, spread evenly; then `cycles` sets no limit.
        seed: another seed is another fleet.
        start: event time of the first reading; the others start within one interval.
        faults: share of readings that are faulty (see FAULTS), 0 to 1.
        late: share of readings that arrive 3 to 60 intervals late, 0 to 1.
        duplicates: share of messages that are sent twice, 0 to 1.
        nominal_ah: nominal capacity of every cell in Ah.
        temperature: mean temperature of the surroundings in degrees C.
    """

    equipment: int = 8
    machines: int | None = None
    cycles: int = 500
    interval: float = 60.0
    readings: int | None = None
    seed: int = 1
    start: str = "2024-01-01T00:00:00Z"
    faults: float = 0.0
    late: float = 0.0
    duplicates: float = 0.0
    nominal_ah: float = 2.0
    temperature: float = 25.0

    def __post_init__(self) -> None:
        self._within("equipment", 1, 10_000_000)
        if self.machines is not None:
            self._within("machines", 0, self.equipment)
        self._within("cycles", 1, 100_000)
        self._within("interval", 0.1, 3600.0)
        if self.readings is not None:
            self._within("readings", 1, 10**12)
        self._within("seed", 0, 2**63 - 1)
        for share in ("faults", "late", "duplicates"):
            self._within(share, 0.0, 1.0)
        self._within("nominal_ah", 0.1, 500.0)
        self._within("temperature", -20.0, 60.0)
        if not 1970 <= _instant(self.start).year <= 2100:
            raise _wrong("start", self.start, "a time between 1970 and 2100")

    @classmethod
    def parse(cls, parameters: Mapping[str, str]) -> FleetConfig:
        """Reads a URI's parameters; raises ConfigError naming the parameter and the fix."""
        kinds: dict[str, Callable[[str], Any]] = {
            f.name: str if f.name == "start" else float if f.type == "float" else int
            for f in fields(cls)
        }
        values: dict[str, Any] = {}
        for name, text in parameters.items():
            if name not in kinds:
                near = difflib.get_close_matches(name, kinds, 1)
                hint = f"did you mean '{near[0]}'? " if near else ""
                raise ConfigError(
                    f"--source=simulator: has no parameter '{name}'; {hint}"
                    f"valid are {', '.join(kinds)}"
                )
            kind = kinds[name]
            try:
                values[name] = kind(text)
            except ValueError:
                what = "a whole number" if kind is int else "a number"
                raise _wrong(name, text, what) from None
        return cls(**values)

    @property
    def machine_count(self) -> int:
        """How many of the equipments are machines."""
        return self.equipment // 4 if self.machines is None else self.machines

    @property
    def cell_count(self) -> int:
        """How many of the equipments are battery cells; they are numbered first."""
        return self.equipment - self.machine_count

    @property
    def start_ms(self) -> int:
        """When the fleet's first reading is recorded, milliseconds since 1970 UTC."""
        return round(_instant(self.start).timestamp() * 1000.0)

    def first_ms(self, equipment: Ints) -> Ints:
        """When each equipment's first reading is recorded, ms since 1970 UTC; 0 starts on time."""
        share = (equipment * 0.6180339887498949) % 1.0  # spreads them over one interval
        return self.start_ms + (share * (1000.0 * self.interval)).astype(np.int64)

    def _within(self, name: str, low: float, high: float) -> None:
        value = getattr(self, name)
        if not low <= value <= high:
            raise _wrong(name, value, f"between {low:,} and {high:,}")


def _instant(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise _wrong("start", text, "an ISO 8601 time") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _wrong(name: str, value: object, wanted: str) -> ConfigError:
    default = next(f.default for f in fields(FleetConfig) if f.name == name)
    example = {"readings": 100_000, "machines": 2}.get(name, default)
    return ConfigError(
        f"--source=simulator: parameter '{name}' must be {wanted}, not '{value}'; "
        f"for example simulator:?{name}={example}"
    )
