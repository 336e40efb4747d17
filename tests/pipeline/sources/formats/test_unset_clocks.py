"""A cycler whose wall clock was never set: its test's time is right, and no reading is lost."""

from __future__ import annotations

import datetime as dt
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.sources.formats import delimited, tables
from schemas import profiles
from tests.pipeline.sources.reading import Found, read
from transforms.decode import decode
from transforms.limits import Limits
from transforms.validate import FLAG, validate

ROWS, EVERY_S = 300, 10
MODIFIED_S = 1_700_000_000
NOW_US = 1_800_000_000_000_000
BEGINS = [
    "1904-01-01 00:00:00", "1900-01-01 00:00:12", "1970-01-01 00:00:07", "1980-01-01 00:02:00",
    "0001-01-01 00:00:00", "1601-01-01 00:00:00",
]  # fmt: skip
USUAL = Limits(profiles.load())


def walls(begins: str) -> list[dt.datetime]:
    first = dt.datetime.fromisoformat(begins)
    return [first + dt.timedelta(seconds=EVERY_S * row) for row in range(ROWS)]


def csv(begins: str, clock: str | None = "Test Time(s)", head: str = "") -> str:
    lines = [
        f"{wall},{EVERY_S * row},{3.6 + row / 1e4:.4f},0.5"
        for row, wall in enumerate(walls(begins))
    ]
    names = f"Date_Time,{clock},Voltage(V),Current(A)"
    if clock is None:
        names = "Date_Time,Voltage(V),Current(A)"
        lines = [line.replace(f",{EVERY_S * row},", ",", 1) for row, line in enumerate(lines)]
    return "\n".join([*([head] if head else []), names, *lines]) + "\n"


def kept(found: Found) -> tuple[list[dict[str, Any]], list[str], set[str]]:
    """The valid readings, the error types of all that was refused, and the files' doubts."""
    assert not found.letters
    readings, refused, doubts = [], [], set()
    for batch in found.batches:
        decoded, rejects = decode(batch)
        table, late = validate(decoded, USUAL, NOW_US)
        readings += table.to_pylist()
        refused += [what[0] for what in (*rejects.rows.values(), *late.rows.values())]
        assert decoded.dialect is not None
        doubts |= set(decoded.dialect.disagreements)
    return readings, refused, doubts


def check(found: Found) -> None:
    """Whether every row is a reading whose time is the file's, less what the test still lasted."""
    readings, refused, doubts = kept(found)
    assert not refused and len(readings) == ROWS
    assert [row["test_time_s"] for row in readings] == [EVERY_S * row for row in range(ROWS)]
    times = [int(row["recorded_at"].timestamp()) for row in readings]
    assert times == [MODIFIED_S - EVERY_S * (ROWS - 1 - row) for row in range(ROWS)]
    assert all(row["flags"] & FLAG["event_time_assumed"] for row in readings)
    assert "time_assumed" in doubts


def written(path: Path, text: str) -> Found:
    path.write_text(text)
    os.utime(path, (MODIFIED_S, MODIFIED_S))
    return read(path)


@pytest.mark.parametrize("begins", BEGINS)
def test_a_test_of_such_a_clock_is_read_by_its_own(tmp_path: Path, begins: str) -> None:
    check(written(tmp_path / "cell_1.csv", csv(begins)))


@pytest.mark.parametrize("begins", BEGINS[:3])
def test_in_parts_too(tmp_path: Path, begins: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delimited, "SURVEY_ROWS", 50)
    monkeypatch.setattr(tables, "PIECE_BYTES", 0)
    path = tmp_path / "cell_1.csv"
    path.write_text(csv(begins))
    os.utime(path, (MODIFIED_S, MODIFIED_S))
    found = read(path, batch_rows=40)
    assert len(found.batches) > 5
    check(found)


@pytest.mark.parametrize("begins", BEGINS)
def test_times_that_are_no_texts(tmp_path: Path, begins: str) -> None:
    path = tmp_path / "cell_1.parquet"
    columns = {
        "Date_Time": pa.array(walls(begins), pa.timestamp("us")),
        "Test_Time(s)": [EVERY_S * float(row) for row in range(ROWS)],
        "Voltage(V)": [3.6 + row / 1e4 for row in range(ROWS)],
        "Current(A)": [0.5] * ROWS,
    }
    pq.write_table(pa.table(columns), path)
    os.utime(path, (MODIFIED_S, MODIFIED_S))
    check(read(path))


def test_a_date_alone(tmp_path: Path) -> None:
    text = csv("1904-01-01 00:00:00")
    lines = [line.replace(line[10:19], "", 1) if line[:4] == "1904" else line
             for line in text.splitlines()]  # fmt: skip
    assert lines[1].startswith("1904-01-01,0,")
    check(written(tmp_path / "cell_1.csv", "\n".join(lines) + "\n"))


def test_another_clock_that_was_set_decides(tmp_path: Path) -> None:
    lines = csv("1904-01-01 00:00:00").splitlines()
    good = walls("2023-05-06 07:08:09")
    lines = [f"{lines[0]},DPT Time", *(f"{line},{wall}" for line, wall in zip(lines[1:], good, strict=True))]  # fmt: skip
    readings, refused, doubts = kept(written(tmp_path / "cell_1.csv", "\n".join(lines) + "\n"))
    assert not refused and "time_assumed" not in doubts
    assert [row["recorded_at"].replace(tzinfo=None) for row in readings] == good
    assert not any(row["flags"] & FLAG["event_time_assumed"] for row in readings)


def test_a_clock_that_was_set_late_is_no_such_clock(tmp_path: Path) -> None:
    assert not kept(written(tmp_path / "cell_1.csv", csv("1993-01-01 00:00:00")))[2] & {
        "time_assumed"
    }


def test_without_the_test_s_time_they_are_refused(tmp_path: Path) -> None:
    found = written(tmp_path / "cell_1.csv", csv("1904-01-01 00:00:00", clock=None))
    readings, refused, _ = kept(found)
    assert not readings and refused == ["time_behind"] * ROWS
    [batch] = found.batches
    _, late = validate(decode(batch)[0], USUAL, NOW_US)
    assert "add a column with the test's time" in late.rows[0][2]
