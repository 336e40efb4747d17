"""What a live job says on a real broker: what waits for whom, what each sink has, how it ends."""

from __future__ import annotations

import datetime as dt
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from kafka import KafkaProducer

from tests.endurance.processes import ROOT, Job
from tests.running import sql
from tests.services.kafka import Broker

pytestmark = [pytest.mark.integration, pytest.mark.long]

HOLDER = """
import duckdb, sys, time
while True:
    try:
        held = duckdb.connect(sys.argv[1], read_only=True)
        break
    except duckdb.Error:
        time.sleep(0.05)
print("has it", flush=True)
time.sleep(120)
"""


def send(kafka: Broker, topic: str, count: int, ago_s: float) -> None:
    """Readings of one cell, a second apart, the first so long ago."""
    began = time.time() - ago_s
    with KafkaProducer(**kafka.client_settings()) as producer:
        for at in range(count):
            when = dt.datetime.fromtimestamp(began + at, dt.UTC).isoformat()
            fields = {"equipment_id": "C1", "time": when, "voltage": 3.5 + at / 100, "current": 1.0}
            producer.send(topic, json.dumps(fields).encode(), b"C1")


def eventually(condition: Callable[[], object], job: Job, seconds: float = 90) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert job.runs and time.monotonic() < until, job.told + job.err.read_text()
        time.sleep(0.1)


def test_a_sink_that_waits_is_told_apart_from_windows_and_named(
    kafka: Broker, tmp_path: Path
) -> None:
    topic = kafka.new_topic("held")
    source = f"kafka://{kafka.bootstrap}/{topic}?group={topic}"
    send(kafka, topic, 20, ago_s=300)
    with Job("job", tmp_path, source, "--window=5") as job:
        eventually(lambda: "written 20, waiting 0 for their window, dup" in job.told, job)
        command = [sys.executable, "-c", HOLDER, str(job.warehouse)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
            assert holder.stdout is not None
            holder.stdout.readline()
            send(kafka, topic, 20, ago_s=200)
            waits = rf"for duckdb:{job.warehouse}, dup"
            eventually(lambda: re.search(waits, job.told), job)
            named = rf"{job.warehouse}: \S+ \(PID {holder.pid}\) keeps the file open; waiting for"
            eventually(lambda: re.search(named, job.err.read_text()), job)
            # What the sink does not have is not written.
            line = [text for text in job.told.splitlines() if re.search(waits, text)][-1]
            assert "written 20," in line
            holder.kill()
        eventually(lambda: "written 40, waiting 0 for their window, dup" in job.told, job)
        assert f"{job.warehouse}: goes on, after" in job.err.read_text()
        assert "Traceback" not in job.err.read_text()
        assert job.stop() == 0
        assert f"duckdb:{job.warehouse}: stored 40, already there 0" in job.told
        assert f"lake {job.lake}: stored 40, already there 0" in job.told
    assert sql(job.warehouse, "SELECT count(*) FROM readings") == [(40,)]
    # Another group reads the same once more: nothing is stored.
    again = Job("again", tmp_path, f"{source}2", "--window=5", "--until=latest")
    with again:
        assert again.wait() == 0
    assert f"duckdb:{job.warehouse}: stored 0, already there 40" in again.told


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_it_prepares_ends_in_order(
    kafka: Broker, tmp_path: Path, number: signal.Signals
) -> None:
    topic = kafka.new_topic("early")
    send(kafka, topic, 20, ago_s=300)
    source = f"kafka://{kafka.bootstrap}/{topic}?group={topic}"
    command = [
        sys.executable, "-m", "pipeline", f"--source={source}", f"--lake={tmp_path}/lake",
        f"--warehouse=duckdb:{tmp_path}/warehouse.duckdb", "--no_progress", "--metrics_port=0",
    ]  # fmt: skip
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("metrics: ")
        process.send_signal(number)
        told = process.communicate(timeout=120)[0]
    assert process.returncode == 0, told
    assert "Traceback" not in told
    # Before the source had started nothing was read; from then on it drains.
    assert "stopped before it began; nothing was read" in told or "read 20 = written 20 " in told


def test_a_checkpoint_s_folder_that_is_removed_ends_the_job_in_one_line(
    kafka: Broker, tmp_path: Path
) -> None:
    topic = kafka.new_topic("removed")
    source = f"kafka://{kafka.bootstrap}/{topic}?group={topic}"
    send(kafka, topic, 20, ago_s=300)
    with Job("job", tmp_path, source, "--window=5") as job:
        eventually(lambda: "written 20, waiting 0 for their window, dup" in job.told, job)
        shutil.rmtree(job.lake / ".checkpoint")
        send(kafka, topic, 20, ago_s=200)
        assert job.wait() == 1
    told = job.err.read_text()
    (line,) = [text for text in told.splitlines() if text.startswith("error: ")]
    assert f"{job.lake}/.checkpoint" in line and "put the folder back" in line
    assert "Traceback" not in told
    # What it says helps: nothing is lost and nothing comes twice.
    (job.lake / ".checkpoint").mkdir()
    again = Job("again", tmp_path, source, "--window=5", "--until=latest")
    with again:
        assert again.wait() == 0, again.err.read_text()
    assert sql(job.warehouse, "SELECT count(*), count(DISTINCT reading_id) FROM readings") == [
        (40, 40)
    ]


# With a patience of seconds instead of minutes.
IMPATIENT = """
import sys
from pipeline.sources import live
live._HUNG_S = 4.0
from pipeline.__main__ import main
sys.exit(main())
"""


def test_a_process_that_was_frozen_for_longer_than_its_patience_goes_on(
    kafka: Broker, tmp_path: Path
) -> None:
    topic = kafka.new_topic("frozen")
    send(kafka, topic, 20, ago_s=300)
    job = Job("job", tmp_path, f"kafka://{kafka.bootstrap}/{topic}?group={topic}", "--window=5")
    at = job._command.index("pipeline")
    job._command[at - 1 : at + 1] = ["-c", IMPATIENT]
    with job:
        eventually(lambda: "written 20, waiting 0 for their window, dup" in job.told, job)
        job.process.send_signal(signal.SIGSTOP)
        time.sleep(12)
        job.process.send_signal(signal.SIGCONT)
        send(kafka, topic, 20, ago_s=200)
        eventually(lambda: "written 40, waiting 0 for their window, dup" in job.told, job)
        assert job.stop() == 0, job.err.read_text()
    assert "Traceback" not in job.err.read_text()
