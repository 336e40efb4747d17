"""What a run that was cut off had already put into the lake, so that the next one leaves it out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.sinks.lake import files
from pipeline.stores import Store
from transforms.enrich import version_ids

# Clocks of a file system and of the machine may differ by this.
_SLACK_S = 2.0


@dataclass(frozen=True)
class _Recent:
    keys: pa.Array  # with the version, where a row has one
    bare: pa.Array  # keys of rows that were written before there were versions
    latest: object  # the latest time among them


# Per process, because DoFns are copied. By store and root; by store, root and day.
_since: dict[tuple[str, str], float] = {}
_recent: dict[tuple[str, str, str], _Recent | None] = {}


def look(store: Store, root: str, since_s: float) -> None:
    """From now on `left_out` leaves out what was written below `root` since a time.

    A day's files are looked at when the first rows for that day come: a lake has many days, of
    which a job that goes on writes few.

    Args:
        store: where it is.
        root: holds `dt=…/*.parquet`.
        since_s: seconds since 1970.
    """
    for place in [place for place in _recent if place[:2] == (store.uri, root)]:
        _recent.pop(place, None)
    _since[store.uri, root] = since_s


def forget(store: Store, root: str) -> None:
    """From now on nothing below `root` is left out."""
    _since.pop((store.uri, root), None)


def left_out(
    store: Store,
    root: str,
    day: str,
    key: str,
    when: str,
    rows: pa.Table,
    version: str | None = None,
) -> pa.Table:
    """The rows of one day without those that its files held already.

    Args:
        store: where they are.
        root: see `look`.
        day: `dt=…`.
        key: the column that identifies a row.
        when: a column of times which a row always has the same.
        rows: what is to be written.
        version: the column that tells versions of a row apart, if there may be any.
    """
    since_s = _since.get((store.uri, root))
    if since_s is None:
        return rows
    place = (store.uri, root, day)
    if place not in _recent:
        # Another thread may do the same and find more: what is there is there.
        columns = [rows.schema.field(key), rows.schema.field(when)]
        _recent[place] = _found(store, f"{root}/{day}", since_s - _SLACK_S, columns, version)
    recent = _recent[place]
    if recent is None or pc.min(rows.column(when)).as_py() > recent.latest:
        return rows
    known = pc.is_in(_versioned(rows, key, version), value_set=recent.keys)
    if len(recent.bare):
        known = pc.or_(known, pc.is_in(rows.column(key), value_set=recent.bare))
    return rows.filter(pc.invert(known)) if pc.any(known).as_py() else rows


def _versioned(rows: pa.Table, key: str, version: str | None) -> pa.ChunkedArray:
    """The key of each row with its version; without one where the table has none."""
    if version is None or version not in rows.column_names:
        return rows.column(key)
    return version_ids(rows.column(key), rows.column(version))


def _found(
    store: Store, folder: str, since_s: float, columns: Sequence[pa.Field], version: str | None
) -> _Recent | None:
    keys: list[pa.Array] = []
    bare: list[pa.Array] = []
    latest = None
    for stored in store.files(folder, since_s):
        look = partial(
            files.read, store, stored.path, columns, stored.size, [version] if version else []
        )
        table = files.usable(store, stored.path, look)
        if table is None or not table.num_rows:
            continue
        has_version = version is None or version in table.column_names
        (keys if has_version else bare).extend(_versioned(table, columns[0].name, version).chunks)
        newest = pc.max(table.column(1)).as_py()
        latest = newest if latest is None else max(latest, newest or latest)
    if latest is None:
        return None
    kind = columns[0].type
    return _Recent(_joined(keys, kind), _joined(bare, kind), latest)


def _joined(parts: list[pa.Array], kind: pa.DataType) -> pa.Array:
    return pa.concat_arrays(parts) if parts else pa.array([], kind)
