"""Draws the models: every chart is a Plotly figure (a plain dict) with a title and a note."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pipeline.report import plots, tables, words
from pipeline.report.marts import Marts, Overview
from pipeline.report.plots import Figure, Focus, Numbers
from pipeline.report.words import isolated, plotted

# More machines than this are drawn as one.
_MACHINES = 4
# How far ahead predictions are drawn, in times of the longest record.
_AHEAD = 2.5
_NOTE_PROSPECTS = (
    " □ predicted health and end of life with their 90 % intervals; where no model says, the end of "
    "life by a straight line."
)


@dataclass(frozen=True)
class Chart:
    """One chart of the page.

    Attributes:
        name: id on the page.
        title: what one sees.
        note: how to read it.
        choices: figures by the label in the chart's menu; a single one needs no menu.
        menu: label of the menu.
    """

    name: str
    title: str
    note: str
    choices: Mapping[str, Figure]
    menu: str = ""


def all_charts(marts: Marts, overview: Overview) -> list[Chart]:
    """The charts that the data allow, in the order of the page."""
    charts: list[Chart] = []
    focus = Focus.of(overview)
    if focus.cells:
        health = marts.health(focus.cells)
        rest = marts.health(focus.rest) if focus.rest else health[:0]
        cycles = marts.cycles(focus.cells)
        charts += [_capacity(health, rest, focus), _soh(health, rest, focus)]
        charts += _curves(marts, focus)
        charts += _over_cycles(
            cycles,
            focus,
            "resistance",
            "Resistance over cycles",
            "Resistance, mΩ",
            {"internal_mohm": "internal, by the tester", "dc_mohm": "DC, 30 s into the discharge"},
            "Line: median of five valid cycles. DC: voltage drop 30 s after the discharge began, over "
            "the change of the current; none where the readings do not carry it.",
        )
        charts += _over_cycles(
            cycles,
            focus,
            "efficiency",
            "Efficiency over cycles",
            "Efficiency, %",
            {"energy": "energy (Wh out / in)", "coulombic": "coulombic (Ah out / in)"},
            "Line: median of five valid cycles. Dots: single cycles; the axis leaves out the most "
            "extreme 2 %.",
        )
    if overview.machines:
        charts += _machines(marts)
    return charts


def _capacity(health: pd.DataFrame, rest: pd.DataFrame, focus: Focus) -> Chart:
    data: list[Figure] = plots.background(rest, "cycle_number", "discharge_median_ah")
    for cell, rows in plots.by_cell(health):
        colour, _ = focus.style(cell)
        data.append(plots.dots(cell, rows, "cycle_number", "discharge_ah", colour, focus))
    data += plots.lines(
        health, "cycle_number", "discharge_median_ah", focus, "cycle %{x}<br>%{y:.4f} Ah"
    )
    capacity = {
        cell: plots.xy(rows, "cycle_number", "discharge_median_ah", len(rows))
        for cell, rows in plots.by_cell(health)
    }
    for column, symbol, word in (
        ("eol_80_nominal_cycle", "x", "end of life"),
        ("knee_onset_cycle", "diamond-open", "knee onset"),
        ("knee_cycle", "diamond", "knee point"),
    ):
        for cell, at in zip(focus.table["equipment_id"], focus.table[column], strict=True):
            x, y = capacity.get(cell, ([], []))
            if pd.isna(at) or not len(x):
                continue
            point = (np.array([float(at)]), np.array([float(np.interp(float(at), x, y))]))
            marker = {"color": focus.style(cell)[0], "size": 12, "symbol": symbol}
            hover = f"{word}<br>cycle %{{x}}<br>%{{y:.4f}} Ah"
            trace = plots.trace(cell, point, mode="markers", marker=marker, hovertemplate=hover)
            # The page draws the edge in the colour of its text.
            data.append(trace | {"meta": {"edge": True}})
    prospects = _prospects(capacity, focus)
    data += prospects
    thresholds = sorted({float(ah) for ah in focus.table["nominal_capacity_ah"].dropna()})
    # With many different cells the lines would say nothing; the markers still do.
    lines = [
        plots.threshold(0.8 * ah, f"80 % of nominal, {tables.amount(0.8 * ah)} Ah")
        for ah in (thresholds if len(thresholds) <= 2 else ())
    ]
    return Chart(
        "capacity",
        _capacity_title(focus),
        "Line: median of five cycles. Dots: single complete cycles. ✖ end of life, the first cycle "
        "whose median is below 80 % of nominal. ◇ knee onset, where the fade begins to speed up; ◆ knee "
        "point, from which it is fastest."
        + (_NOTE_PROSPECTS if prospects else "")
        + (" Grey: the other cells." if focus.rest else ""),
        {"": plots.figure(data, "Cycle", "Discharge capacity, Ah", shapes=lines)},
    )


def _prospects(capacity: Mapping[str, tuple[Numbers, Numbers]], focus: Focus) -> list[Figure]:
    """Predicted health and end of life with their intervals; without a model what the line says.

    What lies further ahead than `_AHEAD` times the longest record is left to the table.

    Args:
        capacity: by cell, cycle numbers and capacities in Ah.
        focus: the cells.
    """
    edge = _AHEAD * max((x[-1] for x, _ in capacity.values() if len(x)), default=0.0)
    data: list[Figure] = []
    for cell in focus.table.to_dict("records"):
        name, initial = cell["equipment_id"], cell["initial_capacity_ah"]
        x, _ = capacity.get(name, (np.array([]), np.array([])))
        if not len(x) or not pd.isna(cell["eol_80_nominal_cycle"]):
            continue
        at, soh = cell["predicted_at_cycle"], cell["predicted_soh"]
        if not pd.isna(at) and not pd.isna(soh):
            ends = [initial * cell[f"predicted_soh{end}"] for end in ("_low", "_high")]
            data.append(
                _whisker(name, (at, initial * soh), "error_y", ends, focus,
                         "predicted health<br>cycle %{x}<br>%{y:.4f} Ah")
            )  # fmt: skip
        if pd.isna(cell["predicted_by"]):
            start, prefix, height = x[-1], "", 0.8 * cell["nominal_capacity_ah"]
            word = "80 % of nominal, by a straight line"
        else:
            start, prefix = cell["cycles"], "predicted_"
            height, word = cell["predicted_threshold_soh"] * initial, "predicted end of life"
        left, low, high = (cell[f"{prefix}remaining_cycles{end}"] for end in ("", "_low", "_high"))
        if not pd.isna(left) and start + left <= edge:
            ends = [start + low, edge if pd.isna(high) else min(start + high, edge)]
            hover = f"{word}<br>cycle %{{x:.0f}}<br>%{{y:.4f}} Ah"
            data.append(_whisker(name, (start + left, height), "error_x", ends, focus, hover))
    return data


def _whisker(
    cell: str,
    at: tuple[float, float],
    axis: str,
    ends: list[float],
    focus: Focus,
    hover: str,
) -> Figure:
    """A square with the bar of its interval, from one end to the other of its axis."""
    middle = at[0] if axis == "error_x" else at[1]
    down, up = (0.0 if np.isnan(end) else abs(end - middle) for end in ends)
    colour = focus.style(cell)[0]
    bar = {"type": "data", "symmetric": False, "array": plots.rounded([up]),
           "arrayminus": plots.rounded([down]), "thickness": 1.5, "width": 4}  # fmt: skip
    marker = {"color": colour, "size": 9, "symbol": "square-open"}
    point = (np.array([at[0]]), np.array([at[1]]))
    return plots.trace(cell, point, mode="markers", marker=marker, hovertemplate=hover) | {
        axis: bar
    }


def _capacity_title(focus: Focus) -> str:
    if len(focus.cells) > 1:
        ended = int(focus.table["eol_80_nominal_cycle"].notna().sum())
        which = "the {} cells with the lowest SOH" if focus.rest else "{} cells"
        return f"Capacity of {which.format(len(focus.cells))}, {ended} at end of life"
    cell = focus.table.iloc[0]
    if pd.isna(cell["capacity_ah"]):
        return f"Capacity of {isolated(focus.cells[0])}, no valid cycle yet"
    return (
        f"Capacity of {isolated(focus.cells[0])}, from {tables.amount(cell['initial_capacity_ah'])} to "
        f"{tables.amount(cell['capacity_ah'])} Ah in {cell['cycles']:,.0f} cycles"
    )


def _soh(health: pd.DataFrame, rest: pd.DataFrame, focus: Focus) -> Chart:
    choices = {}
    for label, column, axis, hover in (
        ("equivalent full cycles", "equivalent_full_cycles", "Equivalent full cycles", "%{x:.0f}"),
        ("time", "days", "Days since the first cycle", "day %{x:.1f}"),
    ):
        data = plots.background(rest, column, "soh")
        data += plots.lines(health, column, "soh", focus, hover + "<br>%{y:.1f} %")
        choices[label] = plots.figure(
            data,
            axis,
            "State of health, % of nominal",
            shapes=[plots.threshold(80, "end of life, 80 %")],
        )
    return Chart(
        "soh",
        "State of health by use and by time",
        "Capacity in % of nominal (of initial where no nominal is known). An equivalent full cycle "
        "moves twice the nominal capacity.",
        choices,
        menu="Over",
    )


def _curves(marts: Marts, focus: Focus) -> list[Chart]:
    """dQ/dV of a chosen cell at some stages of its life."""
    listed = marts.curves(focus.cells)
    if listed.empty:
        return []
    stages = pd.concat(
        rows.iloc[np.unique(np.linspace(0, len(rows) - 1, plots.STAGES).round().astype(int))]
        for _, rows in plots.by_cell(listed)
    )
    points = dict(iter(marts.curve_points(stages).groupby("stage_key")))
    choices = {}
    of_cell = dict(plots.by_cell(stages))
    for cell in focus.cells:
        data = []
        for age, stage in enumerate(of_cell.get(cell, stages[:0]).to_dict("records")):
            rows = points.get(stage["stage_key"])
            if rows is None:
                continue
            soh = words.figure(stage["soh"], ".0f")
            trace = plots.trace(
                f"cycle {stage['cycle_number']:,}, {soh} %",
                plots.xy(rows, "voltage_v", "dq_dv", 400),
                mode="lines",
                line={"color": plots.AGES_LIGHT[age], "width": 2},
                meta={"dark": plots.AGES_DARK[age]},
                showlegend=True,
                hovertemplate="%{x:.2f} V<br>%{y:.2f} Ah/V",
            )
            data.append(trace)
        if data:
            choices[cell] = plots.figure(data, "Voltage, V", "dQ/dV, Ah/V", legend=True)
    if not choices:
        return []
    return [
        Chart(
            "curves",
            "dQ/dV of the charge from new to aged",
            "Incremental capacity of the constant-current charge; the legend gives cycle and SOH. "
            "Peaks that sink or move tell what ages inside the cell.",
            choices,
            menu="Cell",
        )
    ]


def _over_cycles(
    cycles: pd.DataFrame,
    focus: Focus,
    name: str,
    title: str,
    axis: str,
    quantities: Mapping[str, str],
    note: str,
) -> list[Chart]:
    """Quantities over cycles: together for one cell, else one at a time."""
    present = {
        column: label for column, label in quantities.items() if cycles[column].notna().any()
    }
    if not present:
        return []
    hover = "cycle %{x}<br>%{y:.2f}"
    if len(focus.cells) == 1:
        data = []
        for place, (column, label) in enumerate(present.items()):
            line = {"color": plots.COLOURS[place], "width": 2}
            data.append(
                plots.dots(label, cycles, "cycle_number", column, plots.COLOURS[place], focus)
            )
            points = plots.xy(plots.smooth(cycles, column), "cycle_number", column, focus.points)
            trace = plots.trace(label, points, mode="lines", line=line, hovertemplate=hover)
            data.append(trace | {"showlegend": True})
        figures = {"": plots.figure(data, "Cycle", axis, legend=True)}
    else:
        figures = {
            label: plots.figure(
                [
                    *(
                        plots.dots(cell, rows, "cycle_number", column, focus.style(cell)[0], focus)
                        for cell, rows in plots.by_cell(cycles)
                    ),
                    *plots.lines(
                        plots.smooth(cycles, column), "cycle_number", column, focus, hover
                    ),
                ],
                "Cycle",
                axis,
            )
            for column, label in present.items()
        }
    for figure in figures.values():
        plots.leave_out_strays(figure)
    return [Chart(name, title, note, figures, menu="Which")]


def _machines(marts: Marts) -> list[Chart]:
    days = marts.machine_days(_MACHINES)
    choices = {}
    for label, column, unit in (
        ("voltage", "voltage_{}_v", "V"),
        ("temperature", "temperature_{}_c", "°C"),
        ("frequency", "frequency_{}_hz", "Hz"),
    ):
        low, mean, high = (column.format(kind) for kind in ("min", "mean", "max"))
        data = []
        for place, (machine, rows) in enumerate(days.dropna(subset=[mean]).groupby("machine")):
            line = {"color": plots.COLOURS[place % len(plots.COLOURS)], "width": 1.5}
            spread = {
                "type": "data",
                "symmetric": False,
                "array": plots.rounded(rows[high] - rows[mean]),
                "arrayminus": plots.rounded(rows[mean] - rows[low]),
                "thickness": 1,
                "width": 2,
            }
            data.append(
                {
                    "type": "scatter",
                    "name": plotted(str(machine)),
                    "x": rows["day"].tolist(),
                    "y": plots.rounded(rows[mean]),
                    "mode": "lines+markers",
                    "line": line,
                    "marker": {"size": 5},
                    "error_y": spread,
                    "showlegend": True,
                    "hovertemplate": f"%{{x}}<br>mean %{{y:.2f}} {unit}",
                }
            )
        if data:
            figure = plots.figure(data, "Day, UTC", f"{label.capitalize()}, {unit}", legend=True)
            axis = figure["layout"]["xaxis"]
            axis |= {"type": "date", "tickformat": "%-d %b<br>%Y"}
            if days["day"].nunique() <= 10:  # Plotly would put hours between so few days
                axis["tickvals"] = sorted(days["day"].unique())
            choices[label] = figure
    if not choices:
        return []
    note = "Point: mean of the day. Bar: from the lowest to the highest reading."
    return [Chart("machines", "Machines by day", note, choices, menu="Quantity")]
