"""The runbook's cost tables: the arithmetic's own, on what the job still needs."""

from __future__ import annotations

import gc
import importlib
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from kafka import KafkaConsumer, TopicPartition

from pipeline.engines import checkpointed, stable
from pipeline.options import config_from, parse
from pipeline.publish import main as publish
from pipeline.sinks.lake import sink
from pipeline.sinks.lake.tables import READINGS, write_day
from pipeline.sources.live.reader import disorder_us
from pipeline.stores import store_at
from schemas import profiles
from tests.running import run
from tests.services.kafka import Broker
from transforms.batch import MESSAGES, BatchKind, Origin, PackedBatch, RawBatch, stack
from transforms.decode import decode
from transforms.decoded import Decoded
from transforms.enrich import enrich
from transforms.limits import Limits
from transforms.order import by_shard
from transforms.sequence import NOTHING_RECENT, sequence
from transforms.validate import validate

DEPLOY = Path(__file__).parents[2] / "deploy"


# Scripts that find each other by being in one folder.
with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(str(DEPLOY / "cost"))
    limits, measured, month, scale = (
        importlib.import_module(name) for name in ("limits", "measured", "month", "scale")
    )


@pytest.mark.parametrize("table", [month.tables, scale.tables, limits.table])
def test_the_runbook_has_the_tables(table: Callable[[], str]) -> None:
    assert table() in (DEPLOY / "RUNBOOK.md").read_text()


