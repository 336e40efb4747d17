"""The whole way on Google Cloud's emulators: Pub/Sub to Cloud Storage and BigQuery to the models."""

from __future__ import annotations

import random
import subprocess
import threading
from pathlib import Path
from typing import Any

import duckdb
import grpc
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import models
from schemas.forms import arrow_schema
from schemas.reading import DEAD_LETTER, READING, WINDOW_STATS, Table
from tests.endurance.checks import Tables
from tests.endurance.processes import Job
from tests.endurance.rig import Rig
from tests.services import warm
from tests.services.bigquery import BigQuery
from tests.services.faults import FaultyBigQuery
from tests.services.fixtures import set_environment
from tests.services.gcs import Gcs
from tests.services.kafka import Broker
from tests.services.pubsub import PubSub
from tests.warehouses import KEYS, Dataset, File, differences

pytestmark = [pytest.mark.integration, pytest.mark.long]

READINGS = 2_000
# Messages that are no readings: no JSON, no voltage, out of bounds.
POISON = (b"\xff\xfe", b'{"equipment_id": "sim_cell_001", "time": 1717243200}',
          b'{"equipment_id": "sim_cell_001", "time": 1717243200, "voltage": 3700, "current": 1}')  # fmt: skip


@pytest.fixture
def cloud(
    gcs: Gcs, bigquery: BigQuery, pubsub: PubSub, monkeypatch: pytest.MonkeyPatch
) -> BigQuery:
    """BigQuery, with everything in the environment."""
    set_environment(monkeypatch, gcs.environment | bigquery.environment | pubsub.environment)
    return bigquery


