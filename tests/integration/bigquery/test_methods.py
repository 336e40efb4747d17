"""The same rows by every method, and what BigQuery does not take."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

import pytest
from google.cloud import bigquery as api
from grpc import StatusCode

from pipeline.sinks.duckdb import DuckDBSink
from schemas.reading import (
    DEAD_LETTER,
    EQUIPMENT_PROFILE,
    READING,
    READING_SUPERSEDED,
    TABLES,
)
from tests.integration.bigquery.writing import (
    METHODS,
    in_duckdb,
    keys,
    prepared,
    put,
    refuse_in_streams,
    replaced,
    run,
    sink,
    some,
    there,
    ways,
)
from tests.messages import PROFILES
from tests.services.bigquery import BigQuery
from tests.services.faults import FaultyBigQuery

pytestmark = pytest.mark.integration

_WRITTEN = [table for table in TABLES if table != EQUIPMENT_PROFILE]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_writes_what_duckdb_has(
    emulator: BigQuery, dataset: str, client: api.Client, lake: str, tmp_path: Path, method: str
) -> None:
    given = {table.name: some(table, 300) for table in _WRITTEN}
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
        # The lake has all versions among its readings.
        for table in (table for table in _WRITTEN if table != READING_SUPERSEDED):
            for number, part in enumerate(parts[table.name]):
                put(lake, part, table, str(number))
    counted = run(target, parts)
    target.complete()
    target.finish()
    for table in TABLES:
        wanted = in_duckdb(tmp_path / "warehouse.duckdb", table)
        if (method, table) == ("file_loads", READING_SUPERSEDED):
            wanted = wanted.slice(0, 0)
        assert there(client, dataset, table).equals(wanted), table.name
    if method in ("storage_write", "exactly_once"):
        assert counted["readings_written"] == counted["dead_letters_written"] == 300


@pytest.mark.parametrize("method", ways(*METHODS[:3]))
def test_refused_rows_become_dead_letters_and_the_others_are_written(
    emulator: BigQuery, dataset: str, through: FaultyBigQuery, client: api.Client, method: str
) -> None:
    target = prepared(emulator, dataset, method)
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
    target = prepared(emulator, dataset, method)
    rows = replaced(some(READING, 5), "extra", {2: json.dumps({"blob": "x" * (10 << 20)})})
    counted = run(target, {"readings": [rows]})
    assert len(keys(client, dataset)) == 4
    kept = {name: number for name, number in counted.items() if "/readings/" in name}
    assert kept.pop(f"{target.label}/readings/refused") == 1
    assert sum(kept.values()) == 4
    (letter,) = there(client, dataset, DEAD_LETTER).to_pylist()
    assert letter["error_type"] == "row_too_large"
    assert letter["payload"] is None
    assert "left out: it is whole at" in letter["error_message"]


@pytest.mark.parametrize("method", ways("storage_write", "exactly_once"))
def test_rows_of_days_that_are_not_streamed_to_are_told_from_the_others(
    emulator: BigQuery, dataset: str, through: FaultyBigQuery, client: api.Client, method: str
) -> None:
    """As BigQuery has it; the emulator takes any day."""
    target = prepared(emulator, dataset, method)
    now = dt.datetime.now(dt.UTC).replace(microsecond=0)
    days = {row: now - dt.timedelta(days=10 * row) for row in range(20)}
    days |= {3: dt.datetime(2010, 8, 1, tzinfo=dt.UTC), 8: now + dt.timedelta(days=400)}
    through.storage.plan(
        "refuse", where="AppendRows", code=StatusCode.INVALID_ARGUMENT, inside=True,
        message="Value 1 for partition column recorded_at is outside the allowed bounds. You can "
        "only stream to partitions of date range within 1825 days in the past and 366 days in the "
        "future relative to the current date.",
    )  # fmt: skip
    run(target, {"readings": [replaced(some(READING, 20), "recorded_at", days)]})
    assert keys(client, dataset) == [f"1-{row:06}" for row in range(20) if row not in (3, 8)]
    letters = there(client, dataset, DEAD_LETTER).to_pylist()
    assert [letter["error_type"] for letter in letters] == ["refused"] * 2
    assert all("--bigquery_method=file_loads takes any day" in x["error_message"] for x in letters)


@pytest.mark.parametrize("method", ways(*METHODS[:3]))
def test_a_table_deleted_while_running_fails_the_job_and_makes_no_dead_letters(
    emulator: BigQuery, dataset: str, client: api.Client, method: str
) -> None:
    target = prepared(emulator, dataset, method)
    run(target, {"readings": [some(READING, 20)]})
    client.delete_table(f"{dataset}.readings")
    with pytest.raises(Exception, match=r"table readings: it is not there any more; run the job"):
        run(target, {"readings": [some(READING, 20, seed=2)]})
    assert keys(client, dataset, DEAD_LETTER) == []
    again = prepared(emulator, dataset, method)
    run(again, {"readings": [some(READING, 20, seed=2)]})
    assert keys(client, dataset) == [f"2-{row:06}" for row in range(20)]


@pytest.mark.parametrize("method", ways(*METHODS[:3]))
def test_a_column_dropped_while_running_fails_the_job_and_makes_no_dead_letters(
    emulator: BigQuery, dataset: str, through: FaultyBigQuery, client: api.Client, method: str
) -> None:
    target = prepared(emulator, dataset, method)
    refuse_in_streams(through, method, range(20))
    client.query(f"ALTER TABLE {dataset}.readings DROP COLUMN frequency_hz").result()
    with pytest.raises(Exception, match=r"table readings: it lacks frequency_hz by now"):
        run(target, {"readings": [some(READING, 20)]})
    assert keys(client, dataset, DEAD_LETTER) == []


def test_what_the_account_may_not_do_fails_the_job_with_the_role(
    emulator: BigQuery, dataset: str, through: FaultyBigQuery, client: api.Client
) -> None:
    target = prepared(emulator, dataset, "storage_write")
    through.storage.plan("refuse", code=StatusCode.PERMISSION_DENIED, message="no", times=99)
    with pytest.raises(Exception, match=r"roles/bigquery\.dataEditor"):
        run(target, {"readings": [some(READING, 20)]})
    assert keys(client, dataset, DEAD_LETTER) == []
