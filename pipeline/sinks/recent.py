"""What a run that was cut off had already put into the lake, so that the next one leaves it out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

# Clocks of a file system and of the machine may differ by this.
_SLACK_S = 2.0


@dataclass(frozen=True)
class _Recent:
    keys: pa.Array
    when: str
    latest: object  # the latest time `when` among them


# By folder and key. Per process, because DoFns are copied.
_recent: dict[tuple[str, str], _Recent] = {}


def look(folder: Path, key: str, when: str, since_s: float) -> None:
    """Learns the keys in the files that were written below `folder` since a time.

    Args:
        folder: holds `dt=…/*.parquet`.
        key: the column that identifies a row.
        when: a column of times which a row always has the same.
        since_s: seconds since 1970.
    """
    keys: list[pa.Array] = []
    latest = None
    for path in _written(folder, since_s - _SLACK_S):
        table = pq.read_table(path, columns=[key, when], partitioning=None)
        keys += table.column(key).chunks
        newest = pc.max(table.column(when)).as_py()
        latest = newest if latest is None else max(latest, newest)
    # At once: another thread may be writing.
    if keys:
        _recent[str(folder), key] = _Recent(pa.concat_arrays(keys), when, latest)
    else:
        _recent.pop((str(folder), key), None)


def _written(folder: Path, since_s: float) -> Iterator[Path]:
    for day in sorted(folder.glob("dt=*")):
        # A folder's time changes with every file that comes into it.
        if day.stat().st_mtime >= since_s:
            for path in sorted(day.glob("*.parquet")):
                if path.stat().st_mtime >= since_s:
                    yield path


def left_out(folder: Path, key: str, rows: pa.Table) -> pa.Table:
    """The rows without those that `look` has found."""
    recent = _recent.get((str(folder), key))
    if recent is None or pc.min(rows.column(recent.when)).as_py() > recent.latest:
        return rows
    known = pc.is_in(rows.column(key), value_set=recent.keys)
    return rows.filter(pc.invert(known)) if pc.any(known).as_py() else rows
