"""A table of nobody's in particular: every axis at once."""

from __future__ import annotations

import numpy as np

from tests.fuzz.brands.common import hurt, single, spectrum, truth
from tests.fuzz.draw import Draw
from tests.fuzz.log import Floats, Log, draw_log
from tests.fuzz.truth import Export
from tests.fuzz.writing import (
    AMPERES,
    PLAIN,
    Stamps,
    Style,
    Table,
    cut,
    hms,
    moments,
    numbers,
    wall_seconds,
    whole,
    written,
)  # fmt: skip

SPELLINGS = ("{}({})", "{} ({})", "{}[{}]", "{} [{}]", "{}/{}", "{} / {}", "{}_{}")
WORDS = (
    {"charge": "Charge", "hold": "Charge", "discharge": "Discharge", "rest": "Rest"},
    {"charge": "CHARGE", "hold": "CHARGE", "discharge": "DISCHARGE", "rest": "REST"},
    {"charge": "C", "hold": "C", "discharge": "D", "rest": "R"},
    {"charge": "CC Charge", "hold": "CV Charge", "discharge": "CC Discharge", "rest": "Rest"},
    {"charge": "Laden", "hold": "Laden", "discharge": "Entladen", "rest": "Pause"},
)
CLOCKS = ("both", "both", "test", "wall", "step_wall", "date_and_time", "date_beside", "epoch")
SECONDS = {"s": 1.0, "min": 1 / 60, "h": 1 / 3600, "ms": 1e3}


def export(draw: Draw, name: str) -> Export:
    """A table with these axes, or one that lacks what others have."""
    clocks = draw.choose("clocks", CLOCKS)
    has_test = clocks in ("both", "test")
    log = draw_log(draw, fast=clocks != "date_and_time")
    is_numbered = draw.chance("record_number", 0.6)
    log = hurt(draw, log, wall=has_test or is_numbered, counter=True)
    if draw.chance("spectrum", 0.06):
        log = spectrum(log)
    counter = draw.choose("counters", ("none", "test", "cycle", "step", "net", "unsigned_step"))
    states = draw.choose("states", ("words", "none"))
    signs = ["positive_charges", "positive_charges", "positive_discharges"]
    if states == "words":
        signs.append("unsigned")
    sign = draw.choose("sign", signs)
    style, delimiter = _style(draw)
    spell = draw.choose("spelling", SPELLINGS)
    prefix = draw.choose("current_unit", tuple(AMPERES))
    table = Table(delimiter)
    if is_numbered:
        table.add(draw.pick(("Record", "Data_Point", "Rec")), whole(range(1, len(log) + 1)))
    cell = name
    if draw.chance("cell_column", 0.15):
        cell = f"{name}-A"
        table.add(draw.pick(("Cell_ID", "cell", "Cell ID")), [cell] * len(log))
    written_clocks, resolution = _clocks(draw, table, log, clocks, style, spell)
    has_cycle = draw.chance("cycle_index", 0.7)
    if has_cycle:
        table.add(draw.pick(("Cycle_Index", "Cycle", "Cycle Number")), whole(log.cycle))
    if draw.chance("step_index", 0.7):
        table.add(draw.pick(("Step_Index", "Step")), whole(log.line))
    if states == "words":
        words = draw.pick(WORDS)
        draw.recipe["words"] = words["discharge"]
        table.add(draw.pick(("State", "Status", "Step Type")), [words[str(k)] for k in log.kind])
    current = {
        "positive_charges": log.current_a,
        "positive_discharges": -log.current_a,
        "unsigned": np.abs(log.current_a),
    }[sign]
    unit = "mAmps" if prefix == "mA" and draw.chance("mAmps", 0.3) else prefix
    table.add(spell.format("Current", unit), numbers(current * AMPERES[prefix], style))
    volt, factor = draw.choose("voltage_unit", (("V", 1.0), ("V", 1.0), ("mV", 1e3)))
    table.add(spell.format("Voltage", volt), numbers(log.voltage_v * factor, style))
    _counters(table, log, counter, spell, prefix, style)
    if draw.chance("temperature", 0.5):
        temperature = log.temperature_c.copy()
        if draw.chance("temperature_nan", 0.3):
            temperature[::2] = np.nan
        table.add("Temperature (C)", numbers(temperature, style, 2), blank=True)
    if draw.chance("distracting_columns", 0.25):
        _distract(table, log, style)
    if not np.isnan(log.frequency_hz).all() or draw.chance("frequency_zero", 0.05):
        table.add("Frequency_Hz", numbers(np.nan_to_num(log.frequency_hz), style, 4))
    file = written(draw, table)
    right = truth(
        log,
        [file],
        cells=(cell,),
        files=[f"{name}/{name}.csv"],
        counter=counter != "none",
        cycle=has_cycle,
        clocks=written_clocks,
        resolution_s=resolution,
        first_counts=has_test,
    )
    return single(draw, "generic", name, f"{name}.csv", file, right)


