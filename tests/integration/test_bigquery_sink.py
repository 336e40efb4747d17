"""The BigQuery sink on the emulator: the same rows by every method, and what can go wrong."""

from __future__ import annotations

import datetime as dt
import io
import json
import logging
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import apache_beam as beam
import duckdb
import grpc
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.metrics.metric import MetricsFilter
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from google.cloud import bigquery as api

from pipeline import load
from pipeline.errors import ConfigError, WarehouseFailed
from pipeline.runner import Where, choose
from pipeline.sinks import Produced, outage
from pipeline.sinks.bigquery import Address, BigQuerySink, file_loads, loading, patience, requests
from pipeline.sinks.bigquery.exactly_once import Appender, WriteOnce
from pipeline.sinks.bigquery.ledger import Ledger
from pipeline.sinks.bigquery.loading import LoadThread
from pipeline.sinks.bigquery.storage_write import Figures
from pipeline.sinks.bigquery.streams import Stream
from pipeline.sinks.duckdb import DuckDBSink
from pipeline.stores import store_at
from schemas import forms
from schemas.reading import DEAD_LETTER, READING, TABLES, WINDOW_STATS, Kind, Table
from tests.messages import PROFILES, START
from tests.services.bigquery import BigQuery
from tests.services.engines import Prism
from tests.services.faults import FaultyBigQuery
from tests.services.gcs import Gcs

pytestmark = pytest.mark.integration

Code = grpc.StatusCode
METHODS = ("storage_write", "exactly_once", "streaming_inserts", "file_loads")


def ways(*names: str) -> list[Any]:
    """Ways to write: the default one in every run of the tests, the others in the long ones."""
    return [pytest.param(n, marks=[pytest.mark.long] * (n != "storage_write")) for n in names]


@pytest.fixture
def emulator(bigquery: BigQuery) -> BigQuery:
    return bigquery


@pytest.fixture
def faulty(emulator: BigQuery) -> Iterator[FaultyBigQuery]:
    with FaultyBigQuery(emulator) as found:
        yield found


@pytest.fixture(autouse=True)
def surroundings(emulator: BigQuery, gcs: Gcs, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**gcs.environment, **emulator.environment}.items():
        monkeypatch.setenv(name, value)
    # An outage is waited out, but not slept out.
    monkeypatch.setattr(outage, "_FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(outage, "_TOLD_AFTER_S", 0.0)
    monkeypatch.setattr(patience, "PATIENCE_S", 20.0)


@pytest.fixture
def through(faulty: FaultyBigQuery, monkeypatch: pytest.MonkeyPatch) -> FaultyBigQuery:
    """The proxies, by which everything goes."""
    for name, value in faulty.environment.items():
        monkeypatch.setenv(name, value)
    return faulty


@pytest.fixture
def dataset(emulator: BigQuery, client: api.Client) -> Iterator[str]:
    name = emulator.new_dataset()
    yield name
    # The more tables there are, the slower the emulator is.
    client.delete_dataset(name, delete_contents=True, not_found_ok=True)


@pytest.fixture
def lake(gcs: Gcs) -> str:
    return f"gs://{gcs.make_bucket()}/lake"


@pytest.fixture
def client(emulator: BigQuery) -> Iterator[api.Client]:
    with emulator.client() as client:
        yield client


# --- rows ---------------------------------------------------------------------------------------


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
            Kind.JSON: [json.dumps({"n": int(number), "deep": [1, None]}) for number in numbers],
        }
        values = made[field.kind]
        if field.name == table.key:
            values = [f"{seed}-{row:06}" for row in range(count)]
        elif not field.required:
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


# --- runs ---------------------------------------------------------------------------------------


def sink(emulator: BigQuery, dataset: str, method: str, **more: Any) -> BigQuerySink:
    once = method == "exactly_once"
    return BigQuerySink(
        f"bigquery://{emulator.project}/{dataset}",
        source="test://source",
        used=PROFILES,
        where=Where.KEPT if once else Where.HERE,
        method="storage_write" if once else method,
        delivery="exactly_once" if once else "at_least_once",
        **{"kept_where": "the lake", **more},
    )


