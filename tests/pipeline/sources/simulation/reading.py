"""Collects what a simulated fleet gives, for tests."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.sources.simulation.fleet import Fleet
from pipeline.sources.simulation.parts import Block, Messages

Columns = dict[str, NDArray[Any]]


def all_messages(fleet: Fleet, size: int = 20_000, batch: int = 20_000) -> list[Messages]:
    return [m for block in fleet.blocks(size) for m in fleet.messages(block, batch)]


def by_key(batches: list[Messages]) -> dict[bytes, list[tuple[bytes, int]]]:
    found: dict[bytes, list[tuple[bytes, int]]] = defaultdict(list)
    for m in batches:
        for key, payload, at in zip(m.keys, m.payloads, m.arrived_at_us.tolist(), strict=True):
            found[key].append((payload, at))
    return found


def columns_of(fleet: Fleet, equipment: int) -> Columns:
    batches = list(fleet.columns(Block(equipment, equipment + 1)))
    return {name: np.concatenate([b[name] for b in batches]) for name in batches[0]}
