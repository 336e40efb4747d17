"""The raw lake on a local disk: raw archive, readings as Parquet, dead letters; create-only."""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.io.filesystems import FileSystems

from pipeline.errors import ConfigError
from pipeline.sinks import Produced
from pipeline.sinks.background import Background
from pipeline.sources import RawFile
from transforms.batch import RawBatch

_DAY_US = 86_400_000_000
_COPY_BYTES = 4 * 1024 * 1024
# Dead letters are gathered over a bundle; beyond this they are written, so memory stays bounded.
_MOST_LETTER_BYTES = 64 * 1024 * 1024


def _slug(text: str) -> str:
    """`text` as one path segment that every file system and query engine takes."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text).strip("_")[:80] or "source"


def _hour(arrived_us: int) -> str:
    moment = dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=arrived_us)
    return f"dt={moment:%Y-%m-%d}/hr={moment:%H}"


def _digest(arrays: Iterable[pa.ChunkedArray]) -> str:
    """A name for the content of columns, the same however they were cut into chunks."""
    digest = hashlib.blake2b(digest_size=10)
    for column in arrays:
        array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        if isinstance(array, pa.ChunkedArray):
            array = pa.concat_arrays(array.chunks)
        # A slice's buffers hold its neighbours too; a copy's do not.
        plain = pa.concat_arrays([array, array.slice(0, 0)]) if array.offset else array
        for buffer in plain.buffers():
            digest.update(buffer if buffer is not None else b"\x00")
    return digest.hexdigest()


@contextlib.contextmanager
def create_only(path: Path) -> Iterator[BinaryIO | None]:
    """A file to write that appears under `path` whole or not at all, and never over another.

    Yields None where `path` is there already: names tell the content, so nothing needs writing.
    """
    if path.exists():
        yield None
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".partial")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
        Path(temporary).chmod(0o644)
        # Another worker may have been faster; its file holds the same.
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        Path(temporary).unlink()


def write_parquet(path: Path, table: pa.Table) -> None:
    """Writes `table` as a create-only Parquet file (zstd)."""
    with create_only(path) as file:
        if file is not None:
            pq.write_table(table, file, compression="zstd", compression_level=1)


def by_day(table: pa.Table, column: str) -> Iterator[tuple[str, pa.Table]]:
    """Cuts a table by the UTC day of a timestamp column; rows keep their order."""
    days = table.column(column).cast(pa.int64()).to_numpy() // _DAY_US
    for day in np.unique(days).tolist():
        mine = days == day
        part = table if mine.all() else table.filter(pa.array(mine))
        yield str(np.datetime64(day, "D")), part


def _write_named(folder: Path, table: pa.Table, key: str) -> None:
    """Writes a file that is named by the keys it holds."""
    write_parquet(folder / f"{_digest([table.column(key)])}.parquet", table)


class _WriteReadings(beam.DoFn):
    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._background: Background | None = None

    def setup(self) -> None:
        self._background = Background(threads=2, waiting=16)

    def process(self, table: pa.Table) -> None:
        assert self._background is not None
        for day, part in by_day(table, "recorded_at"):
            folder = Path(self._folder, "readings", f"dt={day}")
            self._background.submit(_write_named, folder, part, "reading_id")

    def finish_bundle(self) -> None:
        assert self._background is not None
        self._background.drain()


class _WriteDeadLetters(beam.DoFn):
    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._held: list[pa.Table] = []
        self._bytes = 0

    def start_bundle(self) -> None:
        self._held, self._bytes = [], 0

    def process(self, letters: pa.Table) -> None:
        self._held.append(letters)
        self._bytes += letters.nbytes
        if self._bytes > _MOST_LETTER_BYTES:
            self._flush()

    def finish_bundle(self) -> None:
        self._flush()

    def _flush(self) -> None:
        if not self._held:
            return
        table = pa.concat_tables(self._held).sort_by("dead_letter_id")
        self._held, self._bytes = [], 0
        for day, part in by_day(table, "ingested_at"):
            folder = Path(self._folder, "dead_letters", f"dt={day}")
            _write_named(folder, part, "dead_letter_id")


class _ArchiveMessages(beam.DoFn):
    def __init__(self, folder: str, source: str) -> None:
        self._folder = folder
        self._source = source

    def process(self, raw: RawBatch) -> None:
        table = raw.table
        if not table.num_rows:
            return
        first = table.column("arrived_at").cast(pa.int64())[0].as_py()
        place = _hour(raw.origin.arrived_at_us if first is None else first)
        name = f"{_digest([table.column('payload'), table.column('position')])}.parquet"
        write_parquet(
            Path(self._folder, "raw", f"source={_slug(self._source)}", place, name), table
        )


class _ArchiveFile(beam.DoFn):
    def __init__(self, folder: str) -> None:
        self._folder = folder

    def process(self, file: RawFile) -> None:
        """Copies the file; its folder is named by its content, so it is kept once."""
        root = Path(self._folder, "raw", "source=files", _hour(file.arrived_at_us))
        root.mkdir(parents=True, exist_ok=True)
        digest = hashlib.blake2b(digest_size=10)
        handle, temporary = tempfile.mkstemp(dir=root, prefix=".", suffix=".partial")
        try:
            with (
                os.fdopen(handle, "wb") as out,
                FileSystems.open(file.path, compression_type="uncompressed") as source,
            ):
                while block := source.read(_COPY_BYTES):
                    digest.update(block)
                    out.write(block)
            path = root / digest.hexdigest() / file.source_file
            path.parent.mkdir(parents=True, exist_ok=True)
            Path(temporary).chmod(0o644)
            os.utime(temporary, ns=(file.arrived_at_us * 1000, file.arrived_at_us * 1000))
            with contextlib.suppress(FileExistsError):
                os.link(temporary, path)
        finally:
            Path(temporary).unlink()


class LakeSink:
    """Files under one folder, named by their content: writing them again changes nothing.

    `raw/source=…/dt=…/hr=…/` by arrival time, `readings/dt=…/` by event day,
    `dead_letters/dt=…/` by arrival day.
    """

    def __init__(self, folder: str, source: str) -> None:
        self._folder = folder
        # What already lies in this lake's archive is not archived again.
        self._archive = not _lies_in(source, folder)
        self._source = source.partition("?")[0]

    def prepare(self) -> None:
        """Makes the folder and tries to write there."""
        folder = Path(self._folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise ConfigError(
                f"--lake={self._folder}: can't be written ({error.strerror or error}); "
                "give a folder you may write to, or none"
            ) from error
        for left in folder.rglob(".*.partial"):
            # A job that was killed leaves these; one that runs holds none older than a day.
            if left.stat().st_mtime < dt.datetime.now(dt.UTC).timestamp() - 86_400:
                left.unlink(missing_ok=True)

    def write(self, produced: Produced) -> None:
        """Adds the steps that write the lake."""
        if self._archive and produced.files is not None:
            _ = produced.files | "ArchiveFiles" >> beam.ParDo(_ArchiveFile(self._folder))
        if self._archive and produced.raw is not None:
            _ = produced.raw | "ArchiveMessages" >> beam.ParDo(
                _ArchiveMessages(self._folder, self._source)
            )
        _ = produced.readings | "LakeReadings" >> beam.ParDo(_WriteReadings(self._folder))
        _ = produced.dead_letters | "LakeDeadLetters" >> beam.ParDo(_WriteDeadLetters(self._folder))


def _lies_in(source: str, folder: str) -> bool:
    with contextlib.suppress(OSError, ValueError):
        return Path(source).resolve().is_relative_to(Path(folder).resolve())
    return False
