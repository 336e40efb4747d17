"""What BigQuery refuses, and how long it is waited for: by what all warehouses share."""

from __future__ import annotations

import threading
from typing import Any

import orjson
import pyarrow as pa
import pytest

from pipeline.errors import WarehouseFailed
from pipeline.sinks.base import outage, refused, waiting
from pipeline.sinks.bigquery import Address, patience
from pipeline.sinks.bigquery.requests import STEP
from schemas.reading import CYCLE_SUMMARY, DEAD_LETTER, READING, TEST_DIALECT, WINDOW_STATS
from tests.messages import START
from tests.pipeline.sinks.bigquery.test_sink import rows
from transforms import dead_letter
from transforms.dead_letter import DeadLetter

ADDRESS = Address("project", "dataset")


def letters(*payloads: bytes | None) -> pa.Table:
    return dead_letter.table(
        DeadLetter("decode", "bad", "bad", "source", 0, payload=payload) for payload in payloads
    )


def test_a_refused_reading_can_be_sent_again() -> None:
    row = {
        "equipment_id": "cell", "voltage_v": 3.7, "record_index": 17, "source_file": "a/b.csv",
        "extra": '{"humidity": 0.5}', "quality_flags": ["gap"], "power_watt": 1.0,
    }  # fmt: skip
    given = (STEP, READING, rows(READING, row), [("refused", "why")], "kafka://x/y")
    (letter,) = refused.letters(*given).to_pylist()
    payload = orjson.loads(letter["payload"])
    assert payload["humidity"] == 0.5
    assert payload["recorded_at"] == START.isoformat()
    # What the job computes is computed again.
    assert not {"reading_id", "power_watt", "quality_flags", "extra"} & set(payload)
    assert (letter["step"], letter["error_type"], letter["error_message"]) == (
        "bigquery", "refused", "why"
    )  # fmt: skip
    assert (letter["source"], letter["source_file"], letter["position"]) == (
        "kafka://x/y", "a/b.csv", "17"
    )  # fmt: skip
    assert orjson.loads(letter["attributes"]) == {"table": "readings", "reading_id": "key 0"}
    assert letter["ingested_at"] == START
    again = refused.letters(*given)
    assert again.column("dead_letter_id").to_pylist() == [letter["dead_letter_id"]]


@pytest.mark.parametrize("table", [WINDOW_STATS, DEAD_LETTER, TEST_DIALECT, CYCLE_SUMMARY])
def test_other_refused_rows_are_kept_too(table: Any) -> None:
    given = rows(table, {"payload": b"\xff\x00"} if table == DEAD_LETTER else {})
    (letter,) = refused.letters(STEP, table, given, [("refused", "why")], "s").to_pylist()
    assert orjson.loads(letter["payload"])[table.key] == "key 0"
    assert letter["ingested_at"] == START


def test_payloads_that_fit_no_row_are_where_the_message_says() -> None:
    most = 1000
    large = b"x" * (most + 1)
    given = letters(b"small", large, None)
    found = refused.fitting(given, "gs://lake", most).to_pylist()
    assert [letter["payload"] for letter in found] == [b"small", None, None]
    assert found[1]["error_message"] == "bad (payload of 1,001 bytes: whole in gs://lake)"
    assert [found[0]["error_message"], found[2]["error_message"]] == ["bad", "bad"]
    alone = refused.fitting(given, None, most).to_pylist()
    assert alone[1]["payload"] == large[:-1]
    assert "cut to 1,000" in alone[1]["error_message"]
    small = letters(b"a", None)
    assert refused.fitting(small, None, most).equals(small)


def test_letters_that_are_refused_must_be_somewhere(caplog: pytest.LogCaptureFixture) -> None:
    refused.told_or_raise(ADDRESS.told, letters(b"a", b"b"), "gs://lake")
    assert "2 dead letters are refused (bad); they are in gs://lake" in caplog.text
    with pytest.raises(WarehouseFailed, match=r"would be lost; give a --lake"):
        refused.told_or_raise(ADDRESS.told, letters(b"a"), None)


def test_an_outage_is_told_once_whoever_meets_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(outage, "_FIRST_PAUSE_S", 0.0001)
    monkeypatch.setattr(waiting, "FIRST_S", 0.0)
    monkeypatch.setattr(patience, "_LONGEST_PAUSE_S", 0.001)
    met = patience.outage_of(ADDRESS, READING)
    finished = threading.Barrier(4)

    def worker() -> None:
        for _ in range(5):
            met.wait("UNAVAILABLE: busy", float("inf"))
        finished.wait()
        met.over()

    workers = [threading.Thread(target=worker) for _ in range(4)]
    for thread in workers:
        thread.start()
    for thread in workers:
        thread.join()
    first, second = [record.getMessage() for record in caplog.records]
    told = "--warehouse=bigquery://project/dataset, table readings"
    assert first == f"{told}: UNAVAILABLE: busy; waiting for 0 s, trying again for up to 600 s"
    assert second.startswith(f"{told}: goes on, after")


def test_patience_is_over_only_if_nothing_was_written_in_between(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, pauses = [1_000.0], []
    monkeypatch.setattr(outage.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(outage.time, "sleep", pauses.append)
    met = patience.outage_of(ADDRESS, READING)
    for _ in range(3):
        met.wait("busy", clock[0])
        clock[0] += patience.PATIENCE_S - 1
        met.wait("busy", clock[0])
        met.over()
        clock[0] += 1
    met.wait("busy", clock[0])
    clock[0] += patience.PATIENCE_S
    with pytest.raises(WarehouseFailed, match=r"^--warehouse=.*busy, for 600 s.*run the job again"):
        met.wait("busy", clock[0])
    assert all(0 < pause <= 30 for pause in pauses)


def test_an_outage_is_told_again_at_growing_distances(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    began, clock = 1_000.0, [1_000.0]
    monkeypatch.setattr(outage.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(outage.time, "sleep", lambda _: None)
    met = patience.outage_of(ADDRESS, READING)
    told = []
    for second in range(500):
        clock[0] = began + second
        before = len(caplog.records)
        met.wait("busy", began)
        told += [second] * (len(caplog.records) - before)
    assert told == [5, 15, 45, 135, 405]
    met.over()
    assert caplog.records[-1].getMessage().endswith("table readings: goes on, after 499 s")
