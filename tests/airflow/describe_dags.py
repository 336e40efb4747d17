"""Prints what Airflow makes of the DAGs, as JSON; runs in Airflow's environment."""

from __future__ import annotations

import json
import sys

from airflow.dag_processing.dagbag import DagBag

bag = DagBag(dag_folder=sys.argv[1])
answer = {"import_errors": bag.import_errors, "dags": {}}
for dag in bag.dags.values():
    dag.validate()
    answer["dags"][dag.dag_id] = {
        "timetable": f"{type(dag.timetable).__name__} {dag.timetable.expression}",
        "catchup": dag.catchup,
        "max_active_runs": dag.max_active_runs,
        "timeout_s": dag.dagrun_timeout.total_seconds(),
        "cycle_free": [task.task_id for task in dag.topological_sort()],
        "tasks": {
            task.task_id: {
                "owner": task.owner,
                "retries": task.retries,
                "backoff": bool(task.retry_exponential_backoff),
                "timeout_s": task.execution_timeout and task.execution_timeout.total_seconds(),
                "pool": task.pool,
                "alerts": bool(task.on_failure_callback),
                "upstream": sorted(task.upstream_task_ids),
            }
            for task in dag.tasks
        },
    }
print("\n" + json.dumps(answer))
