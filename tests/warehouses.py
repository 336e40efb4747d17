"""Puts one warehouse's readings into another, and compares what the models made of them."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from google.cloud import bigquery as api

from pipeline.sinks.bigquery import tables
from pipeline.sinks.bigquery.address import Address
from schemas.forms import duckdb_ddl
from schemas.reading import READING, TABLES
from tests.services.bigquery import BigQuery
from tests.services.fixtures import set_environment

# The tables that the models leave, and what makes their rows unique.
KEYS = {
    "battery_cleaned": ("reading_id",),
    "battery_features": ("reading_id",),
    "int_test_parts": ("part_key",),
    "dim_equipment": ("equipment_id",),
    "dim_test": ("test_key",),
    "battery_steps": ("step_key",),
    "battery_swings": ("swing_key",),
    "battery_resistance": ("step_key",),
    "battery_cycles": ("cycle_key",),
    "battery_health": ("cycle_key",),
    "battery_ica": ("ica_key",),
    "battery_ica_peaks": ("peak_key",),
    "battery_ica_stages": ("stage_key",),
    "battery_lifetime": ("equipment_id",),
    "battery_predictions": ("prediction_key",),
    "prediction_scores": ("prediction_id",),
    "prediction_quality": ("quality_key",),
    "equipment_alerts": ("alert_key",),
    "equipment_daily": ("equipment_id", "equipment_type", "day"),
    "equipment_hourly": ("equipment_id", "equipment_type", "hour_at"),
    "data_quality_daily": ("source_day_key",),
}
# Sums are added up in another order on another warehouse, and in another build.
RELATIVE, ABSOLUTE = 1e-9, 1e-9
# BigQuery has no exact quantiles: it gives a value near the rank, where DuckDB interpolates.
APPROXIMATE = {
    "latency_p50_s": 0.05,
    "latency_p95_s": 0.05,
    "transport_latency_p50_s": 0.05,
    "transport_latency_p95_s": 0.05,
}
# Comparable within one warehouse only.
HASHES = {"limits_hash"}


class Dataset:
    """A dataset of the emulator with the job's tables, as the job makes them.

    Attributes:
        uri: what `--warehouse` takes.
    """

    def __init__(self, emulator: BigQuery) -> None:
        self.name = emulator.new_dataset("models")
        self.uri = f"bigquery://{emulator.project}/{self.name}"
        self._client = emulator.client()
        self._address = Address.parse(self.uri)
        with pytest.MonkeyPatch.context() as patch:
            set_environment(patch, emulator.environment)
            tables.make(self._address, {})

    def load(self, rows: Mapping[str, pa.Table]) -> None:
        """Appends rows to the job's tables, named by table, with load jobs."""
        settings = api.LoadJobConfig(
            source_format=api.SourceFormat.PARQUET,
            write_disposition=api.WriteDisposition.WRITE_APPEND,
        )
        for name, table in rows.items():
            data = io.BytesIO()
            pq.write_table(table, data)
            self._client.load_table_from_file(
                data, self._address.table(name), rewind=True, job_config=settings
            ).result()

    def sql(self, query: str) -> list[tuple[Any, ...]]:
        """The rows of a query; a table needs no dataset before its name."""
        settings = api.QueryJobConfig(default_dataset=f"{self._address.project}.{self.name}")
        return [row.values() for row in self._client.query_and_wait(query, job_config=settings)]

    def table(self, name: str) -> list[dict[str, Any]]:
        """A model's rows, in the order of its key."""
        query = f"SELECT * FROM {self.name}.{name} ORDER BY {', '.join(KEYS[name])}"
        return [dict(row) for row in self._client.query_and_wait(query)]

    def layout(self, name: str) -> tuple[str | None, str | None, list[str]]:
        """What a table is partitioned by, in which steps, and clustered by."""
        table = self._client.get_table(self._address.table(name))
        by = table.time_partitioning
        return by and by.field, by and by.type_, list(table.clustering_fields or ())


def job_rows(warehouse: Path, where: str = "true") -> dict[str, pa.Table]:
    """The rows that the job left on DuckDB, by table; of the readings those of a condition."""
    with duckdb.connect(str(warehouse), read_only=True) as database:
        database.execute("SET TimeZone = 'UTC'")
        return {
            table.name: database.sql(
                f"SELECT * FROM {table.name} WHERE {where if table is READING else 'true'}"
            ).to_arrow_table()
            for table in TABLES
        }


class File:
    """A DuckDB file with the job's tables, as the job makes them; as `Dataset`."""

    def __init__(self, path: Path) -> None:
        self.uri = f"duckdb:{path}"
        self._path = path
        with duckdb.connect(str(path)) as database:
            for table in TABLES:
                database.execute(duckdb_ddl(table))

    def load(self, rows: Mapping[str, pa.Table]) -> None:
        """Appends rows to the job's tables, named by table."""
        with self._open() as database:
            for name, table in rows.items():
                database.register("loaded", table)
                database.execute(f"INSERT INTO {name} SELECT * FROM loaded")

    def sql(self, query: str) -> list[tuple[Any, ...]]:
        """The rows of a query."""
        with self._open() as database:
            return database.execute(query).fetchall()

    def table(self, name: str) -> list[dict[str, Any]]:
        """A model's rows, in the order of its key."""
        query = f"SELECT * FROM {name} ORDER BY {', '.join(KEYS[name])}"
        with self._open() as database:
            return database.sql(query).to_arrow_table().to_pylist()

    def _open(self) -> duckdb.DuckDBPyConnection:
        database = duckdb.connect(str(self._path))
        database.execute("SET TimeZone = 'UTC'")
        return database


Warehouse = Dataset | File


def differences(
    left: list[dict[str, Any]], right: list[dict[str, Any]], without: Iterable[str] = ()
) -> list[str]:
    """What differs between the rows of two tables, column by column; numbers within a tolerance."""
    if len(left) != len(right):
        return [f"{len(left)} and {len(right)} rows"]
    columns = [set(rows[0]) if rows else set() for rows in (left, right)]
    if columns[0] != columns[1]:
        return [f"only one has {sorted(columns[0] ^ columns[1])}"]
    return [
        f"row {number}, {column}: {one[column]!r} and {other[column]!r}"
        for column in sorted(columns[0] - HASHES - set(without))
        for number, (one, other) in enumerate(zip(left, right, strict=True))
        if not _alike(one[column], other[column], APPROXIMATE.get(column, RELATIVE))
    ]


def _alike(one: Any, other: Any, relative: float) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=relative, abs_tol=ABSOLUTE)
    return type(one) is type(other) and one == other
