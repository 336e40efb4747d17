"""Derives Arrow, BigQuery, DuckDB, Cassandra, JSON Schema and dbt forms from a table."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pyarrow as pa
import yaml

from schemas.reading import QUALITY_FLAGS, READING, Field, Kind, Table

UTC_MICROSECONDS = pa.timestamp("us", tz="UTC")

_ARROW: dict[Kind, pa.DataType] = {
    Kind.STRING: pa.string(),
    Kind.INTEGER: pa.int64(),
    Kind.DOUBLE: pa.float64(),
    Kind.TIMESTAMP: UTC_MICROSECONDS,
    Kind.BYTES: pa.binary(),
    Kind.STRINGS: pa.list_(pa.string()),
    Kind.JSON: pa.string(),
    Kind.BOOLEAN: pa.bool_(),
}
_BIGQUERY = {
    Kind.STRING: "STRING",
    Kind.INTEGER: "INT64",
    Kind.DOUBLE: "FLOAT64",
    Kind.TIMESTAMP: "TIMESTAMP",
    Kind.BYTES: "BYTES",
    Kind.STRINGS: "STRING",
    Kind.JSON: "STRING",
    Kind.BOOLEAN: "BOOL",
}
_DUCKDB = {
    Kind.STRING: "VARCHAR",
    Kind.INTEGER: "BIGINT",
    Kind.DOUBLE: "DOUBLE",
    Kind.TIMESTAMP: "TIMESTAMPTZ",
    Kind.BYTES: "BLOB",
    Kind.STRINGS: "VARCHAR[]",
    Kind.JSON: "VARCHAR",
    Kind.BOOLEAN: "BOOLEAN",
}
_CASSANDRA = {
    Kind.STRING: "text",
    Kind.INTEGER: "bigint",
    Kind.DOUBLE: "double",
    Kind.TIMESTAMP: "timestamp",
    Kind.BYTES: "blob",
    Kind.STRINGS: "frozen<list<text>>",
    Kind.JSON: "text",
    Kind.BOOLEAN: "boolean",
}
_JSON_SCHEMA: dict[Kind, dict[str, Any]] = {
    Kind.STRING: {"type": "string"},
    Kind.INTEGER: {"type": "integer"},
    Kind.DOUBLE: {"type": "number"},
    Kind.TIMESTAMP: {"type": "string", "format": "date-time"},
    Kind.BYTES: {"type": "string", "contentEncoding": "base64"},
    Kind.STRINGS: {"type": "array", "items": {"type": "string"}},
    Kind.JSON: {"type": "string", "contentMediaType": "application/json"},
    Kind.BOOLEAN: {"type": "boolean"},
}


def describe(field: Field) -> str:
    """The column's description with its unit, as catalogues show it."""
    return f"{field.description} [{field.unit}]" if field.unit else field.description


def arrow_schema(table: Table) -> pa.Schema:
    """The Arrow schema of `table`, with descriptions as field metadata."""
    return pa.schema(
        [
            pa.field(
                field.name,
                _ARROW[field.kind],
                nullable=not field.required,
                metadata={"description": describe(field)},
            )
            for field in table.fields
        ]
    )


def bigquery_schema(table: Table) -> list[dict[str, str]]:
    """The BigQuery table schema as the JSON list that `bq mk` and the API take."""
    return [
        {
            "name": field.name,
            "type": _BIGQUERY[field.kind],
            "mode": (
                "REPEATED"
                if field.kind is Kind.STRINGS
                else ("REQUIRED" if field.required else "NULLABLE")
            ),
            "description": describe(field),
        }
        for field in table.fields
    ]


def duckdb_ddl(table: Table) -> str:
    """CREATE TABLE for DuckDB and MotherDuck.

    The key is not declared PRIMARY KEY: DuckDB would keep an index of every key in memory, and
    the sink finds known keys by a join over the batch's time span instead.
    """
    columns = ",\n".join(
        f"    {field.name} {_DUCKDB[field.kind]}{' NOT NULL' if field.required else ''}"
        for field in table.fields
    )
    return f"CREATE TABLE IF NOT EXISTS {table.name} (\n{columns}\n)"


