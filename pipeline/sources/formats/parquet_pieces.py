"""Reads a Parquet file in pieces of bounded size, however well its columns were packed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.sources.formats.content import Content
from pipeline.sources.formats.elements import PIECE_BYTES
from pipeline.sources.formats.meter import Refused, over
from transforms.budget import MIB

# Rows that Arrow decodes at a time, of plain columns and where lists may hide any number of values.
_MOST_ROWS = 20_000
_NESTED_ROWS = 64
_LEAST_ROWS = 256


@contextmanager
def opened(content: Content) -> Iterator[pq.ParquetFile]:
    """The open file; what Arrow finds wrong with its bytes becomes a refusal.

    Texts stay in dictionaries until they are cut to pieces: a few bytes may stand for gigabytes.
    """
    with content.open_seekable() as handle:
        try:
            plain = pq.ParquetFile(handle)
            _check_groups(plain.metadata)
            texts = [field.name for field in plain.schema_arrow if _is_text(field.type)]
            if plain.metadata.num_columns > content.budget.columns:
                raise over(
                    content.budget,
                    "columns",
                    f"the file has {plain.metadata.num_columns:,} columns",
                )
            yield pq.ParquetFile(handle, read_dictionary=texts) if texts else plain
        except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
            # Arrow reports corrupt bytes as plain OSError; the system's own errors have a number
            # or a type of their own, and may be gone at the next try.
            if isinstance(error, OSError) and (type(error) is not OSError or error.errno):
                raise
            raise Refused(
                "corrupt_parquet", f"the Parquet file cannot be read: {error}; send it again"
            ) from None


def _check_groups(footer: pq.FileMetaData) -> None:
    """Refuses a file whose row groups do not hold the rows that its footer counts."""
    held = sum(footer.row_group(group).num_rows for group in range(footer.num_row_groups))
    if held != footer.num_rows:
        raise Refused(
            "corrupt_parquet",
            f"its footer counts {footer.num_rows:,} rows and its {footer.num_row_groups:,} row groups "
            f"hold {held:,}; send it again",
        )


def _is_text(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_string(kind)
        or pa.types.is_binary(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_large_binary(kind)
    )


def pieces(
    file: pq.ParquetFile, content: Content, groups: range, columns: list[str] | None
) -> Iterator[pa.Table]:
    """The rows of some row groups.

    Args:
        file: the file, as `opened` gives it.
        content: where it is from.
        groups: the row groups.
        columns: names of the columns wanted; None for all.

    Raises:
        Refused: the file unpacks to more than it may, or a row is longer than a message may be.
    """
    fields = [f for f in file.schema_arrow if columns is None or f.name in columns]
    nested = any(pa.types.is_nested(field.type) for field in fields)
    fitting = PIECE_BYTES // (8 * max(len(fields), 1))
    size = _NESTED_ROWS if nested else min(max(fitting, _LEAST_ROWS), _MOST_ROWS)
    unpacked = rows = 0
    for batch in file.iter_batches(batch_size=size, row_groups=list(groups), columns=columns):
        if not batch.num_rows:
            continue
        rows += batch.num_rows
        table = pa.Table.from_batches([batch])
        widths = _row_bytes(table)
        if widths.max() > content.budget.message_bytes:
            raise over(
                content.budget,
                "message_kb",
                f"a row has {int(widths.max()) // MIB:,} MiB",
            )
        for start, end in _cuts(widths):
            piece = _plain(table.slice(start, end - start))
            unpacked += int(widths[start:end].sum())
            content.meter.reached(f"{content.path} {groups.start}", unpacked)
            yield piece
    # Arrow itself ends without a word where pages are missing.
    expected = sum(file.metadata.row_group(group).num_rows for group in groups)
    if rows != expected:
        raise Refused(
            "corrupt_parquet",
            f"{rows:,} of its {expected:,} rows could be read, the others are missing; send it again",
        )


def _row_bytes(table: pa.Table) -> npt.NDArray[np.int64]:
    """The bytes of each row when nothing is packed, shape (rows,)."""
    widths = np.zeros(table.num_rows, dtype=np.int64)
    for column in table.columns:
        kind = column.type
        if not pa.types.is_dictionary(kind):
            # Of other kinds nothing is packed any more.
            widths += column.nbytes // max(table.num_rows, 1)
            continue
        for offset, chunk in _offsets(column):
            lengths = pc.binary_length(chunk.dictionary).take(chunk.indices).fill_null(0)
            widths[offset : offset + len(chunk)] += lengths.to_numpy(zero_copy_only=False)
    return widths


def _offsets(column: pa.ChunkedArray) -> Iterator[tuple[int, pa.Array]]:
    offset = 0
    for chunk in column.chunks:
        yield offset, chunk
        offset += len(chunk)


def _cuts(widths: npt.NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Ranges of rows of about PIECE_BYTES, at least one row each."""
    ends = np.cumsum(widths)
    start = 0
    while start < len(widths):
        begun = int(ends[start - 1]) if start else 0
        end = max(int(np.searchsorted(ends, begun + PIECE_BYTES, side="right")), start + 1)
        yield start, end
        start = end


def _plain(table: pa.Table) -> pa.Table:
    """The rows with texts as texts, and times in a zone that every program knows.

    A time with a zone is a moment; the zone only says how to show it.
    """
    schema = pa.schema([field.with_type(_plain_type(field.type)) for field in table.schema])
    return table if schema.equals(table.schema) else table.cast(schema)


def _plain_type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(kind):
        return _plain_type(kind.value_type)
    if pa.types.is_timestamp(kind) and kind.tz is not None:
        return pa.timestamp(kind.unit, "UTC")
    if pa.types.is_list(kind):
        return pa.list_(_plain_field(kind.value_field))
    if pa.types.is_large_list(kind):
        return pa.large_list(_plain_field(kind.value_field))
    if pa.types.is_struct(kind):
        return pa.struct([_plain_field(field) for field in kind])
    if pa.types.is_map(kind):
        return pa.map_(_plain_type(kind.key_type), _plain_type(kind.item_type))
    return kind


def _plain_field(field: pa.Field) -> pa.Field:
    return field.with_type(_plain_type(field.type))
