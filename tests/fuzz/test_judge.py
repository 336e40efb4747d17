"""The judge on tables made by hand: what is wrong is found, what is reported counts as told."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import duckdb
import pytest

from tests.fuzz.judge import Judge, Verdict
from tests.fuzz.truth import Export, Range, Truth

START = dt.datetime(2024, 3, 1, 9, tzinfo=dt.UTC)
END = START + dt.timedelta(hours=2)
SECOND = dt.timedelta(seconds=1)
TRUTH = Truth(
    cells=("FZ1",),
    files=("FZ1/FZ1.csv",),
    readings=(10, 10),
    cycles=((Range(1.0, 1.0), Range(0.9, 0.9)),),
    counts_cycles=True,
    is_full=True,
    first=((START - SECOND, START + SECOND),),
    last=((END - SECOND, END + SECOND),),
    floor_ah=1e-5,
    harmless=1,
)
EXPORT = Export("FZ1", "own", {}, {"FZ1.csv": b"", "FZ1_statistics.csv": b""}, (TRUTH,))


@dataclass(frozen=True)
class Said:
    """What a run left of the export."""

    file: str = "FZ1/FZ1.csv"
    cell: str = "FZ1"
    readings: int = 10
    start: dt.datetime = START
    charge: float = 1.0
    cycles: int = 1
    flags: Sequence[str] = ()
    is_valid: bool = True
    doubts: Sequence[str] = ()
    letters: int = 0


def judged(folder: Path, said: Said, export: Export = EXPORT) -> Verdict:
    warehouse = folder / "judge.duckdb"
    with duckdb.connect(str(warehouse)) as database:
        database.execute("SET TimeZone = 'UTC'")
        database.execute(
            """CREATE TABLE readings (source_file VARCHAR, equipment_id VARCHAR,
                recorded_at TIMESTAMPTZ);
            CREATE TABLE battery_features (source_file VARCHAR, equipment_id VARCHAR,
                test_key VARCHAR, test_cycle INTEGER, cycle_restarts INTEGER,
                quality_flags VARCHAR[]);
            CREATE TABLE battery_cycles (equipment_id VARCHAR, cycle_number INTEGER,
                test_key VARCHAR, test_cycle INTEGER, cycle_restarts INTEGER, charge_ah DOUBLE,
                discharge_ah DOUBLE, is_valid BOOLEAN);
            CREATE TABLE dead_letters (source_file VARCHAR, error_type VARCHAR,
                error_message VARCHAR);
            CREATE TABLE test_dialects (source_file VARCHAR, disagreements VARCHAR[]);"""
        )

        def insert(table: str, *row: Any) -> None:
            database.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", row)

        step = (END - said.start) / 9
        for number in range(said.readings):
            insert("readings", said.file, said.cell, said.start + number * step)
            insert("battery_features", said.file, said.cell, "t", 1, 0, list(said.flags))
        if said.readings:
            for number in range(said.cycles):
                insert("battery_cycles", said.cell, number + 1, "t", number + 1, 0, said.charge,
                       0.9, said.is_valid)  # fmt: skip
        for _ in range(said.letters):
            insert("dead_letters", said.file, "missing_field", "voltage_v is missing")
        insert("test_dialects", said.file, list(said.doubts))
    return Judge(warehouse).judge(export)


WRONG = Said(charge=1.01)


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        (Said(), "right"),
        (Said(charge=1.0019), "right"),
        (Said(letters=1), "right"),
        (WRONG, "silently wrong"),
        (replace(WRONG, doubts=["charge_disagrees"]), "told"),
        (replace(WRONG, doubts=["time_assumed"]), "silently wrong"),
        (replace(WRONG, flags=["gap"], is_valid=False), "told"),
        (replace(WRONG, flags=["gap"]), "silently wrong"),
        (replace(WRONG, flags=["event_time_assumed"], is_valid=False), "silently wrong"),
        (replace(WRONG, letters=2), "told"),
        (replace(WRONG, letters=1), "silently wrong"),
        (Said(cycles=2), "silently wrong"),
        (Said(cell="1"), "silently wrong"),
        (Said(cell="1", doubts=["identity_guessed"]), "told"),
        (Said(cell="1", charge=2.0, doubts=["identity_guessed"]), "silently wrong"),
        (Said(start=START - 60 * SECOND), "silently wrong"),
        (Said(start=START - 60 * SECOND, doubts=["date_order_guessed"]), "told"),
        (Said(readings=9), "silently wrong"),
        (Said(readings=9, letters=2), "told"),
        (Said(readings=0), "silently wrong"),
        (Said(readings=0, letters=10), "refused"),
        (Said(file="FZ1/FZ1_statistics.csv"), "silently wrong"),
    ],
)
def test_the_class_of_an_export(tmp_path: Path, said: Said, kind: str) -> None:
    verdict = judged(tmp_path, said)
    assert verdict.kind == kind, verdict


def test_readings_of_a_file_beside_the_data_are_wrong(tmp_path: Path) -> None:
    export = replace(EXPORT, truths=(replace(TRUTH, files=("FZ1/other.csv",)),))
    assert judged(tmp_path, Said(), export).kind == "silently wrong"


def test_the_cells_of_one_file_are_judged_apart(tmp_path: Path) -> None:
    both = (TRUTH, replace(TRUTH, cells=("FZ2",)))
    verdict = judged(tmp_path, Said(), replace(EXPORT, truths=both))
    assert verdict.kind == "silently wrong"  # the second cell's readings are nowhere


def test_without_numbers_of_cycles_their_sum_counts(tmp_path: Path) -> None:
    loose = replace(
        TRUTH,
        cycles=((Range(1.0, 1.0), Range(0.9, 0.9)), (Range(1.0, 1.0), Range(0.9, 0.9))),
        counts_cycles=False,
        is_full=False,
    )
    export = replace(EXPORT, truths=(loose,))
    (tmp_path / "two").mkdir()
    assert judged(tmp_path / "two", Said(cycles=2), export).kind == "right"
    (tmp_path / "one").mkdir()
    assert judged(tmp_path / "one", Said(cycles=1, charge=2.0), export).kind != "right"


def test_a_right_export_in_doubt_says_so(tmp_path: Path) -> None:
    assert judged(tmp_path, Said(doubts=["charge_disagrees"])).told == ("charge_disagrees",)
