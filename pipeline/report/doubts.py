"""What the report says of tests whose witnesses disagree: which, what it means, where to look."""

from __future__ import annotations

import html
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import pandas as pd

from pipeline.report.words import known, name, number

# The most doubtful tests stand in the page, a few in the terminal; the rest is for a query.
_MOST_ROWS = 50
_MOST_LINES = 5

# What each name means, and where to look. A name that is not here is shown without.
MEANING: Mapping[str, str] = MappingProxyType(
    {
        "charge_disagrees": (
            "Counter and integral of the current differ, or the cycler's own summary does: compare "
            "charge_ah, charge_integrated_ah and summary_charge_ah (and those of the discharge) in "
            "battery_cycles, and the units in dim_test.columns_used."
        ),
        "clock_disagrees": (
            "Test clock and wall clock differ: compare clock_duration_s and wall_duration_s in "
            "dim_test, and dim_test.clock with the file."
        ),
        "date_order_guessed": (
            "Day and month could be the other way round: run the job with --date_order."
        ),
        "direction_disagrees": (
            "The sign of the current contradicts states, counters or the voltage: see "
            "dim_test.current_sign and witnesses."
        ),
        "direction_guessed": (
            "Nothing in the file says whether a positive current charges: check dim_test.current_sign, "
            "and say it with --dialect if it is wrong."
        ),
        "identity_guessed": (
            "The cell was guessed from a name that says little, or two names differ: check "
            "the equipment_id against the file."
        ),
        "time_assumed": (
            "The file has no date; its modification time was used: the order of tests may be wrong."
        ),
        "unit_guessed": (
            "A unit is not given and nothing in the file confirms it: see dim_test.columns_used."
        ),
    }
)


def cycles(row: Mapping[Any, Any]) -> str:
    """Which cycles a doubt is about, such as `3 (12–40), 3 not valid`; all of them without any."""
    if not row["cycles"]:
        return "whole test"
    first, last = int(row["first_cycle"]), int(row["last_cycle"])
    told = f"{int(row['cycles']):,} ({first}–{last})" if last > first else f"1 ({first})"
    if row["invalid_cycles"]:
        told += f", {int(row['invalid_cycles']):,} not valid"
    return told


def box(doubts: pd.DataFrame) -> str:
    """The page's box; nothing if no witness disagrees."""
    if not len(doubts):
        return ""
    lines = []
    for row in doubts[:_MOST_ROWS].to_dict("records"):
        values = (row["doubt"], known(row["test"]), known(row["dialect"]), cycles(row))
        cells = "".join(f"<td>{name(value)}</td>" for value in values)
        lines.append(f'<tr><th scope="row">{name(row["equipment_id"])}</th>{cells}</tr>')
    heads = "".join(
        f'<th scope="col">{head}</th>' for head in ("Cell", "In doubt", "Test", "Read as", "Cycles")
    )
    named = sorted(set(doubts["doubt"]))
    meanings = "".join(
        f"<dt>{html.escape(doubt)}</dt><dd>{html.escape(MEANING.get(doubt, ''))}</dd>"
        for doubt in named
    )
    rest = ""
    if len(doubts) > _MOST_ROWS:
        rest = (
            f"<p>and {len(doubts) - _MOST_ROWS:,} more; see disagreements in battery_cycles and "
            "dim_test</p>"
        )
    return (
        '<section class="card doubts"><h2>In doubt</h2>'
        f"<p>{summary(doubts)}. A file says most things twice; here the two differ. Cycles whose "
        "charge or direction is in doubt count as not valid: they measure no capacity.</p>"
        f'<div class="scroll" tabindex="0"><table><thead><tr>{heads}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>{rest}"
        f"<dl>{meanings}</dl></section>"
    )


def summary(doubts: pd.DataFrame) -> str:
    """How much is in doubt, in one line."""
    tests = doubts[["equipment_id", "test"]].drop_duplicates()
    cells = tests["equipment_id"].nunique()
    told = f"{number(len(tests), 'test')} of {number(cells, 'cell')}"
    invalid = int(doubts["invalid_cycles"].sum())
    return f"{told}, {number(invalid, 'cycle')} not valid" if invalid else told


def terminal(doubts: pd.DataFrame) -> list[str]:
    """The same for the terminal; no line if no witness disagrees."""
    if not len(doubts):
        return []
    lines = [f"in doubt: {summary(doubts)}"]
    for row in doubts[:_MOST_LINES].to_dict("records"):
        where = f"{row['equipment_id']}, {known(row['test'])}"
        lines.append(f"  {row['doubt']}: {where}; cycles: {cycles(row)}")
    if len(doubts) > _MOST_LINES:
        lines.append(f"  and {len(doubts) - _MOST_LINES:,} more, in the page")
    return lines