def run(target: Any, tables: Mapping[str, list[pa.Table]]) -> dict[str, int]:
    """Runs the sink's steps; returns its counters."""
    pipeline = beam.Pipeline(runner=FnApiRunner())

    def given(name: str) -> beam.PCollection:
        create = beam.Create(tables.get(name, []), reshuffle=False)
        return pipeline | name >> create.with_output_types(pa.Table)

    empty = pipeline | "nothing" >> beam.Create([], reshuffle=False)
    refused = target.write(Produced(None, None, given("readings"), given("window_stats"), empty))
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


@pytest.mark.parametrize("method", METHODS)
def test_every_method_writes_what_duckdb_has(
    emulator: BigQuery, dataset: str, client: api.Client, lake: str, tmp_path: Path, method: str
) -> None:
    given = {table.name: some(table, 300) for table in (READING, WINDOW_STATS, DEAD_LETTER)}
    parts = {name: [rows.slice(0, 120), rows.slice(120)] for name, rows in given.items()}
    local = DuckDBSink(str(tmp_path / "warehouse.duckdb"), PROFILES)
    local.prepare()
    run(local, parts)
    local.finish()
    target = sink(emulator, dataset, method, lake=lake)
    target.check()
    assert not list(client.list_tables(dataset))  # looking makes nothing
    target.prepare()
    if method == "file_loads":
        for table in (READING, WINDOW_STATS, DEAD_LETTER):
            for number, part in enumerate(parts[table.name]):
                put(lake, part, table, str(number))
    counted = run(target, parts)
    target.complete()
    target.finish()
    for table in TABLES:
        wanted = in_duckdb(tmp_path / "warehouse.duckdb", table)
        assert there(client, dataset, table).equals(wanted), table.name
    if method in ("storage_write", "exactly_once"):
        assert counted["readings_written"] == counted["dead_letters_written"] == 300


def refuse_in_streams(through: FaultyBigQuery, method: str, rows: Iterable[int]) -> None:
    """BigQuery looks at rows when they are appended; the emulator, in streams of ours, does not."""
    if method == "exactly_once":
        through.storage.plan(
            "refuse", where="AppendRows", code=Code.INVALID_ARGUMENT, inside=True,
            message="equipment_id is missing", rows=tuple(rows),
        )  # fmt: skip


@pytest.mark.parametrize("method", ways(*METHODS[:3]))
def test_refused_rows_become_dead_letters_and_the_others_are_written(
    emulator: BigQuery, dataset: str, through: FaultyBigQuery, client: api.Client, method: str
) -> None:
    target = sink(emulator, dataset, method)
    target.prepare()
    refuse_in_streams(through, method, (7, 33))
    rows = replaced(some(READING, 50), "equipment_id", {7: None, 33: None})
    counted = run(target, {"readings": [rows]})
    written = [f"1-{row:06}" for row in range(50) if row not in (7, 33)]
    assert keys(client, dataset) == written
    letters = there(client, dataset, DEAD_LETTER).to_pylist()
    assert {json.loads(letter["attributes"])["reading_id"] for letter in letters} == {
        "1-000007", "1-000033"
    }  # fmt: skip
    for letter in letters:
        assert (letter["step"], letter["error_type"]) == ("bigquery", "refused")
        assert "equipment_id" in letter["error_message"]
        payload = json.loads(letter["payload"])
        assert "voltage_v" in payload and "quality_flags" not in payload
    assert counted["refused"] == 2
    # The same rows are the same letters.
    refuse_in_streams(through, method, (7, 33))
    run(target, {"readings": [rows]})
    assert len(set(keys(client, dataset, DEAD_LETTER))) == 2


