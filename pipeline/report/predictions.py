"""What the report says of predictions: health and life as models see them, or why they say nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from pipeline.report.words import figure, known, name, number

# The cells with the least left stand in the page, a few that no model knows in the terminal.
_MOST_ROWS = 50
_MOST_LINES = 5
_HEAD = (
    "Cell", "Model", "At cycle", "State of health, %", "Cycles left", "End of life",
    "Knee risk, %", "In doubt",
)  # fmt: skip


def span(low: Any, high: Any, form: str = ",.0f", scale: float = 1.0) -> str:
    """An interval as text; an open one has no upper end."""
    if pd.isna(high):
        return f"≥{figure(low, form, scale)}"
    return f"{figure(low, form, scale)}–{figure(high, form, scale)}"


def left(cell: Mapping[Any, Any], prefix: str = "", mark: str = "") -> str | None:
    """Cycles left with their interval, such as `34 left (20–48)`; None if nothing is known of them.

    Args:
        cell: has `remaining_cycles`, `…_low` and `…_high`, after the prefix.
        prefix: of those names.
        mark: before the number.
    """
    cycles, low, high = (cell[f"{prefix}remaining_cycles{end}"] for end in ("", "_low", "_high"))
    if not pd.isna(cycles):
        return f"{mark}{figure(cycles)} left ({span(low, high)})"
    return None if pd.isna(low) else f"≥{figure(low)} left"


def predicted(cells: pd.DataFrame) -> pd.DataFrame:
    """The cells that a model said something of, those with the least left first."""
    there = cells[cells["predicted_model"].notna()]
    return there.sort_values(
        ["predicted_remaining_cycles", "equipment_id"], na_position="last", kind="stable"
    )


def box(cells: pd.DataFrame) -> str:
    """The page's box; nothing if there is no prediction."""
    there = predicted(cells)
    if not len(there):
        return ""
    lines = []
    for cell in there[:_MOST_ROWS].to_dict("records"):
        values = "".join(f"<td>{name(value)}</td>" for value in _values(cell))
        lines.append(f'<tr><th scope="row">{name(cell["equipment_id"])}</th>{values}</tr>')
    heads = "".join(f'<th scope="col">{head}</th>' for head in _HEAD)
    rest = ""
    if len(there) > _MOST_ROWS:
        rest = f"<p>and {len(there) - _MOST_ROWS:,} more; see battery_predictions</p>"
    return (
        '<section class="card predictions"><h2>Predictions</h2>'
        f"<p>{_summary(there)}. In brackets: the 90 % interval. State of health and end of life are "
        "in % of the cell's own initial capacity; cycles left count from its last cycle. How good "
        "earlier predictions were: prediction_quality.</p>"
        f'<div class="scroll" tabindex="0"><table><thead><tr>{heads}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>{rest}</section>"
    )


def terminal(cells: pd.DataFrame) -> list[str]:
    """The cells that a model does not know, for the terminal; no line without any."""
    there = predicted(cells)
    outside = there[there["predicted_out_of_domain"].astype(bool)]
    if not len(outside):
        return []
    lines = [f"out of domain, so not predicted: {number(len(outside), 'cell')}"]
    lines += [
        f"  {cell['equipment_id']}: {known(cell['predicted_reasons'] or None)}"
        for cell in outside[:_MOST_LINES].to_dict("records")
    ]
    if len(outside) > _MOST_LINES:
        lines.append(f"  and {len(outside) - _MOST_LINES:,} more, in the page")
    return lines


def _summary(there: pd.DataFrame) -> str:
    told = f"{number(int(there['predicted_by'].notna().sum()), 'cell')} with a prediction of what is left"
    if outside := int(there["predicted_out_of_domain"].astype(bool).sum()):
        told += f"; {outside:,} outside of what the model was trained on"
    return told


def _values(cell: Mapping[Any, Any]) -> tuple[str, ...]:
    """The row of a cell, as long as _HEAD less its name."""
    soh = figure(cell["predicted_soh"], ".1f", 100)
    if not pd.isna(cell["predicted_soh_low"]):
        ends = span(cell["predicted_soh_low"], cell["predicted_soh_high"], ".1f", 100)
        soh += f" ({ends})"
    ends_on = known(cell["predicted_end_on"])
    if not pd.isna(cell["predicted_end_low_on"]):
        ends_on += f" ({cell['predicted_end_low_on']} to {_open(cell['predicted_end_high_on'])})"
    doubt = cell["predicted_reasons"] or ""
    if cell["predicted_out_of_domain"]:
        doubt = f"out of domain{': ' if doubt else ''}{doubt}"
    if cell["predicted_is_outlived"]:
        over = "outlived its prediction"
        if not pd.isna(cell["eol_80_nominal_cycle"]):
            over = "at end of life"
        ends_on, doubt = "–", f"{over}{'; ' if doubt else ''}{doubt}"
    return (
        f"{cell['predicted_model']} {cell['predicted_version']}",
        figure(cell["predicted_at_cycle"]),
        soh,
        left(cell, "predicted_") or "–",
        ends_on,
        figure(cell["predicted_knee_risk"], ".0f", 100),
        doubt or "–",
    )


def _open(day: Any) -> str:
    return "open" if pd.isna(day) else str(day)
