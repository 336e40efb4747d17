"""Which of the messages that a reader gave to its engine are surely in a checkpoint."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from pipeline.engines.checkpointed import Checkpointed, Word
from pipeline.sources.pubsub.leases import Key


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
        self._known = Checkpointed()
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
            known = self._known.begin(start)
            if known is None:
                return []
            lost = [batch for batch in self._batches if batch.following > known]
            self._batches = deque(batch for batch in self._batches if batch.following <= known)
            return [key for batch in lost for key in batch.keys]

    def gave(self, keys: Sequence[Key], now_s: float) -> None:
        """These messages go to the engine, in a bundle that is not over."""
        with self._lock:
            assert self._known.following is not None
            following = self._known.following + len(keys)
            self._known.did(following)
            self._batches.append(Batch(following, keys, now_s))

    def word(self) -> Word:
        """What the engine is to say of a call, as soon as that has given what it gives."""
        return self._known.word()

    def heard(self, word: Word, now_s: float) -> None:
        """The engine says that a call's bundle is finished."""
        with self._lock:
            if self._known.heard(word):
                self._heard_s = now_s

    def durable(self) -> list[Batch]:
        """What is in a checkpoint and not settled, oldest first."""
        with self._lock:
            through = self._known.through
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
