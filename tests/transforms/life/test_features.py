"""Features of a history: free of size and number of cycles, right on curves that are known."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from transforms.life import features
from transforms.life.features import NAMES, Features
from transforms.life.fits import Sums, running_median
from transforms.life.history import History, Point

Soh = Callable[[float], float]


def made(
    soh: Soh, cycles: int, noise: float = 0.0, moved: float = 1.0, threshold: float = 0.8
) -> Features:
    """Features when `cycles` have been done, `soh` of the share of these; points at every one."""
    scatter = np.random.default_rng(3).normal(0.0, 1.0, cycles + 1)
    history = History()
    for k in range(cycles + 1):
        history.add(Point(k + 1, moved * k, soh(k / cycles) + noise * float(scatter[k])))
    return features.of(history, threshold)


def value(found: Features, name: str) -> float:
    assert found.values is not None
    return float(found.values[NAMES.index(name)])


def test_a_straight_fade_has_its_remaining_spans_at_every_look() -> None:
    found = made(lambda t: 1.0 - 0.05 * t, 400, noise=0.0002)
    for name in NAMES:
        if name.startswith("straight"):
            assert value(found, name) == pytest.approx(math.log(3.0), abs=0.06)
    assert value(found, "stage") == pytest.approx(0.25, abs=0.01)
    assert value(found, "spread") < 0.1
    assert found.is_fading
    assert found.soh == pytest.approx(0.95, abs=3e-4)


@pytest.mark.parametrize("shape", [lambda t: 1.0 - 0.08 * t**0.5, lambda t: 1.0 - 0.1 * t**3])
def test_cells_of_one_shape_are_alike_whatever_their_number_of_cycles(shape: Soh) -> None:
    few, many = made(shape, 127, moved=0.5), made(shape, 127 * 16, moved=2.0)
    for name in ("soh", "margin", "stage", "straight", "lost_1", "lost_4", "bend"):
        assert value(few, name) == pytest.approx(value(many, name), abs=0.1), name


def test_a_knee_is_found_where_it_is() -> None:
    found = made(lambda t: 1.0 - 0.03 * t - 0.2 * max(t - 0.8, 0.0), 600, noise=0.0003)
    assert value(found, "knee_at") == pytest.approx(-0.2, abs=0.02)
    assert math.sinh(value(found, "knee_ratio")) == pytest.approx(0.23 / 0.03, rel=0.1)
    left = (found.soh - 0.8) / 0.23
    assert value(found, "knee_straight") == pytest.approx(math.log(left), abs=0.05)


def test_a_flat_cell_does_not_fade_and_its_features_stay_finite() -> None:
    found = made(lambda _: 1.0, 300, noise=0.002)
    assert not found.is_fading
    assert value(found, "straight") <= math.log(1000.0) + 1e-6
    exact = made(lambda _: 1.0, 300)
    assert exact.values is not None
    known = [n for n in NAMES if not n.startswith("resistance")]
    assert all(math.isfinite(value(exact, name)) for name in known)


def test_single_outliers_change_little() -> None:
    history, spoiled = History(), History()
    for k in range(120):
        soh = 1.0 - 5e-4 * k
        history.add(Point(k + 1, float(k), soh))
        spoiled.add(Point(k + 1, float(k), soh * (0.7 if k % 29 == 11 else 1.0)))
    clean, dirty = features.of(history), features.of(spoiled)
    assert dirty.soh == pytest.approx(clean.soh, abs=1e-3)
    assert value(dirty, "straight") == pytest.approx(value(clean, "straight"), abs=0.05)


def test_few_points_give_no_features_but_health() -> None:
    history = History()
    assert features.of(history).values is None
    for k in range(features.LEAST_POINTS - 1):
        history.add(Point(k + 1, float(k), 0.97))
    found = features.of(history)
    assert found.values is None
    assert found.soh == pytest.approx(0.97)


@pytest.mark.parametrize("shrinks", [True, False])
def test_cycles_ahead_move_less_where_they_did_before(shrinks: bool) -> None:
    """Full cycles of a fading cell move ever less; a drive's may move the same to the end."""
    history, moved = History(), 0.0
    for k in range(300):
        soh = 1.0 - 0.1 * k / 299
        moved += soh if shrinks else 1.0
        history.add(Point(k + 1, moved, soh))
    ahead = features.of(history).cycles_per_throughput
    assert ahead == pytest.approx(1.0 / 0.85 if shrinks else 1.0, rel=0.01)


def test_fits_are_those_of_numpy() -> None:
    dice = np.random.default_rng(2)
    u = np.sort(dice.uniform(-1.0, 0.0, 40))
    y, sigma = 1.0 + 0.1 * u + dice.normal(0.0, 0.01, 40), dice.uniform(0.002, 0.02, 40)
    sums = Sums(u, y, sigma**-2)
    for first, stop in ((0, 40), (25, 40), (0, 12)):
        part = slice(first, stop)
        slope, level = np.polyfit(u[part], y[part], 1, w=1.0 / sigma[part])
        found = sums.line(first, stop)
        assert found.slope == pytest.approx(slope, rel=1e-9)
        assert found.level == pytest.approx(level, rel=1e-9)
    bend, tilt, _ = np.polyfit(u[10:], y[10:], 2, w=1.0 / sigma[10:])
    parabola = sums.parabola(10)
    assert parabola is not None
    assert (parabola.bend, parabola.slope) == pytest.approx((bend, tilt), rel=1e-7)
    knee = sums.knee()
    assert knee is not None
    basis = np.stack((np.ones_like(u), u, np.maximum(u - knee.at, 0.0)), axis=1) / sigma[:, None]
    _, before, turn = np.linalg.lstsq(basis, y / sigma, rcond=None)[0]
    assert (knee.before, knee.after) == pytest.approx((before, before + turn), rel=1e-7)


def test_the_running_median_is_that_of_windows_of_five() -> None:
    y = np.random.default_rng(4).normal(size=30)
    found = running_median(y)
    assert all(found[k] == np.median(y[k - 2 : k + 3]) for k in range(2, 28))
