"""Makes batches of a file's table: decides once how it is to be read, for all its parts."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import replace
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.sources.formats import cut
from pipeline.sources.formats.content import Content, Settings, Share
from pipeline.sources.formats.elements import PIECE_BYTES
from pipeline.sources.formats.reading import Reading
from schemas.aliases import CLOCK
from transforms import convert, naming
from transforms.batch import BatchKind, RawBatch
from transforms.decode import LONGEST_TEST_S, decode
from transforms.interpret import apply
from transforms.interpret.decide import decide, plain
from transforms.interpret.interpretation import Head, Interpretation, Witness
from transforms.zones import zone_of

# When tests began, by the file they began in; so many are kept.
_STARTS: dict[tuple[tuple[Hashable, ...], Settings], int | None] = {}
_MOST_STARTS = 10_000


def reading_of(
    table: pa.Table, content: Content, settings: Settings, head: Head | None = None
) -> Reading:
    """How a file is to be read.

    Args:
        table: its rows, or of a long file its beginning.
        content: the file.
        settings: how files are read.
        head: what stands outside the table.
    """
    zone = zone_of(settings.time_zone)
    told = settings.told_of(content.path)
    how = decide(table, head, zone, told, settings.day_first)
    equipment, how = _equipment(content, settings, head, how)
    start = None if how.in_order else _earliest(table, how, zone)
    in_parts = start is not None
    if content.first is not None and _goes_on(table, how):
        start = _start_of(content.first(), settings) or start
    return Reading(how, equipment, start, in_parts)


def with_clock(reading: Reading, content: Content, clocks: Iterable[pa.Table]) -> Reading:
    """The reading of a file whose modification time is that of its last row, so that it can be cut.

    Args:
        reading: the file's, with a `clock`.
        content: the file.
        clocks: those columns of all its rows.
    """
    some = tuple(use for use in reading.how.uses if use.field == "test_time_s")
    part = Interpretation(uses=some, notation=reading.how.notation)
    first, last = np.inf, -np.inf
    for table in clocks:
        found = apply.fields(table, part, ZoneInfo("UTC")).found.get("test_time_s")
        values = np.empty(0) if found is None else found.to_numpy(zero_copy_only=False)
        values = values[np.isfinite(values)]
        if len(values):
            first, last = min(first, float(values.min())), max(last, float(values.max()))
    if not np.isfinite(first):
        return reading
    lasted_us = round(min(last - first, LONGEST_TEST_S) * 1e6)
    start = reading.test_start_us
    if start is None:
        start = content.arrived_at_us - lasted_us
    return replace(reading, test_start_us=start, in_parts=True, last_s=last)


def _goes_on(table: pa.Table, how: Interpretation) -> bool:
    """Whether a file continues a test: its first row's clock or record number is not a start."""
    for field, least in (("test_time_s", 10.0 * (how.sampling_s or 60.0)), ("record_index", 1.5)):
        use = how.use_of(field)
        if use is None or not table.num_rows:
            continue
        read = convert.seconds if field == "test_time_s" else convert.doubles
        first = read(table.column(use.column).slice(0, 1), use.scale, notation=how.notation).array
        value = first[0].as_py()
        if value is not None and value > least:
            return True
    return False


def _start_of(first: Content, settings: Settings) -> int | None:
    """When the test began, by the first rows of the file it began in.

    Every later part asks, and the first one may have to be read as a whole: it is read once.
    """
    key = (first.key, settings)
    if not first.key:
        return _read_start(first, settings)
    if key in _STARTS:
        return _STARTS[key]
    found = _read_start(first, settings)
    if len(_STARTS) >= _MOST_STARTS:
        _STARTS.clear()
    _STARTS[key] = found
    return found


def _read_start(first: Content, settings: Settings) -> int | None:
    from pipeline.sources.formats import reader

    for output in reader.read(replace(first, first=None, share=Share(0)), settings):
        if isinstance(output, RawBatch):
            decoded, _ = decode(output, settings.time_zone)
            return decoded.test_start_us
    return None


def own_reading(table: pa.Table, content: Content) -> Reading:
    """How the lake's own readings are read: every column as its name says."""
    how = plain(table)
    start = _earliest(table, how, ZoneInfo("UTC"))
    return Reading(how, content.equipment_id, start, in_parts=start is not None)


