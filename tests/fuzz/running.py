"""Writes exports, runs one job and one build of the models over all of them, and judges each."""

from __future__ import annotations

import itertools
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz.generate import write
from tests.fuzz.judge import Judge, Verdict
from tests.fuzz.truth import Export

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Outcome:
    """What a run gave.

    Attributes:
        verdicts: one per export.
        status: the job's exit status.
        out: what the job and the models printed.
        seconds: of writing, the job, the models and judging.
    """

    verdicts: list[Verdict]
    status: int
    out: str
    seconds: tuple[float, float, float, float]

    @property
    def silent(self) -> list[Verdict]:
        """Those that are wrong without a word."""
        return [verdict for verdict in self.verdicts if verdict.kind == "silently wrong"]

    @property
    def hides_refusals(self) -> bool:
        """Whether files gave nothing and the exit status doesn't say so."""
        return self.status == 0 and any(verdict.kind == "refused" for verdict in self.verdicts)


def run(exports: Iterable[Export], folder: Path) -> Outcome:
    """Runs the job over the exports, in a folder that is there and empty."""
    times = [time.monotonic()]
    source, warehouse = folder / "exports", folder / "fuzz.duckdb"
    source.mkdir()
    made = []
    for export in exports:
        write(export, source)
        made.append(export)
    times.append(time.monotonic())
    job = _run(
        "pipeline",
        "--runner=DirectRunner",
        f"--source={source}",
        "--lake=none",
        f"--warehouse=duckdb:{warehouse}",
        "--no_progress",
    )
    times.append(time.monotonic())
    if not warehouse.exists():
        raise RuntimeError(f"the job left no warehouse:\n{job.stderr[-2000:]}")
    models = _run("pipeline.models", f"--warehouse=duckdb:{warehouse}")
    times.append(time.monotonic())
    judge = Judge(warehouse)
    verdicts = [judge.judge(export) for export in made]
    times.append(time.monotonic())
    seconds = [later - earlier for earlier, later in itertools.pairwise(times)]
    out = "\n".join(
        text.strip() for one in (job, models) for text in (one.stdout, one.stderr[-2000:])
    )
    return Outcome(verdicts, job.returncode, out, (seconds[0], seconds[1], seconds[2], seconds[3]))


def _run(module: str, *flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", module, *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
