"""A cycler's own statistics are kept apart from measurements, and become what each cycle gave."""

from __future__ import annotations

import datetime as dt
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.sources.formats.statistics import Kind, kind_of_table, summaries
from schemas.forms import arrow_schema
from schemas.reading import CYCLE_SUMMARY, TEST_DIALECT, WINDOW_STATS
from tests.calce import calce_dir
from tests.pipeline.sources.reading import read, read_file
from tests.running import run
from tests.workbooks import xlsx

ARBIN = ["Cycle_Index", "Test_Time(s)", "Date_Time", "Current(A)", "Voltage(V)",
         "Charge_Capacity(Ah)", "Discharge_Capacity(Ah)", "Charge_Time(s)", "DisCharge_Time(s)",
         "Vmax_On_Cycle(V)"]  # fmt: skip
RECORDS = ["Data_Point", "Test_Time(s)", "Date_Time", "Cycle_Index", "Step_Index", "Current(A)",
           "Voltage(V)", "Charge_Capacity(Ah)", "Discharge_Capacity(Ah)"]  # fmt: skip
NEWARE = ["Cycle Index", "Chg. Cap.(mAh)", "DChg. Cap.(mAh)", "Chg.-DChg. Eff(%)",
          "Chg. Energy(mWh)", "DChg. Energy(mWh)", "Chg. Time(min)"]  # fmt: skip
NEWARE_RECORDS = ["DataPoint", "Cycle Index", "Step Index", "Step Type", "Total Time", "Current(mA)",
                  "Voltage(V)", "Chg. Cap.(mAh)", "DChg. Cap.(mAh)", "Date"]  # fmt: skip
NEWARE_STEPS = ["Cycle Index", "Step Index", "Step Number", "Step Type", "Step Time(min)",
                "Chg. Cap.(mAh)", "DChg. Cap.(mAh)", "Oneset Volt.(V)", "End Voltage(V)"]  # fmt: skip
NEWARE_PLAN = ["Step Index", "Step Name", "Step Time(min)", "Voltage(V)", "C-rate(C)",
               "Current(mA)", "Cut-off voltage (V)", "Capacity(mAh)", "Record settings"]  # fmt: skip
T0 = dt.datetime(2024, 3, 1, 9)  # noqa: DTZ001  # as cyclers write it


def arbin(cycles: int, cumulative: bool = False, first: int = 1) -> list[list[Any]]:
    rows = []
    for n in range(cycles):
        times = n + 1 if cumulative else 1
        at = T0 + dt.timedelta(hours=2 * (n + 1))
        rows.append([first + n, 7200.0 * (n + 1), at, 0.0, 3.1, 1.0 * times, 0.9 * times,
                     3600.0, 3600.0, 4.2])  # fmt: skip
    return rows


def records(cycles: int, rows_each: int) -> list[list[Any]]:
    found = []
    for n in range(cycles * rows_each):
        at = T0 + dt.timedelta(seconds=30 * n)
        cycle = n // rows_each + 1
        found.append([n + 1, 30.0 * n, at, cycle, 1, 1.0, 3.7 + n / 1e5, n / 120, 0.0])
    return found


def table(names: list[str], rows: list[list[Any]]) -> pa.Table:
    return pa.table({name: [row[at] for row in rows] for at, name in enumerate(names)})


def texts(names: list[str], rows: list[list[Any]]) -> pa.Table:
    """As a delimited text has them."""
    return table(names, [[str(cell) for cell in row] for row in rows])


def csv(names: list[str], rows: list[list[Any]]) -> bytes:
    return "".join(",".join(map(str, row)) + "\n" for row in [names, *rows]).encode()


# --- what a table is -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["any.csv", "CellX_Channel_7_StatisticByCycle.CSV", "data"])
@pytest.mark.parametrize("count", [2, 3, 50])
def test_a_row_for_each_cycle_and_columns_of_cycles_are_statistics(name: str, count: int) -> None:
    for made in (table, texts):
        assert kind_of_table(ARBIN, made(ARBIN, arbin(count)), name) is Kind.CYCLES


@pytest.mark.parametrize("name", ["a.csv", "cell_statistics/run.csv", "cycle_1.csv", "Cycler3.txt",
                                  "static_load.csv", "CellX_Wb_1.csv"])  # fmt: skip
@pytest.mark.parametrize(
    ("cycles", "rows_each"), [(3, 1), (1, 1), (1, 3), (4, 1), (3, 20), (50, 2)]
)
def test_short_tests_are_measurements(name: str, cycles: int, rows_each: int) -> None:
    for made in (table, texts):
        given = made(RECORDS, records(cycles, rows_each))
        assert kind_of_table(RECORDS, given, name) is Kind.MEASUREMENT


