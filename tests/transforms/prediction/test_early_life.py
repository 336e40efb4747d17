"""Features of discharge curves: known differences, glitches, gaps, and curves of another kind."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.early_cells import CYCLES, made
from transforms.prediction import early_life
from transforms.prediction.early_life import FEATURES, SHAPES, VIEWS, VOLTAGES, Curves, Floats


def feature(curves: Curves, name: str) -> Floats:
    found = early_life.features(curves)
    assert found.shape == (len(curves.discharged), len(FEATURES))
    column: Floats = found[:, list(FEATURES).index(name)]
    return column


def shape(curves: Curves, name: str) -> Floats:
    column: Floats = early_life.shapes(curves)[:, list(SHAPES).index(name)]
    return column


def with_curve(curves: Curves, cycle: int, curve: Floats) -> Curves:
    changed = curves.discharged.copy()
    changed[:, CYCLES.index(cycle)] = curve
    return replace(curves, discharged=changed)


def test_views_take_features_that_there_are() -> None:
    taken = {name for view in VIEWS.values() for name in view}
    assert taken == set(FEATURES)
    assert all(len(set(view)) == len(view) for view in VIEWS.values())


def test_a_known_loss_gives_known_features() -> None:
    """20 mAh lost over a quarter of the voltages, at cycle 100 alone."""
    curves, _ = made(3, seed=1)
    lost = np.where((VOLTAGES > 2.6) & (VOLTAGES < 2.975), 0.02, 0.0)
    share = (lost > 0).mean()
    curves = with_curve(curves, 100, curves.at(20) - lost)
    sd = 0.02 * np.sqrt(share * (1 - share))
    assert feature(curves, "min_100_20") == pytest.approx(np.log10(0.022))
    assert feature(curves, "sd_100_20") == pytest.approx(np.log10(sd + 0.002 / 3))
    assert feature(curves, "mean_100_20") == pytest.approx(np.log10(0.02 * share + 0.001))
    assert feature(curves, "end_100_20") == pytest.approx(0)
    assert early_life.log_variance(curves, 100, 20) == pytest.approx(np.log10(sd**2))


def test_no_loss_at_all_is_no_infinity() -> None:
    curves, _ = made(2, seed=1)
    same = replace(curves, discharged=np.repeat(curves.discharged[:, :1], len(CYCLES), axis=1))
    found = early_life.features(replace(same, capacities=np.full((2, 99), 1.06)))
    assert np.isfinite(found).all()
    assert feature(same, "min_100_20") == pytest.approx(np.log10(0.002))


def test_capacity_and_its_slopes() -> None:
    curves, _ = made(2, seed=2)
    at = np.arange(2, 101)
    line = 1.07 - 1e-4 * at
    ends = line[np.array(CYCLES) - 2]
    discharged = curves.discharged / curves.discharged[:, :, -1:] * ends[:, None]
    curves = Curves(CYCLES, discharged, np.tile(line, (2, 1)))
    assert feature(curves, "capacity_2") == pytest.approx(line[0])
    assert feature(curves, "slope_91_100") == pytest.approx(np.arcsinh(-2))
    assert feature(curves, "slope_61_100") == pytest.approx(np.arcsinh(-2))
    assert feature(curves, "rise_capacity") == pytest.approx(line[2] - (line[0] + line[1]) / 2)
    assert feature(curves, "fade") == pytest.approx(np.log10(line[2] - line[-3] + 0.002))


def test_glitches_of_capacity_change_nothing_much() -> None:
    curves, _ = made(4, seed=3)
    clean = early_life.features(curves)
    broken = curves.capacities.copy()
    broken[0, 9] = 31.0
    broken[1, 40] = 0.0
    broken[2, 70] = np.nan
    broken[3] = 0.0
    found = early_life.features(replace(curves, capacities=broken))
    assert found == pytest.approx(clean, abs=0.05)
    assert early_life.clean_capacities(curves) == pytest.approx(curves.capacities)


def test_a_curve_that_is_missing_is_named() -> None:
    curves, _ = made(3, seed=4)
    changed = curves.discharged.copy()
    changed[1, CYCLES.index(60), 500] = np.nan
    without = Curves(CYCLES[:-1], changed[:, :-1], curves.capacities)
    assert early_life.missing(curves) == [[], [], []]
    assert early_life.missing(without) == [[100], [60, 100], [100]]
    assert np.isnan(early_life.features(without)).any(axis=1).all()
    assert np.isnan(early_life.shapes(without)[:, list(SHAPES).index("kept")]).all()


def test_the_order_of_cells_does_not_matter() -> None:
    curves, _ = made(5, seed=5)
    turned = Curves(CYCLES, curves.discharged[::-1], curves.capacities[::-1])
    assert early_life.features(turned)[::-1] == pytest.approx(early_life.features(curves))


def test_the_shape_of_a_plateau() -> None:
    curves, _ = made(4, seed=6)
    assert shape(curves, "half_voltage") == pytest.approx(3.1, abs=0.01)
    assert shape(curves, "plateau") == pytest.approx(2 * 0.02 * np.log(3), abs=0.01)
    assert shape(curves, "start") == pytest.approx(0, abs=1e-6)
    assert shape(curves, "backwards") == pytest.approx(0, abs=1e-9)
    assert shape(curves, "capacity") == pytest.approx(curves.capacities[:, 0])
    assert shape(curves, "kept") == pytest.approx(
        curves.discharged[:, -1, -1] / curves.discharged[:, 0, -1]
    )


def test_a_sloping_discharge_has_another_shape() -> None:
    """As of NMC or LCO, which have given much of their charge by 3.5 V."""
    curves, _ = made(1, seed=7)
    sloping = with_curve(curves, 2, np.linspace(0.6, 1.06, len(VOLTAGES)))
    assert shape(sloping, "start") == pytest.approx(0.6 / 1.06)
    assert shape(sloping, "half_voltage") > 3.4


def test_a_curve_that_runs_backwards_is_measured() -> None:
    curves, _ = made(1, seed=8)
    dented = curves.at(30).copy()
    dented[:, 800:] -= 0.03
    assert shape(with_curve(curves, 30, dented), "backwards") == pytest.approx(0.03, abs=1e-6)