@pytest.mark.parametrize("method", ways(*METHODS[:3]))
def test_a_row_above_the_limit_is_a_dead_letter_whose_payload_is_elsewhere(
    emulator: BigQuery, dataset: str, client: api.Client, method: str
) -> None:
    target = sink(emulator, dataset, method)
    target.prepare()
    rows = replaced(some(READING, 5), "extra", {2: json.dumps({"blob": "x" * (10 << 20)})})
    run(target, {"readings": [rows]})
    assert len(keys(client, dataset)) == 4
    (letter,) = there(client, dataset, DEAD_LETTER).to_pylist()
    assert letter["error_type"] == "row_too_large"
    assert letter["payload"] is None
    assert "whole in the lake" in letter["error_message"]


@pytest.mark.parametrize("method", ways("storage_write", "exactly_once"))
def test_rows_of_days_that_are_not_streamed_to_are_told_from_the_others(
    emulator: BigQuery, dataset: str, through: FaultyBigQuery, client: api.Client, method: str
) -> None:
    """As BigQuery has it; the emulator takes any day."""
    target = sink(emulator, dataset, method)
    target.prepare()
    now = dt.datetime.now(dt.UTC).replace(microsecond=0)
    days = {row: now - dt.timedelta(days=10 * row) for row in range(20)}
    days |= {3: dt.datetime(2010, 8, 1, tzinfo=dt.UTC), 8: now + dt.timedelta(days=400)}
    through.storage.plan(
        "refuse", where="AppendRows", code=Code.INVALID_ARGUMENT, inside=True,
        message="Value 1 for partition column recorded_at is outside the allowed bounds. You can "
        "only stream to partitions of date range within 1825 days in the past and 366 days in the "
        "future relative to the current date.",
    )  # fmt: skip
    run(target, {"readings": [replaced(some(READING, 20), "recorded_at", days)]})
    assert keys(client, dataset) == [f"1-{row:06}" for row in range(20) if row not in (3, 8)]
    letters = there(client, dataset, DEAD_LETTER).to_pylist()
    assert [letter["error_type"] for letter in letters] == ["refused"] * 2
    assert all("--bigquery_method=file_loads takes any day" in x["error_message"] for x in letters)


# --- a table that can't be written --------------------------------------------------------------


def told(error: BaseException) -> str:
    return str(error).replace("\n", " ")


@pytest.mark.parametrize("method", ways(*METHODS[:3]))
def test_a_table_deleted_while_running_fails_the_job_and_makes_no_dead_letters(
    emulator: BigQuery, dataset: str, client: api.Client, method: str
) -> None:
    target = sink(emulator, dataset, method)
    target.prepare()
    run(target, {"readings": [some(READING, 20)]})
    client.delete_table(f"{dataset}.readings")
    with pytest.raises(Exception, match=r"table readings: it is not there any more; run the job"):
        run(target, {"readings": [some(READING, 20, seed=2)]})
    assert keys(client, dataset, DEAD_LETTER) == []
    again = sink(emulator, dataset, method)
    again.prepare()
    run(again, {"readings": [some(READING, 20, seed=2)]})
    assert keys(client, dataset) == [f"2-{row:06}" for row in range(20)]


@pytest.mark.parametrize("method", ways(*METHODS[:3]))
def test_a_column_dropped_while_running_fails_the_job_and_makes_no_dead_letters(
    emulator: BigQuery, dataset: str, through: FaultyBigQuery, client: api.Client, method: str
) -> None:
    target = sink(emulator, dataset, method)
    target.prepare()
    refuse_in_streams(through, method, range(20))
    client.query(f"ALTER TABLE {dataset}.readings DROP COLUMN frequency_hz").result()
    with pytest.raises(Exception, match=r"table readings: it lacks frequency_hz by now"):
        run(target, {"readings": [some(READING, 20)]})
    assert keys(client, dataset, DEAD_LETTER) == []


def test_what_the_account_may_not_do_fails_the_job_with_the_role(
    emulator: BigQuery, dataset: str, through: FaultyBigQuery, client: api.Client
) -> None:
    target = sink(emulator, dataset, "storage_write")
    target.prepare()
    through.storage.plan("refuse", code=Code.PERMISSION_DENIED, message="no", times=99)
    with pytest.raises(Exception, match=r"roles/bigquery\.dataEditor"):
        run(target, {"readings": [some(READING, 20)]})
    assert keys(client, dataset, DEAD_LETTER) == []