def test_a_name_alone_decides_nothing() -> None:
    three = table(RECORDS, records(3, 1))
    for name in ("x_statistics.csv", "x_cycle_data.csv", "x_cycle_summary.csv"):
        assert kind_of_table(RECORDS, three, name) is Kind.MEASUREMENT
    # A row for each cycle under the name that Arbin gives to nothing else: no doubt is left.
    assert kind_of_table(RECORDS, three, "x_StatisticByCycle.csv") is Kind.CYCLES
    long = table(RECORDS, records(3, 30))
    assert kind_of_table(RECORDS, long, "x_StatisticByCycle.csv") is Kind.MEASUREMENT
    one = table(ARBIN, arbin(1))
    assert kind_of_table(ARBIN, one, "x_StatisticByCycle.csv") is Kind.CYCLES
    assert kind_of_table(ARBIN, one, "x.csv") is Kind.MEASUREMENT


def test_voltage_under_a_name_that_nobody_knows_is_still_a_measurement() -> None:
    names = ["cycle number", "Ewe/V", "I/mA", "Q charge/mA.h", "Charge_Capacity(Ah)"]
    given = table(names, [[n, 3.7, 1.0, 0.1, 0.1] for n in range(1, 4)])
    assert kind_of_table(names, given, "a.mpt") is Kind.MEASUREMENT


def test_cycles_that_come_again_or_are_no_whole_numbers_are_no_statistics() -> None:
    rows = arbin(4)
    rows[2][0] = 2
    assert kind_of_table(ARBIN, table(ARBIN, rows), "StatisticByCycle.csv") is Kind.MEASUREMENT
    half = [[row[0] / 2, *row[1:]] for row in arbin(4)]
    assert kind_of_table(ARBIN, table(ARBIN, half), "StatisticByCycle.csv") is Kind.MEASUREMENT


def test_the_summaries_of_batteryarchive_have_extremes_instead_of_values() -> None:
    names = ["Cycle_Index", "Start_Time", "End_Time", "Test_Time (s)", "Min_Current (A)",
             "Max_Current (A)", "Min_Voltage (V)", "Max_Voltage (V)", "Charge_Capacity (Ah)",
             "Discharge_Capacity (Ah)"]  # fmt: skip
    rows: list[list[Any]] = [
        [n, "2024-01-01 00:00:00", f"2024-01-0{n} 00:00:00", n * 1e4, -1, 1, 2.7, 4.2, 1.0, 0.9]
        for n in (1, 2, 3)
    ]
    given = texts(names, rows)
    assert kind_of_table(names, given, "X_cycle_data.csv") is Kind.CYCLES
    found = summaries(given, "X", "X_cycle_data.csv", 0).to_pylist()
    assert [row["recorded_at"].day for row in found] == [1, 2, 3]  # the end, not the beginning


def test_steps_and_plans_are_neither_measurements_nor_cycles() -> None:
    steps = [[c, s, s, "CC Chg", 60.0, 1000.0, 0.0, 3.0, 4.2] for c in (1, 2) for s in (1, 2, 3)]
    given = table(NEWARE_STEPS, steps)
    assert kind_of_table(NEWARE_STEPS, given, "step") is Kind.STEPS
    assert kind_of_table(NEWARE_STEPS, given, "x_StatisticByStep.CSV") is Kind.STEPS
    plan = table(NEWARE_PLAN, [[1, "CC", 60, 4.2, 1, 1000, 4.2, 1000, "30s"]])
    assert kind_of_table(NEWARE_PLAN, plan, "test") is Kind.INFO
    about = table(["Channel", "Schedule"], [["1", "a.sdu"]])
    assert kind_of_table(about.column_names, about, "Global_Info") is Kind.INFO
    # A sheet that somebody called test may hold one.
    assert kind_of_table(RECORDS, table(RECORDS, records(2, 9)), "test") is Kind.MEASUREMENT


# --- what it says --------------------------------------------------------------------------------


def test_what_runs_on_over_cycles_becomes_what_each_cycle_added() -> None:
    for cumulative in (False, True):
        found = summaries(table(ARBIN, arbin(4, cumulative)), "C", "f.csv", 7)
        assert found.schema.equals(arrow_schema(CYCLE_SUMMARY))
        assert found["cycle_index"].to_pylist() == [1, 2, 3, 4]
        assert found["charge_ah"].to_pylist() == pytest.approx([1.0] * 4)
        assert found["discharge_ah"].to_pylist() == pytest.approx([0.9] * 4)
        assert found["charge_wh"].null_count == 4
        assert found["recorded_at"][0].as_py().hour == 11
        assert found["ingested_at"][0].value == 7


def test_a_cycle_behind_a_missing_one_has_no_value() -> None:
    rows = [row for row in arbin(6, cumulative=True) if row[0] != 3]
    found = summaries(table(ARBIN, rows), "C", "f", 0)
    assert found["cycle_index"].to_pylist() == [1, 2, 5, 6]


