"""Chooses the runner by our own rule, and mends what the local one lacks."""

from __future__ import annotations

import difflib
import os
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum

import pyarrow as pa
from apache_beam.options.pipeline_options import (
    DebugOptions,
    PipelineOptions,
    PortableOptions,
    StandardOptions,
)
from apache_beam.runners.direct.direct_runner import BundleBasedDirectRunner
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.runners.runner import PipelineRunner, create_runner

from pipeline.errors import ConfigError
from pipeline.scratch import in_tmpdir
from pipeline.streaming import live as streaming_live
from pipeline.streaming import mendings
from transforms import batch

# Below this an element is cheaper kept than written.
_SPILL_BYTES = 32 * 1024
_FILE = "the local runner's file"
_ENDPOINT_S = 5.0
# Those that the job is made for and tested on; Beam has more.
_USUAL = ("DirectRunner", "PrismRunner", "FlinkRunner", "DataflowRunner")


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


class Where(Enum):
    """What kind of runner a job runs on, as far as sources have to know.

    Attributes:
        HERE: this process, whose live sources see when every sink has what they gave.
        MEMORY: an engine that keeps what it has taken in memory (Prism).
        KEPT: an engine that has made durable what it says it has taken (Dataflow, Flink).
    """

    HERE = "here"
    MEMORY = "memory"
    KEPT = "kept"


def check(options: PipelineOptions) -> None:
    """Gives `--runner` the name that Beam has for it, in its spelling.

    Raises:
        ConfigError: there is no such runner, it can't be used here, or with so many workers.
    """
    workers = options.get_all_options().get("direct_num_workers")
    if workers is not None and int(workers) < 0:
        raise ConfigError(f"--direct_num_workers={workers}: must be 0 (one a core) or more")
    chosen = options.view_as(StandardOptions)
    given = chosen.runner or _USUAL[0]
    known = {name.lower(): name for name in StandardOptions.KNOWN_RUNNER_NAMES}
    # As Beam understands it.
    name = known.get(given.lower()) or known.get(f"{given}runner".lower())
    if name is None and "." not in given:
        close = difflib.get_close_matches(given.lower(), known, n=1)
        hint = f"did you mean {known[close[0]]}? There are" if close else "there are"
        raise ConfigError(f"--runner={given}: no such runner; {hint} {_usual()}")
    chosen.runner = name or given
    if is_local(options):
        return
    if (endpoint := options.view_as(PortableOptions).job_endpoint) and endpoint != "embed":
        _answers(endpoint)
    if chosen.runner in _USUAL:
        return  # Beam has them; making one takes seconds.
    try:
        made = create_runner(chosen.runner)
    except Exception as error:
        why = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise ConfigError(
            f"--runner={given}: can't be used ({why}); there are {_usual()}"
        ) from error
    if not isinstance(made, PipelineRunner):
        raise ConfigError(f"--runner={given}: is no runner; there are {_usual()}")


def _answers(endpoint: str) -> None:
    """ConfigError if nobody listens there: Beam would wait for minutes, without a word."""
    host, _, port = endpoint.rpartition(":")
    if not host or not port.isdecimal():
        raise ConfigError(f"--job_endpoint={endpoint}: must be HOST:PORT")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _ENDPOINT_S).close()
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"--job_endpoint={endpoint}: nothing answers there "
            f"({getattr(error, 'strerror', None) or error}); start the job server, or correct it"
        ) from error


def _usual() -> str:
    return f"{', '.join(_USUAL[:-1])} and {_USUAL[-1]}"


def where(options: PipelineOptions) -> Where:
    """What kind of runner `--runner` is."""
    if is_local(options):
        return Where.HERE
    name = str(options.view_as(StandardOptions).runner)
    return Where.MEMORY if "prism" in name.lower() else Where.KEPT


def is_local(options: PipelineOptions) -> bool:
    """Whether the job runs in this process."""
    return (options.view_as(StandardOptions).runner or "DirectRunner") in (
        "DirectRunner",
        "apache_beam.runners.DirectRunner",
        "FnApiRunner",
    )


def is_dataflow(options: PipelineOptions) -> bool:
    """Whether the job runs on Dataflow."""
    return str(options.view_as(StandardOptions).runner).lower().endswith("dataflowrunner")


def one_process(options: PipelineOptions) -> bool:
    """Whether a local job has no worker processes."""
    given = options.get_all_options()
    workers = int(given.get("direct_num_workers") or 1)
    return workers == 1 and (given.get("direct_running_mode") or "in_memory") == "in_memory"


def choose(options: PipelineOptions, live: bool = False) -> PipelineRunner:
    """The runner for `--runner`.

    DirectRunner would be Prism, Fn or the bundle-based one by what can be downloaded and what the
    graph holds; here bounded input always gets Fn, and a live source the bundle-based one, the
    only one in which windows fire while the source goes on, so that the job behaves the same
    everywhere.
    """
    if is_local(options):
        if live:
            streaming_live.install()
            mendings.install()
            return BundleBasedDirectRunner()
        return FnApiRunner()
    name = options.view_as(StandardOptions).runner
    if name.lower().endswith("prismrunner"):
        # Prism cuts slow bundles of stateful steps, too. Then two of them work on one key at the
        # same time, and what one of them remembers is lost.
        options.view_as(DebugOptions).add_experiment("prism_disable_sdf_split")
    return create_runner(name)


@contextmanager
def local_shuffle(options: PipelineOptions, live: bool = False) -> Iterator[None]:
    """Within it, batches between the stages of a one-process local run are kept on disk.

    Those of bounded input: the file has no end, and live input keeps little.
    """
    if live or not (is_local(options) and one_process(options)):
        yield
        return
    store = SpillStore()
    batch.use_store(store)
    try:
        yield
    finally:
        batch.use_store(None)
        store.close()
