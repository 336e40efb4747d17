"""Say what is simulated, and read that from a source's parameters."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np

from pipeline.errors import ConfigError
from pipeline.sources.simulation.arrays import Ints

PROTOCOL_NAMES: Final = (
    "cycling", "partial", "drive", "formation", "check_up", "pulse", "multistage"
)  # fmt: skip
CHEMISTRY_NAMES: Final = ("default", "lco", "nmc", "lfp")
SAMPLINGS: Final = ("regular", "irregular", "voltage")
OMISSIONS: Final[dict[str, tuple[str, ...]]] = {
    "cycle_index": ("cycle_index",),
    "steps": ("step_index", "step_time_s"),
    "counters": (
        "charge_capacity_ah",
        "discharge_capacity_ah",
        "charge_energy_wh",
        "discharge_energy_wh",
    ),
    "record_index": ("record_index",),
    "test_time": ("test_time_s",),
    "resistance": ("internal_resistance_ohm",),
    "temperature": ("temperature_c", "ambient_temperature_c"),
}
# Parameters that would do nothing elsewhere: with which setting they may be given.
_BELONG: Final = {
    "reference_every": ("protocol", ("partial", "check_up", "pulse", "mixed")),
    "soc_min": ("protocol", ("partial", "mixed")),
    "soc_max": ("protocol", ("partial", "mixed")),
    "per_index": ("protocol", ("formation", "mixed")),
    "voltage_step": ("sampling", ("voltage",)),
}


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
        noise: standard deviation of a cell's measured voltage in mV.
        omit: what cells' messages lack, of OMISSIONS, separated by commas.
        protocol: what cells do: one of `protocols.PROTOCOLS`, or mixed: cells take turns.
        chemistry: one of `chemistry.CHEMISTRIES`.
        reference_every: every so many cycles, from the first on, protocol partial has a full cycle,
            check_up a slow one and pulse a pulse test; 0 for none.
        soc_min: state of charge at which protocol partial ends a discharge.
        soc_max: state of charge at which it ends a charge.
        per_index: cycles that share a cycle index in protocol formation's slow part.
        fade: per cent of the capacity that cells in steps lose in 100 cycles; None for 4.
        knee: cycle at which that turns fast (its onset lies at 0.8 of it); None for never.
        temperature_swing: K by which a season warms and cools the surroundings.
        temperature_period: days of such a season.
        cold_week: day on which a week begins that is 20 K colder; None for none.
        sampling: regular; irregular (0.2 to 1.8 intervals); or voltage: at every change by
            `voltage_step`, at the latest after an interval.
        voltage_step: change of voltage in mV that is read with sampling=voltage.

    Cells are those of `cell_model` unless a parameter from `protocol` on needs cells in steps (see
    `in_steps`); these age otherwise.
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
    noise: float = 0.3
    omit: str = ""
    protocol: str = "cycling"
    chemistry: str = "default"
    reference_every: int = 20
    soc_min: float = 0.3
    soc_max: float = 0.8
    per_index: int = 1
    fade: float | None = None
    knee: int | None = None
    temperature_swing: float = 0.0
    temperature_period: float = 365.0
    cold_week: int | None = None
    sampling: str = "regular"
    voltage_step: float = 10.0

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
        self._within("noise", 0.0, 100.0)
        for name in self.omitted:
            if name not in OMISSIONS:
                raise _wrong("omit", self.omit, f"of {', '.join(OMISSIONS)}, separated by commas")
        for name, valid in (
            ("protocol", (*PROTOCOL_NAMES, "mixed")),
            ("chemistry", CHEMISTRY_NAMES),
            ("sampling", SAMPLINGS),
        ):
            if getattr(self, name) not in valid:
                raise _wrong(name, getattr(self, name), f"one of {', '.join(valid)}")
        for name, whose in _BELONG.items():
            default = next(f.default for f in fields(FleetConfig) if f.name == name)
            setting, values = whose
            if getattr(self, name) != default and getattr(self, setting) not in values:
                raise ConfigError(
                    f"--source=simulator: parameter '{name}' needs {setting}="
                    f"{' or '.join(values)}, not '{getattr(self, setting)}'; for example "
                    f"simulator:?{setting}={values[0]}&{name}={getattr(self, name)}"
                )
        self._within("reference_every", 0, 100_000)
        self._within("soc_min", 0.0, 0.95)
        self._within("soc_max", round(self.soc_min + 0.05, 6), 1.0)
        self._within("per_index", 1, 20)
        if self.fade is not None:
            self._within("fade", 0.0, 100.0)
        if self.knee is not None:
            self._within("knee", 1, 100_000)
        self._within("temperature_swing", 0.0, 30.0)
        self._within("temperature_period", 0.5, 3650.0)
        if self.cold_week is not None:
            self._within("cold_week", 0, 36_500)
        self._within("voltage_step", 0.5, 200.0)
        if not 1970 <= _instant(self.start).year <= 2100:
            raise _wrong("start", self.start, "a time between 1970 and 2100")

    @classmethod
    def parse(cls, parameters: Mapping[str, str]) -> FleetConfig:
        """Reads a URI's parameters; raises ConfigError naming the parameter and the fix."""
        kinds: dict[str, Callable[[str], Any]] = {
            f.name: str if f.type == "str" else float if str(f.type).startswith("float") else int
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
    def omitted(self) -> tuple[str, ...]:
        """What cells' messages lack, of OMISSIONS."""
        return tuple(name for name in self.omit.split(",") if name)

    @property
    def in_steps(self) -> bool:
        """Whether cells are simulated step by step: the default's electrodes know one protocol."""
        return (
            self.protocol != "cycling"
            or self.chemistry != "default"
            or self.sampling != "regular"
            or self.fade is not None
            or self.knee is not None
            or self.temperature_swing != 0.0
            or self.cold_week is not None
        )

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
    example = {"readings": 100_000, "machines": 2, "omit": "counters,cycle_index", "fade": 4,
               "knee": 300, "cold_week": 30}.get(name, default)  # fmt: skip
    return ConfigError(
        f"--source=simulator: parameter '{name}' must be {wanted}, not '{value}'; "
        f"for example simulator:?{name}={example}"
    )
