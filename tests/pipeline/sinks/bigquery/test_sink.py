"""The BigQuery sink without BigQuery: requests, answers, patience, dead letters, flags."""

from __future__ import annotations

from typing import Any

import grpc
import numpy as np
import orjson
import pyarrow as pa
import pytest
from google.cloud.bigquery_storage_v1 import types
from google.protobuf import any_pb2
from google.rpc import status_pb2

from pipeline.engines.dataflow import ENGINE as DATAFLOW
from pipeline.errors import ConfigError
from pipeline.sinks.bigquery import Address, BigQuerySink, answers, requests
from pipeline.sinks.bigquery.answers import Answer
from pipeline.sinks.bigquery.file_loads import LOADED
from pipeline.sinks.bigquery.streaming_inserts import _as_table, as_rows
from schemas import forms
from schemas.reading import DEAD_LETTER, READING, TABLES, Table
from tests.messages import PROFILES
from tests.pipeline.sinks.duckdb.test_file import some

Code = grpc.StatusCode
URI = "bigquery://project/dataset"


def rows(table: Table, *changes: dict[str, Any]) -> pa.Table:
    given = [some(table, **{table.key: f"key {n}", **more}) for n, more in enumerate(changes)]
    return pa.Table.from_pylist(given, schema=forms.arrow_schema(table))


# --- requests -----------------------------------------------------------------------------------


def shaped(given: pa.Table) -> pa.Table:
    return requests.shaped(given, requests.schema(READING))


def test_requests_hold_all_rows_in_order_and_none_is_large() -> None:
    random = np.random.default_rng(7)
    sizes = random.choice([10, 5_000, 300_000], 900, p=[0.8, 0.15, 0.05])
    given = shaped(rows(READING, *({"extra": "x" * int(size)} for size in sizes)))
    found = list(requests.cut(given))
    assert len(found) > 2
    assert pa.Table.from_batches([request.rows for request in found]).equals(given)
    for request in found:
        assert request.data is not None
        assert request.size == len(request.data) <= requests.MOST_BYTES
        read = pa.ipc.read_record_batch(pa.py_buffer(request.data), given.schema)
        assert read.equals(request.rows)


def test_a_row_that_fits_no_request_is_told_from_its_neighbours() -> None:
    sizes = [10, 10, 12 << 20, 10, 10]
    given = shaped(rows(READING, *({"extra": "x" * size} for size in sizes)))
    found = list(requests.cut(given))
    (large,) = [request for request in found if request.data is None]
    assert large.rows.column("reading_id").to_pylist() == ["key 2"]
    assert "and BigQuery takes 9,437,184 at most" in requests.too_large(large)
    others = [request.rows for request in found if request.data is not None]
    assert sum(batch.num_rows for batch in others) == 4


def test_a_request_is_parted_into_the_named_rows_and_the_others() -> None:
    (request,) = requests.cut(shaped(rows(READING, *[{}] * 5)))
    good, bad, why = requests.parted(request, {3: "late", 1: "odd"})
    assert good is not None and good.data is not None
    assert good.rows.column("reading_id").to_pylist() == ["key 0", "key 2", "key 4"]
    assert pa.ipc.read_record_batch(pa.py_buffer(good.data), good.rows.schema).equals(good.rows)
    assert bad.column("reading_id").to_pylist() == ["key 1", "key 3"]
    assert why == [("refused", "odd"), ("refused", "late")]
    assert requests.parted(request, dict.fromkeys(range(5), "odd"))[0] is None


# --- answers ------------------------------------------------------------------------------------


def response(code: int, *, storage_code: int = 0, **more: Any) -> types.AppendRowsResponse:
    status = status_pb2.Status(code=code, message="said")
    if storage_code:
        error = types.StorageError(code=storage_code, entity="table")
        packed = any_pb2.Any()
        packed.Pack(types.StorageError.pb(error))
        status.details.append(packed)
    return types.AppendRowsResponse(error=status, **more)


