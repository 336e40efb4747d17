"""cellpy's own figures of a cycler's file, as JSON; runs in cellpy's environment."""

from __future__ import annotations

import json
import logging
import sys
import warnings

import numpy as np
from cellpy import cellreader
from cellpy.utils import ica
from rows import constant_current, per_cycle, read

warnings.simplefilter("ignore")
logging.disable(logging.CRITICAL)


def summary(rows, nominal_ah):
    """Charge and discharge of each cycle, its efficiency, and the resistances the cycler logged."""
    cell = cellreader.CellpyCell(initialize=True)
    names = cell.headers_normal
    wanted = {
        names.data_point_txt: "Data_Point",
        names.test_time_txt: "Test_Time(s)",
        names.datetime_txt: "Date_Time",
        names.step_time_txt: "Step_Time(s)",
        names.step_index_txt: "Step_Index",
        names.cycle_index_txt: "Cycle_Index",
        names.current_txt: "Current(A)",
        names.voltage_txt: "Voltage(V)",
        names.charge_capacity_txt: "Charge_Capacity(Ah)",
        names.discharge_capacity_txt: "Discharge_Capacity(Ah)",
        names.charge_energy_txt: "Charge_Energy(Wh)",
        names.discharge_energy_txt: "Discharge_Energy(Wh)",
    }
    has_resistance = "Internal_Resistance(Ohm)" in rows
    if has_resistance:
        wanted[names.internal_resistance_txt] = "Internal_Resistance(Ohm)"
    # cellpy takes a cycle's last count for its capacity, so counters have to start with the cycle.
    raw = per_cycle(rows)[list(wanted.values())]
    raw.columns = list(wanted)
    cell.data.raw = raw.set_index(names.data_point_txt, drop=False)
    cell.mass = 1.0
    cell.nom_cap = nominal_ah
    cell.cycle_mode = "full_cell"
    cell.make_step_table()
    cell.make_summary(find_ir=has_resistance)
    figures = {
        "charge_ah": "charge_capacity",
        "discharge_ah": "discharge_capacity",
        "coulombic_efficiency_percent": "coulombic_efficiency",
        "logged_resistance_ohm": "ir_discharge",
    }
    made = cell.data.summary
    return {
        int(cycle): {
            figure: float(row[name]) for figure, name in figures.items() if name in made.columns
        }
        for cycle, row in made.iterrows()
    }


def peaks(rows, cycles):
    """dQ/dV with cellpy's own smoothing, as pairs of volts and Ah/V, and the highest of them."""
    found = {}
    for cycle in cycles:
        for direction, sign, counter in (
            ("charge", 1, "Charge_Capacity(Ah)"),
            ("discharge", -1, "Discharge_Capacity(Ah)"),
        ):
            chosen = constant_current(rows, cycle, sign)
            charge = chosen[counter].to_numpy()
            volts, heights = ica.dqdv_np(
                chosen["Voltage(V)"].to_numpy(), charge - charge[0], post_normalization=False
            )
            volts, heights = np.asarray(volts), np.abs(np.asarray(heights))
            inner = (volts > volts.min() + 0.05) & (volts < volts.max() - 0.05)
            best = np.argmax(np.where(inner, heights, 0.0))
            found.setdefault(cycle, {})[direction] = {
                "peak": [float(volts[best]), float(heights[best])],
                "curve": sorted(zip(volts.tolist(), heights.tolist(), strict=True)),
            }
    return found


if __name__ == "__main__":
    table = read(sys.argv[1])
    settings = json.loads(sys.argv[2])
    print(json.dumps({
        "cycles": summary(table, settings["nominal_ah"]),
        "peaks": peaks(table, settings["peak_cycles"]),
    }))  # fmt: skip
