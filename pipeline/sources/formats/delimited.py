"""Reads CSV and its relatives: every value as text, bad rows apart, in bounded memory."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import pyarrow as pa

from pipeline.sources.formats import layered, statistics, tables
from pipeline.sources.formats.blocks import BLOCK_BYTES, blocks
from pipeline.sources.formats.content import Content, Outputs, Settings, Summaries
from pipeline.sources.formats.detect import HEAD_BYTES
from pipeline.sources.formats.dialect import Dialect, sniff
from pipeline.sources.formats.meter import Refused
from pipeline.sources.formats.reading import Reading
from pipeline.sources.formats.rows import BadLine, Parsed, parse
from transforms.budget import TOO_LARGE
from transforms.dead_letter import DeadLetter
from transforms.interpret.frame import SURVEY_ROWS


@dataclass(frozen=True)
class Span:
    """A byte range of a delimited text, with what its reader must know of the rest.

    `reading` is that of the whole file, so that all its parts agree.
    """

    dialect: Dialect
    start: int
    end: int
    reading: Reading


def plan(content: Content, settings: Settings) -> list[Span]:
    """The byte ranges a large file is read in; none if it must be read in one go."""
    dialect = _sniff(content, settings)
    if not dialect.splittable:
        return []
    end = dialect.data_start + settings.split_bytes
    parts = _parts(content, dialect, dialect.data_start, end)
    seen = [part.table for part in _beginning(parts) if isinstance(part, Parsed)]
    if not seen:
        return []
    reading = tables.reading_of(_together(seen), content, settings, dialect.head)
    reading = _with_clock(reading, content, dialect)
    if reading.how.counted:  # a part could begin within a moment
        return []
    if not reading.in_parts:  # only the whole file shows where its rows stand in time
        return []
    edges = [*range(dialect.data_start, content.size, settings.split_bytes), content.size]
    return [Span(dialect, start, end, reading) for start, end in itertools.pairwise(edges)]


def read(content: Content, settings: Settings, span: Span | None = None) -> Outputs:
    """The rows of a file or of a byte range of it.

    Row numbers count the data rows of the file. In a range that does not begin at the first one
    they count on from the range's byte offset, which keeps them unique and in order.
    """
    if span is not None:
        parts = _parts(content, span.dialect, span.start, span.end)
        base = 0 if span.start == span.dialect.data_start else span.start
        yield from _emit(content, settings, parts, base, span.reading)
        return
    dialect = _sniff(content, settings)
    if dialect.levels:
        yield from layered.read(content, settings, dialect)
        return
    parts = _parts(content, dialect, dialect.data_start)
    ahead = _beginning(parts)
    if (said := _statistics(content, settings, ahead)) is not None:
        yield said
        return
    seen = [part.table for part in ahead if isinstance(part, Parsed)]
    table = _together(seen) if seen else pa.table({})
    reading = tables.reading_of(table, content, settings, dialect.head)
    if table.num_rows >= SURVEY_ROWS:  # a short one need not be cut
        reading = _with_clock(reading, content, dialect)
    yield from _emit(content, settings, itertools.chain(ahead, parts), 0, reading)


def _with_clock(reading: Reading, content: Content, dialect: Dialect) -> Reading:
    """The reading of a file that can be cut once all of its clock was seen, if that is so."""
    if not reading.clock:
        return reading
    parts = _parts(content, dialect, dialect.data_start, columns=reading.clock)
    clocks = (part.table for part in parts if isinstance(part, Parsed))
    return tables.with_clock(reading, content, clocks)


def _beginning(parts: Iterator[Parsed | Refused]) -> list[Parsed | Refused]:
    """As much of a file as decisions are made on."""
    taken: list[Parsed | Refused] = []
    rows = 0
    for part in parts:
        taken.append(part)
        rows += part.table.num_rows if isinstance(part, Parsed) else 0
        if rows >= SURVEY_ROWS:
            break
    return taken


def _together(parts: list[pa.Table]) -> pa.Table:
    return pa.concat_tables(parts, promote_options="default")


def _statistics(
    content: Content, settings: Settings, parts: list[Parsed | Refused]
) -> Summaries | None:
    """What the cycler's own statistics say, if that is all the file holds; they are short."""
    match parts:
        case [Parsed(table=table, bad=bad)] if table.num_rows and not bad:
            return statistics.found_in(content, settings, table)
    return None


def _sniff(content: Content, settings: Settings) -> Dialect:
    told = settings.told_of(content.path)
    names = [] if told is None else [column for _, column in told.columns]
    with content.open() as handle:
        return sniff(handle.read(HEAD_BYTES), content.path, names)


def _parts(
    content: Content,
    dialect: Dialect,
    start: int,
    end: int | None = None,
    columns: list[str] | None = None,
) -> Iterator[Parsed | Refused]:
    """The file's blocks, parsed; where the rest cannot be read, the refusal comes last.

    It is not raised, so that nobody who looks ahead loses what came before it.
    """
    first = start == dialect.data_start
    cut = blocks(
        content,
        start,
        end,
        aligned=first,
        line=dialect.first_line if first else None,
        encoding=dialect.encoding,
        carriage_returns=dialect.carriage_returns,
        quotes=dialect.quotes,
        block_bytes=BLOCK_BYTES,
    )
    try:
        for block in cut:
            parsed = parse(block, dialect, columns)
            if block.too_long:
                said = content.budget.over("message_kb", f"the line has {block.too_long:,} bytes")
                parsed.bad.append(BadLine(None, block.position, TOO_LARGE, said))
            yield parsed
    except Refused as refusal:
        yield refusal


def _emit(
    content: Content,
    settings: Settings,
    parts: Iterable[Parsed | Refused],
    row: int,
    reading: Reading,
) -> Outputs:
    """Batches of the parts' rows, and dead letters of lines that are none."""
    letters: list[DeadLetter] = []
    refusal: list[Refused] = []

    def rows(first: int) -> Iterator[tuple[int, pa.Table]]:
        for part in parts:
            if isinstance(part, Refused):
                refusal.append(part)
                return
            letters.extend(
                content.letter(settings, bad.error_type, bad.message, bad.text, bad.position)
                for bad in part.bad
            )
            yield first, part.table
            first += part.table.num_rows + len(part.bad)
            content.share.advance(part.size)

    for batch in tables.batches(content, settings, reading, rows(row + 1)):
        yield from letters
        letters.clear()
        yield batch
    yield from letters
    if refusal:
        raise refusal[0]
