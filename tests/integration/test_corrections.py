"""A corrected export or message is no duplicate: which version counts, and what is kept of others."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest
from kafka import KafkaProducer

from pipeline import models, replay
from tests.running import Ran, run
from tests.services.kafka import Broker

FIRST_S, SECOND_S, THIRD_S = 1_700_000_000, 1_710_000_000, 1_720_000_000
ROWS = 241
EVERY_S = 30
HEAD = (
    "equipment_id,test_id,recorded_at,test_time_s,record_index,cycle_index,step_index,"
    "voltage_v,current_a,charge_capacity_ah,discharge_capacity_ah,temperature_c\n"
)


def export(folder: Path, share: float, arrived_s: float, temperature: str = "25.0") -> Path:
    """A cycler's file of one charge and one discharge of an hour each.

    Args:
        folder: where to put it.
        share: of the current that a well calibrated cycler would have measured.
        arrived_s: when it was written, seconds since 1970.
        temperature: of all rows.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines = [HEAD]
    for row in range(ROWS):
        seconds = row * EVERY_S
        charging = seconds <= 3600
        hours = (seconds if charging else seconds - 3600) / 3600
        current = share if charging else -share
        volts = 3.0 + 1.2 * hours if charging else 4.2 - 1.2 * hours
        minute, second = divmod(seconds, 60)
        lines.append(
            f"C1,T1,2024-03-01T{10 + minute // 60:02d}:{minute % 60:02d}:{second:02d}Z,{seconds},"
            f"{row + 1},1,{1 if charging else 2},{volts:.5f},{current},"
            f"{share * min(seconds, 3600) / 3600:.6f},"
            f"{0 if charging else share * hours:.6f},{temperature}\n"
        )
    path = folder / "C1.csv"
    path.write_text("".join(lines), encoding="utf-8")
    os.utime(path, (arrived_s, arrived_s))
    return folder


def corrected(ran: Ran) -> int:
    """What the account says of corrections."""
    words = ran.out.replace(",", "").replace(";", "").split()
    return int(words[words.index("corrected") + 1])


def current(ran: Ran) -> list[tuple[Any, ...]]:
    """The readings that count: how many, their largest current and who sent them."""
    return ran.sql(
        "SELECT count(*), count(DISTINCT reading_id), max(current_a), "
        "list_sort(list(DISTINCT source_file)) FROM readings"
    )


def superseded(ran: Ran) -> list[tuple[Any, ...]]:
    """Those that do not: how many, their current, who sent them and what stands for them."""
    return ran.sql(
        "SELECT count(*), max(current_a), source_file, epoch(ingested_at), superseded_by_file, "
        "epoch(superseded_by_ingested_at) FROM readings_superseded "
        "WHERE list_contains(quality_flags, 'superseded') GROUP BY ALL ORDER BY 2"
    )


def one(share: float, name: str) -> list[tuple[Any, ...]]:
    return [(ROWS, ROWS, share, [f"{name}/C1.csv"])]


@pytest.fixture
def exports(tmp_path: Path) -> Callable[[str], Path]:
    """Three exports of one test, in the order they were written."""
    made = {
        "zero": export(tmp_path / "zero", 0.8, FIRST_S),
        "best": export(tmp_path / "best", 1.0, THIRD_S),
        "more": export(tmp_path / "more", 0.9, SECOND_S),
    }
    return made.__getitem__


def test_the_newest_version_counts_and_the_former_ones_are_kept(
    tmp_path: Path, exports: Callable[[str], Path]
) -> None:
    out = tmp_path / "out"
    assert corrected(run(out, exports("zero"))) == 0
    ran = run(out, exports("more"))
    assert ran.status == 0, ran.err
    assert ran.account() == {"read": ROWS, "written": ROWS, "duplicates": 0, "dead_letters": 0}
    assert corrected(ran) == ROWS
    assert current(ran) == one(0.9, "more")
    former = [(ROWS, 0.8, "zero/C1.csv", FIRST_S, "more/C1.csv", SECOND_S)]
    assert superseded(ran) == former
    # Neither the old export nor the new one changes anything when it is read again.
    before = {name: ran.table(name, "1") for name in ("readings", "readings_superseded")}
    files = ran.files()
    for name in ("zero", "more", "zero"):
        again = run(out, exports(name))
        assert (again.status, corrected(again)) == (0, 0)
        assert all(again.table(name, "1").equals(table) for name, table in before.items())
        assert again.files() == files
    # The lake keeps both.
    lake = pq.read_table(ran.lake / "readings").select(["reading_id", "content_id"]).to_pylist()
    assert len(lake) == len({tuple(row.values()) for row in lake}) == 2 * ROWS
    # Another version that is older than the one that counts does not come before it.
    newest = run(out, exports("best"))
    assert (corrected(newest), current(newest)) == (ROWS, one(1.0, "best"))
    assert len(superseded(newest)) == 2


