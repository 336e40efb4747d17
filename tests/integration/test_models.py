"""The models on warehouses that are not a tidy lab's: mixed, faulty, sparse, empty."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import pytest

from pipeline import models
from tests.running import Ran, run
from tests.services import warm
from tests.warehouses import differences

# The seeds' own queries, with their tables' names as they are on DuckDB.
SEED_QUERIES = [
    "SELECT source_file, COUNT(*) FROM battery_ts GROUP BY source_file",
    """SELECT MAX(CAST(voltage_v AS FLOAT)), streamed_at FROM battery_ts
    GROUP BY streamed_at ORDER BY streamed_at DESC""",
    """SELECT *, CAST(voltage_v AS FLOAT) * CAST(current_a AS FLOAT) AS power_watt,
    CAST(charge_capacity_ah AS FLOAT) + CAST(discharge_capacity_ah AS FLOAT) AS total_capacity
    FROM battery_cleaned""",
    'SELECT MAX("voltage(v)"), streamed_at FROM battery_ts GROUP BY streamed_at ORDER BY 2 DESC',
    """SELECT "voltage(v)" * "current(a)" AS power FROM battery_ts
    WHERE "voltage(v)" IS NOT NULL AND "current(a)" IS NOT NULL""",
]


def change(ran: Ran, statement: str) -> None:
    with duckdb.connect(str(ran.warehouse)) as database:
        database.execute(statement)


def build(ran: Ran) -> None:
    assert ran.status == 0, ran.err
    success, counts = models.build(f"duckdb:{ran.warehouse}")
    assert success, counts
    assert counts["PASS"] > 100
    # A warning fails no build, but here it would be a fault of the models.
    assert not counts["WARN"], list(models.warned(f"duckdb:{ran.warehouse}"))


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    folder = tmp_path_factory.mktemp("fleet")
    ran = run(folder, "simulator:?equipment=4&cycles=12&interval=60&faults=0.01&late=0.05")
    build(ran)
    return ran


def test_a_mixed_fleet_with_faults(fleet: Ran) -> None:
    assert fleet.sql(
        "SELECT equipment_type, count(*) FROM dim_equipment GROUP BY 1 ORDER BY 1"
    ) == [("battery_cell", 3), ("machine", 1)]
    cycles = fleet.sql("SELECT equipment_id, max(cycle_number) FROM battery_cycles GROUP BY 1")
    assert {number for _, number in cycles} == {12}
    assert fleet.sql(
        """SELECT count(*) FROM readings r JOIN battery_features f USING (reading_id)
        WHERE r.time_delta_s IS DISTINCT FROM f.time_delta_s
          AND NOT abs(r.time_delta_s - f.time_delta_s) < 1e-6"""
    ) == [(0,)]
    assert fleet.sql("SELECT sum(readings) FROM equipment_daily") == fleet.sql(
        "SELECT count(*) FROM readings"
    )
    rejected = fleet.account()["dead_letters"]
    assert fleet.sql("SELECT count(*) FROM dead_letters") == [(rejected,)]


@pytest.mark.parametrize("query", SEED_QUERIES)
def test_the_older_designs_queries_work(fleet: Ran, query: str) -> None:
    assert fleet.sql(query)


@pytest.mark.long
def test_cells_without_counters_cycles_or_clock_and_a_single_reading(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    lines = [json.dumps({"equipment_id": "lonely", "recorded_at": "2024-01-01T00:00:00Z",
                         "voltage_v": 3.7, "current_a": 0.0})]  # fmt: skip
    stamp = 0
    for _ in range(3):
        for current, volts in ((1.0, 3.6), (-1.0, 3.5)):
            for step in range(60):
                lines.append(
                    json.dumps(
                        {
                            "equipment_id": "plain",
                            "recorded_at": 1_704_067_200 + stamp,
                            "voltage_v": volts + current * step / 100,
                            "current_a": current,
                        }
                    )
                )
                stamp += 60
    (folder / "stream.ndjson").write_text("\n".join(lines))
    ran = run(tmp_path, folder)
    build(ran)
    cycles = ran.sql(
        "SELECT charge_ah, discharge_ah FROM battery_cycles WHERE equipment_id = 'plain' ORDER BY 1"
    )
    assert len(cycles) == 3
    # An ampere for an hour, less the interval before the very first reading.
    assert [row[1] for row in cycles] == pytest.approx([1.0, 1.0, 1.0], rel=0.02)


def pulse(resistance: float) -> list[str]:
    """A cell's cycle at 1 A with counters; its voltage jumps by `resistance` when it discharges."""
    counters = "Charge_Capacity(Ah),Discharge_Capacity(Ah)"
    lines = [f"Date_Time,Test_Time(s),Cycle_Index,Step_Index,Current(A),Voltage(V),{counters}"]
    for second in range(0, 7201, 10):
        charging = second <= 3600
        hours = (second if charging else second - 3600) / 3600
        volts = 3.0 + hours if charging else 4.0 - hours - resistance
        clock = f"2024-03-01 {second // 3600:02d}:{second // 60 % 60:02d}:{second % 60:02d}"
        values = (clock, second, 1, 1 if charging else 2, 1 if charging else -1, f"{volts:.4f}",
                  f"{hours if charging else 1:.6f}", f"{0 if charging else hours:.6f}")  # fmt: skip
        lines.append(",".join(map(str, values)))
    return lines


