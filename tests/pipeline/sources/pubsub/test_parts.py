"""Tests what the Pub/Sub source does without a service: leases, raw batches, its address."""

from __future__ import annotations

import datetime as dt
from typing import Any, NamedTuple

import apache_beam as beam
import orjson
import pytest
from apache_beam.io.gcp.pubsub import PubsubMessage
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.transforms.window import (
    FixedWindows,
    GlobalWindow,
    GlobalWindows,
    TimestampedValue,
)
from apache_beam.utils.timestamp import Timestamp
from google.api_core import exceptions
from google.pubsub_v1.types import PubsubMessage as ClientMessage

from pipeline.connect import pubsub as connect
from pipeline.engines import HERE, Engine
from pipeline.engines.dataflow import ENGINE as DATAFLOW
from pipeline.engines.flink import ENGINE as FLINK
from pipeline.engines.prism import ENGINE as PRISM
from pipeline.errors import ConfigError
from pipeline.sources import Told
from pipeline.sources.pubsub import broker as pubsub_broker
from pipeline.sources.pubsub.leases import Key, Leases
from pipeline.sources.pubsub.messages import PackMessages, batch
from pipeline.sources.pubsub.source import PubSubSource
from transforms.batch import MESSAGES, RawBatch
from transforms.decode import decode


class Received(NamedTuple):
    """A message as a pull gives it."""

    message_id: str
    ack_id: str
    message: Any


AT_US = 1_717_243_200_000_000
PAYLOAD = orjson.dumps({"time": 1_717_243_200, "voltage": 3.7})


def keys(*names: str) -> list[Key]:
    return [(name, AT_US) for name in names]


def pulled(*names: str, ack: str = "a") -> list[tuple[Key, str]]:
    return [(key, f"{ack}-{key[0]}") for key in keys(*names)]


def message(number: int, ordering_key: str = "", **attributes: str) -> Any:
    found = ClientMessage(
        data=PAYLOAD, attributes=attributes, message_id=str(number), ordering_key=ordering_key
    )
    return ClientMessage.pb(found)


def test_a_message_under_way_is_taken_once_and_acknowledged_by_its_newest_id() -> None:
    leases = Leases()
    assert leases.take(pulled("1", "2"), 0.0) == ([0, 1], [])
    assert leases.take(pulled("2", "3", ack="b"), 1.0) == ([1], [])
    assert leases.owed(keys("1", "2", "3")) == [
        *pulled("1"), *pulled("2", "3", ack="b")
    ]  # fmt: skip
    assert len(leases) == 3


def test_one_that_comes_again_while_it_is_acknowledged_stays_owed() -> None:
    leases = Leases()
    leases.take(pulled("1"), 0.0)
    owed = leases.owed(keys("1"))
    leases.take(pulled("1", ack="b"), 0.0)
    leases.acknowledged(owed)
    assert leases.owed(keys("1")) == pulled("1", ack="b")
    leases.acknowledged(leases.owed(keys("1")))
    assert leases.owed(keys("1")) == [] and len(leases) == 0


def test_one_that_comes_after_it_was_acknowledged_is_only_acknowledged_again() -> None:
    leases = Leases()
    leases.take(pulled("1"), 0.0)
    leases.acknowledged(leases.owed(keys("1")))
    assert leases.take(pulled("1", "2", ack="b"), 1.0) == ([1], pulled("1", ack="b"))
    # An emulator that was started anew gives the same id to another message.
    other = ("1", AT_US + 1)
    assert leases.take([(other, "c")], 2.0) == ([0], [])


def test_acknowledged_messages_are_not_remembered_for_ever(monkeypatch: Any) -> None:
    monkeypatch.setattr("pipeline.sources.pubsub.leases._REMEMBERED", 2)
    leases = Leases()
    for name in ("1", "2", "3"):
        leases.take(pulled(name), 0.0)
        leases.acknowledged(leases.owed(keys(name)))
    assert leases.take(pulled("1", "2", "3"), 0.0) == ([0], pulled("2", "3"))


def test_leases_are_extended_soon_then_regularly_until_acknowledged() -> None:
    leases = Leases()
    leases.take(pulled("1", "2"), 100.0)
    leases.take(pulled("3"), 110.0)
    assert leases.due(102.9) == []
    # Before the shortest deadline that a subscription can have, 10 s.
    assert leases.due(103.1) == ["a-1", "a-2"]
    assert leases.due(103.1) == []
    leases.acknowledged(leases.owed(keys("1")))
    leases.take(pulled("2", ack="b"), 111.0)
    assert leases.due(115.0) == ["a-3", "b-2"]
    assert leases.due(124.0) == ["b-2"]
    leases.acknowledged(leases.owed(keys("2", "3")))
    assert leases.due(1000.0) == [] and leases.all() == []


