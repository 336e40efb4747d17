"""Turn what a model of the remaining life puts out into cycles, and say where it may not be used."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from transforms.life.features import NAMES, Features
from transforms.life.history import Floats

# Reasons, beside `out_of_range:NAME` for a feature that the model was not trained on.
TOO_LITTLE: Final = "too_little_history"
NO_FADE: Final = "no_fade"
PAST: Final = "past_threshold"
_ANY: Final = 1e30  # JSON knows no infinity


@dataclass(frozen=True)
class Domain:
    """What a model was trained on.

    Attributes:
        low: least value of each feature, (len(NAMES),).
        high: greatest value of each.
        missing: whether it was ever missing (NaN), bool.
    """

    low: Floats
    high: Floats
    missing: np.ndarray[Any, np.dtype[np.bool_]]

    @classmethod
    def of(cls, features: Floats, spared: float = 2e-4) -> Domain:
        """Of training's features (n, len(NAMES)); the outermost `spared` of each side left out.

        A feature that was always missing had no part in the training: nothing is outside of it.
        """
        none = np.isnan(features)
        unused = none.all(axis=0)
        known = np.where(unused, 0.0, features)
        low, high = np.nanquantile(known, (spared, 1.0 - spared), axis=0)
        width = np.where(unused, _ANY, 0.02 * (high - low))
        return cls(low - width, high + width, np.asarray(none.any(axis=0)))

    @classmethod
    def parse(cls, card: Mapping[str, Any]) -> Domain:
        """From a model card's `domain` and `may_be_missing`.

        Raises:
            ValueError: it is not of these features.
        """
        rows: Mapping[str, Sequence[float]] = card["domain"]
        if tuple(rows) != NAMES:
            raise ValueError("its features are not those of this version")
        low, high = np.array([rows[name] for name in NAMES], np.float64).T
        return cls(low, high, np.isin(np.array(NAMES), card["may_be_missing"]))

    def card(self) -> dict[str, Any]:
        """As `parse` reads it."""
        ends = zip(NAMES, self.low.tolist(), self.high.tolist(), strict=True)
        return {
            "domain": {name: [low, high] for name, low, high in ends},
            "may_be_missing": np.array(NAMES)[self.missing].tolist(),
        }

    def outside(self, values: Floats) -> tuple[str, ...]:
        """Names of the features whose value the model was not trained on."""
        none = np.isnan(values)
        bad = np.where(none, ~self.missing, (values < self.low) | (values > self.high))
        return tuple(np.array(NAMES)[bad].tolist())


@dataclass(frozen=True)
class Remaining:
    """What is said of one cell.

    Attributes:
        cycles: cycle numbers left until the state of health is below the threshold, the median; None
            where nothing can be said.
        cycles_low: lower end of the 90 % interval; alone where no fade shows yet.
        cycles_high: upper end.
        throughput: the same in equivalent full cycles.
        throughput_low: its lower end.
        throughput_high: its upper end.
        knee_risk: probability that the fade soon turns fast (the model's card defines it); None
            where nothing can be said.
        out_of_domain: whether the cell is unlike those that the model was trained on, or too short
            to tell; then there is no prediction.
        reasons: why something is None or 0.
    """

    cycles: float | None
    cycles_low: float | None
    cycles_high: float | None
    throughput: float | None
    throughput_low: float | None
    throughput_high: float | None
    knee_risk: float | None
    out_of_domain: bool
    reasons: tuple[str, ...]


def is_asked(features: Features) -> bool:
    """Whether the model is to be run at all."""
    return features.values is not None and features.margin > 0.0


def of(
    features: Features,
    domain: Domain,
    spans: Sequence[float] | Floats = (),
    knee_risk: float = math.nan,
) -> Remaining:
    """What a model's outputs mean for a cell with these features.

    Args:
        features: of the cell's history.
        domain: the model's.
        spans: remaining throughput in spans of the history: low, median, high; not needed where
            `is_asked` is not so.
        knee_risk: as the model gives it.
    """
    if math.isfinite(features.margin) and features.margin <= 0.0:
        return Remaining(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, None, False, (PAST,))
    if features.values is None:
        return Remaining(None, None, None, None, None, None, None, True, (TOO_LITTLE,))
    outside = domain.outside(features.values.astype(np.float64))
    if outside:
        reasons = tuple(f"out_of_range:{name}" for name in outside)
        return Remaining(None, None, None, None, None, None, None, True, reasons)
    low, middle, high = (float(share) * features.span for share in spans)
    cycles = features.cycles_per_throughput
    if not features.is_fading:
        return Remaining(None, low * cycles, None, None, low, None, knee_risk, False, (NO_FADE,))
    return Remaining(
        middle * cycles, low * cycles, high * cycles, middle, low, high, knee_risk, False, ()
    )
