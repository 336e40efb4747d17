"""PEC's CSV: a cell's own id beside its position; several cells in one folder or one file."""

from __future__ import annotations

from tests.fuzz.brands.common import truth
from tests.fuzz.draw import Draw
from tests.fuzz.log import Log, draw_log
from tests.fuzz.truth import Export
from tests.fuzz.writing import Stamps, Table, Written, hms, moments, numbers, whole, written


def export(draw: Draw, name: str) -> Export:
    """An export of PEC's: one or two cells."""
    count = draw.choose("cells", (1, 2, 2))
    together = count == 2 and draw.chance("one_file", 0.4)
    unit, factor = draw.choose("capacity_unit", (("mAh", 1e3), ("Ah", 1.0)))
    tables, logs = [], []
    for number in range(count):
        log = draw_log(draw, first_rows=("zero", "interval"))
        logs.append(log)
        tables.append(_table(log, f"{name}-{'AB'[number]}", number, unit, factor))
    head = ["Request Year:,2024", "Test:,101", "TestRegime Name:,own", "#END RESULTS CHECK"]
    files: dict[str, Written] = {}
    if together:
        joined = Table()
        for (title, cells), (_, others) in zip(tables[0].columns, tables[1].columns, strict=True):
            joined.add(title, cells + others)
        files[f"{name}_Test101.csv"] = written(draw, joined, head, (), ("crlf", "bom"))
    else:
        for number, table in enumerate(tables):
            damages = ("cut_line", "repeated_rows")
            files[f"{name}_Test{101 + number}.csv"] = written(
                draw, table, head, damages, ("crlf", "bom")
            )
    truths = []
    for number, log in enumerate(logs):
        file = list(files)[0 if together else number]
        one = files[file]
        if together:
            one = Written(b"", one.damage, len(log))
        truths.append(
            truth(
                log,
                [one],
                cells=(f"{name}-{'AB'[number]}",),
                files=[f"{name}/{file}"],
                counter=True,
                clocks=[log.at_s],
                resolution_s=1.0,
            )
        )
    contents = {file: one.content for file, one in files.items()}
    return Export(name, "pec", draw.recipe, contents, tuple(truths))


def _table(log: Log, cell: str, number: int, unit: str, factor: float) -> Table:
    stamps = Stamps("mdy", "/", 1.0)
    rows = len(log)
    table = Table()
    table.add("Test", [str(101 + number)] * rows)
    table.add("Cell", [str(number + 1)] * rows)
    table.add("Rack", ["R1"] * rows)
    table.add("Shelf", ["S1"] * rows)
    table.add("Position", [str(number + 1)] * rows)
    table.add("Cell ID", [cell] * rows)
    table.add("Step", whole(log.line))
    table.add("Cycle", whole(log.cycle))
    table.add("Total Time (Hours in hh:mm:ss.xxx)", [hms(s) for s in log.at_s])
    table.add("Step Time (Seconds)", numbers(log.step_s, decimals=3))
    table.add("Real Time", [stamps.text(at) for at in moments(log)])
    table.add("Position Start Time", [stamps.text(log.start)] * rows)
    table.add("Voltage (V)", numbers(log.voltage_v, decimals=5))
    table.add("Current (A)", numbers(log.current_a))
    counted = log.counted("cycle") * factor
    table.add(f"Charge Capacity ({unit})", numbers(counted[0]))
    table.add(f"Discharge Capacity ({unit})", numbers(counted[1]))
    return table
