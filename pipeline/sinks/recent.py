"""What a run that was cut off had already put into the lake, so that the next one leaves it out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.sinks import files
from pipeline.stores import Store

# Clocks of a file system and of the machine may differ by this.
_SLACK_S = 2.0


@dataclass(frozen=True)
class _Recent:
    keys: pa.Array
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


def left_out(store: Store, root: str, day: str, key: str, when: str, rows: pa.Table) -> pa.Table:
    """The rows of one day without those that its files held already.

    Args:
        store: where they are.
        root: see `look`.
        day: `dt=…`.
        key: the column that identifies a row.
        when: a column of times which a row always has the same.
        rows: what is to be written.
    """
    since_s = _since.get((store.uri, root))
    if since_s is None:
        return rows
    place = (store.uri, root, day)
    if place not in _recent:
        # Another thread may do the same and find more: what is there is there.
        columns = [rows.schema.field(key), rows.schema.field(when)]
        _recent[place] = _found(store, f"{root}/{day}", since_s - _SLACK_S, columns)
    recent = _recent[place]
    if recent is None or pc.min(rows.column(when)).as_py() > recent.latest:
        return rows
    known = pc.is_in(rows.column(key), value_set=recent.keys)
    return rows.filter(pc.invert(known)) if pc.any(known).as_py() else rows


def _found(
    store: Store, folder: str, since_s: float, columns: Sequence[pa.Field]
) -> _Recent | None:
    keys: list[pa.Array] = []
    latest = None
    for stored in store.files(folder, since_s):
        look = partial(files.read, store, stored.path, columns, stored.size)
        table = files.usable(store, stored.path, look)
        if table is None or not table.num_rows:
            continue
        keys += table.column(0).chunks
        newest = pc.max(table.column(1)).as_py()
        latest = newest if latest is None else max(latest, newest or latest)
    return _Recent(pa.concat_arrays(keys), latest) if latest is not None else None
