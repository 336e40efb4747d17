"""Basytec's text: a head of lines with a tilde, which also says when the test began."""

from __future__ import annotations

import numpy as np

from tests.fuzz.brands.common import single, truth
from tests.fuzz.draw import Draw
from tests.fuzz.log import draw_log
from tests.fuzz.truth import Export
from tests.fuzz.writing import Stamps, Style, Table, numbers, whole, written

WORDS = {"charge": "Charge", "hold": "Charge", "discharge": "Discharge", "rest": "Pause"}


def export(draw: Draw, name: str) -> Export:
    """An export of Basytec's."""
    log = draw_log(draw)
    unit, factor = draw.choose("time_unit", (("s", 1.0), ("h", 1 / 3600)))
    comma = draw.chance("decimal_comma", 0.3)
    counter = draw.choose("counters", ("net", "net_and_pair"))
    style = Style(comma=comma, delimiter="\t")
    decimals = 3 if unit == "s" else 9
    table = Table("\t")
    table.add(f"~Time[{unit}]", numbers(log.at_s * factor, style, decimals))
    table.add("DataSet", whole(range(1, len(log) + 1)))
    table.add(f"t-Step[{unit}]", numbers(log.step_s * factor, style, decimals))
    table.add("Line", whole(log.line))
    table.add("Command", [WORDS[str(kind)] for kind in log.kind])
    table.add("U[V]", numbers(log.voltage_v, style, 5))
    table.add("I[A]", numbers(log.current_a, style))
    counted, step = log.counted("cycle"), log.counted("step")
    table.add("Ah[Ah]", numbers(log.charge_ah - log.discharge_ah, style))
    if counter == "net_and_pair":
        table.add("Ah-Cyc-Charge-0", numbers(counted[0], style))
        table.add("Ah-Cyc-Discharge-0", numbers(counted[1], style))
    table.add("Ah-Step", numbers(np.where(log.kind == "discharge", -step[1], step[0]), style))
    table.add(draw.pick(("T1[C]", "T1[°C]")), numbers(log.temperature_c, style, 1), blank=True)
    table.add("Cyc-Count", whole(log.cycle))
    table.add("State", ["3"] * len(log))
    begin = Stamps("dmy", ".", 1.0).text(log.start)
    head = [
        "~Resultfile from Basytec Battery Test System",
        f"~Start of Test: {begin}",
        f"~Name of Test: {name}",
        "~",
    ]
    encoding = draw.choose("encoding", ("utf-8", "latin-1"))
    file = written(draw, table, head, ("cut_line",), ("crlf", "plain"), encoding=encoding)
    right = truth(
        log,
        [file],
        cells=(name,),
        files=[f"{name}/{name}.txt"],
        counter=True,
        clocks=[log.at_s],
        resolution_s=1.0,
    )
    return single(draw, "basytec", name, f"{name}.txt", file, right)
