"""What was read of each file: a row of `source_positions`, however many parts the file was read in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import apache_beam as beam
import pyarrow as pa

from pipeline.sources.live.positions import Run, table

# So many files' rows are one table.
_FILES = 1000


class Read(NamedTuple):
    """What was read of a file, or of a part of it.

    Attributes:
        rows: rows, messages and what was refused instead of one.
        began_us: when that began, µs since 1970.
    """

    rows: int
    began_us: int


def of_part(rows: Mapping[str, int], began_us: int) -> list[tuple[str, Read]]:
    """What was read of the files of a part, by their names."""
    return [(name, Read(count, began_us)) for name, count in rows.items()]


class _Table(beam.DoFn):
    def __init__(self, run: str, source: str) -> None:
        self._run, self._source = run, source

    def process(self, files: list[tuple[str, Read]]) -> list[pa.Table]:
        rows = []
        for name, (read, began_us) in files:
            run = Run(self._run, self._source, name)
            first, last = (0, read - 1) if read else (None, None)
            rows.append(run.row(began_us, first=first, last=last, read=read))
        return [table(rows)]


def of_files(parts: beam.PCollection, run: str, source: str) -> beam.PCollection:
    """Tables of schema SOURCE_POSITION, a row a file.

    Args:
        parts: what `of_part` gives of every part.
        run: which run it is.
        source: the source as readings carry it.
    """
    return (
        parts
        | "Sum files" >> beam.CombinePerKey(beam.combiners.TupleCombineFn(sum, min))
        | "Several files" >> beam.BatchElements(1, _FILES)
        | "File positions" >> beam.ParDo(_Table(run, source)).with_output_types(pa.Table)
    )
