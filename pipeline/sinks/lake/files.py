"""Files of the lake: named by their content, written once, and again where one is damaged."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import BinaryIO, NamedTuple, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import LakeFailed
from pipeline.stores import Store, Stored
from transforms import identity
from transforms.decode import MEASURED

_T = TypeVar("_T")

_LENGTH = 200
# So many files are looked into at once where a server has to be asked.
_LOOKERS = 8
# What Arrow, and what looks at values it has read, raise for a file that is damaged or foreign.
_UNREADABLE = (
    pa.ArrowException, KeyError, ValueError, TypeError, AttributeError, OverflowError
)  # fmt: skip
# Files that a line has named: they are looked at again and again.
_named: set[tuple[str, str]] = set()
_lock = threading.Lock()
_log = logging.getLogger(__name__)


class Damaged(Exception):
    """A file of the lake can't be used; the message says why, in one line and without its name."""


class OtherVersion(Exception):
    """A file of the lake holds the same readings with other values."""


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


def write_parquet(
    store: Store,
    folder: str,
    table: pa.Table,
    keys: Sequence[str],
    version: str | None = None,
) -> str:
    """Writes `table` as a Parquet file (zstd) that is named by the content of some columns.

    One that is there and holds these rows stays as it is, be it from an older version. It counts
    as written only once all of it was read; a damaged one is written again.

    Args:
        store: the lake.
        folder: where in it.
        table: the rows.
        keys: the columns by which the file is known.
        version: the column that tells versions of a row apart, if there may be any. Where the file
            of that name has the same rows in another version, another one is written.

    Returns:
        the path of the file that holds the rows.

    Raises:
        LakeFailed: it can't be written.
    """
    return put_parquet(store, folder, table, keys, version).path


class Put(NamedTuple):
    """A file that holds what it should.

    Attributes:
        path: where it is.
        new: whether it was written now; else it was there.
    """

    path: str
    new: bool


def put_parquet(
    store: Store,
    folder: str,
    table: pa.Table,
    keys: Sequence[str],
    version: str | None = None,
) -> Put:
    """The same as `write_parquet`; says whether the file was there."""
    if version is not None:
        try:
            return _put_parquet(store, folder, table, keys, version)
        except OtherVersion:
            keys = [*keys, version]
    return _put_parquet(store, folder, table, keys, None)


def _put_parquet(
    store: Store,
    folder: str,
    table: pa.Table,
    keys: Sequence[str],
    version: str | None,
) -> Put:
    path = f"{folder}/{digest([table.column(key) for key in keys])}.parquet"

    def damage(place: str) -> str | None:
        return damage_of(store, place, table, keys, version)

    # Reading is cheaper than making the file, where it costs no way to a server.
    if store.near and store.exists(path) and damage(path) is None:
        store.keep(path)
        return Put(path, new=False)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", compression_level=1, write_page_checksum=True)
    data = sink.getvalue()

    def put(place: str, replace: bool) -> bool:
        return store.create(place, data, replace)

    return _put(store, path, put, lambda place: store.holds(place, data), damage)


def write_copy(store: Store, path: str, file: BinaryIO, modified_us: int, mode: int) -> str:
    """Copies a file of this machine, unless the one that is there has the same content.

    Args:
        store: the lake.
        path: where in it; names the content.
        file: the file, open for reading.
        modified_us: its modification time, µs since 1970.
        mode: the permissions the copy has at most, where files have any.

    Returns:
        the path of the file that has the content.

    Raises:
        LakeFailed: it can't be written.
        OSError: `file` can't be read.
    """

    def put(place: str, replace: bool) -> bool:
        return store.create_from(place, file, modified_us, mode, replace)

    return _put(
        store, path, put, lambda place: store.holds(place, file),
        lambda _: "has not the content of the file it is named after",
    ).path  # fmt: skip


def _put(
    store: Store,
    path: str,
    put: Callable[[str, bool], bool],
    holds: Callable[[str], bool],
    damage: Callable[[str], str | None],
) -> Put:
    """Has one file hold the content: this one or, if that is damaged and must stay, another."""
    shown = f"--lake={store.uri}: {path}"
    for place in (path, _beside(path)):
        if put(place, False):
            return Put(place, new=True)
        found = None if holds(place) else damage(place)
        if found is None:
            store.keep(place)
            return Put(place, new=False)
        if put(place, True):
            _log.warning("%s %s; it was damaged and is written again", shown, found)
            return Put(place, new=True)
        _log.warning(
            "%s %s; this account may not replace it, so its content is written as %s: remove the "
            "damaged file", shown, found, _beside(path),
        )  # fmt: skip
    raise LakeFailed(
        f"{shown} and {_beside(path)} are damaged and this account may not replace them; remove "
        "them, then run the job again"
    )


