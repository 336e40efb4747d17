"""Reads CSV and its relatives: every value as text, bad rows apart, in bounded memory."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa

from pipeline.sources.formats import statistics, timing
from pipeline.sources.formats.blocks import BLOCK_BYTES, blocks
from pipeline.sources.formats.content import Content, Outputs, Refused, Settings, Summaries
from pipeline.sources.formats.detect import HEAD_BYTES
from pipeline.sources.formats.dialect import Dialect, sniff
from pipeline.sources.formats.rows import Parsed, parse
from transforms.batch import BatchKind, RawBatch


@dataclass(frozen=True)
class Timing:
    """When a file's test began, and how its dates are written, from its first split."""

    test_start_us: int
    day_first: bool


@dataclass(frozen=True)
class Span:
    """A byte range of a delimited text, with what its reader must know of the rest.

    `timing` is that of the whole file, so that all its parts agree.
    """

    dialect: Dialect
    start: int
    end: int
    timing: Timing


def plan(content: Content, settings: Settings) -> list[Span]:
    """The byte ranges a large file is read in; none if it must be read in one go."""
    dialect = _sniff(content)
    if not dialect.splittable:
        return []
    begun = _test_start(content, dialect, settings)
    if begun is None:  # only the file as a whole can tell where its rows stand in time
        return []
    edges = [*range(dialect.data_start, content.size, settings.split_bytes), content.size]
    return [Span(dialect, start, end, begun) for start, end in itertools.pairwise(edges)]


def read(content: Content, settings: Settings, span: Span | None = None) -> Outputs:
    """The rows of a file or of a byte range of it.

    Row numbers count the data rows of the file. In a range that does not begin at the first one
    they count on from the range's byte offset, which keeps them unique and in order.
    """
    if span is not None:
        parts = _parts(content, span.dialect, span.start, span.end)
        base = 0 if span.start == span.dialect.data_start else span.start
        yield from _emit(content, settings, parts, base, span.timing)
        return
    dialect = _sniff(content)
    parts = _parts(content, dialect, dialect.data_start)
    ahead = list(itertools.islice(parts, 2))
    begun = None
    if (said := _statistics(content, settings, ahead)) is not None:
        yield said
        return
    if len(ahead) > 1:
        begun = _test_start(content, dialect, settings)
    elif ahead and isinstance(ahead[0], Parsed) and ahead[0].table.num_rows > settings.batch_rows:
        begun = _timing([ahead[0].table], settings)
    yield from _emit(content, settings, itertools.chain(ahead, parts), 0, begun)


def _statistics(
    content: Content, settings: Settings, parts: list[Parsed | Refused]
) -> Summaries | None:
    """What the cycler's own statistics say, if that is all the file holds; they are short."""
    match parts:
        case [Parsed(table=table, bad=bad)] if table.num_rows and not bad:
            return statistics.found_in(content, settings, table)
    return None


def _sniff(content: Content) -> Dialect:
    with content.open() as handle:
        return sniff(handle.read(HEAD_BYTES), content.path)


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
            yield parse(block, dialect, columns)
    except Refused as refusal:
        yield refusal


def _test_start(content: Content, dialect: Dialect, settings: Settings) -> Timing | None:
    """The earliest event time of the file's first split, from a pass over its time columns."""
    columns = timing.time_columns(dialect.names)
    if not columns:
        return None
    end = dialect.data_start + settings.split_bytes
    parts = _parts(content, dialect, dialect.data_start, end, columns)
    return _timing([part.table for part in parts if isinstance(part, Parsed)], settings)


def _timing(tables: list[pa.Table], settings: Settings) -> Timing | None:
    names = timing.time_columns(tables[0].column_names) if tables else []
    # Where no value decides, the month is first in the whole file.
    day_first = bool(timing.day_first([table.select(names) for table in tables], settings))
    begun = timing.earliest(tables, settings, day_first)
    return None if begun is None else Timing(begun, day_first)


def _emit(
    content: Content,
    settings: Settings,
    parts: Iterator[Parsed | Refused],
    row: int,
    begun: Timing | None,
) -> Outputs:
    """Batches of the parts' rows; a single one where the test's start is not known."""
    first, gathered, refusal = row + 1, [], None
    for part in parts:
        if isinstance(part, Refused):
            refusal = part
            break
        for bad in part.bad:
            yield content.letter(settings, bad.error_type, bad.message, bad.text, bad.position)
        if begun is None:
            gathered.append(part.table)
        else:
            for offset in range(0, part.table.num_rows, settings.batch_rows):
                origin = content.origin(
                    settings, row + offset + 1, begun.test_start_us, begun.day_first
                )
                piece = part.table.slice(offset, settings.batch_rows)
                yield RawBatch(piece, BatchKind.ROWS, origin)
        row += part.table.num_rows + len(part.bad)
        content.share.advance(part.size)
    if gathered:
        table = pa.concat_tables(gathered, promote_options="default")
        if table.num_rows:
            yield RawBatch(table, BatchKind.ROWS, content.origin(settings, first))
    if refusal is not None:
        raise refusal