def test_a_cell_with_an_inverted_pulse_breaks_no_other_cells_models(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    for cell, resistance in (("good_1", 0.2), ("bad", -0.2), ("good_2", 0.2)):
        (folder / cell).mkdir(parents=True)
        (folder / cell / "test.csv").write_text("\n".join(pulse(resistance)))
    ran = run(tmp_path, folder)
    build(ran)
    found = ran.sql(
        """SELECT equipment_id, dc_resistance_30s_ohm, dc_resistance_reason, charge_ah,
            discharge_ah, disagreements
        FROM battery_cycles ORDER BY 1"""
    )
    assert [row[0] for row in found] == ["bad", "good_1", "good_2"]
    assert found[0][1:3] == (None, "voltage: moves against the current")
    assert [row[1] for row in found[1:]] == pytest.approx([0.104, 0.104], abs=0.002)
    assert [row[3:] for row in found] == [(pytest.approx(1.0), pytest.approx(1.0), [])] * 3
    assert ran.sql("SELECT count(*) FROM battery_health") == [(3,)]


def test_a_value_that_is_not_as_it_should_be_warns_and_stops_no_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = run(tmp_path, "simulator:?equipment=3&cycles=3&interval=60")
    assert ran.status == 0
    change(ran, "UPDATE readings SET time_delta_s = -5 "
           "WHERE equipment_id = 'sim_cell_002' AND cycle_index = 2")  # fmt: skip
    with warm.cold_dbt():
        assert models.main([f"--warehouse=duckdb:{ran.warehouse}"]) == 0
    told = capsys.readouterr().out.splitlines()
    (line,) = (line for line in told if "battery_ts" in line)
    rows = ran.sql("SELECT count(*) FROM readings WHERE time_delta_s < 0")[0][0]
    assert line == f"  battery_ts: below zero: time_delta_s in {rows} rows (sim_cell_002)"
    assert "SKIP 0" in told[-1]
    assert len(ran.sql("SELECT DISTINCT equipment_id FROM battery_lifetime")) == 3


# What another writer may leave in a cell's readings, each in some of them.
ABSURD = [
    "voltage_v = 'nan'", "voltage_v = 'inf'", "voltage_v = 1e308, current_a = 1e308",
    "current_a = -1e300", "current_a = 1e-308", "voltage_v = 0, current_a = 0",
    "test_time_s = 1e308", "step_time_s = -1e308", "time_delta_s = -1e308",
    "cycle_index = 9223372036854775807", "cycle_index = -9223372036854775807",
    "step_index = 9223372036854775807", "cycle_index = NULL", "record_index = -1",
    "charge_capacity_ah = 1e308", "discharge_capacity_ah = 'inf'", "charge_energy_wh = -5",
    "internal_resistance_ohm = 1e308", "temperature_c = -1e308", "ambient_temperature_c = 'nan'",
    "frequency_hz = 1e308", "quality_flags = NULL", "quality_flags = ['', 'of nobody', NULL]",
    "equipment_type = NULL", "equipment_type = 'toaster'", "ingested_at = NULL",
    "recorded_at = TIMESTAMPTZ '9990-01-01 00:00:00+00'", "reading_id = NULL",
    "recorded_at = TIMESTAMPTZ '0010-01-01 00:00:00+00'", "recorded_at = NULL",
    "test_id = NULL", "test_id = ''", "equipment_id = 'sim_cell|002', test_id = 'x'",
    "equipment_id = 'sim_cell', test_id = '002|x'", "source_file = '', extra = 'no JSON'",
]  # fmt: skip


@pytest.mark.long
def test_absurd_values_of_a_cell_leave_the_other_cells_models_as_they_are(tmp_path: Path) -> None:
    ran = run(tmp_path, "simulator:?equipment=4&cycles=4&interval=60")
    build(ran)
    names = ("battery_cleaned", "battery_features", "battery_steps", "battery_cycles",
             "battery_health", "battery_ica", "battery_lifetime", "dim_test", "dim_equipment",
             "equipment_hourly", "equipment_daily", "equipment_alerts")  # fmt: skip
    others = "equipment_id IN ('sim_cell_001', 'sim_cell_003', 'sim_machine_001')"
    queries = [f"SELECT * FROM {name} WHERE {others} ORDER BY ALL" for name in names]
    before = [ran.rows(query) for query in queries]
    assert [len(rows) for rows in before[-4:-1]] == [3, 44, 3]
    for name in ("equipment_type", "ingested_at", "reading_id", "recorded_at", "equipment_id",
                 "voltage_v", "current_a", "quality_flags"):  # fmt: skip
        change(ran, f"ALTER TABLE readings ALTER COLUMN {name} DROP NOT NULL")
    for place, values in enumerate(ABSURD):
        change(ran, f"UPDATE readings SET {values} WHERE equipment_id = 'sim_cell_002' "
               f"AND hash(record_index, recorded_at) % {len(ABSURD)} = {place}")  # fmt: skip
    assert models.main([f"--warehouse=duckdb:{ran.warehouse}", "--full_refresh"]) == 0
    for name, rows, query in zip(names, before, queries, strict=True):
        # The last digits of a sum depend on the order of addition.
        assert differences(ran.rows(query), rows) == [], name
    # And what is left of the cell itself is there.
    assert ran.sql("SELECT count(*) FROM battery_cycles WHERE equipment_id = 'sim_cell_002'") > [
        (0,)
    ]


@pytest.mark.long
def test_a_warehouse_of_an_older_version(tmp_path: Path) -> None:
    ran = run(tmp_path, "simulator:?equipment=3&cycles=3&interval=60")
    for table in ("test_dialects", "cycle_summaries", "cycles_live", "predictions"):
        change(ran, f"DROP TABLE {table}")
    change(ran, "ALTER TABLE readings DROP COLUMN source_row")
    build(ran)
    assert ran.sql("SELECT count(*), count(dialect) FROM dim_test") == [(3, 0)]
    assert ran.sql("SELECT count(source_row) FROM battery_features") == [(0,)]


@pytest.mark.long
def test_a_log_of_every_ten_minutes_has_no_gaps_but_for_an_outage(tmp_path: Path) -> None:
    lines = ["Date_Time,Test_Time(s),Cycle_Index,Step_Index,Current(A),Voltage(V)"]
    start = datetime(2024, 3, 1, tzinfo=UTC)
    # C/25, 25 h in and 25 h out, and 4 h of the discharge missing.
    for second in range(0, 180_001, 600):
        charging = second <= 90_000
        if 120_000 < second < 134_400:
            continue
        values = (f"{start + timedelta(seconds=second):%Y-%m-%d %H:%M:%S}", second, 1, 1 if charging else 2,
                  0.04 if charging else -0.04, 3.0 if charging else 3.4)  # fmt: skip
        lines.append(",".join(map(str, values)))
    folder = tmp_path / "in" / "slow"
    folder.mkdir(parents=True)
    (folder / "test.csv").write_text("\n".join(lines))
    ran = run(tmp_path, folder)
    build(ran)
    # The first reading carries a current at time zero, so readings stand where steps start: the ten
    # minutes up to the discharge's first one are the charge's.
    turn = 0.04 * 600 / 3600
    assert ran.sql("SELECT charge_ah, discharge_ah, gaps, disagreements FROM battery_cycles") == [
        (pytest.approx(1.0 + turn), pytest.approx(1.0 - 4 * 0.04 - turn), 1, ["charge_disagrees"])
    ]
    assert ran.sql("SELECT count(*) FROM equipment_alerts WHERE rule = 'gap'") == [(1,)]


def test_an_empty_warehouse(tmp_path: Path) -> None:
    source = tmp_path / "nothing" / "nothing.ndjson"
    source.parent.mkdir()
    source.write_text("")
    ran = run(tmp_path, source)
    assert ran.account()["written"] == 0
    assert ran.status == 1 and "nothing.ndjson" in ran.err
    success, counts = models.build(f"duckdb:{ran.warehouse}")
    assert success, counts
    assert ran.sql("SELECT count(*) FROM battery_lifetime") == [(0,)]


def test_the_command_names_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert models.main([f"--warehouse=duckdb:{tmp_path / 'none.duckdb'}"]) == 2
    assert "python -m pipeline first" in capsys.readouterr().err
    assert models.main(["--warehouse=redshift:x"]) == 2
    assert "duckdb:PATH" in capsys.readouterr().err


def test_the_project_parses_for_bigquery(tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "dbt.cli.main", "parse", "--target", "bigquery",
        "--project-dir", str(models.PROJECT), "--profiles-dir", str(models.PROJECT),
        "--target-path", str(tmp_path / "target"), "--log-path", str(tmp_path / "logs"),
    ]  # fmt: skip
    surroundings = os.environ | {"BIGQUERY_PROJECT": "test-project", "BIGQUERY_DATASET": "test"}
    done = subprocess.run(command, env=surroundings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
