"""The job from source to lake and warehouse: whole, twice, shuffled, in halves, from its lake."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from pipeline.sources.simulation.config import FleetConfig
from pipeline.sources.simulation.faults import FAULTS
from pipeline.sources.simulation.fleet import Fleet
from tests.running import TABLES, Ran, run, same_tables

FLEET = "simulator:?equipment=8&readings=40000&interval=30&faults=0.02&duplicates=0.02&late=0.05"
CLEAN = FleetConfig(equipment=6, readings=12_000, interval=20.0)


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    return run(tmp_path_factory.mktemp("faulty"), FLEET)


def write_messages(path: Path, lines: list[bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\n".join(lines) + b"\n")
    os.utime(path, (1_750_000_000, 1_750_000_000))
    return path


@pytest.fixture(scope="module")
def lines() -> list[bytes]:
    fleet = Fleet(CLEAN)
    return [
        line
        for block in fleet.blocks(100_000)
        for part in fleet.messages(block)
        for line in part.payloads
    ]


def test_the_account_balances_and_every_sink_agrees_with_it(faulty: Ran) -> None:
    assert faulty.status == 0, faulty.err
    account = faulty.account()
    assert (
        account["read"]
        == Fleet(
            FleetConfig.parse(dict(pair.split("=") for pair in FLEET.split("?")[1].split("&")))
        ).total
    )
    assert account["duplicates"] > 0
    assert account["dead_letters"] > 0
    assert account["read"] == sum(
        account[name] for name in ("written", "duplicates", "dead_letters")
    )
    assert faulty.sql("SELECT count(*), count(DISTINCT reading_id) FROM readings") == [
        (account["written"], account["written"])
    ]
    assert faulty.sql("SELECT sum(readings) FROM window_stats") == [(account["written"],)]
    lake = pq.read_table(faulty.lake / "readings")
    assert lake.num_rows == account["written"]
    raw = pq.read_table(faulty.lake / "raw")
    assert raw.num_rows == account["read"]


def test_dead_letters_keep_the_payload_and_name_the_rule(faulty: Ran) -> None:
    found = {row[0]: row[1] for row in faulty.sql(
        "SELECT error_type, count(*) FROM dead_letters GROUP BY 1")}  # fmt: skip
    # A message that is sent twice and refused twice has two positions, so two letters.
    assert sum(found.values()) == faulty.account()["dead_letters"]
    assert {"malformed_json", "out_of_bounds", "unparsable_time", "time_ahead"} <= set(found)
    assert any(fault.expected == "reject" for fault in FAULTS)
    raw = set(pq.read_table(faulty.lake / "raw").column("payload").to_pylist())
    kept = pq.read_table(faulty.lake / "dead_letters").column("payload").to_pylist()
    assert kept
    assert set(kept) <= raw


def test_readings_in_the_lake_are_where_their_day_is(faulty: Ran) -> None:
    for path in (faulty.lake / "readings").rglob("*.parquet"):
        days = pc.unique(pc.strftime(pq.read_table(path).column("recorded_at"), "%Y-%m-%d"))
        assert days.to_pylist() == [path.parent.name.removeprefix("dt=")]


def test_the_same_input_again_changes_nothing(
    faulty: Ran, tmp_path_factory: pytest.TempPathFactory
) -> None:
    before = {name: faulty.table(name, key) for name, key in TABLES.items()}
    files = faulty.files()
    again = run(faulty.lake.parent, FLEET)
    assert again.status == 0
    assert again.account() == faulty.account()
    assert again.files() == files
    for name, key in TABLES.items():
        assert again.table(name, key).equals(before[name]), name


def test_another_warehouse_gets_the_same_tables(faulty: Ran, tmp_path: Path) -> None:
    same_tables(faulty, run(tmp_path, FLEET))


def test_shuffled_input_gives_the_same_tables(lines: list[bytes], tmp_path: Path) -> None:
    plain = run(tmp_path / "a", write_messages(tmp_path / "1" / "fleet" / "part.ndjson", lines))
    mixed = list(lines)
    random.Random(3).shuffle(mixed)
    shuffled = run(tmp_path / "b", write_messages(tmp_path / "2" / "fleet" / "part.ndjson", mixed))
    assert plain.account()["written"] == len(lines)
    same_tables(plain, shuffled)


def test_more_shards_give_the_same_tables(lines: list[bytes], tmp_path: Path) -> None:
    source = write_messages(tmp_path / "fleet" / "part.ndjson", lines)
    same_tables(
        run(tmp_path / "a", source, "--shards=1"), run(tmp_path / "b", source, "--shards=50")
    )


def test_two_halves_in_either_order_differ_only_at_the_seam(
    lines: list[bytes], tmp_path: Path
) -> None:
    # Cut in time, as two days of uploads would be.
    ordered = sorted(lines, key=lambda line: json.loads(line)["recorded_at"])
    half = len(ordered) // 2
    first = write_messages(tmp_path / "1" / "fleet" / "part.ndjson", ordered[:half])
    second = write_messages(tmp_path / "2" / "fleet" / "part.ndjson", ordered[half:])
    run(tmp_path / "a", first)
    forwards = run(tmp_path / "a", second)
    run(tmp_path / "b", second)
    backwards = run(tmp_path / "b", first)
    whole = run(tmp_path / "c", write_messages(tmp_path / "3" / "fleet" / "part.ndjson", lines))
    query = "SELECT * EXCLUDE (time_delta_s, quality_flags) FROM readings ORDER BY reading_id"
    assert forwards.sql(query) == backwards.sql(query) == whole.sql(query)
    differs = """SELECT count(*) FROM readings r
        WHERE time_delta_s IS NULL AND reading_id NOT IN (
            SELECT arg_min(reading_id, (recorded_at, test_time_s, record_index))
            FROM readings GROUP BY equipment_id, test_id)"""
    assert whole.sql(differs) == [(0,)]
    # One reading per equipment begins the second half without knowing the first one's last.
    assert 0 < forwards.sql(differs)[0][0] <= CLEAN.equipment


@pytest.mark.parametrize("folder", ["raw", "readings"])
def test_the_lake_is_a_source_that_gives_the_same_readings(
    faulty: Ran, folder: str, tmp_path: Path
) -> None:
    replay = run(tmp_path, faulty.lake / folder)
    assert replay.status == 0
    same_tables(faulty, replay, ["readings", "window_stats"])


def test_replaying_into_the_same_lake_and_warehouse_doubles_nothing(
    tmp_path: Path,
) -> None:
    uri = "simulator:?equipment=3&readings=3000&faults=0.05"
    first = run(tmp_path, uri)
    files = first.files()
    before = {name: first.table(name, key) for name, key in TABLES.items()}
    replay = run(tmp_path, first.lake / "raw")
    assert replay.status == 0
    assert {path for path in replay.files() if path.startswith("raw")} == {
        path for path in files if path.startswith("raw")
    }
    for name in ("readings", "window_stats"):
        assert replay.table(name, TABLES[name]).equals(before[name]), name


def test_dead_letters_can_be_corrected_and_sent_again(tmp_path: Path) -> None:
    good = {"equipment_id": "c1", "recorded_at": "2024-05-01T00:00:00Z", "voltage_v": 3.7,
            "current_a": 1.0}  # fmt: skip
    bad = {**good, "recorded_at": "2024-05-01T00:00:30Z", "voltage_v": "3,7 volts"}
    source = write_messages(
        tmp_path / "in" / "gateway" / "a.ndjson",
        [json.dumps(item).encode() for item in (good, bad)],
    )
    ran = run(tmp_path / "out", source)
    assert ran.account() == {"read": 2, "written": 1, "duplicates": 0, "dead_letters": 1}
    letters = pq.read_table(ran.lake / "dead_letters").column("payload").to_pylist()
    corrected = [letter.replace(b'"3,7 volts"', b"3.7") for letter in letters]
    again = write_messages(tmp_path / "in2" / "gateway" / "b.ndjson", [*corrected, *corrected])
    ran = run(tmp_path / "out", again)
    assert ran.account()["duplicates"] == 1
    assert ran.sql("SELECT count(*) FROM readings") == [(2,)]
    # The letters as they are go back where they came from, and nothing is added.
    replay = run(tmp_path / "out", ran.lake / "dead_letters")
    assert replay.account()["dead_letters"] == 1
    assert replay.sql("SELECT count(*) FROM readings") == [(2,)]


def test_several_worker_processes_give_the_same_tables(lines: list[bytes], tmp_path: Path) -> None:
    source = write_messages(tmp_path / "fleet" / "part.ndjson", lines)
    one = run(tmp_path / "one", source)
    command = [
        sys.executable, "-m", "pipeline", "--runner=DirectRunner", f"--source={source}",
        f"--lake={tmp_path / 'two' / 'lake'}",
        f"--warehouse=duckdb:{tmp_path / 'two' / 'warehouse.duckdb'}",
        "--direct_num_workers=2", "--direct_running_mode=multi_processing", "--no_progress",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    two = Ran(0, done.stdout, done.stderr, tmp_path / "two" / "lake",
              tmp_path / "two" / "warehouse.duckdb")  # fmt: skip
    assert two.account() == one.account()
    same_tables(one, two)


def test_every_file_says_how_many_rows_it_gave(tmp_path: Path, lines: list[bytes]) -> None:
    folder = tmp_path / "in"
    many = write_messages(folder / "many.ndjson", [*lines[:3000], b"{}"])
    write_messages(folder / "few.ndjson", [b"no json", *lines[3000:3010]])
    (folder / "cut.zip").write_bytes(b"PK\x03\x04 cut off")
    ran = run(tmp_path / "out", folder)
    found = ran.sql(
        "SELECT topic, first_offset, last_offset, messages_read, offsets_skipped, reason, "
        "partition_number FROM source_positions ORDER BY topic"
    )
    assert found == [
        ("in/cut.zip", 0, 0, 1, 0, None, None),
        ("in/few.ndjson", 0, 10, 11, 0, None, None),
        ("in/many.ndjson", 0, 3000, 3001, 0, None, None),
    ]
    assert ran.account()["read"] == sum(row[3] for row in found)
    # What an archive of the lake is read from is a file like any other.
    again = run(tmp_path / "again", ran.lake / "raw")
    ((files, rows),) = again.sql("SELECT count(*), sum(messages_read) FROM source_positions")
    assert files == len(list((ran.lake / "raw").rglob("*.*")))
    assert rows == again.account()["read"]
    assert many.exists()
