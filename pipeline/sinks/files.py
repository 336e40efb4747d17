"""Create-only files: whole or not at all, named by their content, never over another."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq


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


# Whether a file is on the disk itself before it counts as written.
_synced = False


@contextlib.contextmanager
def synced() -> Iterator[None]:
    """Within it files outlive a power cut; each then costs tens of milliseconds.

    For sources that forget what they gave. Others are simply read again.
    """
    global _synced
    _synced = True
    try:
        yield
    finally:
        _synced = False


@contextlib.contextmanager
def create_only(path: Path) -> Iterator[BinaryIO | None]:
    """A file to write that appears under `path` whole or not at all, and never over another.

    Yields None where `path` is there already: names tell the content, so nothing needs writing.
    """
    if path.exists():
        yield None
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".partial")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            if _synced:
                file.flush()
                os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        # Another worker may have been faster; its file holds the same.
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)
        if _synced:
            _sync_folder(path.parent)
    finally:
        Path(temporary).unlink()


def _sync_folder(folder: Path) -> None:
    """A new name outlives a power cut only once its folder is on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_parquet(path: Path, table: pa.Table) -> None:
    """Writes `table` as a create-only Parquet file (zstd)."""
    with create_only(path) as file:
        if file is not None:
            pq.write_table(table, file, compression="zstd", compression_level=1)
