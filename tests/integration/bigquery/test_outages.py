"""A BigQuery that is in trouble: nothing is lost, and its user is told."""

from __future__ import annotations

import logging

import pytest
from google.cloud import bigquery as api
from grpc import StatusCode

from pipeline.sinks.bigquery import patience, requests
from schemas.reading import DEAD_LETTER, READING
from tests.integration.bigquery.writing import (
    keys,
    prepared,
    run,
    some,
    ways,
)
from tests.services.bigquery import BigQuery
from tests.services.faults import FaultyBigQuery

pytestmark = pytest.mark.integration

STORMS = {
    "unavailable": {"kind": "refuse", "code": StatusCode.UNAVAILABLE, "times": 4},
    "over quota, on the connection": {
        "kind": "refuse", "code": StatusCode.RESOURCE_EXHAUSTED, "times": 4, "inside": True,
    },
    "cut": {"kind": "cut", "times": 3},
    "aborted half way": {"kind": "refuse", "code": StatusCode.ABORTED, "times": 3, "after": 1},
}  # fmt: skip


@pytest.mark.parametrize("storm", STORMS)
@pytest.mark.parametrize("method", ways("storage_write", "exactly_once"))
def test_a_storm_is_waited_out_and_told_once(
    emulator: BigQuery, dataset: str, through: FaultyBigQuery, client: api.Client,
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, method: str, storm: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(requests, "AIM_BYTES", 4_000)  # several are under way
    target = prepared(emulator, dataset, method)
    through.storage.plan(where="AppendRows", **STORMS[storm])
    parts = [some(READING, 30, seed=seed) for seed in range(3)]
    with caplog.at_level(logging.WARNING):
        counted = run(target, {"readings": parts})
    assert keys(client, dataset) == sorted(f"{s}-{row:06}" for s in range(3) for row in range(30))
    assert counted["retries"] >= 3
    mine = [record.message for record in caplog.records if "table readings" in record.message]
    assert [("trying again" in line, "goes on" in line) for line in mine] == [
        (True, False), (False, True)
    ]  # fmt: skip


def test_patience_ends_and_says_what_to_do(
    emulator: BigQuery, dataset: str, through: FaultyBigQuery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "PATIENCE_S", 0.5)
    target = prepared(emulator, dataset, "storage_write")
    through.storage.plan(
        "refuse", code=StatusCode.RESOURCE_EXHAUSTED, message="quota", times=10_000
    )
    with pytest.raises(Exception, match=r"--warehouse=.*RESOURCE_EXHAUSTED: quota.*run the job"):
        run(target, {"readings": [some(READING, 20)]})


def test_a_lost_answer_may_double_rows_at_least_once_and_never_loses_any(
    emulator: BigQuery, dataset: str, through: FaultyBigQuery, client: api.Client
) -> None:
    target = prepared(emulator, dataset, "storage_write")
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
    target = prepared(emulator, dataset, "streaming_inserts")
    through.rest.plan("refuse", where="insertAll", code=status, times=2)
    run(target, {"readings": [some(READING, 30)]})
    assert keys(client, dataset) == [f"1-{row:06}" for row in range(30)]
    assert keys(client, dataset, DEAD_LETTER) == []
