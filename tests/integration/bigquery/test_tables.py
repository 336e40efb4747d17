"""Tables that are there before the job, older or newer than it, and those that it makes."""

from __future__ import annotations

import pyarrow as pa
import pytest
from google.cloud import bigquery as api

from pipeline.sinks.bigquery import Address, file_loads
from schemas.reading import DEAD_LETTER, READING, TABLES
from tests.integration.bigquery.writing import (
    METHODS,
    prepared,
    put,
    run,
    sink,
    some,
    there,
    ways,
)
from tests.messages import PROFILES
from tests.services.bigquery import BigQuery

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("method", ways(*METHODS))
def test_an_older_table_gets_the_columns_it_lacks(
    emulator: BigQuery, dataset: str, client: api.Client, lake: str, method: str
) -> None:
    prepared(emulator, dataset, method, lake=lake)
    for column in ("frequency_hz", "quality_flags"):
        client.query(f"ALTER TABLE {dataset}.readings DROP COLUMN {column}").result()
    again = sink(emulator, dataset, method, lake=lake)
    again.check()
    assert "frequency_hz" not in [f.name for f in client.get_table(f"{dataset}.readings").schema]
    again.prepare()
    put(lake, some(READING, 9), READING)
    run(again, {"readings": [some(READING, 9)]})
    again.complete()
    by_name = {field.name: field for field in client.get_table(f"{dataset}.readings").schema}
    assert by_name["frequency_hz"].mode == "NULLABLE"
    assert by_name["frequency_hz"].description == "Supply or rotation frequency of a machine. [Hz]"
    assert there(client, dataset, READING).equals(some(READING, 9))


@pytest.mark.parametrize("method", ways(*METHODS))
def test_an_old_job_meets_a_newer_table(
    emulator: BigQuery, dataset: str, client: api.Client, lake: str, method: str
) -> None:
    prepared(emulator, dataset, method, lake=lake)
    sql = f"ALTER TABLE {dataset}.readings ADD COLUMN humidity FLOAT64"
    client.query(sql).result()
    target = prepared(emulator, dataset, method, lake=lake)
    put(lake, some(READING, 9), READING)
    run(target, {"readings": [some(READING, 9)]})
    target.complete()
    assert there(client, dataset, READING).equals(some(READING, 9))
    assert "humidity" in [field.name for field in client.get_table(f"{dataset}.readings").schema]


@pytest.mark.long
def test_an_older_loader_s_files_and_a_newer_one_s_are_loaded_into_one_table(
    emulator: BigQuery, dataset: str, client: api.Client, lake: str
) -> None:
    prepared(emulator, dataset, "file_loads", lake=lake)
    newer = some(READING, 9).append_column("humidity", pa.array([0.5] * 9))
    put(lake, newer, READING, "newer")
    put(lake, some(READING, 9, seed=2).drop_columns(["frequency_hz"]), READING, "older")
    assert file_loads.load_new(lake, Address(emulator.project, dataset)).rows == 18
    sql = f"SELECT count(humidity) n FROM {dataset}.readings WHERE recorded_at > '1970-01-01'"
    assert next(iter(client.query(sql).result())).n == 9


def test_tables_are_partitioned_clustered_and_described(
    emulator: BigQuery, dataset: str, client: api.Client
) -> None:
    prepared(emulator, dataset, "storage_write")
    for table in TABLES:
        made = client.get_table(f"{dataset}.{table.name}")
        by = made.time_partitioning
        assert (by.field if by else None) == table.partition
        assert tuple(made.clustering_fields or ()) == table.cluster
        assert made.description == table.description
        assert bool(made.require_partition_filter) == (table in (READING, DEAD_LETTER))
        assert all(field.description for field in made.schema)


@pytest.mark.long
def test_profiles_are_replaced_beside_those_of_other_jobs(
    emulator: BigQuery, dataset: str, client: api.Client
) -> None:
    prepared(emulator, dataset, "storage_write")
    sql = f"UPDATE {dataset}.equipment_profiles SET gap_s = 1.5 WHERE TRUE"
    client.query(sql).result()
    columns = "* REPLACE ('another' AS profile)"
    client.query(
        f"INSERT INTO {dataset}.equipment_profiles SELECT {columns} "
        f"FROM {dataset}.equipment_profiles LIMIT 1"
    ).result()
    prepared(emulator, dataset, "storage_write")
    rows = client.list_rows(f"{dataset}.equipment_profiles")
    found = {row["profile"]: row["gap_s"] for row in rows}
    assert len(found) == len(PROFILES) + 1 == rows.total_rows
    assert [name for name, gap in found.items() if gap == 1.5] == ["another"]
