"""Reads Parquet: any table as rows, and the lake's own message files as messages."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.sources.formats import tables
from pipeline.sources.formats.content import Content, Outputs, Settings, Summaries
from pipeline.sources.formats.head import read as read_head
from pipeline.sources.formats.headers import unique_names
from pipeline.sources.formats.parquet_pieces import opened, pieces
from pipeline.sources.formats.reading import Reading
from schemas.forms import arrow_schema
from schemas.reading import (
    CYCLE_SUMMARY,
    CYCLES_LIVE,
    DEAD_LETTER,
    PREDICTION,
    READING,
    SOURCE_POSITION,
    TEST_DIALECT,
    WINDOW_STATS,
)
from transforms.batch import MESSAGES, BatchKind, RawBatch
from transforms.budget import MIB
from transforms.dead_letter import DeadLetter
from transforms.interpret.interpretation import Head

# So much of a file is looked at before it is decided how it is read.
_SURVEY_BYTES = 256 * MIB
# The error of a dead letter that stood for a whole file and can't be replayed.
NO_PAYLOAD = "no_payload"


class Kind(StrEnum):
    """What a Parquet file holds, told by its columns."""

    TABLE = "table"  # a cycler's export: one test
    READINGS = "readings"  # the lake's readings
    ENVELOPES = "envelopes"  # the lake's raw messages
    DEAD_LETTERS = "dead_letters"  # the lake's dead letters
    CYCLE_SUMMARIES = "cycle_summaries"  # what the lake keeps of the cyclers' own statistics
    NO_READINGS = "no_readings"  # the lake's other tables, which the job derives again


@dataclass(frozen=True)
class Span:
    """Row groups `start` to `end` (exclusive) of a file, how it is read, and their bytes."""

    start: int
    end: int
    reading: Reading | None
    size: int


# Tables of the job's own that say nothing a run could read.
_NO_READINGS = (TEST_DIALECT, WINDOW_STATS, SOURCE_POSITION, CYCLES_LIVE, PREDICTION)


def kind_of(names: Sequence[str]) -> Kind:
    """What a file with these columns holds."""
    present = set(names)
    if present.issuperset(DEAD_LETTER.names):
        return Kind.DEAD_LETTERS
    if present.issuperset(MESSAGES.names):
        return Kind.ENVELOPES
    if present.issuperset(CYCLE_SUMMARY.names):
        return Kind.CYCLE_SUMMARIES
    if any(present.issuperset(table.names) for table in _NO_READINGS):
        return Kind.NO_READINGS
    if present.issuperset(field.name for field in READING.fields if field.required):
        return Kind.READINGS
    return Kind.TABLE


def plan(content: Content, settings: Settings) -> list[Span]:
    """The row groups of a large file, gathered to parts; none if it must be read in one go."""
    with opened(content) as file:
        edges, sizes = _edges(file, settings)
        reading = None
        kind = kind_of(file.schema_arrow.names)
        if kind in (Kind.TABLE, Kind.READINGS):
            reading = _reading(file, content, settings, kind, range(edges[1]))
            if reading.how.counted:  # a part could begin within a moment
                return []
            if not reading.in_parts:  # only the file as a whole can tell where its rows stand
                return []
    return [
        Span(start, end, reading, sum(sizes[start:end])) for start, end in itertools.pairwise(edges)
    ]


def read(content: Content, settings: Settings, span: Span | None = None) -> Outputs:
    """The rows of a file, or of some of its row groups."""
    with opened(content) as file:
        kind = kind_of(file.schema_arrow.names)
        if kind in (Kind.CYCLE_SUMMARIES, Kind.NO_READINGS):
            if span is None or not span.start:  # the parts of a large one are given as a whole
                yield from _summaries(file, content, kind)
            return
        if kind is not Kind.TABLE:
            # These rows say themselves where they came from; the lake's file names do not.
            content = replace(content, equipment_id=settings.equipment_id)
        groups = range(file.num_row_groups) if span is None else range(span.start, span.end)
        row = sum(file.metadata.row_group(group).num_rows for group in range(groups.start))
        if kind in (Kind.TABLE, Kind.READINGS):
            yield from _rows(file, content, settings, kind, groups, row, span)
        else:
            yield from _messages(file, content, settings, kind, groups, row)


def _summaries(file: pq.ParquetFile, content: Content, kind: Kind) -> Iterator[Summaries]:
    """What the lake keeps beside readings and messages: none of it becomes a reading."""
    form = arrow_schema(CYCLE_SUMMARY)
    begun = False
    if kind is Kind.CYCLE_SUMMARIES:
        for piece in pieces(file, content, range(file.num_row_groups), form.names):
            yield Summaries(content, piece.select(form.names).cast(form), goes_on=begun)
            begun = True
    if not begun:
        yield Summaries(content, form.empty_table())


def _rows(
    file: pq.ParquetFile,
    content: Content,
    settings: Settings,
    kind: Kind,
    groups: range,
    row: int,
    span: Span | None,
) -> Outputs:
    reading = span.reading if span is not None else None
    if reading is None:
        reading = _reading(file, content, settings, kind, range(_edges(file, settings)[0][1]))
    total = max(file.metadata.num_rows, 1)

    def parts(first: int) -> Iterator[tuple[int, pa.Table]]:
        for table in _tables(file, content, kind, groups):
            yield first, table
            first += table.num_rows
            content.share.advance(content.size * table.num_rows // total)

    for batch in tables.batches(content, settings, reading, parts(row + 1)):
        # The lake's readings say themselves which file they came from.
        own = replace(batch, origin=replace(batch.origin, source_file=None))
        yield own if kind is Kind.READINGS else batch


def _tables(
    file: pq.ParquetFile, content: Content, kind: Kind, groups: range
) -> Iterator[pa.Table]:
    names = list(file.schema_arrow.names)
    if kind is Kind.READINGS:
        # What the job derives it derives again.
        derived = {field.name for field in READING.fields if field.derived}
        names = [name for name in names if name not in derived]
    repeated = len(set(names)) < len(names)
    for table in pieces(file, content, groups, None if repeated else names):
        yield table.rename_columns(unique_names(table.column_names)) if repeated else table


def _reading(
    file: pq.ParquetFile, content: Content, settings: Settings, kind: Kind, groups: range
) -> Reading:
    """How the file's tables are read, by the rows of some row groups."""
    seen: list[pa.Table] = []
    size = 0
    for part in _tables(file, content, kind, groups):
        seen.append(part)
        size += part.nbytes
        if size > _SURVEY_BYTES:  # of a file that was packed very well
            break
    table = pa.concat_tables(seen) if seen else pa.table({})
    if kind is Kind.READINGS:
        return tables.own_reading(table, content)
    reading = tables.reading_of(table, content, settings, _head(file))
    if reading.clock and table.num_rows < file.metadata.num_rows:
        every = range(file.num_row_groups)
        reading = tables.with_clock(reading, content, pieces(file, content, every, reading.clock))
    return reading


