"""Values and counts as words of the report."""

from __future__ import annotations

from typing import Any

import pandas as pd


def known(value: Any) -> str:
    """A value as text; a dash where there is none."""
    return "–" if value is None or pd.isna(value) else str(value)


def number(count: int, word: str) -> str:
    """A count with its noun, which takes an s for all but one."""
    return f"{count:,} {word}" if count == 1 else f"{count:,} {word}s"
