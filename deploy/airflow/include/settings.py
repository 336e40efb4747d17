"""Where things are in this deployment, and what a warehouse's address means to dbt."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# The project and its own environment: Airflow's pins and Beam's fight, so they never share one.
HOME = Path(os.environ.get("BATTERY_HOME", "/usr/local/airflow/battery"))
PYTHON = os.environ.get("BATTERY_PYTHON", str(HOME / ".venv" / "bin" / "python"))
DBT = os.environ.get("BATTERY_DBT", str(Path(PYTHON).with_name("dbt")))
DBT_PROJECT = HOME / "dbt_project"
MANIFEST = Path(os.environ.get("BATTERY_MANIFEST", DBT_PROJECT / "target" / "manifest.json"))
# One slot: DuckDB lets one process write. Give the pool more on MotherDuck and BigQuery.
POOL = os.environ.get("BATTERY_POOL", "battery_warehouse")

# What a run takes when neither its parameters nor an Airflow variable say otherwise.
DEFAULTS = {
    "warehouse": "duckdb:/usr/local/airflow/data/warehouse.duckdb",
    "lake": "",
    "alert_connections": "",
    "batch_warehouse": "duckdb:/usr/local/airflow/data/warehouse.duckdb",
    "batch_topic": "kafka://localhost:9092/sensor_data",
    "batch_folder": "/usr/local/airflow/data/sensor_batch",
}


class Wrong(ValueError):
    """A parameter or variable that can't be used; the message names it and the fix."""


def setting(name: str, params: Mapping[str, Any] | None = None) -> str:
    """The run's own parameter, else the Airflow variable `battery_NAME`, else the default."""
    from airflow.sdk import Variable

    return str((params or {}).get(name) or Variable.get(f"battery_{name}", default=DEFAULTS[name]))


def dbt_environment(warehouse: str) -> dict[str, str]:
    """The variables that lead dbt's profile to a warehouse; DBT_TARGET names the target.

    Args:
        warehouse: `duckdb:PATH`, `md:DATABASE` or `bigquery://PROJECT/DATASET`.

    Raises:
        Wrong: the models can't be built there.
    """
    kind, _, place = warehouse.partition(":")
    place, _, _ = place.partition("?")
    project, _, dataset = place.removeprefix("//").partition("/")
    if kind == "duckdb" and Path(place).is_absolute():
        return {"DBT_TARGET": "duckdb", "DUCKDB_PATH": place}
    if kind == "md" and place:
        return {"DBT_TARGET": "motherduck", "MOTHERDUCK_DATABASE": place}
    if kind == "bigquery" and project and dataset:
        return {
            "DBT_TARGET": "bigquery",
            "BIGQUERY_PROJECT": project,
            "BIGQUERY_DATASET": dataset,
        }
    raise Wrong(
        f"warehouse={warehouse}: the models are built on duckdb:/ABSOLUTE/PATH, md:DATABASE or "
        "bigquery://PROJECT/DATASET; set the parameter or the variable battery_warehouse"
    )


def models_at(warehouse: str) -> dict[str, str]:
    """The same with what holds for all, for dbt as a task runs it.

    Unit tests look at the formulas, not at the data: they are for a change of the models.
    """
    always = {"DBT_EXCLUDE_RESOURCE_TYPES": "unit_test", "DO_NOT_TRACK": "1"}
    return dbt_environment(warehouse) | always