# --- outages ------------------------------------------------------------------------------------


STORMS = {
    "unavailable": {"kind": "refuse", "code": Code.UNAVAILABLE, "times": 4},
    "over quota, on the connection": {
        "kind": "refuse", "code": Code.RESOURCE_EXHAUSTED, "times": 4, "inside": True,
    },
    "cut": {"kind": "cut", "times": 3},
    "aborted half way": {"kind": "refuse", "code": Code.ABORTED, "times": 3, "after": 1},
}  # fmt: skip


@pytest.mark.parametrize("storm", STORMS)
@pytest.mark.parametrize("method", ways("storage_write", "exactly_once"))
def test_a_storm_is_waited_out_and_told_once(
    emulator: BigQuery, dataset: str, through: FaultyBigQuery, client: api.Client,
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, method: str, storm: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(requests, "AIM_BYTES", 4_000)  # several are under way
    target = sink(emulator, dataset, method)
    target.prepare()
    through.storage.plan(where="AppendRows", **STORMS[storm])
    parts = [some(READING, 30, seed=seed) for seed in range(3)]
    with caplog.at_level(logging.WARNING):
        counted = run(target, {"readings": parts})
    assert keys(client, dataset) == sorted(f"{s}-{row:06}" for s in range(3) for row in range(30))
    assert counted["retries"] >= 3
    mine = [record.message for record in caplog.records if "table readings" in record.message]
    assert [("trying again" in line, "written again" in line) for line in mine] == [
        (True, False), (False, True)
    ]  # fmt: skip


def test_patience_ends_and_says_what_to_do(
    emulator: BigQuery, dataset: str, through: FaultyBigQuery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "PATIENCE_S", 0.5)
    target = sink(emulator, dataset, "storage_write")
    target.prepare()
    through.storage.plan("refuse", code=Code.RESOURCE_EXHAUSTED, message="quota", times=10_000)
    with pytest.raises(Exception, match=r"--warehouse=.*RESOURCE_EXHAUSTED: quota.*run the job"):
        run(target, {"readings": [some(READING, 20)]})


def test_a_lost_answer_may_double_rows_at_least_once_and_never_loses_any(
    emulator: BigQuery, dataset: str, through: FaultyBigQuery, client: api.Client
) -> None:
    target = sink(emulator, dataset, "storage_write")
    target.prepare()
    through.storage.plan("lose", where="AppendRows")
    run(target, {"readings": [some(READING, 30)]})
    found = keys(client, dataset)
    assert sorted(set(found)) == [f"1-{row:06}" for row in range(30)]
    assert len(found) == 60  # which is what the models' deduplication is for


@pytest.mark.long
@pytest.mark.parametrize("status", [503, 429])
def test_streaming_inserts_wait_out_a_storm(
    emulator: BigQuery, dataset: str, through: FaultyBigQuery, client: api.Client, status: int
) -> None:
    target = sink(emulator, dataset, "streaming_inserts")
    target.prepare()
    through.rest.plan("refuse", where="insertAll", code=status, times=2)
    run(target, {"readings": [some(READING, 30)]})
    assert keys(client, dataset) == [f"1-{row:06}" for row in range(30)]
    assert keys(client, dataset, DEAD_LETTER) == []


# --- exactly once -------------------------------------------------------------------------------


@pytest.fixture
def appender(emulator: BigQuery, dataset: str) -> Appender:
    sink(emulator, dataset, "exactly_once").prepare()
    address = Address(emulator.project, dataset)
    return Appender(address, READING, "test://source", Figures(READING))


@pytest.mark.long
def test_a_lost_answer_writes_each_row_once(
    emulator: BigQuery, dataset: str, through: FaultyBigQuery, client: api.Client
) -> None:
    target = sink(emulator, dataset, "exactly_once")
    target.prepare()
    through.storage.plan("lose", where="AppendRows", times=3)
    through.storage.plan("lose", where="FlushRows", times=2)
    parts = [some(READING, 30, seed=seed) for seed in range(3)]
    run(target, {"readings": parts})
    assert through.storage.done["lose"] == 5
    assert keys(client, dataset) == sorted(f"{s}-{row:06}" for s in range(3) for row in range(30))


def test_a_bundle_that_is_tried_again_writes_each_row_once(
    appender: Appender, dataset: str, client: api.Client
) -> None:
    """A bundle that fails after its appends finds the state as it was, with other elements too."""
    committed, _ = appender.append([], some(READING, 10, seed=1))
    committed = appender.flush(committed)
    appender.append(committed, some(READING, 10, seed=2))  # fails: its state is forgotten
    lost, _ = appender.append(committed, some(READING, 4, seed=3))  # and once more, half way
    appender.append(lost, some(READING, 10, seed=2))
    again, _ = appender.append(committed, some(READING, 10, seed=2))
    again, _ = appender.append(again, some(READING, 4, seed=3))
    assert keys(client, dataset) == [f"1-{row:06}" for row in range(10)]  # nothing committed yet
    flushed = appender.flush(again)
    appender.flush(again)  # the timer is tried again, too
    assert len(flushed) == 1
    last, _ = appender.append(flushed, some(READING, 5, seed=4))
    appender.flush(last)
    assert keys(client, dataset) == sorted(
        f"{seed}-{row:06}" for seed, count in ((1, 10), (2, 10), (3, 4), (4, 5))
        for row in range(count)
    )  # fmt: skip


@pytest.mark.long
def test_a_worker_that_was_given_up_and_still_writes_doubles_nothing(
    appender: Appender, dataset: str, client: api.Client
) -> None:
    committed, _ = appender.append([], some(READING, 10, seed=1))
    ours, _ = appender.append(committed, some(READING, 10, seed=2))
    appender.append(committed, some(READING, 10, seed=2))  # the zombie; nobody takes its state
    appender.append(committed, some(READING, 10, seed=3))
    appender.flush(ours)
    assert keys(client, dataset) == sorted(f"{s}-{row:06}" for s in (1, 2) for row in range(10))


def test_a_stream_that_is_gone_is_replaced(
    appender: Appender, dataset: str, client: api.Client, caplog: pytest.LogCaptureFixture
) -> None:
    gone = Stream(f"projects/p/datasets/{dataset}/tables/readings/streams/expired", 10, 10)
    streams, _ = appender.append([gone], some(READING, 10))
    appender.flush(streams)
    assert len(keys(client, dataset)) == 10
    assert not caplog.records
    appender.flush([gone._replace(flushed=4)])
    assert "a stream is gone with 6 rows" in caplog.text


@pytest.mark.long
def test_an_engine_that_keeps_state_has_each_row_once(
    emulator: BigQuery, dataset: str, through: FaultyBigQuery, client: api.Client, prism: Prism,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """On Prism a bundle that fails is not tried again, but answers are lost."""
    target = sink(emulator, dataset, "exactly_once")
    target.prepare()
    through.storage.plan("lose", where="AppendRows", times=3, after=1)
    through.storage.plan("refuse", where="FlushRows", code=Code.UNAVAILABLE, times=3)
    parts = [some(READING, 30, seed=seed) for seed in range(12)]
    options = PipelineOptions([*prism.flags, "--streaming"])
    pipeline = beam.Pipeline(runner=choose(options), options=options)
    given = pipeline | beam.Create(parts, reshuffle=False).with_output_types(pa.Table)
    _ = given | WriteOnce(Address(emulator.project, dataset), READING, "test://source")
    pipeline.run().wait_until_finish()
    assert keys(client, dataset) == sorted(f"{s}-{row:06}" for s in range(12) for row in range(30))
    assert "a stream is gone" not in caplog.text


# --- load jobs ----------------------------------------------------------------------------------


class Killed(BaseException):
    """The loader's process ends here."""


def kill_once(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, before: bool) -> None:
    """Lets a method of the loader be its last, the first time: before or after its work."""
    whole, killed = getattr(owner, name), []

    def dying(*arguments: Any, **named: Any) -> Any:
        if before and not killed:
            killed.append(True)
            raise Killed
        result = whole(*arguments, **named)
        if not killed:
            killed.append(True)
            raise Killed
        return result

    monkeypatch.setattr(owner, name, dying)


@pytest.mark.parametrize(
    ("owner", "name", "before"),
    [
        (Ledger, "enter", True),  # listed, nothing entered
        (Ledger, "enter", False),  # entered, no job
        (api.Client, "load_table_from_uri", False),  # started
        (Ledger, "close", True),  # done, not noted
        (Ledger, "close", False),
    ],
    ids=["listed", "entered", "started", "done", "noted"],
)
def test_a_loader_that_is_killed_loads_each_file_once(
    emulator: BigQuery, dataset: str, client: api.Client, lake: str,
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, before: bool,
) -> None:  # fmt: skip
    sink(emulator, dataset, "file_loads", lake=lake).prepare()
    address = Address(emulator.project, dataset)
    for seed in range(3):
        put(lake, some(READING, 10, seed=seed), READING, str(seed))
    with monkeypatch.context() as patch:
        kill_once(patch, owner, name, before)
        with pytest.raises(Killed):
            file_loads.load_new(lake, address)
    file_loads._ledgers.clear()  # another process
    put(lake, some(READING, 10, seed=3), READING, "3")
    file_loads.load_new(lake, address)
    assert file_loads.load_new(lake, address).files == 0
    assert keys(client, dataset) == sorted(f"{s}-{row:06}" for s in range(4) for row in range(10))


@pytest.mark.long
def test_load_jobs_survive_lost_answers_and_refusals(
    emulator: BigQuery, dataset: str, through: FaultyBigQuery, client: api.Client, lake: str
) -> None:
    sink(emulator, dataset, "file_loads", lake=lake).prepare()
    put(lake, some(READING, 10), READING)
    through.rest.plan("lose", where="POST /bigquery/v2/projects/test-project/jobs")
    through.rest.plan("refuse", where="/jobs", code=503, times=3)
    through.rest.plan("refuse", where="/jobs", code=403, times=2)
    assert file_loads.load_new(lake, Address(emulator.project, dataset)).files == 1
    assert len(keys(client, dataset)) == 10


def test_a_file_that_bigquery_does_not_take_is_set_aside_and_the_others_are_loaded(
    emulator: BigQuery, dataset: str, client: api.Client, lake: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    for seed in range(4):
        put(lake, some(READING, 10, seed=seed), READING, str(seed))
    bad = "readings/dt=2024-06-01/2b.parquet"
    store_at(lake).create(bad, b"no Parquet at all")
    flags = [f"--lake={lake}", f"--warehouse=bigquery://{emulator.project}/{dataset}"]
    assert load.main(flags) == 1
    said = capsys.readouterr()
    assert "loaded 4 files with 40 rows" in said.out
    assert f"{bad} is set aside" in said.err
    assert len(keys(client, dataset)) == 40
    assert load.main(flags) == 0
    assert "loaded 0 files" in capsys.readouterr().out


def test_a_live_job_loads_every_few_minutes(
    emulator: BigQuery, dataset: str, client: api.Client, lake: str
) -> None:
    sink(emulator, dataset, "file_loads", lake=lake).prepare()
    loads = LoadThread(lake, Address(emulator.project, dataset), every_s=0.1)
    loads.start()
    for seed in range(2):
        put(lake, some(READING, 10, seed=seed), READING, str(seed))
        until = time.monotonic() + 60
        while len(keys(client, dataset)) < 10 * (seed + 1):
            assert time.monotonic() < until
    loads.stop()


@pytest.mark.long
def test_a_step_loads_what_is_due_and_not_yet_loaded(
    emulator: BigQuery, dataset: str, client: api.Client, lake: str
) -> None:
    sink(emulator, dataset, "file_loads", lake=lake).prepare()
    put(lake, some(READING, 10), READING)
    address = Address(emulator.project, dataset)
    pipeline = beam.Pipeline(runner=FnApiRunner())
    due = pipeline | beam.Create([(0, time.time() - 5), (0, time.time() - 4)])
    _ = due | beam.ParDo(loading._Load(lake, address, 300.0))
    result = pipeline.run()
    counted = {c.key.metric.name: c.committed for c in result.metrics().query()["counters"]}
    assert (counted["files_loaded"], counted["rows_loaded"]) == (1, 10)
    assert len(keys(client, dataset)) == 10


@pytest.mark.long
def test_a_table_that_was_deleted_gets_all_files_again(
    emulator: BigQuery, dataset: str, client: api.Client, lake: str
) -> None:
    put(lake, some(READING, 10), READING)
    flags = [f"--lake={lake}", f"--warehouse=bigquery://{emulator.project}/{dataset}"]
    assert load.main(flags) == 0
    client.delete_table(f"{dataset}.readings")
    with pytest.raises(WarehouseFailed, match="table readings: it is not there"):
        file_loads.load_new(lake, Address(emulator.project, dataset))
    assert load.main(flags) == 0
    assert len(keys(client, dataset)) == 10


# --- what is there before -----------------------------------------------------------------------


@pytest.mark.parametrize("method", ways(*METHODS))
def test_an_older_table_gets_the_columns_it_lacks(
    emulator: BigQuery, dataset: str, client: api.Client, lake: str, method: str
) -> None:
    target = sink(emulator, dataset, method, lake=lake)
    target.prepare()
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
    sink(emulator, dataset, method, lake=lake).prepare()
    sql = f"ALTER TABLE {dataset}.readings ADD COLUMN humidity FLOAT64"
    client.query(sql).result()
    target = sink(emulator, dataset, method, lake=lake)
    target.prepare()
    put(lake, some(READING, 9), READING)
    run(target, {"readings": [some(READING, 9)]})
    target.complete()
    assert there(client, dataset, READING).equals(some(READING, 9))
    assert "humidity" in [field.name for field in client.get_table(f"{dataset}.readings").schema]


@pytest.mark.long
def test_an_older_loader_s_files_and_a_newer_one_s_are_loaded_into_one_table(
    emulator: BigQuery, dataset: str, client: api.Client, lake: str
) -> None:
    sink(emulator, dataset, "file_loads", lake=lake).prepare()
    newer = some(READING, 9).append_column("humidity", pa.array([0.5] * 9))
    put(lake, newer, READING, "newer")
    put(lake, some(READING, 9, seed=2).drop_columns(["frequency_hz"]), READING, "older")
    assert file_loads.load_new(lake, Address(emulator.project, dataset)).rows == 18
    sql = f"SELECT count(humidity) n FROM {dataset}.readings WHERE recorded_at > '1970-01-01'"
    assert next(iter(client.query(sql).result())).n == 9


def test_tables_are_partitioned_clustered_and_described(
    emulator: BigQuery, dataset: str, client: api.Client
) -> None:
    sink(emulator, dataset, "storage_write").prepare()
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
    sink(emulator, dataset, "storage_write").prepare()
    sql = f"UPDATE {dataset}.equipment_profiles SET gap_s = 1.5 WHERE TRUE"
    client.query(sql).result()
    columns = "* REPLACE ('another' AS profile)"
    client.query(
        f"INSERT INTO {dataset}.equipment_profiles SELECT {columns} "
        f"FROM {dataset}.equipment_profiles LIMIT 1"
    ).result()
    sink(emulator, dataset, "storage_write").prepare()
    rows = client.list_rows(f"{dataset}.equipment_profiles")
    found = {row["profile"]: row["gap_s"] for row in rows}
    assert len(found) == len(PROFILES) + 1 == rows.total_rows
    assert [name for name, gap in found.items() if gap == 1.5] == ["another"]


# --- before anything is read --------------------------------------------------------------------


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
