"""Conformal prediction: intervals as wide as errors on cells that a model never saw say."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def least(share: float) -> int:
    """How many residuals an interval that holds `share` of the truth takes at least."""
    return math.ceil(share / (1 - share) - 1e-9)


def half_width(residuals: Floats, share: float) -> float:
    """How far from the prediction an interval reaches that holds `share` of the truth.

    The residual of a new cell is equally likely to have any rank among those of n cells and its
    own, so it is at most the one of rank ⌈share · (n + 1)⌉ with at least that probability.

    Args:
        residuals: of cells that the model did not see, shape (n,); in whatever unit the interval is
            to be, divided by a scale where the errors are not equally large everywhere.
        share: of the truth, 0 to 1.

    Raises:
        ValueError: there are fewer residuals than `least`, or one is not finite.
    """
    sizes = np.sort(np.abs(residuals))
    if not np.isfinite(sizes).all():
        raise ValueError("a residual is not finite")
    rank = math.ceil(share * (len(sizes) + 1) - 1e-9)
    if rank > len(sizes):
        raise ValueError(f"{len(sizes)} residuals; {share:.0%} takes {least(share)}")
    return float(sizes[rank - 1])


def coverage(low: Floats, high: Floats, truth: Floats) -> float:
    """The share of the truth that lies in its interval, ends included."""
    return float(np.mean((low <= truth) & (truth <= high)))
