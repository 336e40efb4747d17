"""Sums up every equipment's readings per event-time window."""

from __future__ import annotations

from collections.abc import Iterable

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from schemas.forms import UTC_MICROSECONDS, arrow_schema
from schemas.reading import WINDOW_STATS
from transforms import identity
from transforms.enrich import flag_lists
from transforms.limits import F64, codes, ranked

SCHEMA = arrow_schema(WINDOW_STATS)


def _moments(values: F64, starts: npt.NDArray[np.int64]) -> tuple[pa.Array, pa.Array, pa.Array]:
    """Minimum, mean and maximum per run of rows; null where a run has no value."""
    missing = np.isnan(values)
    count = np.add.reduceat(~missing, starts, dtype=np.int64)
    none = count == 0
    low = np.minimum.reduceat(np.where(missing, np.inf, values), starts)
    high = np.maximum.reduceat(np.where(missing, -np.inf, values), starts)
    total = np.add.reduceat(np.where(missing, 0.0, values), starts)
    mean = total / np.maximum(count, 1)
    return pa.array(low, mask=none), pa.array(mean, mask=none), pa.array(high, mask=none)


def summarise(table: pa.Table, window_us: int) -> pa.Table:
    """One row of schema WINDOW_STATS per equipment and window.

    Args:
        table: `transforms.sequence.Sequenced.table`.
        window_us: length of the windows in microseconds; they begin at multiples of it since
            1970 UTC.
    """
    ids, id_codes = codes(table, "equipment_id")
    windows = table.column("recorded_at").cast(pa.int64()).to_numpy() // window_us
    span = int(windows.max() - windows.min()) + 1
    key = ranked(ids)[id_codes] * span + (windows - windows.min())
    if (key[1:] < key[:-1]).any():
        # Two tests of one equipment overlap in time.
        order = np.argsort(key, kind="stable")
        table, key = table.take(pa.array(order)), key[order]
        id_codes, windows = id_codes[order], windows[order]
    changes = np.ones(len(key), dtype=bool)
    changes[1:] = key[1:] != key[:-1]
    starts = np.flatnonzero(changes)
    start_us = windows[starts] * window_us
    types, type_codes = codes(table, "equipment_type")
    flags = table.column("flags").to_numpy()
    columns: dict[str, pa.Array] = {
        "stats_id": _stats_ids(table, ids, id_codes[starts], start_us, starts, window_us),
        "equipment_id": ids.take(pa.array(id_codes[starts])),
        "equipment_type": types.take(pa.array(type_codes[starts])),
        "window_start": pa.array(start_us).cast(UTC_MICROSECONDS),
        "window_end": pa.array(start_us + window_us).cast(UTC_MICROSECONDS),
        "readings": pa.array(np.diff(np.append(starts, len(key)))),
        "flagged_readings": pa.array(np.add.reduceat(flags != 0, starts, dtype=np.int64)),
        "quality_flags": flag_lists(np.bitwise_or.reduceat(flags, starts)),
    }
    for field, names in (
        ("voltage_v", ("voltage_min_v", "voltage_mean_v", "voltage_max_v")),
        ("current_a", ("current_min_a", "current_mean_a", "current_max_a")),
        ("temperature_c", ("temperature_min_c", "temperature_mean_c", "temperature_max_c")),
    ):
        if field in table.column_names:
            moments = _moments(np.asarray(table.column(field).to_numpy()), starts)
            columns |= dict(zip(names, moments, strict=True))
    for field in ("charge_ah", "discharge_ah", "charge_wh", "discharge_wh"):
        columns[field] = pa.array(np.add.reduceat(table.column(field).to_numpy(), starts))
    return pa.table(
        [columns.get(f.name, pa.nulls(len(starts), f.type)) for f in SCHEMA], schema=SCHEMA
    )


def _stats_ids(
    table: pa.Table,
    ids: pa.Array,
    window_ids: npt.NDArray[np.int64],
    start_us: npt.NDArray[np.int64],
    starts: npt.NDArray[np.int64],
    window_us: int,
) -> pa.Array:
    """Identities from equipment, window and the set of readings, so that panes differ."""
    high, low = identity.of_names(ids.to_pylist())
    ident = identity.Identity(high[window_ids], low[window_ids])
    ident.absorb(start_us.view(np.uint64))
    ident.absorb(np.full(len(starts), window_us, dtype=np.uint64))
    with np.errstate(over="ignore"):
        ident.absorb(np.add.reduceat(table.column("id_high").to_numpy(), starts))
        ident.absorb(np.bitwise_xor.reduceat(table.column("id_low").to_numpy(), starts))
    return identity.to_hex(ident.high, ident.low)


class _SummariseBatch(beam.DoFn):
    def __init__(self, window_us: int) -> None:
        self._window_us = window_us

    def process(self, table: pa.Table) -> Iterable[pa.Table]:
        yield summarise(table, self._window_us)


class Summarise(beam.PTransform):
    """Tables of ordered readings → tables of window statistics (schema WINDOW_STATS)."""

    def __init__(self, window_us: int) -> None:
        super().__init__()
        self._window_us = window_us

    def expand(self, ordered: beam.PCollection) -> beam.PCollection:
        """Adds the step."""
        return ordered | beam.ParDo(_SummariseBatch(self._window_us)).with_output_types(pa.Table)
