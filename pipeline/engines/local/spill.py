"""What the local runner would keep in memory between two stages, kept in a file."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa

from pipeline.engines.properties import Engine
from pipeline.scratch import in_tmpdir
from transforms import batch

# Below this an element is cheaper kept than written.
_SPILL_BYTES = 32 * 1024
_FILE = "the local runner's file"


class SpillStore(batch.BatchStore):
    """Keeps large encoded batches in one temporary file instead of memory.

    The local runner holds everything between two stages as bytes in memory; with this, what it
    holds of a batch is a place in a file, and memory no longer grows with the input. The file
    has no name in the file system and is gone with the process, however that ends.
    """

    def __init__(self) -> None:
        with in_tmpdir(_FILE):
            self._file = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the store
        self._end = 0
        self._lock = threading.Lock()

    def put(self, data: pa.Buffer) -> bytes:
        """Appends `data` to the file and returns its place, or the data itself if it is small."""
        if data.size < _SPILL_BYTES:
            return super().put(data)
        with self._lock:
            start, self._end = self._end, self._end + data.size
        view = memoryview(data)
        written = 0
        with in_tmpdir(_FILE):
            while written < data.size:
                written += os.pwrite(self._file.fileno(), view[written:], start + written)
        return b"\x01" + start.to_bytes(8, "big") + int(data.size).to_bytes(8, "big")

    def get(self, handle: bytes) -> pa.Buffer:
        """Reads the data back."""
        start = int.from_bytes(handle[1:9], "big")
        size = int.from_bytes(handle[9:17], "big")
        parts = []
        with in_tmpdir(_FILE, "read"):
            while size:
                part = os.pread(self._file.fileno(), size, start)
                if not part:
                    raise OSError("it ends early")
                parts.append(part)
                start, size = start + len(part), size - len(part)
        return pa.py_buffer(parts[0] if len(parts) == 1 else b"".join(parts))

    def close(self) -> None:
        """Gives the disk space back."""
        self._file.close()


@contextmanager
def local_shuffle(engine: Engine, live: bool = False) -> Iterator[None]:
    """Within it, batches between the stages of a one-process local run are kept on disk.

    Those of bounded input: the file has no end, and live input keeps little.
    """
    if live or not engine.one_process:
        yield
        return
    store = SpillStore()
    batch.use_store(store)
    try:
        yield
    finally:
        batch.use_store(None)
        store.close()
