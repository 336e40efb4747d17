"""Keeps a row that breaks the decoding from taking its batch along."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa
import pyarrow.compute as pc

from transforms.batch import RawBatch, stack
from transforms.decoded import NOTHING, Decoded
from transforms.rejects import Rejects

UNDECODABLE = "undecodable"


def guarded(
    raw: RawBatch, decode: Callable[[RawBatch], tuple[Decoded, Rejects]]
) -> tuple[Decoded, Rejects]:
    """What `decode` gives of a batch; a row that breaks it is refused as UNDECODABLE.

    Args:
        raw: the batch.
        decode: gives what is read of a batch, or of a part of one, and what is refused.
    """
    try:
        return decode(raw)
    except (MemoryError, OSError):
        raise  # the machine's, no message's
    except Exception as error:  # noqa: BLE001 - whatever it is, it is of some row of this batch
        return _in_parts(raw, decode, error)


def _in_parts(
    raw: RawBatch, decode: Callable[[RawBatch], tuple[Decoded, Rejects]], error: Exception
) -> tuple[Decoded, Rejects]:
    """A batch some row of which breaks the decoding: halved until the row stands alone."""
    rows = raw.table.num_rows
    if not rows:
        raise error
    rejects = Rejects()
    tables: list[pa.Table] = []
    starts: list[int] = []
    how = None
    left = [(0, rows, error)]
    while left:
        start, stop, why = left.pop()
        if stop - start == 1:
            rejects.add(start, UNDECODABLE, None, f"{type(why).__name__}: {why}")
            continue
        middle = (start + stop) // 2
        for first, behind in ((start, middle), (middle, stop)):
            try:
                part, refused = decode(raw.slice(first, behind - first))
            except (MemoryError, OSError):
                raise
            except Exception as again:  # noqa: BLE001 - as above
                left.append((first, behind, again))
                continue
            for row, reason in refused.rows.items():
                rejects.add(first + row, *reason)
            how = how or part.dialect
            starts += [] if part.test_start_us is None else [part.test_start_us]
            if part.table.num_rows:
                places = pc.add(part.table.column("row"), first)
                at = part.table.column_names.index("row")
                tables.append(part.table.set_column(at, "row", places))
    table = stack(tables).sort_by("row") if tables else NOTHING
    return Decoded(table, raw, min(starts, default=None), how), rejects
