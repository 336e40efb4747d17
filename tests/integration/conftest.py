"""Services that the integration tests share: started once a session, when first asked for."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.services.engines import Prism
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
