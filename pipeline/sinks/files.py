"""Parquet files of the lake: named by their content, created once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.stores import Store


def digest(arrays: Iterable[pa.ChunkedArray]) -> str:
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


def write_parquet(store: Store, path: str, table: pa.Table) -> None:
    """Writes `table` as a create-only Parquet file (zstd)."""
    if store.near and store.exists(path):
        return
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", compression_level=1)
    store.create(path, sink.getvalue())
