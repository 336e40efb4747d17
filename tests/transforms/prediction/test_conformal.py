"""Conformal intervals: the rank they take, and that they hold what they promise."""

from __future__ import annotations

import numpy as np
import pytest

from transforms.prediction import conformal


def test_the_residual_of_the_right_rank() -> None:
    residuals = np.array([-9.0, 1, 2, -3, 4, 5, 6, -7, 8])
    assert conformal.half_width(residuals, 0.9) == 9
    assert conformal.half_width(residuals, 0.5) == 5
    assert conformal.half_width(np.arange(1.0, 20), 0.9) == 18


@pytest.mark.parametrize(("share", "least"), [(0.9, 9), (0.5, 1), (0.95, 19), (0.8, 4)])
def test_too_few_residuals_are_an_error(share: float, least: int) -> None:
    assert conformal.least(share) == least
    conformal.half_width(np.ones(least), share)
    with pytest.raises(ValueError, match=f"{least - 1} residuals"):
        conformal.half_width(np.ones(least - 1), share)


def test_a_residual_that_is_no_number_is_an_error() -> None:
    with pytest.raises(ValueError, match="not finite"):
        conformal.half_width(np.array([1.0] * 20 + [np.nan]), 0.9)


@pytest.mark.parametrize("count", [9, 20, 41])
def test_intervals_hold_what_they_promise(count: int) -> None:
    """Whatever the distribution: here one with heavy tails, off centre."""
    rng = np.random.default_rng(count)
    drawn = rng.standard_t(2, (4000, count + 1)) + 0.5
    held = np.mean([abs(row[-1]) <= conformal.half_width(row[:-1], 0.9) for row in drawn])
    expected = np.ceil(0.9 * (count + 1) - 1e-9) / (count + 1)
    assert held == pytest.approx(expected, abs=0.015)
    assert held > 0.885


def test_coverage_counts_the_ends() -> None:
    low, high = np.array([1.0, 1, 1, 1]), np.array([2.0, 2, 2, 2])
    assert conformal.coverage(low, high, np.array([1.0, 2.0, 2.1, 1.5])) == 0.75
