"""Words and figures of the table of cells, and the text for the terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from pipeline.report import doubts, predictions, uncounted
from pipeline.report.marts import Overview
from pipeline.report.words import NONE, figure
from pipeline.shown import plain

WIDTH = 100
WORST = 20
# Name and unit of each column: for the terminal's two header lines, and in full for the page.
HEAD = (
    ("cell", "", "Cell"),
    ("cycles", "full/all", "Cycles, complete / all"),
    ("capacity Ah", "now/initial", "Capacity, now / initial (Ah)"),
    ("SOH", "%", "SOH (% of nominal)"),
    ("end of life", "cycle, date", "End of life (cycle, date) or cycles left"),
    ("knee", "onset/point", "Knee, onset / point (cycle)"),
    ("efficiency", "Ah/Wh, %", "Efficiency, coulombic / energy (%)"),
    ("flagged", "readings", "Flagged readings"),
    ("rejected", "messages", "Rejected messages"),
)
_LEFT = (0, 4)  # columns of words; figures stand on the right
NOTE_SOH = "SOH is the capacity in % of nominal; *: no nominal capacity known, so in % of initial"


def amount(value: Any) -> str:
    """A capacity with four digits, whether of a button cell or of a truck's."""
    digits = 3 if pd.isna(value) or abs(value) < 10 else 2 if abs(value) < 100 else 1
    return figure(value, f".{digits}f")


def end_of_life(cell: Mapping[Any, Any]) -> str:
    """The cycle and the date at which a cell fell below 80 % of nominal, or what is left.

    As a model predicts, else by the straight line, which has a ~.
    """
    if not pd.isna(cell["eol_80_nominal_cycle"]):
        return f"{figure(cell['eol_80_nominal_cycle'])}, {cell['eol_on']}"
    return predictions.left(cell, "predicted_") or predictions.left(cell, mark="~") or NONE


def knee(cell: Mapping[Any, Any]) -> str:
    """The cycles of onset and point of a knee; one where they are the same."""
    onset, point = cell["knee_onset_cycle"], cell["knee_cycle"]
    if pd.isna(point) or pd.isna(onset) or onset == point:
        return figure(point)
    return f"{figure(onset)}/{figure(point)}"


def columns(cells: pd.DataFrame) -> list[int]:
    """Places in HEAD of the columns worth showing: flags and rejects only if there are any."""
    all_well = {7: not cells["flagged"].any(), 8: not cells["rejected"].any()}
    return [place for place in range(len(HEAD)) if not all_well.get(place, False)]


def rows(cells: pd.DataFrame) -> list[tuple[str, ...]]:
    """The table of cells as text, a tuple as long as HEAD per cell."""
    told: list[tuple[str, ...]] = []
    for cell in cells.to_dict("records"):
        substitute = "*" if cell["nominal_capacity_source"] == "initial" else ""
        told.append(
            (
                str(cell["equipment_id"]),
                f"{figure(cell['complete_cycles'])}/{figure(cell['cycles'])}",
                f"{amount(cell['capacity_ah'])}/{amount(cell['initial_capacity_ah'])}",
                figure(cell["soh_nominal"], ".1f", 100) + substitute,
                end_of_life(cell),
                knee(cell),
                f"{figure(cell['coulombic'], '.2f', 100)}/{figure(cell['energy'], '.1f', 100)}",
                figure(cell["flagged"]),
                figure(cell["rejected"]),
            )
        )
    return told


def quality(overview: Overview) -> str:
    """What arrived and what became of it, in one sentence."""
    parts = [f"{overview.delivered:,} readings in the source table"]
    if overview.delivered > overview.kept:
        parts.append(f"{overview.delivered - overview.kept:,} of them removed (duplicates)")
    parts.append(f"{overview.flagged:,} flagged{_counts(overview.flags)}")
    letters = sum(overview.rejects.values())
    word = "dead letter" if letters == 1 else "dead letters"
    parts.append(f"{letters:,} {word}{_counts(overview.rejects)}")
    return "; ".join(parts)


def rest(cells: pd.DataFrame) -> str:
    """The cells that a table leaves out, in one line."""
    soh = 100 * cells["soh_nominal"].dropna()
    span = f"SOH {soh.min():.1f}–{soh.max():.1f} %" if len(soh) else "no SOH yet"
    ended = int((cells["status"] == "end_of_life").sum())
    return f"and {len(cells):,} more cells: {span}, {ended:,} at end of life"


def terminal(overview: Overview) -> list[str]:
    """The report for a terminal of WIDTH columns, line by line."""
    if overview.is_empty and not overview.rejects:
        return ["The warehouse holds no readings yet: run python -m pipeline, then make models."]
    lines = []
    if len(overview.cells):
        worst, others = overview.cells[:WORST], overview.cells[WORST:]
        heads = [tuple(head[line] for head in HEAD) for line in (0, 1)]
        lines += _aligned([*heads, *rows(worst)], columns(worst))
        if (worst["nominal_capacity_source"] == "initial").any():
            lines.append(NOTE_SOH)
        if len(others):
            lines.append(rest(others))
    if overview.machines:
        lines.append(f"machines: {overview.machines:,}, {overview.machine_readings:,} readings")
    for line in [
        *predictions.terminal(overview.cells),
        *uncounted.terminal(overview.uncounted),
        *doubts.terminal(overview.doubts),
    ]:
        told = plain(line)
        lines += textwrap.wrap(told, WIDTH, subsequent_indent="    ", break_on_hyphens=False)
    told = plain(f"data quality: {quality(overview)}")
    return lines + textwrap.wrap(told, WIDTH, subsequent_indent="  ", break_on_hyphens=False)


def _counts(counts: Mapping[str, int]) -> str:
    told = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    return f" ({told})" if told else ""


def _aligned(table: Sequence[tuple[str, ...]], shown: Sequence[int]) -> list[str]:
    """The shown columns side by side, within WIDTH: what does not fit is cut from the ids."""
    table = [tuple(plain(row[place]) for place in shown) for row in table]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    room = WIDTH - sum(widths[1:]) - 2 * (len(widths) - 1)
    widths[0] = min(widths[0], max(room, 8))
    lines = []
    for row in table:
        parts = [
            _fitted(text, width, place in _LEFT)
            for text, width, place in zip(row, widths, shown, strict=True)
        ]
        lines.append("  ".join(parts).rstrip())
    return lines


def _fitted(text: str, width: int, left: bool) -> str:
    if len(text) > width:
        text = text[: width - 1] + "…"
    return text.ljust(width) if left else text.rjust(width)
