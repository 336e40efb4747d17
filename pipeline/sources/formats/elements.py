"""Keeps what travels between steps small: no batch is larger than a runner can carry."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.sources.formats.content import Output
from transforms.batch import BatchKind, RawBatch
from transforms.budget import MIB

# Batches are cut to about this size.
PIECE_BYTES = 32 * MIB


def sized(output: Output) -> Iterator[Output]:
    """Messages in pieces of bounded size; rows are cut where they are read."""
    size = output.table.nbytes if isinstance(output, RawBatch) else 0
    if size <= PIECE_BYTES or not isinstance(output, RawBatch) or output.kind is BatchKind.ROWS:
        yield output
        return
    rows = max(1, output.table.num_rows * PIECE_BYTES // size)
    for start in range(0, output.table.num_rows, rows):
        yield output.slice(start, rows)
