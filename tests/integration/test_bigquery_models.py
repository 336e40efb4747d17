"""The models build on what is new, and mean the same on DuckDB and on BigQuery."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from pipeline import models
from tests.running import Ran, run
from tests.services import warm
from tests.services.bigquery import BigQuery
from tests.services.fixtures import set_environment
from tests.warehouses import KEYS, Dataset, File, Warehouse, differences, job_rows

DAY = "recorded_at::DATE - DATE '2024-01-01' + 1"
# What the first build sees. Cell 1's file of the first day, which the others continue, some of cell
# 2's readings of that day and what happened on the fourth arrive later; cell 3 has rested since.
FIRST = f"""(equipment_id = 'sim_cell_001' AND {DAY} <> 1)
    OR (equipment_id = 'sim_cell_002' AND {DAY} < 4 AND NOT ({DAY} = 1 AND reading_id < '1'))
    OR equipment_id = 'sim_cell_003'
    OR (equipment_id = 'sim_machine_001' AND {DAY} < 4)"""
# And what comes with that a second time, as at-least-once delivery may have it.
AGAIN = f"equipment_id = 'sim_cell_002' AND {DAY} IN (1, 4)"


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    folder = tmp_path_factory.mktemp("fleet")
    ran = run(folder, "simulator:?equipment=4&cycles=24&interval=120&faults=0.01&late=0.05")
    assert ran.status == 0, ran.err
    assert ran.sql(f"SELECT DISTINCT {DAY} FROM readings ORDER BY 1")[:4] == [
        (1,),
        (2,),
        (3,),
        (4,),
    ]
    # Cell 1's test comes in a file per day, none of which names it.
    with duckdb.connect(str(ran.warehouse)) as database:
        database.execute("SET TimeZone = 'UTC'")
        database.execute(
            """UPDATE readings SET test_id = day_file FROM (
                SELECT reading_id AS reading, equipment_id || '@' || strftime(
                    min(recorded_at) OVER (PARTITION BY equipment_id, recorded_at::DATE),
                    '%Y-%m-%dT%H:%M:%SZ'
                ) AS day_file FROM readings WHERE equipment_id = 'sim_cell_001'
            ) WHERE reading_id = reading"""
        )
    return ran


@pytest.fixture(scope="module")
def later(fleet: Ran) -> dict[str, pa.Table]:
    """The readings that come after the first build, some of them and earlier ones again."""
    rows = [job_rows(fleet.warehouse, where)["readings"] for where in (f"NOT ({FIRST})", AGAIN)]
    assert all(table.num_rows > 100 for table in rows)
    return {"readings": pa.concat_tables(rows)}


@pytest.fixture(scope="module")
def whole(fleet: Ran, later: dict[str, pa.Table], tmp_path_factory: pytest.TempPathFactory) -> File:
    """A warehouse on DuckDB whose models were built once, from everything."""
    file = File(tmp_path_factory.mktemp("whole") / "warehouse.duckdb")
    file.load(job_rows(fleet.warehouse, FIRST))
    file.load(later)
    build(file, data_tests=True)
    # The days' files are one test.
    assert file.sql("SELECT joined_parts FROM dim_test WHERE equipment_id = 'sim_cell_001'") == (
        fleet.sql(
            "SELECT count(DISTINCT test_id) FROM readings WHERE equipment_id = 'sim_cell_001'"
        )
    )
    return file


@pytest.fixture
def at_emulator(bigquery: BigQuery, monkeypatch: pytest.MonkeyPatch) -> BigQuery:
    set_environment(monkeypatch, bigquery.environment)
    return bigquery


def build(
    warehouse: Warehouse,
    select: str | None = None,
    full_refresh: bool = False,
    data_tests: bool = False,
) -> None:
    success, counts = models.build(
        warehouse.uri, select, full_refresh=full_refresh, data_tests=data_tests
    )
    assert success, counts
    assert counts["PASS"] > (100 if data_tests else 5)


def unlike(one: Warehouse, other: Warehouse, *without: str) -> dict[str, list[str]]:
    found = {name: differences(one.table(name), other.table(name), without) for name in KEYS}
    return {name: told[:5] for name, told in found.items() if told}


def mark(warehouse: Warehouse, readings: list[str]) -> None:
    """Changes rows of what was built, so that it shows whether they are built again."""
    chosen = f"reading_id IN ({', '.join(repr(reading) for reading in readings)})"
    warehouse.sql(f"UPDATE battery_cleaned SET extra = 'old' WHERE {chosen}")
    warehouse.sql(f"UPDATE battery_features SET naive_total_capacity_ah = -1 WHERE {chosen}")


def marked(warehouse: Warehouse) -> tuple[set[str], set[str]]:
    """The readings that were not built again since, and those whose features were not."""
    rows = (
        warehouse.sql("SELECT reading_id FROM battery_cleaned WHERE extra = 'old'"),
        warehouse.sql("SELECT reading_id FROM battery_features WHERE naive_total_capacity_ah = -1"),
    )
    return {row[0] for row in rows[0]}, {row[0] for row in rows[1]}


def unmark(warehouse: Warehouse) -> None:
    warehouse.sql("UPDATE battery_cleaned SET extra = NULL WHERE extra = 'old'")
    warehouse.sql(
        "UPDATE battery_features SET naive_total_capacity_ah = charge_capacity_ah + "
        "discharge_capacity_ah WHERE naive_total_capacity_ah = -1"
    )


def build_in_two_steps(warehouse: Warehouse, fleet: Ran, later: dict[str, pa.Table]) -> None:
    warehouse.load(job_rows(fleet.warehouse, FIRST))
    build(warehouse)
    rested_1, rested_2, touched_2 = (
        fleet.sql(
            f"SELECT min(reading_id) FROM readings WHERE equipment_id = '{cell}' AND {DAY} = {day}"
        )[0][0]
        for cell, day in (("sim_cell_003", 1), ("sim_cell_003", 2), ("sim_cell_002", 2))
    )
    mark(warehouse, [rested_1, rested_2, touched_2])
    warehouse.load(later)
    build(warehouse)
    # A day without new readings is left as it is, and so is an equipment without.
    assert marked(warehouse) == ({rested_2, touched_2}, {rested_1, rested_2})
    unmark(warehouse)


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_builds_give_what_one_gives(
    fleet: Ran, later: dict[str, pa.Table], whole: File, tmp_path: Path
) -> None:
    file = File(tmp_path / "warehouse.duckdb")
    build_in_two_steps(file, fleet, later)
    assert not unlike(file, whole)

    # Other limits change what the readings mean, though none is new.
    before = file.table("battery_features")
    file.sql("UPDATE equipment_profiles SET rated_current_a = 10 * coalesce(rated_current_a, 1)")
    build(file, "+battery_features")
    after = file.table("battery_features")
    rest = [sum(row["rest_current_a"] for row in rows) for rows in (before, after)]
    assert rest[1] > 2 * rest[0]
    build(file, "+battery_features", full_refresh=True)
    assert not differences(after, file.table("battery_features"))


@pytest.mark.long
@pytest.mark.slow
def test_readings_delivered_twice_count_once(fleet: Ran, whole: File) -> None:
    once = File(fleet.warehouse)
    build(once)
    # The sum that shows whether anything came since: of every delivery.
    told = ("deliveries", "delivered_readings", "removed_readings", "content_hash")
    assert not unlike(once, whole, *told)
    assert whole.sql("SELECT sum(deliveries) - count(*), max(deliveries) FROM battery_cleaned") == [
        (sum(once.sql(f"SELECT count(*) FROM readings WHERE {AGAIN}")[0]), 2)
    ]
    assert (
        sum(row["removed_readings"] for row in whole.table("data_quality_daily"))
        == (whole.sql("SELECT sum(deliveries) - count(*) FROM battery_cleaned")[0][0])
    )


@pytest.mark.integration
@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(900)
def test_bigquery_gives_what_duckdb_gives(
    at_emulator: BigQuery, fleet: Ran, later: dict[str, pa.Table], whole: File
) -> None:
    dataset = Dataset(at_emulator)
    build_in_two_steps(dataset, fleet, later)
    assert not unlike(dataset, whole)
    assert {name: dataset.layout(name) for name in ("battery_cleaned", "equipment_daily")} == {
        "battery_cleaned": ("recorded_at", "DAY", ["equipment_id", "test_key"]),
        "equipment_daily": ("day", "MONTH", ["equipment_id"]),
    }


HOUR = pa.scalar(3_600_000_000, pa.duration("us"))


def version(rows: pa.Table, number: int, arrived: int) -> pa.Table:
    """All readings with other values, from another file that arrived so many hours later."""
    values = {
        "content_id": pa.array([1_000 * number + row for row in range(rows.num_rows)]),
        "voltage_v": pa.array([float(number)] * rows.num_rows),
        "ingested_at": pc.add(rows.column("ingested_at"), pc.multiply(HOUR, arrived)),
    }
    for name, column in values.items():
        place = rows.column_names.index(name)
        rows = rows.set_column(place, rows.schema.field(name), column)
    return rows


def build_view(dataset: Dataset, *variables: str) -> None:
    command = [
        *warm.Dbt(), "run", "--select", "battery_ts", "--project-dir", str(models.PROJECT),
        "--profiles-dir", str(models.PROJECT), *variables,
    ]  # fmt: skip
    surroundings = os.environ | models.environment(dataset.uri)
    done = subprocess.run(command, env=surroundings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def stands(dataset: Dataset) -> list[tuple[float, int, int]]:
    found = dataset.sql(
        "SELECT voltage_v, count(*), count(DISTINCT reading_id) FROM battery_ts GROUP BY 1"
    )
    return [tuple(row) for row in found]


def test_a_correction_of_readings_that_were_delivered_twice_is_built(
    fleet: Ran, tmp_path: Path
) -> None:
    rows = job_rows(fleet.warehouse, "equipment_id = 'sim_cell_003'")["readings"].slice(0, 50)
    file = File(tmp_path / "warehouse.duckdb")
    volts = [
        f"SELECT DISTINCT {column} FROM {name}"
        for name, column in (("battery_cleaned", "voltage_v"), ("battery_features", "voltage_v"))
    ]
    for number in (3, 4):
        file.sql("DELETE FROM readings")
        file.load({"readings": version(rows, number, number)})
        file.load({"readings": version(rows, number, number)})
        build(file, "+battery_features")
        assert [file.sql(query) for query in volts] == [[(float(number),)]] * 2


@pytest.mark.integration
def test_of_versions_on_bigquery_one_counts(at_emulator: BigQuery, fleet: Ran) -> None:
    rows = job_rows(fleet.warehouse, "equipment_id = 'sim_cell_003'")["readings"].slice(0, 50)
    dataset = Dataset(at_emulator)
    # The first version comes again after the others: it is as old as it was.
    for number, arrived in ((1, 0), (3, 2), (2, 1), (1, 9)):
        dataset.load({"readings": version(rows, number, arrived)})
    build_view(dataset)
    assert stands(dataset) == [(3.0, 50, 50)]
    build_view(dataset, "--vars", "{on_conflict: keep}")
    assert stands(dataset) == [(1.0, 100, 50)]


@pytest.mark.integration
def test_a_version_that_came_with_its_correction_stays_old_on_bigquery(
    at_emulator: BigQuery, fleet: Ran
) -> None:
    rows = job_rows(fleet.warehouse, "equipment_id = 'sim_cell_003'")["readings"].slice(0, 50)
    dataset = Dataset(at_emulator)
    first = version(rows, 1, 0)
    ids = pa.array([f"1:{row}" for row in range(first.num_rows)])
    dataset.load({
        "readings_superseded": first.append_column("version_id", ids),
        "readings": version(rows, 2, 1),
    })  # fmt: skip
    # It is read again.
    dataset.load({"readings": version(rows, 1, 9)})
    build_view(dataset)
    assert stands(dataset) == [(2.0, 50, 50)]
    # As a warehouse has it from before there were versions.
    dataset.sql("DROP TABLE readings_superseded")
    build_view(dataset)
    assert stands(dataset) == [(1.0, 50, 50)]


@pytest.mark.integration
def test_freshness_on_bigquery(at_emulator: BigQuery, fleet: Ran, tmp_path: Path) -> None:
    dataset = Dataset(at_emulator)
    dataset.load(job_rows(fleet.warehouse))
    command = [
        sys.executable, "-m", "dbt.cli.main", "source", "freshness", "--project-dir",
        str(models.PROJECT), "--profiles-dir", str(models.PROJECT), "--target-path", str(tmp_path),
        "--log-path", str(tmp_path),
    ]  # fmt: skip
    surroundings = os.environ | models.environment(dataset.uri)
    done = subprocess.run(command, env=surroundings, capture_output=True, text=True, check=False)
    (told,) = json.loads((tmp_path / "sources.json").read_text())["results"]
    # The simulated fleet's time is years ago.
    assert (told["status"], done.returncode) == ("error", 1), done.stdout
    newest = fleet.sql("SELECT epoch_us(max(ingested_at)) FROM readings")[0][0]
    assert round(datetime.fromisoformat(told["max_loaded_at"]).timestamp() * 1e6) == newest


@pytest.mark.integration
def test_the_command_names_what_is_missing_on_bigquery(
    at_emulator: BigQuery, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = at_emulator.new_dataset()
    for name, told in ((dataset, "python -m pipeline first"), ("none", "there is no dataset none")):
        assert models.main([f"--warehouse=bigquery://{at_emulator.project}/{name}"]) == 2
        assert told in capsys.readouterr().err
