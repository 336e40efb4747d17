"""Arbin's workbook: sheets with information and statistics, and one of a channel's rows."""

from __future__ import annotations

from tests.fuzz.brands.arbin import NEW, OLD
from tests.fuzz.brands.common import hurt, truth
from tests.fuzz.draw import Draw
from tests.fuzz.log import draw_log
from tests.fuzz.truth import Export
from tests.fuzz.writing import Damage, Written, moments
from tests.workbooks import xlsx


def export(draw: Draw, name: str) -> Export:
    """A workbook of Arbin's."""
    log = hurt(draw, draw_log(draw, fast=False), wall=True, counter=True)
    names = draw.choose("header", (OLD, NEW))
    draw.recipe["header"] = names[0]
    grain = draw.choose("counters", ("test", "cycle"))
    counters = log.counted(grain)
    # workbooks know no zones
    stamps = [at.replace(tzinfo=None) for at in moments(log)]
    rows = [
        [
            at + 1, round(float(log.at_s[at]), 4), stamps[at], round(float(log.step_s[at]), 4),
            int(log.line[at]), int(log.cycle[at]), float(log.current_a[at]),
            round(float(log.voltage_v[at]), 5), *(float(counter[at]) for counter in counters),
        ]
        for at in range(len(log))
    ]  # fmt: skip
    sheets: dict[str, list[list[object]]] = {}
    if draw.chance("info_sheet", 0.6):
        sheets["Global_Info"] = [
            ["TEST REPORT"], ["Test Name", "Start DateTime", "Channel"], [name, stamps[0], 7],
        ]  # fmt: skip
    sheets["Channel_1-007"] = [list(names), *rows]
    if draw.chance("statistics", 0.5):
        lasts = [
            max(at for at in range(len(log)) if log.cycle[at] == number)
            for number in range(1, len(log.cycles) + 1)
        ]
        sheets["Statistics_1-007"] = [list(names), *([*rows[at]] for at in lasts)]
    content = Written(xlsx(sheets), Damage(), len(log))
    file = f"{name}.xlsx"
    right = truth(
        log,
        [content],
        cells=(name,),
        files=[f"{name}/{file}"],
        counter=True,
        clocks=[log.at_s],
        resolution_s=1.0,
    )
    return Export(name, "arbin_xlsx", draw.recipe, {file: content.content}, (right,))
