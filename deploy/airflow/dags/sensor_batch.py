"""The hourly batch of simulated machines: generate → produce → consume → transform → load."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import CronDataIntervalTimetable, Param, dag, task
from include import batch, commands, settings, tasks

Context = Any


@dag(
    schedule=CronDataIntervalTimetable("0 * * * *", timezone="UTC"),
    start_date=datetime(2024, 1, 1, tzinfo=UTC),
    catchup=False,
    # The runs share a consumer group: one takes what is in the topic, and then the next.
    max_active_runs=1,
    dagrun_timeout=timedelta(hours=2),
    default_args=tasks.defaults(timedelta(minutes=30)),
    params={
        "machines": Param(10, type="integer", minimum=1, description="simulated machines"),
        "every_s": Param(60, type="number", minimum=0.1, maximum=3600, description="s a reading"),
        "faults": Param(0.0, type="number", minimum=0, maximum=1, description="share of faults"),
        "batch_topic": Param("", type="string", description="kafka://HOST:PORT/TOPIC or "
                             "empty: variable battery_batch_topic"),
        "batch_warehouse": Param("", type="string", description="duckdb:/PATH, cassandra://HOST/"
                                 "KEYSPACE, …; empty: variable battery_batch_warehouse"),
        "batch_folder": Param("", type="string", description="where the steps leave what the next "
                              "one takes; empty: variable battery_batch_folder"),
    },
    tags=["battery"],
    doc_md=__doc__,
)  # fmt: skip
def sensor_batch() -> None:
    """Five tasks, one command each."""

    def steps(context: Context) -> batch.Steps:
        params = context["params"]
        return batch.Steps(
            folder=settings.setting("batch_folder", params),
            topic=settings.setting("batch_topic", params),
            warehouse=settings.setting("batch_warehouse", params),
            start=context["data_interval_start"],
            end=context["data_interval_end"],
        )

    @task
    def generate(**context: Context) -> None:
        params = context["params"]
        commands.run(
            steps(context).generate(params["machines"], params["every_s"], params["faults"])
        )

    @task
    def produce(**context: Context) -> None:
        commands.run(steps(context).produce())

    @task
    def consume(**context: Context) -> None:
        commands.run(steps(context).consume())

    @task
    def transform(**context: Context) -> None:
        commands.run(steps(context).transform())

    @task(pool=settings.POOL)
    def load(**context: Context) -> None:
        commands.run(steps(context).load())

    generate() >> produce() >> consume() >> transform() >> load()


sensor_batch()