def test_what_is_let_go_is_not_extended_and_new_when_it_comes_again() -> None:
    leases = Leases()
    leases.take(pulled("1", "2"), 0.0)
    leases.acknowledged(leases.owed(keys("2")))
    assert leases.let_go(keys("1", "2", "3")) == ["a-1"]
    assert leases.due(100.0) == [] and leases.owed(keys("1")) == []
    assert leases.take(pulled("1", "2", ack="b"), 101.0) == ([0], pulled("2", ack="b"))
    assert leases.owed(keys("1")) == pulled("1", ack="b")


def test_a_raw_batch_holds_what_the_messages_say() -> None:
    found = batch(
        [message(7, ordering_key="site 1", equipment_id="B1", b="ü"), message(8), message(9, "B2")],
        [AT_US, AT_US + 1, AT_US + 2],
        "pubsub://p/s",
    )
    assert found.table.schema == MESSAGES
    assert found.table.drop_columns(["payload", "arrived_at"]).to_pylist() == [
        {"key": b"site 1", "attributes": '{"b":"ü","equipment_id":"B1"}', "position": "7",
         "source_file": None},
        {"key": None, "attributes": None, "position": "8", "source_file": None},
        {"key": b"B2", "attributes": None, "position": "9", "source_file": None},
    ]  # fmt: skip
    assert found.table["payload"].to_pylist() == [PAYLOAD] * 3
    assert found.table["arrived_at"][2].as_py() == dt.datetime.fromtimestamp(
        (AT_US + 2) / 1e6, dt.UTC
    )
    assert found.origin.source == "pubsub://p/s" and found.origin.arrived_at_us == AT_US


def test_a_reading_without_equipment_has_the_attribute_s_or_the_ordering_key_s() -> None:
    found = batch(
        [message(1, "site", equipment_id="B1"), message(2, equipment_id="B2"), message(3, "B3")],
        [AT_US] * 3,
        "pubsub://p/s",
    )
    decoded, rejects = decode(found)
    assert decoded.table["equipment_id"].to_pylist() == ["B1", "B2", "B3"] and not rejects.rows


def test_beam_s_messages_are_packed_by_bundle_and_window() -> None:
    published = dt.datetime(2024, 6, 1, 12, tzinfo=dt.UTC)
    messages = [
        TimestampedValue(PubsubMessage(PAYLOAD, {"equipment_id": "B1"}, str(n), published), n)
        for n in range(12_000)
    ]

    def seen(
        raw: RawBatch, at: Any = beam.DoFn.TimestampParam, window: Any = beam.DoFn.WindowParam
    ) -> tuple[Any, ...]:
        numbers = [int(text) for text in raw.table["position"].to_pylist()]
        assert all(window.start <= n < window.end for n in numbers)
        assert at == min(numbers)
        assert set(raw.table["arrived_at"].to_pylist()) == {published}
        assert set(raw.table["key"].to_pylist()) == {b"B1"}
        return len(numbers), sum(numbers)

    def check(found: list[tuple[int, int]]) -> None:
        assert sum(rows for rows, _ in found) == 12_000
        assert sum(total for _, total in found) == sum(range(12_000))
        assert len(found) <= 8 and max(rows for rows, _ in found) <= 5_000

    with beam.Pipeline(runner=FnApiRunner(), options=PipelineOptions([])) as pipeline:
        packed = (
            pipeline
            | beam.Create(messages, reshuffle=False)
            | "Own time" >> beam.Map(lambda message: message)
            | beam.WindowInto(FixedWindows(6_000))
            | beam.ParDo(PackMessages("pubsub://p/s")).with_output_types(RawBatch)
        )
        found = packed | beam.Map(seen) | "Together" >> beam.WindowInto(GlobalWindows())
        _ = found | beam.combiners.ToList() | beam.Map(check)


def source(uri: str, engine: Engine = HERE, until_latest: bool = False) -> PubSubSource:
    return PubSubSource(uri, decode, engine, until_latest, Told())


