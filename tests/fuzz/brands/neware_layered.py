"""Neware's layered CSV: lines of cycles, below them lines of steps, below them the rows."""

from __future__ import annotations

import numpy as np

from tests.fuzz.brands.common import single, truth
from tests.fuzz.brands.neware_flat import ENGLISH
from tests.fuzz.draw import Draw
from tests.fuzz.log import draw_log
from tests.fuzz.truth import Export
from tests.fuzz.writing import (
    AMPERES,
    Damage,
    Stamps,
    Written,
    hms,
    moments,
    numbers,
    whole,
)  # fmt: skip


def export(draw: Draw, name: str) -> Export:
    """A layered export."""
    log = draw_log(draw, first_rows=("interval", "zero"))
    prefix = draw.choose("current_unit", ("A", "mA"))
    factor, ampere, hour = AMPERES[prefix], f"({prefix})", f"({prefix}h)"
    lines = [
        f"Cycle Index,Chg. Cap.{hour},DChg. Cap.{hour},Chg. Time,DChg. Time",
        f",Step Index,Step Number,Step Type,Step Time,Capacity{hour},Oneset Volt.(V),End Voltage(V)",
        f",,DataPoint,Time,Total Time,Current{ampere},Voltage(V),Capacity{hour},Date,Power(W)",
    ]
    stamps = [Stamps("ymd", "-", 1.0).text(at) for at in moments(log)]
    counted = log.counted("step") * factor
    ah = np.where(log.kind == "discharge", counted[1], counted[0])
    rows = list(
        zip(
            whole(range(1, len(log) + 1)), map(hms, log.step_s), map(hms, log.at_s),
            numbers(log.current_a * factor), numbers(log.voltage_v, decimals=4), numbers(ah),
            stamps, numbers(log.current_a * log.voltage_v),
            strict=True,
        )
    )  # fmt: skip
    for cycle, (charge, discharge) in enumerate(log.cycles, 1):
        first, second = numbers([charge * factor, discharge * factor])
        lines.append(f"{cycle},{first},{second},01:00:00,01:00:00")
        for number, step in enumerate(dict.fromkeys(log.step[log.cycle == cycle]), 1):
            at = np.flatnonzero(log.step == step)
            lines.append(
                f",{number},{step},{ENGLISH[str(log.kind[at[0]])]},{hms(log.step_s[at[-1]])},"
                f"{numbers(ah)[at[-1]]},{log.voltage_v[at[0]]:.4f},{log.voltage_v[at[-1]]:.4f}"
            )
            lines += [",," + ",".join(rows[row]) for row in at]
    encoding = draw.choose("encoding", ("utf-8", "utf-8-sig"))
    end = draw.choose("line_end", ("\n", "\r\n"))
    file = Written((end.join(lines) + end).encode(encoding), Damage(), len(log))
    right = truth(
        log,
        [file],
        cells=(name,),
        files=[f"{name}/{name}.csv"],
        counter=True,
        clocks=[log.at_s],
        resolution_s=1.0,
    )
    return single(draw, "neware_layered", name, f"{name}.csv", file, right)