def python(*argv: str) -> subprocess.CompletedProcess[str]:
    """A module of the project in a process of its own."""
    done = subprocess.run(
        warm.command(*argv), capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def rows(found: Dataset, table: Table) -> pa.Table:
    """The rows of a table in BigQuery, in the order of their key."""
    when = table.partition
    listed = found.sql(f"SELECT * FROM {table.name} WHERE {when} IS NOT NULL ORDER BY {table.key}")
    records = [dict(zip(table.names, row, strict=True)) for row in listed]
    return pa.Table.from_pylist(records, schema=arrow_schema(table))


def rows_here(file: Path, table: Table) -> pa.Table:
    """The same of a DuckDB file."""
    with duckdb.connect(str(file), read_only=True) as database:
        database.execute("SET TimeZone = 'UTC'")
        names = ", ".join(table.names)
        found = database.sql(f"SELECT {names} FROM {table.name} ORDER BY {table.key}")
        return found.to_arrow_table().cast(arrow_schema(table))


def in_lake(gcs: Gcs, bucket: str, folder: str) -> pa.Table:
    """All rows below a folder of the lake."""
    paths = sorted((gcs.root / bucket / "lake" / folder).rglob("*.parquet"))
    return pa.concat_tables([pq.read_table(path, partitioning=None) for path in paths])


def a_subscription(pubsub: PubSub) -> tuple[str, str]:
    """A topic and a subscription to it, as the job's and the publisher's flags name them."""
    topic = pubsub.new_topic()
    subscription = pubsub.new_subscription(topic)
    project, name = topic.split("/")[1], topic.rpartition("/")[2]
    return f"pubsub://{project}/{name}", f"pubsub://{project}/{subscription.rpartition('/')[2]}"


@pytest.mark.parametrize("method", ["storage_write", "file_loads", "streaming_inserts"])
def test_pubsub_to_storage_and_bigquery_to_the_models(
    method: str, cloud: BigQuery, gcs: Gcs, pubsub: PubSub, tmp_path: Path
) -> None:
    topic, subscription = a_subscription(pubsub)
    simulator = f"simulator:?equipment=6&interval=10&readings={READINGS}&faults=0.01"
    python("pipeline.publish", f"--source={simulator}", f"--to={topic}", "--no_progress")
    publisher = pubsub.publisher()
    name = f"projects/{pubsub.project}/topics/{topic.rpartition('/')[2]}"
    for payload in POISON:
        publisher.publish(name, payload).result(30)
    bucket = gcs.make_bucket()
    found, file = Dataset(cloud), tmp_path / "warehouse.duckdb"
    ran = python(
        "pipeline", f"--source={subscription}", "--until=latest", f"--lake=gs://{bucket}/lake",
        f"--warehouse={found.uri}", f"--warehouse=duckdb:{file}", f"--bigquery_method={method}",
        f"--checkpoint={tmp_path / 'checkpoint'}", "--no_progress",
    )  # fmt: skip

    assert f"read {READINGS + len(POISON):,} = written" in ran.stdout
    for table in (READING, WINDOW_STATS, DEAD_LETTER):
        here, there = rows_here(file, table), rows(found, table)
        assert here.num_rows >= len(POISON)
        assert there.equals(here), table.name
    written = in_lake(gcs, bucket, "readings")
    assert set(written["reading_id"].to_pylist()) == set(
        rows_here(file, READING)["reading_id"].to_pylist()
    )
    assert written.num_rows == rows_here(file, READING).num_rows
    assert in_lake(gcs, bucket, "raw").num_rows == READINGS + len(POISON)
    if method != "storage_write":
        return  # What the models see is the same.
    local = File.__new__(File)
    local.uri, local._path = f"duckdb:{file}", file
    for warehouse in (found.uri, local.uri):
        success, counts = models.build(warehouse)
        assert success, counts
    unlike = {each: differences(found.table(each), local.table(each)) for each in KEYS}
    assert not {each: told[:3] for each, told in unlike.items() if told}


def test_killed_jobs_and_a_bigquery_in_trouble_lose_and_double_nothing(
    cloud: BigQuery, gcs: Gcs, kafka: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket, found = gcs.make_bucket(), Dataset(cloud)
    with (
        FaultyBigQuery(cloud) as proxy,
        Rig(
            kafka, tmp_path, rate=300, window_s=2, pace=0.2, choose=random.Random(1),
            flags=(f"--lake=gs://{bucket}/lake", f"--warehouse={found.uri}",
                   f"--checkpoint={tmp_path / 'checkpoint'}"),
            lake=gcs.root / bucket / "lake",
        ) as rig,
    ):  # fmt: skip
        set_environment(monkeypatch, proxy.environment)
        storm = threading.Event()
        trouble = threading.Thread(target=_storm, args=(proxy, storm), daemon=True)
        trouble.start()
        rig.producer()
        job = rig.job()
        for _ in range(3):
            rig.until(job.has_read, 180, "the job reads nothing")
            rig.wait(rig.choose.uniform(5, 20))
            job.kill()
            job.start()
        rig.reading()
        storm.set()
        trouble.join()
        assert rig.finish(job) == {}
        assert sum(proxy.storage.done.values()) > 3
        _at_least_once(found, rig.tables(job))


def _storm(proxy: FaultyBigQuery, over: threading.Event) -> None:
    """Answers 503 and over quota, loses answers, cuts connections, until it is over."""
    kinds: list[dict[str, Any]] = [
        {"kind": "refuse", "code": grpc.StatusCode.UNAVAILABLE},
        {"kind": "lose"},
        {"kind": "refuse", "code": grpc.StatusCode.RESOURCE_EXHAUSTED, "inside": True},
        {"kind": "cut"},
    ]
    # By requests, not by time: the job waits longer and longer between its tries.
    planned = 0
    while not over.wait(0.2):
        if proxy.storage.done.total() == planned:
            kind = kinds[planned // 2 % len(kinds)]
            proxy.storage.plan(where="AppendRows", times=2, after=4, **kind)
            planned += 2
    proxy.storage.clear()


def _at_least_once(found: Dataset, expected: Tables) -> None:
    """Every reading is in BigQuery, and once for the models, which drop what came again."""
    with expected as tables:
        wanted = set(tables.sql("SELECT reading_id FROM readings"))
    held = found.sql("SELECT reading_id FROM readings WHERE recorded_at IS NOT NULL")
    assert {tuple(row) for row in held} == wanted
    success, counts = models.build(found.uri, "+battery_cleaned,resource_type:model")
    assert success, counts
    kept = found.sql("SELECT reading_id FROM battery_cleaned")
    assert len(kept) == len(wanted)
    assert {tuple(row) for row in kept} == wanted


def test_a_table_that_is_deleted_ends_the_job_and_the_next_run_goes_on(
    cloud: BigQuery, gcs: Gcs, kafka: Broker, tmp_path: Path
) -> None:
    bucket, found = gcs.make_bucket(), Dataset(cloud)
    flags = (f"--lake=gs://{bucket}/lake", f"--warehouse={found.uri}",
             f"--checkpoint={tmp_path / 'checkpoint'}")  # fmt: skip
    lake = gcs.root / bucket / "lake"
    with Rig(kafka, tmp_path, 300, window_s=2, pace=0.2, flags=flags, lake=lake) as rig:
        rig.producer()
        job = rig.job()
        rig.reading()
        cloud.client().delete_table(f"{found.name}.readings")
        assert job.wait(60) == 1
        assert "error: --warehouse=" in job.err.read_text()
        assert "readings" in job.err.read_text()
        job.start()
        rig.reading()
        # The other tables, the lake and the other warehouse never noticed.
        assert rig.finish(job) == {}
        _refilled(found, rig, job, lake, tmp_path)


def _refilled(found: Dataset, rig: Rig, job: Job, lake: Path, folder: Path) -> None:
    """The lake has what went with the table: read from there, the table is whole again."""
    with rig.tables(job) as tables:
        wanted = set(tables.sql("SELECT reading_id FROM readings"))
    assert not found.sql("SELECT dead_letter_id FROM dead_letters WHERE ingested_at IS NOT NULL")
    python("pipeline", f"--source={lake / 'readings'}", "--lake=none",
           f"--warehouse={found.uri}", "--no_progress")  # fmt: skip
    held = found.sql("SELECT DISTINCT reading_id FROM readings WHERE recorded_at IS NOT NULL")
    assert {tuple(row) for row in held} == wanted
