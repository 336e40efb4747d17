"""Cuts a test whose rows depend on each other: all are looked at before the first one leaves."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from typing import IO

import pyarrow as pa

from pipeline.scratch import in_tmpdir, temporary
from pipeline.sources.formats.content import Content, Settings
from pipeline.sources.formats.meter import Refused, over
from pipeline.sources.formats.reading import Reading
from transforms.batch import BatchKind, RawBatch
from transforms.budget import TOO_LARGE
from transforms.whole import Gatherer, Whole
from transforms.zones import zone_of

# Rows of one moment are counted, so that they travel together: more are no test.
_MOMENT_ROWS = 1_000_000


def batches(
    content: Content,
    settings: Settings,
    reading: Reading,
    tables: Iterable[tuple[int, pa.Table]],
) -> Iterator[RawBatch]:
    """The rows of a file in batches, with what they take from others beside them.

    The rows wait on disk; in memory are only the columns that depend on others.

    Args:
        content: the file.
        settings: how files are read.
        reading: what its parts share.
        tables: (place of the first row, counted from 1; rows), in the file's order.

    Raises:
        Refused: it has too many rows for that.
        SpillFailed: TMPDIR can't be used.
    """
    what = f"the rows of {content.path}"
    with temporary(what) as file:
        spool = _Spool(file, what)
        gatherer = Gatherer(reading.how, content.origin(settings), zone_of(settings.time_zone))
        most = content.budget.in_order_rows
        for row, table in tables:
            if not table.num_rows:
                continue
            spool.add(row, table)
            gatherer.add(table)
            if spool.rows > most:
                raise over(
                    content.budget,
                    "in_order_rows",
                    f"the test has more than {most:,} rows, and they depend on those before (a "
                    "counter for both directions, a clock set back, or no time at all); export it "
                    "in parts such as _part1 and _part2",
                )
        if not spool.rows:
            return
        whole = gatherer.finish()
        start = reading.test_start_us if reading.test_start_us is not None else whole.start_us
        for row, table in _with_whole(spool, whole, settings.batch_rows):
            origin = content.origin(settings, row, start, reading.how, whole.last_s)
            yield RawBatch(table, BatchKind.ROWS, origin)


def _with_whole(spool: _Spool, whole: Whole, size: int) -> Iterator[tuple[int, pa.Table]]:
    """(place of the first row, rows) of each batch."""
    for start, end in whole.cuts(size):
        if end - start > _MOMENT_ROWS:
            raise Refused(
                TOO_LARGE,
                f"{end - start:,} rows in a row have the same time, or none, and at most "
                f"{_MOMENT_ROWS:,} can be told apart: add a column with the time or a number",
            )
        row, table = spool.rows_between(start, end)
        yield row, whole.beside(table, start)


class _Spool:
    """Tables of a file, one behind the other, in a temporary one."""

    def __init__(self, file: IO[bytes], what: str) -> None:
        self.rows = 0
        self._file, self._what = file, what
        # Of each table: its first row counted from 0, its place in the file, where it lies.
        self._index: list[tuple[int, int, int]] = []
        self._held: tuple[int, pa.Table] | None = None

    def add(self, row: int, table: pa.Table) -> None:
        """Takes a table whose first row has the place `row`."""
        with in_tmpdir(self._what):
            self._index.append((self.rows, row, self._file.seek(0, 2)))
            with pa.ipc.new_stream(self._file, table.schema) as writer:
                writer.write_table(table)
            self._file.flush()
        self.rows += table.num_rows

    def rows_between(self, start: int, end: int) -> tuple[int, pa.Table]:
        """(place of the first one, rows) `start` to `end` (exclusive), counted from 0."""
        number = bisect_right(self._index, start, key=lambda entry: entry[0]) - 1
        first, row, _ = self._index[number]
        place = row + start - first
        found: list[pa.Table] = []
        while start < end:
            table = self._table(number)
            low = start - self._index[number][0]
            part = table.slice(low, min(end - start, table.num_rows - low))
            found.append(part)
            start += part.num_rows
            number += 1
        return place, pa.concat_tables(found, promote_options="default")

    def _table(self, number: int) -> pa.Table:
        """One of the tables; that which was asked for last is held."""
        if self._held is None or self._held[0] != number:
            with in_tmpdir(self._what, "read"):
                self._file.seek(self._index[number][2])
                self._held = (number, pa.ipc.open_stream(self._file).read_all())
        return self._held[1]
