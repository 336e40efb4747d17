"""Builds the HTML page: one file with its charts, style and Plotly, which opens without a network."""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from string import Template

import orjson
from plotly.offline import get_plotlyjs

from pipeline.report import charts, doubts, predictions, tables, uncounted
from pipeline.report.charts import Chart
from pipeline.report.marts import Marts, Overview
from pipeline.report.plots import Focus
from pipeline.report.words import isolated, name

_HERE = Path(__file__).resolve().parent
# A longer table than this is for a query, not for a page.
_MOST_ROWS = 500


def render(marts: Marts, overview: Overview) -> str:
    """The page as text."""
    drawn = charts.all_charts(marts, overview)
    figures = {chart.name: list(chart.choices.values()) for chart in drawn}
    # "<" escaped: no name in the data can end the script element that holds them.
    data = orjson.dumps(figures).decode().replace("<", "\\u003c")
    plotly = get_plotlyjs() if drawn else ""
    script = (_HERE / "page.js").read_text(encoding="utf-8") if drawn else ""
    return Template((_HERE / "page.html").read_text(encoding="utf-8")).substitute(
        policy=_policy(plotly, script),
        style=(_HERE / "page.css").read_text(encoding="utf-8"),
        period=_period(overview),
        written=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        body=_body(overview, drawn),
        data=data,
        plotly=plotly,
        script=script,
    )


def _policy(*scripts: str) -> str:
    """The content security policy: nothing is loaded, and no script runs but these."""
    digests = (base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )


def _period(overview: Overview) -> str:
    if overview.first_day is None:
        return "no readings yet"
    return f"readings from {overview.first_day} to {overview.last_day}"


def _body(overview: Overview, drawn: Iterable[Chart]) -> str:
    if overview.is_empty and not overview.rejects:
        return (
            '<p class="empty">The warehouse holds no readings yet. Run <code>python -m pipeline</code>, '
            "then <code>make models</code>, and write this report again.</p>"
        )
    parts = [_figures(overview), doubts.box(overview.doubts)]
    cells = [chart for chart in drawn if chart.name != "machines"]
    if cells:
        parts.append(_legend(Focus.of(overview)))
        parts.append(f'<div class="charts">{"".join(map(_chart, cells))}</div>')
    parts.append(_cells(overview))
    if len(overview.cells):
        parts.append(predictions.box(overview.cells))
    parts.append(uncounted.box(overview.uncounted))
    parts += [_chart(chart) for chart in drawn if chart.name == "machines"]
    parts.append(_quality(overview))
    return "\n".join(filter(None, parts))


def _figures(overview: Overview) -> str:
    """The figures of the fleet, large."""
    cells = overview.cells
    told: list[tuple[str, str, str]] = []
    if len(cells):
        soh = 100 * cells["soh_nominal"].dropna()
        ended = int((cells["status"] == "end_of_life").sum())
        complete = f"{cells['complete_cycles'].sum():,.0f} complete"
        told += [
            ("cells", f"{len(cells):,}", f"{ended:,} at end of life"),
            ("cycles", f"{cells['cycles'].sum():,.0f}", complete),
        ]
        if len(soh) == 1:
            told.append(("state of health", f"{soh.iloc[0]:.1f} %", "of nominal capacity"))
        elif len(soh):
            span = f"{soh.min():.1f} to {soh.max():.1f} %"
            told.append(("median state of health", f"{soh.median():.1f} %", span))
    if overview.machines:
        told.append(
            ("machines", f"{overview.machines:,}", f"{overview.machine_readings:,} readings")
        )
    told.append(("readings", f"{overview.readings:,}", f"{overview.flagged:,} flagged"))
    rejects = sum(overview.rejects.values())
    told.append(("dead letters", f"{rejects:,}", "messages refused"))
    tiles = (
        f"<div><dt>{what}</dt><dd>{number}</dd><dd class=more>{more}</dd></div>"
        for what, number, more in told
    )
    return f'<dl class="figures">{"".join(tiles)}</dl>'


