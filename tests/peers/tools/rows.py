"""Reads a cycler's rows for the other tools."""

from __future__ import annotations

import pandas as pd

COUNTERS = (
    "Charge_Capacity(Ah)",
    "Discharge_Capacity(Ah)",
    "Charge_Energy(Wh)",
    "Discharge_Energy(Wh)",
)


def read(path: str) -> pd.DataFrame:
    """A file's rows in the order of the test; numbers of cycles and steps are whole."""
    rows = pd.read_csv(path, parse_dates=["Date_Time"]).sort_values("Data_Point")
    for name in ("Data_Point", "Step_Index", "Cycle_Index"):
        rows[name] = rows[name].astype("int64")
    return rows.reset_index(drop=True)


def per_cycle(rows: pd.DataFrame) -> pd.DataFrame:
    """The same with counters that start at zero in every cycle, where these run over the file.

    What is taken off is the count at the end of the cycle before, not the cycle's own first row, so
    that what flowed up to that row stays in.
    """
    rows = rows.copy()
    cycles = rows["Cycle_Index"]
    for name in COUNTERS:
        before = rows.groupby("Cycle_Index")[name].last().shift(fill_value=0.0)
        rows[name] -= cycles.map(before)
    return rows


def constant_current(rows: pd.DataFrame, cycle: int, sign: int) -> pd.DataFrame:
    """The rows of a cycle's constant-current charge (sign 1) or discharge (-1)."""
    chosen = rows[(rows["Cycle_Index"] == cycle) & (rows["Current(A)"] * sign > 0)]
    currents = chosen["Current(A)"].abs()
    longest = chosen.loc[currents >= 0.99 * currents.median(), "Step_Index"].mode()
    chosen = chosen[chosen["Step_Index"] == longest.iloc[0]]
    currents = chosen["Current(A)"].abs()
    return chosen[(currents - currents.median()).abs() < 0.01 * currents.median()]
