"""Keeps account of the Pub/Sub messages that are ours for now: how to extend, how to give back."""

from __future__ import annotations

import heapq
import itertools
import threading
from collections.abc import Collection, Iterable, Sequence

# A message: its id, and when it was published (µs since 1970); an emulator begins to count ids
# anew with every start.
Key = tuple[str, int]

# A lease begins with the subscription's own deadline, at least 10 s; every extension is for
# LEASE_S. After a crash nobody gets the messages for that long.
LEASE_S = 60
_FIRST_S = 3.0
_EVERY_S = 20.0
# So many acknowledged messages are remembered: Pub/Sub may deliver one again for all that.
_REMEMBERED = 100_000


class Leases:
    """The messages that were pulled and not acknowledged, by id; safe to be used by many threads.

    A message that comes again has a new acknowledgement id, and only the newest is sure to count.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[Key, str] = {}
        self._acknowledged: dict[Key, None] = {}
        self._lots: list[tuple[float, int, list[Key]]] = []
        self._number = itertools.count()

    def __len__(self) -> int:
        return len(self._held)

    def take(
        self, pulled: Sequence[tuple[Key, str]], now: float
    ) -> tuple[list[int], list[tuple[Key, str]]]:
        """Takes note of what was pulled.

        Args:
            pulled: messages with their acknowledgement ids.
            now: seconds, on any clock that `due` shares.

        Returns:
            The places in `pulled` of those that are new, and those that had been acknowledged
            already and only need it again.
        """
        new: list[int] = []
        again: list[tuple[Key, str]] = []
        with self._lock:
            for place, (key, ack_id) in enumerate(pulled):
                if key in self._acknowledged:
                    again.append((key, ack_id))
                    continue
                if key not in self._held:
                    new.append(place)
                self._held[key] = ack_id
            self._put([key for key, _ in pulled], now + _FIRST_S)
        return new, again

    def _put(self, keys: list[Key], at: float) -> None:
        if keys:
            heapq.heappush(self._lots, (at, next(self._number), keys))

    def due(self, now: float) -> list[str]:
        """Acknowledgement ids whose lease is to be extended now; they are due again later."""
        found: list[str] = []
        with self._lock:
            while self._lots and self._lots[0][0] <= now:
                keys = [key for key in heapq.heappop(self._lots)[2] if key in self._held]
                found += [self._held[key] for key in keys]
                self._put(keys, now + _EVERY_S)
        return found

    def owed(self, keys: Iterable[Key]) -> list[tuple[Key, str]]:
        """Those of the messages that are not acknowledged yet, with their newest ids."""
        with self._lock:
            return [(key, self._held[key]) for key in keys if key in self._held]

    def acknowledged(self, pairs: Collection[tuple[Key, str]]) -> None:
        """Forgets messages, but for one that has come again under another id meanwhile."""
        with self._lock:
            for key, ack_id in pairs:
                if self._held.get(key) == ack_id:
                    del self._held[key]
                    self._acknowledged[key] = None
            while len(self._acknowledged) > _REMEMBERED:
                del self._acknowledged[next(iter(self._acknowledged))]

    def let_go(self, keys: Iterable[Key]) -> list[str]:
        """Forgets messages that were not acknowledged: their ids. What comes of them again is new."""
        with self._lock:
            return [self._held.pop(key) for key in keys if key in self._held]

    def all(self) -> list[str]:
        """The acknowledgement ids of everything that is held."""
        with self._lock:
            return list(self._held.values())
