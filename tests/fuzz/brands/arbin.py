"""Arbin's CSV: a file per channel, or two parts of it, often with the statistics beside."""

from __future__ import annotations

import numpy as np

from tests.fuzz.brands.common import hurt, truth
from tests.fuzz.draw import Draw
from tests.fuzz.log import Log, draw_log
from tests.fuzz.truth import Export
from tests.fuzz.writing import Stamps, Table, moments, numbers, whole, written

# Without and with the blanks of the newer MITS versions.
OLD = ("Data_Point", "Test_Time(s)", "Date_Time", "Step_Time(s)", "Step_Index", "Cycle_Index",
       "Current(A)", "Voltage(V)", "Charge_Capacity(Ah)", "Discharge_Capacity(Ah)",
       "Charge_Energy(Wh)", "Discharge_Energy(Wh)")  # fmt: skip
NEW = ("Data Point", "Test Time (s)", "Date Time", "Step Time (s)", "Step Index", "Cycle Index",
       "Current (A)", "Voltage (V)", "Charge Capacity (Ah)", "Discharge Capacity (Ah)",
       "Charge Energy (Wh)", "Discharge Energy (Wh)")  # fmt: skip

# What else the exports carry: of no use for capacity, and named like what is.
EXTRA = (("dV/dt(V/s)", "0.0001"), ("Internal_Resistance(Ohm)", "0.031"), ("Is_FC_Data", "0"),
         ("AC_Impedance(Ohm)", "0"), ("ACI_Phase_Angle(Deg)", "0"))  # fmt: skip


def cells_of(log: Log, stamps: list[str], grain: str) -> list[list[str]]:
    """The cells of all columns, in the order of their names."""
    return [
        whole(range(1, len(log) + 1)),
        numbers(log.at_s, decimals=4),
        stamps,
        numbers(log.step_s, decimals=4),
        whole(log.line),
        whole(log.cycle),
        numbers(log.current_a),
        numbers(log.voltage_v, decimals=5),
        *(numbers(counter) for counter in log.counted(grain)),
    ]


def export(draw: Draw, name: str) -> Export:
    """An export of Arbin's."""
    log = hurt(draw, draw_log(draw), wall=True, counter=True)
    names = draw.choose("header", (OLD, NEW))
    draw.recipe["header"] = names[0]
    grain = draw.choose("counters", ("test", "cycle"))
    stamps = Stamps("mdy", "/", draw.choose("wall_s", (1.0, 0.001)), half_days=names is OLD)
    texts = [stamps.text(at) for at in moments(log)]
    if names is NEW:
        texts = [f'"\t{text}"' for text in texts]
    cells = cells_of(log, texts, grain)
    order = [0, 2, 1, *range(3, 12)] if names is NEW else range(12)
    extra = draw.chance("extra_columns", 0.5)
    rows = len(log)
    parts = [slice(0, rows)]
    if rows > 40 and draw.chance("two_parts", 0.25):
        at = draw.whole(rows // 3, 2 * rows // 3)
        parts = [slice(0, at), slice(at, rows)]
    files = {}
    for number, part in enumerate(parts, 1):
        table = Table()
        for column in order:
            table.add(names[column], cells[column][part])
        if extra:
            count = part.stop - part.start
            for title, text in EXTRA:
                table.add(title, [text] * count)
        table.blanks = [names[8], names[10]]
        damages = ["repeated_rows", "trailing_delimiter"]
        if number == len(parts):
            damages.append("cut_line")
        if len(parts) == 1:
            damages.append("blank_cells")
        # a copy of the rows before a border would be new to the second part
        forms = ("bom", "crlf")
        files[f"{name}_Channel_7_Wb_{number}.CSV"] = written(draw, table, (), damages, forms)
    right = truth(
        log,
        list(files.values()),
        cells=(name,),
        files=[f"{name}/{file}" for file in files],
        counter=True,
        clocks=[log.at_s],
        resolution_s=stamps.resolution_s,
    )
    contents = {file: one.content for file, one in files.items()}
    if draw.chance("statistics", 0.3):
        contents[f"{name}_Channel_7_StatisticByCycle.CSV"] = _statistics(log, texts, names)
    return Export(name, "arbin", draw.recipe, contents, (right,))


def _statistics(log: Log, stamps: list[str], names: tuple[str, ...]) -> bytes:
    lasts = [int(np.flatnonzero(log.cycle == n)[-1]) for n in range(1, len(log.cycles) + 1)]
    table = Table()
    table.add(names[2], [stamps[at] for at in lasts])
    table.add(names[1], numbers(log.at_s[lasts], decimals=4))
    table.add(names[3], numbers(log.step_s[lasts], decimals=4))
    table.add(names[5], whole(log.cycle[lasts]))
    table.add(names[4], whole(log.line[lasts]))
    table.add(names[6], numbers(log.current_a[lasts]))
    table.add(names[7], numbers(log.voltage_v[lasts], decimals=5))
    for column in range(4):
        cycle = log.counters[column] - log.cycle_began[column]
        table.add(names[8 + column], numbers(cycle[lasts]))
    return ("\n".join([table.header, *table.lines()]) + "\n").encode()
