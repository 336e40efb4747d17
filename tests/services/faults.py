"""Proxies in front of an emulator that refuse, lose, delay or cut what the test asks them to."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import SimpleQueue
from typing import Any, Self
from urllib.parse import urlsplit

import grpc
from google.cloud.bigquery_storage_v1 import types
from google.rpc import status_pb2

from tests.services.bigquery import BigQuery

_REASONS = {
    403: "quotaExceeded", 404: "notFound", 429: "rateLimitExceeded", 500: "internalError",
    503: "backendError",
}  # fmt: skip


@dataclass
class Fault:
    """What is to happen to requests.

    Attributes:
        kind: `refuse` (not forwarded, answered with an error), `lose` (forwarded, but the answer
            is lost with the connection), `cut` (the connection is lost before it is forwarded).
        where: a part of the method's or path's name; empty for all.
        times: how many requests it still befalls.
        after: how many it lets pass before.
        code: status of a refusal: of HTTP, or of gRPC.
        message: of a refusal.
        inside: of AppendRows: whether the refusal is an answer on a connection that stays.
        seconds: to wait first.
        rows: of AppendRows: indexes of rows that the refusal, on a connection that stays, names.
    """

    kind: str
    where: str = ""
    times: int = 1
    after: int = 0
    code: Any = None
    message: str = "injected"
    inside: bool = False
    seconds: float = 0.0
    rows: Sequence[int] = ()


class Faults:
    """The faults that are still to happen, and what has come by; for several threads."""

    def __init__(self) -> None:
        self._planned: list[Fault] = []
        self._lock = threading.Lock()
        self.seen: Counter[str] = Counter()
        self.done: Counter[str] = Counter()

    def plan(self, kind: str, **how: Any) -> None:
        """Lets a fault happen to the next requests; see `Fault`."""
        with self._lock:
            self._planned.append(Fault(kind, **how))

    def clear(self) -> None:
        """Nothing more happens."""
        with self._lock:
            self._planned.clear()

    def next(self, where: str) -> Fault | None:
        """What happens to a request that has just come."""
        with self._lock:
            self.seen[where] += 1
            for fault in self._planned:
                if fault.where not in where or fault.times <= 0:
                    continue
                if fault.after > 0:
                    fault.after -= 1
                    continue
                fault.times -= 1
                self.done[fault.kind] += 1
                break
            else:
                return None
        time.sleep(fault.seconds)
        return None if fault.kind == "delay" else fault


class HttpProxy:
    """An HTTP server that forwards to another; `url` is its own address."""

    def __init__(self, target: str, faults: Faults) -> None:
        handler = type(
            "Handler", (_Forward,), {"target": urlsplit(target).netloc, "faults": faults}
        )
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def start(self) -> None:
        """Serves from now on."""
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        """Serves no more."""
        self._server.shutdown()
        self._server.server_close()


class _Forward(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    target: str
    faults: Faults

    def _forward(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.faults.next(f"{self.command} {self.path}")
        if fault and fault.kind == "cut":
            self.close_connection = True
            return
        if fault and fault.kind == "refuse":
            self._answer(fault.code, json.dumps(_error(fault)).encode(), {})
            return
        backend = http.client.HTTPConnection(self.target, timeout=120)
        kept = {k: v for k, v in self.headers.items() if k.lower() not in ("host", "connection")}
        backend.request(self.command, self.path, body, {**kept, "Host": self.headers["Host"]})
        got = backend.getresponse()
        content = got.read()
        backend.close()
        if fault:
            self.close_connection = True
            return
        told = ("content-length", "transfer-encoding", "connection", "content-encoding")
        headers = {k: v for k, v in got.getheaders() if k.lower() not in told}
        if encoding := got.getheader("Content-Encoding"):
            headers["Content-Encoding"] = encoding
        self._answer(got.status, content, headers)

    def _answer(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _forward  # noqa: N815 - the library's names

    def log_message(self, *_: Any) -> None:
        """Says nothing."""


def _error(fault: Fault) -> dict[str, Any]:
    reason = _REASONS.get(fault.code, "invalid")
    told = {"reason": reason, "message": fault.message, "domain": "global"}
    return {"error": {"code": fault.code, "message": fault.message, "errors": [told]}}


class GrpcProxy(grpc.GenericRpcHandler):
    """A gRPC server that forwards every method to another; `host` is its own `host:port`.

    A fault befalls a message of a stream, not the whole stream.
    """

    def __init__(self, target: str, faults: Faults) -> None:
        self._faults = faults
        sizes = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        self._channel = grpc.insecure_channel(target, options=sizes)
        self._server = grpc.server(
            ThreadPoolExecutor(max_workers=100), handlers=[self], options=sizes
        )
        self.host = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    def start(self) -> None:
        """Serves from now on."""
        self._server.start()

    def stop(self) -> None:
        """Serves no more; cuts every connection."""
        self._server.stop(None).wait()
        self._channel.close()

    def service(self, handler_call_details: Any) -> grpc.RpcMethodHandler:
        """How a method is forwarded: as the bytes that come and go."""
        method = handler_call_details.method
        name = method.rpartition("/")[2]
        if name == "AppendRows":
            call = self._channel.stream_stream(method)
            return grpc.stream_stream_rpc_method_handler(
                lambda requests, context: self._stream(call, name, requests, context)
            )
        one = self._channel.unary_unary(method)
        return grpc.unary_unary_rpc_method_handler(
            lambda request, context: self._unary(one, name, request, context)
        )

    def _unary(self, call: Any, name: str, request: bytes, context: Any) -> bytes:
        fault = self._faults.next(name)
        if fault and fault.kind != "lose":
            _abort(fault, context)
        try:
            answer: bytes = call(request)
        except grpc.RpcError as error:
            context.abort(error.code(), error.details())
        if fault:
            _abort(fault, context)
        return answer

    def _stream(
        self, call: Any, name: str, requests: Iterator[bytes], context: Any
    ) -> Iterator[bytes]:
        outgoing: SimpleQueue[bytes | None] = SimpleQueue()
        answers = call(iter(outgoing.get, None))
        context.add_callback(answers.cancel)
        try:
            for request in requests:
                fault = self._faults.next(name)
                if fault and fault.kind == "refuse" and fault.inside:
                    yield types.AppendRowsResponse.serialize(_refusal(fault))
                    continue
                if fault and fault.kind != "lose":
                    _abort(fault, context)
                outgoing.put(request)
                answer = next(answers)
                if fault:
                    _abort(fault, context)
                yield answer
        except grpc.RpcError as error:
            # Without a code it is the caller who has gone.
            if isinstance(error, grpc.Call):
                context.abort(error.code(), error.details())
        finally:
            outgoing.put(None)


def _refusal(fault: Fault) -> types.AppendRowsResponse:
    named = [types.RowError(index=row, code=1, message=fault.message) for row in fault.rows]
    status = status_pb2.Status(code=fault.code.value[0], message=fault.message)
    return types.AppendRowsResponse(error=status, row_errors=named)


def _abort(fault: Fault, context: Any) -> None:
    code = fault.code if fault.kind == "refuse" else grpc.StatusCode.UNAVAILABLE
    context.abort(code, fault.message)


class FaultyBigQuery:
    """An emulator behind two proxies; as a context manager they serve until the end.

    Attributes:
        rest: faults of the API.
        storage: faults of the Storage Write API.
    """

    def __init__(self, emulator: BigQuery) -> None:
        self.rest, self.storage = Faults(), Faults()
        self._emulator = emulator
        self._http = HttpProxy(emulator.rest, self.rest)
        self._grpc = GrpcProxy(emulator.grpc, self.storage)

    @property
    def environment(self) -> dict[str, str]:
        """The variables that lead clients to the emulator by way of the proxies."""
        return {
            **self._emulator.environment,
            "BIGQUERY_EMULATOR_HOST": self._http.url,
            "BIGQUERY_STORAGE_EMULATOR_HOST": self._grpc.host,
        }

    def __enter__(self) -> Self:
        self._http.start()
        self._grpc.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.stop()
        self._grpc.stop()