def test_late_cycles_of_which_nobody_can_tell_say_nothing() -> None:
    few = arbin(12, cumulative=True)[9:]
    assert summaries(table(ARBIN, few), "C", "f", 0).num_rows == 0
    assert summaries(table(ARBIN, few[:1]), "C", "f", 0).num_rows == 0
    steady = arbin(3, first=10)
    assert summaries(table(ARBIN, steady), "C", "f", 0)["charge_ah"].to_pylist() == [1.0] * 3
    first = summaries(table(ARBIN, arbin(1)), "C", "f", 0)
    assert first["charge_ah"].to_pylist() == [1.0]


@pytest.mark.parametrize("seed", range(30))
def test_whether_counters_run_on_is_told_of_any_life(seed: int) -> None:
    """Fading, a formation unlike the rest, dips: at least four cycles, either convention."""
    draw = random.Random(seed)
    count = draw.randint(4, 200)
    end = draw.uniform(0.3, 1.0)
    each = [1.0 + (end - 1.0) * n / count + draw.gauss(0, 0.01) for n in range(count)]
    each[0] *= draw.uniform(0.5, 1.3)
    each[draw.randrange(1, count)] *= draw.uniform(0.6, 1.0)
    for values in (each, np.cumsum(each).tolist()):
        rows = [[n + 1, v, v * 0.99] for n, v in enumerate(values)]
        names = ["Cycle_Index", "Charge_Capacity(Ah)", "Discharge_Capacity(Ah)"]
        found = summaries(table(names, rows), "C", "f", 0)
        assert found["charge_ah"].to_pylist() == pytest.approx(each)
        assert found["discharge_ah"].to_pylist() == pytest.approx([v * 0.99 for v in each])


def test_units_are_scaled_and_rows_that_say_nothing_left_out() -> None:
    rows: list[list[Any]] = [
        [1, "1000", "-990", "99", "3700", "3300", "60"], [2, "998", "988", "99", "3690", "3290", "60"],
        ["", "", "", "", "", "", ""], [3, "", "", "", "", "", "1"],
    ]  # fmt: skip
    found = summaries(texts(NEWARE, rows), "C", "f", 0).to_pylist()
    assert [row["cycle_index"] for row in found] == [1, 2]
    assert [
        found[0][name] for name in ("charge_ah", "discharge_ah", "charge_wh", "discharge_wh")
    ] == (pytest.approx([1.0, 0.99, 3.7, 3.3]))


def test_a_cycle_of_a_file_is_always_the_same_row() -> None:
    def keys(cell: str = "C", file: str | None = "f", scale: float = 1.0) -> set[str]:
        rows = [[row[0], *row[1:5], row[5] * scale, *row[6:]] for row in arbin(3)]
        return set(summaries(table(ARBIN, rows), cell, file, 5)["summary_id"].to_pylist())

    assert keys() == keys() and len(keys()) == 3
    assert not keys() & (keys(cell="D") | keys(file=None) | keys(scale=2.0))


# --- files ---------------------------------------------------------------------------------------


