"""Cells of known truth, logged at any interval, irregularly, and in a file per day."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest

from pipeline import models
from tests.running import Ran, run
from tests.warehouses import differences

START = datetime(2024, 3, 1, 9, tzinfo=UTC)
COLUMNS = {
    "number": "Data_Point", "test_s": "Test_Time(s)", "at": "Date_Time", "step_s": "Step_Time(s)",
    "cycle": "Cycle_Index", "step": "Step_Index", "current": "Current(A)", "voltage": "Voltage(V)",
    "charge": "Charge_Capacity(Ah)", "discharge": "Discharge_Capacity(Ah)",
    "temperature": "Temperature(C)",
}  # fmt: skip
COUNTERS = ("charge", "discharge")
INTERVALS = (1, 10, 60, 300, 600)
# A cycle: an hour at 1 A to 4.2 V, held there while the current decays, rest, and 2 A down.
RISE_S, DECAY_S, HELD_S, REST_S, FALL_S = 3600.0, 900.0, 1950.0, 630.0, 2590.0
CHARGED = (RISE_S + DECAY_S * (1 - math.exp(-HELD_S / DECAY_S))) / 3600
DISCHARGED = 2.0 * FALL_S / 3600

Row = dict[str, Any]


def temperature(second: float) -> float:
    return 25.0 + 10.0 * math.sin(2 * math.pi * second / 86_400)


def cycles(number: int, interval: float, scale: float = 1.0) -> Iterator[Row]:
    """Readings every `interval` seconds and at each step's end, from one interval after the start.

    `scale` slows the test down: it takes as many times longer at as many times less current.
    """
    begun = charged = discharged = 0.0
    point = 0
    for cycle in range(1, number + 1):
        for step, duration in enumerate((RISE_S, HELD_S, REST_S, FALL_S, REST_S), start=1):
            length = duration * scale
            times = [interval * k for k in range(1, math.ceil(length / interval))] + [length]
            for now in times:
                t = now / scale
                moved = {1: t, 2: DECAY_S * (1 - math.exp(-t / DECAY_S)), 4: 2.0 * t}.get(step, 0)
                point += 1
                yield {
                    "number": point,
                    "test_s": begun + now,
                    "at": (START + timedelta(seconds=begun + now)).isoformat(),
                    "step_s": now,
                    "cycle": cycle,
                    "step": step,
                    "current": {1: 1.0, 2: math.exp(-t / DECAY_S), 4: -2.0}.get(step, 0.0) / scale,
                    "voltage": {1: 3.4 + 0.8 * t / RISE_S, 2: 4.2, 3: 4.1,
                                4: 4.0 - 1.2 * t / FALL_S}.get(step, 3.2),
                    "charge": charged + (moved / 3600 if step < 3 else 0.0),
                    "discharge": discharged + (moved / 3600 if step == 4 else 0.0),
                    "temperature": temperature(begun + now),
                }  # fmt: skip
            begun += length
            charged += moved / 3600 if step < 3 else 0.0
            discharged += moved / 3600 if step == 4 else 0.0


def write(folder: Path, cell: str, rows: list[Row], without: tuple[str, ...] = (),
          split: Callable[[Row], str] = lambda _: "all") -> None:  # fmt: skip
    """The readings as the cell's files: one for each value of `split`."""
    (folder / cell).mkdir(parents=True, exist_ok=True)
    names = [name for name in COLUMNS if name not in without and name in rows[0]]
    for part in dict.fromkeys(map(split, rows)):
        with (folder / cell / f"{cell}_{part}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS[name] for name in names)
            writer.writerows([row[name] for name in names] for row in rows if split(row) == part)


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """Cells whose logs differ in nothing but the interval, and one that is logged irregularly."""
    folder = tmp_path_factory.mktemp("logged")
    for interval in INTERVALS:
        rows = list(cycles(2, float(interval)))
        write(folder / "in", f"counted_{interval}", rows)
        write(folder / "in", f"plain_{interval}", rows, COUNTERS)
        write(folder / "in", f"unstepped_{interval}", rows, (*COUNTERS, "step_s"))
        bare = (*COUNTERS, "step_s", "step", "cycle", "number")
        write(folder / "in", f"bare_{interval}", rows, bare)
    # Ten times as many readings for the hot half of the day.
    uneven = [
        row
        for place, row in enumerate(cycles(6, 30.0))
        if row["temperature"] > 25.0 or place % 10 == 0
    ]
    write(folder / "in", "uneven", uneven)
    ran = run(folder, folder / "in")
    assert ran.status == 0, ran.err
    success, counts = models.build(f"duckdb:{ran.warehouse}", data_tests=False)
    assert success, counts
    return ran


@pytest.mark.parametrize("interval", INTERVALS)
@pytest.mark.parametrize("kind", ["counted", "plain", "unstepped", "bare"])
def test_charge_is_the_same_at_any_sampling_interval(logged: Ran, kind: str, interval: int) -> None:
    found = logged.sql(
        f"""SELECT charge_ah, discharge_ah, gaps FROM battery_cycles
        WHERE equipment_id = '{kind}_{interval}' ORDER BY cycle_number"""
    )
    # The first cycle too, though nothing was logged before its first interval had passed.
    close = 1e-6 if kind == "counted" else 1e-3
    wanted = (pytest.approx(CHARGED, rel=close), pytest.approx(DISCHARGED, rel=close), 0)
    assert found == [wanted] * 2


def test_means_do_not_depend_on_how_often_readings_are_taken(logged: Ran) -> None:
    plain, weighted = logged.sql(
        """SELECT avg(temperature_c), sum(temperature_c * weight_s) / sum(weight_s)
        FROM battery_features WHERE equipment_id = 'uneven'"""
    )[0]

    def mean_between(start: float, end: float) -> float:
        seconds = range(math.floor(start), math.ceil(end) + 1)
        return sum(map(temperature, seconds)) / len(seconds)

    truth = mean_between(0, 6 * (RISE_S + HELD_S + FALL_S + 2 * REST_S))
    assert weighted == pytest.approx(truth, abs=0.05)
    assert plain > truth + 2.0

    begun = START.timestamp()
    for table, first, last in (
        ("battery_cycles", "started_at", "ended_at"),
        ("battery_steps", "started_at", "ended_at"),
        ("equipment_hourly", "first_reading_at", "last_reading_at"),
        ("equipment_daily", "first_reading_at", "last_reading_at"),
    ):
        rows = logged.sql(
            f"""SELECT temperature_mean_c, epoch({first}), epoch({last}) FROM {table}
            WHERE equipment_id = 'uneven'"""
        )
        assert rows
        for mean, start, end in rows:
            assert mean == pytest.approx(mean_between(start - begun, end - begun), abs=0.3), table
    # The current of the held step, whose first interval counts too.
    held = DECAY_S * (1 - math.exp(-HELD_S / DECAY_S)) / HELD_S
    for interval, close in ((1, 1e-3), (60, 5e-3)):
        (mean,) = logged.sql(
            f"""SELECT min(current_mean_a) FROM battery_steps
            WHERE equipment_id = 'plain_{interval}' AND step_index = 2"""
        )[0]
        assert mean == pytest.approx(held, rel=close)


def built(ran: Ran, cell: str, full_refresh: bool = False) -> dict[str, list[Row]]:
    """A cell's rows of the models after a build, without what says from which file they are."""
    success, counts = models.build(
        f"duckdb:{ran.warehouse}", "+battery_cycles +dim_test", data_tests=False,
        full_refresh=full_refresh,
    )  # fmt: skip
    assert success, counts
    with duckdb.connect(str(ran.warehouse), read_only=True) as database:
        database.execute("SET TimeZone = 'UTC'")
        return {
            name: database.sql(f"SELECT * FROM {name} WHERE equipment_id = '{cell}' ORDER BY {key}")
            .to_arrow_table()
            .to_pylist()
            for name, key in (
                ("battery_features", "recorded_at, reading_id"),
                ("battery_steps", "started_at, step_key"),
                ("battery_cycles", "cycle_number"),
                ("dim_test", "started_at"),
            )
        }


OF_THE_FILE = (
    "equipment_id", "reading_id", "test_id", "test_key", "source_file", "source_files", "source_row",
    "joined_parts", "ingested_at", "step_key", "cycle_key", "witnesses", "columns_used",
    "deliveries", "content_hash",
)  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize(
    "without",
    [
        (),
        # Minutes of builds more, for the same joins by the wall clock alone.
        pytest.param(
            (*COUNTERS, "test_s", "step_s", "step", "cycle", "number"), marks=pytest.mark.long
        ),
    ],
)
def test_a_file_per_day_is_one_test(tmp_path: Path, without: tuple[str, ...]) -> None:
    rows = list(cycles(5, 60.0, scale=8.0))
    days = sorted({row["at"][:10] for row in rows})
    assert len(days) == 5
    whole, days_of = tmp_path / "whole", tmp_path / "days"
    write(whole, "one", rows, without)
    write(days_of, "daily", rows, without, lambda row: row["at"][:10])
    wanted = built(run(tmp_path / "of_one", whole), "one")
    assert len(wanted["battery_cycles"]) == 5
    # All at once; and the middle days first, then the last one, and then the first.
    ran = run(tmp_path / "at_once", days_of)
    at_once = built(ran, "daily")
    for name, rows_of in wanted.items():
        assert differences(rows_of, at_once[name], OF_THE_FILE) == [], name
    assert [row["joined_parts"] for row in at_once["dim_test"]] == [5]
    assert ran.sql("SELECT tests FROM dim_equipment") == [(1,)]
    paths = [days_of / "daily" / f"daily_{day}.csv" for day in days]
    for order, path in enumerate((*paths[1:4], paths[4], paths[0])):
        folder = tmp_path / f"in_{order if order > 2 else 0}" / "daily"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / path.name).hardlink_to(path)
    for place in (0, 3, 4):
        ran = run(tmp_path / "in_parts", tmp_path / f"in_{place}")
        assert ran.status == 0, ran.err
        in_parts = built(ran, "daily")
    for name, rows_of in at_once.items():
        assert differences(rows_of, in_parts[name], ("ingested_at",)) == [], name


@pytest.mark.long
def test_a_file_whose_clock_restarts_is_apart_and_says_so(tmp_path: Path) -> None:
    rows = list(cycles(3, 60.0))
    half = len(rows) // 2
    begun = rows[half - 1]
    for number, row in enumerate(rows[half:], start=1):
        row |= {
            "number": number,
            "test_s": row["test_s"] - begun["test_s"],
            "cycle": row["cycle"] - begun["cycle"] + 1,
            "charge": row["charge"] - begun["charge"],
            "discharge": row["discharge"] - begun["discharge"],
        }
    ids = [id(row) for row in rows[half:]]
    write(tmp_path / "in", "split", rows, (), lambda row: "b" if id(row) in ids else "a")
    found = built(run(tmp_path, tmp_path / "in"), "split")
    assert [(row["joined_parts"], row["apart_because"]) for row in found["dim_test"]] == [
        (1, None),
        (1, "the test clock restarts"),
    ]
    # Nothing is lost and nothing counts twice.
    assert sum(row["discharge_ah"] for row in found["battery_cycles"]) == pytest.approx(
        3 * DISCHARGED, rel=1e-6
    )
