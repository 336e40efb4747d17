"""Bring messages into order of arrival: delays, second copies, what is still on its way."""

from __future__ import annotations

from operator import itemgetter

import numpy as np

from pipeline.sources.simulation import draws
from pipeline.sources.simulation.arrays import Codes, Floats, Hashes, Ints
from pipeline.sources.simulation.config import FleetConfig
from pipeline.sources.simulation.parts import Chunk, Messages


def delays_us(config: FleetConfig, noise: Hashes) -> Ints:
    """Microseconds from each reading to its arrival."""
    delay_us = 20_000 + draws.bits(noise, 48) * 61  # 20 to 270 ms
    if config.late:
        dice = draws.mix(noise ^ draws.SALT["delay"])
        lag = 3.0 * config.interval * 20.0 ** draws.uniform(dice, 4)
        late = draws.uniform(dice, 5) < config.late
        delay_us += np.where(late, 1e6 * lag, 0.0).astype(np.int64)
    return delay_us


def sent_twice(count: Ints, share: float, keys: Hashes) -> Ints:
    """How many of the first `count` messages of the equipments with these keys are sent twice."""
    return _whole(count, share, draws.uniform(keys, 3))


def second_copies(chunk: Chunk, share: float, keys: Hashes) -> tuple[Ints, Ints]:
    """Positions of the readings that are sent twice and, in microseconds, how much later.

    `keys` are those of the equipments that the readings belong to.
    """
    phase = draws.uniform(keys, 3)
    twice = np.flatnonzero(
        _whole(chunk.reading + 1, share, phase) > _whole(chunk.reading, share, phase)
    )
    return twice, 1_000_000 + draws.bits(chunk.noise[twice], 36) * 7_000  # 1 to 30 s


class Pending:
    """Messages that were sent but not yet handed on; `settled` of them can't be overtaken."""

    def __init__(self, payloads: list[bytes], keys: list[bytes], at: Ints, codes: Codes) -> None:
        self.payloads, self.keys, self.at, self.codes = payloads, keys, at, codes
        self.settled = 0

    @classmethod
    def empty(cls) -> Pending:
        """None yet."""
        return cls([], [], np.zeros(0, np.int64), np.zeros(0, np.int8))

    def add(self, payloads: list[bytes], keys: list[bytes], at: Ints, codes: Codes) -> None:
        """Takes on messages; none of them arrived before a settled one."""
        self.payloads += payloads
        self.keys += keys
        self.at = np.concatenate((self.at, at))
        self.codes = np.concatenate((self.codes, codes))

    def settle(self, horizon: int | None) -> None:
        """Sorts by arrival and settles all that arrived up to the horizon (None: all)."""
        if np.any(self.at[1:] < self.at[:-1]):
            order = np.argsort(self.at, kind="stable")
            self.at, self.codes = self.at[order], self.codes[order]
            pick = itemgetter(*order.tolist())  # two or more, or there were no order to mend
            self.payloads, self.keys = list(pick(self.payloads)), list(pick(self.keys))
        everything = self.at.size
        self.settled = (
            everything if horizon is None else int(np.searchsorted(self.at, horizon, "right"))
        )

    def take(self, n: int, partition: str, offset: int) -> Messages:
        """Hands on the first `n`, which must be settled."""
        taken = Messages(
            self.payloads[:n], self.keys[:n], self.at[:n], partition, offset, self.codes[:n]
        )
        del self.payloads[:n], self.keys[:n]
        self.at, self.codes = self.at[n:], self.codes[n:]
        self.settled -= n
        return taken


def _whole(count: Ints, share: float, phase: Floats) -> Ints:
    """How many of the first `count` are chosen when `share` of them are, evenly spread."""
    return np.floor(count * share + phase).astype(np.int64)