def test_answers_tell_what_was_written_refused_or_may_be_tried_again() -> None:
    written = types.AppendRowsResponse(append_result={"offset": 5})
    assert answers.of_response(written) == answers.OK
    for code in (Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED, Code.ABORTED, Code.INTERNAL):
        found = answers.of_response(response(code.value[0]))
        assert (found.code, found.written, found.retryable) == (code, False, True)
    for code in (Code.NOT_FOUND, Code.PERMISSION_DENIED, Code.INVALID_ARGUMENT):
        assert not answers.of_response(response(code.value[0])).retryable
    named = [types.RowError(index=2, message="why")]
    found = answers.of_response(response(3, row_errors=named))
    assert (found.refused, found.retryable) == ({2: "why"}, False)
    # BigQuery may leave the status out.
    assert answers.of_response(types.AppendRowsResponse(row_errors=named)).refused


def test_the_finer_codes_are_read() -> None:
    codes = types.StorageError.StorageErrorCode
    extra = answers.of_response(response(3, storage_code=codes.SCHEMA_MISMATCH_EXTRA_FIELDS))
    assert extra.unknown_columns and not extra.stream_gone
    assert answers.of_response(response(3, storage_code=codes.STREAM_FINALIZED)).stream_gone
    assert Answer(Code.NOT_FOUND, "Requested stream was not found").stream_gone
    assert not Answer(Code.UNAVAILABLE, "stream removed").stream_gone


# --- streaming inserts --------------------------------------------------------------------------


@pytest.mark.parametrize("table", LOADED)
def test_rows_come_back_from_json_as_they_were(table: Table) -> None:
    given = rows(table, {}, {"payload": b"\x00\xff"} if table == DEAD_LETTER else {})
    back = [_as_table(table, row) for row, _ in as_rows(table, given)]
    assert pa.concat_tables(back).cast(given.schema).equals(given)
    assert [key for _, key in as_rows(table, given)] == ["key 0", "key 1"]


def test_numbers_that_json_has_not_are_spelled_out() -> None:
    values = [float("nan"), float("inf"), float("-inf")]
    given = rows(READING, *({"voltage_v": value} for value in values))
    assert [row["voltage_v"] for row, _ in as_rows(READING, given)] == [
        "NaN", "Infinity", "-Infinity"
    ]  # fmt: skip
    assert orjson.dumps([row for row, _ in as_rows(READING, given)])


# --- flags --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uri", "part"),
    [
        ("bigquery://project", "must look like bigquery://PROJECT/DATASET"),
        ("bigquery://project/a/b", "must look like bigquery://PROJECT/DATASET"),
        ("bigquery://project/data-set", "a name has letters, digits and _"),
        ("bigquery://Project!/dataset", "can't be a project's id"),
        ("bigquery://project/dataset?x=1", "takes no parameters"),
        ("bigquery://me:secret@project/dataset", "must not stand in the address"),
    ],
)
def test_addresses_that_can_t_be_used_are_told(uri: str, part: str) -> None:
    with pytest.raises(ConfigError) as error:
        Address.parse(uri)
    assert str(error.value).startswith("--warehouse=bigquery://")
    assert part in str(error.value)
    assert "secret" not in str(error.value)


def test_a_domain_s_project_is_one() -> None:
    assert Address.parse("bigquery://example.com:p-1/d").table("t") == "example.com:p-1.d.t"


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        ({"method": "file_loads"}, r"^--lake=none: load jobs read .*give --lake=gs://"),
        ({"method": "file_loads", "lake": "./data"}, r"^--lake=\./data: .*give --lake=gs://"),
        (
            {"method": "file_loads", "lake": "gs://b/p", "delivery": "exactly_once"},
            r"^--bigquery_delivery=exactly_once is for --bigquery_method=storage_write",
        ),
        ({"delivery": "exactly_once"}, r"^--bigquery_delivery=exactly_once needs a runner"),
    ],
)
def test_flags_that_do_not_fit_each_other_are_told(flags: dict[str, Any], part: str) -> None:
    with pytest.raises(ConfigError, match=part):
        BigQuerySink(URI, "simulator:", PROFILES, **flags)


def test_flags_that_fit_are_taken() -> None:
    BigQuerySink(URI, "simulator:", PROFILES, engine=DATAFLOW, delivery="exactly_once")
    BigQuerySink(URI, "simulator:", PROFILES, method="file_loads", lake="gs://bucket/lake")


def test_every_table_has_a_schema_to_be_sent_in() -> None:
    for table in TABLES:
        assert requests.schema(table).names == table.names
