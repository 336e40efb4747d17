"""The live job on a Flink cluster of separate processes, in short: `make chaos ARGS=--engine=flink`."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from schemas import forms
from schemas.reading import READING
from tests.endurance import on_flink
from tests.endurance.on_flink import Cluster
from tests.endurance.rig import Rig
from tests.services.bigquery import BigQuery
from tests.services.cassandra import Node
from tests.services.engines import flink_job_server
from tests.services.fixtures import available, set_environment, started
from tests.services.gcs import Gcs
from tests.services.kafka import Broker

pytestmark = [pytest.mark.integration, pytest.mark.long]


def test_nothing_is_lost_or_doubled_whatever_is_killed(kafka: Broker, tmp_path: Path) -> None:
    available(flink_job_server)
    with (
        Rig(kafka, tmp_path, rate=500, window_s=2, pace=0.3, choose=random.Random(1)) as rig,
        Cluster(rig) as on,
    ):
        # Once each: TaskManager, worker, job server, JobManager, worker pool.
        assert on_flink.kills(on, times=5) == {}


def test_every_sink_while_a_store_is_away_and_a_worker_is_killed(
    kafka: Broker,
    bigquery: BigQuery,
    cassandra: Node,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    available(flink_job_server)
    with started(Gcs, tmp_path / "storage") as storage:
        # The bucket's comes last: BigQuery's names one of its own.
        for service in (cassandra, bigquery, storage):
            set_environment(monkeypatch, service.environment)
        bucket, dataset = storage.make_bucket(), bigquery.new_dataset()
        keyspace = cassandra.new_keyspace()
        flags = (
            f"--lake=gs://{bucket}/lake",
            f"--warehouse=bigquery://{bigquery.project}/{dataset}",
            f"--warehouse={cassandra.uri(keyspace)}",
        )
        with (
            Rig(
                kafka, tmp_path, rate=500, window_s=2, pace=0.3, choose=random.Random(1),
                flags=flags, lake=storage.root / bucket / "lake",
            ) as rig,
            Cluster(rig) as on,
        ):  # fmt: skip
            assert on_flink.store_away(on, storage) == {}
        messages = int(rig.figures["messages"])
        with bigquery.client() as client:
            query = (
                f"SELECT count(DISTINCT reading_id) AS n FROM {dataset}.readings "
                "WHERE recorded_at > '2000-01-01'"
            )
            ((in_bigquery,),) = [tuple(row) for row in client.query_and_wait(query)]
        with cassandra.session() as session:
            name = forms.cassandra_name(READING)
            ids = session.execute(f"SELECT reading_id FROM {keyspace}.{name}")
            in_cassandra = len({row.reading_id for row in ids})
    assert (in_bigquery, in_cassandra) == (messages, messages)
