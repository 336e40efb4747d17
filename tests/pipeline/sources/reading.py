"""Runs the file source for tests: without Beam where that will do, else on the Fn runner."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.test_pipeline import TestPipeline

from pipeline.sources.files.readahead import read_group
from pipeline.sources.files.source import FileSource
from pipeline.sources.files.splits import grouped, list_files, planned
from pipeline.sources.formats.content import Messages, Settings, Summaries
from pipeline.sources.formats.messages import Packer
from pipeline.stores.raw_file import RawFile
from transforms import dead_letter
from transforms.batch import BatchKind, RawBatch
from transforms.dead_letter import DeadLetter


@dataclass
class Found:
    """What a source gave."""

    batches: list[RawBatch] = field(default_factory=list)
    letters: list[dict[str, Any]] = field(default_factory=list)
    files: list[RawFile] = field(default_factory=list)
    counters: dict[str, int] = field(default_factory=dict)
    summaries: list[Summaries] = field(default_factory=list)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """All rows of all batches in the order of their place in the file."""
        batches = sorted(
            self.batches, key=lambda b: (b.origin.source_file or "", b.origin.first_row)
        )
        return [row for batch in batches for row in batch.table.to_pylist()]

    @property
    def errors(self) -> list[str]:
        """The error types of the dead letters."""
        return [letter["error_type"] for letter in self.letters]

    def column(self, name: str) -> list[Any]:
        """One column of all rows."""
        return [row.get(name) for row in self.rows]

    def check_origins(self) -> None:
        """Batches of one test must agree on its start, and those of a file not overlap."""
        by_file: dict[str | None, list[RawBatch]] = {}
        starts: dict[tuple[str | None, str | None], set[int | None]] = {}
        for batch in self.batches:
            if batch.kind is BatchKind.MESSAGES:  # their place is a column
                continue
            by_file.setdefault(batch.origin.source_file, []).append(batch)
            # A file of results may hold the tests of several cells.
            test = (batch.origin.source_file, batch.origin.equipment_id)
            starts.setdefault(test, set()).add(batch.origin.test_start_us)
        assert all(len(found) == 1 for found in starts.values())
        for batches in by_file.values():
            batches.sort(key=lambda batch: batch.origin.first_row)
            end = 0
            for batch in batches:
                assert batch.origin.first_row > end
                end = batch.origin.first_row + batch.table.num_rows - 1


def read(path: Path | str, skip: tuple[str, ...] = (), **settings: Any) -> Found:
    """What the source reads, by the same steps as in the graph but without Beam."""
    settings = {"source": "test", **settings}
    found, config = Found(), Settings(**settings)
    letters: list[DeadLetter] = []
    for group in grouped(list_files(str(path), skip), config):
        for part in planned(group, config):
            packer = Packer(config)
            for _, output in read_group(part, config):
                if isinstance(output, DeadLetter):
                    letters.append(output)
                elif isinstance(output, Messages):
                    found.batches += packer.add(output)
                elif isinstance(output, Summaries):
                    found.summaries.append(output)
                else:
                    found.batches.append(output)
            found.batches += packer.flush()
    found.letters = dead_letter.table(letters).to_pylist()
    return found


def read_file(folder: Path, name: str, data: bytes, **settings: Any) -> Found:
    """The same for one file with these bytes."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return read(path, **settings)


_collected: list[tuple[str, Any]] = []


class _Collect(beam.DoFn):
    def __init__(self, kind: str) -> None:
        self._kind = kind

    def process(self, element: Any) -> None:
        _collected.append((self._kind, element))


def run(source: FileSource, options: PipelineOptions | None = None) -> Found:
    """What the source gives in a Beam pipeline."""
    _collected.clear()
    pipeline = TestPipeline(runner=FnApiRunner(), options=options)
    received = source.read(pipeline)
    received.batches | "Batches" >> beam.ParDo(_Collect("batch"))
    received.dead_letters | "Letters" >> beam.ParDo(_Collect("letters"))
    received.files | "Files" >> beam.ParDo(_Collect("file"))
    result = pipeline.run()
    result.wait_until_finish()
    found = Found()
    for kind, element in _collected:
        if kind == "batch":
            found.batches.append(element)
        elif kind == "file":
            found.files.append(element)
        else:
            assert isinstance(element, pa.Table)
            found.letters += element.to_pylist()
    for counter in result.metrics().query()["counters"]:
        if counter.key.metric.namespace == "account":
            name = counter.key.metric.name
            found.counters[name] = found.counters.get(name, 0) + counter.committed
    return found
