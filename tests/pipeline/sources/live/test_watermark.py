"""How far event time is said to have come, against what every partition gave and when it ended."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pipeline.sources.live.watermark import IDLE_US, NEVER, PATIENCE_US, Watermark
from tests.properties import use_profile

use_profile()

SECOND = 1_000_000
DISORDER = 5 * SECOND
START = 1_717_243_200 * SECOND


def watermark(*partitions: int, disorder_us: int = DISORDER) -> Watermark:
    found = Watermark(disorder_us)
    found.keep(partitions)
    return found


def test_it_is_the_latest_time_less_the_disorder() -> None:
    found = watermark(0)
    assert found.at(START) == NEVER
    found.saw(0, START + 10 * SECOND)
    found.saw(0, START)  # what comes late moves nothing back
    assert found.at(START) == START + 5 * SECOND


def test_of_several_partitions_the_one_furthest_behind_counts() -> None:
    found = watermark(0, 1)
    found.saw(0, START + 60 * SECOND)
    assert found.at(START) == NEVER  # of the other nothing is known
    found.saw(1, START)
    assert found.at(START) == START - DISORDER
    found.saw(1, START + 90 * SECOND)
    assert found.at(START) == START + 55 * SECOND


def test_a_partition_read_to_its_end_goes_on_with_the_clock() -> None:
    found = watermark(0)
    found.saw(0, START)
    found.ended([0], 100 * SECOND)
    assert found.at(100 * SECOND + IDLE_US) == START - DISORDER
    found.ended([0], 130 * SECOND)  # since the first time, not the last
    assert found.at(130 * SECOND + IDLE_US) == START - DISORDER + 30 * SECOND
    assert found.at(120 * SECOND) == START - DISORDER + 30 * SECOND  # a clock that was set back


def test_something_to_read_ends_the_idleness() -> None:
    found = watermark(0)
    found.saw(0, START)
    found.ended([0], 100 * SECOND)
    found.ended([], 110 * SECOND)
    reached = START + 10 * SECOND - IDLE_US  # and is remembered
    found.ended([0], 120 * SECOND)
    assert found.at(120 * SECOND + IDLE_US) == reached - DISORDER
    found.saw(0, START + SECOND)
    assert found.at(121 * SECOND) == reached - DISORDER
    found.saw(0, START + 30 * SECOND)
    assert found.at(122 * SECOND) == START + 30 * SECOND - DISORDER
    found.ended([0], 122 * SECOND)
    assert found.at(122 * SECOND + IDLE_US + 7) == START + 30 * SECOND - DISORDER + 7


def test_a_straggler_on_a_partition_that_was_idle_holds_up_nothing() -> None:
    found = watermark(0, 1)
    found.saw(1, START)
    for second in range(600):
        found.saw(0, START + second * SECOND)
        found.ended([0, 1], START + second * SECOND)
        found.at(START + second * SECOND)
    found.saw(1, START)  # ten minutes late, where nothing has come for ten minutes
    found.ended([0, 1], START + 600 * SECOND)
    found.saw(0, START + 600 * SECOND)
    assert found.at(START + 600 * SECOND) >= START + 594 * SECOND - DISORDER


def test_a_partition_far_behind_is_waited_for_no_longer_than_a_while() -> None:
    # It has much to read, all of it old; the others' time goes on.
    year = 365 * 86_400 * SECOND
    found = watermark(0, 1)
    now = START
    for second in range(60):
        now = START + second * SECOND
        found.saw(0, now)
        found.saw(1, now - year + second)
        waits = found.at(now)
        if second * SECOND < PATIENCE_US:
            assert waits == now - year + second - DISORDER
            assert found.behind == (1, year - second, START)
        else:
            assert now - PATIENCE_US - SECOND <= waits + DISORDER <= now - PATIENCE_US + SECOND
    assert found.behind is None  # it is not waited for any more


def test_one_that_stays_unknown_is_waited_for_no_longer_than_a_while() -> None:
    found = watermark(0, 1)
    found.saw(0, START)
    assert found.at(START) == NEVER and found.behind == (1, None, START)
    for second in range(PATIENCE_US // SECOND):
        assert found.at(START + second * SECOND) == NEVER
    assert found.at(START + PATIENCE_US) == START - DISORDER


def test_patience_does_not_run_out_while_nobody_could_come_nearer() -> None:
    found = watermark(0, 1)
    found.saw(0, START)
    assert found.at(START) == NEVER
    # The process stood still for an hour; then no broker answered for a minute.
    now = START + 3_600 * SECOND
    assert found.at(now) == NEVER
    for second in range(60):
        assert found.at(now + second * SECOND, answered=False) == NEVER
    assert found.at(now + 61 * SECOND) == NEVER


def test_what_event_time_waits_for_is_told_with_since_when() -> None:
    found = watermark(3, 7)
    found.saw(3, START)
    found.saw(7, START)
    assert found.at(START) == START - DISORDER and found.behind is None
    found.saw(3, START + 60 * SECOND)
    found.at(START + SECOND)
    found.saw(7, START + 20 * SECOND)
    found.at(START + 3 * SECOND)
    assert found.behind == (7, 40 * SECOND, START + SECOND)
    assert found.copy().behind == found.behind
    found.saw(7, START + 59 * SECOND)
    found.at(START + 4 * SECOND)
    assert found.behind is None


def test_an_idle_partition_does_not_hold_up_the_others() -> None:
    found = watermark(0, 1)
    for number in (0, 1):
        found.saw(number, START)
    found.ended([1], 0)
    for second in range(1, 60):
        found.saw(0, START + second * SECOND)
    assert found.at(60 * SECOND) == START + 59 * SECOND - DISORDER


def test_one_that_never_gave_anything_is_waited_for_until_it_is_idle() -> None:
    found = watermark(0, 1)
    found.saw(0, START)
    found.ended([1], 100 * SECOND)
    assert found.at(100 * SECOND + IDLE_US) == NEVER
    assert found.at(100 * SECOND + IDLE_US + 1) == START - DISORDER
    found.ended([], 102 * SECOND)  # there is something after all: its time is not known
    found.saw(0, START + 60 * SECOND)
    assert found.at(103 * SECOND) == START - DISORDER


def test_partitions_without_a_reading_alone_tell_nothing() -> None:
    found = watermark(0, 1)
    assert found.at(0) == NEVER
    found.ended([0, 1], 0)
    assert found.at(1_000 * SECOND) == NEVER
    assert watermark().at(START) == NEVER


def test_partitions_that_went_to_another_reader_hold_up_nothing() -> None:
    found = watermark(0, 1)
    found.saw(0, START)
    found.saw(1, START + 60 * SECOND)
    found.keep([1])
    assert found.at(START) == START + 55 * SECOND
    found.keep([0, 1])  # it comes back, and begins with nothing known
    found.saw(1, START + 90 * SECOND)
    assert found.at(START) == START + 55 * SECOND
    found.saw(0, START)
    assert found.at(START) == START + 55 * SECOND  # never back
    found.saw(0, START + 70 * SECOND)
    assert found.at(START) == START + 65 * SECOND
    found.keep([])
    assert found.at(START) == START + 65 * SECOND


def test_a_kept_partition_goes_on_as_it_was() -> None:
    found = watermark(0, 1)
    found.saw(0, START)
    found.ended([0], 0)
    found.keep([0])
    assert found.at(IDLE_US + SECOND) == START - DISORDER + SECOND


def test_a_partition_nobody_named_begins_with_what_it_gave() -> None:
    found = Watermark(0)
    found.saw(7, START)
    assert found.at(START) == START


@pytest.mark.parametrize("epoch", [0, START])
def test_1970_is_a_time_like_any_other(epoch: int) -> None:
    found = watermark(0, disorder_us=0)
    found.saw(0, epoch)
    found.saw(0, epoch - 10 * SECOND)  # late
    assert found.at(START) == epoch


TIMES = st.integers(-10 * SECOND, 200 * SECOND)


@given(st.lists(st.tuples(st.integers(0, 2), TIMES), min_size=3), st.integers(0, 10 * SECOND))
def test_it_is_the_least_of_the_partitions_latest_times(
    gave: list[tuple[int, int]], disorder_us: int
) -> None:
    found = watermark(0, 1, 2, disorder_us=disorder_us)
    latest: dict[int, int] = {}
    wanted = NEVER
    for number, time_us in gave:
        found.saw(number, time_us)
        latest[number] = max(time_us, latest.get(number, time_us))
        if len(latest) == 3:
            wanted = min(latest.values()) - disorder_us
        assert found.at(0) == wanted


class AnyCourse(RuleBasedStateMachine):
    """Partitions come and go, give readings and fall idle in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.watermark = Watermark(DISORDER)
        self.now = START
        self.mine: set[int] = set()
        self.latest: dict[int, int] = {}
        self.idle_since: dict[int, int] = {}
        self.idle_from: dict[int, int] = {}
        self.before = NEVER
        self.ahead: list[tuple[int, int]] = []  # at every look: waited so far, furthest time
        self.waited, self.looked = 0, START

    @rule(numbers=st.sets(st.integers(0, 3)))
    def keep(self, numbers: set[int]) -> None:
        self.watermark.keep(numbers)
        self.mine = numbers
        for known in (self.latest, self.idle_since, self.idle_from):
            for number in set(known) - numbers:
                del known[number]

    @precondition(lambda self: self.mine)
    @rule(data=st.data(), time_us=TIMES)
    def saw(self, data: Any, time_us: int) -> None:
        number = data.draw(st.sampled_from(sorted(self.mine)))
        self.watermark.saw(number, START + time_us)
        self.go_on()
        self.latest[number] = max(START + time_us, self.latest.get(number, 0))
        self.idle_since.pop(number, None)

    def go_on(self) -> None:
        """What is idle goes on with the clock, from what it had reached when it ended."""
        for number, since in self.idle_since.items():
            if number in self.latest and number in self.idle_from:
                idle = max(0, self.now - since - IDLE_US)
                if idle:
                    reached = self.idle_from[number] + idle
                    self.latest[number] = max(self.latest[number], reached)

    @rule(numbers=st.sets(st.integers(0, 3)))
    def ended(self, numbers: set[int]) -> None:
        self.watermark.ended(numbers, self.now)
        self.go_on()
        idle = numbers & self.mine
        for number in idle - set(self.idle_since):
            if number in self.latest:
                self.idle_from[number] = self.latest[number]
            else:
                self.idle_from.pop(number, None)
        self.idle_since = {number: self.idle_since.get(number, self.now) for number in idle}

    @rule(us=st.integers(0, 10 * SECOND))
    def wait(self, us: int) -> None:
        self.now += us

    @invariant()
    def it_is_right_and_never_goes_back(self) -> None:
        at = self.watermark.at(self.now)
        # Of the time between two looks a second counts.
        self.waited += min(self.now - self.looked, SECOND)
        self.looked = self.now
        self.go_on()
        idle = {n: max(0, self.now - since - IDLE_US) for n, since in self.idle_since.items()}
        unknown = [n for n in self.mine if n not in self.latest and not idle.get(n)]
        wanted = self.before
        if self.latest and not unknown:
            wanted = max(wanted, min(self.latest.values()) - DISORDER)
        # It may wait that long and little longer for any of them.
        furthest = [t for when, t in self.ahead if when <= self.waited - PATIENCE_US - SECOND]
        longest = [t for when, t in self.ahead if when <= self.waited - PATIENCE_US]
        assert at >= max([wanted, *(time - DISORDER for time in furthest[-1:])])
        assert at <= max([wanted, *(time - DISORDER for time in longest)])
        assert at >= self.before
        self.before = at
        if self.latest:
            self.ahead.append((self.waited, max(self.latest.values())))


TestAnyCourse = AnyCourse.TestCase
TestAnyCourse.settings = settings(stateful_step_count=20)
