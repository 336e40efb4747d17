"""The BigQuery emulator that other tests lean on: it does what they take for granted."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from google.api_core.exceptions import BadRequest, Conflict, InvalidArgument, NotFound
from google.cloud import bigquery as api
from google.cloud.bigquery_storage_v1 import BigQueryWriteClient, types

from schemas.forms import UTC_MICROSECONDS
from tests.services.bigquery import BigQuery
from tests.services.fixtures import started
from tests.services.gcs import Gcs

pytestmark = pytest.mark.integration

FIELDS = [
    api.SchemaField("reading_id", "STRING", mode="REQUIRED", description="Its key."),
    api.SchemaField("recorded_at", "TIMESTAMP", mode="REQUIRED"),
    api.SchemaField("voltage_v", "FLOAT"),  # the API calls FLOAT64 so
]
ALREADY_EXISTS, INVALID_ARGUMENT, OUT_OF_RANGE = 6, 3, 11


@pytest.fixture
def dataset(bigquery: BigQuery) -> str:
    return bigquery.new_dataset()


@pytest.fixture
def client(bigquery: BigQuery) -> Iterator[api.Client]:
    with bigquery.client() as client:
        yield client


def make_table(client: api.Client, dataset: str, filtered: bool = False) -> str:
    table = api.Table(f"{client.project}.{dataset}.readings", schema=FIELDS)
    table.time_partitioning = api.TimePartitioning(field="recorded_at")
    table.clustering_fields = ["reading_id"]
    table.require_partition_filter = filtered
    client.create_table(table)
    return f"projects/{client.project}/datasets/{dataset}/tables/readings"


def batch(*ids: str | None) -> pa.RecordBatch:
    return pa.record_batch(
        {
            "reading_id": pa.array(ids, pa.string()),
            "recorded_at": pa.array([1_704_067_200_000_000] * len(ids), UTC_MICROSECONDS),
            "voltage_v": pa.array([3.7] * len(ids)),
        }
    )


def append(
    writer: BigQueryWriteClient, stream: str, rows: pa.RecordBatch, offset: int | None = None
) -> types.AppendRowsResponse:
    data = types.AppendRowsRequest.ArrowData(
        writer_schema=types.ArrowSchema(serialized_schema=rows.schema.serialize().to_pybytes()),
        rows=types.ArrowRecordBatch(serialized_record_batch=rows.serialize().to_pybytes()),
    )
    request = types.AppendRowsRequest(write_stream=stream, arrow_rows=data, offset=offset)
    (answer,) = writer.append_rows(iter([request]))
    return answer


def ids(client: api.Client, dataset: str) -> list[str]:
    query = f"SELECT reading_id FROM {dataset}.readings WHERE recorded_at IS NOT NULL ORDER BY 1"
    return [row.reading_id for row in client.query_and_wait(query)]


def test_a_table_is_kept_as_described(client: api.Client, dataset: str) -> None:
    make_table(client, dataset, filtered=True)
    table = client.get_table(f"{dataset}.readings")
    assert table.schema == FIELDS
    assert (table.time_partitioning.field, table.clustering_fields) == (
        "recorded_at", ["reading_id"]
    )  # fmt: skip
    with pytest.raises(Conflict):
        make_table(client, dataset)
    with pytest.raises(BadRequest, match="without a filter over column"):
        client.query_and_wait(f"SELECT count(*) FROM {dataset}.readings")


def test_rows_and_their_errors(client: api.Client, dataset: str) -> None:
    make_table(client, dataset)
    good = {"reading_id": "a", "recorded_at": "2024-01-01T00:00:00Z", "voltage_v": 3.7}
    rows = [good, good | {"reading_id": None}, good | {"voltage_v": "x"}, good | {"soc": 1}]
    errors = client.insert_rows_json(f"{dataset}.readings", rows, skip_invalid_rows=True)
    assert [each["index"] for each in errors] == [1, 2, 3]
    assert ids(client, dataset) == ["a"]


def test_a_column_added_takes_values(bigquery: BigQuery, client: api.Client, dataset: str) -> None:
    stream = f"{make_table(client, dataset)}/streams/_default"
    more = pa.table(batch("a")).append_column("soc", pa.array([0.5])).to_batches()[0]
    assert append(bigquery.writer(), stream, more).row_errors
    table = client.get_table(f"{dataset}.readings")
    table.schema = [*table.schema, api.SchemaField("soc", "FLOAT64")]
    client.update_table(table, ["schema"])
    assert not append(bigquery.writer(), stream, more).error.code
    assert ids(client, dataset) == ["a"]


def test_the_default_stream_takes_arrow(
    bigquery: BigQuery, client: api.Client, dataset: str
) -> None:
    stream = f"{make_table(client, dataset)}/streams/_default"
    writer = bigquery.writer()
    assert not append(writer, stream, batch("a", "b")).error.code
    refused = append(writer, stream, batch("c", None))
    assert refused.error.code == INVALID_ARGUMENT
    assert [(each.index, each.message) for each in refused.row_errors] == [
        (1, "Missing required field: reading_id.")
    ]
    with pytest.raises(InvalidArgument, match="request too large"):
        append(writer, stream, batch("x" * (21 << 20)))
    assert ids(client, dataset) == ["a", "b"]
    client.delete_table(f"{dataset}.readings")
    with pytest.raises(NotFound):
        append(writer, stream, batch("c"))


def test_offsets_of_a_committed_stream(
    bigquery: BigQuery, client: api.Client, dataset: str
) -> None:
    table, writer = make_table(client, dataset), bigquery.writer()
    stream = writer.create_write_stream(
        parent=table, write_stream=types.WriteStream(type_=types.WriteStream.Type.COMMITTED)
    ).name
    assert append(writer, stream, batch("a", "b"), offset=0).append_result.offset == 0
    assert append(writer, stream, batch("a", "b"), offset=0).error.code == ALREADY_EXISTS
    assert append(writer, stream, batch("d"), offset=3).error.code == OUT_OF_RANGE
    assert append(writer, stream, batch("c"), offset=2).append_result.offset == 2
    assert ids(client, dataset) == ["a", "b", "c"]


def test_a_pending_stream_shows_when_committed(
    bigquery: BigQuery, client: api.Client, dataset: str
) -> None:
    table, writer = make_table(client, dataset), bigquery.writer()
    stream = writer.create_write_stream(
        parent=table, write_stream=types.WriteStream(type_=types.WriteStream.Type.PENDING)
    ).name
    append(writer, stream, batch("a", "b"), offset=0)
    assert ids(client, dataset) == []
    assert writer.finalize_write_stream(name=stream).row_count == 2
    commit = types.BatchCommitWriteStreamsRequest(parent=table, write_streams=[stream])
    assert writer.batch_commit_write_streams(commit).commit_time
    assert writer.batch_commit_write_streams(commit).stream_errors
    assert ids(client, dataset) == ["a", "b"]


def test_a_load_job_has_effect_once_and_all_is_there_after_a_crash(
    gcs: Gcs, tmp_path: Path
) -> None:
    bucket, data = gcs.make_bucket(), io.BytesIO()
    pq.write_table(pa.Table.from_batches([batch("a", "b")]), data)
    path = "readings/equipment_id=CS2_35/part.parquet"
    gcs.client().bucket(bucket).blob(path).upload_from_string(data.getvalue())
    settings = api.LoadJobConfig(
        source_format=api.SourceFormat.PARQUET,
        write_disposition=api.WriteDisposition.WRITE_APPEND,
        create_disposition=api.CreateDisposition.CREATE_NEVER,
    )
    emulator = started(BigQuery, tmp_path, gcs_root=gcs.root)
    with emulator, emulator.client() as client:
        dataset = emulator.new_dataset()
        make_table(client, dataset)

        def load() -> api.LoadJob:
            return client.load_table_from_uri(
                f"gs://{bucket}/{path}", f"{dataset}.readings", job_id="load-1", job_config=settings
            )

        assert load().result().output_rows == 2
        rest, pid = emulator.rest, emulator.pid
        emulator.stop(kill=True)
        emulator.start()
        assert (emulator.rest, emulator.pid != pid) == (rest, True)
        with pytest.raises(Conflict):
            load()
        assert client.get_job("load-1").state == "DONE"
        assert ids(client, dataset) == ["a", "b"]
