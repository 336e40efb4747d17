"""The early-life model: trains it with its card, and predicts the cells that are like its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.errors import ConfigError
from pipeline.prediction import regression
from pipeline.prediction.curves import CELLS, Folder
from pipeline.prediction.model_file import Card, Model
from transforms.prediction.early_life import (
    FEATURES,
    MARGINS,
    SHAPES,
    VIEWS,
    Curves,
    features,
    missing,
    shapes,
)

if TYPE_CHECKING:
    import onnx

Floats = npt.NDArray[np.float64]

KIND = "early_life"
# The model that ships with this package.
SHIPPED: Final = Path(__file__).with_name("models") / "early_life.onnx"
LEAST_CELLS = 20
# A cell is outside from so many times the distance of the farthest training cell, when left out, or
# when its life would be so many times longer than the longest known, or shorter than the shortest.
_BEYOND, _LONGER = 2.0, 2.0
_SHOWN = 5

SCHEMA: Final = pa.schema(
    [
        ("cell", pa.string()),
        ("life_cycles", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("out_of_domain", pa.bool_()),
        ("reasons", pa.list_(pa.string())),
    ]
)


def train(folder: Folder, split: str | None, origin: str | None) -> tuple[onnx.ModelProto, Card]:
    """Learns from all cells of a folder.

    Args:
        folder: read with lives.
        split: which of the folder's cells these are, for the card.
        origin: where they come from, for the card.

    Returns:
        The graph and its card.

    Raises:
        ConfigError: a cell lacks its life or a curve, or there are too few.
    """
    given, log_life = _training(folder)
    found = regression.fit(given, log_life)
    left_out = regression.calibrate(given, log_life)
    strange = ~regression.ordinary(given, log_life)
    card: Card = {
        "name": "early-life",
        "kind": KIND,
        "about": "Cycles until 80 % of nominal capacity, from a cell's first hundred cycles.",
        "data": {
            "origin": origin or "not stated (--origin)",
            "split": split or "all cells",
        },
        "training": {
            "cells": list(folder.cells),
            "count": len(folder.cells),
            "life_cycles": [float(min(folder.life_cycles)), float(max(folder.life_cycles))],
            "method": regression.METHOD,
            "not_learned_from": _chosen(folder, strange),
            "views": {name: list(view) for name, view in VIEWS.items()},
        },
        "error": regression.measured_errors(given, log_life, left_out),
        "coverage": {
            "share": regression.SHARE,
            "method": regression.INTERVALS,
            "half_width_log10": left_out.half_width,
            "residuals_log10": left_out.residuals.tolist(),
            **regression.measured_coverage(given, log_life),
        },
        "domain": {
            "distance_at_most": _BEYOND * float(left_out.distances.max()),
            "life_cycles": [
                float(min(folder.life_cycles)) / _LONGER,
                float(max(folder.life_cycles)) * _LONGER,
            ],
            "shapes": _limits(folder.curves),
        },
        "limits": "Cells of the training's chemistry, capacity and discharge alone; others are "
        "reported as out_of_domain. A cell that fails suddenly for a reason that its first hundred "
        "cycles do not show is predicted too long.",
        "features": dict(FEATURES),
        "inputs": {
            "features": "features of each cell, in the order of the card, double [cells, features]"
        },
        "outputs": {
            "life_cycles": "prediction, cycles, double [cells]",
            "low": f"lower end of the {regression.SHARE:.0%} interval",
            "high": f"upper end of the {regression.SHARE:.0%} interval",
            "distance": "from the training cells, standard deviations",
        },
    }
    return regression.graph(found, left_out.half_width), card


def predict(model: Model, cells: Sequence[str], curves: Curves) -> pa.Table:
    """Predicts cells.

    Args:
        model: of this kind.
        cells: the names of n cells.
        curves: theirs.

    Returns:
        A row a cell, of SCHEMA; life_cycles, low and high are null where the cell is outside what
        the model was trained on, and reasons say in what.
    """
    domain = model.card["domain"]
    reasons = _reasons(domain, curves)
    found = model.run({"features": np.nan_to_num(features(curves))})
    farthest, (shortest, longest) = domain["distance_at_most"], domain["life_cycles"]
    told = zip(reasons, found["distance"].tolist(), found["life_cycles"].tolist(), strict=True)
    for why, distance, life in told:
        if why:
            continue
        if not distance <= farthest:
            why.append(
                f"features are {distance:.1f} standard deviations from the training cells, "
                f"beyond {farthest:.1f}"
            )
        if not shortest <= life <= longest:
            why.append(
                f"life would be {life:,.0f} cycles, outside {shortest:,.0f} to {longest:,.0f}"
            )
    outside = np.array([bool(each) for each in reasons])
    columns = [pa.array(cells, pa.string())]
    columns += [
        pa.array(found[name], pa.float64(), mask=outside) for name in ("life_cycles", "low", "high")
    ]
    columns += [pa.array(outside), pa.array(reasons, pa.list_(pa.string()))]
    return pa.Table.from_arrays(columns, schema=SCHEMA)


def _training(folder: Folder) -> tuple[Floats, Floats]:
    where = f"{folder.flag}: {CELLS}"
    unknown = ~(np.isfinite(folder.life_cycles) & (folder.life_cycles > 0))
    if unknown.any():
        raise ConfigError(
            f"{where}: column life_cycles is missing or not above 0 for {_named(folder, unknown)}; "
            "train on cells whose life is known"
        )
    lacks = np.array([bool(each) for each in missing(folder.curves)])
    if lacks.any():
        cell = int(np.argmax(lacks))
        raise ConfigError(
            f"{folder.flag}: discharge_curves.parquet: column discharge_ah has no whole curve of "
            f"cycle {missing(folder.curves)[cell][0]} for {_named(folder, lacks)}; leave these out"
        )
    if len(folder.cells) < LEAST_CELLS:
        raise ConfigError(
            f"{where}: has {len(folder.cells)} cells to train on; at least {LEAST_CELLS} are needed "
            "(--split takes only some)"
        )
    return features(folder.curves), np.log10(folder.life_cycles)


def _chosen(folder: Folder, chosen: npt.NDArray[np.bool_]) -> list[str]:
    return [name for name, take in zip(folder.cells, chosen.tolist(), strict=True) if take]


def _named(folder: Folder, chosen: npt.NDArray[np.bool_]) -> str:
    names = _chosen(folder, chosen)
    listed = ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
    return f"{len(names)} cells ({listed})" if len(names) > 1 else f"cell {listed}"


def _limits(curves: Curves) -> dict[str, list[float]]:
    found = shapes(curves)
    margins = np.array([MARGINS[name] for name in SHAPES])
    low, high = found.min(axis=0) - margins, found.max(axis=0) + margins
    return {name: [float(low[at]), float(high[at])] for at, name in enumerate(SHAPES)}


def _reasons(domain: Card, curves: Curves) -> list[list[str]]:
    out: list[list[str]] = []
    for lacks, row in zip(missing(curves), shapes(curves).tolist(), strict=True):
        if lacks:
            listed = ", ".join(map(str, lacks))
            out.append([f"no whole discharge curve of cycle{'s' * (len(lacks) > 1)} {listed}"])
            continue
        reasons = []
        for (name, (text, unit)), value in zip(SHAPES.items(), row, strict=True):
            low, high = domain["shapes"][name]
            if not low <= value <= high:
                reasons.append(
                    f"{text} is {value:.3g}{unit and ' ' + unit}, outside {low:.3g} to {high:.3g}"
                )
        out.append(reasons)
    return out
