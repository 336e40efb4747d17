"""The emulator, its proxies, and a dataset and a lake of its own for every test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from google.cloud import bigquery as api

from pipeline.sinks.base import outage, waiting
from pipeline.sinks.bigquery import patience
from tests.services.bigquery import BigQuery
from tests.services.faults import FaultyBigQuery
from tests.services.fixtures import set_environment
from tests.services.gcs import Gcs


@pytest.fixture
def emulator(bigquery: BigQuery) -> BigQuery:
    return bigquery


@pytest.fixture
def faulty(emulator: BigQuery) -> Iterator[FaultyBigQuery]:
    with FaultyBigQuery(emulator) as found:
        yield found


@pytest.fixture(autouse=True)
def surroundings(emulator: BigQuery, gcs: Gcs, monkeypatch: pytest.MonkeyPatch) -> None:
    set_environment(monkeypatch, {**gcs.environment, **emulator.environment})
    # An outage is waited out, but not slept out.
    monkeypatch.setattr(outage, "_FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(waiting, "FIRST_S", 0.0)
    monkeypatch.setattr(patience, "PATIENCE_S", 20.0)


@pytest.fixture
def through(faulty: FaultyBigQuery, monkeypatch: pytest.MonkeyPatch) -> FaultyBigQuery:
    """The proxies, by which everything goes."""
    set_environment(monkeypatch, faulty.environment)
    return faulty


@pytest.fixture
def dataset(emulator: BigQuery, client: api.Client) -> Iterator[str]:
    name = emulator.new_dataset()
    yield name
    # The more tables there are, the slower the emulator is.
    client.delete_dataset(name, delete_contents=True, not_found_ok=True)


@pytest.fixture
def lake(gcs: Gcs) -> str:
    return f"gs://{gcs.make_bucket()}/lake"


@pytest.fixture
def client(emulator: BigQuery) -> Iterator[api.Client]:
    with emulator.client() as client:
        yield client
