"""The hourly DAG: what is new, into the warehouse, through the models, past the gate, on record."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import CronDataIntervalTimetable, Param, dag, task
from cosmos import (
    DbtTaskGroup,
    ExecutionConfig,
    ExecutionMode,
    InvocationMode,
    LoadMode,
    ProfileConfig,
    ProjectConfig,
    RenderConfig,
    TestBehavior,
)
from include import alerts, commands, gate, settings, tasks

Context = Any


def point_at_warehouse(context: Context, operator: Any) -> None:
    """Leads a model's task to the warehouse of its run, before dbt's command is put together."""
    operator.env = settings.models_at(settings.setting("warehouse", context["params"]))
    operator.profile_config.target_name = operator.env["DBT_TARGET"]


@dag(
    # A timetable with data intervals: a cron string has none in Airflow 3.
    schedule=CronDataIntervalTimetable("0 * * * *", timezone="UTC"),
    start_date=datetime(2024, 1, 1, tzinfo=UTC),
    # What is new is measured against the last good run, so one run catches up on all that were
    # missed. A backfill of single intervals works, and skips what is built already.
    catchup=False,
    max_active_runs=1,
    dagrun_timeout=timedelta(hours=6),
    default_args=tasks.defaults(timedelta(hours=1)) | {"pool": settings.POOL},
    params={
        "warehouse": Param("", type="string", description="duckdb:/PATH, md:DATABASE or "
                           "bigquery://PROJECT/DATASET; empty: variable battery_warehouse"),
        "lake": Param("", type="string", description="the lake to load from; empty: variable "
                      "battery_lake, and without that the job writes the warehouse itself"),
        "force": Param(False, type="boolean", description="run although nothing is new"),
        "max_dead_letter_share": Param(0.05, type="number", minimum=0, maximum=1),
        "max_flagged_share": Param(0.5, type="number", minimum=0, maximum=1),
        "stale_after_hours": Param(24, type="number", minimum=0),
    },
    tags=["battery"],
    doc_md=__doc__,
)  # fmt: skip
def battery_pipeline() -> None:
    """Check → load → models → gate → account."""

    def state(context: Context) -> dict[str, Any]:
        lake = settings.setting("lake", context["params"])
        flags = commands.interval_flags(
            context["data_interval_start"], context["data_interval_end"]
        )
        return commands.ask(
            "state", settings.setting("warehouse", context["params"]), f"--lake={lake}", *flags
        )

    @task.short_circuit
    def check_for_new_data(**context: Context) -> bool:
        found, params = state(context), context["params"]
        interval = context["data_interval_start"], context["data_interval_end"]
        new = gate.new(found)
        print(f"new: {new or 'nothing'}")
        if not new and gate.alarm(found, gate.Thresholds.of(params), *interval):
            alerts.send("No new data", gate.stale(found, interval[1]))
        return bool(new) or params["force"]

    @task
    def load_lake(**context: Context) -> dict[str, Any]:
        lake = settings.setting("lake", context["params"])
        if lake:
            commands.run(commands.load(lake, settings.setting("warehouse", context["params"])))
        return state(context)

    models = DbtTaskGroup(
        group_id="models",
        project_config=ProjectConfig(
            dbt_project_path=settings.DBT_PROJECT, manifest_path=settings.MANIFEST
        ),
        profile_config=ProfileConfig(
            profile_name="battery_pipeline",
            target_name="duckdb",
            profiles_yml_filepath=settings.DBT_PROJECT / "profiles.yml",
        ),
        execution_config=ExecutionConfig(
            execution_mode=ExecutionMode.LOCAL,
            invocation_mode=InvocationMode.SUBPROCESS,
            dbt_executable_path=settings.DBT,
        ),
        render_config=RenderConfig(
            load_method=LoadMode.DBT_MANIFEST,
            test_behavior=TestBehavior.AFTER_EACH,
            # Tests of several models wait for all of them.
            should_detach_multiple_parents_tests=True,
            emit_datasets=False,
        ),
        operator_args={
            "install_deps": False,
            "interceptors": [point_at_warehouse],
            "should_store_compiled_sql": False,
        },
    )

    # Trying again makes the data no better.
    @task(retries=0)
    def quality_gate(found: dict[str, Any], **context: Context) -> None:
        start, end = context["data_interval_start"], context["data_interval_end"]
        warehouse = settings.setting("warehouse", context["params"])
        quality = commands.ask("quality", warehouse, *commands.interval_flags(start, end))
        told = gate.problems(found, quality, gate.Thresholds.of(context["params"]), end)
        if told:
            raise gate.QualityTooLow("; ".join(told))

    @task
    def log_account(found: dict[str, Any], **context: Context) -> str:
        flags = commands.interval_flags(
            context["data_interval_start"], context["data_interval_end"]
        )
        warehouse = settings.setting("warehouse", context["params"])
        commands.ask("record", warehouse, f"--state={commands.as_json(found)}", *flags)
        account = gate.account(found)
        print(account)
        return account

    loaded = load_lake()
    check_for_new_data() >> loaded >> models >> quality_gate(loaded) >> log_account(loaded)


battery_pipeline()
