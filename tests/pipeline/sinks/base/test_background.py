"""Sinks that write behind: when what they were given is durable, and where a failure shows."""

from __future__ import annotations

import threading

import pytest

from pipeline.sinks.base import background
from pipeline.sinks.base.background import Background, settle, writing_ahead


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of other tests is asked."""
    monkeypatch.setattr(background, "_all", type(background._all)())


def fail() -> None:
    raise OSError("the disk is full")


def test_a_bundle_ends_when_all_it_gave_is_written() -> None:
    writes = Background(threads=2, waiting=3)
    for number in range(10):
        writes.submit(pow, number, 2)
    assert writes.drain() == [number**2 for number in range(10)]
    assert writes.drain() == []


def test_not_more_than_a_few_wait() -> None:
    writes, go = Background(threads=1, waiting=1), threading.Event()
    writes.submit(go.wait, 10)
    given = threading.Thread(target=writes.submit, args=(pow, 2, 2))
    given.start()
    given.join(0.1)
    assert given.is_alive()
    go.set()
    given.join(10)
    assert writes.drain() == [True, 4]


def test_what_fails_raises_where_the_bundle_ends_and_the_next_try_is_free() -> None:
    writes = Background(threads=1, waiting=2)
    writes.submit(fail)
    with pytest.raises(OSError, match="full"):
        writes.drain()
    writes.submit(pow, 3, 2)
    assert writes.drain() == [9]


def test_ahead_a_bundle_ends_before_and_asking_twice_tells_when() -> None:
    go = threading.Event()
    with writing_ahead():
        writes = Background(threads=1, waiting=2)
        writes.submit(go.wait, 10)
        assert writes.drain() == []
        settle()  # of what was there when it was last asked: nothing
        asked = threading.Thread(target=settle)
        asked.start()
        asked.join(0.1)
        assert asked.is_alive()
        go.set()
        asked.join(10)
        assert not asked.is_alive() and writes.drain() == [True]


def test_ahead_everything_means_what_was_given_since_too() -> None:
    done = []
    with writing_ahead():
        one, other = Background(threads=1, waiting=2), Background(threads=1, waiting=2)
        settle()
        for writes in (one, other):
            writes.submit(threading.Event().wait, 0.02)
            writes.submit(done.append, 1)
        settle(everything=True)
        assert done == [1, 1]


def test_ahead_a_failure_ends_the_job_wherever_it_shows() -> None:
    with writing_ahead():
        writes = Background(threads=1, waiting=2)
        writes.submit(fail)
        for again in (lambda: settle(everything=True), writes.drain, settle):
            with pytest.raises(OSError, match="full"):
                again()
        with pytest.raises(OSError, match="full"):
            writes.submit(pow, 1, 1)


def test_a_job_is_not_told_what_an_earlier_one_failed_at() -> None:
    with writing_ahead():
        left = Background(threads=1, waiting=2)
        left.submit(fail)
        with pytest.raises(OSError, match="full"):
            settle(everything=True)
    with writing_ahead():
        settle(everything=True)