def _equipment(
    content: Content, settings: Settings, head: Head | None, how: Interpretation
) -> tuple[str | None, Interpretation]:
    """The cell: as the user, the rows or the head name it, or by the names of folder and file."""
    if settings.equipment_id is not None or how.use_of("equipment_id") is not None:
        return content.equipment_id, how
    named = head.equipment if head is not None else None
    if named is None or naming.is_generic(named):
        if naming.says_little(content.path):
            how = replace(how, disagreements=_with(how, "identity_guessed"))
        return content.equipment_id, how
    by_path = content.equipment_id or ""
    if named.casefold() == by_path.casefold():
        return content.equipment_id, how
    if naming.folder_tells(content.path):
        witness = Witness("identity", "head of the file", 0.0, f"it names {named!r}")
        how = replace(
            how,
            disagreements=_with(how, "identity_guessed"),
            witnesses=(*how.witnesses, witness),
        )
        return content.equipment_id, how
    return named, how


def _with(how: Interpretation, doubt: str) -> tuple[str, ...]:
    return tuple(sorted({*how.disagreements, doubt}))


def _earliest(table: pa.Table, how: Interpretation, zone: ZoneInfo) -> int | None:
    """The earliest event time, microseconds since 1970 UTC; None if the rows have none."""
    times = apply.event_times(table, how, zone) if table.num_rows else None
    least = None if times is None else pc.min(times.cast(pa.int64())).as_py()
    return None if least is None else int(least)


def batches(
    content: Content,
    settings: Settings,
    reading: Reading,
    tables: Iterable[tuple[int, pa.Table]],
) -> Iterator[RawBatch]:
    """The rows of a file in batches; in a single one where it can't be cut.

    Args:
        content: the file.
        settings: how files are read.
        reading: what its parts share.
        tables: (place of the first row, counted from 1; rows), in the file's order.
    """
    content = replace(content, equipment_id=reading.equipment_id)
    tables = iter(tables)
    if reading.in_parts:
        for first_row, table in _pieces(tables, reading.how, settings.batch_rows):
            origin = content.origin(
                settings, first_row, reading.test_start_us, reading.how, reading.last_s
            )
            yield RawBatch(table, BatchKind.ROWS, origin)
        return
    ahead: list[tuple[int, pa.Table]] = []
    size = 0
    for part in tables:
        ahead.append(part)
        size += part[1].nbytes
        if size > PIECE_BYTES:
            yield from cut.batches(content, settings, reading, itertools.chain(ahead, tables))
            return
    if ahead:
        together = pa.concat_tables([table for _, table in ahead], promote_options="default")
        if together.num_rows:
            origin = content.origin(settings, ahead[0][0], reading.test_start_us, reading.how)
            yield RawBatch(together, BatchKind.ROWS, origin)


def _pieces(
    tables: Iterable[tuple[int, pa.Table]], how: Interpretation, size: int
) -> Iterator[tuple[int, pa.Table]]:
    """About `size` rows at a time.

    Rows of one moment stay together where no record number tells them apart: they are counted.
    """
    names = [use.column for use in how.uses if use.field in ("recorded_at", "test_time_s", CLOCK)]
    if how.use_of("record_index") is not None or not how.compared or not names:
        for first_row, table in tables:
            for offset in range(0, table.num_rows, size):
                yield first_row + offset, table.slice(offset, size)
        return
    held: tuple[int, pa.Table] | None = None
    for first_row, rows in tables:
        begin, table = first_row, rows
        if held is not None:
            begin, table = held[0], pa.concat_tables([held[1], rows], promote_options="default")
        edges = _moments(table, names)
        offset = 0
        while table.num_rows - offset > size:
            at = int(np.searchsorted(edges, offset + size))
            if at == len(edges):
                break
            yield begin + offset, table.slice(offset, int(edges[at]) - offset)
            offset = int(edges[at])
        held = (begin + offset, table.slice(offset))
    if held is not None and held[1].num_rows:
        yield held


def _moments(table: pa.Table, names: list[str]) -> npt.NDArray[np.int64]:
    """The rows, but for the first, at which the time is another than in the row before."""
    columns = [table.column(name) for name in names]
    return np.flatnonzero(~convert.as_before(columns, table.num_rows)) + 1


def one_table(
    content: Content,
    settings: Settings,
    table: pa.Table,
    head: Head | None = None,
    first_row: int = 1,
    doubt: str | None = None,
) -> Iterator[RawBatch]:
    """A test that is one table in memory: a single batch, for its counters are one test's.

    Args:
        content: the file.
        settings: how files are read.
        table: its rows.
        head: what stands outside the table.
        first_row: place of the first row, counted from 1.
        doubt: what its reader already knows to be in doubt.
    """
    if table.num_rows:
        reading = replace(reading_of(table, content, settings, head), in_parts=False)
        if doubt is not None:
            how = replace(reading.how, disagreements=_with(reading.how, doubt))
            reading = replace(reading, how=how)
        yield from batches(content, settings, reading, [(first_row, table)])
