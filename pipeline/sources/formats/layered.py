"""Reads texts in which cycles, steps and records take turns, each level indented by a cell more."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa

from pipeline.sources.formats import headers, tables
from pipeline.sources.formats.blocks import Block, Transcoded
from pipeline.sources.formats.content import Content, Outputs, Settings
from pipeline.sources.formats.dialect import Dialect
from pipeline.sources.formats.rows import parse
from schemas.aliases import STATE, meaning

# What a record takes over from the step and the cycle it stands under.
_INHERITED = ("cycle_index", "step_index", STATE)


def read(content: Content, settings: Settings, dialect: Dialect) -> Outputs:
    """The records of the whole file as one batch, each with its cycle and step."""
    # As the dialect was found out: its offset counts what the handle gives.
    data = _as_sniffed(content, dialect)[dialect.data_start :]
    encoding = "utf-8" if dialect.encoding.startswith("utf-16") else dialect.encoding
    lines = data.decode(encoding, "replace").split("\n")
    indents = np.array([_indent(line, dialect.delimiter) for line in lines])
    deepest = len(dialect.levels)
    records = np.flatnonzero(indents == deepest)
    # Blanked lines keep the numbers of the others, for the places in dead letters.
    shown = ["" for _ in lines]
    for place in records.tolist():
        shown[place] = lines[place]
    text = "\n".join(shown).encode()
    parsed = parse(
        Block(text, dialect.data_start, dialect.first_line), replace(dialect, encoding="utf-8")
    )
    for bad in parsed.bad:
        yield content.letter(settings, bad.error_type, bad.message, bad.text, bad.position)
    bad_lines = {int(bad.position.removeprefix("line ")) - dialect.first_line for bad in parsed.bad}
    kept = np.array(
        [place for place in records.tolist() if place not in bad_lines and shown[place].strip()]
    )
    table = parsed.table
    if len(kept) == table.num_rows:
        for level, cells in enumerate(dialect.levels):
            table = _inherit(table, kept, lines, indents, level, cells, dialect)
    content.share.advance(len(data))
    yield from tables.one_table(content, settings, table, dialect.head)


def _as_sniffed(content: Content, dialect: Dialect) -> bytes:
    if not (dialect.encoding.startswith("utf-16") or dialect.carriage_returns):
        return content.read_all()
    with content.open() as handle:
        return Transcoded(handle, dialect.encoding, dialect.carriage_returns).read()


def _indent(line: str, delimiter: str) -> int:
    bare = line.lstrip(delimiter)
    return len(line) - len(bare) if bare.strip() else -1


def _inherit(
    table: pa.Table,
    records: np.ndarray,
    lines: list[str],
    indents: np.ndarray,
    level: int,
    cells: tuple[str, ...],
    dialect: Dialect,
) -> pa.Table:
    """Adds the columns of the level's rows that say where a record stands."""
    places = np.flatnonzero(indents == level)
    if not len(places):
        return table
    above = np.searchsorted(places, records) - 1
    names = headers.unique_names(cells)
    values = [[cell.strip() for cell in lines[place].split(dialect.delimiter)] for place in places]
    for index, name in enumerate(names):
        found = meaning(name)
        if found is None or found.field not in _INHERITED or name in table.column_names:
            continue
        column = [
            values[at][index] if at >= 0 and index < len(values[at]) else None
            for at in above.tolist()
        ]
        table = table.append_column(name, pa.array(column, pa.string()))
    return table