def test_the_command_prints_them() -> None:
    done = subprocess.run(
        [sys.executable, str(DEPLOY / "cost")], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"{month.tables()}\n\n{scale.tables()}\n\n{limits.table()}\n"


def test_the_example_in_the_runbook_adds_up() -> None:
    assert f"= ${month.per_million()['Pub/Sub, published and delivered']:.3f}." in (
        DEPLOY / "RUNBOOK.md"
    ).read_text().replace("\n", " ")
    assert f"= ${month.worker_hour():.3f} an hour" in (DEPLOY / "RUNBOOK.md").read_text()


def test_a_second_fleet_costs_by_its_readings() -> None:
    slow, fast = month.Fleet(5000, 30), month.Fleet(5000, 1)
    assert slow.monthly == pytest.approx(432e6)
    few, many = month.monthly(slow), month.monthly(fast)
    assert many["Storage Write API"] == pytest.approx(30 * few["Storage Write API"])
    assert month.monthly(month.Fleet(50_000, 1))["Dataflow workers (10)"] == pytest.approx(
        10 * few["Dataflow workers (1)"]
    )


# --- beyond one machine ---------------------------------------------------------------------------


def test_the_jobs_settings_are_those_that_are_reckoned_with() -> None:
    given = config_from(parse(["--source=kafka://host:9092/topic"]))
    assert (
        given.window_us / 1e6,
        given.allowed_lateness_us / 1e6,
    ) == (scale.WINDOW, scale.LATENESS)
    assert disorder_us("kafka://host/topic", None) == scale.DISORDER * 1e6
    assert (given.lake_file_wait_s, sink._MOST_BYTES) == (scale.FILE_WAIT, scale.FILE)
    assert scale.PARTS == sink._SPREAD
    assert (limits.HOLD * 1e6, scale.ROUNDS) == (stable._LONGEST_US, checkpointed.ROUNDS)
    launched = (DEPLOY / "flink" / "launch.yaml").read_text()
    assert f"--checkpointing_interval={scale.CHECKPOINT}000\n" in launched


def test_a_job_is_as_large_as_its_pieces_allow() -> None:
    most = scale.largest()
    assert scale.cpu(most) <= 2 * measured.CPU < scale.cpu(most + 1)
    assert limits.limits()[0].rate == pytest.approx(scale.rate_of(most))
    jobs, job = scale.shared(scale.rate_of(most) * 2.5)
    assert jobs == 3 and job.task_managers <= most
    assert scale.rate_of(job.task_managers) >= job.rate > scale.rate_of(job.task_managers - 1)


def test_ten_times_the_readings_take_ten_times_the_room_and_money() -> None:
    (few, one), (many, other) = scale.shared(1e7), scale.shared(1e8)
    assert many / few == pytest.approx(10, rel=0.03)
    assert other.state / one.state == pytest.approx(1, rel=0.03)
    cheap, dear = (sum(scale.dollars(rate).values()) for rate in (1e7, 1e8))
    assert dear / cheap == pytest.approx(10, rel=0.01)


def test_a_piece_has_what_a_batch_has_of_a_shard() -> None:
    draws = np.random.default_rng(1).integers(0, 300, scale.BATCH)
    assert scale.piece_rows(300) == pytest.approx(scale.BATCH / len(np.unique(draws)), rel=0.05)
    assert scale.piece_rows(1) == scale.BATCH


def test_at_a_limit_something_just_holds() -> None:
    rate = limits.highest(lambda rate: rate < 12_345)
    assert rate == pytest.approx(12_345, rel=0.002)
    assert limits.listing(0.99 * limits.highest(lambda rate: limits.listing(rate) < 1)) < 1
    rates = [each.rate for each in limits.limits()]
    assert rates == sorted(rates)


# --- measured -------------------------------------------------------------------------------------


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


def first(broker: Broker, topic: str, count: int) -> list[Any]:
    """The first messages of a topic's partition 0."""
    with KafkaConsumer(**broker.client_settings(), consumer_timeout_ms=5000) as consumer:
        consumer.assign([TopicPartition(topic, 0)])
        consumer.seek_to_beginning()
        return [next(consumer) for _ in range(count)]


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
    some = first(kafka, topic, 1000)
    message = sum(len(one.value) + len(one.key) for one in some) / len(some)

    ran = run(tmp_path, address, "--until=latest")
    assert ran.account()["written"] == readings
    stored = {
        folder: sum(path.stat().st_size for path in (ran.lake / folder).rglob("*.parquet"))
        for folder in ("raw", "readings")
    }
    table = pa.concat_tables(
        [pq.read_table(path) for path in (ran.lake / "readings").rglob("*.parquet")]
    )
    found = {
        "MESSAGE": message,
        "RAW": stored["raw"] / readings,
        "PARQUET": stored["readings"] / readings,
        "ARROW": table.nbytes / readings,
        "LOGICAL": logical_bytes(table),
    }
    assert found == {name: pytest.approx(getattr(measured, name), rel=0.2) for name in found}


def cpu_us(work: Callable[[], object]) -> float:
    """µs of CPU that it takes, at best."""
    best = float("inf")
    for _ in range(3):
        gc.collect()
        began = time.process_time()
        work()
        best = min(best, time.process_time() - began)
    return best * 1e6


@pytest.mark.integration
@pytest.mark.long
def test_a_large_fleet_takes_the_state_and_the_time_that_the_tables_reckon_with(
    kafka: Broker, tmp_path: Path
) -> None:
    batch, shards = 5_000, 200
    topic = kafka.new_topic()
    fleet = "simulator:?equipment=20000&interval=1&readings=60000&faults=0"
    address = f"kafka://{kafka.bootstrap}/{topic}"
    assert publish([f"--source={fleet}", f"--to={address}", "--order=time"]) == 0
    some = first(kafka, topic, 4 * batch)
    columns = (
        [one.value for one in some],
        [one.key for one in some],
        [None] * len(some),
        [f"{topic}/0/{one.offset}" for one in some],
        [one.timestamp * 1000 for one in some],
        [None] * len(some),
    )
    raw = pa.table([pa.array(*each) for each in zip(columns, MESSAGES.types, strict=True)],
                   schema=MESSAGES)  # fmt: skip

    def decoded() -> Decoded:
        return decode(RawBatch(raw, BatchKind.MESSAGES, Origin("kafka"), None))[0]

    bounds = Limits(profiles.load())
    valid, rejects = validate(decoded(), bounds, time.time_ns() // 1000)
    assert valid.num_rows == len(some), rejects
    part = valid.slice(0, batch)
    pieces = [piece.packed() for _, (_, piece) in by_shard(part, shards)]
    done = sequence(valid, None, bounds, NOTHING_RECENT)
    assert done.recent is not None
    readings = enrich(done.table)

    def size(table: pa.Table) -> float:
        return len(PackedBatch(table).handle) / table.num_rows

    waiting = sum(len(piece.handle) for piece in pieces) / batch
    found = {
        "waiting": waiting,
        "RECENT": size(done.recent),
        "EQUIPMENT": size(done.tail),
        "HELD": size(readings),
        "HELD_MESSAGE": size(raw),
    }
    told = {"waiting": measured.WAITING + measured.PIECE * len(pieces) / batch}
    told |= {name: getattr(measured, name) for name in found if name.isupper()}
    assert found == {name: pytest.approx(value, rel=0.2) for name, value in told.items()}

    # Times as parts of what the whole job takes, for machines differ.
    def cut() -> None:
        handles = [piece.packed() for _, (_, piece) in by_shard(part, shards)]
        stack([each.table for each in handles])

    def gathered() -> None:
        store = store_at(str(tmp_path / "lake"))
        write_day(store, READINGS, "2024-01-01", PackedBatch(readings).packed().table)

    whole = cpu_us(decoded) / len(some) * measured.CPU / measured.DECODE_CPU
    assert cpu_us(cut) / len(pieces) / whole == pytest.approx(
        measured.PIECE_CPU / measured.CPU, rel=0.5
    )
    assert cpu_us(gathered) / len(some) / whole == pytest.approx(
        measured.LAKE_CPU / measured.CPU, rel=0.7
    )
