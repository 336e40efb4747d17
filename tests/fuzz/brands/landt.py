"""Landt's table: units after a slash, a test clock in seconds or as hours, minutes and seconds."""

from __future__ import annotations

import numpy as np

from tests.fuzz.brands.common import hurt, single, truth
from tests.fuzz.draw import Draw
from tests.fuzz.log import draw_log
from tests.fuzz.truth import Export
from tests.fuzz.writing import AMPERES, Stamps, Table, hms, moments, numbers, whole, written

WORDS = {"charge": "C_CC", "hold": "C_CV", "discharge": "D_CC", "rest": "R"}


def export(draw: Draw, name: str) -> Export:
    """An export of Landt's."""
    log = hurt(draw, draw_log(draw), wall=True, counter=True)
    prefix = draw.choose("current_unit", ("mA", "A", "µA", "uA"))
    factor = AMPERES[prefix]
    seconds = draw.choose("clock", ("seconds", "hms"))
    one_counter = draw.chance("one_counter", 0.5)
    signed = not one_counter or draw.chance("signed", 0.6)
    wall = draw.chance("wall", 0.7)
    delimiter = draw.choose("delimiter", (",", "\t"))
    table = Table(delimiter)
    table.add("Record", whole(range(1, len(log) + 1)))
    table.add("Cycle-Index", whole(log.cycle))
    table.add("Step-Index", whole(log.line))
    table.add("Step-State", [WORDS[str(kind)] for kind in log.kind])
    if seconds == "seconds":
        table.add("TestTime/Sec", numbers(log.at_s, decimals=3))
        table.add("StepTime/Sec", numbers(log.step_s, decimals=3))
    else:
        table.add("TestTime", [hms(s) for s in log.at_s])
        table.add("StepTime", [hms(s) for s in log.step_s])
    current = log.current_a if signed else np.abs(log.current_a)
    table.add(f"Current/{prefix}", numbers(current * factor))
    counted = log.counted("step") * factor
    if one_counter:
        table.add(
            f"Capacity/{prefix}h",
            numbers(np.where(log.kind == "discharge", counted[1], counted[0])),
        )
    else:
        table.add(f"Cap-Chg/{prefix}h", numbers(counted[0]))
        table.add(f"Cap-DChg/{prefix}h", numbers(counted[1]))
    table.add("Voltage/V", numbers(log.voltage_v, decimals=5))
    if wall:
        stamps = Stamps("ymd", draw.pick(("-", "/")), 1.0)
        table.add("SysTime", [stamps.text(at) for at in moments(log)])
    file = written(
        draw, table, (), ("repeated_rows", "cut_line", "repeated_header"), ("crlf", "bom")
    )
    suffix = "csv" if delimiter == "," else "txt"
    right = truth(
        log,
        [file],
        cells=(name,),
        files=[f"{name}/{name}.{suffix}"],
        counter=True,
        clocks=[log.at_s],
        resolution_s=1.0 if wall else None,
    )
    return single(draw, "landt", name, f"{name}.{suffix}", file, right)
