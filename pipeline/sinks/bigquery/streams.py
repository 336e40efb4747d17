"""Streams of our own in the Storage Write API: rows are appended at an offset, shown when flushed."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import OrderedDict
from typing import NamedTuple

import grpc
import pyarrow as pa
from google.api_core import exceptions
from google.cloud.bigquery_storage_v1 import types

from pipeline.sinks.bigquery import answers, bounds, client, failure, requests
from pipeline.sinks.bigquery.address import Address
from pipeline.sinks.bigquery.answers import Answer
from pipeline.sinks.bigquery.appends import Connection
from pipeline.sinks.bigquery.patience import outage_of
from pipeline.sinks.bigquery.requests import Request
from pipeline.sinks.bigquery.storage_write import Figures
from schemas.reading import Table

_LOG = logging.getLogger(__name__)
Code = grpc.StatusCode
_CALL_S = 30.0
# A process works on few keys at a time; of the others the connections are closed.
_MOST_CONNECTIONS = 32


class Stream(NamedTuple):
    """How far a stream has come.

    Attributes:
        name: its resource name.
        end: rows that were appended, and belong to what the job has done.
        flushed: rows of these that can be seen in the table.
    """

    name: str
    end: int = 0
    flushed: int = 0


class Streams:
    """Creates, fills and flushes the streams of one table.

    Args:
        address: the dataset.
        table: the table.
        figures: what is counted.
    """

    def __init__(self, address: Address, table: Table, figures: Figures) -> None:
        self._address, self._table, self._figures = address, table, figures
        self._form = requests.schema(table)
        self._outage = outage_of(address, table)

    def create(self) -> Stream:
        """A new stream, whose rows nobody sees before they are flushed."""
        wanted = types.WriteStream(type_=types.WriteStream.Type.BUFFERED)
        parent = self._address.path(self._table.name)
        while True:
            try:
                made = client.writer(self._address).create_write_stream(
                    parent=parent, write_stream=wanted, retry=client.ONCE, timeout=_CALL_S
                )
                return Stream(made.name)
            except exceptions.GoogleAPICallError as error:
                self._wait(answers.of_api_error(error))

    def append(self, stream: Stream, request: Request) -> tuple[Stream, Answer]:
        """Appends a request at the stream's end, once.

        Where an answer is lost the rows may be there behind the end; the next try is then answered
        with ALREADY_EXISTS. They stay unseen as long as nobody takes them for part of the stream.

        Returns:
            the stream with the rows, and OK; or the stream as it was, and the rows that were
            refused, ALREADY_EXISTS, or that the stream is not what it should be.
        """
        assert request.data is not None
        while True:
            self._figures.requests.inc()
            sent = _connection(self._address, stream.name, self._form).send(
                request.data, stream.end
            )
            answer = bounds.named(self._table, request.rows, sent.wait())
            if answer.written:
                self._outage.over()
                self._figures.milliseconds.update(sent.milliseconds)
                return stream._replace(end=stream.end + request.rows.num_rows), answer
            if answer.code in (Code.ALREADY_EXISTS, Code.OUT_OF_RANGE):
                return stream, answer
            if answer.refused or answer.stream_gone:
                failure.raise_unfit(self._address, self._table)
                return stream, answer
            self._wait(answer)

    def flush(self, stream: Stream) -> Stream:
        """Shows all rows up to the stream's end; done before, it changes nothing."""
        while stream.flushed < stream.end:
            try:
                client.writer(self._address).flush_rows(
                    types.FlushRowsRequest(write_stream=stream.name, offset=stream.end - 1),
                    retry=client.ONCE,
                    timeout=_CALL_S,
                )
            except exceptions.GoogleAPICallError as error:
                answer = answers.of_api_error(error)
                if answer.stream_gone or answer.code is Code.OUT_OF_RANGE:
                    failure.raise_unfit(self._address, self._table)
                    self._tell_gone(stream, answer)
                elif answer.code is not Code.ALREADY_EXISTS:
                    self._wait(answer)
                    continue
            self._figures.written.inc(stream.end - stream.flushed)
            stream = stream._replace(flushed=stream.end)
        return stream

    def _tell_gone(self, stream: Stream, answer: Answer) -> None:
        """A table that was deleted takes its streams along, with what was not flushed yet."""
        _LOG.error(
            "%s, table %s: a stream is gone with %d rows (%s): the table was made anew, or the job "
            "stood still for days; load them from the lake (python -m pipeline.load)",
            self._address.told, self._table.name, stream.end - stream.flushed, answer,
        )  # fmt: skip

    def _wait(self, answer: Answer) -> None:
        failure.raise_lasting(self._address, self._table, answer)
        self._figures.retries.inc()
        self._outage.wait(str(answer), time.monotonic())


_connections: OrderedDict[tuple[str, str | None], Connection] = OrderedDict()
_lock = threading.Lock()


def _connection(address: Address, stream: str, form: pa.Schema) -> Connection:
    key = (stream, os.environ.get(client.STORAGE_EMULATOR))
    with _lock:
        found = _connections.pop(key, None)
        if found is None or not found.usable:
            found = Connection(client.writer(address), stream, form)
        _connections[key] = found
        while len(_connections) > _MOST_CONNECTIONS:
            _, idle = _connections.popitem(last=False)
            idle.close()
        return found
