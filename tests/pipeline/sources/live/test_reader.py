"""A live reader between a broker in memory and a pipeline that is played by hand."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from pipeline.engines.polling import NOTHING_WAITS, Polled
from pipeline.errors import ConfigError, SourceFailed
from pipeline.sinks.base import background
from pipeline.sinks.base.background import Background
from pipeline.sources import Told
from pipeline.sources.live import reader as live
from pipeline.sources.live.reader import CommitFailed, Fetched, LiveReader, LiveSource, disorder_us
from pipeline.sources.live.watermark import NEVER
from tests.messages import ARRIVED_US, SECOND, START_US, at, messages, reading
from transforms.batch import RawBatch
from transforms.decode import decode
from transforms.decoded import Decoded
from transforms.rejects import Rejects

DISORDER = 5 * SECOND
Chunk = Mapping[int, Sequence[float | bytes]]


class Memory:
    """Partitions in memory: what was given at once is fetched at once; offsets are committed."""

    def __init__(self, *partitions: int) -> None:
        self.mine = list(partitions or (0,))
        self.offsets: dict[int, int] = {}
        self.committed: dict[int, int] = {}
        self.commits: list[tuple[dict[int, int], bool]] = []
        self.dropped: list[Fetched] = []
        self.threads: set[str] = set()
        self.refuses = self.closed = False
        self.trouble: str | None = None
        self.commits_refused = self.fetches = 0
        self.leave = threading.Event()
        self.left = threading.Event()
        self._chunks: deque[Chunk] = deque()
        self._fails: BaseException | None = None

    def give(self, *chunks: Chunk) -> None:
        self._chunks.extend(chunks)

    def fail(self, error: BaseException) -> None:
        self._fails = error

    def open(self, hand_over: Callable[[], None]) -> None:
        self._hand_over = hand_over
        self.threads.add(threading.current_thread().name)

    def refused(self, fetched: Fetched) -> None:
        self.dropped.append(fetched)

    def partitions(self) -> Collection[int]:
        return self.mine

    def fetch(self) -> Fetched:
        self.fetches += 1
        self._leave()
        if not self._chunks:
            if self._fails is not None:
                raise self._fails
            time.sleep(0.01)
            return Fetched(None, ended=list(self.mine), lag=0)
        chunk = self._chunks.popleft()
        payloads = [
            found if isinstance(found, bytes) else reading(recorded_at=at(found))
            for number in chunk
            for found in chunk[number]
        ]
        positions = {}
        for number, found in chunk.items():
            first = self.offsets.get(number, 0)
            self.offsets[number] = first + len(found)
            positions[number] = (first, self.offsets[number])
        left = {number for waiting in self._chunks for number in waiting}
        return Fetched(
            messages(payloads),
            {number: len(found) for number, found in chunk.items()},
            positions,
            [number for number in self.mine if number not in left],
            sum(len(found) for waiting in self._chunks for found in waiting.values()),
        )

    def rest(self) -> None:
        self.threads.add(threading.current_thread().name)
        self._leave()

    def _leave(self) -> None:
        if self.leave.is_set():
            self.leave.clear()
            self._hand_over()
            self.left.set()

    def commit(self, positions: Sequence[Mapping[int, Any]], wait: bool = True) -> None:
        if self.refuses:
            self.commits_refused += 1
            raise CommitFailed("the broker is away")
        newest: dict[int, int] = {}
        for each in positions:
            newest |= {number: following for number, (_, following) in each.items()}
        self.commits.append((newest, wait))
        self.committed |= newest

    def close(self) -> None:
        self.closed = True


# Before all that a test takes: something that came long ago waits.
LONG_AGO = 0


class Steady:
    """A clock that goes on by a microsecond whenever the pipeline is at its next poll."""

    def __init__(self, now_us: Callable[[], int]) -> None:
        self._now_us = now_us
        self.ticks = 0

    def __call__(self) -> int:
        return self._now_us() + self.ticks


class Pipeline:
    """What the local streaming runner does: tells what is settled, then polls.

    Attributes:
        taken: the polls that gave something.
        since: when each was taken, which is since when its readings may wait.
    """

    def __init__(self, reader: LiveReader, clock: Steady | None = None) -> None:
        self.reader = reader
        self.taken: list[Polled] = []
        self.since: list[int] = []
        self._clock = clock or Steady(lambda: ARRIVED_US)

    def settle(self, before_us: int = NOTHING_WAITS) -> None:
        """Until the sinks, which write while the next poll goes through, have what they have."""
        self.settled(before_us)
        self.settled(before_us)

    def settled(self, before_us: int = NOTHING_WAITS) -> None:
        self._clock.ticks += 1
        self.reader.settled(before_us)
        self._clock.ticks += 1

    def step(self, before_us: int = NOTHING_WAITS) -> Polled:
        self.settled(before_us)
        found = self.reader.poll()
        if found.batches:
            self.taken.append(found)
            self.since.append(self._clock())
        return found

    def take(self, count: int, before_us: int = NOTHING_WAITS) -> list[RawBatch]:
        """Goes on until so many batches were taken in all."""
        eventually(lambda: (len(self.taken) >= count) or (self.step(before_us) and False))
        return [batch for found in self.taken for batch in found.batches]


def eventually(condition: Callable[[], Any], seconds: float = 10.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.002)


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: Any) -> None:
    """Commits do not wait for each other, unless a test says so."""
    monkeypatch.setattr(live, "_COMMIT_S", 0.0)
    monkeypatch.setattr(live, "_COMMIT_SHARE", 0)
    monkeypatch.setattr(live, "_POLL_S", 0.01)
    monkeypatch.setattr(live, "_AHEAD", 2)


@contextmanager
def reading_from(
    broker: Memory,
    told: Told | None = None,
    decoder: Callable[[RawBatch], tuple[Decoded, Rejects]] = decode,
    now_us: Callable[[], int] = lambda: ARRIVED_US,
) -> Iterator[Pipeline]:
    clock = Steady(now_us)
    reader = LiveReader(broker, decoder, DISORDER, told or Told(), now_us, clock)
    reader.start()
    pipeline = Pipeline(reader, clock)
    try:
        yield pipeline
    finally:
        broker.refuses = False
        reader.finish()
        assert not reader._thread.is_alive()


def moment(seconds: float) -> int:
    return START_US + round(seconds * SECOND)


def rows(batches: Sequence[RawBatch]) -> list[int]:
    return [batch.table.num_rows for batch in batches]


# --- from the broker to the pipeline ------------------------------------------------------------


def test_batches_come_in_order_decoded_and_with_the_watermark_behind_them() -> None:
    broker = Memory(0, 1)
    broker.give({0: [10, 20], 1: [100]}, {1: [110, 105]}, {0: [60]})
    with reading_from(broker) as pipeline:
        found = pipeline.take(3)
        assert rows(found) == [3, 2, 1]
        assert [batch.ahead[0].table.num_rows for batch in found] == [3, 2, 1]
        assert [polled.watermark_us for polled in pipeline.taken] == [
            moment(15), moment(15), moment(55)
        ]  # fmt: skip
        assert pipeline.reader.watermark_us == moment(55) and pipeline.reader.lag == 0
        assert not any(polled.done for polled in pipeline.taken)
    assert broker.threads == {"broker"} and broker.closed


def test_where_nothing_comes_nothing_is_given() -> None:
    broker = Memory()
    with reading_from(broker) as pipeline:
        assert pipeline.step() == Polled([], NEVER)
        broker.give({0: [10]})
        pipeline.take(1)
        assert pipeline.step() == Polled([], moment(5))


def test_a_watermark_without_a_batch_reaches_the_pipeline() -> None:
    now = [ARRIVED_US]
    broker = Memory()
    broker.give({0: [10]})
    with reading_from(broker, now_us=lambda: now[0]) as pipeline:
        pipeline.take(1)
        now[0] += 61 * SECOND
        eventually(lambda: pipeline.step().watermark_us >= moment(65))
        assert rows(pipeline.take(1)) == [1]


def test_a_clock_that_is_ahead_makes_nobody_late() -> None:
    broker = Memory(0, 1)
    ahead = (ARRIVED_US - START_US) / SECOND + 200
    broker.give({0: [ahead], 1: [ahead]})
    with reading_from(broker) as pipeline:
        pipeline.take(1)
        assert pipeline.reader.watermark_us == ARRIVED_US - DISORDER


def test_not_more_is_fetched_than_a_few_batches_ahead() -> None:
    broker = Memory()
    broker.give(*({0: [second]} for second in range(20)))
    with reading_from(broker) as pipeline:
        eventually(lambda: broker.fetches == live._AHEAD + 1)
        time.sleep(0.05)
        assert broker.fetches == live._AHEAD + 1
        assert rows(pipeline.take(20)) == [1] * 20


def test_new_partitions_are_told_and_lost_ones_are_not() -> None:
    told: list[str] = []
    broker = Memory(0, 1)
    with reading_from(broker, Told(taking_over=lambda: told.append("new"))) as pipeline:
        for partitions, times in (([0, 1], 1), ([1], 1), ([1], 1), ([1, 0], 2), ([2], 3)):
            broker.mine = partitions
            fetched = broker.fetches
            # The second of two fetches that began later has seen it.
            eventually(lambda fetched=fetched: pipeline.step() and broker.fetches > fetched + 2)
            assert len(told) == times


# --- positions ----------------------------------------------------------------------------------


def test_positions_go_back_in_order_and_only_when_nothing_they_cover_waits() -> None:
    broker = Memory()
    broker.give({0: [100]}, {0: [10, 20]}, {0: [90, 130]})
    with reading_from(broker) as pipeline:
        pipeline.take(3, before_us=LONG_AGO)
        for before in (LONG_AGO, pipeline.since[0]):
            pipeline.settle(before)
            time.sleep(0.02)
            assert broker.committed == {}  # the first has not gone on, so none of the others
        pipeline.settle(pipeline.since[1])
        eventually(lambda: broker.committed == {0: 1})
        pipeline.settle(pipeline.since[2])
        eventually(lambda: broker.committed == {0: 3})
        pipeline.settle()
        eventually(lambda: broker.committed == {0: 5})
    following = [offsets[0] for offsets, _ in broker.commits]
    assert following == sorted(following)


def test_messages_that_are_no_readings_wait_for_nothing() -> None:
    broker = Memory()
    broker.give({0: [b"{", b"[]"]})
    with reading_from(broker) as pipeline:
        pipeline.take(1)
        pipeline.settle(pipeline.since[0] + 2)
        eventually(lambda: broker.committed == {0: 2})


def test_a_reading_dated_too_far_ahead_waits_for_nothing_and_moves_no_watermark() -> None:
    broker = Memory()
    broker.give({0: [100]}, {0: [10**9]})  # 2056: a dead letter
    with reading_from(broker) as pipeline:
        pipeline.take(2)
        assert pipeline.reader.watermark_us == moment(95)
        pipeline.settle()
        eventually(lambda: broker.committed == {0: 2})


def test_commits_have_a_distance(monkeypatch: Any) -> None:
    monkeypatch.setattr(live, "_COMMIT_S", 3_600.0)
    broker = Memory()
    broker.give({0: [1]}, {0: [2]}, {0: [3]})
    with reading_from(broker) as pipeline:
        pipeline.take(3)
        for _ in range(5):
            pipeline.step()
        eventually(lambda: broker.commits == [({0: 1}, True)])
        pipeline.reader.stop()  # then nothing is put off
        pipeline.settle()
        eventually(lambda: broker.committed == {0: 3})


def test_what_goes_with_a_commit_takes_a_small_share_of_the_time(monkeypatch: Any) -> None:
    monkeypatch.setattr(live, "_COMMIT_SHARE", 1_000_000)
    broker = Memory()
    broker.give({0: [1]}, {0: [2]})
    with reading_from(broker, Told(committing=lambda since_s: time.sleep(0.01))) as pipeline:
        pipeline.take(2)
        for _ in range(5):
            pipeline.step()
        time.sleep(0.05)
        assert broker.committed == {0: 1}


def test_a_commit_that_fails_is_made_again_with_newer_ones(caplog: Any) -> None:
    broker = Memory()
    broker.refuses = True
    broker.give({0: [1]}, {0: [2, 3]})
    with reading_from(broker) as pipeline, caplog.at_level(logging.WARNING):
        pipeline.take(2)
        eventually(lambda: pipeline.step() and broker.commits_refused > 3)
        assert len(caplog.records) == 1
        assert caplog.messages == ["positions not committed, trying again (the broker is away)"]
        broker.refuses = False
        eventually(lambda: pipeline.step() and broker.commits)
        assert broker.commits == [({0: 3}, True)]
        broker.refuses = True  # another outage is told again, once
        broker.give({0: [4]})
        pipeline.take(3)
        refused = broker.commits_refused
        eventually(lambda: pipeline.step() and broker.commits_refused > refused + 3)
        assert len(caplog.records) == 2


def test_since_when_something_is_not_given_back_is_told_once_it_is_known() -> None:
    now = [0]
    told: list[float | None] = []
    broker = Memory(0, 1)
    broker.give({0: [100]}, {1: [100]}, {0: [200]})
    with reading_from(
        broker, Told(committing=told.append), now_us=lambda: ARRIVED_US + now[0]
    ) as pipeline:
        for number in (1, 2, 3):
            now[0] = number * SECOND
            pipeline.take(number, LONG_AGO)
        pipeline.settle(pipeline.since[2])
        # Before this run had read what there was, what earlier ones left is not all taken up.
        assert told == [None]
        broker.give({0: [300]}, {0: [400]})
        now[0] = 4 * SECOND
        pipeline.take(4, LONG_AGO)
        now[0] = 5 * SECOND
        pipeline.take(5, LONG_AGO)
        now[0] = 6 * SECOND
        assert told == [None]
        pipeline.settle(pipeline.since[3])
        assert told == [None, ARRIVED_US / 1e6 + 4]  # the third batch was the last of all
        pipeline.settle(pipeline.since[4])
        assert told[2:] == [ARRIVED_US / 1e6 + 5]
        pipeline.settle()
        assert told[3:] == [ARRIVED_US / 1e6 + 6]  # nothing is under way: all up to now


def test_a_run_that_finds_nothing_has_caught_up() -> None:
    told: list[float | None] = []
    broker = Memory()
    with reading_from(broker, Told(committing=told.append)) as pipeline:
        fetched = broker.fetches
        eventually(lambda: pipeline.step() and broker.fetches > fetched + 4)
        broker.give({0: [1]}, {0: [2]})
        pipeline.take(2, before_us=LONG_AGO)
        pipeline.settle(pipeline.since[1])
        assert told == [ARRIVED_US / 1e6]


def test_a_run_catches_up_with_the_batch_before_an_empty_fetch() -> None:
    told: list[float | None] = []
    broker = Memory(0, 1)
    broker.give({0: [1], 1: [1]})
    broker.mine = []  # as long as the group has not given it any partition, nothing ends
    with reading_from(broker, Told(committing=told.append)) as pipeline:
        pipeline.take(1, before_us=LONG_AGO)
        broker.mine = [0, 1]
        fetched = broker.fetches
        eventually(lambda: pipeline.step(LONG_AGO) and broker.fetches > fetched + 4)
        assert told == []
        pipeline.settle(NOTHING_WAITS)
        assert told == [ARRIVED_US / 1e6]


def test_it_is_told_before_positions_go_back_and_whenever_all_is_settled() -> None:
    course: list[Any] = []
    broker = Memory()
    broker.give({0: [1]})
    told = Told(
        settled=course.append,
        committing=lambda since_s: course.append(("committing", dict(broker.committed))),
    )
    with reading_from(broker, told) as pipeline:
        pipeline.take(1, before_us=LONG_AGO)
        course.clear()
        pipeline.settle()
        # What is remembered counts as written, so before it is kept all of it must be.
        assert course == [False, False, True, ("committing", {})]
        eventually(lambda: broker.committed == {0: 1})
        pipeline.settle()
        assert course[4:] == [False, False]


def test_what_sinks_were_given_counts_once_they_were_asked_again() -> None:
    # They write while the next poll goes through: asked once, they answer for what came before.
    broker = Memory()
    broker.give({0: [1]}, {0: [2]})
    with reading_from(broker) as pipeline:
        pipeline.take(1)
        pipeline.settled()
        pipeline.take(2, before_us=LONG_AGO)  # and asks for the first
        time.sleep(0.05)
        assert broker.commits == [({0: 1}, True)]
        pipeline.settled()
        time.sleep(0.05)
        assert broker.commits == [({0: 1}, True)]
        pipeline.settled()
        eventually(lambda: broker.commits == [({0: 1}, True), ({0: 2}, True)])


# --- handing over -------------------------------------------------------------------------------


def leaving(broker: Memory, pipeline: Pipeline, before_us: int) -> Polled:
    """Lets partitions go; returns what the pipeline is given before that."""
    eventually(lambda: broker.fetches == len(pipeline.taken) + live._AHEAD + 1)
    broker.leave.set()
    eventually(pipeline.reader._handing_over.is_set)
    assert not broker.left.is_set()
    polled = pipeline.reader.poll()
    assert not broker.left.wait(0.05)  # the sinks have not said yet that they have it
    pipeline.settled(before_us)
    assert broker.left.wait(10)
    return polled


def test_before_partitions_go_what_was_taken_is_written_and_committed() -> None:
    broker = Memory()
    broker.give(*({0: [second]} for second in range(10)))
    with reading_from(broker) as pipeline:
        pipeline.take(2, before_us=LONG_AGO)
        polled = leaving(broker, pipeline, NOTHING_WAITS)
        # A batch without messages has the archive write what it has gathered.
        assert rows(polled.batches) == [0]
        assert polled.watermark_us == moment(1) - DISORDER
        assert broker.commits == [({0: 2}, False)]
        # Fetched in vain, oldest first: two were ready and one was to be.
        eventually(lambda: len(broker.dropped) == 3)
        assert [fetched.positions for fetched in broker.dropped] == [
            {0: (2, 3)}, {0: (3, 4)}, {0: (4, 5)}
        ]  # fmt: skip
        pipeline.taken = []
        found = pipeline.take(1)
        assert found[0].ahead[0].table["recorded_at"][0].as_py().second == 5


def test_partitions_go_although_readings_wait_for_their_window() -> None:
    broker = Memory()
    broker.give(*({0: [second]} for second in range(10)))
    with reading_from(broker) as pipeline:
        pipeline.take(3, before_us=LONG_AGO)
        leaving(broker, pipeline, pipeline.since[1])
        assert broker.commits == [({0: 1}, False)]
        assert broker.committed == {0: 1}


def test_partitions_go_only_when_the_archive_s_file_is_there() -> None:
    broker = Memory()
    broker.give(*({0: [second]} for second in range(10)))
    written = threading.Event()
    with (
        background.writing_ahead(),
        reading_from(broker, Told(settled=background.settle)) as pipeline,
    ):
        archive = Background(threads=1, waiting=1)
        pipeline.take(1, before_us=LONG_AGO)
        eventually(lambda: broker.fetches == live._AHEAD + 2)
        broker.leave.set()
        eventually(pipeline.reader._handing_over.is_set)
        assert rows(pipeline.reader.poll().batches) == [0]
        archive.submit(written.wait, 10)  # as that batch makes it
        asked = threading.Thread(target=pipeline.settled)
        asked.start()
        gone_before = broker.left.wait(0.2)
        written.set()
        assert not gone_before
        asked.join(10)
        assert broker.left.wait(10)


def test_where_nothing_is_under_way_the_archive_is_asked_all_the_same() -> None:
    broker = Memory()
    with reading_from(broker) as pipeline:
        pipeline.step()
        broker.leave.set()
        eventually(pipeline.reader._handing_over.is_set)
        eventually(lambda: rows(pipeline.step().batches) == [0])
        pipeline.settled()
        assert broker.left.wait(10)
        assert [fetched.batch for fetched in broker.dropped] == [None] * len(broker.dropped)
        assert broker.commits == []


def test_what_is_fetched_while_partitions_move_does_not_overtake_what_was_refused() -> None:
    broker = Memory()
    broker.give(*({0: [second]} for second in range(10)))
    with reading_from(broker) as pipeline:
        pipeline.take(2, before_us=LONG_AGO)
        eventually(lambda: broker.fetches == len(pipeline.taken) + live._AHEAD + 1)
        # A client calls from a thread of its own, and goes on fetching meanwhile.
        moving = threading.Thread(target=pipeline.reader._hand_over)
        moving.start()
        eventually(lambda: len(broker.dropped) >= 8)
        pipeline.reader.poll()
        pipeline.settled()
        moving.join(10)
        assert [fetched.positions[0][0] for fetched in broker.dropped if fetched.rows] == [
            2, 3, 4, 5, 6, 7, 8, 9
        ]  # fmt: skip
        # Fetched again; the watermark has not seen it before.
        broker.offsets = {0: 2}
        broker.give({0: [2]})
        pipeline.taken = []
        pipeline.take(1)
        assert pipeline.reader.watermark_us == moment(2) - DISORDER


def test_nothing_behind_what_is_given_back_is_taken() -> None:
    class Moves(Memory):
        """Whose pipeline polls at the very moment in which a batch is given back."""

        def refused(self, fetched: Fetched) -> None:
            super().refused(fetched)
            polled.extend(pipeline.reader.poll().batches)

    broker, polled = Moves(), list[RawBatch]()
    broker.give(*({0: [second]} for second in range(10)))
    with reading_from(broker) as pipeline:
        pipeline.take(2, before_us=LONG_AGO)
        eventually(lambda: broker.fetches == len(pipeline.taken) + live._AHEAD + 1)
        leaving(broker, pipeline, NOTHING_WAITS)
        eventually(lambda: len(broker.dropped) == live._AHEAD + 1)
        # A batch without messages is for the archive.
        assert rows(polled) in ([], [0])


def test_partitions_are_not_kept_for_ever(monkeypatch: Any, caplog: Any) -> None:
    monkeypatch.setattr(live, "_HAND_OVER_S", 0.1)
    broker = Memory()
    broker.give({0: [1]})
    with reading_from(broker) as pipeline:
        pipeline.take(1, before_us=LONG_AGO)
        broker.leave.set()
        assert broker.left.wait(10)  # the pipeline is busy with something
        assert caplog.messages == [
            "partitions go to another job while their messages are being written"
        ]
        assert broker.committed == {}
        broker.give({0: [2]})
        pipeline.take(2)
        pipeline.settle()
        eventually(lambda: broker.committed == {0: 2})


def test_when_the_run_is_over_there_is_nothing_to_wait_for(monkeypatch: Any) -> None:
    monkeypatch.setattr(live, "_HAND_OVER_S", 3_600.0)
    broker = Memory()
    broker.give({0: [1]})
    with reading_from(broker) as pipeline:
        pipeline.take(1, before_us=LONG_AGO)
        broker.refuses = True
        ending = threading.Thread(target=pipeline.reader.finish)
        ending.start()
        eventually(lambda: broker.commits_refused > 2)
        broker.leave.set()
        assert broker.left.wait(10)
        broker.refuses = False
        ending.join(10)
        assert not ending.is_alive() and broker.committed == {0: 1}


# --- a client that hangs, and a machine that sleeps ----------------------------------------------


def test_a_client_that_does_not_come_back_ends_the_run(monkeypatch: Any) -> None:
    monkeypatch.setattr(live, "_HUNG_S", 0.3)
    broker = Memory()
    held = threading.Event()
    broker.fetch = lambda: held.wait(10)  # type: ignore[assignment,return-value]
    reader = LiveReader(broker, decode, DISORDER, Told(), lambda: ARRIVED_US)
    reader.start()
    pipeline = Pipeline(reader)
    eventually(lambda: pipeline.step().done)
    assert "its client has not come back for 0 s" in str(reader._failed)
    held.set()


def test_the_time_in_which_all_stood_still_does_not_count(monkeypatch: Any) -> None:
    monkeypatch.setattr(live, "_HUNG_S", 1.5)
    broker = Memory()
    with reading_from(broker) as pipeline:
        eventually(lambda: pipeline.step() and broker.fetches > 2)
        # As if the machine had slept between two polls, and the pipeline woke up first.
        pipeline.reader._beats_seen = pipeline.reader._beats
        pipeline.reader._looked_at -= 135
        pipeline.reader._look_after()
        assert pipeline.reader._failed is None


# --- the end ------------------------------------------------------------------------------------


def test_what_was_fetched_goes_through_after_a_stop_and_then_it_is_done() -> None:
    broker = Memory()
    broker.give(*({0: [second]} for second in range(20)))
    with reading_from(broker) as pipeline:
        pipeline.take(1)
        eventually(lambda: broker.fetches == live._AHEAD + 2)
        pipeline.reader.stop()
        eventually(lambda: pipeline.step().done)
        # What was ready comes; what waited for its place then may still have found it.
        count = len(pipeline.taken)
        assert count in (live._AHEAD + 1, live._AHEAD + 2)
        time.sleep(0.05)
        assert broker.fetches == live._AHEAD + 2
        assert pipeline.step().done
    # Of what the pipeline never took nothing is given back.
    assert broker.committed == {0: count}


def test_at_the_end_all_positions_go_back_and_the_broker_is_closed() -> None:
    course: list[Any] = []
    broker = Memory(0, 1)
    broker.give({0: [100]}, {1: [1]}, {0: [2]})
    told = Told(
        settled=course.append,
        committing=lambda since_s: course.append("committing"),
    )
    with reading_from(broker, told) as pipeline:
        pipeline.take(3, before_us=LONG_AGO)
        pipeline.reader.stop()
        eventually(lambda: pipeline.step(LONG_AGO).done)
        assert broker.committed == {} and not broker.closed
        course.clear()
        pipeline.reader.finish()
        assert course == [True, "committing"]
        assert broker.closed and broker.committed == {0: 2, 1: 1}
        course.clear()


def test_an_outage_at_the_end_is_waited_for(caplog: Any) -> None:
    broker = Memory()
    broker.refuses = True
    broker.give({0: [1]})
    with reading_from(broker) as pipeline:
        pipeline.take(1)
        threading.Timer(0.3, lambda: setattr(broker, "refuses", False)).start()
        pipeline.reader.finish()
        assert broker.committed == {0: 1} and broker.commits_refused
        assert len(caplog.messages) == 1 and "trying again" in caplog.messages[0]


def test_an_outage_at_the_end_that_lasts_is_told(monkeypatch: Any, caplog: Any) -> None:
    monkeypatch.setattr(live, "_LAST_COMMIT_S", 1.2)
    broker = Memory()
    broker.refuses = True
    broker.give({0: [1]})
    reader = LiveReader(broker, decode, DISORDER, Told(), lambda: ARRIVED_US)
    reader.start()
    Pipeline(reader).take(1)
    reader.finish()
    assert caplog.messages[-1] == (
        "the last positions could not be committed; the next run reads the messages behind them "
        "again and drops them"
    )
    assert broker.committed == {}
    reader._thread.join(5)
    assert broker.closed


# --- errors -------------------------------------------------------------------------------------


def test_an_error_while_it_fetches_reaches_the_pipeline_after_what_came_before() -> None:
    broker = Memory()
    broker.give({0: [1]}, {0: [2]})
    broker.fail(OSError("the disk is gone"))
    reader = LiveReader(broker, decode, DISORDER, Told(), lambda: ARRIVED_US)
    reader.start()
    pipeline = Pipeline(reader)
    assert rows(pipeline.take(2)) == [1, 1]
    # The pipeline comes to its end in order; then it is told.
    eventually(lambda: pipeline.step().done)
    with pytest.raises(
        SourceFailed, match=r"failed \(the disk is gone\); .* again goes on"
    ) as raised:
        reader.finish()
    assert str(raised.value.__cause__) == "the disk is gone"


def test_a_job_that_is_stopped_while_nothing_can_be_read_says_so() -> None:
    broker = Memory()
    broker.give({0: [1]})
    reader = LiveReader(broker, decode, DISORDER, Told(), lambda: ARRIVED_US)
    reader.start()
    Pipeline(reader).take(1)
    broker.trouble = "no broker answers"
    reader.stop()
    with pytest.raises(SourceFailed, match=r"could not be read \(no broker answers\); what was"):
        reader.finish()
    # What was read before is committed all the same.
    assert broker.committed == {0: 1}


def test_an_error_while_it_connects_or_decodes_reaches_the_pipeline() -> None:
    class Away(Memory):
        def open(self, hand_over: Callable[[], None]) -> None:
            raise ConnectionError("nobody answers")

    def damaged(raw: RawBatch) -> tuple[Decoded, Rejects]:
        raise MemoryError

    broker = Memory()
    broker.give({0: [1]})
    for reader, cause in (
        (LiveReader(Away(), decode, DISORDER, Told()), ConnectionError),
        (LiveReader(broker, damaged, DISORDER, Told()), MemoryError),
    ):
        reader.start()
        eventually(lambda reader=reader: reader.poll().done)
        with pytest.raises(SourceFailed, match="reading the source failed") as raised:
            reader.finish()
        assert isinstance(raised.value.__cause__, cause)


# --- sources ------------------------------------------------------------------------------------


def test_a_source_hands_on_to_its_reader_and_without_one_does_nothing() -> None:
    source = LiveSource()
    source.start()
    source.stop()
    source.finish()
    assert (source.lag, source.watermark_us) == (None, None)
    broker = Memory()
    broker.give({0: [10]})
    source.reader = LiveReader(broker, decode, DISORDER, Told(), lambda: ARRIVED_US)
    source.start()
    Pipeline(source.reader).take(1)
    assert (source.lag, source.watermark_us) == (0, moment(5))
    source.stop()
    source.finish()
    assert broker.closed and broker.committed == {0: 1}


def test_the_disorder_is_five_seconds_or_what_the_uri_says() -> None:
    assert disorder_us("kafka://h/t", None) == 5 * SECOND
    assert disorder_us("kafka://h/t", "0.25") == SECOND // 4
    assert disorder_us("kafka://h/t", "86400") == 86_400 * SECOND
    for wrong in ("-1", "86401", "soon", "nan", "inf"):
        with pytest.raises(ConfigError, match=rf"^--source=kafka://h/t: disorder={wrong} must be"):
            disorder_us("kafka://h/t", wrong)
