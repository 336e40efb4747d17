"""Which rows of a day the lake holds, looked up at each write, where an engine may do work again.

An engine that goes back to a checkpoint gives what came since once more, to any worker and cut in
another way, so that a file's name does not tell that its rows are there. What is there is asked of
the lake itself: a file's footer says from when to when its rows are and of which part of the
fleet, and only files that may hold the same rows are looked into.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from functools import lru_cache, partial
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.sinks.lake import files
from pipeline.stores import Store, Stored, store_at
from transforms.enrich import version_ids

# The footer's word for the part of the fleet that a file's rows are of.
PART = b"part"
# Folders whose footers are kept; a stream writes into one or two at a time.
_FOLDERS = 16
# Files whose keys are kept: the newest are asked for again and again where readings come late.
_FILES = 8


class _Footer(NamedTuple):
    """First and last time of a file's rows, and the part they are of; None where that is not known."""

    first: int | None
    last: int | None
    part: bytes | None


class _Folder:
    """The footers of a folder's files, by path; None for one that can't be used."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.footers: dict[str, _Footer | None] = {}


_folders: OrderedDict[tuple[str, str], _Folder] = OrderedDict()
_lock = threading.Lock()


def left_out(
    store: Store,
    folder: str,
    rows: pa.Table,
    key: str,
    when: str,
    version: str | None,
    part: bytes | None,
) -> pa.Table:
    """The rows that no file of a folder holds yet.

    Args:
        store: the lake.
        folder: where in it.
        rows: what is to be written.
        key: the column that identifies a row.
        when: a column of times which a row always has the same.
        version: the column that tells versions of a row apart, if there may be any.
        part: of the fleet, as the files' footers have it; None: not known.
    """
    times = rows.column(when).cast(pa.int64())
    first, last = pc.min(times).as_py(), pc.max(times).as_py()
    near = [
        path
        for path, footer in _footers(store, folder, when).items()
        if footer is not None and _may_hold(footer, first, last, part)
    ]
    if not near:
        return rows
    kind = rows.schema.field(key).type
    version = version if version in rows.column_names else None
    own = (
        rows.column(key) if version is None else version_ids(rows.column(key), rows.column(version))
    )
    known = pa.chunked_array(
        [chunk for path in near for chunk in _keys(store.uri, path, key, kind, version).chunks],
        kind,
    )
    again = pc.is_in(own, value_set=known.combine_chunks())
    return rows.filter(pc.invert(again)) if pc.any(again).as_py() else rows


def _may_hold(footer: _Footer, first: int | None, last: int | None, part: bytes | None) -> bool:
    if part is not None and footer.part is not None and part != footer.part:
        (_, _, parted), (_, _, its) = part.partition(b"/"), footer.part.partition(b"/")
        # Parts of another number can't be compared.
        return parted != its and _may_hold(footer, first, last, None)
    if None in (footer.first, footer.last, first, last):
        return True
    return footer.first <= last and footer.last >= first  # type: ignore[operator]


def _footers(store: Store, folder: str, when: str) -> dict[str, _Footer | None]:
    with _lock:
        kept = _folders.setdefault((store.uri, folder), _Folder())
        _folders.move_to_end((store.uri, folder))
        if len(_folders) > _FOLDERS:
            _folders.popitem(last=False)
    # Listed at each write, because other workers write, too.
    there = list(store.files(folder))
    with kept.lock:
        new = [stored for stored in there if stored.path not in kept.footers]
        told = files.look_into(store, new, partial(_footer, store, when))
        kept.footers |= {each.path: footer for each, footer in zip(new, told, strict=True)}
        return {stored.path: kept.footers[stored.path] for stored in there}


def _footer(store: Store, when: str, stored: Stored) -> _Footer:
    with store.open(stored.path, stored.size) as file:
        parquet = pq.ParquetFile(file)
        part = (parquet.schema_arrow.metadata or {}).get(PART)
        column = parquet.schema_arrow.get_field_index(when)
        groups = [parquet.metadata.row_group(at) for at in range(parquet.metadata.num_row_groups)]
        found = [group.column(column).statistics for group in groups] if column >= 0 else [None]
        if any(each is None or not each.has_min_max or each.null_count for each in found):
            return _Footer(None, None, part)
        first = min((each.min for each in found), default=None)
        last = max((each.max for each in found), default=None)
        return _Footer(_us(first), _us(last), part)


def _us(moment: object) -> int | None:
    return None if moment is None else pa.scalar(moment, pa.timestamp("us", "UTC")).value


def _keys(uri: str, path: str, key: str, kind: pa.DataType, version: str | None) -> pa.ChunkedArray:
    """The key of each of a file's rows with its version; none if it can't be used."""
    found = files.usable(store_at(uri), path, lambda: _keys_of(uri, path, key, kind, version))
    return pa.chunked_array([], kind) if found is None else found


# One that can't be read is not kept here: it may be written again.
@lru_cache(maxsize=_FILES)
def _keys_of(
    uri: str, path: str, key: str, kind: pa.DataType, version: str | None
) -> pa.ChunkedArray:
    columns: Sequence[str] = [version] if version else []
    table = files.read(store_at(uri), path, [pa.field(key, kind)], None, columns)
    if version is None or version not in table.column_names:
        return table.column(key)
    return version_ids(table.column(key), table.column(version))
