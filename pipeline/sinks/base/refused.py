"""What a warehouse does not take of the job's rows: dead letters that can be sent again."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import apache_beam as beam
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import WarehouseFailed
from schemas.reading import DEAD_LETTER, READING, Table
from transforms import dead_letter
from transforms.dead_letter import DeadLetter

_LOG = logging.getLogger(__name__)
REFUSED = "refused"
ROW_TOO_LARGE = "row_too_large"

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND = dt.timedelta(microseconds=1)


def letters(
    step: str,
    table: Table,
    rows: pa.RecordBatch | pa.Table,
    reasons: Sequence[tuple[str, str]],
    source: str,
) -> pa.Table:
    """Dead letters (schema DEAD_LETTER) of rows of `table`, in their order.

    Args:
        step: the warehouse that refused them.
        table: what they were to be rows of.
        rows: the rows.
        reasons: error type and message of each.
        source: the job's source, without secrets.
    """
    found = []
    for row, (error_type, message) in zip(rows.to_pylist(), reasons, strict=True):
        named = {"table": table.name, table.key: row[table.key]}
        index = row.get("record_index")
        found.append(
            DeadLetter(
                step=step,
                error_type=error_type,
                error_message=message,
                source=source,
                # Not the clock: the same row must be the same letter, in the same partition.
                ingested_at_us=_micros(row.get("ingested_at") or row[table.partition or ""]),
                payload=orjson.dumps(_payload(table, row)),
                source_file=row.get("source_file"),
                position=None if index is None else str(index),
                attributes=orjson.dumps(named).decode(),
                equipment_id=row.get("equipment_id"),
            )
        )
    return dead_letter.table(found)


def _payload(table: Table, row: Mapping[str, Any]) -> dict[str, Any]:
    """A reading as a message: without what the job computes, and with its unknown fields."""
    present = {
        name: value.decode(errors="replace") if isinstance(value, bytes) else value
        for name, value in row.items()
        if value is not None
    }
    if table != READING:
        return present
    extra: dict[str, Any] = orjson.loads(present.pop("extra", "{}"))
    derived = {field.name for field in table.fields if field.derived}
    return {name: value for name, value in present.items() if name not in derived} | extra


def _micros(moment: dt.datetime | None) -> int:
    return (moment - _EPOCH) // _MICROSECOND if moment is not None else 0


def fitting(rows: pa.Table, kept_where: str | None, most_bytes: int) -> pa.Table:
    """Dead letters without payloads that are too large for a row.

    Args:
        rows: of schema DEAD_LETTER.
        kept_where: where they are whole; None: nowhere, so as much as fits is kept.
        most_bytes: of a payload.
    """
    sizes = pc.fill_null(pc.binary_length(rows.column("payload")), 0)
    large = pc.greater(sizes, most_bytes)
    if not pc.any(large).as_py():
        return rows
    told = f"whole in {kept_where}" if kept_where else f"cut to {most_bytes:,}"
    notes = pa.array([f" (payload of {size.as_py():,} bytes: {told})" for size in sizes])
    old = rows.column("error_message")
    messages = pc.if_else(large, pc.binary_join_element_wise(old, notes, ""), old)
    payload = rows.column("payload")
    cut = (
        pa.nulls(rows.num_rows, pa.binary())
        if kept_where
        else pc.binary_slice(payload, 0, most_bytes)
    )
    for name, values in (
        ("payload", pc.if_else(large, cut, payload)),
        ("error_message", messages),
    ):
        place = DEAD_LETTER.names.index(name)
        rows = rows.set_column(place, rows.schema.field(name), values)
    return rows


def told_or_raise(told: str, again: pa.Table, kept_where: str | None) -> None:
    """Tells that dead letters themselves were refused.

    Args:
        told: the warehouse, as messages begin.
        again: dead letters of dead letters.
        kept_where: where they are, beside this warehouse; None: nowhere.

    Raises:
        WarehouseFailed: they would be nowhere.
    """
    why = again.column("error_message")[0].as_py()
    if kept_where is None:
        raise WarehouseFailed(
            f"{told}: {again.num_rows} dead letters are refused ({why}) and would be lost; give "
            "a --lake, which takes all of them"
        )
    _LOG.warning(
        "%s: %d dead letters are refused (%s); they are in %s",
        told, again.num_rows, why, kept_where,
    )  # fmt: skip


class Fit(beam.DoFn):
    """Dead letters → what a row can hold of them; see `fitting`."""

    def __init__(self, kept_where: str | None, most_bytes: int) -> None:
        self._kept_where, self._most_bytes = kept_where, most_bytes

    def process(self, rows: pa.Table) -> Iterator[pa.Table]:
        """Takes payloads out that are too large."""
        yield fitting(rows, self._kept_where, self._most_bytes)


class KeptElsewhere(beam.DoFn):
    """Dead letters that were refused themselves: tells where they are, or fails the job."""

    def __init__(self, told: str, kept_where: str | None) -> None:
        self._told, self._kept_where = told, kept_where

    def process(self, again: pa.Table) -> None:
        """Warns; see `told_or_raise`."""
        told_or_raise(self._told, again, self._kept_where)
