"""Values, counts and names as words of the report."""

from __future__ import annotations

import html
import math
from typing import Any

import pandas as pd

from pipeline.shown import plain

NONE = "–"
# A longer name would cover the chart that it is shown in.
_MOST_LETTERS = 60


def name(text: Any) -> str:
    """A name from the data as HTML, which turns the direction of nothing around it."""
    return f"<bdi>{html.escape(plain(str(text)))}</bdi>"


def isolated(text: str) -> str:
    """The same for text that can have no HTML in it: a title, an entry of a menu."""
    return text if text.isascii() and text.isprintable() else f"\u2068{plain(text)}\u2069"


def plotted(text: str) -> str:
    """The same for Plotly, which reads tags, templates and a few entities, not those of quotes."""
    short = text if len(text) <= _MOST_LETTERS else f"{text[: _MOST_LETTERS - 1]}…"
    return html.escape(isolated(short), quote=False).replace("{", "&#123;")


def figure(value: Any, form: str = ",.0f", scale: float = 1.0) -> str:
    """A number as text; a dash where there is none."""
    if value is None or pd.isna(value) or math.isinf(value):
        return NONE
    return format(float(value) * scale, form)


def known(value: Any) -> str:
    """A value as text; a dash where there is none."""
    return NONE if value is None or pd.isna(value) else str(value)


def number(count: int, word: str) -> str:
    """A count with its noun, which takes an s for all but one."""
    return f"{count:,} {word}" if count == 1 else f"{count:,} {word}s"