def _beside(path: str) -> str:
    """The name of a file that stands in for a damaged one."""
    folder, _, name = path.rpartition("/")
    stem, dot, ending = name.rpartition(".")
    return f"{folder}/{stem}-2{dot}{ending}" if dot else f"{folder}/{name}-2"


def damage_of(
    store: Store, path: str, table: pa.Table, keys: Sequence[str], version: str | None = None
) -> str | None:
    """Why a file does not hold the rows it should; None if it does.

    All of it is read, a column at a time; pages with a checksum are checked by it. Columns that
    are no keys may have other values: what was written first stays.

    Raises:
        OtherVersion: it holds the rows, but not in the version that the column `version` names.
    """
    versions: pa.ChunkedArray | None = None
    try:
        with store.open(path) as file, understood(store):
            parquet = pq.ParquetFile(file, page_checksum_verification=True)
            rows = parquet.metadata.num_rows
            if rows != table.num_rows:
                return f"holds {rows:,} rows instead of {table.num_rows:,}"
            for name in {*parquet.schema_arrow.names, *keys}:
                column = parquet.read(columns=[name], use_threads=False).column(name)
                if name in keys and not column.equals(table.column(name)):
                    return "holds other rows than its name says"
                if name == version:
                    versions = column
            if version is not None:
                if versions is None:
                    # The file is older than the column.
                    versions = pa.chunked_array([identity.content(parquet.read(), MEASURED)])
                if not versions.equals(table.column(version)):
                    raise OtherVersion
    except FileNotFoundError:
        return "is gone"
    except Damaged as error:
        return str(error)
    return None


@contextlib.contextmanager
def understood(store: Store) -> Iterator[None]:
    """Within it a file of the store that can't be read raises Damaged; a server's errors stay."""
    try:
        yield
    except FileNotFoundError:
        raise
    except _UNREADABLE as error:
        raise _damaged(error) from error
    except OSError as error:
        # Arrow's own has no number; those of a server's client are of other types.
        if store.near or (type(error) is OSError and error.errno is None):
            raise _damaged(error) from error
        raise


def _damaged(error: Exception) -> Damaged:
    said = " ".join(str(getattr(error, "strerror", None) or error).split())[:_LENGTH]
    return Damaged(f"can't be read ({said})")


def read(
    store: Store,
    path: str,
    columns: Sequence[pa.Field],
    size: int | None = None,
    if_there: Sequence[str] = (),
) -> pa.Table:
    """Some columns of a Parquet file of the lake.

    Args:
        store: the lake.
        path: where in it.
        columns: what they have to be.
        size: of the file, where that is known; see `Store.open`.
        if_there: more of them, which older files lack.

    Raises:
        Damaged: it can't be read, or has other columns.
        FileNotFoundError: it is gone.
    """
    with understood(store), store.open(path, size) as file:
        parquet = pq.ParquetFile(file, page_checksum_verification=True)
        there = parquet.schema_arrow
        for field in columns:
            if field.name not in there.names:
                raise Damaged(f"has no column {field.name}")
            if (kind := there.field(field.name).type) != field.type:
                raise Damaged(f"has {kind} in column {field.name}, not {field.type}")
        more = [name for name in if_there if name in there.names]
        return parquet.read(columns=[*(field.name for field in columns), *more])


def look_into(
    store: Store, there: Sequence[Stored], look: Callable[[Stored], _T]
) -> list[_T | None]:
    """What `look` finds in each of some files, in their order; None for one that can't be used."""
    with ThreadPoolExecutor(1 if store.near else _LOOKERS) as pool:
        return list(
            pool.map(lambda stored: usable(store, stored.path, partial(look, stored)), there)
        )


def usable(store: Store, path: str, look: Callable[[], _T]) -> _T | None:
    """What `look` finds in a file of the lake; None where it can't be used, which one line says."""
    try:
        with understood(store):
            return look()
    except FileNotFoundError:
        return None  # It was removed since it was listed.
    except Damaged as error:
        with _lock:
            new = (store.uri, path) not in _named
            _named.add((store.uri, path))
        if new:
            _log.warning(
                "--lake=%s: %s %s; it is left out, and what is read again of it is written again: "
                "restore or remove it",
                store.uri, path, error,
            )  # fmt: skip
        return None
