"""The raw lake on a local disk: raw archive, readings as Parquet, dead letters; create-only."""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.io.filesystems import FileSystems

from pipeline.errors import ConfigError
from pipeline.sinks import Produced, Sink, archive
from pipeline.sinks.archive import ArchiveBatches, ArchiveStream, hour_folder
from pipeline.sinks.background import Background
from pipeline.sinks.files import digest, write_parquet
from pipeline.sinks.recent import left_out, look
from pipeline.sources import RawFile
from transforms.batch import RawBatch
from transforms.order import RELEASE_ROWS

_DAY_US = 86_400_000_000
_COPY_BYTES = 4 * 1024 * 1024
# Dead letters are gathered over a bundle; beyond this they are written, so memory stays bounded.
_MOST_LETTER_BYTES = 64 * 1024 * 1024


def by_day(table: pa.Table, column: str) -> Iterator[tuple[str, pa.Table]]:
    """Cuts a table by the UTC day of a timestamp column; rows keep their order."""
    days = table.column(column).cast(pa.int64()).to_numpy() // _DAY_US
    for day in np.unique(days).tolist():
        mine = days == day
        part = table if mine.all() else table.filter(pa.array(mine))
        yield str(np.datetime64(day, "D")), part


def _write_named(folder: Path, table: pa.Table, key: str) -> None:
    """Writes a file that is named by the keys it holds."""
    write_parquet(folder / f"{digest([table.column(key)])}.parquet", table)


class _WriteReadings(beam.DoFn):
    """Writes readings by event day.

    Args:
        folder: the lake.
        gather: whether to write what comes in a bundle together. Live input brings the shards of
            a window in one; a file for each would make eight small ones of it.
    """

    def __init__(self, folder: str, gather: bool) -> None:
        self._folder = Path(folder, "readings")
        self._gather = gather
        self._background: Background | None = None
        self._held: list[pa.Table] = []

    def setup(self) -> None:
        if self._background is None:
            self._background = Background(threads=2, waiting=16)

    def start_bundle(self) -> None:
        self._held = []

    def process(self, table: pa.Table) -> None:
        self._held.append(table)
        if not self._gather or sum(held.num_rows for held in self._held) >= RELEASE_ROWS:
            self._flush()

    def _flush(self) -> None:
        if not self._held:
            return
        table = left_out(self._folder, "reading_id", pa.concat_tables(self._held))
        self._held = []
        assert self._background is not None
        for day, part in by_day(table, "recorded_at") if table.num_rows else ():
            self._background.submit(_write_named, self._folder / f"dt={day}", part, "reading_id")

    def finish_bundle(self) -> None:
        self._flush()
        assert self._background is not None
        self._background.drain()


class _WriteDeadLetters(beam.DoFn):
    def __init__(self, folder: str) -> None:
        self._folder = Path(folder, "dead_letters")
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
        table = left_out(self._folder, "dead_letter_id", table)
        for day, part in by_day(table, "ingested_at") if table.num_rows else ():
            _write_named(self._folder / f"dt={day}", part, "dead_letter_id")


class _ArchiveFile(beam.DoFn):
    def __init__(self, folder: str) -> None:
        self._folder = folder

    def process(self, file: RawFile) -> None:
        """Copies the file; its folder is named by its content, so it is kept once."""
        root = Path(self._folder, "raw", "source=files", hour_folder(file.arrived_at_us))
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


class LakeSink(Sink):
    """Files under one folder, named by their content: writing them again changes nothing.

    `raw/source=…/dt=…/hr=…/` by arrival time, `readings/dt=…/` by event day,
    `dead_letters/dt=…/` by arrival day.

    Args:
        folder: the lake.
        source: the source as configured.
        since_s: since when the last run of a live job wrote what it could not commit, seconds
            since 1970; that is read once more and left out. None: there was none, or the input
            is bounded.
    """

    def __init__(self, folder: str, source: str, since_s: float | None = None) -> None:
        self._folder = folder
        self._since_s = since_s
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
        if self._since_s is not None:
            self.look_again(self._since_s)

    def write(self, produced: Produced) -> None:
        """Adds the steps that archive, and write readings."""
        if self._archive and produced.files is not None:
            _ = produced.files | "ArchiveFiles" >> beam.ParDo(_ArchiveFile(self._folder))
        if self._archive and produced.raw is not None:
            self._archive_messages(produced.raw)
        gather = not produced.readings.is_bounded
        _ = produced.readings | "LakeReadings" >> beam.ParDo(_WriteReadings(self._folder, gather))

    def write_dead_letters(self, letters: beam.PCollection) -> None:
        """Adds the step that writes dead letters."""
        _ = letters | "LakeDeadLetters" >> beam.ParDo(_WriteDeadLetters(self._folder))

    def look_again(self, since_s: float) -> None:
        """Finds out what others, or an earlier run, have put here since `since_s`."""
        archive.look_again()
        folder = Path(self._folder)
        look(folder / "readings", "reading_id", "recorded_at", since_s)
        look(folder / "dead_letters", "dead_letter_id", "ingested_at", since_s)

    def _archive_messages(self, raw: beam.PCollection) -> None:
        if raw.is_bounded:
            same = not self._source.startswith(("kafka://", "pubsub://"))
            batches = ArchiveBatches(self._folder, self._source, same)
            _ = raw | "ArchiveMessages" >> beam.ParDo(batches)
            return
        keyed = raw | "AsOne" >> beam.Map(lambda batch: (0, batch)).with_output_types(
            tuple[int, RawBatch]
        )
        _ = keyed | "ArchiveStream" >> beam.ParDo(ArchiveStream(self._folder, self._source))


def _lies_in(source: str, folder: str) -> bool:
    with contextlib.suppress(OSError, ValueError):
        return Path(source).resolve().is_relative_to(Path(folder).resolve())
    return False
