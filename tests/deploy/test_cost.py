"""The runbook's cost tables: the arithmetic's own, on bytes that the job still needs."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from kafka import KafkaConsumer, TopicPartition

from pipeline.publish import main as publish
from tests.running import run
from tests.services.kafka import Broker

DEPLOY = Path(__file__).parents[2] / "deploy"


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("cost", DEPLOY / "cost.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["cost"] = module
    spec.loader.exec_module(module)
    return module


cost = load()


def test_the_runbook_has_the_tables() -> None:
    assert cost.tables() in (DEPLOY / "RUNBOOK.md").read_text()


def test_the_example_in_the_runbook_adds_up() -> None:
    assert f"= ${cost.per_million()['Pub/Sub, published and delivered']:.3f}." in (
        DEPLOY / "RUNBOOK.md"
    ).read_text().replace("\n", " ")
    assert f"= ${cost.worker_hour():.3f} an hour" in (DEPLOY / "RUNBOOK.md").read_text()


def test_a_second_fleet_costs_by_its_readings() -> None:
    slow, fast = cost.Fleet(5000, 30), cost.Fleet(5000, 1)
    assert slow.monthly == pytest.approx(432e6)
    few, many = cost.monthly(slow), cost.monthly(fast)
    assert many["Storage Write API"] == pytest.approx(30 * few["Storage Write API"])
    assert cost.monthly(cost.Fleet(50_000, 1))["Dataflow workers (10)"] == pytest.approx(
        10 * few["Dataflow workers (1)"]
    )


def logical_bytes(table: pa.Table) -> float:
    """Bytes of a row as BigQuery bills them: strings 2 more than their length, nothing for NULL."""
    total = 0
    for column in table.columns:
        present = len(column) - column.null_count
        if pa.types.is_list(column.type):
            words = pc.list_flatten(column)
            total += 2 * len(words) + (pc.sum(pc.binary_length(words)).as_py() or 0)
        elif pa.types.is_string(column.type) or pa.types.is_binary(column.type):
            total += 2 * present + (pc.sum(pc.binary_length(column)).as_py() or 0)
        else:
            total += present if pa.types.is_boolean(column.type) else 8 * present
    return total / table.num_rows


@pytest.mark.integration
@pytest.mark.long
def test_a_reading_takes_the_bytes_that_the_tables_reckon_with(
    kafka: Broker, tmp_path: Path
) -> None:
    readings = 100_000
    topic = kafka.new_topic(partitions=2)
    fleet = f"simulator:?equipment=50&interval=1&readings={readings}&faults=0"
    address = f"kafka://{kafka.bootstrap}/{topic}"
    assert publish([f"--source={fleet}", f"--to={address}", "--order=time"]) == 0
    with KafkaConsumer(**kafka.client_settings(), consumer_timeout_ms=5000) as consumer:
        consumer.assign([TopicPartition(topic, partition) for partition in range(2)])
        consumer.seek_to_beginning()
        first = [next(consumer) for _ in range(1000)]
    message = sum(len(one.value) + len(one.key) for one in first) / len(first)

    ran = run(tmp_path, address, "--until=latest")
    assert ran.account()["written"] == readings
    stored = {
        folder: sum(path.stat().st_size for path in (ran.lake / folder).rglob("*.parquet"))
        for folder in ("raw", "readings")
    }
    table = pa.concat_tables(
        [pq.read_table(path) for path in (ran.lake / "readings").rglob("*.parquet")]
    )
    measured = {
        "MESSAGE": message,
        "RAW": stored["raw"] / readings,
        "PARQUET": stored["readings"] / readings,
        "ARROW": table.nbytes / readings,
        "LOGICAL": logical_bytes(table),
    }
    assert measured == {name: pytest.approx(getattr(cost, name), rel=0.2) for name in measured}
