"""The DAGs as Airflow itself runs them, on DuckDB, with the tables they leave and the alerts."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest

from tests.airflow.conftest import Webhook
from tests.running import Ran, run
from tests.services import airflow as service
from tests.services.airflow import ASTRO, Airflow
from tests.services.kafka import Broker

# With an Airflow to be installed the first time, and made ready every time.
pytestmark = [pytest.mark.integration, pytest.mark.long, pytest.mark.timeout(1500)]

START = datetime(2024, 6, 1, 12, tzinfo=UTC)
END = START + timedelta(hours=1)
FLEET = "simulator:?equipment=8&readings=2400&interval=12&faults=0.02&duplicates=0.01"
FLEET += f"&start={START:%Y-%m-%dT%H:%M:%SZ}"
MODELS = r"models\..*"
# Every task of a model starts dbt, which takes seconds of a core. All models are built; of their
# tests, which tests/integration/test_models.py runs all of, these are enough to see tasks of each
# kind run.
SPARED = (
    r"models\.((?!battery_ts\.|battery_cleaned\.|data_quality_daily\.).*\.test"
    r"|relationships_.*_test)$"
)


@pytest.fixture(scope="session")
def dags(airflow: Airflow) -> dict[str, Any]:
    """What Airflow makes of the DAGs."""
    done = subprocess.run(
        [str(service.python()), str(Path(__file__).with_name("describe_dags.py")),
         str(ASTRO / "dags")],
        env={"PATH": "/usr/bin:/bin", **airflow.environment},
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def test_the_dags_are_sound(dags: dict[str, Any]) -> None:
    assert dags["import_errors"] == {}
    assert set(dags["dags"]) == {"battery_pipeline", "battery_check", "sensor_batch"}
    once = ("quality_gate", "check_everything")
    for its, dag in dags["dags"].items():
        # With data intervals, one run at a time, and none for the hours that were missed.
        times = "30 3 * * *" if its == "battery_check" else "0 * * * *"
        assert dag["timetable"] == f"CronDataIntervalTimetable {times}"
        assert dag["catchup"] is False and dag["max_active_runs"] == 1 and dag["timeout_s"]
        assert len(dag["cycle_free"]) == len(dag["tasks"])
        for name, task in dag["tasks"].items():
            assert task["owner"] == "battery", name
            assert task["retries"] == (0 if name in once else 2) and task["backoff"], name
            assert 0 < task["timeout_s"] < dag["timeout_s"], name
            assert task["alerts"], name


def test_the_steps_follow_one_another(dags: dict[str, Any]) -> None:
    tasks = dags["dags"]["battery_pipeline"]["tasks"]
    assert tasks["load_lake"]["upstream"] == ["check_for_new_data"]
    assert tasks["models.battery_ts.run"]["upstream"] == ["load_lake"]
    # A model is built when the one before it was built and passed its tests.
    assert tasks["models.battery_cleaned.run"]["upstream"] == ["models.battery_ts.test"]
    before_gate = set(tasks["quality_gate"]["upstream"])
    assert "models.data_quality_daily.test" in before_gate
    nothing_behind = set(tasks) - {up for task in tasks.values() for up in task["upstream"]}
    assert nothing_behind == {"log_account"}
    assert all(task["pool"] == "battery_warehouse" for task in tasks.values())
    batch = dags["dags"]["sensor_batch"]["tasks"]
    order = ["generate", "produce", "consume", "transform", "load"]
    assert [batch[name]["upstream"] for name in order] == [[], *([name] for name in order[:-1])]


def test_every_model_is_a_task(airflow: Airflow, dags: dict[str, Any]) -> None:
    manifest = json.loads(Path(airflow.environment["BATTERY_MANIFEST"]).read_text())
    kinds = [node["resource_type"] for node in manifest["nodes"].values()]
    names = [
        node["name"] for node in manifest["nodes"].values() if node["resource_type"] == "model"
    ]
    tasks = dags["dags"]["battery_pipeline"]["tasks"]
    # One that has tests is a group of tasks.
    runs = {name: {f"models.{name}.run", f"models.{name}_run"} for name in names}
    assert [name for name, either in runs.items() if not either & set(tasks)] == []
    assert kinds.count("model") == len(names) > 15


def wrong(done: subprocess.CompletedProcess[str]) -> str:
    """What speaks of trouble in what a run said; `airflow.log` has all."""
    lines = [line for line in done.stdout.splitlines() if re.search("rror|ailed|ALERT", line)]
    return "\n".join(line[:400] for line in lines[:60])


def states(done: subprocess.CompletedProcess[str]) -> str:
    """The state that the run ended in."""
    found = re.findall(r"dagrun.*?state=(?:DagRunState\.)?(\w+)", done.stdout, re.IGNORECASE)
    assert found, wrong(done)
    return str(found[-1]).lower()


# What is of a run and not of the data. Each run tells what it has read: the same is told again.
OF_A_RUN = {
    "pipeline_runs": "* EXCLUDE finished_at",
    "source_positions": "DISTINCT * EXCLUDE (position_id, run_id, began_at, ended_at)",
}


def tables(warehouse: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Every table's rows, without what is of a run."""
    with duckdb.connect(str(warehouse), read_only=True) as database:
        names = database.execute(
            "SELECT table_name FROM duckdb_tables() ORDER BY table_name"
        ).fetchall()
        return {
            name: database.execute(
                f"SELECT {OF_A_RUN.get(name, '*')} FROM {name} ORDER BY ALL"
            ).fetchall()
            for (name,) in names
        }


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """A job that wrote a lake and, for comparison, a warehouse."""
    done = run(tmp_path_factory.mktemp("job"), FLEET)
    assert done.status == 0, done.err
    return done


