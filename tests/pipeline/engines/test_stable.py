"""Tables wait until a checkpoint surely has them, and no longer."""

from __future__ import annotations

import itertools
from typing import Any

import pyarrow as pa
import pytest

from pipeline.engines import stable
from pipeline.engines.checkpointed import ROUNDS
from tests.stable.graphs import CONFIGURATIONS, built
from tests.stable.worker import Worker
from transforms.batch import PackedBatch

_keys = itertools.count(1_000)


class Clock:
    """Stands still."""

    def __init__(self) -> None:
        self.at_s = 1_700_000_000.0

    def now_s(self) -> float:
        return self.at_s


class Hold:
    """The step for one key, with an engine that says what it is told to."""

    def __init__(self, key: int, kept: dict[str, bytes] | None = None) -> None:
        self.key = key
        self.clock = Clock()
        graph = built(*CONFIGURATIONS["flink_kafka_bigquery"])
        self.worker = Worker(graph, "Stable/Hold/ParDo(_Hold)", key, kept)
        fn: Any = self.worker.fn
        fn._clock = self.clock
        self.known = stable._checkpointed(fn._step, key)

    def take(self, name: str) -> None:
        self.worker.process(PackedBatch(pa.table({"name": [name]})))

    def look(self) -> list[str]:
        before = len(self.worker.given[None])
        self.worker.fire("ts-look")
        given = self.worker.given[None][before:]
        return [name for table in given for name in table.column("name").to_pylist()]

    def asked(self) -> int:
        return len(self.worker.given["ask"])


@pytest.fixture
def hold() -> Hold:
    return Hold(next(_keys))


def test_a_table_is_given_after_words_that_were_each_asked_for_after_the_former(hold: Hold) -> None:
    hold.take("a")
    for _ in range(ROUNDS):
        assert hold.look() == []
        hold.known.heard(hold.known.word())
    hold.take("b")
    assert hold.look() == ["a"]
    assert hold.look() == []


def test_many_words_of_one_checkpoint_are_not_enough(hold: Hold) -> None:
    hold.take("a")
    words = [hold.known.word() for _ in range(2 * ROUNDS)]
    for word in words:
        hold.known.heard(word)
    assert hold.look() == []


def test_the_engine_is_asked_as_long_as_something_waits(hold: Hold) -> None:
    hold.take("a")
    assert hold.asked() == 1
    for _ in range(ROUNDS):
        hold.look()
        hold.known.heard(hold.known.word())
    assert hold.asked() == 1 + ROUNDS
    assert hold.look() == ["a"]
    assert hold.asked() == 1 + ROUNDS


def test_what_a_job_resumes_with_is_in_its_checkpoint() -> None:
    key = next(_keys)
    before = Hold(key)
    before.take("a")
    before.take("b")
    kept = before.worker.kept()
    before.take("lost")
    # The same worker, or one that has never had this key.
    for forgets in (False, True):
        if forgets:
            stable._known.clear()
        after = Hold(key, dict(kept))
        assert after.look() == ["a", "b"]
        after.take("c")
        assert after.look() == []


def test_words_from_before_a_failure_count_no_more() -> None:
    key = next(_keys)
    before = Hold(key)
    before.take("a")
    kept = before.worker.kept()
    before.take("lost")
    words = [before.known.word() for _ in range(ROUNDS)]
    after = Hold(key, dict(kept))
    after.take("new")
    for word in words:
        after.known.heard(word)
    assert after.look() == ["a"]
    assert after.look() == []


def test_without_a_checkpoint_for_long_readings_are_given_all_the_same(hold: Hold) -> None:
    hold.take("a")
    hold.clock.at_s += stable._LONGEST_US / 1e6 - 1
    assert hold.look() == []
    hold.clock.at_s += 1
    assert hold.look() == ["a"]