def test_an_address_that_can_t_be_used_is_refused() -> None:
    with pytest.raises(ConfigError, match="--source=pubsub://p: must look like"):
        source("pubsub://p")
    with pytest.raises(ConfigError, match="disorder=soon must be 0 to 86400 seconds"):
        source("pubsub://project/sub?disorder=soon")
    with pytest.raises(ConfigError, match="no such parameter 'group'"):
        source("pubsub://project/sub?group=a")
    with pytest.raises(ConfigError, match="--until=latest"):
        source("pubsub://project/sub", engine=DATAFLOW, until_latest=True).check()
    for readers in ("0", "101", "x", "-1"):
        with pytest.raises(ConfigError, match=f"readers={readers} must be 1 to 100"):
            source(f"pubsub://project/sub?readers={readers}")


def test_an_engine_that_could_only_acknowledge_at_the_end_is_refused() -> None:
    with pytest.raises(ConfigError) as refused:
        source("pubsub://project/sub", engine=PRISM).check()
    assert str(refused.value) == (
        "--source=pubsub://project/sub: Prism keeps what it has taken in memory alone, so that no "
        "message could be acknowledged before the job's end; only the local runner, Dataflow and "
        "Flink can read Pub/Sub: give --runner=DirectRunner, --runner=DataflowRunner or "
        "--runner=FlinkRunner"
    )


def test_an_engine_that_checkpoints_gets_numbered_readers() -> None:
    for query, count in (("", 4), ("?readers=2", 2)):
        pipeline = beam.Pipeline(options=PipelineOptions(["--streaming"]))
        received = source(f"pubsub://project/sub{query}", engine=FLINK).read(pipeline)
        assert not received.batches.is_bounded and received.batches.element_type is RawBatch
        assert received.positions is not None and not received.leads
        graph = pipeline.to_runner_api()
        assert "pubsub_read" not in str(graph)
        names = {each.unique_name for each in graph.components.transforms.values()}
        assert {"PubSub/Readers", "PubSub/Spread", "PubSub/Read"} <= names
        assert source(f"pubsub://project/sub{query}")._readers == count


def test_an_engine_with_beam_s_own_reader_gets_that() -> None:
    pipeline = beam.Pipeline(options=PipelineOptions(["--streaming"]))
    received = source(
        "pubsub://project/sub?id_label=id&timestamp_attribute=at&disorder=3", engine=DATAFLOW
    ).read(pipeline)
    assert not received.batches.is_bounded and received.batches.element_type is RawBatch
    text = str(pipeline.to_runner_api())
    assert "projects/project/subscriptions/sub" in text
    assert "beam:transform:pubsub_read:v1" in text


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (exceptions.NotFound("x"), "the subscription is gone"),
        (exceptions.PermissionDenied("x"), "may not consume any more"),
        (ValueError("odd"), "reading failed"),
    ],
)
def test_only_what_stays_broken_ends_the_job(
    monkeypatch: Any, error: Exception, reason: str
) -> None:
    now = [0.0]
    monkeypatch.setattr(pubsub_broker.time, "monotonic", lambda: now[0])
    health = pubsub_broker._Health("pubsub://p/s")
    for now[0] in (0.0, 5.0):
        health.trouble(error)
    health.well()
    for now[0] in range(20, 200):
        health.trouble(exceptions.ServiceUnavailable("away"))
    health.raise_failure()
    assert health.troubled
    for now[0] in (200.0, 209.0):
        health.trouble(error)
    health.raise_failure()
    now[0] = 211.0
    health.trouble(error)
    with pytest.raises(RuntimeError, match=f"--source=pubsub://p/s: .*{reason}"):
        health.raise_failure()


def test_a_batch_has_a_bound_of_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pubsub_broker, "BATCH_BYTES", 100)
    monkeypatch.setattr(pubsub_broker, "_LINGER_S", 0.0)
    broker = pubsub_broker.PubSubBroker(connect.PubSubAddress("p", "s"), "pubsub://p/s")
    for number in range(10):
        broker._take([Received(f"{number}", f"a{number}", message(number))])
    assert broker._ahead == 10 and broker._ahead_bytes >= 10 * len(PAYLOAD)
    sizes = [len(broker._gather()) for _ in range(4)]
    assert max(sizes) <= 3 and sizes[0] == sizes[1]
    assert broker._ahead == 10 - sum(sizes)


def test_a_bundles_messages_are_packed_into_batches_of_a_bound_of_bytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pipeline.sources.pubsub.messages._MOST_BYTES", 3 * len(PAYLOAD))
    pack = PackMessages("pubsub://p/s")
    pack.start_bundle()
    found = []
    for number in range(10):
        sent = PubsubMessage(PAYLOAD, {}, str(number), dt.datetime.now(dt.UTC))
        found += list(pack.process(sent, Timestamp(5), GlobalWindow()))
    found += list(pack.finish_bundle())
    assert [each.value.table.num_rows for each in found] == [3, 3, 3, 1]
