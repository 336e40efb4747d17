"""The other tools, each in a Python environment of its own, made once and kept."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.services import cache
from tests.services.environments import Environment

_TOOLS = Path(__file__).with_name("tools")
# Each tool and what its script imports; not all that it asks for, such as its notebooks' and
# dashboards' needs. MIT, BSD-3-Clause, Apache-2.0 and MIT, in this order.
_PACKAGES = {
    "cellpy": (
        "cellpy==1.0.3",
        "flexcache==0.3",
        "flexparser==0.4",
        "markdown-it-py==4.3.0",
        "mdurl==0.1.2",
        "numexpr==2.14.2",
        "numpy==2.4.6",
        "pandas==2.3.3",
        "pint==0.25.3",
        "platformdirs==4.14.8",
        "pyarrow==26.0.1",
        "pygments==2.21.0",
        "python-box==8.0.0",
        "python-dateutil==4.0.0",
        "python-dotenv==1.2.4",
        "pytz==2026.6",
        "pyyaml==6.0.4",
        "rich==15.0.0",
        "ruamel.yaml==0.19.1",
        "scipy==1.17.1",
        "sqlalchemy==2.1.9",
        "typing-extensions==4.16.0",
        "tzdata==2026.6",
    ),
    "pyprobe": (
        "PyProBE-Data==2.6.1",
        "annotated-types==0.8.0",
        "anyio==4.16.0",
        "click==8.5.1",
        "cloudpickle==3.1.3",
        "contourpy==1.3.3",
        "cycler==0.12.1",
        "distinctipy==1.3.4",
        "fonttools==4.68.0",
        "idna==3.20",
        "kiwisolver==1.5.1",
        "loguru==0.7.3",
        "matplotlib==3.11.2",
        "narwhals==2.29.0",
        "numpy==2.4.6",
        "packaging==26.4",
        "pandas==3.1.1",
        "pillow==13.0.0",
        "plotly==7.1.0",
        "polars-runtime-32==1.44.2",
        "polars==1.44.2",
        "protobuf==7.36.2",
        "pydantic-core==2.50.5",
        "pydantic==2.14.4",
        "pyparsing==3.3.3",
        "python-dateutil==4.0.0",
        "python-multipart==0.0.34",
        "pyyaml==6.0.4",
        "scipy==1.17.1",
        "starlette==1.10.0",
        "streamlit==1.67.0",
        "threadpoolctl==3.8.0",
        "typing-extensions==4.16.0",
        "typing-inspection==0.4.5",
        "tzlocal==5.4.5",
    ),
    "beep": (
        "beep==2026.2.7",
        "boto3==1.44.8",
        "botocore==1.44.8",
        "h5py==3.16.0",
        "jmespath==1.1.0",
        "monty==2026.10.21",
        "numpy==2.4.6",
        "pandas==3.1.1",
        "python-dateutil==2.9.0.post0",
        "pytz==2026.6",
        "ruamel.yaml==0.19.1",
        "s3transfer==0.19.3",
        "scipy==1.17.1",
        "six==1.17.0",
        "tqdm==4.70.1",
        "urllib3==2.8.0",
        "watchtower==3.4.0",
    ),
    "rainflow": ("rainflow==3.2.0",),
}
TOOLS = tuple(_PACKAGES)
_INSTALL_S = 300.0
_RUN_S = 120.0


def version(tool: str) -> str:
    """The version of a tool that is compared with."""
    return _PACKAGES[tool][0].partition("==")[2]


def figures(tool: str, rows: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What a tool's script prints of a cycler's file.

    Args:
        tool: one of TOOLS.
        rows: the file.
        settings: what the script has to know in addition.

    Raises:
        Unavailable: the tool's environment can't be made.
    """
    script = _TOOLS / f"{tool}_figures.py"
    done = subprocess.run(
        [str(_python(tool)), str(script), str(rows), json.dumps(settings)],
        env={"PATH": "/usr/bin:/bin", "HOME": str(rows.parent), "PYTHONDONTWRITEBYTECODE": "1"},
        cwd=rows.parent, capture_output=True, text=True, timeout=_RUN_S,
        stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{tool}: {done.stderr[-3000:]}"
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _python(tool: str) -> Path:
    packages = _PACKAGES[tool]
    name = f"{sys.version_info.major}.{sys.version_info.minor}"
    digest = hashlib.sha256(" ".join(packages).encode()).hexdigest()[:8]

    def install(target: Path) -> None:
        Environment(target, tool, _INSTALL_S).install("--no-deps", "--only-binary=:all:", *packages)

    folder = cache.folder(f"{tool}-{version(tool)}-python{name}-{digest}", install)
    return folder / "bin" / "python"