@pytest.mark.parametrize("names", [("zero", "more", "best"), ("best", "zero", "more")])
def test_the_order_of_runs_makes_no_difference(
    tmp_path: Path, exports: Callable[[str], Path], names: tuple[str, ...]
) -> None:
    for name in names:
        ran = run(tmp_path / "out", exports(name))
    assert current(ran) == one(1.0, "best")
    assert [row[1:4] for row in superseded(ran)] == [
        (0.8, "zero/C1.csv", FIRST_S), (0.9, "more/C1.csv", SECOND_S)
    ]  # fmt: skip


def test_versions_that_are_read_together_are_told_apart(
    tmp_path: Path, exports: Callable[[str], Path]
) -> None:
    (tmp_path / "all").mkdir()
    for name in ("zero", "best", "more"):
        exports(name).rename(tmp_path / "all" / name)
    ran = run(tmp_path / "out", tmp_path / "all")
    assert ran.status == 0, ran.err
    assert ran.account() == {
        "read": 3 * ROWS, "written": 3 * ROWS, "duplicates": 0, "dead_letters": 0
    }  # fmt: skip
    assert (corrected(ran), current(ran)) == (2 * ROWS, one(1.0, "best"))
    assert [row[0:3] + row[4:5] for row in superseded(ran)] == [
        (ROWS, 0.8, "zero/C1.csv", "best/C1.csv"), (ROWS, 0.9, "more/C1.csv", "best/C1.csv")
    ]  # fmt: skip
    # What does not count leaves no trace in what is derived.
    assert ran.sql("SELECT count(*), max(time_delta_s) FROM readings WHERE time_delta_s > 0") == [
        (ROWS - 1, EVERY_S)
    ]
    # The lake as a source gives the same warehouse, and an old export stays old.
    for source in (ran.lake / "readings", tmp_path / "all" / "zero"):
        replay = run(tmp_path / "replay", source)
        assert (replay.status, current(replay)) == (0, one(1.0, "best"))
        assert superseded(replay) == superseded(ran)


def test_replace_keeps_nothing_in_the_warehouse(
    tmp_path: Path, exports: Callable[[str], Path]
) -> None:
    for name in ("zero", "more", "zero"):
        ran = run(tmp_path / "out", exports(name), "--on_conflict=replace")
    assert (ran.status, current(ran), superseded(ran)) == (0, one(0.9, "more"), [])


def test_keep_stays_with_the_first_and_keeps_the_newcomer_beside(
    tmp_path: Path, exports: Callable[[str], Path]
) -> None:
    for name, told in (("zero", 0), ("more", ROWS), ("more", 0)):
        ran = run(tmp_path / "out", exports(name), "--on_conflict=keep")
        assert (ran.status, corrected(ran), current(ran)) == (0, told, one(0.8, "zero"))
    assert superseded(ran) == [(ROWS, 0.9, "more/C1.csv", SECOND_S, "zero/C1.csv", FIRST_S)]


def test_a_warehouse_from_before_there_were_versions_takes_corrections(
    tmp_path: Path, exports: Callable[[str], Path]
) -> None:
    ran = run(tmp_path / "out", exports("zero"))
    with duckdb.connect(str(ran.warehouse)) as database:
        database.execute("ALTER TABLE readings DROP content_id; DROP TABLE readings_superseded")
    # The same readings are no correction.
    again = run(tmp_path / "out", exports("zero"))
    assert (again.status, corrected(again), superseded(again)) == (0, 0, [])
    ran = run(tmp_path / "out", exports("more"))
    assert (corrected(ran), current(ran)) == (ROWS, one(0.9, "more"))
    assert len(superseded(ran)) == 1


