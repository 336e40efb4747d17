"""Rows of every kind, the sink that the tests write them with, and what is there then."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import apache_beam as beam
import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.metrics.metric import MetricsFilter
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from google.cloud import bigquery as api
from grpc import StatusCode

from pipeline.engines import HERE
from pipeline.engines.dataflow import ENGINE as DATAFLOW
from pipeline.sinks import Produced
from pipeline.sinks.bigquery import BigQuerySink
from pipeline.stores import store_at
from schemas import forms
from schemas.reading import READING, Kind, Table
from tests.messages import PROFILES, START
from tests.services.bigquery import BigQuery
from tests.services.faults import FaultyBigQuery

METHODS = ("storage_write", "exactly_once", "streaming_inserts", "file_loads")


def ways(*names: str) -> list[Any]:
    """Ways to write: the default one in every run of the tests, the others in the long ones."""
    return [pytest.param(n, marks=[pytest.mark.long] * (n != "storage_write")) for n in names]


def some(table: Table, count: int, seed: int = 1) -> pa.Table:
    """Rows with everything a column can hold, and gaps where it may have some."""
    random = np.random.default_rng(seed)
    base_us = int(START.timestamp()) * 1_000_000
    columns = []
    for field in table.fields:
        kind = forms.arrow_schema(table).field(field.name).type
        numbers = random.integers(0, 1_000, count)
        made: dict[Kind, list[Any]] = {
            Kind.STRING: [f"{field.name} {number} é" for number in numbers],
            Kind.INTEGER: [int(number) - 500 for number in numbers],
            Kind.DOUBLE: [float(number) / 7 for number in numbers],
            Kind.TIMESTAMP: [base_us + int(number) * 333_333_333 for number in numbers],
            Kind.BYTES: [bytes([int(number) % 256, 0, 255]) for number in numbers],
            Kind.STRINGS: [["gap", "late"][: int(number) % 3] for number in numbers],
            Kind.BOOLEAN: [bool(number % 2) for number in numbers],
            Kind.JSON: [json.dumps({"n": int(number), "deep": [1, None]}) for number in numbers],
        }
        values = made[field.kind]
        if field.name == table.key:
            values = [f"{seed}-{row:06}" for row in range(count)]
        elif not field.required and field.name != "content_id":  # the job gives one to each
            values = [None if row % 3 == 0 else value for row, value in enumerate(values)]
        columns.append(pa.array(values, kind))
    return pa.table(columns, schema=forms.arrow_schema(table))


def replaced(rows: pa.Table, name: str, values: Mapping[int, Any]) -> pa.Table:
    """Rows with other values in a column, which may then break a rule."""
    column = rows.column(name).to_pylist()
    for row, value in values.items():
        column[row] = value
    field = pa.field(name, rows.schema.field(name).type)
    return rows.set_column(rows.column_names.index(name), field, pa.array(column, field.type))


def there(client: api.Client, dataset: str, table: Table) -> pa.Table:
    """What a table in BigQuery holds, by key."""
    day = f"WHERE {table.partition} > TIMESTAMP '1970-01-01'" if table.partition else ""
    sql = f"SELECT {', '.join(table.names)} FROM {dataset}.{table.name} {day} ORDER BY {table.key}"
    found = client.query(sql).to_arrow(create_bqstorage_client=False)
    return found.cast(forms.arrow_schema(table))


def in_duckdb(path: Path, table: Table) -> pa.Table:
    with duckdb.connect(str(path), read_only=True) as database:
        database.execute("SET TimeZone = 'UTC'")
        sql = f"SELECT {', '.join(table.names)} FROM {table.name} ORDER BY {table.key}"
        return database.sql(sql).to_arrow_table().cast(forms.arrow_schema(table))


def keys(client: api.Client, dataset: str, table: Table = READING) -> list[str]:
    found: list[str] = there(client, dataset, table).column(table.key).to_pylist()
    return found


def sink(emulator: BigQuery, dataset: str, method: str, **more: Any) -> BigQuerySink:
    once = method == "exactly_once"
    return BigQuerySink(
        f"bigquery://{emulator.project}/{dataset}",
        source="test://source",
        used=PROFILES,
        engine=DATAFLOW if once else HERE,
        method="storage_write" if once else method,
        delivery="exactly_once" if once else "at_least_once",
        **{"kept_where": "the lake", **more},
    )


def prepared(emulator: BigQuery, dataset: str, method: str, **more: Any) -> BigQuerySink:
    """The sink, with its tables there."""
    target = sink(emulator, dataset, method, **more)
    target.prepare()
    return target


def run(target: Any, tables: Mapping[str, list[pa.Table]]) -> dict[str, int]:
    """Runs the sink's steps; returns its counters."""
    pipeline = beam.Pipeline(runner=FnApiRunner())

    def given(name: str) -> beam.PCollection:
        create = beam.Create(tables.get(name, []), reshuffle=False)
        return pipeline | name >> create.with_output_types(pa.Table)

    empty = pipeline | "nothing" >> beam.Create([], reshuffle=False)
    produced = Produced(
        None, None, given("readings"), given("window_stats"), empty,
        given("test_dialects"), given("cycle_summaries"),
        positions=given("source_positions"), superseded=given("readings_superseded"),
        cycles=given("cycles_live"), predictions=given("predictions"),
    )  # fmt: skip
    refused = target.write(produced)
    letters = [part for part in (given("dead_letters"), refused) if part is not None]
    target.write_dead_letters(letters | "dead" >> beam.Flatten())
    result = pipeline.run()
    result.wait_until_finish()
    counted: dict[str, int] = {}
    for counter in result.metrics().query(MetricsFilter())["counters"]:
        name = counter.key.metric.name
        counted[name] = counted.get(name, 0) + counter.committed
    return counted


def put(lake: str, rows: pa.Table, table: Table, name: str = "a") -> str:
    """Puts rows into the lake as the job does: a file of a day's folder."""
    buffer = io.BytesIO()
    pq.write_table(rows, buffer)
    path = f"{table.name}/dt=2024-06-01/{name}.parquet"
    assert store_at(lake).create(path, buffer.getvalue())
    return path


def refuse_in_streams(through: FaultyBigQuery, method: str, rows: Iterable[int]) -> None:
    """BigQuery looks at rows when they are appended; the emulator, in streams of ours, does not."""
    if method == "exactly_once":
        through.storage.plan(
            "refuse", where="AppendRows", code=StatusCode.INVALID_ARGUMENT, inside=True,
            message="equipment_id is missing", rows=tuple(rows),
        )  # fmt: skip
