"""A live job whose lake is on Google Cloud Storage, under fire: killed, and with a failing server."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.endurance.failures import crashes
from tests.endurance.rig import Rig
from tests.pipeline.stores.faults import CUT, LOST, Faults
from tests.services.fixtures import set_environment
from tests.services.gcs import Gcs
from tests.services.kafka import Broker
from tests.services.processes import free_port

pytestmark = [pytest.mark.integration, pytest.mark.long]


def rig(broker: Broker, folder: Path, storage: Gcs, patch: pytest.MonkeyPatch) -> Rig:
    """One whose jobs have their lake in a bucket; what is in it is read from the fake's disk."""
    set_environment(patch, storage.environment)
    bucket = storage.make_bucket()
    return Rig(
        broker,
        folder,
        rate=500,
        window_s=2,
        pace=0.2,
        choose=random.Random(1),
        flags=(f"--lake=gs://{bucket}/the/lake", f"--checkpoint={folder / 'checkpoint.arrow'}"),
        lake=storage.root / bucket / "the" / "lake",
    )


def test_a_killed_job_goes_on_where_it_was(
    kafka: Broker, gcs: Gcs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with rig(kafka, tmp_path, gcs, monkeypatch) as on:
        assert crashes(on, kills=3) == {}
        assert not list(on.jobs[0].lake.rglob(".*"))


def test_a_storm_of_errors_costs_nothing(
    kafka: Broker, gcs: Gcs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    with Faults(port) as faults, Gcs(tmp_path / "storage", port, faults.url) as storage:
        with rig(kafka, tmp_path, storage, monkeypatch) as on:
            on.producer()
            job = on.job()
            on.reading()
            faults.plan(*[503, LOST, 429, CUT, LOST, 500] * 2, of="/upload/")
            on.until(lambda: not faults.left, 180, "the storm goes on")
            on.wait(10)
            assert on.finish(job) == {}
        assert "trying again" in job.err.read_text()
