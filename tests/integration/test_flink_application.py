"""The job's jar on Flink as deploy/flink has it run: from a bucket, stopped, resumed, rescaled."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pyarrow.parquet as pq
import pytest
import yaml

from pipeline.publish import main as publish
from tests.services.engines import flink_whole_job_server
from tests.services.fixtures import available, set_environment, started
from tests.services.flink import WorkerPool
from tests.services.flink_application import Application, flink_jars
from tests.services.flink_application import workers as pool_of_workers
from tests.services.kafka import Broker
from tests.services.s3 import S3

pytestmark = [pytest.mark.integration, pytest.mark.long, pytest.mark.timeout(1200)]

DEPLOY = Path(__file__).parents[2] / "deploy" / "flink"
LAUNCH = yaml.safe_load((DEPLOY / "launch.yaml").read_text())
FLAGS = LAUNCH["spec"]["template"]["spec"]["containers"][0]["args"]
SETTINGS = yaml.safe_load((DEPLOY / "battery.yaml").read_text())["spec"]["flinkConfiguration"]
# Kubernetes' own, and a reporter that comes with Flink's image.
ELSEWHERE = ("kubernetes.", "high-availability.", "metrics.reporter.")
STATE = "battery-state"
READINGS = 30_000
PARTITIONS = 4
# Whoever waits longer waits in vain, on a busy machine too.
SECONDS = 240


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[WorkerPool]:
    with started(pool_of_workers, tmp_path) as pool:
        yield pool


def written(s3: S3, workers: WorkerPool, flags: dict[str, str]) -> str:
    """Writes the job as launch.yaml does, but for the flags; returns the jar's address."""
    given = {
        **dict(flag.partition("=")[::2] for flag in FLAGS),
        "--flink_job_server_jar": str(available(flink_whole_job_server)),
        "--environment_config": f"127.0.0.1:{workers.port}",
        "--checkpointing_interval": "2000",
        **flags,
    }
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", *(
            f"{name}={value}" if value else name for name, value in given.items()
        )],
        capture_output=True, text=True, timeout=SECONDS, check=False,
    )  # fmt: skip
    jar = given["--output_executable_path"]
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"the job is written to {jar}; nothing was read\n"
    return jar


def application(
    folder: Path, jar: str, s3: S3, parallelism: int, savepoint: str | None = None
) -> Application:
    """The jar on a cluster with battery.yaml's own settings."""
    settings = {name: value for name, value in SETTINGS.items() if not name.startswith(ELSEWHERE)}
    settings |= {
        "s3.endpoint": s3.url,
        "parallelism.default": parallelism,
        # Here one TaskManager has them all.
        "taskmanager.numberOfTaskSlots": parallelism,
    }
    if savepoint is not None:
        settings["execution.savepoint.path"] = savepoint
    return Application(folder, jar, settings, s3.environment)


def rows(lake: Path, folder: str, column: str) -> list[str]:
    found: list[str] = []
    for path in (lake / folder).rglob("*.parquet"):
        found += pq.read_table(path, columns=[column]).column(column).to_pylist()
    return found


def until(holds: Callable[[], bool], what: str, log: Callable[[], Any] = str) -> None:
    ends = time.monotonic() + SECONDS
    while not holds():
        assert time.monotonic() < ends, f"{what} within {SECONDS} s; {log()}"
        time.sleep(0.5)


def send(broker: Broker, topic: str, position: Path, *flags: str) -> None:
    simulator = f"simulator:?equipment=200&readings={READINGS}&interval=1"
    assert publish([f"--source={simulator}", f"--to=kafka://{broker.bootstrap}/{topic}",
                    "--order=time", f"--resume={position}", "--no_progress", *flags]) == 0  # fmt: skip


def test_the_jar_is_stopped_changed_and_resumed_with_another_parallelism(
    kafka: Broker, s3: S3, workers: WorkerPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    available(flink_jars)
    set_environment(monkeypatch, s3.environment)
    boto3.client("s3").create_bucket(Bucket=STATE)
    topic = kafka.new_topic("flink", PARTITIONS)
    dead = kafka.new_topic("dead")
    lake = tmp_path / "lake"
    flags = {
        "--source": f"kafka://{kafka.bootstrap}/{topic}?group={topic}",
        "--lake": str(lake),
        "--warehouse": "none",
        "--window": "10",
        "--lake_file_wait": "2",
    }
    send(kafka, topic, tmp_path / "sent", "--limit=15000")
    first = written(s3, workers, flags)
    with application(tmp_path / "first", first, s3, parallelism=2) as run:
        until(lambda: bool(rows(lake, "readings", "reading_id")), "readings",
              lambda: run.parts[0].log.read_text()[-3000:])  # fmt: skip
        savepoint = run.stopped()
    assert savepoint.startswith(f"s3://{STATE}/savepoints/")
    before = len(rows(lake, "readings", "reading_id"))

    # A changed job: dead letters go to a topic, too.
    send(kafka, topic, tmp_path / "sent")
    changed = {"--output_executable_path": f"s3://{STATE}/jars/battery-2.jar",
               "--dead_letter_topic": f"kafka://{kafka.bootstrap}/{dead}"}  # fmt: skip
    second = written(s3, workers, {**flags, **changed})
    assert second != first
    with application(tmp_path / "second", second, s3, 1, savepoint) as run:
        until(lambda: len(rows(lake, "readings", "reading_id")) >= READINGS, "all readings",
              lambda: run.parts[0].log.read_text()[-3000:])  # fmt: skip
        assert before < READINGS
        until(lambda: committed(kafka, topic) == READINGS, "all committed")
        run.stopped()
    ids, positions = rows(lake, "readings", "reading_id"), rows(lake, "raw", "position")
    assert len(ids) == len(set(ids)) == READINGS
    assert len(positions) == len(set(positions)) == READINGS


def committed(broker: Broker, group: str) -> int:
    """The sum of the group's offsets."""
    with broker.admin() as admin:
        found = admin.list_group_offsets({group: None})[group]
    return sum(each.offset for each in found.values())
