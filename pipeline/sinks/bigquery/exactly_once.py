"""Writes through streams of our own: each row exactly once, wherever the runner's state is.

Rows are appended to a stream that nobody sees, at the offset that the state of their key holds.
A timer, which exists only if the bundle was committed together with that state, then flushes the
stream up to there. So what is seen is what the committed states say, and nothing else:

- A bundle that is tried again finds the state as it was before. What its first try has appended
  lies behind the state's offset; the append is answered with ALREADY_EXISTS, the stream is left
  behind as it is (flushed up to the state's offset, never further) and the rows go into a new one.
  The same holds for an append whose answer was lost, and for a worker that was given up but still
  writes.
- A timer that fires again flushes what is flushed, which changes nothing.

It needs no stable input, only that a runner commits a bundle's input, state and timers together.
Dataflow does, in its exactly-once mode. Flink does with checkpoints: after a failure state and
input go back to the last one, but rows of a timer that had fired since are seen and come again, so
there a restart can still double what was flushed since the last checkpoint. Prism does as long as
it lives. The job must also be given each message once, and not be started anew from older positions.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam import coders
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import ReadModifyWriteStateSpec, TimerSpec, on_timer
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.timestamp import Timestamp

from pipeline.errors import WarehouseFailed
from pipeline.sinks.base import refused
from pipeline.sinks.base.tally import Kept
from pipeline.sinks.bigquery import requests
from pipeline.sinks.bigquery.address import Address
from pipeline.sinks.bigquery.requests import Request
from pipeline.sinks.bigquery.storage_write import Figures
from pipeline.sinks.bigquery.streams import Stream, Streams
from schemas.reading import Table
from transforms.batch import PackedBatch

# How many streams of a table are written at the same time.
KEYS = 8
# Rows are seen this long after they were appended, and a flush is a call.
_FLUSH_S = 1.0
# New streams for one request, before something else must be wrong.
_MOST_STREAMS = 5


def keyed(table: Table, rows: pa.Table) -> tuple[int, PackedBatch]:
    """Which stream a batch goes to: any will do, but the same when it comes again."""
    first = str(rows.column(table.key)[0].as_py())
    return sum(first.encode()) % KEYS, PackedBatch(rows)


class Appender:
    """Appends batches of one table to streams, and flushes them; what it knows it is given.

    Args:
        address: the dataset.
        table: the table.
        source: the job's source, for dead letters.
        figures: what is counted.
    """

    def __init__(self, address: Address, table: Table, source: str, figures: Figures) -> None:
        self._table, self._source, self._figures = table, source, figures
        self._told = f"{address.told}, table {table.name}"
        self._form = requests.schema(table)
        self._streams = Streams(address, table, figures)

    def append(self, streams: list[Stream], rows: pa.Table) -> tuple[list[Stream], list[pa.Table]]:
        """Appends rows behind those that the state knows of.

        Args:
            streams: a key's streams, the one that is written last.
            rows: of the table.

        Returns:
            the streams afterwards, and dead letters of rows that were refused.
        """
        letters: list[pa.Table] = []
        for request in requests.cut(requests.shaped(rows, self._form)):
            if request.data is None:
                why = [(refused.ROW_TOO_LARGE, requests.too_large(request))]
                letters.append(self._letters(request.rows, why))
            else:
                streams = self._append_one(streams, request, letters)
        return streams, letters

    def _append_one(
        self, streams: list[Stream], request: Request, letters: list[pa.Table]
    ) -> list[Stream]:
        if not streams:
            streams = [self._streams.create()]
        for _ in range(_MOST_STREAMS):
            grown, answer = self._streams.append(streams[-1], request)
            if answer.written:
                return [*streams[:-1], grown]
            if answer.refused:
                good, bad, why = requests.parted(request, answer.refused)
                letters.append(self._letters(bad, why))
                if good is None:
                    return streams
                request = good
            else:
                streams = [*streams, self._streams.create()]
        raise WarehouseFailed(f"{self._told}: no stream takes the rows ({answer})")

    def flush(self, streams: list[Stream]) -> list[Stream]:
        """Shows the rows of all streams; keeps the one that is written."""
        rows = sum(stream.end - stream.flushed for stream in streams)
        flushed = [self._streams.flush(stream) for stream in streams]
        self._count(Kept(stored=rows))
        return flushed[-1:]

    def _count(self, kept: Kept) -> None:
        self._figures.kept.in_bundle(self._figures.kept.commit(kept))

    def _letters(self, rows: pa.RecordBatch, why: list[tuple[str, str]]) -> pa.Table:
        self._figures.refused.inc(rows.num_rows)
        self._count(Kept(refused=rows.num_rows))
        return refused.letters(requests.STEP, self._table, rows, why, self._source)


class AppendOnce(beam.DoFn):
    """(key, packed rows) → dead letters of what BigQuery refused."""

    # The key's streams: (name, end, flushed) each.
    STREAMS = ReadModifyWriteStateSpec("streams", coders.FastPrimitivesCoder())
    FLUSH = TimerSpec("flush", TimeDomain.REAL_TIME)
    # Where the input ends, time may not go on.
    END = TimerSpec("end", TimeDomain.WATERMARK)

    def __init__(self, address: Address, table: Table, source: str, label: str = "") -> None:
        self._given = (address, table, source, Figures(table, label))
        self._appender: Appender | None = None

    def setup(self) -> None:
        """Makes what does the work; it can't be pickled."""
        self._appender = Appender(*self._given)

    def process(
        self,
        element: tuple[int, PackedBatch],
        streams: Any = beam.DoFn.StateParam(STREAMS),
        flush: Any = beam.DoFn.TimerParam(FLUSH),
        end: Any = beam.DoFn.TimerParam(END),
    ) -> Iterator[pa.Table]:
        """Appends, and has the rows shown once this is committed."""
        assert self._appender is not None
        known, letters = self._appender.append(_read(streams), element[1].table)
        streams.write([tuple(stream) for stream in known])
        flush.set(Timestamp(time.time() + _FLUSH_S))
        end.set(GlobalWindow().max_timestamp())
        yield from letters

    @on_timer(FLUSH)
    def flush_soon(self, streams: Any = beam.DoFn.StateParam(STREAMS)) -> None:
        """Shows what was appended."""
        self._flush(streams)

    @on_timer(END)
    def flush_last(self, streams: Any = beam.DoFn.StateParam(STREAMS)) -> None:
        """Shows what was appended; nothing more comes."""
        self._flush(streams)

    def _flush(self, streams: Any) -> None:
        assert self._appender is not None
        known = self._appender.flush(_read(streams))
        streams.write([tuple(stream) for stream in known])


def _read(streams: Any) -> list[Stream]:
    return [Stream(*stream) for stream in streams.read() or ()]


class WriteOnce(beam.PTransform):
    """Tables of rows → dead letters of what BigQuery refused."""

    def __init__(self, address: Address, table: Table, source: str, label: str = "") -> None:
        super().__init__()
        self._address, self._table, self._source = address, table, source
        self._label = label

    def expand(self, rows: beam.PCollection) -> beam.PCollection:
        """Adds the steps."""
        table = self._table
        return (
            rows
            | "Keyed"
            >> beam.Map(lambda batch: keyed(table, batch)).with_output_types(
                tuple[int, PackedBatch]
            )
            | "AppendOnce"
            >> beam.ParDo(AppendOnce(self._address, table, self._source, self._label))
        )
