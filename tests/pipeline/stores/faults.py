"""A proxy in front of a real server that fails when it is told to."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

# What may happen to a request: an HTTP status is answered in the server's place; LOST is done by
# the server, but its answer does not arrive; CUT is neither; PASSED is no fault.
LOST = "lost"
CUT = "cut"
PASSED = "passed"
Fault = int | str

_HOP = ("connection", "transfer-encoding", "keep-alive", "content-length", "date", "server")


class Faults:
    """Passes requests on to 127.0.0.1:`target`; as a context manager it runs.

    Attributes:
        url: where clients reach it.
        seen: method and path of every request.
    """

    def __init__(self, target: int) -> None:
        self.seen: list[tuple[str, str]] = []
        self._target = target
        self._plan: list[tuple[Callable[[str, str], bool], Fault]] = []
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def plan(self, *faults: Fault, of: str = "", methods: str = "POST PUT") -> None:
        """Has the next requests fail, one fault each.

        Args:
            faults: what happens to them.
            of: what their path holds.
            methods: theirs.
        """

        def fits(method: str, path: str) -> bool:
            return method in methods.split() and of in path

        with self._lock:
            self._plan = [(fits, fault) for fault in faults]
            self.seen.clear()

    @property
    def left(self) -> int:
        """How many of the planned faults have not happened."""
        return len(self._plan)

    def _next(self, method: str, path: str) -> Fault | None:
        with self._lock:
            self.seen.append((method, path))
            if self._plan and self._plan[0][0](method, path):
                return self._plan.pop(0)[1]
            return None

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        faults = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def _pass_on(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                fault = faults._next(self.command, self.path)
                if fault == CUT:
                    return self._cut()
                if isinstance(fault, int):
                    return self._answer(fault, {}, b"")
                upstream = http.client.HTTPConnection("127.0.0.1", faults._target, timeout=60)
                with contextlib.closing(upstream):
                    upstream.request(self.command, self.path, body, dict(self.headers))
                    answer = upstream.getresponse()
                    data = answer.read()
                if fault == LOST:
                    return self._cut()
                headers = dict(answer.getheaders())
                if self.command == "HEAD":
                    headers["X-Length"] = headers.get("Content-Length", "0")
                return self._answer(answer.status, headers, data)

            def _answer(self, status: int, headers: dict[str, str], data: bytes) -> None:
                self.send_response(status)
                length = headers.pop("X-Length", str(len(data)))
                for name, value in headers.items():
                    if name.lower() not in _HOP:
                        self.send_header(name, value)
                self.send_header("Content-Length", length)
                self.end_headers()
                self.wfile.write(data)

            def _cut(self) -> None:
                self.close_connection = True
                with contextlib.suppress(OSError):
                    self.connection.shutdown(socket.SHUT_RDWR)

        for method in ("GET", "POST", "PUT", "HEAD", "DELETE"):
            setattr(Handler, f"do_{method}", Handler._pass_on)
        return Handler
