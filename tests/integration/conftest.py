"""Services that the integration tests share: started once a session, when first asked for."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.services.bigquery import BigQuery
from tests.services.cassandra import Node, cassandra_node
from tests.services.engines import Prism
from tests.services.gcs import Gcs
from tests.services.kafka import Broker, kafka_broker
from tests.services.processes import Unavailable
from tests.services.pubsub import PubSub


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A Kafka broker; a test that stops it starts it again."""
    try:
        broker = kafka_broker(tmp_path_factory.mktemp("kafka"))
    except Unavailable as reason:
        pytest.skip(str(reason))
    with broker:
        yield broker


@pytest.fixture(scope="session")
def pubsub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PubSub]:
    """The Pub/Sub emulator; tests put its `environment` into that of what they run."""
    emulator = PubSub(tmp_path_factory.mktemp("pubsub"))
    try:
        emulator.start()
    except Unavailable as reason:
        pytest.skip(str(reason))
    with emulator:
        yield emulator


@pytest.fixture(scope="session")
def prism(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prism]:
    """A Prism, built the first time; its `flags` bring a job to it."""
    engine = Prism(tmp_path_factory.mktemp("prism"))
    try:
        engine.start()
    except Unavailable as reason:
        pytest.skip(str(reason))
    with engine:
        yield engine


@pytest.fixture(scope="session")
def gcs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gcs]:
    """A fake Cloud Storage; tests put its `environment` into that of what they run."""
    storage = Gcs(tmp_path_factory.mktemp("gcs"))
    try:
        storage.start()
    except Unavailable as reason:
        pytest.skip(str(reason))
    with storage:
        yield storage


@pytest.fixture(scope="session")
def bigquery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BigQuery]:
    """A BigQuery emulator; tests put its `environment` into that of what they run."""
    emulator = BigQuery(tmp_path_factory.mktemp("bigquery"))
    try:
        emulator.start()
    except Unavailable as reason:
        pytest.skip(str(reason))
    with emulator:
        yield emulator


@pytest.fixture(scope="session")
def cassandra(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A Cassandra; tests put its `environment` into that of what they run."""
    try:
        node = cassandra_node(tmp_path_factory.mktemp("cassandra"))
    except Unavailable as reason:
        pytest.skip(str(reason))
    with node:
        yield node
