"""Load jobs from the lake: each file once, wherever the loader ends."""

from __future__ import annotations

import time
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from google.cloud import bigquery as api

from pipeline import load
from pipeline.errors import WarehouseFailed
from pipeline.sinks.bigquery import Address, file_loads, loading
from pipeline.sinks.bigquery.ledger import Ledger
from pipeline.sinks.bigquery.loading import LoadThread
from pipeline.stores import store_at
from schemas.reading import READING
from tests.integration.bigquery.writing import (
    keys,
    prepared,
    put,
    some,
)
from tests.services.bigquery import BigQuery
from tests.services.faults import FaultyBigQuery

pytestmark = pytest.mark.integration


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
    prepared(emulator, dataset, "file_loads", lake=lake)
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
    prepared(emulator, dataset, "file_loads", lake=lake)
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
    prepared(emulator, dataset, "file_loads", lake=lake)
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
    prepared(emulator, dataset, "file_loads", lake=lake)
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
