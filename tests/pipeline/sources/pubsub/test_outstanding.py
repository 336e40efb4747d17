"""When a message that an engine was given may be acknowledged: never before a checkpoint has it."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.engines.checkpointed import ROUNDS, Word
from pipeline.sources.pubsub.leases import Key
from pipeline.sources.pubsub.outstanding import Outstanding
from tests.properties import use_profile

use_profile()


def keys(first: int, count: int) -> list[Key]:
    return [(f"m{number}", 0) for number in range(first, first + count)]


def durable(outstanding: Outstanding) -> list[Key]:
    return [key for batch in outstanding.durable() for key in batch.keys]


def call(outstanding: Outstanding, given: Sequence[Key] = (), now_s: float = 0.0) -> Word:
    """What a reader's call does; the word that its engine is to say."""
    if given:
        outstanding.gave(given, now_s)
    return outstanding.word()


def test_one_word_or_many_of_one_checkpoint_are_not_enough() -> None:
    outstanding = Outstanding()
    outstanding.begin(0)
    words = [call(outstanding, keys(at * 10, 10)) for at in range(5)]
    words += [call(outstanding) for _ in range(5)]
    for word in reversed(words):
        outstanding.heard(word, 1.0)
    assert durable(outstanding) == []


def test_words_of_work_that_began_after_the_last_one_was_heard_are_what_counts() -> None:
    outstanding = Outstanding()
    outstanding.begin(0)
    first = call(outstanding, keys(0, 10))
    outstanding.heard(first, 1.0)
    second = call(outstanding, keys(10, 10))
    also = call(outstanding, keys(20, 5))
    outstanding.heard(second, 2.0)
    outstanding.heard(also, 2.0)
    assert durable(outstanding) == []
    third = call(outstanding)
    outstanding.heard(third, 3.0)
    assert durable(outstanding) == keys(0, 10)
    outstanding.settled(outstanding.durable())
    assert durable(outstanding) == [] and outstanding
    outstanding.heard(call(outstanding), 4.0)
    assert durable(outstanding) == keys(10, 15)
    outstanding.settled(outstanding.durable())
    assert not outstanding


def test_what_could_not_be_acknowledged_stays() -> None:
    outstanding = Outstanding()
    outstanding.begin(0)
    outstanding.heard(call(outstanding, keys(0, 3)), 0.0)
    for _ in range(ROUNDS):
        outstanding.heard(call(outstanding), 0.0)
    assert durable(outstanding) == durable(outstanding) == keys(0, 3)


def test_what_an_engine_went_back_behind_is_given_back_and_its_words_count_no_more() -> None:
    outstanding = Outstanding()
    outstanding.begin(100)
    kept = call(outstanding, keys(0, 10))
    lost = call(outstanding, keys(10, 10))
    assert outstanding.begin(120) == []
    assert outstanding.begin(110) == keys(10, 10)
    # Other messages have these numbers now.
    again = call(outstanding, keys(50, 10))
    for word in (kept, lost):
        for _ in range(ROUNDS):
            outstanding.heard(word, 0.0)
    # What the checkpoint has that it went back to is safe, and no more.
    assert durable(outstanding) == keys(0, 10)
    outstanding.heard(again, 0.0)
    for _ in range(ROUNDS - 1):
        outstanding.heard(call(outstanding), 0.0)
    assert durable(outstanding) == [*keys(0, 10), *keys(50, 10)]


def test_a_reader_that_was_elsewhere_meanwhile_knows_nothing_of_what_it_gave() -> None:
    outstanding = Outstanding()
    outstanding.begin(0)
    word = call(outstanding, keys(0, 10))
    assert outstanding.begin(500) == keys(0, 10) and not outstanding
    outstanding.heard(word, 0.0)
    assert outstanding.begin(500) == []


def test_what_nothing_is_said_of_is_given_up_and_not_before() -> None:
    outstanding = Outstanding()
    outstanding.begin(0)
    word = call(outstanding, keys(0, 1), now_s=10.0)
    call(outstanding, keys(1, 1), now_s=20.0)
    assert outstanding.given_up(10.0) == []
    assert outstanding.given_up(15.0) == keys(0, 1)
    # As long as checkpoints are told, however long they take, nothing is.
    outstanding.heard(word, 100.0)
    assert outstanding.given_up(99.0) == []
    assert outstanding.given_up(101.0) == keys(1, 1) and not outstanding


# What an engine does, at any moment: a bundle with messages or without; a checkpoint is taken, is
# complete, and this worker hears of it; it goes back to the last complete one.
_STEPS = st.lists(
    st.sampled_from(["give", "give", "idle", "take", "complete", "hear", "fail"]), max_size=80
)


# What is over when a worker hears of the first checkpoint may be in neither of two.
@example(["take", "complete", "take", "give", "hear", "idle", "complete", "hear"])
@given(_STEPS)
def test_whatever_an_engine_does_only_what_a_checkpoint_has_is_acknowledged(
    steps: list[str],
) -> None:
    outstanding = Outstanding()
    outstanding.begin(0)
    at = 0  # the reader's next number
    sent = 0  # messages that were ever given; after going back other ones have the same numbers
    taken: int | None = None  # the reader's next number in the checkpoint that is under way
    complete = 0  # and in the last complete one
    unheard = 0  # complete ones that this worker has not heard of
    over: list[Word] = []
    own: dict[Key, int] = {}
    for step in steps:
        if step in ("give", "idle"):
            assert outstanding.begin(at) == []
            given_keys = keys(sent, 2) if step == "give" else []
            own |= {key: at + place for place, key in enumerate(given_keys)}
            over.append(call(outstanding, given_keys))
            at, sent = at + len(given_keys), sent + len(given_keys)
        elif step == "take" and taken is None and unheard < 2:
            taken = at
        elif step == "complete" and taken is not None:
            complete, taken, unheard = taken, None, unheard + 1
        elif step == "hear" and unheard:
            # Beam's runner says it of all bundles that are over, whether a checkpoint has them.
            for word in over:
                outstanding.heard(word, 0.0)
            over, unheard = [], unheard - 1
        elif step == "fail":
            for key in outstanding.begin(complete) if at != complete else ():
                assert own.pop(key) >= complete
            at, taken, over, unheard = complete, None, [], 0
        for key in durable(outstanding):
            assert own[key] < complete, key
        outstanding.settled(outstanding.durable())
