"""What Astro builds its image from: everything there, pinned, and nothing secret."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

from tests.services.airflow import ASTRO, PROJECT


def test_the_bundle_is_a_project_that_installs(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("bundle", ASTRO / "bundle.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    target = tmp_path / "battery"
    for _ in range(2):
        module.bundle(target)
        (target / "left_over").touch()
    module.bundle(target)
    ours = {"pipeline", "schemas", "transforms", "dbt_project"}
    assert {path.name for path in target.iterdir()} == ours | {
        "setup.py", "pyproject.toml", "requirements.txt",
    }  # fmt: skip
    for name in ours:
        wanted = {path.relative_to(PROJECT) for path in (PROJECT / name).rglob("*.py")}
        assert wanted == {path.relative_to(target) for path in (target / name).rglob("*.py")}
    assert not list(target.rglob("__pycache__")) and not (target / "dbt_project/target").exists()


def pins(name: str) -> dict[str, str]:
    lines = (ASTRO / name).read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def test_the_image_takes_the_versions_that_are_tested() -> None:
    tested, taken = pins("constraints.txt"), pins("requirements.txt")
    assert taken.items() <= tested.items()
    assert tested["apache-airflow"].startswith("3.3.")
    runtime = re.search(r"^FROM \S+/runtime:(\d+\.\d+)-\d+-python-(\S+)$",
                        (ASTRO / "Dockerfile").read_text(), re.MULTILINE)  # fmt: skip
    # The runtime's first two numbers are Airflow's; the Python is the one the lock file is for.
    assert runtime and runtime[1] == "3.3" and runtime[2] == "3.11"


def test_what_the_image_runs_is_in_the_bundle() -> None:
    dockerfile = (ASTRO / "Dockerfile").read_text()
    assert "--requirement=requirements.txt" in dockerfile and "dbt_project" in dockerfile
    assert f"BATTERY_HOME={'/usr/local/airflow/battery'}" in dockerfile
    ignored = (ASTRO / ".dockerignore").read_text().split()
    assert "airflow_settings.yaml" in ignored and ".env" in ignored
    assert "battery" not in ignored
