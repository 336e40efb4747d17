"""Gives ordered readings their final form: power, names of flags, the reading's schema."""

from __future__ import annotations

from collections.abc import Iterable

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.metrics import Metrics

from schemas.forms import arrow_schema, flag_names
from schemas.reading import READING, READING_SUPERSEDED
from transforms import identity
from transforms.validate import FLAG

SCHEMA = arrow_schema(READING)
SUPERSEDED_SCHEMA = arrow_schema(READING_SUPERSEDED)


def flag_lists(masks: npt.NDArray[np.int64]) -> pa.Array:
    """The names of the flags set in each mask, as a list of strings per row."""
    if not masks.any():
        offsets = np.zeros(len(masks) + 1, dtype=np.int32)
        return pa.ListArray.from_arrays(pa.array(offsets), pa.array([], pa.string()))
    distinct, which = np.unique(masks, return_inverse=True)
    names = pa.array([flag_names(int(mask)) for mask in distinct], pa.list_(pa.string()))
    return names.take(pa.array(which))


def enrich(table: pa.Table, schema: pa.Schema = SCHEMA) -> pa.Table:
    """Ordered readings (`transforms.sequence`) as a table of schema READING, in the same order."""
    rows = table.num_rows
    columns = {name: table.column(name) for name in table.column_names}
    columns["reading_id"] = identity.to_hex(
        table.column("id_high").to_numpy(), table.column("id_low").to_numpy()
    )
    columns["power_watt"] = pc.multiply(table.column("voltage_v"), table.column("current_a"))
    columns["quality_flags"] = flag_lists(table.column("flags").to_numpy())
    if schema is SUPERSEDED_SCHEMA:
        columns["version_id"] = version_ids(columns["reading_id"], columns["content_id"])
    arrays = []
    for field in schema:
        column = columns.get(field.name)
        if column is None:
            column = pa.nulls(rows, field.type)
        elif column.type != field.type:
            column = column.cast(field.type)
        arrays.append(column)
    return pa.table(arrays, schema=schema)


def version_ids(reading_ids: pa.Array, content_ids: pa.Array) -> pa.Array:
    """The keys of versions of readings; sinks that are told of one in SQL make the same."""
    return pc.binary_join_element_wise(reading_ids, content_ids.cast(pa.string()), ":")


class _EnrichSuperseded(beam.DoFn):
    def __init__(self) -> None:
        self._written = Metrics.counter("account", "written")
        self._corrected = Metrics.counter("account", "corrected")
        self._superseded = Metrics.counter("account", "superseded")

    def process(self, table: pa.Table) -> Iterable[pa.Table]:
        self._written.inc(table.num_rows)
        self._corrected.inc(table.num_rows)
        self._superseded.inc(table.num_rows)
        yield enrich(table, SUPERSEDED_SCHEMA)


class EnrichSuperseded(beam.PTransform):
    """Tables of superseded readings → tables of schema READING_SUPERSEDED."""

    def expand(self, superseded: beam.PCollection) -> beam.PCollection:
        """Adds the step."""
        return superseded | beam.ParDo(_EnrichSuperseded()).with_output_types(pa.Table)


class _EnrichBatch(beam.DoFn):
    def __init__(self) -> None:
        self._written = Metrics.counter("account", "written")
        self._late = Metrics.counter("account", "late")
        self._flagged = Metrics.counter("account", "flagged")

    def process(self, table: pa.Table) -> Iterable[pa.Table]:
        flags = table.column("flags").to_numpy()
        self._written.inc(table.num_rows)
        self._late.inc(int(np.count_nonzero(flags & FLAG["late"])))
        self._flagged.inc(int(np.count_nonzero(flags)))
        yield enrich(table)


class Enrich(beam.PTransform):
    """Tables of ordered readings → tables of schema READING."""

    def expand(self, ordered: beam.PCollection) -> beam.PCollection:
        """Adds the step."""
        return ordered | beam.ParDo(_EnrichBatch()).with_output_types(pa.Table)
