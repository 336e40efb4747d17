"""Cuts rows into requests of the Storage Write API: Arrow record batches below its limit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipeline.sinks.base.refused import REFUSED
from schemas.forms import arrow_schema
from schemas.reading import Table

# What the dead letters of rows that BigQuery refused name as their step.
STEP = "bigquery"
# Large enough that what a request costs beside its rows is little, small enough that a few can be
# under way at once.
AIM_BYTES = 4 << 20
# BigQuery took 10 MB before it took 20; the rest is for what is not rows.
MOST_BYTES = 9 << 20
# Of a dead letter, whose other columns need little.
MOST_PAYLOAD_BYTES = 8 << 20


@dataclass(frozen=True)
class Request:
    """Rows that are appended at once, or one row that can't be.

    Attributes:
        rows: the rows, in one chunk.
        data: them as an encapsulated Arrow message; None if it is one row that is too large.
        size: bytes of it.
    """

    rows: pa.RecordBatch
    data: bytes | None
    size: int


def schema(table: Table) -> pa.Schema:
    """The Arrow schema that a table's rows are sent in.

    Every column may be null here: it is BigQuery that tells which rows lack what they need.
    """
    return pa.schema([pa.field(field.name, field.type) for field in arrow_schema(table)])


def shaped(rows: pa.Table, form: pa.Schema) -> pa.Table:
    """The rows in the schema that they are sent in."""
    return rows.select(form.names).cast(form)


def cut(rows: pa.Table) -> Iterator[Request]:
    """The requests that carry all of `rows`, in order; each a few MB."""
    if not rows.num_rows:
        return
    (batch,) = rows.combine_chunks().to_batches()
    per_row = max(batch.nbytes / batch.num_rows, 1)
    step = max(int(AIM_BYTES / per_row), 1)
    for start in range(0, batch.num_rows, step):
        yield from _fitting(batch.slice(start, step))


def _fitting(batch: pa.RecordBatch) -> Iterator[Request]:
    """As it is, or by halves where rows of very different size make it too large."""
    data = batch.serialize()
    if data.size <= MOST_BYTES:
        yield Request(batch, data.to_pybytes(), data.size)
    elif batch.num_rows == 1:
        yield Request(batch, None, data.size)
    else:
        half = batch.num_rows // 2
        yield from _fitting(batch.slice(0, half))
        yield from _fitting(batch.slice(half))


def parted(
    request: Request, named: Mapping[int, str]
) -> tuple[Request | None, pa.RecordBatch, list[tuple[str, str]]]:
    """A request without the rows that BigQuery named.

    Args:
        request: what was refused.
        named: index of a row → why.

    Returns:
        the other rows, None if there are none; the named ones; the error type and message of each.
    """
    bad = np.zeros(request.rows.num_rows, dtype=bool)
    bad[list(named)] = True
    why = [(REFUSED, named[row]) for row in sorted(named)]
    rest = request.rows.filter(pa.array(~bad))
    data = rest.serialize().to_pybytes()
    good = Request(rest, data, len(data)) if rest.num_rows else None
    return good, request.rows.filter(pa.array(bad)), why


def too_large(request: Request) -> str:
    """Why a row can't be sent."""
    return f"the row has {request.size:,} bytes, and BigQuery takes {MOST_BYTES:,} at most"
