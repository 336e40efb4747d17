"""Services that tests share: started once a session, when first asked for."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.services.bigquery import BigQuery
from tests.services.cassandra import Node, cassandra_node
from tests.services.engines import Prism
from tests.services.fixtures import started
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
    yield from started(PubSub(tmp_path_factory.mktemp("pubsub")))


@pytest.fixture(scope="session")
def prism(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prism]:
    """A Prism, built the first time; its `flags` bring a job to it."""
    yield from started(Prism(tmp_path_factory.mktemp("prism")))


@pytest.fixture(scope="session")
def gcs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gcs]:
    """A fake Cloud Storage; tests put its `environment` into that of what they run."""
    yield from started(Gcs(tmp_path_factory.mktemp("gcs")))


@pytest.fixture(scope="session")
def bigquery(tmp_path_factory: pytest.TempPathFactory, gcs: Gcs) -> Iterator[BigQuery]:
    """A BigQuery emulator that loads from the fake Cloud Storage; as there."""
    yield from started(BigQuery(tmp_path_factory.mktemp("bigquery"), gcs_root=gcs.root))


@pytest.fixture(scope="session")
def cassandra(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A Cassandra; tests put its `environment` into that of what they run."""
    try:
        node = cassandra_node(tmp_path_factory.mktemp("cassandra"))
    except Unavailable as reason:
        pytest.skip(str(reason))
    with node:
        yield node
