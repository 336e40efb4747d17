"""BioLogic's .mpt: a head that says its own length, tabs, time relative or absolute, any locale."""

from __future__ import annotations

import numpy as np

from tests.fuzz.brands.common import single, truth
from tests.fuzz.draw import Draw
from tests.fuzz.log import Log, draw_log
from tests.fuzz.truth import Export
from tests.fuzz.writing import Stamps, Style, Table, moments, numbers, whole, written


def export(draw: Draw, name: str) -> Export:
    """An export of EC-Lab or BT-Lab."""
    log = draw_log(draw)
    comma = draw.chance("decimal_comma", 0.4)
    absolute = draw.chance("absolute_time", 0.3)
    has_start = absolute or draw.chance("start_in_head", 0.7)
    counter = draw.choose("counters", ("pair", "net_half", "net_test", "none"))
    style = Style(comma=comma, delimiter="\t")
    into = _direction(log)
    table = Table("\t")
    table.add("mode", ["1"] * len(log))
    table.add("ox/red", whole(into))
    table.add("error", ["0"] * len(log))
    table.add("control changes", ["0"] * len(log))
    table.add("Ns changes", whole(np.diff(log.step, prepend=log.step[0])))
    table.add("Ns", whole(log.line - 1))
    if absolute:
        stamps = Stamps("mdy", "/", 0.001)
        table.add("time/s", [stamps.text(at) for at in moments(log)])
    else:
        table.add("time/s", numbers(log.at_s, style, 6))
    table.add("control/V/mA", numbers(log.current_a * 1e3, style))
    table.add(draw.choose("voltage_name", ("Ewe/V", "Ecell/V")), numbers(log.voltage_v, style, 6))
    table.add(draw.choose("current_name", ("I/mA", "<I>/mA")), numbers(log.current_a * 1e3, style))
    mah = log.counted("cycle") * 1e3
    if counter == "pair":
        table.add("Q discharge/mA.h", numbers(mah[1], style))
        table.add("Q charge/mA.h", numbers(mah[0], style))
    elif counter == "net_half":
        half = np.cumsum(np.diff(into.astype(int), prepend=int(into[0])) != 0)
        net = (log.charge_ah - log.discharge_ah) * 1e3
        before = log.step_began[0] - log.step_began[1]
        began = np.array([before[np.flatnonzero(half == h)[0]] for h in half]) * 1e3
        table.add("Q charge/discharge/mA.h", numbers(net - began, style))
        table.add("half cycle", whole(half))
    elif counter == "net_test":
        table.add("(Q-Qo)/mA.h", numbers((log.charge_ah - log.discharge_ah) * 1e3, style))
    table.add("cycle number", numbers(log.cycle, style, 6) if comma else whole(log.cycle))
    if draw.chance("extra_columns", 0.4):
        power = log.current_a * log.voltage_v
        table.add("P/W", numbers(power, style))
        table.add("Energy/W.h", numbers(log.charge_wh - log.discharge_wh, style))
        table.add("dq/mA.h", numbers(np.diff(log.charge_ah - log.discharge_ah, prepend=0), style))
        table.add("Temperature/°C", numbers(log.temperature_c, style, 2))
        table.add("I Range", ["10"] * len(log))
    if draw.chance("frequency_zero", 0.15):
        table.add("freq/Hz", numbers(0 * log.at_s, style, 6))
    head = ["EC-Lab ASCII FILE", "Nb header lines : ", "", "Modulo Bat", ""]
    if has_start:
        head.append(f"Acquisition started on : {log.start:%m/%d/%Y %H:%M:%S}.000")
    head += ["Electrode material : ", "Mass of active material : 0.001 mg", ""]
    head[1] += str(len(head) + 1)
    file = written(
        draw,
        table,
        head,
        ("trailing_delimiter", "cut_line"),
        ("crlf", "plain"),
        encoding=draw.choose("encoding", ("utf-8", "latin-1")),
    )
    resolution = None
    if absolute:
        resolution = 0.001
    elif has_start:
        resolution = 1.0
    right = truth(
        log,
        [file],
        cells=(name,),
        files=[f"{name}/{name}.mpt"],
        counter=counter != "none",
        clocks=[log.at_s],
        resolution_s=resolution,
        first_counts=not absolute,
    )
    return single(draw, "biologic", name, f"{name}.mpt", file, right)


def _direction(log: Log) -> np.ndarray:  # type: ignore[type-arg]
    """Whether a row charges; at rest, whether the step before did."""
    into = log.current_a > 0
    for at in np.flatnonzero(log.kind == "rest"):
        into[at] = into[at - 1] if at else True
    return into
