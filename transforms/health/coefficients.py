"""The coefficients that come with the project, and how others are handed in."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Final

_FILE: Final = "coefficients.json"
UNKNOWN: Final = "unknown"


@dataclass(frozen=True)
class Chemistry:
    """What is taken for granted of a chemistry until a cell says otherwise.

    Attributes:
        resistance_ohm_ah: resistance times nominal capacity.
        resistance_per_k: share by which it falls per K.
        cold_per_k: share of the capacity that is not usable per K below 25 °C.
        cold_per_k_sd: how much cells differ in that; the cell's own is estimated online.
        graphite_empty: the negative electrode's filling at the lower limit.
        graphite_full: at the upper one.
    """

    resistance_ohm_ah: float
    resistance_per_k: float
    cold_per_k: float
    cold_per_k_sd: float
    graphite_empty: float
    graphite_full: float


@dataclass(frozen=True)
class Filter:
    """How fast things may change, one standard deviation a cycle, and how good the model is.

    Attributes:
        fade_per_cycle: loss that is expected before anything is known.
        fade_per_cycle_sd: how uncertain that is.
        fade_memory: cycles after which a fade that is not seen again is forgotten.
        scale_drift: of the capacity beside the fade.
        slide_drift: of the electrodes against one another, in capacities.
        resistance_drift: of the resistance, ohm x Ah.
        bias_drift: of a bias that only full discharges show.
        bias_drift_window: the same where no segment from limit to limit was seen.
        bias_per_unexplained: more of it, per share of the voltage that is not explained.
        model_v: what the model's voltage is off, V.
        place: what its charge is off, in capacities.
        repeats: by how much the variance of what is off in every cycle alike is raised.
        repeats_part: the same where the reference is made of pieces.
        most_sd: of the state of health, beyond which nothing is said.
        resistance_sd: of one cycle's resistance, ohm x Ah.
    """

    fade_per_cycle: float
    fade_per_cycle_sd: float
    fade_memory: float
    scale_drift: float
    slide_drift: float
    resistance_drift: float
    bias_drift: float
    bias_drift_window: float
    bias_per_unexplained: float
    model_v: float
    place: float
    repeats: float
    repeats_part: float
    most_sd: float
    resistance_sd: float


@dataclass(frozen=True)
class Interval:
    """Half a 90 % interval is `factor` x sqrt(variance + floor² + (per_loss x loss)²)."""

    factor: float
    floor: float
    per_loss: float


@dataclass(frozen=True)
class Coefficients:
    """All coefficients; `chemistries` has an entry "unknown"."""

    chemistries: Mapping[str, Chemistry]
    filter: Filter
    intervals: Mapping[str, Interval]

    @classmethod
    def parse(cls, given: Mapping[str, Any]) -> Coefficients:
        """From the form of the JSON file; raises KeyError or TypeError where a part is missing."""
        return cls(
            {name: Chemistry(**values) for name, values in given["chemistries"].items()},
            Filter(**given["filter"]),
            {name: Interval(**values) for name, values in given["calibration"].items()},
        )

    def of(self, chemistry: str | None) -> Chemistry:
        """Of a chemistry by its name, in any case of letters; of an unknown one otherwise."""
        name = (chemistry or UNKNOWN).strip().lower()
        return self.chemistries.get(name, self.chemistries[UNKNOWN])


@cache
def default() -> Coefficients:
    """Those of the file beside this one."""
    text = resources.files(__package__).joinpath(_FILE).read_text("utf-8")
    return Coefficients.parse(json.loads(text))
