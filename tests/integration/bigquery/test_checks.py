"""What is wrong is told before anything is read, with the fix."""

from __future__ import annotations

import datetime as dt
import os
import re
from typing import Any

import pytest
from google.cloud import bigquery as api

from pipeline.errors import ConfigError
from pipeline.sinks.bigquery import BigQuerySink
from tests.integration.bigquery.writing import (
    sink,
)
from tests.services.bigquery import BigQuery
from tests.services.faults import FaultyBigQuery

pytestmark = pytest.mark.integration


def refusal(target: BigQuerySink) -> str:
    began = dt.datetime.now(dt.UTC)
    with pytest.raises(ConfigError) as refused:
        target.check()
    assert (dt.datetime.now(dt.UTC) - began).total_seconds() < 16
    return str(refused.value)


def test_a_missing_dataset_is_told_with_the_command_that_makes_it(emulator: BigQuery) -> None:
    said = refusal(sink(emulator, "missing", "storage_write"))
    assert said.startswith(
        f"--warehouse=bigquery://{emulator.project}/missing: there is no dataset"
    )
    assert f"bq mk --dataset --location=LOCATION {emulator.project}:missing" in said


@pytest.mark.parametrize(
    ("fault", "part"),
    [
        ({"kind": "refuse", "code": 503}, "BigQuery does not answer|no emulator answers"),
        ({"kind": "cut"}, "no emulator answers"),
        pytest.param(
            {"kind": "delay", "seconds": 30}, "no emulator answers", marks=pytest.mark.long
        ),
        (
            {"kind": "refuse", "code": 403, "message": "BigQuery API has not been used in project"},
            "gcloud services enable bigquery.googleapis.com --project=test-project",
        ),
        ({"kind": "refuse", "code": 403, "message": "denied"}, r"roles/bigquery\.dataEditor"),
        ({"kind": "refuse", "code": 401, "message": "expired"}, "refuses the credentials"),
        ({"kind": "refuse", "code": 404, "message": "Not found: Project x"}, "there is no project"),
    ],
)
def test_what_bigquery_says_is_told_with_the_fix(
    emulator: BigQuery, dataset: str, through: FaultyBigQuery, fault: dict[str, Any], part: str
) -> None:
    through.rest.plan(**fault, times=99)
    said = refusal(sink(emulator, dataset, "storage_write"))
    assert re.search(part, said), said


def test_an_emulator_that_is_not_there_is_told(
    emulator: BigQuery, dataset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BIGQUERY_EMULATOR_HOST", "http://127.0.0.1:9")
    said = refusal(sink(emulator, dataset, "storage_write"))
    assert "no emulator answers at BIGQUERY_EMULATOR_HOST=http://127.0.0.1:9" in said


def test_a_storage_emulator_that_is_not_there_is_told(
    emulator: BigQuery, dataset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BIGQUERY_STORAGE_EMULATOR_HOST", "127.0.0.1:9")
    said = refusal(sink(emulator, dataset, "storage_write"))
    assert "no emulator answers at BIGQUERY_STORAGE_EMULATOR_HOST=127.0.0.1:9" in said
    monkeypatch.delenv("BIGQUERY_STORAGE_EMULATOR_HOST")
    assert "set it to the emulator's HOST:PORT" in refusal(sink(emulator, dataset, "storage_write"))


def test_a_column_of_another_type_is_told(
    emulator: BigQuery, dataset: str, client: api.Client
) -> None:
    fields = [api.SchemaField("voltage_v", "STRING")]
    client.create_table(api.Table(f"{emulator.project}.{dataset}.readings", schema=fields))
    said = refusal(sink(emulator, dataset, "storage_write"))
    assert "column readings.voltage_v is STRING and should be FLOAT64; rename the table" in said


def test_a_column_that_must_be_given_and_is_unknown_is_told(
    emulator: BigQuery, dataset: str, client: api.Client
) -> None:
    fields = [api.SchemaField("site", "STRING", mode="REQUIRED")]
    client.create_table(api.Table(f"{emulator.project}.{dataset}.readings", schema=fields))
    said = refusal(sink(emulator, dataset, "storage_write"))
    assert "ALTER COLUMN site DROP NOT NULL" in said


def test_another_layout_is_warned_of(
    emulator: BigQuery, dataset: str, client: api.Client, caplog: pytest.LogCaptureFixture
) -> None:
    name = f"{emulator.project}.{dataset}.readings"
    client.create_table(api.Table(name, schema=[api.SchemaField("reading_id", "STRING")]))
    sink(emulator, dataset, "storage_write").check()
    assert "not partitioned by the day of recorded_at" in caplog.text
    assert "bq update --clustering_fields=equipment_id,test_id" in caplog.text


def test_a_lake_that_lies_elsewhere_is_told(
    emulator: BigQuery, client: api.Client, lake: str
) -> None:
    far = api.Dataset(f"{emulator.project}.far_{os.getpid()}")
    far.location = "europe-west3"
    client.create_dataset(far)
    said = refusal(sink(emulator, far.dataset_id, "file_loads", lake=lake))
    assert "the dataset lies in EUROPE-WEST3 and the lake's bucket" in said
