"""The history of a cell stays small, keeps what fits need, and is the same after a restart."""

from __future__ import annotations

import math

import numpy as np
import pytest

from transforms.life import features
from transforms.life.history import MOST, MOST_BYTES, History, HistoryError, Point


def fading(cycles: int, noise: float = 0.0) -> list[Point]:
    scatter = np.random.default_rng(1).normal(0.0, noise, cycles) if noise else np.zeros(cycles)
    return [
        Point(
            k + 1, 0.97 * (k + 1), 1.0 - 1e-4 * k + float(scatter[k]), 0.001, 0.05 + 1e-6 * k, 25.0
        )
        for k in range(cycles)
    ]


def test_a_long_life_takes_under_four_kilobytes() -> None:
    history = History()
    most = 0
    for point in fading(3000):
        history.add(point)
        most = max(most, len(history.to_bytes()))
        assert history.columns().soh.size <= MOST + 1
    assert most <= MOST_BYTES <= 4096
    assert len(history) == 3000


def test_a_restart_at_every_point_changes_no_bit() -> None:
    kept, packed = History(), b""
    for point in fading(700, noise=0.002):
        kept.add(point)
        restarted = History.from_bytes(packed)
        restarted.add(point)
        packed = restarted.to_bytes()
    assert packed == kept.to_bytes()
    ours, theirs = features.of(kept, 0.8), features.of(History.from_bytes(packed), 0.8)
    assert ours.values is not None and theirs.values is not None
    assert ours.values.tobytes() == theirs.values.tobytes()


def test_groups_lie_on_the_line_of_their_points() -> None:
    history = History()
    for point in fading(1000):
        history.add(point)
    c = history.columns()
    assert np.allclose(c.soh, 1.0 - 1e-4 * (c.cycle - 1.0), atol=1e-6)
    assert np.allclose(c.throughput, 0.97 * c.cycle, rtol=1e-6)
    assert c.points.sum() == 1000


def test_a_sure_point_counts_more_than_an_unsure_one() -> None:
    history = History()
    for point in fading(MOST + 1):
        sure = point.cycle % 2 == 1
        history.add(
            Point(point.cycle, point.throughput, 0.9 if sure else 0.5, 0.001 if sure else 0.1)
        )
    assert np.allclose(history.columns().soh[0], 0.9, atol=1e-4)


def test_a_correction_replaces_the_newest_and_a_late_one_is_refused() -> None:
    history = History()
    for point in fading(20):
        assert history.add(point)
    assert history.add(Point(20, 19.4, 0.5))
    assert len(history) == 20
    assert history.columns().soh[-1] == 0.5
    before = history.to_bytes()
    assert not history.add(Point(19, 18.4, 0.5))
    assert not history.add(Point(21, 20.0, math.nan))
    assert not history.add(Point(21, 1.0, 0.9))
    assert history.to_bytes() == before


@pytest.mark.parametrize(
    "spoil",
    [
        lambda b: b[:10],
        lambda b: b[:-1],
        lambda b: b"xx" + b[2:],
        lambda b: b[:2] + b"\x09" + b[3:],
    ],
)
def test_other_bytes_are_refused(spoil: object) -> None:
    history = History()
    for point in fading(20):
        history.add(point)
    assert callable(spoil)
    with pytest.raises(HistoryError):
        History.from_bytes(spoil(history.to_bytes()))


def test_no_bytes_are_an_empty_history() -> None:
    assert History.from_bytes(b"").last is None
    assert History().to_bytes() == b""
