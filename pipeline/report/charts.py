"""Draws the models: every chart is a Plotly figure (a plain dict) with a title and a note."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from pipeline.report import tables
from pipeline.report.marts import Marts, Overview

Figure = dict[str, Any]
_Numbers = npt.NDArray[np.float64]

# Okabe and Ito's colours, told apart by the colour-blind; without black and yellow, which vanish on
# a dark or a light page. Cells beyond the sixth repeat them with a dashed line.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES = ("solid", "dash")
FOCUS = len(COLOURS) * len(DASHES)
GREY = "rgba(128,128,128,0.35)"
LINE = "rgba(128,128,128,0.9)"
# Cividis from new to aged, each page without the end that it would swallow.
AGES_LIGHT = ("#00224E", "#2A3F6D", "#575C6D", "#7D7C78", "#A59C74", "#D2B93A")
AGES_DARK = ("#4C7FC4", "#6F8FB8", "#8F97A3", "#ABA68C", "#CDBF6A", "#FDE737")
STAGES = len(AGES_LIGHT)

# The browser draws some ten thousand points at ease; they keep the file small, too.
_POINTS_PER_CHART = 9_000
_MOST_POINTS_PER_LINE = 4_000
_REST_CELLS = 300
_REST_POINTS = 40
_MACHINES = 4


@dataclass(frozen=True)
class Chart:
    """One chart of the page.

    Attributes:
        name: id on the page.
        title: what one sees.
        note: how to read it.
        choices: figures by the label in the chart's menu; a single one needs no menu.
        menu: label of the menu.
        wide: whether it spans the page.
    """

    name: str
    title: str
    note: str
    choices: Mapping[str, Figure]
    menu: str = ""
    wide: bool = False


@dataclass(frozen=True)
class Focus:
    """The cells that are drawn in colour: those with the lowest state of health."""

    cells: Sequence[str]
    rest: Sequence[str] = ()
    table: pd.DataFrame = field(default_factory=pd.DataFrame)

    @classmethod
    def of(cls, overview: Overview) -> Focus:
        """The focus for these cells; the others are background."""
        cells = overview.cells[overview.cells["cycles"].notna()]
        names = [str(name) for name in cells["equipment_id"]]
        others = names[FOCUS:]
        step = max(1, -(-len(others) // _REST_CELLS))
        return cls(names[:FOCUS], others[::step], cells[:FOCUS])

    def style(self, cell: str) -> tuple[str, str]:
        """Colour and dash of a cell's line."""
        place = self.cells.index(cell)
        return COLOURS[place % len(COLOURS)], DASHES[place // len(COLOURS)]

    @property
    def points(self) -> int:
        """Points that one line may have."""
        return min(_MOST_POINTS_PER_LINE, _POINTS_PER_CHART // max(1, len(self.cells)))


def thin(x: _Numbers, y: _Numbers, most: int) -> tuple[_Numbers, _Numbers]:
    """The finite points, about `most`: of each stretch the lowest and the highest, so no dip is lost."""
    finite = np.isfinite(x) & np.isfinite(y)
    x, y = x[finite], y[finite]
    if len(x) <= most:
        return x, y
    keep = {0, len(x) - 1}
    for start, end in pairwise(np.linspace(0, len(x), max(most // 2, 1) + 1).astype(int)):
        if end > start:
            keep |= {start + int(y[start:end].argmin()), start + int(y[start:end].argmax())}
    places = np.array(sorted(keep))
    return x[places], y[places]


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
            "Line: median of five valid cycles. DC: voltage drop about 30 s into the discharge; a "
            "lower bound late in life if the tester logs on a change of voltage.",
        )
        charts += _over_cycles(
            cycles,
            focus,
            "efficiency",
            "Efficiency over cycles",
            "Efficiency, %",
            {"coulombic": "coulombic (Ah out / in)", "energy": "energy (Wh out / in)"},
            "Line: median of five valid cycles. Dots: single cycles; the axis leaves out the most "
            "extreme 2 %.",
        )
    if overview.machines:
        charts += _machines(marts)
    return charts


def _capacity(health: pd.DataFrame, rest: pd.DataFrame, focus: Focus) -> Chart:
    data: list[Figure] = _background(rest, "cycle_number", "discharge_median_ah")
    for cell, rows in _by_cell(health):
        colour, _ = focus.style(cell)
        data.append(_dots(cell, rows, "cycle_number", "discharge_ah", colour, focus))
    data += _lines(
        health, "cycle_number", "discharge_median_ah", focus, "cycle %{x}<br>%{y:.4f} Ah"
    )
    capacity = {
        cell: _xy(rows, "cycle_number", "discharge_median_ah", len(rows))
        for cell, rows in _by_cell(health)
    }
    for column, symbol, word in (
        ("eol_80_nominal_cycle", "x", "end of life"),
        ("knee_cycle", "diamond", "knee"),
    ):
        for cell, at in zip(focus.table["equipment_id"], focus.table[column], strict=True):
            x, y = capacity.get(cell, ([], []))
            if pd.isna(at) or not len(x):
                continue
            point = (np.array([float(at)]), np.array([float(np.interp(float(at), x, y))]))
            marker = {"color": focus.style(cell)[0], "size": 12, "symbol": symbol}
            hover = f"{word}<br>cycle %{{x}}<br>%{{y:.4f}} Ah"
            trace = _trace(cell, point, mode="markers", marker=marker, hovertemplate=hover)
            # The page draws the edge in the colour of its text.
            data.append(trace | {"meta": {"edge": True}})
    thresholds = sorted({float(ah) for ah in focus.table["nominal_capacity_ah"].dropna()})
    # With many different cells the lines would say nothing; the markers still do.
    lines = [
        _threshold(0.8 * ah, f"80 % of nominal, {tables.amount(0.8 * ah)} Ah")
        for ah in (thresholds if len(thresholds) <= 2 else ())
    ]
    return Chart(
        "capacity",
        _capacity_title(focus),
        "Line: median of five cycles. Dots: single complete cycles. ✖ end of life, the first cycle "
        "whose median is below 80 % of nominal. ◆ knee, after which the fade speeds up."
        + (" Grey: the other cells." if focus.rest else ""),
        {"": _figure(data, "Cycle", "Discharge capacity, Ah", shapes=lines)},
    )


def _capacity_title(focus: Focus) -> str:
    if len(focus.cells) > 1:
        ended = int(focus.table["eol_80_nominal_cycle"].notna().sum())
        which = "the {} cells with the lowest SOH" if focus.rest else "{} cells"
        return f"Capacity of {which.format(len(focus.cells))}, {ended} at end of life"
    cell = focus.table.iloc[0]
    if pd.isna(cell["capacity_ah"]):
        return f"Capacity of {focus.cells[0]}, no valid cycle yet"
    return (
        f"Capacity of {focus.cells[0]}, from {tables.amount(cell['initial_capacity_ah'])} to "
        f"{tables.amount(cell['capacity_ah'])} Ah in {cell['cycles']:,.0f} cycles"
    )


def _soh(health: pd.DataFrame, rest: pd.DataFrame, focus: Focus) -> Chart:
    choices = {}
    for label, column, axis, hover in (
        ("equivalent full cycles", "equivalent_full_cycles", "Equivalent full cycles", "%{x:.0f}"),
        ("time", "days", "Days since the first cycle", "day %{x:.1f}"),
    ):
        data = _background(rest, column, "soh")
        data += _lines(health, column, "soh", focus, hover + "<br>%{y:.1f} %")
        choices[label] = _figure(
            data,
            axis,
            "State of health, % of nominal",
            shapes=[_threshold(80, "end of life, 80 %")],
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
    """dQ/dV of a chosen cell at STAGES stages of its life."""
    listed = marts.curves(focus.cells)
    if listed.empty:
        return []
    stages = pd.concat(
        rows.iloc[np.unique(np.linspace(0, len(rows) - 1, STAGES).round().astype(int))]
        for _, rows in _by_cell(listed)
    )
    points = dict(iter(marts.curve_points(stages).groupby(["equipment_id", "cycle_number"])))
    choices = {}
    of_cell = dict(_by_cell(stages))
    for cell in focus.cells:
        data = []
        for age, stage in enumerate(of_cell.get(cell, stages[:0]).to_dict("records")):
            rows = points.get((cell, stage["cycle_number"]))
            if rows is None:
                continue
            soh = tables.figure(stage["soh"], ".0f")
            trace = _trace(
                f"cycle {stage['cycle_number']:,}, {soh} %",
                _xy(rows, "voltage_v", "dq_dv", 400),
                mode="lines",
                line={"color": AGES_LIGHT[age], "width": 2},
                meta={"dark": AGES_DARK[age]},
                showlegend=True,
                hovertemplate="%{x:.2f} V<br>%{y:.2f} Ah/V",
            )
            data.append(trace)
        if data:
            choices[cell] = _figure(data, "Voltage, V", "dQ/dV, Ah/V", legend=True)
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
            line = {"color": COLOURS[place], "width": 2}
            data.append(_dots(label, cycles, "cycle_number", column, COLOURS[place], focus))
            points = _xy(_smooth(cycles, column), "cycle_number", column, focus.points)
            trace = _trace(label, points, mode="lines", line=line, hovertemplate=hover)
            data.append(trace | {"showlegend": True})
        figures = {"": _figure(data, "Cycle", axis, legend=True)}
    else:
        figures = {
            label: _figure(
                [
                    *(
                        _dots(cell, rows, "cycle_number", column, focus.style(cell)[0], focus)
                        for cell, rows in _by_cell(cycles)
                    ),
                    *_lines(_smooth(cycles, column), "cycle_number", column, focus, hover),
                ],
                "Cycle",
                axis,
            )
            for column, label in present.items()
        }
    for figure in figures.values():
        _leave_out_strays(figure)
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
            line = {"color": COLOURS[place % len(COLOURS)], "width": 1.5}
            spread = {
                "type": "data",
                "symmetric": False,
                "array": _rounded(rows[high] - rows[mean]),
                "arrayminus": _rounded(rows[mean] - rows[low]),
                "thickness": 1,
                "width": 2,
            }
            data.append(
                {
                    "type": "scatter",
                    "name": html.escape(str(machine)),
                    "x": rows["day"].tolist(),
                    "y": _rounded(rows[mean]),
                    "mode": "lines+markers",
                    "line": line,
                    "marker": {"size": 5},
                    "error_y": spread,
                    "showlegend": True,
                    "hovertemplate": f"%{{x}}<br>mean %{{y:.2f}} {unit}",
                }
            )
        if data:
            figure = _figure(data, "Day, UTC", f"{label.capitalize()}, {unit}", legend=True)
            figure["layout"]["xaxis"]["type"] = "date"
            choices[label] = figure
    if not choices:
        return []
    note = "Point: mean of the day. Bar: from the lowest to the highest reading."
    return [Chart("machines", "Machines by day", note, choices, menu="Quantity", wide=True)]


def _by_cell(frame: pd.DataFrame) -> Iterable[tuple[str, pd.DataFrame]]:
    return ((str(cell), rows) for cell, rows in frame.groupby("equipment_id", sort=False))


def _xy(rows: pd.DataFrame, x: str, y: str, most: int) -> tuple[_Numbers, _Numbers]:
    return thin(
        rows[x].to_numpy(np.float64, na_value=np.nan),
        rows[y].to_numpy(np.float64, na_value=np.nan),
        most,
    )


def _lines(frame: pd.DataFrame, x: str, y: str, focus: Focus, hover: str) -> list[Figure]:
    """A line per cell of the focus."""
    data = []
    for cell, rows in _by_cell(frame):
        colour, dash = focus.style(cell)
        line = {"color": colour, "dash": dash, "width": 2}
        points = _xy(rows, x, y, focus.points)
        data.append(_trace(cell, points, mode="lines", line=line, hovertemplate=hover))
    return data


def _dots(name: str, rows: pd.DataFrame, x: str, y: str, colour: str, focus: Focus) -> Figure:
    """Single values, faint behind the line."""
    marker = {"color": colour, "size": 3, "opacity": 0.3}
    points = _xy(rows, x, y, focus.points // 2)
    return _trace(name, points, mode="markers", marker=marker, hoverinfo="skip")


def _smooth(cycles: pd.DataFrame, column: str) -> pd.DataFrame:
    """The running median of five cycles of each cell."""
    there = cycles.dropna(subset=[column])
    median = there.groupby("equipment_id", sort=False)[column].transform(
        lambda values: values.rolling(5, center=True, min_periods=1).median()
    )
    return there.assign(**{column: median})


def _background(rest: pd.DataFrame, x: str, y: str) -> list[Figure]:
    """The cells outside the focus: one grey trace, broken between cells."""
    if rest.empty:
        return []
    gap = np.array([np.nan])
    parts: list[tuple[_Numbers, _Numbers]] = []
    for _, rows in _by_cell(rest):
        parts += [_xy(rows, x, y, _REST_POINTS), (gap, gap)]
    points = (np.concatenate([x for x, _ in parts]), np.concatenate([y for _, y in parts]))
    line = {"color": GREY, "width": 1}
    return [_trace("other cells", points, mode="lines", line=line, hoverinfo="skip")]


def _rounded(numbers: Any) -> list[float]:
    told: list[float] = np.round(np.asarray(numbers, np.float64), 4).tolist()
    return told


def _trace(name: str, points: tuple[_Numbers, _Numbers], **more: Any) -> Figure:
    # Plotly reads names as a kind of HTML. Without a title: the colours are in the page's own legend,
    # which hides and shows a cell in all charts by its group.
    name = html.escape(name)
    trace: Figure = {
        "type": "scatter",
        "name": name,
        "legendgroup": name,
        "showlegend": False,
        "x": _rounded(points[0]),
        "y": _rounded(points[1]),
    }
    return trace | more


def _threshold(at: float, text: str) -> Figure:
    label = {"text": text, "textposition": "start", "yanchor": "bottom", "font": {"size": 12}}
    line = {"color": LINE, "width": 1.5, "dash": "dot"}
    ends = {"x0": 0, "x1": 1, "xref": "paper", "y0": at, "y1": at}
    return {"type": "line", **ends, "line": line, "label": label, "layer": "below"}


def _leave_out_strays(figure: Figure) -> None:
    """Starts with the axis over the middle 98 %: one bad cycle must not flatten all others."""
    values = np.concatenate([np.asarray(trace["y"], np.float64) for trace in figure["data"]])
    if not len(values):
        return
    low, high = np.quantile(values, [0.01, 0.99])
    pad = 0.1 * (high - low) or abs(high) * 0.05 or 1.0
    if values.min() < low - pad or values.max() > high + pad:
        figure["layout"]["yaxis"]["range"] = _rounded([low - pad, high + pad])


def _figure(
    data: list[Figure], x: str, y: str, *, shapes: Sequence[Figure] = (), legend: bool = False
) -> Figure:
    layout: Figure = {
        "height": 400,
        "margin": {"l": 64, "r": 16, "t": 28, "b": 52},
        "hovermode": "closest",
        "xaxis": {"title": {"text": x, "standoff": 10}, "zeroline": False},
        "yaxis": {"title": {"text": y, "standoff": 10}, "zeroline": False},
        "shapes": list(shapes),
    }
    if legend:
        layout["legend"] = {
            "orientation": "h",
            "x": 0,
            "y": 0,
            "yref": "container",
            "yanchor": "bottom",
        }
        layout["margin"]["b"] = 104
    return {"data": data, "layout": layout}
