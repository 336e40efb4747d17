"""python deploy/airflow/bundle.py: copies what the image needs of the project beside the Dockerfile.

Astro builds its image from this folder alone, so the project comes into it first.
"""

from __future__ import annotations

import shutil
from pathlib import Path

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parents[1]
FOLDERS = ("pipeline", "schemas", "transforms", "dbt_project")
FILES = ("setup.py", "pyproject.toml", "requirements.txt")


def bundle(target: Path) -> None:
    """Puts the project into `target`, in place of what is there."""
    shutil.rmtree(target, ignore_errors=True)
    leave = shutil.ignore_patterns("__pycache__", "target", "logs", ".user.yml", "*.egg-info")
    for name in FOLDERS:
        shutil.copytree(PROJECT / name, target / name, ignore=leave)
    for name in FILES:
        shutil.copy(PROJECT / name, target / name)


if __name__ == "__main__":
    bundle(HERE / "battery")
    print(f"{HERE / 'battery'} is there; go on with: cd {HERE} && astro dev start")