def test_a_neware_workbook_gives_records_and_what_its_cycles_sheet_says(tmp_path: Path) -> None:
    steps = [[c, s, s, "CC Chg", 60.0, 1000.0, 0.0, 3.0, 4.2] for c in (1, 2) for s in (1, 2, 3)]
    rows = [
        [n, n // 10 + 1, 1, "CC Chg", "00:00:10", 1000.0, 3.7, 1.0 * n, 0.0, T0] for n in range(20)
    ]
    book = xlsx({
        "unit": [["Device", "Channel"], ["24", "1"]],
        "test": [NEWARE_PLAN, [1, "CC", 60, 4.2, 1, 1000, 4.2, 1000, "30s"]],
        "cycle": [NEWARE, [1, 1000, 990, 99, 3700, 3300, 60], [2, 998, 988, 99, 3690, 3290, 60]],
        "step": [NEWARE_STEPS, *steps],
        "record": [NEWARE_RECORDS, *rows],
    })  # fmt: skip
    found = read_file(tmp_path, "N1.xlsx", book)
    assert len(found.rows) == 20 and found.errors == []
    (said,) = found.summaries
    assert said.table["charge_ah"].to_pylist() == [1.0, 0.998]
    assert said.table["equipment_id"].to_pylist() == ["N1", "N1"]


def test_a_workbook_of_statistics_alone_is_not_refused(tmp_path: Path) -> None:
    found = read_file(tmp_path, "A/A_x.xlsx", xlsx({"Statistics_1-008": [ARBIN, *arbin(3)]}))
    assert (found.batches, found.errors) == ([], [])
    assert found.summaries[0].table.num_rows == 3


def test_a_data_sheet_of_few_rows_stays_one(tmp_path: Path) -> None:
    found = read_file(tmp_path, "a.xlsx", xlsx({"Tabelle1": [RECORDS, *records(3, 1)]}))
    assert len(found.rows) == 3 and found.summaries == []


def test_a_statistics_file_speaks_of_the_cell_beside_it(tmp_path: Path) -> None:
    data = csv(ARBIN, arbin(3))
    for name in ("CellX/CellX_Channel_7_StatisticByCycle.CSV", "CellX_StatisticByCycle.csv",
                 "CellX_Statistics.csv", "CellX [STATS].txt", "more/CellX_cycle_data.csv"):  # fmt: skip
        found = read_file(tmp_path / name.replace("/", "_"), name, data)
        assert found.batches == [] and found.errors == [], name
        assert set(found.summaries[0].table["equipment_id"].to_pylist()) == {"CellX"}, name


def test_calce_says_of_its_cycles_what_its_counters_say() -> None:
    found = read(calce_dir() / "CS2_35.zip")
    by_file = {batch.origin.source_file: batch.table for batch in found.batches}
    compared = 0
    for said in found.summaries:
        rows = by_file[said.content.source_file]
        cycles = np.asarray(rows["Cycle_Index"], dtype=np.int64)
        counter = np.asarray(rows["Discharge_Capacity(Ah)"])
        ends = [counter[cycles == cycle].max() for cycle in np.unique(cycles)]
        each = dict(zip(np.unique(cycles).tolist(), np.diff(ends, prepend=0.0), strict=True))
        for row in said.table.to_pylist():
            assert row["discharge_ah"] == pytest.approx(each[row["cycle_index"]], rel=1e-9)
            compared += 1
    assert compared == 627


# --- the job -------------------------------------------------------------------------------------


def test_statistics_are_kept_as_witnesses_and_never_read(tmp_path: Path) -> None:
    folder = tmp_path / "in" / "CellX"
    folder.mkdir(parents=True)
    (folder / "CellX_Channel_7_Wb_1.csv").write_bytes(csv(RECORDS, records(3, 20)))
    (folder / "CellX_Channel_7_StatisticByCycle.CSV").write_bytes(csv(ARBIN, arbin(3)))
    steps = [[c, s, s, "CC Chg", 60.0, 1000.0, 0.0, 3.0, 4.2] for c in (1, 2) for s in (1, 2)]
    (folder / "CellX_Channel_7_StatisticByStep.CSV").write_bytes(csv(NEWARE_STEPS, steps))
    ran = run(tmp_path / "out", tmp_path / "in")
    assert (ran.status, ran.err) == (0, "")
    assert ran.account() == {"read": 60, "written": 60, "duplicates": 0, "dead_letters": 0}
    lines = ran.out.splitlines()
    assert any(line.startswith("cycler's own statistics: 1 file or sheet used") for line in lines)
    assert any(line.startswith("left out: 1 file or sheet without readings") for line in lines)
    wanted = [("CellX", cycle, 1.0) for cycle in (1, 2, 3)]
    kept = "SELECT equipment_id, cycle_index, charge_ah FROM cycle_summaries ORDER BY 2"
    assert ran.sql(kept) == wanted
    assert any(name.startswith("cycle_summaries/dt=") for name in ran.files())
    # Every one of them is archived, and comes from there as it did.
    again = run(tmp_path / "again", ran.lake / "raw")
    assert again.account() == ran.account() and again.sql(kept) == wanted
    # The lake's own tables hold no readings, and a replay of one is none either.
    alone = run(tmp_path / "alone", ran.lake / "cycle_summaries")
    assert alone.status == 0 and alone.account()["read"] == 0
    assert alone.sql(kept) == wanted


def test_a_whole_lake_is_read_without_its_other_tables(tmp_path: Path) -> None:
    first = run(tmp_path / "first", "simulator:?equipment=1&readings=50")
    for kept in (TEST_DIALECT, WINDOW_STATS):
        folder = first.lake / kept.name / "dt=2024-01-01"
        folder.mkdir(parents=True)
        row = {field.name: _some(field.kind) for field in kept.fields}
        pq.write_table(pa.Table.from_pylist([row], schema=arrow_schema(kept)), folder / "x.parquet")
    ran = run(tmp_path / "again", first.lake)
    assert (ran.status, ran.err) == (0, "")
    assert ran.account()["dead_letters"] == 0
    assert ran.sql("SELECT count(*) FROM readings") == first.sql("SELECT count(*) FROM readings")
    assert "left out: 3 files or sheets without readings" in ran.out


def _some(kind: Any) -> Any:
    return {"timestamp": dt.datetime(2024, 1, 1, tzinfo=dt.UTC), "strings": [], "integer": 1,
            "double": 1.0}.get(kind.value, "x")  # fmt: skip
