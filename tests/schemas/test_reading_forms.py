"""Every form of a table against its one definition, and against the systems that read it."""

import re
from pathlib import Path

import duckdb
import jsonschema
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from google.cloud.bigquery import SchemaField

from schemas import forms
from schemas.__main__ import FORMS, main, render
from schemas.reading import (
    COUNTERS,
    DEAD_LETTER,
    EQUIPMENT_TYPES,
    QUALITY_FLAGS,
    READING,
    TABLES,
    Kind,
)

by_table = pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)

SAMPLES = {
    Kind.STRING: "text",
    Kind.INTEGER: 2**62,
    Kind.DOUBLE: -0.1,
    Kind.TIMESTAMP: 1_717_243_200_123_456,
    Kind.BYTES: b"\x00\xff",
    Kind.STRINGS: ["gap", "late"],
    Kind.JSON: '{"a":1}',
    Kind.BOOLEAN: True,
}


def sample(table):
    """A row with every column filled and, where that is allowed, one with none."""
    schema = forms.arrow_schema(table)
    columns = []
    for field in table.fields:
        full = SAMPLES[field.kind]
        columns.append(
            pa.array([full, full if field.required else None], schema.field(field.name).type)
        )
    return pa.table(columns, schema=schema)


def column_names_of(statement):
    body = statement[statement.index("(") + 1 : statement.rindex(")")]
    return re.findall(r"^    ([a-z0-9_]+) ", body, re.MULTILINE)


@by_table
def test_no_form_misses_or_adds_a_column(table):
    names = [field.name for field in table.fields]
    assert len(set(names)) == len(names)
    assert forms.arrow_schema(table).names == names
    assert [column["name"] for column in forms.bigquery_schema(table)] == names
    assert column_names_of(forms.duckdb_ddl(table)) == names
    assert list(forms.duckdb_types(table)) == names
    added = {"day", "recorded_at_us"}
    found = column_names_of(forms.cassandra_ddl(table))
    assert [name for name in found if name not in added] == names
    assert list(forms.cassandra_types(table)) == found
    sources = yaml.safe_load(forms.dbt_sources([table]))["sources"][0]["tables"]
    assert [column["name"] for column in sources[0]["columns"]] == names
    sent = [field.name for field in table.fields if not field.derived]
    assert list(forms.json_schema(table)["properties"]) == sent


@pytest.mark.parametrize("kind", Kind)
def test_every_logical_type_has_every_form(kind):
    for mapping in (
        forms._ARROW, forms._BIGQUERY, forms._DUCKDB, forms._CASSANDRA, forms._JSON_SCHEMA,
    ):  # fmt: skip
        assert kind in mapping


@by_table
def test_keys_partitions_and_clusters_are_columns(table):
    assert table.field(table.key).required
    for name in (*table.cluster, *([table.partition] if table.partition else [])):
        assert name in table.names
    if table.partition:
        assert table.field(table.partition).kind is Kind.TIMESTAMP
        assert table.field(table.partition).required


def test_an_unknown_column_is_named_in_the_error():
    with pytest.raises(KeyError, match="readings has no column 'volts'; it has reading_id"):
        READING.field("volts")


def test_the_canonical_reading_is_the_specified_one():
    assert set(READING.names) >= {
        "reading_id", "equipment_id", "equipment_type", "test_id", "recorded_at", "streamed_at",
        "ingested_at", "source_file", "record_index", "test_time_s", "step_time_s", "cycle_index",
        "step_index", "voltage_v", "current_a", "internal_resistance_ohm", "temperature_c",
        "ambient_temperature_c", "frequency_hz", "power_watt", "time_delta_s", "quality_flags",
        "extra", *COUNTERS,
    }  # fmt: skip
    assert {field.name for field in READING.fields if field.derived} == {
        "reading_id", "power_watt", "time_delta_s", "quality_flags", "content_id",
    }  # fmt: skip
    assert EQUIPMENT_TYPES == ("battery_cell", "machine")


@by_table
def test_duckdb_creates_the_table_as_described(table):
    with duckdb.connect() as connection:
        connection.execute(forms.duckdb_ddl(table))
        connection.execute(forms.duckdb_ddl(table))  # a second run finds the table
        found = connection.execute(f"DESCRIBE {table.name}").fetchall()
    described = {name: (kind, null == "YES") for name, kind, null, *_ in found}
    spelled = {"TIMESTAMPTZ": "TIMESTAMP WITH TIME ZONE"}
    assert described == {
        name: (spelled.get(kind, kind), not table.field(name).required)
        for name, kind in forms.duckdb_types(table).items()
    }


@by_table
def test_arrow_goes_through_parquet_into_duckdb_and_back(table, tmp_path):
    rows = sample(table)
    path = tmp_path / "rows.parquet"
    pq.write_table(rows, path)
    read = pq.read_table(path)
    assert read.schema.equals(forms.arrow_schema(table))
    assert [f.metadata for f in read.schema] == [f.metadata for f in forms.arrow_schema(table)]
    assert read.equals(rows)
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute(forms.duckdb_ddl(table))
        connection.execute(
            f"INSERT INTO {table.name} BY NAME SELECT * FROM read_parquet(?)", [str(path)]
        )
        back = connection.sql(f"SELECT * FROM {table.name}").to_arrow_table()
    assert back.to_pylist() == rows.to_pylist()


