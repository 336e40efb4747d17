"""What an engine's readers do on a real subscription: acknowledged is what a checkpoint surely has."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from apache_beam.io.restriction_trackers import OffsetRange
from apache_beam.io.watermark_estimators import ManualWatermarkEstimator
from apache_beam.runners.sdf_utils import (
    RestrictionTrackerView,
    ThreadsafeRestrictionTracker,
    ThreadsafeWatermarkEstimator,
)
from apache_beam.transforms.core import _BundleFinalizerParam

from pipeline.connect.pubsub import PubSubAddress
from pipeline.engines.checkpointed import ROUNDS
from pipeline.errors import SourceFailed
from pipeline.sources.live.endless import NO_END, Numbers
from pipeline.sources.pubsub import split
from pipeline.sources.pubsub.split import Subscription
from tests.integration.test_pubsub import pulled
from tests.services.fixtures import set_environment, started
from tests.services.pubsub import PubSub
from transforms.decode import decode

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

START_S = 1_717_243_200


@pytest.fixture(autouse=True)
def _environment(pubsub: PubSub, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    set_environment(monkeypatch, pubsub.environment)
    split._ending.clear()
    yield
    for intake in list(split._intakes.values()):
        split._forget(intake)
        intake.broker.close()
    split._ending.clear()


@pytest.fixture
def topic(pubsub: PubSub) -> str:
    return pubsub.new_topic()


@pytest.fixture
def subscription(pubsub: PubSub, topic: str) -> str:
    return pubsub.new_subscription(topic, ack_deadline=10)


def publish(pubsub: PubSub, topic: str, count: int, first: int = 0) -> set[str]:
    """Publishes readings, a second apart; returns the messages' ids."""
    publisher = pubsub.publisher()
    messages = [
        {"data": json.dumps({"equipment_id": "a", "time": START_S + at, "voltage": 3.7}).encode()}
        for at in range(first, first + count)
    ]
    ids = publisher.api.publish(topic=topic, messages=messages).message_ids
    publisher.transport.close()
    return set(ids)


def others_get(pubsub: PubSub, subscription: str, seconds: float = 3.0) -> set[str]:
    """The ids of the messages that somebody else is given, who gives them back."""
    found = {
        each.message.message_id: each.ack_id
        for part in pulled(pubsub, subscription, seconds)
        for each in part
    }
    if found:
        with pubsub.subscriber() as subscriber:
            subscriber.modify_ack_deadline(
                subscription=subscription, ack_ids=list(found.values()), ack_deadline_seconds=0
            )
    return set(found)


def eventually(holds: Callable[[], Any], what: str, seconds: float = 40) -> None:
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until, what
        time.sleep(0.02)


class Engine:
    """Calls a reader as an engine does, from one bundle to the next.

    Attributes:
        left: what is not claimed.
        found: the ids of the messages of each batch.
        positions: what is told of them.
    """

    def __init__(self, subscription: str, number: int = 0, run: str = "run") -> None:
        _, project, _, name = subscription.split("/")
        address = PubSubAddress(project, name)
        self.element = Subscription(address, str(address), 5_000_000, decode, run), number
        self._read = split._Read()
        self.left = OffsetRange(0, NO_END)
        self._estimator = ManualWatermarkEstimator(None)
        self._over: list[_BundleFinalizerParam] = []
        self.found: list[list[str]] = []
        self.positions: list[pa.Table] = []
        self.done = False

    @property
    def intake(self) -> split.Intake:
        return split._intake(self.element[0])

    @property
    def ids(self) -> list[str]:
        return [each for batch in self.found for each in batch]

    @property
    def watermark_s(self) -> float | None:
        found = self._estimator.current_watermark()
        return None if found is None else found.micros / 1e6

    def step(self) -> None:
        tracker = ThreadsafeRestrictionTracker(Numbers().create_tracker(self.left))
        finalizer = _BundleFinalizerParam()
        given = self._read.process(
            self.element,
            finalizer=finalizer,
            tracker=RestrictionTrackerView(tracker),
            watermark=ThreadsafeWatermarkEstimator(self._estimator),
        )
        for output in given:
            self.found.append(output.value.table["position"].to_pylist())
            self.positions.append(output.value.positions)
            assert output.value.ahead[0].table.num_rows == output.value.table.num_rows
        if finalizer.has_callbacks():
            self._over.append(finalizer)
        left = tracker.deferred_status()
        self.done = left is None
        if left is not None:
            self.left = left[0]

    def until(self, count: int) -> None:
        eventually(lambda: self.step() or len(self.ids) >= count, f"{count} messages")

    def hear(self) -> None:
        """A checkpoint is complete: all bundles that are over are told of."""
        over, self._over = self._over, []
        for finalizer in over:
            finalizer.finalize_bundle()

    def rounds(self, count: int) -> None:
        for _ in range(count):
            # A word is asked for now and then only.
            eventually(lambda: self.step() or self._over, "a word is asked for")
            self.hear()


