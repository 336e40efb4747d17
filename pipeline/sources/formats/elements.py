"""Keeps what travels between steps small: no batch is larger than a runner can carry."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.sources.formats.content import Output
from pipeline.sources.formats.meter import over
from transforms.batch import BatchKind, RawBatch
from transforms.budget import MIB, Budget

# Batches are cut to about this size where they can be.
PIECE_BYTES = 32 * MIB


def sized(output: Output, budget: Budget) -> Iterator[Output]:
    """The output in pieces of bounded size.

    Raises:
        Refused: a test is too large and can't be cut, because its rows depend on each other.
    """
    size = output.table.nbytes if isinstance(output, RawBatch) else 0
    if size <= PIECE_BYTES:
        yield output
        return
    assert isinstance(output, RawBatch)
    if not _is_cut(output):
        check_in_order(size, output.table.num_rows, budget)
        yield output
        return
    rows = max(1, output.table.num_rows * PIECE_BYTES // size)
    for start in range(0, output.table.num_rows, rows):
        yield output.slice(start, rows)


def check_in_order(size: int, rows: int, budget: Budget) -> None:
    """Refuses a test that is too large to travel in one piece."""
    if size > budget.in_order_bytes:
        raise over(
            budget,
            "in_order_mb",
            "its rows depend on those before (a counter for both directions, a clock set back, or "
            f"no time at all) and must be read in one piece: {rows:,} rows of {size // MIB:,} MiB; "
            "export the test in parts, such as _part1 and _part2",
        )


def _is_cut(batch: RawBatch) -> bool:
    """Whether each row can be read without the others."""
    if batch.kind is BatchKind.MESSAGES:
        return True
    how, start = batch.origin.reading, batch.origin.test_start_us
    return how is not None and not how.in_order and not how.counted and start is not None
