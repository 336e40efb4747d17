"""Decides whether a file writes 1,500 for one and a half or for fifteen hundred."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc

from transforms.convert import Notation

_GROUPED = r"^\s*[+-]?[1-9]\d{0,2}(?:,\d{3})+\s*$"
_TWICE = r"^\s*[+-]?[1-9]\d{0,2}(?:,\d{3}){2,}\s*$"
_COMMA_FRACTION = r"^\s*[+-]?\d*,\d+(?:[eE][+-]?\d+)?\s*$"
_BOTH_POINT_LAST = r"^\s*[+-]?\d{1,3}(?:,\d{3})+\.\d*\s*$"
_BOTH_COMMA_LAST = r"^\s*[+-]?\d{1,3}(?:\.\d{3})+,\d*\s*$"
_POINT_FRACTION = r"^\s*[+-]?\d*\.\d+(?:[eE][+-]?\d+)?\s*$"
_SMALL_WHOLE = r"^\s*[+-]?\d{1,3}\s*$"


def _any(texts: pa.Array, pattern: str) -> bool:
    return bool(pc.any(pc.fill_null(pc.match_substring_regex(texts, pattern), False)).as_py())


def decide(columns: Iterable[pa.Array]) -> tuple[Notation | None, bool]:
    """How the numbers of a file's text columns are written, and whether that was a guess.

    A number with both signs, a comma that groups no thousands, or two commas decide for the whole
    file; else points as decimal signs elsewhere, or small whole numbers in the same column, show
    that a comma stands between thousands. None where no number has a comma.
    """
    doubtful: list[pa.Array] = []
    points = False
    for texts in columns:
        commas = bool(pc.any(pc.fill_null(pc.match_substring(texts, ","), False)).as_py())
        points = points or _any(texts, _POINT_FRACTION)
        if not commas:
            continue
        if _any(texts, _BOTH_COMMA_LAST):
            return Notation.COMMA, False
        if _any(texts, _TWICE) or _any(texts, _BOTH_POINT_LAST):
            return Notation.POINT, False
        with_comma = texts.filter(pc.fill_null(pc.match_substring(texts, ","), False))
        fractions = pc.fill_null(pc.match_substring_regex(with_comma, _COMMA_FRACTION), False)
        grouped = pc.fill_null(pc.match_substring_regex(with_comma, _GROUPED), False)
        if pc.any(pc.and_(fractions, pc.invert(grouped))).as_py():
            return Notation.COMMA, False
        if pc.any(grouped).as_py():
            doubtful.append(texts)
    if not doubtful:
        return None, False
    if points or any(_any(texts, _SMALL_WHOLE) for texts in doubtful):
        return Notation.POINT, False
    return Notation.COMMA, True
