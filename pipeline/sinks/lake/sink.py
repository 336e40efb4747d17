"""The raw lake: raw archive and the job's tables as Parquet; create-only."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import apache_beam as beam
import pyarrow as pa

from pipeline.clock import CLOCK
from pipeline.engines import HERE, Engine
from pipeline.shown import address
from pipeline.sinks import Produced, Sink, Wanted
from pipeline.sinks.lake import archive, recent
from pipeline.sinks.lake.archive_steps import (
    ArchiveBatches,
    ArchiveStream,
    ToMessagePieces,
    WriteMessages,
)
from pipeline.sinks.lake.files_as_they_are import ArchiveFile
from pipeline.sinks.lake.tables import (
    CYCLE_SUMMARIES,
    CYCLES_LIVE,
    DEAD_LETTERS,
    LABEL,
    PREDICTIONS,
    READINGS,
    SOURCE_POSITIONS,
    TEST_DIALECTS,
    WINDOW_STATS,
    Kind,
    Parts,
    Sizes,
    ToPieces,
    WriteBundles,
    WriteTables,
)
from pipeline.stores import store_at
from schemas.forms import arrow_schema
from schemas.reading import READING
from transforms.batch import RawBatch
from transforms.gather import Gather, Piece

READING_SCHEMA = arrow_schema(READING)
# Beyond this, what a bundle gathers is written before it is over, so that memory stays bounded.
_BUNDLE_BYTES = 64 * 1024 * 1024
# So many workers gather for one day, or one hour of the archive, at the same time.
_SPREAD = 4
# Dataflow takes elements of up to 80 MB; what a file is made of has half as much again.
_MOST_BYTES = 40 * 1024 * 1024


class LakeSink(Sink):
    """Files below one place, named by their content: writing them again changes nothing.

    `raw/source=…/dt=…/hr=…/` by arrival time, `readings/dt=…/` by event day,
    `dead_letters/dt=…/`, `test_dialects/dt=…/` and `cycle_summaries/dt=…/` by arrival day, `source_positions/dt=…/` by the day
    of the run, `cycles_live/dt=…/` by the day a cycle began, `predictions/dt=…/` by the day it ended. A rerun of bounded input gives the same files, but for those of its positions. Of live
    input, the local runner leaves out what a run before it had written. Other runners may do a
    bundle again; what is written there has been through a shuffle, which Dataflow and Prism keep
    as it was. Flink goes back to its checkpoint, and may gather what came since in another way.

    Args:
        uri: a folder, gs://BUCKET/PREFIX or s3://BUCKET/PREFIX.
        source: the source as configured.
        since_s: since when the last run of a live job wrote what it could not commit, seconds
            since 1970; that is read once more and left out. None: there was none, or the input
            is bounded.
        engine: what the job runs on.
        file_bytes: how large a file should become.
        file_wait_s: how long live readings wait for one on other runners than the local one.
        statistics: whether to write the window statistics, too, for a warehouse that is loaded
            from the lake.
        shards: in which readings are put in order.
    """

    def __init__(
        self,
        uri: str,
        source: str,
        since_s: float | None = None,
        engine: Engine = HERE,
        file_bytes: int = 64 * 1024 * 1024,
        file_wait_s: float = 300.0,
        statistics: bool = False,
        shards: int = 8,
    ) -> None:
        self._store = store_at(uri)
        self.label, self.shown = LABEL, f"lake {address(uri)}"
        # Nothing is tried again there, and nothing travels.
        self._here = engine.here and not engine.repeats_bundles
        # One that goes back to a checkpoint goes back with its shuffles.
        self._keeps_shuffled = not (self._here or engine.goes_back)
        self._file_bytes = file_bytes if self._here else min(file_bytes, _MOST_BYTES)
        self._file_wait_s = file_wait_s
        self._shards = shards
        self._since_s = since_s
        self._kinds = [
            READINGS, DEAD_LETTERS, TEST_DIALECTS, CYCLE_SUMMARIES, SOURCE_POSITIONS, CYCLES_LIVE,
            PREDICTIONS,
        ]  # fmt: skip
        self._kinds += [WINDOW_STATS] if statistics else []
        # What already lies in this lake's archive is not archived again.
        self._archive = not _lies_in(source, uri)
        self._source = source.partition("?")[0]

    @classmethod
    def from_config(cls, wanted: Wanted) -> Self:
        """The lake that `--lake` names; with the window statistics where a warehouse is loaded from it."""
        config = wanted.config
        loaded = config.bigquery_method == "file_loads" and any(
            uri.partition(":")[0].lower() == "bigquery" for uri in config.warehouses
        )
        return cls(
            wanted.uri,
            config.source,
            wanted.since_s,
            wanted.engine,
            config.lake_file_bytes,
            config.lake_file_wait_s,
            statistics=loaded,
            shards=config.shards,
        )

    def check(self) -> None:
        """Finds out whether the place is there and can be used."""
        self._store.check()

    def prepare(self) -> None:
        """Finds out the same, and what an earlier run has left."""
        self._store.prepare()
        for kind in self._kinds:
            recent.forget(self._store, kind.root)
        if self._since_s is not None:
            self.look_again(self._since_s)

    def write(self, produced: Produced) -> None:
        """Adds the steps that archive, and write readings."""
        if self._archive and produced.files is not None:
            _ = produced.files | "ArchiveFiles" >> beam.ParDo(ArchiveFile(self._store))
        if self._archive and produced.raw is not None:
            self._archive_messages(produced.raw)
        versions = {"LakeReadings": produced.readings}
        if produced.superseded is not None:
            # The lake keeps every version.
            versions["LakeSuperseded"] = produced.superseded | "LakeSuperseded" >> beam.Map(
                lambda rows: rows.select(READING.names).cast(READING_SCHEMA)
            ).with_output_types(pa.Table)
        self._write(versions, READINGS, "LakeReadings")
        if WINDOW_STATS in self._kinds:
            stats = {"LakeWindowStats": produced.window_stats}
            self._write(stats, WINDOW_STATS, "LakeWindowStats")
        if produced.dialects is not None:
            self._write_few(produced.dialects, TEST_DIALECTS, "LakeTestDialects", once=True)
        if produced.summaries is not None:
            self._write_few(produced.summaries, CYCLE_SUMMARIES, "LakeCycleSummaries", once=True)
        if produced.positions is not None:
            self._write_few(produced.positions, SOURCE_POSITIONS, "LakeSourcePositions", once=True)
        if produced.cycles is not None:
            self._write_few(produced.cycles, CYCLES_LIVE, "LakeCyclesLive", once=True)
        if produced.predictions is not None:
            self._write_few(produced.predictions, PREDICTIONS, "LakePredictions", once=True)

    def write_dead_letters(self, letters: beam.PCollection) -> None:
        """Adds the steps that write dead letters."""
        self._write_few(letters, DEAD_LETTERS, "LakeDeadLetters")

    def _write_few(
        self, tables: beam.PCollection, kind: Kind, label: str, once: bool = False
    ) -> None:
        """Adds the steps that write rows of which few come, in any order."""
        if self._here:
            together = WriteBundles(self._store, kind, _BUNDLE_BYTES, by_key=True, once=once)
            _ = tables | label >> beam.ParDo(together)
        else:
            self._gathered({label: tables}, kind, label)

    def complete(self) -> None:
        """Finds out whether what was written is still there."""
        self._store.complete()

    def look_again(self, since_s: float) -> None:
        """Finds out what others, or an earlier run, have put here since `since_s`."""
        archive.look_again()
        for kind in self._kinds:
            recent.look(self._store, kind.root, since_s)

    def _write(self, given: Mapping[str, beam.PCollection], kind: Kind, label: str) -> None:
        """Adds the steps that write tables of one kind; `given` has them by where they come from."""
        if self._here and not given[label].is_bounded:
            tables = _together(list(given.values()), f"{label}Versions")
            together = WriteBundles(self._store, kind, _BUNDLE_BYTES)
            _ = tables | label >> beam.ParDo(together)
        else:
            self._gathered(given, kind, label)

    def _gathered(self, given: Mapping[str, beam.PCollection], kind: Kind, label: str) -> None:
        is_bounded = given[label].is_bounded
        # Bounded input gives the same tables again, which their names tell.
        again = not self._here and not is_bounded
        parts = Parts(1 if self._here else _SPREAD, self._shards, again)
        cut = [
            tables
            | f"{name}Days"
            >> beam.ParDo(ToPieces(kind, parts, Sizes(packed=not self._here))).with_output_types(
                tuple[str, Piece]
            )
            for name, tables in given.items()
        ]
        # Not the tables: they would travel once more, to where they come together.
        stable = self._stable(_together(cut, f"{label}Pieces"), label)
        _ = stable | label >> beam.ParDo(WriteTables(self._store, kind, parts))

    def _stable(self, pieces: beam.PCollection, label: str) -> beam.PCollection:
        """Tables of a file's size, which stay the same when a step is tried again."""
        gather = Gather(self._file_bytes, self._file_wait_s, time.time)
        gathered = pieces | f"{label}Gather" >> gather
        return gathered | f"{label}Stable" >> beam.Reshuffle() if self._keeps_shuffled else gathered

    def _archive_messages(self, raw: beam.PCollection) -> None:
        # Such a source gives the same batches whenever it is read.
        same = raw.is_bounded and not self._source.startswith(("kafka://", "pubsub://"))
        if raw.is_bounded and (same or self._here):
            batches = ArchiveBatches(self._store, self._source, same)
            _ = raw | "ArchiveMessages" >> beam.ParDo(batches)
        elif self._here:
            keyed = raw | "AsOne" >> beam.Map(lambda batch: (0, batch)).with_output_types(
                tuple[int, RawBatch]
            )
            _ = keyed | "ArchiveStream" >> beam.ParDo(
                ArchiveStream(self._store, self._source, CLOCK)
            )
        else:
            pieces = raw | "ArchivePieces" >> beam.ParDo(
                ToMessagePieces(_SPREAD, Sizes(packed=True))
            ).with_output_types(tuple[str, Piece])
            stable = self._stable(pieces, "ArchiveStream")
            _ = stable | "ArchiveStream" >> beam.ParDo(WriteMessages(self._store, self._source))


def _together(given: Sequence[beam.PCollection], label: str) -> beam.PCollection:
    return given[0] if len(given) == 1 else tuple(given) | label >> beam.Flatten()


def _lies_in(source: str, lake: str) -> bool:
    if "://" in source or "://" in lake:
        return f"{source.rstrip('/')}/".startswith(f"{lake.rstrip('/')}/")
    with contextlib.suppress(OSError, ValueError):
        return Path(source).resolve().is_relative_to(Path(lake).resolve())
    return False