def duckdb_types(table: Table) -> dict[str, str]:
    """Column name to DuckDB type, in order."""
    return {field.name: _DUCKDB[field.kind] for field in table.fields}


def cassandra_name(table: Table) -> str:
    """The table's name in Cassandra: readings are `sensor_data` there."""
    return "sensor_data" if table == READING else table.name


def cassandra_types(table: Table) -> dict[str, str]:
    """Column name to Cassandra type, in order.

    A table of events also has the UTC `day` of its time, which is part of the partition's key;
    and because Cassandra's timestamps are milliseconds, readings have their time in microseconds,
    too.
    """
    types = {"day": "date"} if table.partition else {}
    for field in table.fields:
        types[field.name] = _CASSANDRA[field.kind]
        if table == READING and field.name == table.partition:
            types[f"{field.name}_us"] = "bigint"
    return types


def cassandra_key(table: Table) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The columns of the partition's key and those that order its rows.

    Events have a partition for each day of an equipment, or of an error's type. A row is addressed
    by its key, too, so writing it twice changes nothing and two readings of one millisecond both
    stay.
    """
    if not table.partition:
        return (table.key,), ()
    return (table.cluster[0], "day"), (table.partition, table.key)


def cassandra_ddl(table: Table = READING, keyspace: str | None = None) -> str:
    """CREATE TABLE for Cassandra; the newest row of a partition is its last."""
    name = f'"{keyspace}".{cassandra_name(table)}' if keyspace else cassandra_name(table)
    partition, order = cassandra_key(table)
    columns = [f"    {name} {kind}" for name, kind in cassandra_types(table).items()]
    key = ", ".join((f"({', '.join(partition)})", *order))
    body = ",\n".join([*columns, f"    PRIMARY KEY ({key})"])
    return f"CREATE TABLE IF NOT EXISTS {name} (\n{body}\n)"


def json_schema(table: Table = READING) -> dict[str, Any]:
    """The JSON Schema (2020-12) of a message that becomes one row of `table`.

    Derived columns are left out and unknown properties are allowed: the job computes the former
    and keeps the latter in `extra`.
    """
    fields = [field for field in table.fields if not field.derived]
    # What the job can find elsewhere (the message's key, the arrival time) need not be sent.
    found_elsewhere = {"equipment_id", "equipment_type", "ingested_at", "recorded_at"}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": table.name,
        "description": table.description,
        "type": "object",
        "properties": {
            field.name: {**_JSON_SCHEMA[field.kind], "description": describe(field)}
            for field in fields
        },
        "required": [f.name for f in fields if f.required and f.name not in found_elsewhere],
        "additionalProperties": True,
    }


def dbt_sources(tables: Iterable[Table]) -> str:
    """The YAML of the dbt source that reads the job's tables.

    `dbt_project/models/staging/_sources.yml` holds this text; write it anew with
    `python -m schemas dbt`.
    """
    described = []
    for table in tables:
        entry: dict[str, Any] = {"name": table.name, "description": table.description}
        if table is READING:
            # New readings arrive all the time in a live fleet; a lab's files are as old as they
            # are, which `dbt source freshness` then says.
            entry["config"] = {
                "loaded_at_field": "ingested_at",
                "freshness": {
                    # Every partition: the table on BigQuery demands a filter.
                    "filter": "recorded_at >= timestamp '0001-01-01 00:00:00+00'",
                    "warn_after": {"count": 2, "period": "hour"},
                    "error_after": {"count": 24, "period": "hour"},
                },
            }
        entry["columns"] = [
            {"name": field.name, "description": describe(field)} for field in table.fields
        ]
        described.append(entry)
    source = {
        "name": "pipeline",
        "description": "The tables that the streaming job writes.",
        "database": "{{ env_var('PIPELINE_DATABASE', target.database) }}",
        "schema": "{{ env_var('PIPELINE_SCHEMA', target.schema) }}",
        "tables": described,
    }
    text = yaml.safe_dump({"version": 2, "sources": [source]}, sort_keys=False, width=96)
    return f"# Derived from schemas/reading.py by: python -m schemas dbt\n{text}"


def flag_names(mask: int) -> list[str]:
    """The names of the quality flags whose bits are set in `mask`."""
    return [name for bit, name in enumerate(QUALITY_FLAGS) if mask >> bit & 1]