def _legend(focus: Focus) -> str:
    """One legend for all charts: its buttons hide and show a cell everywhere."""
    if len(focus.cells) < 2:
        return ""
    buttons = []
    for cell in focus.cells:
        colour, dash = focus.style(cell)
        stroke = f'stroke="{colour}" stroke-width="3"' + (
            ' stroke-dasharray="6 3"' if dash == "dash" else ""
        )
        buttons.append(
            f'<button type="button" aria-pressed="true" data-cell="{html.escape(cell)}">'
            f'<svg width="24" height="8" aria-hidden="true"><path d="M0 4H24" {stroke}/></svg>'
            f"{name(cell)}</button>"
        )
    others = ""
    if focus.rest:
        some = f"{len(focus.rest):,} of " if len(focus.rest) < focus.others else ""
        others = f"<span>lowest SOH in colour; grey: {some}the {focus.others:,} other cells</span>"
    return f'<div class="legend" title="Click to hide or show">{"".join(buttons)}{others}</div>'


def _chart(chart: Chart) -> str:
    menu = ""
    if len(chart.choices) > 1:
        options = "".join(
            f'<option value="{place}">{html.escape(isolated(label))}</option>'
            for place, label in enumerate(chart.choices)
        )
        menu = f'<label>{chart.menu} <select data-chart="{chart.name}">{options}</select></label>'
    label = next(iter(chart.choices))
    title = html.escape(chart.title)
    if chart.name == "curves" and len(chart.choices) == 1:
        title += f", {html.escape(isolated(label))}"
    return (
        f'<section class="card"><header><h2>{title}</h2>{menu}</header>'
        f"<p>{html.escape(chart.note)}</p>"
        f'<div class="plot" id="{chart.name}" role="img" aria-label="{title}"></div></section>'
    )


def _cells(overview: Overview) -> str:
    cells = overview.cells[:_MOST_ROWS]
    if not len(cells):
        return ""
    shown = tables.columns(cells)
    heads = "".join(f'<th scope="col">{tables.HEAD[place][2]}</th>' for place in shown)
    lines = []
    for row in tables.rows(cells):
        first, *others = (row[place] for place in shown)
        values = "".join(f"<td>{html.escape(value)}</td>" for value in others)
        lines.append(f'<tr><th scope="row">{name(first)}</th>{values}</tr>')
    notes = [
        (
            "Lowest state of health first. Capacity: median of the last valid cycles. Efficiencies: "
            "median of the valid cycles. “left”: cycles left as a model predicts, with the 90 % interval; "
            "“~ left”, where none does: to 80 % of nominal at the present pace, by a straight line."
        )
    ]
    if (cells["nominal_capacity_source"] == "initial").any():
        notes.append(f"{tables.NOTE_SOH}.")
    if len(overview.cells) > _MOST_ROWS:
        notes.append(f"{tables.rest(overview.cells[_MOST_ROWS:])}.")
    return (
        f'<section class="card"><h2>Cells</h2><p>{html.escape(" ".join(notes))}</p>'
        f'<div class="scroll" tabindex="0"><table><thead><tr>{heads}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div></section>"
    )


def _quality(overview: Overview) -> str:
    return (
        '<section class="card"><h2>Data quality</h2>'
        f"<p>{overview.delivered:,} readings in the source table, "
        f"{overview.kept:,} after deduplication. A rejected message is kept as a dead letter; a "
        "flagged reading is used, with the flag at it.</p>"
        f'<div class="columns">{_bars("Dead letters by rule", overview.rejects)}'
        f"{_bars('Flagged readings by flag', overview.flags)}</div></section>"
    )


def _bars(title: str, counts: Mapping[str, int]) -> str:
    if not counts:
        return f"<div><h3>{title}</h3><p>None.</p></div>"
    most = max(counts.values())
    lines = "".join(
        f'<tr><th scope="row">{name(rule)}</th><td>{count:,}</td>'
        f'<td class="bar"><i style="width:{100 * count / most:.1f}%"></i></td></tr>'
        for rule, count in counts.items()
    )
    return f'<div><h3>{title}</h3><table class="bars">{lines}</table></div>'
