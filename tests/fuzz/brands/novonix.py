"""Novonix's CSV: a summary and a protocol, perhaps long, before the table."""

from __future__ import annotations

import numpy as np

from tests.fuzz.brands.common import single, truth
from tests.fuzz.draw import Draw
from tests.fuzz.log import draw_log
from tests.fuzz.truth import Export
from tests.fuzz.writing import Stamps, Table, moments, numbers, whole, written

TYPES = {"charge": "1", "hold": "7", "discharge": "2", "rest": "0"}


def export(draw: Draw, name: str) -> Export:
    """An export of Novonix'."""
    log = draw_log(draw)
    celsius = draw.choose("celsius", ("°C", "C"))
    form = draw.choose("counters", ("net_cycle", "unsigned_step"))
    stamps = Stamps("ymd", "-", 1.0)
    table = Table()
    table.add("Date and Time", [stamps.text(at) for at in moments(log)])
    table.add("Cycle Number", whole(log.cycle))
    table.add("Step Type", [TYPES[str(kind)] for kind in log.kind])
    table.add("Run Time (h)", numbers(log.at_s / 3600, decimals=9))
    table.add("Step Time (h)", numbers(log.step_s / 3600, decimals=9))
    table.add("Current (A)", numbers(log.current_a))
    table.add("Potential (V)", numbers(log.voltage_v, decimals=6))
    if form == "net_cycle":
        counted = log.counted("cycle")
        table.add("Capacity (Ah)", numbers(counted[0] - counted[1]))
    else:
        counted = log.counted("step")
        table.add(
            "Capacity (Ah)", numbers(np.where(log.kind == "discharge", counted[1], counted[0]))
        )
    table.add(f"Temperature ({celsius})", numbers(log.temperature_c, decimals=2), blank=True)
    table.add("Step Number", whole(log.line))
    own = f"{name}-A"
    head = ["[Summary]", "Novonix HPC data file", f"Cell: {own}"]
    head += [f"Started: {log.start.month}/{log.start.day}/{log.start.year} {log.start:%I:%M:%S %p}"]
    head += ["[End Summary]"]
    lines = draw.choose("protocol_lines", (0, 5, 260))
    if lines:
        head += ["[Protocol]", *(f"   [{at} Rest until 00:05:00]" for at in range(lines))]
        head += ["[End Protocol]"]
    head += ["[Data]"]
    file = written(draw, table, head, ("blank_cells", "cut_line"), ("bom", "crlf"))
    right = truth(
        log,
        [file],
        cells=(own, name),
        files=[f"{name}/{name}.csv"],
        counter=True,
        clocks=[log.at_s],
        resolution_s=1.0,
    )
    return single(draw, "novonix", name, f"{name}.csv", file, right)
