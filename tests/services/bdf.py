"""The Battery Data Format's own Python package, which says whether a file is valid; tests alone."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.services import cache
from tests.services.processes import Unavailable

# The first release that knows version 1.3 of the format. Apache-2.0; what it needs is BSD or MIT.
# The rest of what it imports is in the lock.
_PINS = (
    "batterydf==0.2.0rc2",
    "rdflib==7.6.0",
    "pint==0.25.3",
    "flexcache==0.3",
    "flexparser==0.4",
    "polars==2.1.0",
    "polars-runtime-32==2.1.0",
)
_TIMEOUT_S = 300.0

_VALIDATE = """
import json, sys, warnings
warnings.simplefilter("ignore")
import bdf
print(json.dumps([bdf.validate(path) for path in sys.argv[1:]], default=str))
"""
_READ = """
import json, sys, warnings
warnings.simplefilter("ignore")
import bdf
table, metadata = bdf.read(sys.argv[1])
cell, test = metadata.battinfo_cell.cell_instance, metadata.battinfo_test.test
print(json.dumps({"columns": table.columns, "rows": len(table), "cell": cell.name,
    "test": test.name, "started_at": test.started_at, "extras": metadata.extras}))
"""
_TERMS = """
import importlib.resources, json, rdflib
from rdflib.namespace import OWL, SKOS
text = (importlib.resources.files("bdf") / "data" / "bdf-ontology-snapshot.ttl").read_text()
graph = rdflib.Graph().parse(data=text, format="turtle")
terms = {}
for subject, label in graph.subject_objects(SKOS.prefLabel):
    others = [*graph.objects(subject, SKOS.altLabel), *graph.objects(subject, SKOS.hiddenLabel)]
    terms[str(subject)] = {
        "label": str(label), "others": sorted(map(str, others)),
        "deprecated": (subject, OWL.deprecated, None) in graph,
        "obligation": [str(o) for p, o in graph.predicate_objects(subject)
                       if str(p).endswith("#obligation")],
    }
version = [str(found) for found in graph.objects(None, OWL.versionInfo)]
print(json.dumps({"version": version, "terms": terms}))
"""


def validate(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """The package's report on each file.

    Raises:
        Unavailable: the package can't be had.
    """
    found: list[dict[str, Any]] = _run(_VALIDATE, *paths)
    return found


def read(path: Path) -> dict[str, Any]:
    """What the package reads of a file and the metadata file next to it."""
    found: dict[str, Any] = _run(_READ, path)
    return found


def ontology() -> dict[str, Any]:
    """The version of the ontology that the package brings, and its terms by their address."""
    found: dict[str, Any] = _run(_TERMS)
    return found


def _run(script: str, *arguments: Path) -> Any:
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(_package())},
        capture_output=True, text=True, timeout=_TIMEOUT_S, stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def _package() -> Path:
    """A folder with the package, apart from the project's own; filled the first time."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    digest = hashlib.sha256(" ".join(_PINS).encode()).hexdigest()[:8]
    return cache.folder(f"batterydf-python{version}-{digest}", _install)


def _install(target: Path) -> None:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
               "--no-deps", "--only-binary=:all:", "--target", str(target), *_PINS]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S,
                              stdin=subprocess.DEVNULL, check=False)  # fmt: skip
    except subprocess.TimeoutExpired:
        raise Unavailable(f"no batterydf: pip was not done within {_TIMEOUT_S:.0f} s") from None
    if done.returncode:
        raise Unavailable(f"no batterydf: {(done.stdout + done.stderr).strip()[-300:]}")
