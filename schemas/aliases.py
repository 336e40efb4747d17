"""Maps the names that cyclers, gateways and older designs give their columns to the reading's."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from schemas import bdf
from schemas.reading import READING
from schemas.units import Dimension, Unit, canonical, is_clock_notation, parse

# What the reader compares with the reading's own fields and never stores under a name of ours.
STATE = "state"  # what the cycler was doing: charge, discharge, rest
CAPACITY = "capacity"  # one counter for both directions
ENERGY = "energy"  # likewise
CLOCK = "clock_of_day"  # a time of day, or a duration: its values tell
NET_CAPACITY = "net_capacity"  # BioLogic's (Q-Qo), negative too
WITNESSES = frozenset({STATE, CAPACITY, ENERGY, CLOCK, NET_CAPACITY})

_DIMENSIONS = {
    "recorded_at": Dimension.INSTANT,
    "streamed_at": Dimension.INSTANT,
    "ingested_at": Dimension.INSTANT,
    "test_time_s": Dimension.TIME,
    "step_time_s": Dimension.TIME,
    CLOCK: Dimension.TIME,
    "voltage_v": Dimension.VOLTAGE,
    "current_a": Dimension.CURRENT,
    "charge_capacity_ah": Dimension.CHARGE,
    "discharge_capacity_ah": Dimension.CHARGE,
    CAPACITY: Dimension.CHARGE,
    NET_CAPACITY: Dimension.CHARGE,
    "charge_energy_wh": Dimension.ENERGY,
    "discharge_energy_wh": Dimension.ENERGY,
    ENERGY: Dimension.ENERGY,
    "internal_resistance_ohm": Dimension.RESISTANCE,
    "temperature_c": Dimension.TEMPERATURE,
    "ambient_temperature_c": Dimension.TEMPERATURE,
    "frequency_hz": Dimension.FREQUENCY,
}

# Reading field: the names it goes by without their unit, the best first: where a file has several
# the earlier one is believed unless the values speak against it. A name is compared after
# `normalise`, so `Cell ID`, `cell_id` and `CELL-ID` are one. Sources: exports of Arbin (MITS),
# Maccor, Neware (English and Chinese), BioLogic, Novonix, Basytec, Digatron, PEC, Landt, Ivium,
# NASA PCoE, PyBaMM, batteryarchive.org, CALCE's PL sample, the Battery Data Format to 1.3 and the
# three older designs.
_NAMES: dict[str, tuple[str, ...]] = {
    "equipment_id": (
        "equipment_id", "cell_id", "battery_id", "cell_name", "battery_name", "barcode",
        "bar_code", "machine_id", "device_id", "sensor_id", "equipment", "battery", "machine",
        "cell", "电池条码", "条码",
    ),
    "equipment_type": ("equipment_type",),
    "test_id": ("test_id", "test_name", "session_id"),
    "recorded_at": (
        "recorded_at", "date_time", "datetime", "timestamp", "event_time", "dpt_time", "dpttime",
        "unix_time", "unixtime", "epoch", "epoch_time", "posix_time", "absolute_time", "abs_time",
        "real_time", "realtime", "time_stamp", "date_and_time", "date_time_stamp", "datum_zeit",
        "system_time", "systime", "clock_time", "wall_time", "measurement_time", "wall_clock_time",
        "绝对时间", "系统时间", "记录时间", "日期时间", "实际时间", "date", "日期", "datum",
    ),
    "streamed_at": ("streamed_at", "sent_at", "published_at"),
    "ingested_at": ("ingested_at",),
    "source_file": ("source_file",),
    "source_row": ("source_row",),
    "record_index": (
        "record_index", "data_point", "datapoint", "record", "record_id", "rec", "record_number",
        "record_no", "recnum", "rec_no", "data_serial_number", "point_number", "point_no",
        "data_pt", "datenpunkt", "数据序号", "记录序号", "记录号", "序号",
    ),
    "test_time_s": (
        "test_time", "testtime", "elapsed_time", "total_time", "totaltime", "cumulative_time",
        "run_time", "runtime", "prog_time", "program_time", "total_elapsed_time", "time_elapsed",
        "experiment_time", "总时间", "测试时间", "累计时间", "运行时间", "总运行时间",
    ),
    "step_time_s": (
        "step_time", "steptime", "t_step", "time_in_step", "relative_time", "step_elapsed_time",
        "工步时间", "步时间", "相对时间", "步骤时间",
    ),
    "cycle_index": (
        "cycle_index", "cycle_number", "cycle_count", "cycle_id", "cycle_no", "cycle_nr",
        "cycle_num", "cycle", "cyc", "cyc_no", "cyc_count", "cycle_c", "cyclenumber", "cycleno",
        "total_cycle", "cycle_dimensionless", "循环号", "循环序号", "循环", "循环次数", "cycle_p",
        "loop_counter_1",
    ),
    "step_index": (
        "step_index", "step_number", "step_count", "step_no", "step_nr", "step_num", "step_id",
        "step", "stepno", "ns", "line", "工步号", "工步序号", "工步", "步骤号", "步次",
    ),
    "voltage_v": (
        "voltage", "volt", "volts", "cell_voltage", "battery_voltage", "terminal_voltage",
        "voltage_measured", "measured_voltage", "ecell", "ewe_ece", "ewe", "potential",
        "cell_potential", "spannung", "u", "电压", "单体电压",
    ),
    "current_a": (
        "current", "amps", "amp", "cell_current", "battery_current", "current_measured",
        "measured_current", "curr", "cur", "strom", "电流",
    ),
    "charge_capacity_ah": (
        "charge_capacity", "charging_capacity", "chg_capacity", "cha_capacity",
        "schedule_charging_capacity", "chg_cap", "charge_cap", "cap_chg", "q_charge", "q_chg",
        "capacity_charge", "capacitance_chg", "capacity_chg", "charged_capacity", "ah_cha",
        "amp_hours_charge", "充电容量",
    ),
    "discharge_capacity_ah": (
        "discharge_capacity", "discharging_capacity", "dchg_capacity", "dis_capacity",
        "schedule_discharging_capacity", "dchg_cap", "discharge_cap", "cap_dchg", "dch_capacity",
        "q_discharge", "q_dchg", "capacity_discharge", "capacitance_dchg", "capacity_dchg",
        "discharged_capacity", "ah_dis", "ah_dch", "amp_hours_discharge", "放电容量",
    ),
    "charge_energy_wh": (
        "charge_energy", "charging_energy", "chg_energy", "cha_energy", "schedule_charging_energy",
        "energy_charge", "energy_chg", "engy_chg", "chg_eng", "charged_energy", "充电能量",
        "watt_hours_charge",
    ),
    "discharge_energy_wh": (
        "discharge_energy", "discharging_energy", "dchg_energy", "dis_energy", "dch_energy",
        "schedule_discharging_energy", "energy_discharge", "energy_dchg", "engy_dchg", "dchg_eng",
        "discharged_energy", "watt_hours_discharge", "放电能量",
    ),
    "internal_resistance_ohm": (
        "internal_resistance", "dc_internal_resistance", "resistance", "dcir",
        "dc_internal_resistance", "内阻", "直流内阻",
    ),
    "temperature_c": (
        "temperature", "surface_temperature", "cell_temperature", "battery_temperature", "temp",
        "temperature_measured", "aux_temperature", "aux_temperature_1", "temperature_t1",
        "surface_temperature_t1", "temperature_1", "temp_1", "temp1", "t1", "温度", "电池温度",
    ),
    "ambient_temperature_c": (
        "ambient_temperature", "chamber_temperature", "environment_temperature", "ambient_temp",
        "chamber_temp", "env_temperature", "环境温度",
    ),
    "frequency_hz": ("frequency", "freq"),
    STATE: (
        "step_type", "state", "status", "md", "step_name", "step_state", "step_status", "command",
        "charge_discharge", "chg_dchg", "mode_name", "工步类型", "工步名称", "状态", "工步状态",
        "step_mode", "work_mode", "mode",
    ),
    CAPACITY: (
        "capacity", "cap", "step_capacity", "ah_step", "capacity_step", "ahaccu", "ah_accu", "ah",
        "amp_hr", "amp_hrs", "amp_hour", "amp_hours", "amphr", "q", "容量", "net_capacity",
    ),
    NET_CAPACITY: ("q_qo", "q_charge_discharge"),
    ENERGY: (
        "energy", "step_energy", "wh", "watt_hr", "watt_hrs", "watt_hours", "whaccu", "wh_accu", "wh_step",
        "能量",
    ),
    CLOCK: ("time", "时间", "zeit", "time_of_day"),
}  # fmt: skip

# Names that mean a field only with a unit: bare, `charge` is as often a status and `test` a name.
_WITH_UNIT_ONLY: dict[str, tuple[str, ...]] = {
    "test_time_s": ("time", "t", "test", "时间", "zeit", "time_s"),
    "step_time_s": ("step",),
    "charge_capacity_ah": ("charge",),
    "discharge_capacity_ah": ("discharge",),
    "charge_energy_wh": ("charge",),
    "discharge_energy_wh": ("discharge",),
    "internal_resistance_ohm": ("ir", "r"),
    "voltage_v": ("v", "e"),
    "current_a": ("i",),
}

# Names that are a cycler's in a table and could be anything in a message.
_TABLE_ONLY = frozenset({
    "line", "ns", "q", "t1", "temp1", "runtime", "run_time", "epoch", "systime", "barcode",
    "bar_code", "battery", "rec_no", "point_no", "data_pt", "relative_time", "strom", "datum",
    "potential", "curr", "cur",
})  # fmt: skip

# Names whose last part is no unit of theirs though it looks like one.
_WHOLE = frozenset({"cycle_c", "amp_hr", "amp_hrs", "watt_hr", "watt_hrs", "ah", "wh", "amp",
                    "amps", "volt", "volts", "date_and_time", "amp_hours", "watt_hours"})  # fmt: skip


@dataclass(frozen=True)
class Alias:
    """A source's name for a field: value in the field's unit = value × scale + offset."""

    field: str
    scale: float = 1.0
    offset: float = 0.0


@dataclass(frozen=True)
class Meaning:
    """All that a column's name says.

    Attributes:
        field: the field, or one of WITNESSES.
        unit: the unit it spells out; None where it has none.
        unknown: the text in a unit's place that is not understood; None if there is none.
        rank: 0 for the best name of its field.
    """

    field: str
    unit: Unit | None = None
    unknown: str | None = None
    rank: int = 0


def normalise(name: str) -> str:
    """A column name in lower case with every run of other signs as one underscore.

    Letters of any alphabet count as letters; µ is u and Ω is ohm.
    """
    spelled = canonical(name).replace("Ω", "ohm").replace("μ", "u").casefold()
    return re.sub(r"[\W_]+", "_", spelled).strip("_")


def _build() -> dict[str, list[tuple[str, int]]]:
    found: dict[str, list[tuple[str, int]]] = {}
    for field, names in _NAMES.items():
        own = (field,) if field not in WITNESSES else ()
        for rank, name in enumerate((*own, *names)):
            found.setdefault(name, []).append((field, rank))
    return found


_BASES = _build()
_UNIT_BASES: dict[str, list[tuple[str, int]]] = {}
for _field, _bases in _WITH_UNIT_ONLY.items():
    for _base in _bases:
        _UNIT_BASES.setdefault(_base, []).append((_field, 50))

# Every spelling of the Battery Data Format that the names above and a unit do not make already.
_BDF: dict[str, tuple[str, str, int]] = {}
for _field, _labels in bdf.LABELS.items():
    for _rank, _label in enumerate(_labels):
        if normalise(_label.text) not in _BASES and not READING.field(_field).derived:
            _BDF.setdefault(normalise(_label.text), (_field, _label.unit, 20 + _rank))

# Each may stand before the unit; no name has as many.
_MOST_SLASHES = 8
_DIMENSIONLESS = frozenset({"", "1", "-", "#", "none", "dimensionless", "no", "n"})


def dimension_of(field: str) -> Dimension:
    """What a field measures."""
    return _DIMENSIONS.get(field, Dimension.NONE)


def _bracketed(name: str) -> tuple[str, str] | None:
    """A name and the text in the brackets that it ends in: `Current [mA]` is `Current`, `mA`.

    A unit may hold angle brackets (`<I>/mA` is a name of BioLogic's), but none of the others.
    """
    text = name.rstrip()
    if text[-1:] not in (")", "]", "}", ">"):
        return None
    end = len(text) - 1
    opened = max(text.rfind(sign, 0, end) for sign in "()[]{}")
    if opened < 0 or text[opened] in ")]}":
        opened = text.find("<", opened + 1, end)
    if opened < 0:
        return None
    until = opened
    while until and (text[until - 1] in "_/," or text[until - 1].isspace()):
        until -= 1
    return text[:until], text[opened + 1 : end].strip()


def _with_unit(base: str, unit: str) -> Meaning | None:
    """What a name and the text in its unit's place mean together."""
    key = normalise(base)
    candidates = [*_BASES.get(key, ()), *_UNIT_BASES.get(key, ())]
    if not candidates:
        return None
    # What the unit fits says more than what takes any: `Step (Sec)` is a time.
    candidates.sort(key=lambda found: dimension_of(found[0]) is Dimension.NONE)
    if canonical(unit).strip().casefold() in _DIMENSIONLESS:
        named = _BASES.get(key)
        return Meaning(named[0][0], rank=named[0][1]) if named else None
    for field, rank in candidates:
        dimension = dimension_of(field)
        # A place for a unit behind a number or name that has none says something else.
        known = Unit("", 1.0) if dimension is Dimension.NONE else parse(unit, dimension)
        if known is not None:
            if field == CLOCK and not is_clock_notation(unit):
                continue  # a number of seconds is the test's
            return Meaning(field, known if known.text else None, rank=rank)
    named = _BASES.get(key)
    if not named or named[0][0] == CLOCK or dimension_of(named[0][0]) is Dimension.NONE:
        return None
    return Meaning(named[0][0], unknown=unit, rank=named[0][1])


@lru_cache(maxsize=8192)
def meaning(name: str) -> Meaning | None:
    """What a source's column name means with the unit in it, or None if it is none of ours.

    >>> meaning("Current(furlong)")
    Meaning(field='current_a', unit=None, unknown='furlong', rank=1)
    """
    return _in_full(name) if _may_mean(name) else None


# Every name that is understood begins with one of these words, unless it is a unit alone.
_FIRST_WORDS = {key.partition("_")[0] for key in (*_BASES, *_UNIT_BASES, *_BDF)}
_LONGEST_UNIT = 24
# Longer than any name that is understood, with its unit.
_LONGEST_NAME = 200


def _may_mean(name: str) -> bool:
    """Whether it is worth looking at closely; thousands of names that mean nothing may come."""
    if len(name) > _LONGEST_NAME:
        return False
    key = normalise(name)
    if key.partition("_")[0] in _FIRST_WORDS:
        return True
    if normalise(_spaced(canonical(name))).partition("_")[0] in _FIRST_WORDS:
        return True
    return len(name) <= _LONGEST_UNIT and not any(map(str.isdigit, name))


def _in_full(name: str) -> Meaning | None:
    text = canonical(name).strip()
    key = normalise(text)
    whole = _BASES.get(key)
    if whole and (key in _WHOLE or key == text):
        field, rank = whole[0]
        return Meaning(field, rank=rank)
    if (found := _bracketed(text)) and found[0].strip(" _<"):
        bracketed = _with_unit(*found)
        if bracketed is not None:
            return bracketed
    slashes = [place.start() for place in re.finditer("/", text)][-_MOST_SLASHES:]
    cut = [_with_unit(text[:at], text[at + 1 :]) for at in slashes if text[:at].strip()]
    found_all = [found for found in cut if found is not None]
    # The last slash as a rule; one whose unit is understood before all (`Q charge/discharge/mA.h`).
    for slashed in [f for f in reversed(found_all) if f.unknown is None] or found_all:
        return slashed
    if whole:
        field, rank = whole[0]
        return Meaning(field, rank=rank)
    spaced = _spaced(text)
    return (
        _suffixed(text)
        or _bare_unit(text)
        or _of_the_format(key)
        or (meaning(spaced) if spaced != text else None)
    )


def _spaced(name: str) -> str:
    """A name whose words run together with its words apart: `cellVoltage` as `cell_Voltage`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)


def unit_in(name: str, field: str) -> Meaning:
    """What a name that stands for `field` because somebody says so means: its unit is its own.

    >>> unit_in("Kanal 3 [mA]", "current_a").unit
    Unit(text='mA', scale=0.001, offset=0.0)
    """
    dimension = dimension_of(field)
    found = meaning(name)
    if found is not None and dimension_of(found.field) is dimension:
        return Meaning(field, found.unit, found.unknown)
    text = canonical(name).strip()
    if dimension not in (Dimension.NONE, Dimension.INSTANT):
        if (bracketed := _bracketed(text)) and bracketed[1]:
            unit = parse(bracketed[1], dimension)
            return Meaning(field, unit, None if unit else bracketed[1])
        _, slash, end = text.rpartition("/")
        if slash and (unit := parse(end, dimension)) is not None:
            return Meaning(field, unit)
    return Meaning(field)


def _of_the_format(key: str) -> Meaning | None:
    """What a spelling of the Battery Data Format means."""
    known = _BDF.get(key)
    if known is None:
        return None
    field, unit, rank = known
    counted = dimension_of(field) is Dimension.NONE
    spelled = None if counted else parse(unit, dimension_of(field))
    return Meaning(field, spelled, rank=rank)


def _suffixed(text: str) -> Meaning | None:
    """A name whose last words are its unit: `voltage_mV`, `Current Amp`, `capacity_mA_h`."""
    spelled = re.sub(r"[\W_]+", "_", canonical(text).replace("°", "deg")).strip("_")
    parts = spelled.split("_")
    for count in (1, 2, 3):
        base, unit = "_".join(parts[:-count]), "".join(parts[-count:])
        if not base:
            return None
        found = _with_unit(base, unit)
        if found is not None and found.unknown is None and found.unit is not None:
            return found
        if found is not None and unit.casefold() == "dimensionless":
            return found
    return None


def _bare_unit(text: str) -> Meaning | None:
    """A column that is named by its unit alone, prefix and all: `mAmps`, `mV`."""
    if len(text) > 1:
        for field in ("voltage_v", "current_a", CAPACITY):
            if (unit := parse(text, dimension_of(field))) is not None and len(unit.text) > 1:
                return Meaning(field, unit, rank=60)
    return None


@lru_cache(maxsize=8192)
def resolve(name: str) -> Alias | None:
    """The field that a message's name stands for, or None if it is none of the reading's.

    A table's columns, which come in company, may have shorter names: see `meaning`.

    >>> resolve("Charge_Capacity(mAh)")
    Alias(field='charge_capacity_ah', scale=0.001, offset=0.0)
    """
    found = meaning(name)
    if found is None or found.unknown is not None or found.field in WITNESSES:
        return None
    if {normalise(name), normalise(_spaced(name))} & _TABLE_ONLY:
        return None
    unit = found.unit
    return Alias(found.field) if unit is None else Alias(found.field, unit.scale, unit.offset)


def known_names() -> dict[str, str]:
    """Every normalised name without unit that is understood, with the field it stands for."""
    return {name: fields[0][0] for name, fields in _BASES.items()}
