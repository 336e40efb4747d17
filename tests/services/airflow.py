"""Airflow for tests: the pinned version in an environment of its own, on SQLite."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.services import cache
from tests.services.environments import Environment

PROJECT = Path(__file__).parents[2]
ASTRO = PROJECT / "deploy" / "airflow"
_CONSTRAINTS = ASTRO / "constraints.txt"
_REQUIREMENTS = ASTRO / "requirements.txt"
# What the image of Astro brings along.
_RUNTIME = ("apache-airflow", "apache-airflow-providers-smtp")


@dataclass
class Airflow:
    """An Airflow with the DAGs of deploy/airflow; no scheduler, `dags test` needs none.

    Attributes:
        home: holds its database, its log and what Cosmos keeps.
        environment: what every call of it gets besides this process's environment.
    """

    home: Path
    environment: dict[str, str] = field(default_factory=dict)

    def prepare(self) -> None:
        """Makes the database and the dbt manifest that the DAGs are built from.

        Raises:
            Unavailable: the environment can't be had.
        """
        self.home.mkdir(parents=True, exist_ok=True)
        self.environment |= {
            "AIRFLOW_HOME": str(self.home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(ASTRO / "dags"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__COSMOS__CACHE_DIR": str(self.home / "cosmos"),
            "AIRFLOW__COSMOS__ENABLE_TELEMETRY": "False",
            "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
            "BATTERY_HOME": str(PROJECT),
            "BATTERY_MANIFEST": str(self.home / "target" / "manifest.json"),
            "BATTERY_PYTHON": sys.executable,
            "PYTHONPATH": str(ASTRO),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        dbt = [sys.executable, "-m", "dbt.cli.main", "parse", "--target-path", self.home / "target",
               "--log-path", self.home / "dbt", "--project-dir", PROJECT / "dbt_project",
               "--profiles-dir", PROJECT / "dbt_project"]  # fmt: skip
        subprocess.run(dbt, check=True, capture_output=True, timeout=300)
        migrated = self.run("db", "migrate")
        assert migrated.returncode == 0, migrated.stdout

    def run(
        self, *arguments: str, environment: Mapping[str, str] | None = None, timeout: float = 1500
    ) -> subprocess.CompletedProcess[str]:
        """`airflow ARGUMENTS`; its outcome, with all it said as output and in `airflow.log`."""
        # Cosmos looks for what dbt compiled where it has told dbt to leave it.
        surroundings = {k: v for k, v in os.environ.items() if not k.startswith("DBT_")}
        done = subprocess.run(
            [str(python()), "-m", "airflow", *arguments],
            env={**surroundings, **self.environment, **(environment or {})},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout,
            stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
        with (self.home / "airflow.log").open("a") as log:
            log.write(done.stdout)
        return done

    def dag_test(
        self,
        dag: str,
        at: str,
        params: Mapping[str, Any] | None = None,
        without: str = "",
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """One run of a DAG, without a scheduler.

        Args:
            dag: its id.
            at: the end of its data interval.
            params: the run's parameters.
            without: tasks that count as done, as a regular expression.
            environment: Airflow's variables and connections, as it takes them.
        """
        arguments = ["dags", "test", dag, at, f"--conf={json.dumps(dict(params or {}))}"]
        arguments += [f"--mark-success-pattern={without}"] if without else []
        return self.run(*arguments, environment=environment)


def python(timeout: float = 1200) -> Path:
    """The interpreter that has Airflow, Cosmos and the providers; installed the first time.

    Args:
        timeout: seconds that each step, such as pip's, may take.

    Raises:
        Unavailable: pip could not get them.
    """
    pins = _CONSTRAINTS.read_text() + _REQUIREMENTS.read_text()
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    digest = hashlib.sha256(pins.encode()).hexdigest()[:8]
    name = f"airflow-python{version}-{digest}"
    return cache.folder(name, lambda target: _install(target, timeout)) / "bin" / "python"


def _install(target: Path, timeout: float) -> None:
    made = Environment(target, "Airflow", timeout)
    made.install("--no-compile", "--only-binary=:all:", f"--constraint={_CONSTRAINTS}",
                 f"--requirement={_REQUIREMENTS}", *_RUNTIME)  # fmt: skip
    # Where Python may not write bytecode later, every command would take 10 s more.
    made.run("-m", "compileall", "-q", "-j", "0", str(target / "lib"), check=False)
