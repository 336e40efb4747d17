"""A connection of the Storage Write API: appends go out one after another, answers come later."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

import grpc
import pyarrow as pa
from google.cloud.bigquery_storage_v1 import BigQueryWriteClient, types

from pipeline.sinks.bigquery import answers
from pipeline.sinks.bigquery.answers import Answer

# An answer normally takes well below a second.
ANSWER_S = 90.0
_TRACE = "battery-streaming-pipeline"


class Sent:
    """One append that is under way."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.sent_s = time.monotonic()
        self._answered = threading.Event()
        self._answer: Answer | None = None
        self.milliseconds = 0

    @property
    def failed(self) -> bool:
        """Whether it was answered, and may be tried again."""
        return self._answer is not None and self._answer.retryable

    def tell(self, answer: Answer) -> None:
        """What became of it."""
        self._answer = answer
        self.milliseconds = round((time.monotonic() - self.sent_s) * 1000)
        self._answered.set()

    def wait(self) -> Answer:
        """The answer; after ANSWER_S without one the connection is given up."""
        if not self._answered.wait(ANSWER_S):
            self._connection.close()
            self._answered.wait()
        assert self._answer is not None
        return self._answer


class Connection:
    """An open AppendRows call to one stream.

    Args:
        client: the API's client.
        stream: the stream's resource name.
        form: the Arrow schema of all rows.
    """

    def __init__(self, client: BigQueryWriteClient, stream: str, form: pa.Schema) -> None:
        self._stream = stream
        self._schema = form.serialize().to_pybytes()
        self._outgoing: queue.SimpleQueue[types.AppendRowsRequest | None] = queue.SimpleQueue()
        self._waiting: deque[Sent] = deque()
        self._lock = threading.Lock()
        self._known = False
        self._broken: Answer | None = None
        # Around the generated method, which would wait for the first answer.
        append_rows: Any = client.transport.append_rows
        self._call = append_rows(
            self._requests(),
            metadata=(("x-goog-request-params", f"write_stream={stream}"),),
        )
        threading.Thread(target=self._receive, daemon=True, name="bigquery").start()

    @property
    def usable(self) -> bool:
        """Whether more can be sent."""
        return self._broken is None

    def send(self, data: bytes, offset: int | None = None) -> Sent:
        """Appends rows; at once, whatever has been answered by then.

        Args:
            data: an Arrow record batch of the connection's schema.
            offset: where in the stream they are to be; None for a default stream.
        """
        rows = types.AppendRowsRequest.ArrowData(
            rows=types.ArrowRecordBatch(serialized_record_batch=data)
        )
        request = types.AppendRowsRequest(arrow_rows=rows, offset=offset)
        sent = Sent(self)
        with self._lock:
            if self._broken is not None:
                sent.tell(self._broken)
                return sent
            # Until one has been taken: who refuses the first may have forgotten what it said.
            if not self._known:
                request.write_stream = self._stream
                request.trace_id = _TRACE
                request.arrow_rows.writer_schema.serialized_schema = self._schema
            self._waiting.append(sent)
            self._outgoing.put(request)
        return sent

    def close(self) -> None:
        """Ends the call; what is under way is answered with CANCELLED."""
        self._call.cancel()

    def _requests(self) -> Iterator[types.AppendRowsRequest]:
        while (request := self._outgoing.get()) is not None:
            yield request

    def _receive(self) -> None:
        ended = Answer(grpc.StatusCode.UNAVAILABLE, "the connection was closed")
        try:
            for response in self._call:
                answer = answers.of_response(response)
                self._known |= answer.written
                self._waiting.popleft().tell(answer)
        except grpc.RpcError as error:
            ended = answers.of_error(error)
        finally:
            with self._lock:
                self._broken = ended
                lost, self._waiting = list(self._waiting), deque()
            self._outgoing.put(None)
            for sent in lost:
                sent.tell(ended)
