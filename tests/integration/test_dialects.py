"""Files as other cyclers, browsers and tools leave them, through the whole job."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.running import run


def csv(path: Path, header: str, rows: list[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def test_days_before_months_mean_the_same_in_the_whole_file(tmp_path: Path) -> None:
    # A reading a minute from the 5th to the 21st of March; every day up to the 12th could be a
    # month, and the file travels in several batches.
    rows = [
        f"{5 + at // 1440:02d}/03/2024 {at // 60 % 24:02d}:{at % 60:02d}:00,{at * 60},3.7,1"
        for at in range(17 * 1440)
    ]
    source = csv(tmp_path / "in" / "C.csv", "Date_Time,Test_Time(s),Voltage(V),Current(A)", rows)
    ran = run(tmp_path, source)
    assert ran.account()["written"] == len(rows)
    assert ran.sql("SELECT min(recorded_at)::DATE::VARCHAR, max(recorded_at)::DATE::VARCHAR, "
                   "count(DISTINCT recorded_at::DATE) FROM readings") == [
        ("2024-03-05", "2024-03-21", 17)
    ]  # fmt: skip


def test_the_order_of_dates_can_be_given(tmp_path: Path) -> None:
    source = csv(
        tmp_path / "in" / "C.csv", "Date_Time,Voltage,Current", ["03/04/2024 10:00:00,3.7,1"]
    )
    for order, day in (("auto", "2024-03-04"), ("mdy", "2024-03-04"), ("dmy", "2024-04-03")):
        ran = run(tmp_path / order, source, f"--date_order={order}")
        assert ran.sql("SELECT recorded_at::DATE::VARCHAR FROM readings") == [(day,)]


def test_rows_with_nothing_but_measurements_are_all_kept(tmp_path: Path) -> None:
    source = csv(tmp_path / "in" / "bare.csv", "Voltage,Current", ["3.7,0", "3.7,0", "3.8,1"] * 50)
    ran = run(tmp_path, source)
    assert ran.account()["written"] == 150
    again = run(tmp_path, source)
    assert again.sql("SELECT count(*) FROM readings") == [(150,)]
    assert again.sql("SELECT DISTINCT quality_flags FROM readings") == [(["event_time_assumed"],)]


def test_one_bad_cell_of_a_bare_time_column_costs_one_row(tmp_path: Path) -> None:
    rows = [f"{at},3.7,1" for at in range(600)]
    rows[300] = "#ERR,3.7,1"
    ran = run(tmp_path, csv(tmp_path / "in" / "A.csv", "Time,Voltage,Current", rows))
    assert ran.account() == {"read": 600, "written": 599, "duplicates": 0, "dead_letters": 1}


def test_newares_time_is_the_steps(tmp_path: Path) -> None:
    rows = [f"{at},{at % 100 * 30},{at * 30},3.7,1" for at in range(300)]
    header = "Record ID,Time,Total Time,Voltage(V),Current(A)"
    ran = run(tmp_path, csv(tmp_path / "in" / "N1.csv", header, rows))
    assert ran.sql("SELECT max(test_time_s), max(step_time_s) FROM readings") == [(8970.0, 2970.0)]
    assert ran.sql("SELECT max(time_delta_s), min(time_delta_s) FROM readings") == [(30.0, 30.0)]


def test_a_parquet_column_that_stands_twice_is_kept_twice(tmp_path: Path) -> None:
    table = pa.table(
        [pa.array([1_700_000_000]), pa.array([3.7]), pa.array([3.8]), pa.array([1.0])],
        names=["timestamp", "Voltage(V)", "Voltage(V)", "Current(A)"],
    )
    (tmp_path / "in").mkdir()
    pq.write_table(table, tmp_path / "in" / "P1.parquet")
    ran = run(tmp_path, tmp_path / "in")
    assert ran.account()["written"] == 1
    assert ran.sql("SELECT voltage_v, extra FROM readings") == [(3.7, '{"Voltage(V)_2":3.8}')]


def test_cells_that_only_their_folders_tell_apart(tmp_path: Path) -> None:
    rows = ["2024-01-01 00:00:00,3.7,1", "2024-01-01 00:00:30,3.7,1"]
    header = "Date_Time,Voltage(V),Current(A)"
    for folder, name in (("cellA", "data.csv"), ("cellB", "data.csv"), ("cellC", "2024-01-01.csv"),
                         ("x", "CS9_1_8_18_10.csv"), ("x", "CS9_1_8_18_10 (1).csv")):  # fmt: skip
        csv(tmp_path / "in" / folder / name, header, rows)
    ran = run(tmp_path, tmp_path / "in")
    assert ran.sql("SELECT equipment_id, count(*) FROM readings GROUP BY 1 ORDER BY 1") == [
        ("CS9_1", 2), ("cellA", 2), ("cellB", 2), ("cellC", 2)
    ]  # fmt: skip
    assert ran.account()["duplicates"] == 2


def test_a_pipe_in_the_folder_is_not_waited_for(tmp_path: Path) -> None:
    csv(tmp_path / "in" / "A.csv", "timestamp,voltage,current", ["2024-01-01T00:00:00Z,3.7,1"])
    os.mkfifo(tmp_path / "in" / "pipe.csv")
    assert run(tmp_path, tmp_path / "in").account()["written"] == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_that_may_not_be_read_is_named_before_anything_is_read(tmp_path: Path) -> None:
    csv(tmp_path / "in" / "a.csv", "timestamp,voltage,current", ["2024-01-01T00:00:00Z,3.7,1"])
    secret = csv(tmp_path / "in" / "b.csv", "timestamp,voltage,current", [])
    secret.chmod(0)
    ran = run(tmp_path, tmp_path / "in")
    assert ran.status == 2
    assert "b.csv" in ran.err


def test_an_interrupt_ends_in_one_line(tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "pipeline", "--source=simulator:?readings=50000000",
        f"--lake={tmp_path / 'lake'}", "--warehouse=none", "--no_progress",
    ]  # fmt: skip
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as job:
        deadline = time.monotonic() + 60
        while not list(tmp_path.rglob("*.parquet")) and time.monotonic() < deadline:
            time.sleep(0.1)
        job.send_signal(2)
        _, err = job.communicate(timeout=60)
    assert job.returncode == 130, err[-2000:]
    assert "interrupted" in err.splitlines()[-1]
    assert not list(tmp_path.rglob("*.partial"))