def held(engine: Engine) -> int:
    return len(engine.intake.broker._leases)


def test_messages_are_counted_and_acknowledged_when_a_checkpoint_surely_has_them(
    pubsub: PubSub, topic: str, subscription: str
) -> None:
    engine = Engine(subscription)
    ids = publish(pubsub, topic, 800)
    engine.until(500)
    engine.until(800)
    assert (engine.left.start, set(engine.ids), len(engine.ids)) == (800, ids, 800)
    rows = pa.concat_tables(engine.positions).to_pylist()
    assert [row["first_offset"] for row in rows] == [
        0, *(row["last_offset"] + 1 for row in rows[:-1])
    ]  # fmt: skip
    assert sum(row["messages_read"] for row in rows) == rows[-1]["last_offset"] + 1 == 800
    assert {row["partition_number"] for row in rows} == {0}
    engine.hear()
    engine.hear()
    assert held(engine) == 800
    engine.rounds(ROUNDS - 2)
    # As Beam's runner may have said all this of checkpoints that do not have it.
    assert held(engine) == 800
    assert others_get(pubsub, subscription) == set()
    engine.rounds(1)
    assert held(engine) == 0
    engine.step()
    engine.step()
    # Nothing is left to ask for.
    assert not engine._over
    engine.intake.broker.close()
    assert others_get(pubsub, subscription, 12) == set()


def test_what_an_engine_went_back_behind_comes_again_at_once_and_the_rest_does_not(
    pubsub: PubSub, topic: str, subscription: str
) -> None:
    engine = Engine(subscription)
    first = publish(pubsub, topic, 300)
    engine.until(300)
    checkpoint = engine.left
    second = publish(pubsub, topic, 200, first=300)
    engine.until(500)
    assert engine.left.start == 500
    # The bundles of the job that failed are told of no more.
    engine._over, engine.left, engine.found = [], checkpoint, []
    began = time.monotonic()
    engine.until(200)
    # Not only when leases have run out.
    assert time.monotonic() - began < 8
    assert set(engine.ids) == second and engine.left.start == 500
    engine.rounds(ROUNDS)
    assert held(engine) == 0 and first.isdisjoint(engine.ids)
    engine.intake.broker.close()
    assert others_get(pubsub, subscription, 12) == set()