def _distract(table: Table, log: Log, style: Style) -> None:
    """Columns named like those that count, with what was wanted instead of what was measured."""
    count = len(log)
    table.add("Channel", ["7"] * count)
    table.add("Set Current (A)", numbers(np.full(count, log.nominal_ah), style))
    table.add("Target Voltage (V)", numbers(np.full(count, 4.2), style, 2))
    table.add("SOC (%)", numbers(50 + 40 * np.sin(np.arange(count) / 50), style, 1))


def _style(draw: Draw) -> tuple[Style, str]:
    form = draw.choose(
        "numbers", ("point", "point", "point", "comma", "thousands", "comma_thousands")
    )
    if form == "comma":
        return Style(comma=True, delimiter=";"), ";"
    if form == "comma_thousands":
        return Style(comma=True, thousands=".", delimiter=";"), ";"
    if form == "thousands":
        return Style(thousands=",", delimiter=","), ","
    delimiter = draw.choose("delimiter", (",", ",", "\t", ";"))
    return PLAIN if delimiter == "," else Style(delimiter=delimiter), delimiter


def _clocks(
    draw: Draw, table: Table, log: Log, clocks: str, style: Style, spell: str
) -> tuple[list[Floats], float | None]:
    """Adds the clocks' columns; elapsed seconds of each as written, and the stamps' resolution."""
    found: list[Floats] = []
    resolution = None
    if clocks in ("both", "test"):
        form = draw.choose("test_clock", (*SECONDS, "hms", "days", "whole_s"))
        if form in ("hms", "days"):
            table.add("Test_Time", [hms(s, days=form == "days").strip() for s in log.at_s])
            found.append(log.at_s)
        elif form == "whole_s":
            at = cut(log.at_s, 1.0)
            table.add(spell.format("Test_Time", "s"), numbers(at, style, 0))
            found.append(at)
        else:
            decimals = {"s": 3, "min": 6, "h": 8, "ms": 0}[form]
            at = log.at_s * SECONDS[form]
            table.add(spell.format("Test_Time", form), numbers(at, style, decimals))
            found.append(log.at_s)
    if clocks == "step_wall":
        table.add(spell.format("Step_Time", "s"), numbers(log.step_s, style, 3))
        found.append(log.at_s)
    if clocks == "date_and_time":
        resolution = 1.0
        stamps = Stamps("ymd", "-", 1.0)
        texts = [stamps.text(at).split(" ") for at in moments(log)]
        table.add("Date", [day for day, _ in texts])
        table.add("Time", [time for _, time in texts])
        found.append(wall_seconds(log, resolution))
    elif clocks == "date_beside":
        resolution = 1.0
        texts = [Stamps().text(at) for at in moments(log)]
        table.add("date", [text.split(" ")[0] for text in texts])
        table.add("timestamp", texts)
        found.append(wall_seconds(log, resolution))
    elif clocks == "epoch":
        resolution = draw.choose("wall_s", (1.0, 0.001))
        at = [stamp.timestamp() for stamp in moments(log)]
        milli = resolution < 1
        epoch = [str(round(s * 1e3) if milli else int(s)) for s in at]
        table.add(draw.choose("epoch_name", ("unix_time", "timestamp")), epoch)
        found.append(wall_seconds(log, resolution))
    elif clocks != "test":
        resolutions = (1.0, 0.001, 60.0) if clocks == "both" else (1.0, 0.001)
        order = draw.choose("date_order", ("ymd", "mdy", "dmy"))
        stamps = Stamps(
            order,
            draw.choose("date_separator", ("-", "/", ".")),
            draw.choose("wall_s", resolutions),
            half_days=draw.chance("half_days", 0.2),
            short_year=order != "ymd" and draw.chance("short_year", 0.1),
        )
        resolution = stamps.resolution_s
        table.add(
            draw.pick(("Date_Time", "Timestamp", "DateTime")),
            [stamps.text(at) for at in moments(log)],
        )
        found.append(wall_seconds(log, resolution))
    return found, resolution


def _counters(table: Table, log: Log, counter: str, spell: str, prefix: str, style: Style) -> None:
    factor, unit = AMPERES[prefix], f"{prefix}h"
    if counter in ("test", "cycle", "step"):
        counted = log.counted(counter) * factor
        table.add(spell.format("Charge_Capacity", unit), numbers(counted[0], style), blank=True)
        table.add(spell.format("Discharge_Capacity", unit), numbers(counted[1], style), blank=True)
    elif counter == "net":
        net = (log.charge_ah - log.discharge_ah) * factor
        table.add(spell.format("Capacity", unit), numbers(net, style))
    elif counter == "unsigned_step":
        counted = log.counted("step") * factor
        one = np.where(log.kind == "discharge", counted[1], counted[0])
        table.add(spell.format("Capacity", unit), numbers(one, style))
