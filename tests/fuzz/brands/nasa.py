"""NASA PCoE's CSV: a file per discharge, elapsed time alone, a load's values beside the cell's."""

from __future__ import annotations

import numpy as np

from tests.fuzz.brands.common import single, truth
from tests.fuzz.draw import Draw
from tests.fuzz.log import draw_log
from tests.fuzz.truth import Export
from tests.fuzz.writing import Table, numbers, written


def export(draw: Draw, name: str) -> Export:
    """A discharge as the set of aged cells has it."""
    log = draw_log(draw, fast=False, only_discharge=True, first_rows=("zero",), least_ah=0.05)
    table = Table()
    table.add("Voltage_measured", numbers(log.voltage_v))
    table.add("Current_measured", numbers(log.current_a))
    table.add("Temperature_measured", numbers(log.temperature_c))
    # the load's own meter: without sign in some files
    load = log.current_a if draw.chance("load_signed", 0.5) else np.abs(log.current_a)
    table.add("Current_load", numbers(0.999 * load))
    table.add("Voltage_load", numbers(0.93 * log.voltage_v, decimals=3))
    table.add("Time", numbers(log.at_s, decimals=3))
    file = written(draw, table, (), (), ("crlf",))
    right = truth(
        log,
        [file],
        cells=(name,),
        files=[f"{name}/{name}.csv"],
        counter=False,
        cycle=False,
        clocks=[log.at_s],
    )
    return single(draw, "nasa", name, f"{name}.csv", file, right)