def test_what_a_split_refuses_is_given_back(
    pubsub: PubSub, topic: str, subscription: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(subscription)
    ids = publish(pubsub, topic, 50)
    fetch, trackers = engine.intake.fetch, []
    view = RestrictionTrackerView.current_restriction
    monkeypatch.setattr(
        RestrictionTrackerView,
        "current_restriction",
        lambda self: trackers.append(self._threadsafe_restriction_tracker) or view(self),
    )

    def fetched() -> Any:
        # An engine wants the rest for itself while a reader waits for messages.
        found = fetch()
        if found.batch is not None:
            trackers[-1].try_split(0)
        return found

    monkeypatch.setattr(engine.intake, "fetch", fetched)
    until = time.monotonic() + 3
    while time.monotonic() < until:
        left = engine.left
        engine.step()
        engine.left = left
    monkeypatch.undo()
    assert engine.ids == []
    set_environment(monkeypatch, pubsub.environment)
    engine.until(50)
    assert set(engine.ids) == ids and engine.left.start == 50


@pytest.mark.long
def test_messages_that_nothing_is_said_of_are_extended_and_then_given_up(
    pubsub: PubSub,
    topic: str,
    subscription: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(split, "LONGEST_S", 16.0)
    engine = Engine(subscription)
    ids = publish(pubsub, topic, 100)
    engine.until(100)
    given_s = time.monotonic()
    # The subscription's own deadline, 10 s, passes.
    while time.monotonic() < given_s + 13:
        engine.step()
    assert held(engine) == 100 and set(engine.ids) == ids
    said = "no checkpoint for 16 s; 100 messages are given back"
    eventually(lambda: said in caplog.text, "they are given up", 8)
    assert time.monotonic() - given_s > 15.9
    # This reader or another is given them again.
    engine.found = []
    engine.until(100)
    assert set(engine.ids) == ids


@pytest.mark.long
def test_nothing_is_pulled_or_kept_for_an_engine_that_does_not_ask(
    pubsub: PubSub, topic: str, subscription: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(split, "_UNASKED_S", 1.0)
    monkeypatch.setattr(split, "LONGEST_S", 6.0)
    engine = Engine(subscription)
    engine.step()
    broker = engine.intake.broker
    first = publish(pubsub, topic, 100)
    # Pulled ahead of an engine that asks for nothing from now on; a pull waits for 3 s at most.
    eventually(lambda: held(engine) == 100, "they are pulled", 8)
    time.sleep(4.5)
    second = publish(pubsub, topic, 100, first=100)
    assert others_get(pubsub, subscription, 1.5) >= second
    eventually(lambda: held(engine) == 0, "they are given back", 8)
    assert others_get(pubsub, subscription) == first | second
    assert (broker._ahead, broker._ahead_bytes) == (0, 0)
    engine.until(200)
    assert set(engine.ids) == first | second


def test_readers_of_a_process_share_event_time_and_one_that_gets_nothing_holds_nothing_up(
    pubsub: PubSub, topic: str, subscription: str
) -> None:
    one, other = Engine(subscription, 0), Engine(subscription, 1)
    publish(pubsub, topic, 100)
    one.until(100)
    other.step()
    assert one.watermark_s == other.watermark_s == START_S + 99 - 5
    assert not other.found
    # With nothing left to read it goes on with the clock, in both.
    eventually(lambda: other.step() or other.watermark_s > START_S + 95, "it goes on", 20)
    one.step()
    assert one.watermark_s > START_S + 95


def test_a_process_that_never_got_anything_holds_nothing_up(
    pubsub: PubSub, subscription: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(split, "PATIENCE_US", 1_000_000)
    engine = Engine(subscription)
    engine.step()
    assert engine.watermark_s is None
    eventually(lambda: engine.step() or engine.watermark_s is not None, "it goes on", 20)
    assert abs(engine.watermark_s - (time.time() - 1 - 5)) < 1


@pytest.mark.long
def test_a_reader_that_is_to_end_does_and_all_that_was_given_is_acknowledged_then(
    pubsub: PubSub, topic: str, subscription: str
) -> None:
    one, other = Engine(subscription, 0), Engine(subscription, 1)
    publish(pubsub, topic, 100)
    one.until(100)
    split.finish()  # of a job that was not drained
    assert held(one) == 100
    split.end()
    late = publish(pubsub, topic, 10, first=100)
    for engine in (one, other):
        engine.step()
        assert engine.done and engine.left.start == (100 if engine is one else 0)
    split.finish()
    assert not split._intakes
    assert others_get(pubsub, subscription, 13) == late


@pytest.mark.long
def test_a_subscription_that_is_gone_is_told_and_one_that_is_there_again_is_read(
    pubsub: PubSub, topic: str
) -> None:
    name = "comes-and-goes-" + topic.rpartition("-")[2]
    subscription = pubsub.create_subscription(topic, name)
    engine = Engine(subscription)
    engine.step()
    with pubsub.subscriber() as subscriber:
        subscriber.delete_subscription(subscription=subscription)

    with pytest.raises(SourceFailed, match="the subscription is gone"):
        eventually(engine.step, "it is told")
    pubsub.create_subscription(topic, name)
    ids = publish(pubsub, topic, 10)
    engine.until(10)
    assert set(engine.ids) == ids


@pytest.mark.long
def test_what_can_t_be_acknowledged_during_an_outage_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PUBSUB_EMULATOR_HOST")
    with started(PubSub, tmp_path) as own:
        monkeypatch.setenv("PUBSUB_EMULATOR_HOST", own.host)
        topic = own.create_topic("readings")
        engine = Engine(own.create_subscription(topic, "reader"))
        publish(own, topic, 10)
        engine.until(10)
        engine.rounds(ROUNDS - 1)
        own.stop(kill=True)
        engine.rounds(1)
        assert held(engine) == 10
        own.start()
        own.create_subscription(own.create_topic("readings"), "reader")
        # That one never heard of these ids, and does not mind.
        eventually(lambda: engine.rounds(1) or held(engine) == 0, "acknowledged")
