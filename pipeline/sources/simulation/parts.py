"""Define what the simulation's steps pass on: blocks of the fleet, readings, messages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from pipeline.sources.simulation.arrays import Codes, Floats, Hashes, Ints

CHUNK: Final = 32_768  # readings held at once for one equipment; also the most a block groups


@dataclass(frozen=True)
class Kind:
    """A kind of equipment and how its readings look.

    Attributes:
        type: the name readings carry.
        short: the name in equipment ids.
        columns: the measured columns with their decimals, in the order in which they are sent.
        tests: whether readings belong to tests.
    """

    type: str
    short: str
    columns: dict[str, int]
    tests: bool


@dataclass(frozen=True)
class Block:
    """A part of the fleet that can be simulated alone: equipments first … stop - 1, one kind."""

    first: int
    stop: int

    @property
    def partition(self) -> str:
        """Name of the block's sequence of messages; offsets count within it."""
        return f"{self.first}-{self.stop - 1}"


@dataclass(frozen=True)
class Messages:
    """Consecutive messages of one block in order of arrival, as the gateway sent them.

    Attributes:
        payloads: JSON text, one object each (unless faulty).
        keys: equipment ids.
        arrived_at_us: (n,) arrival, microseconds since 1970 UTC, never falling within a block.
        partition: the block's name.
        offset: position of the first message within the block.
        faults: (n,) 0 for a healthy message, else c for `FAULTS[c - 1]`; for tests.
    """

    payloads: list[bytes]
    keys: list[bytes]
    arrived_at_us: Ints
    partition: str
    offset: int
    faults: Codes


@dataclass(frozen=True)
class Chunk:
    """Readings in event order per equipment; every array is (n,).

    `columns` holds whole numbers in units of 10**-decimals, see `Kind`; `fault` codes as in
    Messages; `chance` the probability of a fault outside stuck runs.
    """

    equipment: Ints
    reading: Ints
    recorded_ms: Ints
    noise: Hashes
    columns: dict[str, Ints]
    test: Ints | None
    fault: Codes
    chance: Floats | float


def scaled(values: Floats, decimals: int) -> Ints:
    """Rounded to whole numbers in units of 10**-decimals."""
    return np.rint(values * 10.0**decimals).astype(np.int64)
