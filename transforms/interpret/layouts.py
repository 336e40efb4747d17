"""Names the cycler or tool whose layout a table has, by its names and the head of its file."""

from __future__ import annotations

from collections.abc import Sequence

from schemas.aliases import normalise
from transforms.interpret.interpretation import Head

# The names that give a layout away, all of them; the first that fits is it.
_SIGNS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("BioLogic", ("ns", "ewe_v")),
    ("BioLogic", ("ns", "ecell_v")),
    ("BioLogic", ("freq_hz", "cycle_number")),
    ("Maccor", ("amps", "volts")),
    ("Maccor", ("cyc", "rec")),
    ("Maccor", ("rec", "dpt_time")),
    ("PEC", ("position_start_time",)),
    ("Digatron", ("prog_time", "procedure")),
    ("Digatron", ("prog_time", "step_time")),
    ("Basytec", ("t_step_s", "u_v")),
    ("Novonix", ("run_time_h", "potential_v")),
    ("Neware", ("datapoint", "step_type")),
    ("Neware", ("record_id", "realtime")),
    ("Neware", ("capacitance_chg_mah",)),
    ("Neware", ("工步类型",)),
    ("Neware", ("工步号",)),
    ("Landt", ("record", "energy_mwh", "capacity_mah")),
    ("Bitrode", ("loop_counter_1",)),
    ("NASA PCoE", ("voltage_measured", "current_measured")),
    ("PyBaMM", ("time_s", "discharge_capacity_a_h")),
    ("Battery Data Format", ("test_time_second", "voltage_volt")),
    ("Battery Data Format", ("test_time_millisecond", "voltage_volt")),
    ("Arbin", ("data_point", "date_time", "test_time_s", "step_index", "charge_capacity_ah")),
    ("batteryarchive.org", ("test_time_s", "cycle_index", "cell_temperature_c")),
)
_SLASHED = {"Test Time / s", "Voltage / V", "Current / A", "Test Time / h"}


def name_of(names: Sequence[str], head: Head) -> str | None:
    """The cycler or tool whose layout it is, or None if it is not known."""
    if head.dialect is not None:
        return head.dialect
    present = {normalise(name) for name in names}
    if len(_SLASHED & set(names)) >= 2:
        return "Battery Data Format"
    for name, signs in _SIGNS:
        if present.issuperset(signs):
            return name
    return None
