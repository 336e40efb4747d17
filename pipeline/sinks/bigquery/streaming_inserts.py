"""Writes through BigQuery's older streaming inserts, by Beam's own step, where nothing else serves.

Each row is there at least once; with its key as insertId, BigQuery drops what comes again within
about a minute, the rest is the models' to drop.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator, Mapping
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.io.gcp.bigquery import BigQueryWriteFn
from apache_beam.io.gcp.bigquery_tools import RetryStrategy
from apache_beam.metrics import Metrics

from pipeline import account
from pipeline.errors import WarehouseFailed
from pipeline.sinks.base import refused
from pipeline.sinks.base.tally import Counts, Kept
from pipeline.sinks.bigquery import failure
from pipeline.sinks.bigquery.address import Address
from pipeline.sinks.bigquery.requests import STEP
from schemas.forms import arrow_schema
from schemas.reading import DEAD_LETTER, Kind, Table

# What BigQuery recommends a request to have.
_ROWS = 500
# With pauses that double from 0.2 s this is some minutes; Beam's default is for ever.
_TRIES = 11
# The table is fine and takes other rows.
_OF_ROWS = {"invalid", "stopped"}
# As base64 a payload grows by a third, and Beam takes rows below 9 MB.
_MOST_PAYLOAD_BYTES = 6 << 20


def as_rows(table: Table, rows: pa.Table) -> list[tuple[dict[str, Any], str]]:
    """Rows as JSON objects, each with its key; null values are left out."""
    times = {field.name for field in table.fields if field.kind is Kind.TIMESTAMP}
    for name in times & set(rows.column_names):
        place = rows.column_names.index(name)
        rows = rows.set_column(place, name, rows.column(name).cast(pa.timestamp("us")))
    return [(_json(row, times), row[table.key]) for row in rows.select(table.names).to_pylist()]


def _json(row: Mapping[str, Any], times: set[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in row.items():
        if value is None:
            continue
        if name in times:
            found[name] = f"{value.isoformat()}Z"
        elif isinstance(value, bytes):
            found[name] = base64.b64encode(value).decode()
        elif isinstance(value, float) and not math.isfinite(value):
            found[name] = "NaN" if math.isnan(value) else f"{'-' if value < 0 else ''}Infinity"
        else:
            found[name] = value
    return found


class _AsRows(beam.DoFn):
    """A table of rows → (destination, rows), which Beam's step sends without more elements."""

    def __init__(self, address: Address, table: Table, kept_where: str | None) -> None:
        self._table, self._kept_where = table, kept_where
        self._destination = f"{address.project}:{address.dataset}.{table.name}"
        self._sent = Metrics.counter("bigquery", f"{table.name}_sent")

    def process(self, rows: pa.Table) -> Iterator[tuple[str, list[tuple[dict[str, Any], str]]]]:
        if self._table == DEAD_LETTER:
            rows = refused.fitting(rows, self._kept_where, _MOST_PAYLOAD_BYTES)
        self._sent.inc(rows.num_rows)
        for start in range(0, rows.num_rows, _ROWS):
            yield self._destination, as_rows(self._table, rows.slice(start, _ROWS))


class _Refused(beam.DoFn):
    """(destination, row, errors) → dead letters; fails if it is not the row that is to blame."""

    def __init__(self, address: Address, table: Table, source: str, counts: Counts) -> None:
        self._address, self._table, self._source = address, table, source
        self._counts = counts
        self._refused = Metrics.counter(account.NAMESPACE, "refused")

    def process(self, failed: tuple[str, dict[str, Any], Any]) -> Iterator[pa.Table]:
        _, row, errors = failed
        why = (refused.ROW_TOO_LARGE, errors) if isinstance(errors, str) else self._why(errors)
        self._refused.inc()
        # Here and not in `_Write`: Beam hands on rows above its limit without a request.
        self._counts.in_bundle(self._counts.commit(Kept(refused=1)))
        given = _as_table(self._table, row)
        yield refused.letters(STEP, self._table, given, [why], self._source)

    def _why(self, errors: list[dict[str, Any]]) -> tuple[str, str]:
        first = next((error for error in errors if error.get("reason") != "stopped"), errors[0])
        # Beam hands on what befalls a whole request as an error of each of its rows.
        failure.raise_unfit(self._address, self._table)
        if first.get("reason") not in _OF_ROWS:
            raise WarehouseFailed(
                f"{self._address.told}, table {self._table.name}: BigQuery takes no rows "
                f"({first.get('reason')}: {first.get('message')}); see its status, the project's "
                "quotas and this account's roles, then run the job again"
            )
        return refused.REFUSED, str(first.get("message"))


def _as_table(table: Table, row: Mapping[str, Any]) -> pa.Table:
    """The row as it was before it became JSON."""
    schema, columns = arrow_schema(table), []
    for field in table.fields:
        kind, value = schema.field(field.name).type, row.get(field.name)
        if value is not None and field.kind is Kind.TIMESTAMP:
            columns.append(pc.cast(pa.array([value]), kind))
        elif value is not None and field.kind is Kind.BYTES:
            columns.append(pa.array([base64.b64decode(value)], kind))
        else:
            columns.append(pa.array([value], kind))
    return pa.table(dict(zip(table.names, columns, strict=True)))


class _Write(BigQueryWriteFn):
    """Beam's step, which counts what BigQuery has taken."""

    def __init__(self, counts: Counts, **given: Any) -> None:
        super().__init__(**given)
        self._counts = counts

    def _flush_batch(self, destination: str) -> list[Any]:
        rows = len(self._rows_buffer[destination])
        outputs = list(super()._flush_batch(destination))
        failed = sum(each.tag == BigQueryWriteFn.FAILED_ROWS for each in outputs)
        # By its insertId BigQuery leaves out what it was sent in the last minutes.
        taken = Kept(stored_or_there=rows - failed)
        self._counts.in_bundle(self._counts.commit(taken))
        return outputs


class Insert(beam.PTransform):
    """Tables of rows → dead letters of what BigQuery refused."""

    def __init__(
        self,
        address: Address,
        table: Table,
        source: str,
        kept_where: str | None = None,
        label: str = "bigquery",
    ) -> None:
        super().__init__()
        self._address, self._table, self._source = address, table, source
        self._kept_where = kept_where
        self._counts = Counts(label, table.name)

    def expand(self, rows: beam.PCollection) -> beam.PCollection:
        """Adds the steps."""
        # Beam's public WriteToBigQuery would make an element of every row, with a random insertId.
        write = _Write(
            self._counts,
            batch_size=_ROWS,
            create_disposition="CREATE_NEVER",
            retry_strategy=RetryStrategy.RETRY_ON_TRANSIENT_ERROR,
            with_batched_input=True,
            max_retries=_TRIES,
        )
        failed = (
            rows
            | "AsRows" >> beam.ParDo(_AsRows(self._address, self._table, self._kept_where))
            | "Insert"
            >> beam.ParDo(write).with_outputs(
                BigQueryWriteFn.FAILED_ROWS_WITH_ERRORS, BigQueryWriteFn.FAILED_ROWS, main="none"
            )
        )[BigQueryWriteFn.FAILED_ROWS_WITH_ERRORS]
        return failed | "Refused" >> beam.ParDo(
            _Refused(self._address, self._table, self._source, self._counts)
        )