def _head(file: pq.ParquetFile) -> Head | None:
    """What the file's own metadata say, where somebody wrote some."""
    found = file.schema_arrow.metadata or {}
    lines = [
        f"{key.decode(errors='replace')}: {value.decode(errors='replace')}"
        for key, value in found.items()
        if len(value) < 200 and not key.startswith((b"ARROW", b"pandas"))
    ]
    return read_head(lines) if lines else None


def _messages(
    file: pq.ParquetFile, content: Content, settings: Settings, kind: Kind, groups: range, row: int
) -> Outputs:
    wanted = MESSAGES.names if kind is Kind.ENVELOPES else DEAD_LETTER.names
    total = max(file.metadata.num_rows, 1)
    for piece in pieces(file, content, groups, list(wanted)):
        table, count = piece, piece.num_rows
        if kind is Kind.DEAD_LETTERS:
            yield from _payloadless(table, content, settings, row)
            table = _as_messages(table.filter(table["payload"].is_valid()))
        if table.num_rows:
            origin = replace(content.origin(settings, row + 1), source_file=None)
            yield RawBatch(table.select(MESSAGES.names).cast(MESSAGES), BatchKind.MESSAGES, origin)
        row += count
        content.share.advance(content.size * count // total)


def _payloadless(
    table: pa.Table, content: Content, settings: Settings, row: int
) -> Iterator[DeadLetter]:
    lacking = pc.indices_nonzero(table["payload"].is_null()).to_pylist()
    for index in lacking:
        letter_id, file = table["dead_letter_id"][index].as_py(), table["source_file"][index]
        yield content.letter(
            settings,
            NO_PAYLOAD,
            f"dead letter {letter_id} keeps no payload because it stood for a whole file; replay "
            f"{file.as_py()} from the raw archive instead",
            position=f"record {row + index + 1}",
        )


def _as_messages(letters: pa.Table) -> pa.Table:
    """Dead letters as the messages they were; those of files keep the equipment they spoke of."""
    ids = letters["equipment_id"].combine_chunks().dictionary_encode()
    spelled = [orjson.dumps({"equipment_id": name}).decode() for name in ids.dictionary.to_pylist()]
    from_id = pa.array(spelled, pa.string()).take(ids.indices)
    from_id = pc.if_else(letters["message_key"].is_null(), from_id, pa.scalar(None, pa.string()))
    return pa.table(
        {
            "payload": letters["payload"],
            "key": letters["message_key"],
            "attributes": pc.coalesce(letters["attributes"], from_id),
            "position": letters["position"],
            "arrived_at": letters["ingested_at"],
            "source_file": letters["source_file"],
        }
    )


def _edges(file: pq.ParquetFile, settings: Settings) -> tuple[list[int], list[int]]:
    """Where parts of about `split_bytes` begin and end, in row groups, and each group's bytes."""
    # Unpacked sizes: asking for those of the columns ends the process where the footer is broken.
    groups = range(file.num_row_groups)
    sizes = [int(file.metadata.row_group(group).total_byte_size) for group in groups]
    edges, part = [0], 0
    for group, size in enumerate(sizes):
        if part and part + size > settings.split_bytes:
            edges.append(group)
            part = 0
        part += size
    return [*edges, len(sizes)], sizes