def test_the_models_follow_a_correction(tmp_path: Path, exports: Callable[[str], Path]) -> None:
    measured = "SELECT round(discharge_ah, 3) FROM battery_cycles WHERE discharge_ah > 0.1"
    found = []
    for name in ("zero", "best", "zero"):
        ran = run(tmp_path / "out", exports(name))
        success, counts = models.build(f"duckdb:{ran.warehouse}", data_tests=False)
        assert success, counts
        found += ran.sql(measured)
    assert found == [(0.8,), (1.0,), (1.0,)]


# --- messages ------------------------------------------------------------------------------------


def message(record: int, volts: float) -> bytes:
    fields = {
        "time": f"2024-06-01T12:{record // 60:02d}:{record % 60:02d}Z", "record_index": record,
        "voltage": volts, "current": 1.0,
    }  # fmt: skip
    return json.dumps(fields).encode()


@pytest.mark.integration
def test_a_corrected_message_is_a_correction_and_old_ones_stay_old(
    kafka: Broker, tmp_path: Path
) -> None:
    topic = kafka.new_topic("corrections", partitions=1)

    def send(records: range, volts: float) -> None:
        with KafkaProducer(**kafka.client_settings()) as producer:
            for record in records:
                producer.send(topic, message(record, volts), b"G1")

    def read(group: str) -> Ran:
        ran = run(tmp_path, f"kafka://{kafka.bootstrap}/{topic}?group={group}", "--until=latest")
        assert ran.status == 0, ran.err
        return ran

    def stands(ran: Ran) -> list[tuple[Any, ...]]:
        return ran.sql(
            "SELECT voltage_v, count(*), (SELECT count(*) FROM readings_superseded "
            "WHERE readings_superseded.voltage_v = 3.5) FROM readings GROUP BY 1 ORDER BY 1"
        )

    send(range(100), 3.5)
    assert stands(read(topic)) == [(3.5, 100, 0)]
    # The last ten are still remembered, the first ones are not.
    send(range(90, 100), 3.6)
    assert stands(ran := read(topic)) == [(3.5, 90, 10), (3.6, 10, 10)]
    assert corrected(ran) == 10
    send(range(10), 3.6)
    assert stands(ran := read(topic)) == [(3.5, 80, 20), (3.6, 20, 20)]
    assert corrected(ran) == 10
    # Another group reads it all once more, and a producer sends the old values again.
    assert stands(read(f"{topic}-again")) == [(3.5, 80, 20), (3.6, 20, 20)]
    send(range(100), 3.5)
    assert stands(read(topic)) == [(3.5, 80, 20), (3.6, 20, 20)]


@pytest.mark.integration
def test_a_dead_letter_that_is_sent_again_corrects_the_reading_that_is_there(
    kafka: Broker, tmp_path: Path
) -> None:
    topic = kafka.new_topic("corrected-letters", partitions=1)
    to = f"kafka://{kafka.bootstrap}/{topic}"
    # The 5th record came well once, and then with a value that can't be.
    with KafkaProducer(**kafka.client_settings()) as producer:
        for record, volts in [*((record, 3.5) for record in range(10)), (5, 3700.0)]:
            producer.send(topic, message(record, volts), b"G1")
    first = run(tmp_path, f"{to}?group=g", "--until=latest")
    assert (first.account()["written"], first.account()["dead_letters"]) == (10, 1)
    flags = [f"--lake={first.lake}", f"--to={to}", "--where=field = 'voltage_v'", "--send"]
    assert replay.main([*flags, "--set=voltage=voltage / 1000 - 0.1"]) == 0
    ran = run(tmp_path, f"{to}?group=g", "--until=latest")
    assert (ran.status, corrected(ran)) == (0, 1)
    found = ran.sql("SELECT record_index, voltage_v FROM readings WHERE voltage_v <> 3.5")
    assert found == [(5, pytest.approx(3.6))]
    former = ran.sql("SELECT record_index, voltage_v FROM readings_superseded")
    assert (ran.sql("SELECT count(*) FROM readings"), former) == ([(10,)], [(5, 3.5)])