@pytest.fixture(scope="module")
def built(airflow: Airflow, lake: Ran, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """What the hourly DAG made of that lake."""
    warehouse = tmp_path_factory.mktemp("built") / "warehouse.duckdb"
    done = airflow.dag_test(
        "battery_pipeline", END.isoformat(), params(warehouse, lake.lake), without=SPARED
    )
    assert done.returncode == 0, wrong(done)
    return Ran(0, done.stdout, "", lake.lake, warehouse)


def params(warehouse: Path, lake: Path | None = None, **others: Any) -> dict[str, Any]:
    return {"warehouse": f"duckdb:{warehouse}", "lake": str(lake or "")} | others


@pytest.fixture
def copy(built: Ran, tmp_path: Path) -> Path:
    """The built warehouse, for a test to change."""
    return Path(shutil.copy(built.warehouse, tmp_path / "warehouse.duckdb"))


def test_the_hourly_run_leaves_readings_models_and_account(
    lake: Ran, built: Ran, dags: dict[str, Any]
) -> None:
    account = lake.account()
    tasks = [
        name for name in dags["dags"]["battery_pipeline"]["tasks"] if name.startswith("models.")
    ]
    ran = [name for name in tasks if not re.match(SPARED, name)]
    assert built.out.count("Running command: ") == len(ran) > len(tasks) / 3
    files = [*lake.lake.glob("readings/*/*.parquet"), *lake.lake.glob("dead_letters/*/*.parquet")]
    for table, key in (("readings", "reading_id"), ("dead_letters", "dead_letter_id")):
        assert built.table(table, key).equals(lake.table(table, key)), table
    assert account["dead_letters"] > 20
    assert built.sql("SELECT count(*) FROM battery_cleaned") == [(account["written"],)]
    assert built.sql("SELECT count(*) FROM battery_features") == [(account["written"],)]
    assert built.sql(
        "SELECT sum(delivered_readings), sum(rejects) FROM data_quality_daily"
    ) == [(account["written"], account["dead_letters"])]  # fmt: skip
    assert built.sql("SELECT count(*) FROM dim_equipment") == [(8,)]
    assert built.sql("SELECT count(*) > 0 FROM battery_cycles") == [(True,)]
    assert built.sql(
        """SELECT interval_readings, interval_dead_letters, readings, dead_letters, lake_files
        FROM pipeline_runs"""
    ) == [(*[account["written"], account["dead_letters"]] * 2, len(files))]
    read = account["written"] + account["dead_letters"]
    assert f"arrived in the interval: read {read:,} = written {account['written']:,}" in built.out


def test_a_second_run_that_is_forced_changes_nothing(
    airflow: Airflow, lake: Ran, copy: Path
) -> None:
    before = tables(copy)
    # The models that add to what is there, and one that is made anew, show it for all.
    others = r"models\.(?!(battery_cleaned|battery_features|data_quality_daily)\.run$).*"
    forced = params(copy, lake.lake, force=True)
    done = airflow.dag_test("battery_pipeline", END.isoformat(), forced, without=others)
    assert done.returncode == 0, wrong(done)
    assert done.stdout.count("Running command: ") == 3
    after = tables(copy)
    assert {name for name in before if before[name] != after[name]} == set()
    assert before.keys() == after.keys()


def test_a_backfill_of_an_older_interval_keeps_an_account_and_then_nothing_is_new(
    airflow: Airflow, lake: Ran, copy: Path
) -> None:
    forced = params(copy, lake.lake, force=True)
    done = airflow.dag_test("battery_pipeline", START.isoformat(), forced, without=MODELS)
    assert done.returncode == 0, wrong(done)
    account = lake.account()["written"]
    with duckdb.connect(str(copy), read_only=True) as database:
        kept = database.execute(
            """SELECT epoch(interval_end)::INT, interval_readings, readings FROM pipeline_runs
            ORDER BY interval_end"""
        ).fetchall()
    assert kept == [
        (int(START.timestamp()), 0, account),
        (int(END.timestamp()), account, account),
    ]
    before = tables(copy)
    again = airflow.dag_test("battery_pipeline", END.isoformat(), params(copy, lake.lake))
    assert again.returncode == 0, wrong(again)
    assert "new: nothing" in again.stdout and "Running command: " not in again.stdout
    assert tables(copy) == before


def test_a_gate_that_closes_fails_the_run_and_tells_it(
    airflow: Airflow, lake: Ran, copy: Path, webhook: Webhook
) -> None:
    with duckdb.connect(str(copy)) as database:
        database.execute("DROP TABLE pipeline_runs")  # so all of it is new, and not yet judged
    strict = params(copy, lake.lake, max_dead_letter_share=0.001)
    done = airflow.dag_test(
        "battery_pipeline", END.isoformat(), strict, without=MODELS, environment=webhook.environment
    )
    assert done.returncode != 0 and states(done) == "failed"
    account = lake.account()
    arrived = account["written"] + account["dead_letters"]
    numbers = f"{account['dead_letters']:,} of {arrived:,} new messages are dead letters"
    assert numbers in done.stdout
    ((path, text),) = webhook.posted
    assert path == "/T000/B000/test"
    assert text.startswith("*battery_pipeline.quality_gate failed*\n") and numbers in text
    assert "allowed 0.1%" in text and "2024-06-01 12:00 to 2024-06-01 13:00 UTC" in text
    # What was not good is not on record, so the next run judges it again.
    assert "pipeline_runs" not in tables(copy)


def test_silence_skips_the_run_and_is_told(
    airflow: Airflow, lake: Ran, copy: Path, webhook: Webhook
) -> None:
    before = tables(copy)
    a_day_on = (END + timedelta(hours=24)).isoformat()
    done = airflow.dag_test(
        "battery_pipeline", a_day_on, params(copy, lake.lake), environment=webhook.environment
    )
    assert done.returncode == 0 and states(done) == "success", wrong(done)
    assert "Running command: " not in done.stdout
    ((_, text),) = webhook.posted
    assert text.startswith("*No new data*\nthe newest arrival is of 2024-06-01T12:")
    assert tables(copy) == before


def test_alerts_that_nobody_takes_are_logged_and_do_no_harm(
    airflow: Airflow, lake: Ran, copy: Path, tmp_path: Path
) -> None:
    strict = params(tmp_path / "new.duckdb", lake.lake)
    done = airflow.dag_test(
        "battery_pipeline", END.isoformat(), strict, without=MODELS,
        environment={"AIRFLOW_VAR_BATTERY_ALERT_CONNECTIONS": "not_there"},
    )  # fmt: skip
    # Models that were never built: the gate's question fails, which is told in the log.
    assert done.returncode != 0
    assert "ALERT battery_pipeline.quality_gate failed" in done.stdout
    assert "could not be sent over the connection not_there" in done.stdout


def test_the_batch_goes_through_kafka_into_the_warehouse(
    airflow: Airflow, kafka: Broker, tmp_path: Path
) -> None:
    warehouse = tmp_path / "batch.duckdb"
    given = {
        "machines": 5,
        "every_s": 30,
        "batch_topic": f"kafka://{kafka.bootstrap}/sensor_data_{tmp_path.name.replace('_', '-')}",
        "batch_warehouse": f"duckdb:{warehouse}",
        "batch_folder": str(tmp_path / "batch"),
    }

    def ran(at: datetime) -> dict[str, list[tuple[Any, ...]]]:
        done = airflow.dag_test("sensor_batch", at.isoformat(), given)
        assert done.returncode == 0, wrong(done)
        return tables(warehouse)

    first = ran(END)
    with duckdb.connect(str(warehouse), read_only=True) as database:
        database.execute("SET TimeZone = 'UTC'")
        assert database.execute(
            """SELECT count(*), count(DISTINCT equipment_id), count(DISTINCT equipment_type),
            min(recorded_at) >= '2024-06-01 12:00:00+00', max(recorded_at) < '2024-06-01 13:00:30+00'
            FROM readings"""
        ).fetchall() == [(600, 5, 1, True, True)]
    assert ran(END) == first
    second = ran(END + timedelta(hours=1))
    assert len(second["readings"]) == 1200
    assert all(row in second["readings"] for row in first["readings"])
