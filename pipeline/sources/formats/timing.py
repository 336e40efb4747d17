"""Tells when a file's test began, where the file travels in several batches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.sources.formats.content import Settings
from schemas.aliases import normalise, resolve
from transforms import convert
from transforms.decode import event_times


def time_columns(names: Sequence[str]) -> list[str]:
    """Those of a table's columns that can hold absolute time.

    A bare `time` is among them: only its values tell whether it is a date.
    """
    return [
        name
        for name in names
        if ((alias := resolve(name)) is not None and alias.field == "recorded_at")
        or normalise(name) == "time"
    ]


def day_first(tables: Iterable[pa.Table], settings: Settings) -> bool | None:
    """Whether the file's dates with slashes are day/month/year; None if it has none of these."""
    if settings.day_first is not None:
        return settings.day_first
    columns = [chunk for table in tables for column in table.columns for chunk in column.chunks]
    return convert.day_first(columns)


def earliest(
    tables: pa.Table | Iterable[pa.Table], settings: Settings, day_first: bool | None = None
) -> int | None:
    """The earliest event time of the rows, microseconds since 1970 UTC; None if none has one."""
    found: int | None = None
    for table in [tables] if isinstance(tables, pa.Table) else tables:
        if not table.num_rows:
            continue
        times = event_times(table, settings.time_zone, day_first)
        if times is None:
            return None
        least = pc.min(times.cast(pa.int64())).as_py()
        if least is not None:
            found = least if found is None else min(found, least)
    return found
