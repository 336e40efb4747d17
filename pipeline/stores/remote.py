"""What stores in the cloud share: patience with a server, and files that are read in ranges."""

from __future__ import annotations

import io
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import BinaryIO, cast

import pyarrow as pa
from google.api_core.retry import Retry

from pipeline.stores import Content

# A server that is down for longer ends the job, which can be started again.
PATIENCE_S = 180.0
# An error has to be on the screen before anybody wonders whether the job hangs.
CHECK_S = 12.0
CONNECT_S = 10.0
ANSWER_S = 60.0
# A larger file is looked for first: where it is there already, sending it would be in vain.
LARGE_BYTES = 8 * 1024 * 1024
# A Parquet file's footer mostly fits in it.
_BUFFER_BYTES = 64 * 1024
# Content is looked at in pieces; the parts of an upload are a multiple of it.
BLOCK_BYTES = 1024 * 1024

# A log says once in so many seconds that an outage lasts.
_EVERY_S = 60.0
# By store: since when requests fail, and when that was logged last; monotonic clock.
_outages: dict[str, tuple[float, float | None]] = {}
_lock = threading.Lock()
_log = logging.getLogger(__name__)


def passing(status: int | None) -> bool:
    """Whether an HTTP status may be another one soon."""
    return status is not None and (status in (408, 429) or (500 <= status != 501))


def retrying(place: str, path: str, soon_over: Callable[[Exception], bool]) -> Retry:
    """Tries again for PATIENCE_S, at growing intervals; logs the first failure, and then one a minute.

    Args:
        place: the store, for the log.
        path: the file in it.
        soon_over: whether it is worth to try again after an error.
    """

    def tell(error: Exception) -> None:
        now = time.monotonic()
        with _lock:
            began, told = _outages.get(place, (now, None))
            if told is not None and now - told < _EVERY_S:
                return
            _outages[place] = (began, now)
        lasted = f" (for {now - began:.0f} s by now)" if told else ""
        said = " ".join(str(error).split())
        _log.warning("%s/%s: %s%s; trying again for %.0f s", place, path, said, lasted, PATIENCE_S)

    return Retry(predicate=soon_over, initial=0.25, maximum=15.0, timeout=PATIENCE_S, on_error=tell)


def answered(place: str) -> None:
    """A request succeeded: what was logged as an outage is over."""
    if place not in _outages:
        return
    with _lock:
        began, _ = _outages.pop(place, (None, None))
    if began is not None:
        _log.warning("%s answers again, after %.1f s", place, time.monotonic() - began)


def size_of(data: Content) -> int:
    """Bytes."""
    if isinstance(data, bytes | pa.Buffer):
        return memoryview(data).nbytes
    return data.seek(0, os.SEEK_END)


def blocks(data: Content) -> Iterator[bytes]:
    """The content piece by piece."""
    file = io.BytesIO(data) if isinstance(data, bytes | pa.Buffer) else data
    file.seek(0)
    while block := file.read(BLOCK_BYTES):
        yield block


def hidden(path: str) -> bool:
    """Whether it isn't a file of the lake: a marker of a folder, or something that hides."""
    return path.endswith("/") or "/." in f"/{path}"


def reader(size: int, fetch: Callable[[int, int], bytes]) -> BinaryIO:
    """A file of so many bytes, which `fetch` gets from one place to another, exclusive."""
    return cast("BinaryIO", io.BufferedReader(Ranged(size, fetch), _BUFFER_BYTES))


class Ranged(io.RawIOBase):
    """A file that is fetched piece by piece, each read a request.

    Args:
        size: bytes.
        fetch: gets what lies from one place to another, exclusive.
    """

    def __init__(self, size: int, fetch: Callable[[int, int], bytes]) -> None:
        super().__init__()
        self._size = size
        self._fetch = fetch
        self._at = 0

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """The place of the next read."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Goes elsewhere; costs no request."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(base + offset, 0)
        return self._at

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        """Fills the buffer, less at the file's end."""
        end = min(self._at + len(buffer), self._size)
        if end <= self._at:
            return 0
        data = self._fetch(self._at, end)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def readall(self) -> bytes:
        """All from here on, in one request."""
        start, self._at = self._at, max(self._at, self._size)
        return self._fetch(start, self._size) if start < self._size else b""