@by_table
def test_arrow_carries_types_nullability_and_descriptions(table):
    for field, column in zip(table.fields, forms.arrow_schema(table), strict=True):
        assert column.nullable is not field.required
        assert column.metadata == {b"description": forms.describe(field).encode()}
        assert not field.unit or f"[{field.unit}]" in forms.describe(field)
        if field.kind is Kind.TIMESTAMP:
            assert column.type == pa.timestamp("us", tz="UTC")


@by_table
def test_bigquery_accepts_every_column(table):
    for field, column in zip(table.fields, forms.bigquery_schema(table), strict=True):
        assert set(column) == {"name", "type", "mode", "description"}
        parsed = SchemaField.from_api_repr(column)
        assert (parsed.name, parsed.description) == (field.name, forms.describe(field))
        if field.kind is Kind.STRINGS:
            assert parsed.mode == "REPEATED"
        else:
            assert parsed.mode == ("REQUIRED" if field.required else "NULLABLE")
        assert parsed.field_type in {"STRING", "INT64", "FLOAT64", "TIMESTAMP", "BYTES", "BOOL"}


def test_cassandra_keeps_a_partition_per_equipment_and_day():
    statement = forms.cassandra_ddl()
    assert statement.startswith("CREATE TABLE IF NOT EXISTS sensor_data (\n")
    assert "    PRIMARY KEY ((equipment_id, day), recorded_at, reading_id)\n)" in statement
    assert "    day date,\n" in statement
    assert "    recorded_at timestamp,\n    recorded_at_us bigint,\n" in statement
    assert "    voltage_v double,\n" in statement
    assert "    quality_flags frozen<list<text>>,\n" in statement
    placed = forms.cassandra_ddl(READING, "Fleet")
    assert placed.startswith('CREATE TABLE IF NOT EXISTS "Fleet".sensor_data (\n')


@by_table
def test_cassandra_finds_a_row_by_its_key(table):
    partition, order = forms.cassandra_key(table)
    types = forms.cassandra_types(table)
    assert {*partition, *order} <= set(types)
    assert (*partition, *order)[-1] == table.key
    assert ("day" in types) == ("day" in partition) == bool(table.partition)
    # A key can't be null.
    assert all(table.field(name).required for name in (*partition, *order) if name != "day")
    assert set(types.values()) <= {
        "text", "bigint", "double", "timestamp", "blob", "date", "frozen<list<text>>",
        "boolean",
    }  # fmt: skip


@pytest.fixture(scope="module")
def validator():
    schema = forms.json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize(
    "message",
    [
        {"voltage_v": 3.7, "current_a": -1},
        {"voltage_v": 3.7, "current_a": -1.0, "equipment_id": "a", "cycle_index": 3},
        {"voltage_v": 3.7, "current_a": 0, "recorded_at": "2024-06-01T12:00:00Z", "new": [1]},
    ],
)
def test_json_schema_takes_messages_that_become_readings(validator, message):
    assert validator.is_valid(message)


@pytest.mark.parametrize(
    "message",
    [
        [],
        {"voltage_v": 3.7},
        {"current_a": 1.0},
        {"voltage_v": "3.7", "current_a": 1.0},
        {"voltage_v": 3.7, "current_a": 1.0, "cycle_index": 1.5},
        {"voltage_v": 3.7, "current_a": 1.0, "recorded_at": 5},
    ],
)
def test_json_schema_refuses_what_is_not_canonical(validator, message):
    assert not validator.is_valid(message)


def test_json_schema_leaves_out_what_the_job_computes_or_finds():
    schema = forms.json_schema()
    assert schema["required"] == ["voltage_v", "current_a"]
    assert schema["additionalProperties"] is True
    assert not {"reading_id", "power_watt", "time_delta_s"} & set(schema["properties"])
    payload = forms.json_schema(DEAD_LETTER)["properties"]["payload"]
    assert payload["contentEncoding"] == "base64"


@by_table
def test_the_dbt_source_describes_every_column(table):
    columns = yaml.safe_load(forms.dbt_sources([table]))["sources"][0]["tables"][0]["columns"]
    for field, column in zip(table.fields, columns, strict=True):
        assert column == {"name": field.name, "description": forms.describe(field)}


def test_the_dbt_projects_sources_are_the_derived_ones():
    project = Path(__file__).parents[2] / "dbt_project"
    written = (project / "models" / "staging" / "_sources.yml").read_text(encoding="utf-8")
    assert written == forms.dbt_sources(TABLES), "write it anew: python -m schemas dbt"


@pytest.mark.parametrize("form", FORMS)
def test_every_form_can_be_printed(form, capsys):
    assert main([form, "window_stats"]) == 0
    assert "window_stats" in capsys.readouterr().out or form in ("arrow", "bigquery")
    assert "stats_id" in render(form, "window_stats")


def test_flags_are_named_in_alphabetical_order():
    assert list(QUALITY_FLAGS) == sorted(QUALITY_FLAGS)
    assert forms.flag_names(0) == []
    mask = sum(1 << QUALITY_FLAGS.index(name) for name in ("late", "counter_jump"))
    assert forms.flag_names(mask) == ["counter_jump", "late"]
    assert forms.flag_names((1 << len(QUALITY_FLAGS)) - 1) == list(QUALITY_FLAGS)
