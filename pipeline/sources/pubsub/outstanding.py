"""Which of the messages that a reader gave to its engine are surely in a checkpoint.

An engine says that a bundle is finished when some checkpoint is complete. Beam's runner says it
then of every bundle that is over, also of one that ended after the checkpoint was taken and is not
in it: the messages of that one would be lost if they were acknowledged and the engine went back.
But a bundle that is worked on after such a word was heard is finished by the word of a later
checkpoint, and a later checkpoint has all that was over when the former was complete. So ROUNDS
words are waited for, each of work that began after the word before was heard.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pipeline.sources.pubsub.leases import Key

# The first may be of a checkpoint without these messages. The next one may be taken before all
# workers have heard of the first; the one after it is not.
ROUNDS = 3


class Word(NamedTuple):
    """What an engine is given to say once it has finished a call's bundle.

    Attributes:
        generation: how often the engine had gone back before the call.
        following: the number behind the last message that was given by the end of the call.
        before: by round, up to which number words had been heard when the call began.
    """

    generation: int
    following: int
    before: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Batch:
    """Messages that were given at once.

    Attributes:
        following: the number behind the last of them.
        keys: which they are.
        given_s: when they were given.
    """

    following: int
    keys: Sequence[Key]
    given_s: float


class Outstanding:
    """The messages of one reader, which numbers them from 0 on; safe under threads.

    Times are seconds of one clock that goes on evenly.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._batches: deque[Batch] = deque()
        self._following: int | None = None
        self._generation = 0
        self._heard = (0,) * ROUNDS
        self._heard_s = float("-inf")

    def __bool__(self) -> bool:
        return bool(self._batches)

    def begin(self, start: int) -> list[Key]:
        """Goes on at a number, as the engine has it.

        Returns:
            What was given and the engine does not know of any more, because it went back to a
            checkpoint, or had this reader's work done elsewhere for a while.
        """
        with self._lock:
            if self._following is None or self._following == start:
                self._following = start
                return []
            known = start if start < self._following else -1
            lost = [batch for batch in self._batches if batch.following > known]
            self._batches = deque(batch for batch in self._batches if batch.following <= known)
            self._following = start
            self._generation += 1
            self._heard = tuple(min(each, start) for each in self._heard)
            return [key for batch in lost for key in batch.keys]

    def gave(self, keys: Sequence[Key], now_s: float) -> None:
        """These messages go to the engine, in a bundle that is not over."""
        with self._lock:
            assert self._following is not None
            self._following += len(keys)
            self._batches.append(Batch(self._following, keys, now_s))

    def before(self) -> tuple[int, ...]:
        """By round, up to which number words were heard; to be asked when a call begins."""
        with self._lock:
            return self._heard

    def word(self, before: tuple[int, ...]) -> Word:
        """What the engine is to say of a call that began at `before` and gave what it gave."""
        with self._lock:
            assert self._following is not None
            return Word(self._generation, self._following, before)

    def heard(self, word: Word, now_s: float) -> None:
        """The engine says that a call's bundle is finished."""
        with self._lock:
            if word.generation != self._generation:
                return
            self._heard_s = now_s
            news = (word.following, *word.before[:-1])
            self._heard = tuple(map(max, self._heard, news))

    def durable(self) -> list[Batch]:
        """What is in a checkpoint and not settled, oldest first."""
        with self._lock:
            through = self._heard[-1]
            return [batch for batch in self._batches if batch.following <= through]

    def settled(self, done: Collection[Batch]) -> None:
        """These were acknowledged."""
        with self._lock:
            self._batches = deque(batch for batch in self._batches if batch not in done)

    def given_up(self, before_s: float) -> list[Key]:
        """What was given before a moment, and since when the engine has said nothing; forgets it."""
        with self._lock:
            if self._heard_s >= before_s:
                return []
            found: list[Key] = []
            while self._batches and self._batches[0].given_s < before_s:
                found += self._batches.popleft().keys
            return found

    def all(self) -> list[Batch]:
        """All that was given and is not settled, oldest first."""
        with self._lock:
            return list(self._batches)
