"""The functions of the DAGs, without Airflow: thresholds, addresses, commands."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from include import alerts, batch, commands, gate, settings

from pipeline.options import config_from, parse
from pipeline.publishing.options import publication
from tests.services.airflow import ASTRO

START = datetime(2024, 6, 1, 12, tzinfo=UTC)
END = START + timedelta(hours=1)


def found(readings: int = 900, letters: int = 100, **others: Any) -> dict[str, Any]:
    return {
        "readings": readings, "dead_letters": letters, "lake_files": 0, "lake_bytes": 0,
        "newest": "2024-06-01T12:40:00+00:00", "last": None,
        "interval": {"readings": 90, "dead_letters": 10},
    } | others  # fmt: skip


def quality(**others: Any) -> dict[str, Any]:
    return {"delivered": 900, "readings": 900, "flagged": 9, "days": "2024-06-01",
            "rejects_by_rule": "not_json=100"} | others  # fmt: skip


def totals(of: dict[str, Any]) -> dict[str, Any]:
    return {name: of[name] for name in gate.TOTALS}


def test_new_is_what_the_last_good_run_did_not_see() -> None:
    assert gate.new(found()) == "readings 0 → 900, dead letters 0 → 100"
    assert not gate.new(found(last=totals(found())))
    assert gate.new(found(901, last=totals(found()))) == "readings 900 → 901"
    assert gate.new(found(lake_files=1, last=totals(found()))) == "lake files 0 → 1"
    assert not gate.new(found(0, 0))


def test_dead_letters_are_judged_by_what_is_new() -> None:
    limits = gate.Thresholds(max_dead_letter_share=0.1)
    assert gate.problems(found(), quality(), limits, END) == []
    told = gate.problems(found(899, 101), quality(), limits, END)
    assert told == [
        "101 of 1,000 new messages are dead letters: 10.1%, allowed 10.0% (all so far: not_json=100)"
    ]
    before = totals(found(800, 100))
    assert gate.problems(found(899, 101, last=before), quality(), limits, END) == []
    assert gate.problems(found(801, 101, last=before), quality(), limits, END)


def test_models_that_lack_readings_close_the_gate() -> None:
    (told,) = gate.problems(found(901, 0), quality(), gate.Thresholds(), END)
    assert told.startswith("the models hold 900 of 901 readings")


def test_flags_and_age_close_the_gate() -> None:
    (told,) = gate.problems(found(letters=0), quality(flagged=451), gate.Thresholds(), END)
    assert "451 of 900 readings of 2024-06-01 are flagged: 50.1%, allowed 50.0%" in told
    late = END + timedelta(hours=24)
    (told,) = gate.problems(found(letters=0), quality(), gate.Thresholds(), late)
    assert "24.3 h before 2024-06-02T13:00:00+00:00, allowed 24 h" in told
    unlimited = gate.Thresholds(stale_after_hours=0)
    assert gate.problems(found(letters=0), quality(), unlimited, late) == []


def test_silence_is_told_once_for_every_limit_it_lasts() -> None:
    limits = gate.Thresholds(stale_after_hours=5)
    told = [
        hour
        for hour in range(-48, 17)
        if gate.alarm(
            found(), limits, START + timedelta(hours=hour), END + timedelta(hours=hour)
        )
    ]  # fmt: skip
    # The newest came at 12:40: 5 h later is within 17:00 to 18:00, five hours behind the first.
    assert told == [5, 10, 15]
    assert not gate.alarm(found(newest=None), limits, START, END + timedelta(days=9))
    assert not gate.alarm(found(), gate.Thresholds(stale_after_hours=0), START, END)


def test_the_account_balances() -> None:
    told = gate.account(found(last=totals(found(800, 100))))
    assert "read 100 = written 90 + dead letters 10" in told
    assert "read 1,000 = written 900 + dead letters 100" in told
    assert told.endswith("since the last good run: readings 800 → 900")


def test_a_warehouse_is_a_target_of_dbt() -> None:
    assert settings.dbt_environment("duckdb:/data/w.duckdb") == {
        "DBT_TARGET": "duckdb",
        "DUCKDB_PATH": "/data/w.duckdb",
    }
    assert settings.dbt_environment("md:battery") == {
        "DBT_TARGET": "motherduck",
        "MOTHERDUCK_DATABASE": "battery",
    }
    assert settings.dbt_environment("bigquery://project/dataset") == {
        "DBT_TARGET": "bigquery",
        "BIGQUERY_PROJECT": "project",
        "BIGQUERY_DATASET": "dataset",
    }
    profiles = yaml.safe_load((ASTRO.parents[1] / "dbt_project" / "profiles.yml").read_text())
    assert {"duckdb", "motherduck", "bigquery"} <= set(profiles["battery_pipeline"]["outputs"])


@pytest.mark.parametrize(
    "warehouse", ["", "duckdb:", "duckdb:relative/w.duckdb", "md:", "bigquery://p", "cassandra://h/k"]
)  # fmt: skip
def test_an_address_that_dbt_can_not_build_on_is_named(warehouse: str) -> None:
    with pytest.raises(settings.Wrong, match="warehouse="):
        settings.dbt_environment(warehouse)


def test_each_warehouse_is_loaded_by_its_own_command() -> None:
    assert commands.load("gs://b/lake", "bigquery://p/d")[1:] == [
        "-m", "pipeline.load", "--lake=gs://b/lake", "--warehouse=bigquery://p/d",
    ]  # fmt: skip
    assert commands.load("/lake", "duckdb:/w")[2] == "include.lake"


def test_a_command_that_fails_tells_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "HOME", tmp_path)
    said = commands.run([sys.executable, "-c", "print('one'); print('two')"])
    assert said == "one\ntwo\n"
    with pytest.raises(commands.CommandFailed, match=r"exit status 3\n(.*\n)*no such thing"):
        commands.run([sys.executable, "-c", "print('no such thing'); raise SystemExit(3)"])


def test_the_batchs_steps_are_commands_the_project_takes() -> None:
    steps = batch.Steps("/batch", "kafka://broker:9092/sensor_data", "duckdb:/w.duckdb", START, END)
    generated = config_from(parse(steps.generate(machines=4, every_s=60)[3:]))
    assert "readings=240" in generated.source and "start=2024-06-01T12:00:00Z" in generated.source
    assert generated.lake == "/batch/20240601T1200/generated"
    produced = publication(steps.produce()[3:])
    assert produced.job.source == "/batch/20240601T1200/generated/raw"
    assert produced.to == "kafka://broker:9092/sensor_data"
    consumed = config_from(parse(steps.consume()[3:]))
    assert consumed.until_latest and consumed.source.endswith("?group=sensor_batch")
    transformed = config_from(parse(steps.transform()[3:]))
    assert transformed.source == f"{consumed.lake}/raw"
    loaded = config_from(parse(steps.load()[3:]))
    assert loaded.source == f"{transformed.lake}/readings"
    assert list(loaded.warehouses) == ["duckdb:/w.duckdb"] and loaded.lake is None


def test_the_example_of_the_settings_is_about_what_there_is() -> None:
    example = yaml.safe_load((ASTRO / "airflow_settings.example.yaml").read_text())["airflow"]
    assert {pool["pool_name"] for pool in example["pools"]} == {settings.POOL}
    names = {variable["variable_name"] for variable in example["variables"]}
    assert names <= {f"battery_{name}" for name in settings.DEFAULTS}
    connections = {each["conn_id"]: each for each in example["connections"]}
    (listed,) = (
        variable["variable_value"]
        for variable in example["variables"]
        if variable["variable_name"] == "battery_alert_connections"
    )
    assert set(listed.split()) == set(connections)
    assert {each["conn_type"] for each in connections.values()} == set(alerts._CHANNELS)
    assert not any(each.get("conn_password") for each in connections.values())
