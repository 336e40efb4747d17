"""--dry_run and what is found out before a job starts, on Dataflow too."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.running import run
from tests.services import warm
from tests.services.bigquery import BigQuery
from tests.services.gcs import Gcs
from tests.services.pubsub import PubSub

pytestmark = pytest.mark.integration

DISABLED = {
    "error": {
        "code": 403,
        "message": "Dataflow API has not been used in project 1 before or it is disabled.",
        "status": "PERMISSION_DENIED",
        "details": [{"reason": "SERVICE_DISABLED"}],
    }
}
FORBIDDEN = {
    "error": {
        "code": 403,
        "message": "(7d): Could not list jobs: dataflow.jobs.list denied",
        "status": "PERMISSION_DENIED",
    }
}


class Dataflow(ThreadingHTTPServer):
    """Answers as the Dataflow API does where it is asked for a page of jobs."""

    def __init__(self) -> None:
        self.answer: dict[str, object] = {}
        self.status = 200
        self.asked: list[str] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.asked.append(self.path)
                body = json.dumps(server.answer).encode()
                self.send_response(server.status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)


@pytest.fixture
def dataflow(monkeypatch: pytest.MonkeyPatch) -> Iterator[Dataflow]:
    server = Dataflow()
    monkeypatch.setenv("DATAFLOW_EMULATOR_HOST", f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def pipeline(*flags: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, with this environment over the one there is."""
    return subprocess.run(
        warm.command("pipeline", *flags),
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def steps(printed: str) -> list[str]:
    """The graph's step names."""
    graph = printed.split("\n\n")[1]
    return [line.split()[0] for line in graph.splitlines()]


def test_it_checks_prints_and_touches_nothing(tmp_path: Path) -> None:
    ran = run(tmp_path, "simulator:?readings=1000", "--dry_run", "--window=10")
    assert ran.status == 0, ran.err
    assert "window_us              10000000" in ran.out
    assert {"Decode", "Validate", "Order", "Enrich", "LakeReadings"} <= set(steps(ran.out))
    assert ran.out.endswith("everything is there; nothing was read or written\n")
    assert list(tmp_path.iterdir()) == []


def test_what_is_missing_is_told_as_without_it(tmp_path: Path) -> None:
    ran = run(tmp_path, tmp_path / "no.csv", "--dry_run")
    assert ran.status == 2
    assert ran.err.startswith("error: --source=")


def on_dataflow(bucket: str, *more: str) -> list[str]:
    return [
        "--dry_run",
        "--runner=DataflowRunner",
        "--project=test-project",
        "--region=us-central1",
        f"--temp_location=gs://{bucket}/tmp",
        "--sdk_container_image=example.test/pipeline:1",
        *more,
    ]


def test_a_job_for_dataflow_builds_pickles_and_keeps_its_step_names(
    dataflow: Dataflow, gcs: Gcs, pubsub: PubSub, bigquery: BigQuery
) -> None:
    topic = pubsub.new_topic()
    subscription = pubsub.new_subscription(topic).rpartition("/")[2]
    bucket, dataset = gcs.make_bucket(), bigquery.new_dataset()
    environment = {**pubsub.environment, **bigquery.environment, **gcs.environment}
    flags = on_dataflow(
        bucket,
        f"--source=pubsub://{pubsub.project}/{subscription}",
        f"--lake=gs://{bucket}/lake",
        f"--warehouse=bigquery://{bigquery.project}/{dataset}",
    )
    ran = pipeline(*flags, **environment)
    assert ran.returncode == 0, ran.stderr
    # A running job is updated by these names: a change of them is a change of the runbook.
    assert steps(ran.stdout) == STEPS, " ".join(steps(ran.stdout))
    assert dataflow.asked and dataflow.asked[0].startswith("/v1b3/projects/test-project/locations/")
    assert bigquery.client().list_tables(dataset).num_results == 0
    assert gcs.objects(bucket) == {}
    # The same with exactly-once delivery and with load jobs.
    for more in ("--bigquery_delivery=exactly_once", "--bigquery_method=file_loads"):
        assert pipeline(*flags, more, **environment).returncode == 0, more


STEPS = [
    "PubSub",
    "Pack",
    "Count",
    "Decode",
    "Validate",
    "Order",
    "Enrich",
    "EnrichSuperseded",
    "Summarise",
    "Doubts",
    "ArchivePieces",
    "ArchiveStreamGather",
    "ArchiveStreamStable",
    "ArchiveStream",
    "LakeSuperseded",
    "LakeReadingsDays",
    "LakeSupersededDays",
    "LakeReadingsPieces",
    "LakeReadingsGather",
    "LakeReadingsStable",
    "LakeReadings",
    "LakeTestDialectsDays",
    "LakeTestDialectsGather",
    "LakeTestDialectsStable",
    "LakeTestDialects",
    "LakeCyclesLiveDays",
    "LakeCyclesLiveGather",
    "LakeCyclesLiveStable",
    "LakeCyclesLive",
    "BigQuery_readings",
    "BigQuery_readings_superseded",
    "BigQuery_window_stats",
    "BigQuery_test_dialects",
    "BigQuery_cycles_live",
    "BigQuery_refused",
    "Dead",
    "LakeDeadLettersDays",
    "LakeDeadLettersGather",
    "LakeDeadLettersStable",
    "LakeDeadLetters",
    "BigQuery_dead_letters_fit",
    "BigQuery_dead_letters",
    "BigQuery_dead_letters_kept",
]


@pytest.mark.parametrize(
    ("flag", "gives", "says"),
    [
        ("--project", "", "--project: DataflowRunner needs it"),
        ("--region", "", "--region: DataflowRunner needs it"),
        ("--temp_location", "", "--temp_location: DataflowRunner needs it"),
        ("--temp_location", "/tmp/here", "must look like gs://BUCKET/PREFIX"),
        ("--temp_location", "gs://no-such-bucket/tmp", "there is no bucket no-such-bucket"),
        ("--region", "europe-west3", "the bucket lies in US-CENTRAL1 and --region=europe-west3"),
        ("--sdk_container_image", "", "the workers need this package"),
    ],
)
@pytest.mark.usefixtures("dataflow")
def test_what_dataflow_needs_is_named(gcs: Gcs, flag: str, gives: str, says: str) -> None:
    flags = [
        given
        for given in on_dataflow(gcs.make_bucket(), "--lake=none", "--warehouse=none")
        if given.partition("=")[0] != flag
    ]
    began = time.monotonic()
    environment = {**gcs.environment, "GOOGLE_CLOUD_PROJECT": ""}
    ran = pipeline(*flags, *([f"{flag}={gives}"] if gives else []), **environment)
    assert ran.returncode == 2
    assert ran.stderr.startswith("error: --"), ran.stderr
    assert flag in ran.stderr
    assert says in ran.stderr
    assert time.monotonic() - began < 30


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (DISABLED, "gcloud services enable dataflow.googleapis.com --project=test-project"),
        (FORBIDDEN, "roles/dataflow.developer"),
    ],
)
def test_an_api_that_may_not_be_used_is_told(
    dataflow: Dataflow, gcs: Gcs, answer: dict[str, object], says: str
) -> None:
    dataflow.answer, dataflow.status = answer, 403
    flags = on_dataflow(gcs.make_bucket(), "--lake=none", "--warehouse=none")
    ran = pipeline(*flags, **gcs.environment)
    assert ran.returncode == 2
    assert ran.stderr.startswith("error: --project=test-project: ")
    assert says in ran.stderr
