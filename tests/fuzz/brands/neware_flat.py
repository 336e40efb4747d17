"""Neware's flat CSV, in English or Chinese: a step clock, a total clock, a wall clock or some."""

from __future__ import annotations

import numpy as np

from tests.fuzz.brands.common import hurt, single, truth
from tests.fuzz.draw import Draw
from tests.fuzz.log import Log, draw_log
from tests.fuzz.truth import Export
from tests.fuzz.writing import AMPERES, Stamps, Table, hms, moments, numbers, whole, written

ENGLISH = {
    "charge": "CC Chg", "hold": "CV Chg", "discharge": "CC DChg", "rest": "Rest",
}  # fmt: skip
CHINESE = {
    "charge": "恒流充电", "hold": "恒压充电", "discharge": "恒流放电", "rest": "搁置",
}  # fmt: skip


def export(draw: Draw, name: str) -> Export:
    """A flat export in English."""
    log = hurt(draw, draw_log(draw, first_rows=("interval", "zero")), counter=True)
    prefix = draw.choose("current_unit", ("A", "mA", "μA", "µA"))
    layout = draw.choose("layout", ("data_point", "record_id"))
    words = [ENGLISH[str(kind)] for kind in log.kind]
    case = draw.choose("case", ("title", "upper", "lower"))
    words = [{"title": word, "upper": word.upper(), "lower": word.lower()}[case] for word in words]
    table = Table()
    unsigned = draw.choose("counters", ("pair", "unsigned_step", "pair_cycle"))
    ampere, hour = f"({prefix})", f"({prefix}h)"
    if layout == "data_point":
        clocks = draw.choose("clocks", ("step_total_wall", "step_total", "step_wall", "total_wall"))
        table.add("DataPoint", whole(range(1, len(log) + 1)))
        table.add("Cycle Index", whole(log.cycle))
        table.add("Step Index", whole(log.line))
        table.add("Step Type", words)
        if "step" in clocks:
            table.add("Time", [hms(s) for s in log.step_s])
        if "total" in clocks:
            title = draw.choose("total_name", ("Total Time", "Cumulative Time"))
            table.add(title, [hms(s) for s in log.at_s])
        table.add(f"Current{ampere}", numbers(log.current_a * AMPERES[prefix]))
        table.add("Voltage(V)", numbers(log.voltage_v, decimals=4))
        _counters(table, log, unsigned, AMPERES[prefix], "Chg. Cap.", "DChg. Cap.", hour)
        has_wall, wall_name = "wall" in clocks, "Date"
    else:
        clocks = "step_wall"
        table.add("Cycle ID", whole(log.cycle))
        table.add("Step ID", whole(log.line))
        table.add("Record ID", whole(range(1, len(log) + 1)))
        table.add("Time(h:min:s.ms)", [hms(s) for s in log.step_s])
        table.add("Voltage(V)", numbers(log.voltage_v, decimals=4))
        table.add(f"Current{ampere}", numbers(log.current_a * AMPERES[prefix]))
        _counters(
            table, log, unsigned, AMPERES[prefix], "Capacitance_Chg", "Capacitance_DChg", hour,
            "Capacity",
        )  # fmt: skip
        has_wall, wall_name = True, "Realtime"
    if has_wall:
        stamps = Stamps("ymd", draw.pick(("-", "/")), 1.0)
        table.add(wall_name, [stamps.text(at) for at in moments(log)])
    table.add("Power(W)", numbers(log.current_a * log.voltage_v), blank=True)
    file = written(draw, table, (), encoding="utf-8")
    right = truth(
        log,
        [file],
        cells=(name,),
        files=[f"{name}/{name}.csv"],
        counter=True,
        clocks=[log.at_s],
        resolution_s=1.0 if has_wall else None,
    )
    return single(draw, "neware_flat", name, f"{name}.csv", file, right)


def _counters(
    table: Table, log: Log, form: str, factor: float, charge: str, discharge: str, hour: str,
    both: str = "Capacity",
) -> None:  # fmt: skip
    """Adds the counters: two, or one of what flows in the direction of the step."""
    if form == "unsigned_step":
        counted = log.counted("step")
        ah = np.where(log.kind == "discharge", counted[1], counted[0])
        table.add(f"{both}{hour}", numbers(ah * factor))
        return
    counted = log.counted("cycle" if form == "pair_cycle" else "step")
    table.add(f"{charge}{hour}", numbers(counted[0] * factor))
    table.add(f"{discharge}{hour}", numbers(counted[1] * factor))


def export_chinese(draw: Draw, name: str) -> Export:
    """A flat export in Chinese, in GB18030 or UTF-8 with a byte-order mark."""
    log = hurt(draw, draw_log(draw, first_rows=("interval", "zero")), counter=True)
    prefix = draw.choose("current_unit", ("A", "mA", "μA"))
    encoding = draw.choose("encoding", ("gb18030", "utf-8-sig"))
    unsigned = draw.choose("counters", ("pair", "unsigned_step", "pair_cycle"))
    table = Table()
    table.add(draw.pick(("记录序号", "数据序号")), whole(range(1, len(log) + 1)))
    table.add("循环号", whole(log.cycle))
    table.add("工步号", whole(log.line))
    table.add("工步类型", [CHINESE[str(kind)] for kind in log.kind])
    table.add("时间", [hms(s) for s in log.step_s])
    table.add("总时间", [hms(s) for s in log.at_s])
    table.add(f"电流({prefix})", numbers(log.current_a * AMPERES[prefix]))
    table.add("电压(V)", numbers(log.voltage_v, decimals=4))
    _counters(table, log, unsigned, AMPERES[prefix], "充电容量", "放电容量", f"({prefix}h)", "容量")
    stamps = Stamps("ymd", "-", 1.0)
    table.add("绝对时间", [stamps.text(at) for at in moments(log)])
    file = written(
        draw, table, (), ("repeated_rows", "cut_line"), ("plain", "crlf"), encoding=encoding
    )
    right = truth(
        log,
        [file],
        cells=(name,),
        files=[f"{name}/{name}.csv"],
        counter=True,
        clocks=[log.at_s],
        resolution_s=1.0,
    )
    return single(draw, "neware_chinese", name, f"{name}.csv", file, right)
