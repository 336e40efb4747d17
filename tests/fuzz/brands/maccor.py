"""Maccor's text export: tabs, the direction in a letter, elapsed time in one of several forms."""

from __future__ import annotations

import numpy as np

from tests.fuzz.brands.common import hurt, single, truth
from tests.fuzz.draw import Draw
from tests.fuzz.log import KINDS, draw_log
from tests.fuzz.truth import Export
from tests.fuzz.writing import Stamps, Table, cut, hms, moments, numbers, whole, written


def export(draw: Draw, name: str) -> Export:
    """An export of Maccor's."""
    log = hurt(draw, draw_log(draw), wall=True, counter=True)
    clock = draw.choose("test_clock", ("days", "minutes", "seconds", "hours"))
    stamps = Stamps("mdy", "/", 1.0, half_days=draw.chance("half_days", 0.4))
    has_stamps = clock == "minutes" or draw.chance("stamps", 0.8)
    signed = draw.chance("signed", 0.4)
    counter = draw.choose("counters", ("step", "cycle", "none"))
    by_name = draw.choose("header", ("classic", "bracket"))
    milli = "m" if draw.chance("milli", 0.25) else ""
    factor_a = 1e3 if milli else 1.0
    table = Table("\t")
    table.add("Rec#" if by_name == "classic" else "Rec", whole(range(1, len(log) + 1)))
    table.add("Cyc#" if by_name == "classic" else "Cycle C", whole(log.cycle))
    table.add("Step", whole(log.line))
    at, step = log.at_s, log.step_s
    if clock == "days":
        at = cut(at, 1.0)
        table.add("TestTime", [hms(s, 0, days=True) for s in log.at_s])
        table.add("StepTime", [hms(s, 0, days=True) for s in log.step_s])
    else:
        test, one, factor = {
            "minutes": ("TestTime", "StepTime", 1 / 60),
            "seconds": ("Test (Sec)", "Step (Sec)", 1.0),
            "hours": ("Test (Hrs)", "Step (Hrs)", 1 / 3600),
        }[clock]
        table.add(test, numbers(at * factor, decimals=8 if clock == "hours" else 6))
        table.add(one, numbers(step * factor, decimals=8 if clock == "hours" else 6))
    if counter != "none":
        charge, discharge, charge_wh, discharge_wh = log.counted(counter)
        into = log.kind != "discharge"
        # one counter of what flows in the direction of the step
        ah = np.where(log.kind == "rest", 0.0, np.where(into, charge, discharge))
        wh = np.where(log.kind == "rest", 0.0, np.where(into, charge_wh, discharge_wh))
        table.add(
            f"{milli}Amp-hr" if by_name == "classic" else f"Cap. [{milli}Ah]",
            numbers(ah * factor_a),
        )
        table.add(
            f"{milli}Watt-hr" if by_name == "classic" else f"Ener. [{milli}Wh]",
            numbers(wh * factor_a),
            blank=True,
        )
    current = log.current_a if signed else np.abs(log.current_a)
    table.add(
        f"{milli}Amps" if by_name == "classic" else f"Current [{milli}A]",
        numbers(current * factor_a),
    )
    table.add(
        "Volts" if by_name == "classic" else "Voltage [V]", numbers(log.voltage_v, decimals=5)
    )
    letters = [KINDS[str(kind)] for kind in log.kind]
    if letters[-1] == "R":
        letters[-1] = draw.pick(("R", "S", "P", "O"))
    table.add("State" if by_name == "classic" else "Md", letters)
    table.add("ES", ["1"] * len(log))
    if has_stamps:
        table.add("DPt Time", [stamps.text(moment) for moment in moments(log)])
    head = []
    if draw.chance("head", 0.5):
        day = f"{log.start:%m/%d/%Y}"
        head = [
            f"Today's Date\t{day}\tDate of Test:\t{day}\tFilename:\t{name}.001",
            "Procedure:\tx",
        ]
    file = written(
        draw, table, head, ("repeated_rows", "cut_line", "blank_cells"), ("crlf", "plain")
    )
    right = truth(
        log,
        [file],
        cells=(name,),
        files=[f"{name}/{name}.txt"],
        counter=counter != "none",
        clocks=[at],
        resolution_s=1.0 if has_stamps else None,
    )
    return single(draw, "maccor", name, f"{name}.txt", file, right)
