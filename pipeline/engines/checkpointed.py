"""Up to which number work is surely in a checkpoint, from what an engine says of finished bundles.

An engine says that a bundle is finished when some checkpoint is complete. Beam's Flink runner says it
then of every bundle that is over, also of one that ended after the checkpoint was taken and is not
in it: its work would be taken for durable, and be lost if the engine went back. But a bundle that
is worked on after such a word was heard is finished by the word of a later checkpoint, and a later
checkpoint has all that was over when the former was complete. So ROUNDS words are waited for, each of
work that began after the word before was heard.
"""

from __future__ import annotations

import threading
from typing import NamedTuple

# The first may be of a checkpoint without this work. The next one may be taken before all workers
# have heard of the first; the one after it is not.
ROUNDS = 3


class Word(NamedTuple):
    """What an engine is given to say once it has finished a bundle.

    Attributes:
        generation: how often the engine had gone back before.
        following: the number behind the last that was done by then.
        before: by round, up to which number words had been heard then.
    """

    generation: int
    following: int
    before: tuple[int, ...]


class Checkpointed:
    """Of one worker's work, which is numbered; safe under threads.

    Attributes:
        following: the number behind the last that was done; None before the first `begin`.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.following: int | None = None
        self._generation = 0
        self._heard = (0,) * ROUNDS

    def begin(self, start: int) -> int | None:
        """Begins a bundle at a number, as the engine has it: what is before it the engine has, too.

        Returns:
            None where that is the next one. Otherwise the number behind the last of what was done
            here and the engine still has: it went back to a checkpoint, or had the work done
            elsewhere for a while, and then it has nothing of it.
        """
        with self._lock:
            former, self.following = self.following, start
            if former is None or former == start:
                if former is None:
                    self._heard = (start,) * ROUNDS
                return None
            self._generation += 1
            # What an engine went back to is in a checkpoint.
            self._heard = (start,) * ROUNDS
            return start if start < former else -1

    def did(self, following: int) -> None:
        """All before a number is done, in a bundle that is not over."""
        with self._lock:
            self.following = following

    def word(self) -> Word:
        """What the engine is to say of the bundle that is worked on."""
        with self._lock:
            assert self.following is not None
            return Word(self._generation, self.following, self._heard)

    def heard(self, word: Word) -> bool:
        """The engine says that a bundle is finished.

        Returns:
            Whether it is one of now, not of before the engine went back.
        """
        with self._lock:
            if word.generation != self._generation:
                return False
            news = (word.following, *word.before[:-1])
            self._heard = tuple(map(max, self._heard, news))
            return True

    @property
    def through(self) -> int:
        """All before this number is in a checkpoint."""
        with self._lock:
            return self._heard[-1]

    @property
    def is_complete(self) -> bool:
        """Whether all that was done is in a checkpoint."""
        with self._lock:
            return self.following is None or self._heard[-1] >= self.following
