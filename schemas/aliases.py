"""Maps the field names and units that cyclers, gateways and older designs use to the reading's."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

_S = {"": 1.0, "s": 1.0, "sec": 1.0, "second": 1.0, "seconds": 1.0, "ms": 1e-3}
_S |= {"min": 60.0, "minutes": 60.0, "h": 3600.0, "hr": 3600.0, "hours": 3600.0}
_V = {"": 1.0, "v": 1.0, "volt": 1.0, "volts": 1.0, "mv": 1e-3}
_A = {"": 1.0, "a": 1.0, "amp": 1.0, "amps": 1.0, "ampere": 1.0, "amperes": 1.0, "ma": 1e-3}
_AH = {"": 1.0, "ah": 1.0, "a_h": 1.0, "amp_hr": 1.0, "mah": 1e-3, "ma_h": 1e-3}
_WH = {"": 1.0, "wh": 1.0, "w_h": 1.0, "watt_hr": 1.0, "mwh": 1e-3, "mw_h": 1e-3, "kwh": 1e3}
_OHM = {"": 1.0, "ohm": 1.0, "ohms": 1.0, "mohm": 1e-3, "milliohm": 1e-3}
_C = {"": 1.0, "c": 1.0, "degc": 1.0, "deg_c": 1.0, "celsius": 1.0, "k": 1.0, "kelvin": 1.0}
_HZ = {"": 1.0, "hz": 1.0, "hertz": 1.0, "khz": 1e3}
_NONE = {"": 1.0}

_KELVIN = frozenset({"k", "kelvin"})

# Reading field: the base names it goes by, the unit suffixes those may carry. A name stands for
# its field after normalisation (see `normalise`), so `Voltage(V)`, `Voltage / V`, `voltage_v` and
# `VOLTAGE [V]` are one. Sources: Arbin MITS workbooks (CALCE), CALCE's PL sample, the Battery Data
# Format 1.3 (labels and machine names), Neware and Maccor exports, and the three older designs.
_NAMES: dict[str, tuple[tuple[str, ...], dict[str, float]]] = {
    "equipment_id": (
        ("equipment_id", "equipment", "cell_id", "cell", "cell_name", "battery_id", "machine_id",
         "machine", "device_id", "sensor_id"),
        _NONE,
    ),
    "equipment_type": (("equipment_type",), _NONE),
    "test_id": (("test_id", "test_name", "session_id"), _NONE),
    "recorded_at": (
        ("recorded_at", "date_time", "datetime", "timestamp", "event_time", "dpt_time",
         "absolute_time", "date", "unix_time", "unix_time_second", "time_stamp", "system_time"),
        {"": 1.0, "s": 1.0, "ms": 1e-3},
    ),
    "streamed_at": (("streamed_at", "sent_at", "published_at"), _NONE),
    "ingested_at": (("ingested_at",), _NONE),
    "source_file": (("source_file",), _NONE),
    "source_row": (("source_row",), _NONE),
    "record_index": (
        ("record_index", "data_point", "datapoint", "record", "record_id", "rec", "record_number",
         "data_serial_number"),
        _NONE,
    ),
    "test_time_s": (("test_time", "elapsed_time", "total_time", "testtime"), _S),
    "step_time_s": (("step_time", "steptime", "step_time_second"), _S),
    "cycle_index": (
        ("cycle_index", "cycle", "cycle_number", "cycle_count", "cycle_id", "cycle_no", "cyc"),
        {"": 1.0, "1": 1.0},
    ),
    "step_index": (
        ("step_index", "step", "step_number", "step_count", "step_id", "step_no"),
        {"": 1.0, "1": 1.0},
    ),
    "voltage_v": (("voltage", "volt", "volts", "cell_voltage", "ecell", "u"), _V),
    "current_a": (("current", "amps", "cell_current", "amp"), _A),
    "charge_capacity_ah": (
        ("charge_capacity", "chg_capacity", "charging_capacity",
         "schedule_charging_capacity", "chg_cap", "q_charge", "capacity_charge"),
        _AH,
    ),
    "discharge_capacity_ah": (
        ("discharge_capacity", "dchg_capacity", "discharging_capacity",
         "schedule_discharging_capacity", "dchg_cap", "q_discharge", "capacity_discharge"),
        _AH,
    ),
    "charge_energy_wh": (
        ("charge_energy", "chg_energy", "charging_energy", "schedule_charging_energy",
         "energy_charge"),
        _WH,
    ),
    "discharge_energy_wh": (
        ("discharge_energy", "dchg_energy", "discharging_energy", "schedule_discharging_energy",
         "energy_discharge"),
        _WH,
    ),
    "internal_resistance_ohm": (
        ("internal_resistance", "dc_internal_resistance", "resistance", "dcir"),
        _OHM,
    ),
    "temperature_c": (
        ("temperature", "surface_temperature", "cell_temperature", "temp", "aux_temperature",
         "aux_temperature_1", "temperature_t1", "surface_temperature_t1"),
        _C,
    ),
    "ambient_temperature_c": (
        ("ambient_temperature", "chamber_temperature", "environment_temperature", "ambient_temp"),
        _C,
    ),
    "frequency_hz": (("frequency", "freq"), _HZ),
}  # fmt: skip

# Names that mean a field only with a unit: bare, `charge` is as often a status and `time` a date.
_WITH_UNIT_ONLY: dict[str, tuple[tuple[str, ...], dict[str, float]]] = {
    "test_time_s": (("time",), _S),
    "charge_capacity_ah": (("charge",), _AH),
    "discharge_capacity_ah": (("discharge",), _AH),
    "charge_energy_wh": (("charge",), _WH),
    "discharge_energy_wh": (("discharge",), _WH),
}


@dataclass(frozen=True)
class Alias:
    """A source's name for a field: value in the field's unit = value × scale + offset."""

    field: str
    scale: float = 1.0
    offset: float = 0.0


def normalise(name: str) -> str:
    """A source's column name in lower case with every run of other signs as one underscore."""
    spelled = name.replace("Ω", "ohm").replace("\u2126", "ohm").replace("µ", "u")
    return re.sub(r"[^0-9a-z]+", "_", spelled.casefold()).strip("_")


def _build() -> dict[str, Alias]:
    found: dict[str, Alias] = {}
    for field, (bases, units) in _NAMES.items():
        for base in bases:
            for unit, scale in units.items():
                offset = -273.15 if unit in _KELVIN else 0.0
                name = f"{base}_{unit}" if unit else base
                found.setdefault(name, Alias(field, scale, offset))
        found.setdefault(field, Alias(field))
    for field, (bases, units) in _WITH_UNIT_ONLY.items():
        for base in bases:
            for unit, scale in units.items():
                if unit:
                    found.setdefault(f"{base}_{unit}", Alias(field, scale))
    return found


_ALIASES = _build()


@lru_cache(maxsize=4096)
def resolve(name: str) -> Alias | None:
    """The field that a source's column name stands for, or None if it is none of ours.

    >>> resolve("Charge_Capacity(mAh)")
    Alias(field='charge_capacity_ah', scale=0.001, offset=0.0)
    """
    return _ALIASES.get(normalise(name))


def known_names() -> dict[str, Alias]:
    """Every normalised name that is understood, with what it stands for."""
    return dict(_ALIASES)
