"""The columns of a test's file: which it has, under which header, and their values."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.exporting.selection import ExportedTest, counters
from schemas import bdf
from schemas.forms import arrow_schema
from schemas.reading import COUNTERS, READING

# The order of a file's columns; the format leaves it open.
_ORDER = (
    "test_time_s", "voltage_v", "current_a", "recorded_at", "cycle_index", "step_index",
    "step_time_s", "record_index", "temperature_c", "ambient_temperature_c", *COUNTERS,
    "internal_resistance_ohm", "frequency_hz",
    "equipment_id", "equipment_type", "test_id", "source_row", "streamed_at", "extra",
)  # fmt: skip
# What a table must have, and what tells the reading's place.
_ALWAYS = {"test_time_s", "voltage_v", "current_a", "recorded_at", "equipment_id", "test_id"}
_TYPES = {field.name: field.type for field in arrow_schema(READING)}
_MICRO = 1_000_000


@dataclass(frozen=True)
class Column:
    """One column of a file.

    Attributes:
        term: what it is.
        field: of the reading.
        header: what stands above it.
        type: of its values.
        values: makes them of a table of readings, whose times are µs since 1970.
    """

    term: bdf.Term
    field: str
    header: str
    type: pa.DataType
    values: Callable[[pa.Table], pa.ChunkedArray]


def of(test: ExportedTest, machine_names: bool, exact: bool) -> list[Column]:
    """The columns of the test's file: what is null in every reading is left out.

    Args:
        test: the test.
        machine_names: whether headers are machine-readable names, not preferred labels.
        exact: whether Unix time is a decimal with all its microseconds, as text needs it, or a
            float of 64 bits, which keeps them until the year 2242 when rounded.
    """
    present = test.present | _ALWAYS
    # The reader takes an equipment with a frequency for a machine unless its kind is given.
    kept = present if "frequency_hz" in present else present - {"equipment_type"}
    columns = []
    for field in _ORDER:
        if field in kept:
            term = bdf.term(field, test.scope)
            header = term.name if machine_names else term.label
            kind, values = _values(field, test, exact)
            columns.append(Column(term, field, header, kind, values))
    return columns


def _values(
    field: str, test: ExportedTest, exact: bool
) -> tuple[pa.DataType, Callable[[pa.Table], pa.ChunkedArray]]:
    if field == "recorded_at":
        return (pa.decimal128(38, 6), _decimal) if exact else (pa.float64(), _float)
    if field == "test_time_s" and derived(test):
        begun = test.begun_us
        return pa.float64(), lambda table: pc.divide(
            pc.subtract(table.column("recorded_at"), begun).cast(pa.float64()), float(_MICRO)
        )
    if field == "streamed_at":
        return pa.string(), _moment
    return _TYPES[field], lambda table: table.column(field)


def derived(test: ExportedTest) -> bool:
    """Whether the test's time is worked out: the format requires one, and the test has none."""
    return "test_time_s" not in test.present


def _float(table: pa.Table) -> pa.ChunkedArray:
    return pc.divide(table.column("recorded_at").cast(pa.float64()), float(_MICRO))


def _decimal(table: pa.Table) -> pa.ChunkedArray:
    """Microseconds as seconds with six decimals: the same digits with the point moved."""
    type_ = pa.decimal128(38, 6)
    chunks = []
    for chunk in table.column("recorded_at").chunks:
        whole = chunk.cast(pa.decimal128(38, 0))
        chunks.append(
            pa.Array.from_buffers(type_, len(whole), whole.buffers(), offset=whole.offset)
        )
    return pa.chunked_array(chunks, type_)


def _moment(table: pa.Table) -> pa.ChunkedArray:
    """ISO 8601, UTC."""
    moments = table.column("streamed_at").cast(pa.timestamp("us")).cast(pa.string())
    dated = pc.replace_substring(moments, " ", "T", max_replacements=1)
    return pc.binary_join_element_wise(dated, "Z", "")


def variables(columns: list[Column], test: ExportedTest) -> dict[str, dict[str, str]]:
    """Per header what the column is, as the metadata file has it."""
    told = {}
    for column in columns:
        entry = {"name": column.term.name, "unit": column.term.unit}
        if column.term in bdf.OWN:
            entry["description"] = READING.field(column.field).description
        else:
            entry["iri"] = column.term.iri
        if column.field == "test_time_s" and derived(test):
            entry["derived"] = "Unix time less that of the first reading: the test had no clock."
        if column.field in counters(test):
            entry["restarts_with"] = test.scope
        told[column.header] = entry
    return told


def boundaries(numbers: np.ndarray) -> list[tuple[int, int, int]]:
    """Runs of equal numbers in a sorted column, as (number, start, end)."""
    if not len(numbers):
        return []
    edges = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(numbers)]
    return [(int(numbers[start]), start, end) for start, end in itertools.pairwise(edges)]
