"""A fleet is repeatable however it is cut, and as large as asked for."""

from __future__ import annotations

import itertools
import pickle
import tracemalloc
from datetime import UTC, datetime

import numpy as np
import pytest

from pipeline.sources.simulation.config import FleetConfig
from pipeline.sources.simulation.fleet import Fleet
from pipeline.sources.simulation.parts import Block
from tests.pipeline.sources.simulation.reading import all_messages, by_key, columns_of


def test_the_same_seed_gives_the_same_messages_and_another_seed_others() -> None:
    def run(seed: int) -> dict[bytes, list[tuple[bytes, int]]]:
        config = FleetConfig(readings=4000, seed=seed, faults=0.1, late=0.1, duplicates=0.1)
        return by_key(all_messages(Fleet(config)))

    assert run(7) == run(7)
    ours, theirs = run(7), run(8)
    assert ours.keys() == theirs.keys()
    assert all(ours[key] != theirs[key] for key in ours)


@pytest.mark.parametrize(("size", "batch"), [(1, 700), (900, 333), (20_000, 1), (10**9, 10**6)])
def test_neither_block_nor_batch_size_changes_a_message(size: int, batch: int) -> None:
    config = FleetConfig(equipment=40, readings=9_000, faults=0.1, late=0.1, duplicates=0.1)
    assert by_key(all_messages(Fleet(config), size, batch)) == by_key(all_messages(Fleet(config)))


def test_a_reading_does_not_depend_on_how_many_are_wanted() -> None:
    few = columns_of(Fleet(FleetConfig(equipment=4, readings=4 * 500)), 2)
    # More than the 500 cycles that are planned at once.
    many = columns_of(Fleet(FleetConfig(equipment=4, readings=4 * 150_000)), 2)
    life = columns_of(Fleet(FleetConfig(equipment=4)), 2)
    assert len(few["voltage_v"]) == 500
    assert len(many["voltage_v"]) == 150_000
    for name in few:
        np.testing.assert_array_equal(few[name], many[name][:500])
        np.testing.assert_array_equal(life[name], many[name][: len(life[name])])


def test_blocks_are_small_pickles_and_cover_the_fleet_once() -> None:
    fleet = Fleet(FleetConfig(equipment=50_000, readings=1_000_000))
    blocks = fleet.blocks(20_000)
    assert 40 <= len(blocks) <= 60
    assert [e for b in blocks for e in range(b.first, b.stop)] == list(range(50_000))
    assert len(pickle.dumps(blocks[0])) < 200
    assert len({b.partition for b in blocks}) == len(blocks)


@pytest.mark.parametrize(
    "config",
    [
        FleetConfig(readings=10_007),
        FleetConfig(equipment=7, machines=0, readings=5),
        FleetConfig(equipment=3, machines=3, readings=1001),
        FleetConfig(equipment=333, readings=100_001, duplicates=0.013),
        FleetConfig(equipment=5, cycles=3, duplicates=1.0),
        FleetConfig(equipment=4, cycles=2, interval=600.0, late=0.5, duplicates=0.3),
    ],
    ids=lambda c: f"{c.equipment}-{c.readings}",
)
def test_total_is_the_exact_number_of_messages(config: FleetConfig) -> None:
    fleet = Fleet(config)
    batches = all_messages(fleet, batch=977)
    assert sum(len(m.payloads) for m in batches) == fleet.total
    if config.readings is not None:
        assert int(fleet.counts.sum()) == config.readings
        assert int(np.ptp(fleet.counts)) <= 1


def test_the_default_fleet_is_small_enough_and_lies_in_the_past(default: Fleet) -> None:
    assert 600_000 <= default.total <= 1_200_000
    ends = [int(columns_of(default, e)["recorded_at_us"][-1]) for e in (0, 3, 7)]
    assert max(ends) < datetime(2026, 1, 1, tzinfo=UTC).timestamp() * 1e6
    assert abs(default.ends_at_us - max(ends)) < 10 * 86_400e6


def test_offsets_count_on_and_arrival_never_falls_within_a_block() -> None:
    fleet = Fleet(FleetConfig(equipment=30, readings=30_000, late=0.1, duplicates=0.1))
    for block in fleet.blocks(8_000):
        batches = list(fleet.messages(block, 999))
        assert [m.offset for m in batches] == list(range(0, batches[-1].offset + 1, 999))
        assert {m.partition for m in batches} == {block.partition}
        assert all(len(m.payloads) == 999 for m in batches[:-1])
        arrived = np.concatenate([m.arrived_at_us for m in batches])
        assert arrived.dtype == np.int64
        assert np.all(np.diff(arrived) >= 0)


def test_memory_does_not_grow_with_the_life_of_an_equipment() -> None:
    def peak(readings: int) -> int:
        fleet = Fleet(FleetConfig(equipment=1, readings=readings, late=0.05))
        tracemalloc.start()
        for _ in itertools.islice(fleet.messages(Block(0, 1), 4096), 12):
            pass
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    assert peak(100_000_000) < 1.3 * peak(110_000) < 120e6
