"""The daily DAG: every data test of the models looks at everything, not at what changed alone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import CronDataIntervalTimetable, Param, dag, task
from include import commands, settings, tasks

Context = Any


@dag(
    schedule=CronDataIntervalTimetable("30 3 * * *", timezone="UTC"),
    start_date=datetime(2024, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    dagrun_timeout=timedelta(hours=6),
    default_args=tasks.defaults(timedelta(hours=5)) | {"pool": settings.POOL},
    params={
        "warehouse": Param("", type="string", description="duckdb:/PATH, md:DATABASE or "
                           "bigquery://PROJECT/DATASET; empty: variable battery_warehouse"),
    },
    tags=["battery"],
    doc_md=__doc__,
)  # fmt: skip
def battery_check() -> None:
    """One task, one command."""

    # Trying again makes the data no better.
    @task(retries=0)
    def check_everything(**context: Context) -> None:
        warehouse = settings.setting("warehouse", context["params"])
        commands.run(commands.project("pipeline.models", f"--warehouse={warehouse}", "--check=all"))

    check_everything()


battery_check()
