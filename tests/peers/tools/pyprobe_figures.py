"""PyProBE's own figures of a cycler's file, as JSON; runs in PyProBE's environment."""

from __future__ import annotations

import json
import logging
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import polars as pl
import pyprobe
from pyprobe.analysis import cycling, differentiation, pulsing
from rows import constant_current, read

warnings.simplefilter("ignore")
logging.disable(logging.CRITICAL)


def experiment(rows, rest_below_a):
    """The rows as PyProBE's experiment, read by its own reader of Arbin's files.

    PyProBE takes a current of exactly zero alone for a rest; below `rest_below_a` it is set to that.
    """
    current = rows["Current(A)"].where(rows["Current(A)"].abs() >= rest_below_a, 0.0)
    arbin = rows.assign(**{
        "Date Time": rows["Date_Time"].dt.strftime("%m/%d/%Y %H:%M:%S.%f"),
        "Step Index": rows["Step_Index"],
        "Test Time (s)": rows["Test_Time(s)"],
        "Current (A)": current,
        "Voltage (V)": rows["Voltage(V)"],
        "Charge Capacity (Ah)": rows["Charge_Capacity(Ah)"],
        "Discharge Capacity (Ah)": rows["Discharge_Capacity(Ah)"],
    })  # fmt: skip
    cell = pyprobe.Cell(info={"Name": "cell"})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.csv"
        arbin.iloc[:, -7:].to_csv(path, index=False)
        cell.import_from_cycler(
            "test", "arbin", str(path), output_data_path=str(path.with_suffix(".parquet"))
        )
        made = cell.procedure["test"]
        made.lf = made.lf.collect().lazy()
    return made


def frame(result):
    """A result's table."""
    return result.lf.collect() if isinstance(result.lf, pl.LazyFrame) else result.lf


def summary(made, cycles):
    """Charge and discharge of each cycle, and its coulombic efficiency by PyProBE's definition."""
    table = frame(cycling.summary(made))
    # PyProBE numbers cycles itself, by the step index going back.
    assert len(table) == len(cycles), (len(table), len(cycles))
    figures = {
        "charge_ah": "Charge Capacity [Ah]",
        "discharge_ah": "Discharge Capacity [Ah]",
        "efficiency_of_cycle_before": "Coulombic Efficiency",
    }
    return {
        int(cycle): {
            figure: float(row[name]) for figure, name in figures.items() if row[name] is not None
        }
        for cycle, row in zip(cycles, table.iter_rows(named=True), strict=True)
    }


def pulses(made, nominal_ah, rows):
    """The resistances after each rest of the discharges, by the cycle that they fall in."""
    made.set_soc(reference_capacity=nominal_ah)
    # Its table holds no time, so pulses are counted as PyProBE does: rows after one of no current.
    current = made.lf.select("Current [A]").collect()["Current [A]"].to_numpy()
    starts = np.flatnonzero((current[1:] != 0) & (current[:-1] == 0)) + 1
    times = rows["Test_Time(s)"].to_numpy()
    found = {}
    for row in frame(pulsing.get_resistances(made, r_times=[30])).iter_rows(named=True):
        if not row["Pulse Number"] or row["R_30s [Ohms]"] is None:
            continue
        start = starts[row["Pulse Number"] - 1]
        if current[start] < 0:
            found[int(rows["Cycle_Index"].iloc[start])] = {
                "r0_ohm": row["R0 [Ohms]"],
                "r_30s_ohm": row["R_30s [Ohms]"],
                "first_s": float(times[start] - times[start - 1]),
            }
    return found


def peaks(rows, cycles, step_v, bin_v):
    """dQ/dV by LEAN, as pairs of volts and Ah/V, and the highest of them off the edges.

    LEAN's bin is a multiple of the smallest step between two voltages, which in floating-point
    numbers is a rounding error; so the voltage is rounded to `step_v`, and the multiple is the one
    that comes nearest to `bin_v`.
    """
    found = {}
    for cycle in cycles:
        for direction, sign, counter in (
            ("charge", 1, "Charge_Capacity(Ah)"),
            ("discharge", -1, "Discharge_Capacity(Ah)"),
        ):
            chosen = constant_current(rows, cycle, sign)
            steps = np.round(chosen["Voltage(V)"].to_numpy() / step_v)
            smallest_v = step_v * np.diff(np.unique(steps)).min()
            data = pyprobe.result.Result(
                lf=pl.DataFrame({
                    "Capacity [Ah]": chosen[counter].to_numpy(),
                    "Voltage [V]": steps * step_v,
                }).lazy(),
                info={}, column_definitions={"Capacity": "", "Voltage": ""},
            )  # fmt: skip
            curve = frame(differentiation.differentiate_lean(
                data, x="Capacity [Ah]", y="Voltage [V]", k=max(1, round(bin_v / smallest_v)),
                gradient="dxdy",
            ))  # fmt: skip
            volts = curve["Voltage [V]"].to_numpy()
            heights = np.abs(curve["d(Capacity [Ah])/d(Voltage [V])"].to_numpy())
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
    test = experiment(table, settings["rest_below_a"])
    print(json.dumps({
        "cycles": summary(test, table["Cycle_Index"].unique()),
        "pulses": pulses(test, settings["nominal_ah"], table),
        "peaks": peaks(table, settings["peak_cycles"], settings["step_v"], settings["bin_v"]),
    }))  # fmt: skip
