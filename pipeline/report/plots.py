"""The building blocks of the charts: colours, lines, points, axes, and which cells are drawn."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from pipeline.report.marts import Overview
from pipeline.report.words import plotted

Figure = dict[str, Any]
Numbers = npt.NDArray[np.float64]

# Okabe and Ito's colours, told apart by the colour-blind; without black and yellow, which vanish on
# a dark or a light page. Cells beyond the sixth repeat them with a dashed line.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES = ("solid", "dash")
FOCUS = len(COLOURS) * len(DASHES)
GREY = "rgba(128,128,128,0.25)"
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


@dataclass(frozen=True)
class Focus:
    """Which cells are drawn.

    Attributes:
        cells: in colour: those with the lowest state of health.
        table: their rows of the overview.
        rest: in grey: a sample of the others.
        others: how many others there are.
    """

    cells: Sequence[str]
    table: pd.DataFrame
    rest: Sequence[str]
    others: int

    @classmethod
    def of(cls, overview: Overview) -> Focus:
        """What to draw of these cells; those without a cycle can't be drawn."""
        cells = overview.cells[overview.cells["cycles"].notna()]
        names = [str(name) for name in cells["equipment_id"]]
        others = names[FOCUS:]
        step = max(1, -(-len(others) // _REST_CELLS))
        return cls(names[:FOCUS], cells[:FOCUS], others[::step], len(others))

    def style(self, cell: str) -> tuple[str, str]:
        """Colour and dash of a cell's line."""
        place = self.cells.index(cell)
        return COLOURS[place % len(COLOURS)], DASHES[place // len(COLOURS)]

    @property
    def points(self) -> int:
        """Points that one line may have."""
        return min(_MOST_POINTS_PER_LINE, _POINTS_PER_CHART // max(1, len(self.cells)))


def thin(x: Numbers, y: Numbers, most: int) -> tuple[Numbers, Numbers]:
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


def by_cell(frame: pd.DataFrame) -> Iterable[tuple[str, pd.DataFrame]]:
    """The rows of each cell."""
    return ((str(cell), rows) for cell, rows in frame.groupby("equipment_id", sort=False))


def xy(rows: pd.DataFrame, x: str, y: str, most: int) -> tuple[Numbers, Numbers]:
    """Two columns as points, thinned."""
    return thin(
        rows[x].to_numpy(np.float64, na_value=np.nan),
        rows[y].to_numpy(np.float64, na_value=np.nan),
        most,
    )


def lines(frame: pd.DataFrame, x: str, y: str, focus: Focus, hover: str) -> list[Figure]:
    """A line per cell of the focus."""
    data = []
    for cell, rows in by_cell(frame):
        colour, dash = focus.style(cell)
        line = {"color": colour, "dash": dash, "width": 2}
        points = xy(rows, x, y, focus.points)
        data.append(trace(cell, points, mode="lines", line=line, hovertemplate=hover))
    return data


def dots(name: str, rows: pd.DataFrame, x: str, y: str, colour: str, focus: Focus) -> Figure:
    """Single values, faint behind the line."""
    marker = {"color": colour, "size": 3, "opacity": 0.3}
    points = xy(rows, x, y, focus.points // 2)
    return trace(name, points, mode="markers", marker=marker, hoverinfo="skip")


def smooth(cycles: pd.DataFrame, column: str) -> pd.DataFrame:
    """The running median of five cycles of each cell."""
    there = cycles.dropna(subset=[column])
    median = there.groupby("equipment_id", sort=False)[column].transform(
        lambda values: values.rolling(5, center=True, min_periods=1).median()
    )
    return there.assign(**{column: median})


def background(rest: pd.DataFrame, x: str, y: str) -> list[Figure]:
    """The cells outside the focus: one grey trace, broken between cells."""
    if rest.empty:
        return []
    gap = np.array([np.nan])
    parts: list[tuple[Numbers, Numbers]] = []
    for _, rows in by_cell(rest):
        parts += [xy(rows, x, y, _REST_POINTS), (gap, gap)]
    points = (np.concatenate([x for x, _ in parts]), np.concatenate([y for _, y in parts]))
    line = {"color": GREY, "width": 1}
    return [trace("other cells", points, mode="lines", line=line, hoverinfo="skip")]


def rounded(numbers: Any) -> list[float]:
    """Numbers as the page holds them: four decimals are finer than a pixel."""
    told: list[float] = np.round(np.asarray(numbers, np.float64), 4).tolist()
    return told


def trace(name: str, points: tuple[Numbers, Numbers], **more: Any) -> Figure:
    """A Plotly trace; the page's own legend hides and shows it by its group."""
    plain: Figure = {
        "type": "scatter",
        "name": plotted(name),
        "legendgroup": name,  # what the page's buttons know it by; shown nowhere
        "showlegend": False,
        "x": rounded(points[0]),
        "y": rounded(points[1]),
    }
    return plain | more


def threshold(at: float, text: str) -> Figure:
    """A level line with a word on it."""
    label = {"text": text, "textposition": "start", "yanchor": "bottom", "font": {"size": 12}}
    line = {"color": LINE, "width": 1.5, "dash": "dot"}
    ends = {"x0": 0, "x1": 1, "xref": "paper", "y0": at, "y1": at}
    return {"type": "line", **ends, "line": line, "label": label, "layer": "below"}


def leave_out_strays(figure: Figure) -> None:
    """Starts with the axis over the middle 98 %: one bad cycle must not flatten all others."""
    values = np.concatenate([np.asarray(trace["y"], np.float64) for trace in figure["data"]])
    if not len(values):
        return
    low, high = np.quantile(values, [0.01, 0.99])
    pad = 0.1 * (high - low) or abs(high) * 0.05 or 1.0
    if values.min() < low - pad or values.max() > high + pad:
        figure["layout"]["yaxis"]["range"] = rounded([low - pad, high + pad])


def figure(
    data: list[Figure], x: str, y: str, *, shapes: Sequence[Figure] = (), legend: bool = False
) -> Figure:
    """A Plotly figure: its traces, and axes that name the unit."""
    layout: Figure = {
        "height": 400,
        "margin": {"l": 64, "r": 16, "t": 28, "b": 52},
        "hovermode": "closest",
        "hoverlabel": {"namelength": -1},
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
        # Room for one line of entries, or for the two or three that more entries take.
        layout["margin"]["b"] = 84 if len(data) <= 4 else 108
    return {"data": data, "layout": layout}
