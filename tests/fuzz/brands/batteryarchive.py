"""batteryarchive.org's CSV: a time series, and a file of cycles beside it."""

from __future__ import annotations

import numpy as np

from tests.fuzz.brands.common import truth
from tests.fuzz.draw import Draw
from tests.fuzz.log import Log, draw_log
from tests.fuzz.truth import Export
from tests.fuzz.writing import Stamps, Table, moments, numbers, written


def export(draw: Draw, name: str) -> Export:
    """A time series, often with its file of cycles."""
    log = draw_log(draw, fast=False)
    stamps = Stamps("ymd", "-", draw.choose("wall_s", (1.0, 0.001)))
    grain = draw.choose("counters", ("cycle", "test"))
    counted = log.counted(grain)
    table = Table()
    table.add("Date_Time", [stamps.text(at) for at in moments(log)])
    table.add("Test_Time (s)", numbers(log.at_s, decimals=3))
    table.add("Cycle_Index", numbers(log.cycle, decimals=1))
    table.add("Current (A)", numbers(log.current_a))
    table.add("Voltage (V)", numbers(log.voltage_v, decimals=4))
    for title, counter in zip(
        ("Charge_Capacity (Ah)", "Discharge_Capacity (Ah)", "Charge_Energy (Wh)",
         "Discharge_Energy (Wh)"),
        counted,
        strict=True,
    ):  # fmt: skip
        table.add(title, numbers(counter))
    table.add("Environment_Temperature (C)", numbers(0 * log.temperature_c + 25.0, decimals=1))
    temperature = log.temperature_c.copy()
    if draw.chance("temperature_nan", 0.3):
        temperature[:] = np.nan
    texts = ["" if text == "NaN" else text for text in numbers(temperature, decimals=2)]
    table.add("Cell_Temperature (C)", texts, blank=True)
    file = f"{name}_timeseries.csv"
    content = written(draw, table, (), ("cut_line", "blank_cells", "repeated_rows"), ("crlf",))
    right = truth(
        log,
        [content],
        cells=(name,),
        files=[f"{name}/{file}"],
        counter=True,
        clocks=[log.at_s],
        resolution_s=stamps.resolution_s,
    )
    files = {file: content.content}
    if draw.chance("cycle_data", 0.5):
        files[f"{name}_cycle_data.csv"] = _cycles(log, stamps)
    return Export(name, "batteryarchive", draw.recipe, files, (right,))


def _cycles(log: Log, stamps: Stamps) -> bytes:
    texts = [stamps.text(at) for at in moments(log)]
    names = (
        "Cycle_Index", "Start_Time", "End_Time", "Test_Time (s)", "Min_Current (A)",
        "Max_Current (A)", "Min_Voltage (V)", "Max_Voltage (V)", "Charge_Capacity (Ah)",
        "Discharge_Capacity (Ah)", "Charge_Energy (Wh)", "Discharge_Energy (Wh)",
    )  # fmt: skip
    lines = [",".join(names)]
    for number, (charge, discharge) in enumerate(log.cycles, 1):
        rows = np.flatnonzero(log.cycle == number)
        energy = log.counters[2:, rows[-1]] - log.cycle_began[2:, rows[-1]]
        current, voltage = log.current_a[rows], log.voltage_v[rows]
        lines.append(
            f"{number}.0,{texts[rows[0]]},{texts[rows[-1]]},{log.at_s[rows[-1]]:.3f},"
            f"{current.min():.7f},{current.max():.7f},{voltage.min():.4f},{voltage.max():.4f},"
            f"{charge:.9f},{discharge:.9f},{energy[0]:.9f},{energy[1]:.9f}"
        )
    return ("\n".join(lines) + "\n").encode()
