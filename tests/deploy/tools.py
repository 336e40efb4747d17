"""Programs that look at what is deployed: checkov and its like in an environment of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.services import cache
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
        python = target / "bin" / "python"
        subprocess.run([sys.executable, "-m", "venv", str(target)], check=True, timeout=120)
        argv = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
                *_CHECKERS]  # fmt: skip
        try:
            done = subprocess.run(
                argv, capture_output=True, text=True, timeout=timeout, check=False
            )
        except subprocess.TimeoutExpired:
            raise Unavailable(f"pip was not done with checkov within {timeout:.0f} s") from None
        if done.returncode:
            raise Unavailable(f"pip could not get checkov: {done.stderr.strip()[-300:]}")

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
