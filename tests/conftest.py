"""Services that tests share: started once a session, when first asked for."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import models
from tests.services import warm
from tests.services.bigquery import BigQuery
from tests.services.cassandra import Node, cassandra_node
from tests.services.engines import Prism
from tests.services.fixtures import started
from tests.services.gcs import Gcs
from tests.services.kafka import ApacheKafka, Broker, kafka_broker
from tests.services.pubsub import PubSub
from tests.services.s3 import S3

# Files that take a minute or more, the longest first. Processes share out whole files in the order
# of collection (`--no-loadscope-reorder`): a long one that began last would leave the others idle.
LONG_FILES = (
    "integration/test_kafka_live.py",
    "fuzz/doors/test_doors.py",
    "integration/test_side_by_side.py",
    "integration/test_hostile.py",
    "integration/test_engines.py",
    "integration/test_flink_cluster.py",
    "integration/test_pubsub_flink.py",
    "integration/test_flink_application.py",
    "integration/test_calce.py",
    "integration/test_models.py",
    "integration/bigquery/test_methods.py",
    "integration/test_bigquery_models.py",
    "integration/test_corrections.py",
    "integration/test_cassandra.py",
    "integration/test_google_cloud.py",
    "integration/test_kafka_truth.py",
    "integration/test_poison_live.py",
    "integration/test_publish.py",
    "pipeline/test_secrets_shown.py",
    "integration/test_dry_run.py",
    "integration/test_incremental_capacity.py",
    "integration/test_judgement.py",
    "integration/test_cyclers.py",
    "integration/test_resistance.py",
    "integration/test_knees.py",
    "integration/test_sampling.py",
)
# Whose tests the coverage of transforms and schemas comes from: their own alone have to reach what
# is demanded, with those of cutting files and a few whole jobs. Tracing slows all Python down, and
# other tests only pass through.
MEASURED = (
    "schemas/",
    "transforms/",
    "pipeline/sources/formats/test_cut.py",
    "integration/test_bad_input.py",
    "integration/test_runs.py",
)
_HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts long files first, then the rest of those that need services."""
    places = {name: place for place, name in enumerate(LONG_FILES)}

    def place(item: pytest.Item) -> tuple[int, bool]:
        name = item.path.relative_to(_HERE)
        return places.get(name.as_posix(), len(places)), name.parts[0] != "integration"

    items.sort(key=place)


def pytest_collection_finish() -> None:
    """Leaves what was imported to itself: looking through it took a tenth of the tests' time."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """Undoes that; modules in C complain of what is left over at the end."""
    gc.unfreeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Measures coverage only while tests of what is measured run."""
    coverage = item.config.pluginmanager.get_plugin("_cov")
    controller = coverage and coverage.cov_controller
    name = item.path.relative_to(_HERE).as_posix()
    if controller is None or name.startswith(MEASURED):
        return (yield)
    controller.pause()
    try:
        return (yield)
    finally:
        controller.resume()


@pytest.fixture(scope="session", autouse=True)
def dbt_apart(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Several test processes run dbt at the same time: each keeps what it compiled to itself.

    Models are built by a dbt that has its imports and the parsed project already.
    """
    folder = tmp_path_factory.mktemp("dbt")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DBT_TARGET_PATH", str(folder / "target"))
        patch.setenv("DBT_LOG_PATH", str(folder / "logs"))
        patch.setattr(models, "DBT", warm.Dbt())
        yield


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A Kafka broker; a test that stops it starts it again."""
    with started(kafka_broker, tmp_path_factory.mktemp("kafka")) as broker:
        yield broker


@pytest.fixture(scope="module")
def apache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApacheKafka]:
    """An Apache Kafka of a module's own, which its tests may stop; it keeps what it has."""
    with started(ApacheKafka, tmp_path_factory.mktemp("apache")) as broker:
        yield broker


@pytest.fixture(scope="session")
def pubsub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PubSub]:
    """The Pub/Sub emulator; tests put its `environment` into that of what they run."""
    with started(PubSub, tmp_path_factory.mktemp("pubsub")) as service:
        yield service


@pytest.fixture(scope="session")
def prism(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prism]:
    """A Prism, built the first time; its `flags` bring a job to it."""
    with started(Prism, tmp_path_factory.mktemp("prism")) as service:
        yield service


@pytest.fixture(scope="session")
def gcs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gcs]:
    """A fake Cloud Storage; tests put its `environment` into that of what they run."""
    with started(Gcs, tmp_path_factory.mktemp("gcs")) as service:
        yield service


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    """An S3; tests put its `environment` into that of what they run."""
    with started(S3, tmp_path_factory.mktemp("s3")) as service:
        yield service


@pytest.fixture(scope="session")
def bigquery(tmp_path_factory: pytest.TempPathFactory, gcs: Gcs) -> Iterator[BigQuery]:
    """A BigQuery emulator that loads from the fake Cloud Storage; as there."""
    folder = tmp_path_factory.mktemp("bigquery")
    with started(BigQuery, folder, gcs_root=gcs.root) as service:
        yield service


@pytest.fixture(scope="session")
def cassandra(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A Cassandra; tests put its `environment` into that of what they run."""
    with started(cassandra_node, tmp_path_factory.mktemp("cassandra")) as node:
        yield node
