"""Digatron's CSV: a head, a row of units, stamps of a second, a programme clock to the millisecond."""

from __future__ import annotations

from dataclasses import replace

from tests.fuzz.brands.common import single, truth
from tests.fuzz.draw import Draw
from tests.fuzz.log import draw_log
from tests.fuzz.truth import Export
from tests.fuzz.writing import Stamps, Table, hms, moments, numbers, whole, written

WORDS = {"charge": "CHA", "hold": "CHA", "discharge": "DCH", "rest": "PAU"}


def export(draw: Draw, name: str) -> Export:
    """An export of Digatron's."""
    log = draw_log(draw)
    stamps = Stamps("mdy", "/", 1.0, half_days=True, padded=False)
    numbered = draw.chance("cycle_numbered", 0.5)
    table = Table()
    columns = (
        ("Time Stamp", "", [stamps.text(at) for at in moments(log)]),
        ("Step", "", whole(log.line)),
        ("Status", "", [WORDS[str(kind)] for kind in log.kind]),
        ("Prog Time", "", [hms(s) for s in log.at_s]),
        ("Step Time", "", [hms(s) for s in log.step_s]),
        ("Cycle", "", whole(log.cycle if numbered else 0 * log.cycle)),
        ("Cycle Level", "", ["0"] * len(log)),
        ("Procedure", "", ["P"] * len(log)),
        ("Voltage", "[V]", numbers(log.voltage_v, decimals=5)),
        ("Current", "[A]", numbers(log.current_a)),
        ("Temperature", "[C]", numbers(log.temperature_c, decimals=5)),
        ("Capacity", "[Ah]", numbers(log.charge_ah - log.discharge_ah)),
        ("WhAccu", "[Wh]", numbers(log.charge_wh - log.discharge_wh)),
        ("Cnt", "[Cnt]", ["1.00000"] * len(log)),
    )
    for title, _, cells in columns:
        table.add(title, cells)
    table.units = [unit for _, unit, _ in columns]
    table.add("", [""] * len(log))
    table.units.append("")
    own = f"{name}-A"
    head = [
        "",
        "Measurement ID,900",
        f"Battery Name,{own}",
        f"Start Time,{stamps.text(log.start)}",
        "Test section,PULSE",
        "",
    ]
    file = written(draw, table, head, ("cut_line", "repeated_rows"), ("crlf", "bom"))
    right = truth(
        # a column of cycles that never counts leaves it open how many there are
        log if numbered else replace(log, is_full=False),
        [file],
        cells=(own, name),
        files=[f"{name}/{name}.csv"],
        counter=True,
        cycle=numbered,
        clocks=[log.at_s],
        resolution_s=1.0,
    )
    return single(draw, "digatron", name, f"{name}.csv", file, right)
