"""Live input that is behind: as many windows are released together as come within a second."""

from __future__ import annotations

from typing import Any

import pytest
from apache_beam.utils.timestamp import Timestamp

from tests.messages import START_US
from tests.stable.graphs import CONFIGURATIONS, built
from tests.stable.scenes import _reading, _valid
from tests.stable.worker import Worker
from transforms.order import by_shard

_MINUTE_US = 60_000_000


class _Clock:
    """Goes on when it is told to."""

    def __init__(self) -> None:
        self.us = 1_800_000_000_000_000

    def steady_us(self) -> int:
        return self.us

    def now_s(self) -> float:
        return self.us / 1e6


class _Shard:
    """The ordering step of a shard, as an engine with several readers runs it."""

    def __init__(self) -> None:
        graph = built(*CONFIGURATIONS["flink_kafka_bigquery"])
        self.worker = Worker(graph, "Order/InOrder/ParDo(_OrderUnbounded)", 0)
        self.clock = _Clock()
        fn: Any = self.worker.fn
        fn._clock = self.clock

    def take(self, minute: int) -> None:
        table = _valid([_reading(minute * 60 + second) for second in (1, 31)])
        for _, piece in by_shard(table, 1):
            self.worker.process(piece, Timestamp(micros=START_US))

    def armed(self) -> int:
        """The minute whose end it waits for."""
        with self.worker.state("armed") as armed:
            found = armed.read()
        return int((found + 1 - START_US) // _MINUTE_US) - 1

    def fire(self) -> int:
        """Releases what is due; returns how many readings that were."""
        before = len(self.worker.given[None])
        with self.worker.state("armed") as armed:
            at = armed.read()
        self.worker.fire("ts-due", Timestamp(micros=at))
        return sum(table.num_rows for table in self.worker.given[None][before:])


def test_a_backlog_is_released_by_many_windows_at_once() -> None:
    shard = _Shard()
    for minute in range(50):
        shard.clock.us += 100_000  # an hour of event time in six seconds
        shard.take(minute)
    assert shard.armed() == 0 and shard.fire() == 2
    # 49 minutes came in 4.8 s: about ten come in a second.
    assert 8 <= shard.armed() <= 12
    found, rounds = 2, 0
    while found < 100:
        found += shard.fire()
        rounds += 1
    # Nothing more comes, so that what is left looks ever more like a burst.
    assert rounds < 20
    times = [at for table in shard.worker.given[None] for at in table["recorded_at"].to_pylist()]
    assert times == sorted(times) and len(set(times)) == 100


@pytest.mark.parametrize(("every_us", "what"), [(60_000_000, "live"), (8_000_000, "a bit behind")])
def test_live_input_is_released_window_by_window(every_us: int, what: str) -> None:
    shard = _Shard()
    for minute in range(6):
        shard.clock.us += every_us
        shard.take(minute)
    for minute in range(6):
        assert shard.armed() == minute, what
        assert shard.fire() == 2


def test_a_burst_of_some_windows_is_no_backlog() -> None:
    shard = _Shard()
    shard.take(0)
    shard.clock.us += 100_000
    shard.take(0)
    assert shard.armed() == 0
    shard.fire()
    shard.take(1)
    shard.clock.us += 100_000
    shard.take(1)
    assert shard.armed() == 1


def test_what_comes_before_all_that_waits_is_released_with_its_own_window() -> None:
    shard = _Shard()
    for minute in range(10, 50):
        shard.clock.us += 100_000
        shard.take(minute)
    shard.fire()
    assert shard.armed() > 15
    shard.take(11)
    assert shard.armed() > 15
    shard.take(2)
    assert shard.armed() == 2
