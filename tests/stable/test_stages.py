"""Flink's operators are where the fingerprint says: Beam's own fuser is asked."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from tests.services.engines import flink_job_server
from tests.services.fixtures import available
from tests.services.processes import java
from tests.stable.fingerprint import SPLITTABLE, fingerprint
from tests.stable.graphs import CONFIGURATIONS, FLINK, built

pytestmark = [pytest.mark.integration, pytest.mark.long]

SOURCE = Path(__file__).with_name("Stages.java")
NAMES = [name for name, (engine, _) in CONFIGURATIONS.items() if engine == FLINK]


def test_fused_stages_begin_where_the_fingerprint_says(tmp_path: Path) -> None:
    jar = available(flink_job_server)
    graphs = {str(tmp_path / name): built(*CONFIGURATIONS[name]) for name in NAMES}
    for path, graph in graphs.items():
        Path(path).write_bytes(graph.proto.SerializeToString())
    argv = [java(17), "-cp", str(jar), str(SOURCE), *graphs]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=240, check=False)
    if "jdk.compiler" in done.stderr:
        pytest.skip("no Java compiler: a JDK is needed")
    assert not done.returncode, done.stderr
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    for path, graph in graphs.items():
        # Beam tells what it has made of a splittable step apart by a number.
        stages = {
            re.sub(r"(?<=/SplitAndSize)\d+$", "", stage): int(keeps)
            for where, stage, keeps in lines
            if where == path
        }
        found = fingerprint(graph)
        kept = {
            each["operator"]: len(each.get("states", ())) + len(each.get("timers", ()))
            for each in found["keeps"].values()
        }
        assert stages == {**dict.fromkeys(found["operators"], 0), **kept}
        kinds = Counter(each["kind"] for each in found["keeps"].values())
        assert kinds[SPLITTABLE] and kinds.total() > 5
