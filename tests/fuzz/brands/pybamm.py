"""A PyBaMM solution as CSV: positive current discharges, the capacity is a net value."""

from __future__ import annotations

from tests.fuzz.brands.common import single, truth
from tests.fuzz.draw import Draw
from tests.fuzz.log import draw_log
from tests.fuzz.truth import Export
from tests.fuzz.writing import Table, numbers, written


def export(draw: Draw, name: str) -> Export:
    """A solution saved with these variables."""
    unit, factor = draw.choose("time_unit", (("s", 1.0), ("min", 1 / 60), ("h", 1 / 3600)))
    log = draw_log(draw, fast=False, discharge_first=draw.chance("from_full", 0.7))
    has_counter = draw.chance("counter", 0.7)
    table = Table()
    table.add(f"Time [{unit}]", numbers(log.at_s * factor, decimals=3 if unit == "s" else 8))
    table.add("Current [A]", numbers(-log.current_a))
    table.add(draw.pick(("Voltage [V]", "Terminal voltage [V]")), numbers(log.voltage_v))
    if has_counter:
        table.add("Discharge capacity [A.h]", numbers(log.discharge_ah - log.charge_ah))
    if draw.chance("temperature", 0.3):
        table.add("Cell temperature [K]", numbers(log.temperature_c + 273.15, decimals=3))
    file = written(draw, table, (), (), ("crlf",))
    right = truth(
        log,
        [file],
        cells=(name,),
        files=[f"{name}/{name}.csv"],
        counter=has_counter,
        cycle=False,
        clocks=[log.at_s],
    )
    return single(draw, "pybamm", name, f"{name}.csv", file, right)
