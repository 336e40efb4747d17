"""Draw random numbers: splitmix64 (Steele et al., OOPSLA 2014) of equipment key and position."""

from __future__ import annotations

from statistics import NormalDist
from typing import Any, Final

import numpy as np

from pipeline.sources.simulation.arrays import Floats, Hashes, Ints

GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)
_SALTS: Final = np.array([0x51ED270B, 0x2545F491, 0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A,
                          0x510E527F], np.uint64) * GOLDEN  # fmt: skip
# One per purpose, so that what a reading's hash decides for one says nothing of the others.
SALT: Final = dict(
    zip(("fleet", "delay", "fault", "cell", "load", "rating", "cycle"), _SALTS, strict=True)
)
_NORMALS: Final = np.array([NormalDist().inv_cdf((i + 0.5) / 4096) for i in range(4096)])


def mix(x: Any) -> Hashes:
    """Hashes 64-bit numbers; (n,) to (n,)."""
    with np.errstate(over="ignore"):
        z = np.asarray(x, np.uint64) + GOLDEN
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed: Hashes = z ^ (z >> np.uint64(31))
    return mixed


def bits(hashes: Hashes, shift: int) -> Ints:
    """Twelve bits of each hash, 0 … 4095: one hash serves five draws."""
    return ((hashes >> np.uint64(shift)) & np.uint64(0xFFF)).astype(np.int64)


def normal(hashes: Hashes, shift: int) -> Floats:
    """Standard normal numbers, at most 3.7 either way."""
    drawn: Floats = _NORMALS[bits(hashes, shift)]
    return drawn


def uniform(hashes: Hashes, purpose: int) -> Floats:
    """Uniform numbers in 0 … 1; another purpose takes other bits."""
    spread = hashes * (GOLDEN + np.uint64(2 * purpose))
    return (spread >> np.uint64(11)).astype(np.float64) * 2.0**-53
