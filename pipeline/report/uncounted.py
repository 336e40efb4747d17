"""What the report says of cycles that measure no capacity: which kind they are, and why."""

from __future__ import annotations

import pandas as pd

from pipeline.report.words import known, name, number

# The cells with most such cycles stand in the page, a few without any other in the terminal.
_MOST_ROWS = 50
_MOST_LINES = 5


def box(uncounted: pd.DataFrame) -> str:
    """The page's box; nothing if every cycle counts."""
    if not len(uncounted):
        return ""
    lines = []
    for row in uncounted[:_MOST_ROWS].to_dict("records"):
        values = (f"{int(row['cycles']):,}", str(row["kind"]), known(row["reason"]))
        cells = "".join(f"<td>{name(value)}</td>" for value in values)
        lines.append(f'<tr><th scope="row">{name(row["equipment_id"])}</th>{cells}</tr>')
    heads = "".join(f'<th scope="col">{head}</th>' for head in ("Cell", "Cycles", "Kind", "Why"))
    rest = ""
    if len(uncounted) > _MOST_ROWS:
        rest = (
            f"<p>and {len(uncounted) - _MOST_ROWS:,} more; see invalid_reason in battery_cycles</p>"
        )
    return (
        '<section class="card doubts"><h2>Not counted</h2>'
        f"<p>{summary(uncounted)}. They count for throughput and equivalent full cycles, not for "
        "capacity and state of health.</p>"
        f'<div class="scroll" tabindex="0"><table><thead><tr>{heads}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>{rest}</section>"
    )


def summary(uncounted: pd.DataFrame) -> str:
    """How many cycles measure no capacity, in one line."""
    cells = uncounted["equipment_id"].nunique()
    without = uncounted[uncounted["valid_cycles"] == 0]["equipment_id"].nunique()
    told = f"{number(int(uncounted['cycles'].sum()), 'cycle')} of {number(cells, 'cell')}"
    told += " measure no capacity" if uncounted["cycles"].sum() != 1 else " measures no capacity"
    if without:
        told += f"; {number(without, 'cell')} {'has' if without == 1 else 'have'} no other"
    return told


def terminal(uncounted: pd.DataFrame) -> list[str]:
    """The same for the terminal: the cells whose capacity is not known, and why; else no line."""
    without = uncounted[uncounted["valid_cycles"] == 0]
    if not len(without):
        return []
    lines = ["capacity not known, for no cycle measures it:"]
    lines += [
        f"  {row['equipment_id']}: {int(row['cycles']):,} × {row['kind']}, {known(row['reason'])}"
        for row in without[:_MOST_LINES].to_dict("records")
    ]
    if len(without) > _MOST_LINES:
        lines.append(f"  and {len(without) - _MOST_LINES:,} more, in the page")
    return lines
