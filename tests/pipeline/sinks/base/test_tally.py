"""The account by sink: what each has stored, had already, refused, or not committed yet."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.__main__ import main
from pipeline.account import Account
from pipeline.running.watch import Latency, line
from pipeline.sinks.base import tally
from pipeline.sinks.base.tally import Kept, SinkAccount
from tests.running import Ran, run

SOURCE = "simulator:?equipment=3&cycles=1&interval=120"


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    yield
    tally.PROCESS.begin(asked=False)


def sinks_of(ran: Ran) -> dict[str, dict[str, int]]:
    """By sink, the numbers of its line."""
    lines = [text for text in ran.out.splitlines() if re.search(r": stored [\d,]+, already", text)]
    found = {}
    for text in lines:
        sink, _, told = text.partition(": stored ")
        parts = re.findall(r"([a-z ]*?) ?([\d,]+)", f"stored {told.partition(';')[0]}")
        found[sink.split()[0].split(":")[0]] = {
            name.strip(): int(number.replace(",", "")) for name, number in parts if number != ","
        }
    return found


def test_the_same_input_again_is_already_there(tmp_path: Path) -> None:
    first, again = run(tmp_path, SOURCE), run(tmp_path, SOURCE)
    readings = first.account()["written"]
    assert first.status == again.status == 0
    assert readings > 0
    for ran, there in ((first, 0), (again, readings)):
        stored = {"stored": readings - there, "already there": there}
        assert sinks_of(ran) == {"lake": stored, "duckdb": stored}
    assert first.sql("SELECT count(*) FROM readings") == [(readings,)]


def test_a_sink_that_joins_later_stores_what_the_other_has(tmp_path: Path) -> None:
    first = run(tmp_path, SOURCE)
    first.warehouse.unlink()
    readings = first.account()["written"]
    assert sinks_of(run(tmp_path, SOURCE)) == {
        "lake": {"stored": 0, "already there": readings},
        "duckdb": {"stored": readings, "already there": 0},
    }


def test_without_a_sink_nothing_counts_as_written(capsys: pytest.CaptureFixture[str]) -> None:
    status = main([f"--source={SOURCE}", "--lake=none", "--warehouse=none", "--no_progress"])
    told = capsys.readouterr().out
    assert status == 0
    assert "written" not in told
    assert "nothing is kept: --lake=none --warehouse=none" in told.splitlines()


def test_a_sink_that_lacks_readings_does_not_balance() -> None:
    found = SinkAccount("duckdb:w", {"readings": Kept(stored=7, already_there=2)})
    assert found.balances(9)
    assert not found.balances(10)
    assert found.line(10) == "duckdb:w: given 10 ≠ stored 7, already there 2"
    # Load jobs take files whenever there are some, and a topic takes no readings.
    loaded = SinkAccount("bigquery://p/d", {"readings": Kept(stored=7)}, every=False)
    assert loaded.balances(10)
    assert loaded.line(10) == "bigquery://p/d: loaded 7 from the lake"
    letters = SinkAccount("kafka://b/t", {"dead_letters": Kept(stored=3)}, readings=False)
    assert letters.line(10) == "kafka://b/t: dead letters sent 3"


def test_dead_letters_are_counted_beside(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text('{"equipment_id": "c1"}\nnot json\n')
    ran = run(tmp_path, source)
    letters = ran.account()["dead_letters"]
    assert letters > 0
    assert ran.out.count(f"; dead letters: stored {letters}, already there 0") == 2


def test_workers_of_their_own_are_counted_by_beam(tmp_path: Path) -> None:
    ran = run(tmp_path, SOURCE, "--direct_num_workers=2", "--direct_running_mode=multi_processing")
    assert ran.status == 0, ran.err
    stored = {"stored": ran.account()["written"], "already there": 0}
    assert sinks_of(ran) == {"lake": stored, "duckdb": stored}


def test_what_waits_for_a_window_and_for_a_sink_is_told_apart() -> None:
    by_sink = [
        SinkAccount("lake data/lake", {"readings": Kept(stored=900)}),
        SinkAccount("duckdb:w", {"readings": Kept(stored=800, already_there=50, refused=16)}),
        SinkAccount("bigquery://p/d", every=False),
        SinkAccount("kafka://b/t", readings=False),
    ]
    found = Account(read=1020, written=900)
    assert line(found, 0, None, None, Latency().histogram(), None, by_sink).startswith(
        "so far: read 1,020, written 866, waiting 120 for their window, 34 for duckdb:w, "
    )


@pytest.mark.parametrize(
    ("kept", "told"),
    [
        (Kept(stored=3360), "stored 3,360, already there 0"),
        (Kept(already_there=3360), "stored 0, already there 3,360"),
        (Kept(1, 2, 3, 4), "stored 1, already there 2, superseded 3, refused 4"),
        (Kept(stored_or_there=9, refused=1), "stored or already there 9, refused 1"),
    ],
)
def test_what_became_of_rows(kept: Kept, told: str) -> None:
    assert str(kept) == told
    assert kept.given == sum(int(number) for number in re.findall(r"\d+", told.replace(",", "")))
