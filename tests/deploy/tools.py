"""Programs that look at what is deployed: checkov and its like in an environment of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.services import cache
from tests.services.environments import Environment
from tests.services.processes import Unavailable

# Their dependencies fight the project's.
_CHECKERS = (
    "checkov==3.3.30",
    "google-cloud-monitoring-dashboards==3.2.0",
    "promql-parser==0.12.0",
)


def checkers(timeout: float = 600) -> Path:
    """A Python that has checkov, Cloud Monitoring's dashboard message and a PromQL parser.

    Args:
        timeout: seconds that the installation may take, the first time.

    Raises:
        Unavailable: pip could not get them.
    """

    def fill(target: Path) -> None:
        Environment(target, "checkov", timeout).install(*_CHECKERS)

    return cache.folder("checkers-" + _CHECKERS[0].replace("==", "-"), fill) / "bin" / "python"


def program(name: str) -> str:
    """The path of a program that works here.

    Raises:
        Unavailable: it is not in PATH, or does not start.
    """
    found = shutil.which(name)
    if not found:
        raise Unavailable(f"no {name} in PATH")
    try:
        subprocess.run([found, "--version"], capture_output=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise Unavailable(f"{name} does not start ({error})") from None
    return found


def terraform(folder: Path, arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Runs Terraform in the folder, away from this machine's settings; its outcome, good or bad.

    Raises:
        Unavailable: there is no Terraform.
    """
    argv = [program("terraform"), arguments[0], "-no-color", *arguments[1:]]
    # A checkpoint would ask the internet whether there is a newer Terraform.
    settings = {
        "CHECKPOINT_DISABLE": "1",
        "TF_IN_AUTOMATION": "1",
        "TF_CLI_CONFIG_FILE": os.devnull,
    }
    return subprocess.run(
        argv, cwd=folder, env={**os.environ, **settings}, capture_output=True, text=True,
        timeout=120, stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip
