"""Trains the early-life model, writes it as an ONNX graph, and predicts with it.

Few cells are known to the end of their life, so the model is small: for each view of the features a
partial least squares regression of log10(life) with two components, and the mean of these. That is
one linear map, exact as a graph. Intervals are conformal: as wide as the errors were on cells left
out one at a time, wider the further a cell is from those of the training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.errors import ConfigError
from pipeline.prediction.curves import CELLS, Folder
from pipeline.prediction.model_file import IR_VERSION, OPSET, Card, Model
from transforms.prediction import conformal
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
SHARE = 0.9
LEAST_CELLS = 20
_COMPONENTS = 2
# Distances are taken along the directions in which the training cells differ most.
_DIRECTIONS = 6
# A cell is outside from so many times the distance of the farthest training cell, when left out, or
# when its life would be so many times longer than the longest known, or shorter than the shortest.
_BEYOND, _LONGER = 2.0, 2.0
# A training cell whose error is so many robust standard deviations failed for another reason.
_STRANGE = 4.0
_FOLDS, _REPEATS = 5, 2
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


@dataclass(frozen=True)
class Fit:
    """What was learned of n cells: one linear map, and where cells lie.

    Attributes:
        mean, spread: of each feature, by which it is standardised.
        weights, constant: log10(life) of standardised features.
        directions: standardised features to coordinates of unit variance, shape (features, k).
        cells: n.
    """

    mean: Floats
    spread: Floats
    weights: Floats
    constant: float
    directions: Floats
    cells: int

    def log_life(self, given: Floats) -> Floats:
        """log10(life), shape (n,), of features, shape (n, features)."""
        found: Floats = (given - self.mean) / self.spread @ self.weights + self.constant
        return found

    def distance(self, given: Floats) -> Floats:
        """How far cells are from the mean of the training cells, in standard deviations."""
        at = (given - self.mean) / self.spread @ self.directions
        found: Floats = np.sqrt((at**2).mean(axis=1))
        return found

    def scale(self, given: Floats) -> Floats:
        """By what the error of a prediction grows with the distance: as in a linear regression."""
        leverage = (1 + self.distance(given) ** 2 * self.directions.shape[1]) / self.cells
        found: Floats = np.sqrt(1 + leverage)
        return found


def fit(given: Floats, log_life: Floats) -> Fit:
    """Learns log10(life), shape (n,), from features, shape (n, features).

    A cell that is far off the others' law is learned without: one that died early of something
    else would bend it for all.
    """
    found = _fit(given, log_life)
    keep = ordinary(log_life - found.log_life(given))
    return found if keep.all() else _fit(given[keep], log_life[keep])


def ordinary(residuals: Floats) -> npt.NDArray[np.bool_]:
    """Which residuals are not far off the others, by their median absolute deviation."""
    apart = np.abs(residuals - np.median(residuals))
    within: npt.NDArray[np.bool_] = apart <= _STRANGE * 1.4826 * np.median(apart)
    return within


def _fit(given: Floats, log_life: Floats) -> Fit:
    from sklearn.cross_decomposition import PLSRegression
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(given)
    standard = scaler.transform(given)
    names, weights, constants = list(FEATURES), np.zeros(len(FEATURES)), []
    for view in VIEWS.values():
        columns = [names.index(name) for name in view]
        member = PLSRegression(_COMPONENTS, scale=False).fit(standard[:, columns], log_life)
        weights[columns] += member.coef_[0] / len(VIEWS)
        constants.append(float(member.intercept_[0]))
    found = PCA(min(_DIRECTIONS, len(given) - 1), svd_solver="full").fit(standard)
    directions = found.components_.T / np.sqrt(found.explained_variance_)
    return Fit(
        scaler.mean_, scaler.scale_, weights, float(np.mean(constants)), directions, len(given)
    )


@dataclass(frozen=True)
class Calibration:
    """What cells gave when each was left out of the training.

    Attributes:
        log_life: predicted, shape (n,).
        residuals: of log10(life), divided by the scale, shape (n,).
        distances: from the others, shape (n,).
        half_width: of an interval, in log10(life) at scale 1.
    """

    log_life: Floats
    residuals: Floats
    distances: Floats
    half_width: float


def calibrate(given: Floats, log_life: Floats) -> Calibration:
    """Leaves out each cell once."""
    count = len(given)
    predicted, residuals, distances = np.empty(count), np.empty(count), np.empty(count)
    for cell in range(count):
        others = np.arange(count) != cell
        found = fit(given[others], log_life[others])
        one = given[cell : cell + 1]
        predicted[cell] = found.log_life(one)[0]
        residuals[cell] = (log_life[cell] - predicted[cell]) / found.scale(one)[0]
        distances[cell] = found.distance(one)[0]
    return Calibration(predicted, residuals, distances, conformal.half_width(residuals, SHARE))


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
    found = fit(given, log_life)
    left_out = calibrate(given, log_life)
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
            "method": f"mean of {len(VIEWS)} partial least squares regressions of log10(life) with "
            f"{_COMPONENTS} components, one for each view of the features",
            "not_learned_from": [
                name
                for name, keep in zip(
                    folder.cells,
                    ordinary(log_life - _fit(given, log_life).log_life(given)).tolist(),
                    strict=True,
                )
                if not keep
            ]
            or "none",
            "views": {name: list(view) for name, view in VIEWS.items()},
        },
        "error": _errors(log_life, given, left_out),
        "coverage": {
            "share": SHARE,
            "method": "conformal, cells left out one at a time (jackknife), residuals of "
            "log10(life) over sqrt(1 + leverage)",
            "half_width_log10": left_out.half_width,
            "residuals_log10": left_out.residuals.tolist(),
            **_coverage(given, log_life),
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
            "low": f"lower end of the {SHARE:.0%} interval",
            "high": f"upper end of the {SHARE:.0%} interval",
            "distance": "from the training cells, standard deviations",
        },
    }
    return _graph(found, left_out.half_width), card


def predict(model: Model, folder: Folder) -> pa.Table:
    """Predicts every cell of a folder.

    Returns:
        A row a cell, of SCHEMA; life_cycles, low and high are null where the cell is outside what
        the model was trained on, and reasons say in what.
    """
    domain = model.card["domain"]
    reasons = _reasons(domain, folder.curves)
    found = model.run({"features": np.nan_to_num(features(folder.curves))})
    farthest, (shortest, longest) = domain["distance_at_most"], domain["life_cycles"]
    told = zip(reasons, found["distance"].tolist(), found["life_cycles"].tolist(), strict=True)
    for why, distance, life in told:
        if why:
            continue
        if not distance <= farthest:
            why.append(
                f"features are {distance:.1f} standard deviations from the training cells, "
                f"known is up to {farthest:.1f}"
            )
        if not shortest <= life <= longest:
            why.append(
                f"life would be {life:,.0f} cycles, known is {shortest:,.0f} to {longest:,.0f}"
            )
    outside = np.array([bool(each) for each in reasons])
    columns = [pa.array(folder.cells, pa.string())]
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


def _named(folder: Folder, chosen: npt.NDArray[np.bool_]) -> str:
    names = [name for name, take in zip(folder.cells, chosen.tolist(), strict=True) if take]
    listed = ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
    return f"{len(names)} cells ({listed})" if len(names) > 1 else f"cell {listed}"


def errors(life: Floats, predicted: Floats) -> dict[str, float]:
    """How wrong predictions are, in cycles, percent and log10."""
    apart = predicted - life
    return {
        "rmse_cycles": float(np.sqrt(np.mean(apart**2))),
        "mape_percent": float(100 * np.mean(np.abs(apart) / life)),
        "rmse_log10": float(np.sqrt(np.mean(np.log10(predicted / life) ** 2))),
    }


def folds(count: int) -> list[list[npt.NDArray[np.int64]]]:
    """The cells of each fold, for every repeat of a cross-validation; always the same."""
    shuffled = [np.random.default_rng(seed).permutation(count) for seed in range(_REPEATS)]
    return [[each[fold::_FOLDS] for fold in range(_FOLDS)] for each in shuffled]


def cross_validated(given: Floats, log_life: Floats) -> Floats:
    """log10(life) of cells that were not in the training, shape (repeats, n)."""
    out = np.empty((_REPEATS, len(given)))
    for row, repeat in zip(out, folds(len(given)), strict=True):
        for fold in repeat:
            others = np.setdiff1d(np.arange(len(given)), fold)
            row[fold] = fit(given[others], log_life[others]).log_life(given[fold])
    return out


def _errors(log_life: Floats, given: Floats, left_out: Calibration) -> dict[str, Any]:
    life = 10**log_life
    several = 10 ** cross_validated(given, log_life)
    return {
        "on the training cells themselves": errors(
            life, 10 ** fit(given, log_life).log_life(given)
        ),
        "cells left out one at a time": errors(life, 10**left_out.log_life),
        f"cross-validated ({_REPEATS} × {_FOLDS} folds)": errors(
            np.tile(life, _REPEATS), several.ravel()
        ),
    }


def _coverage(given: Floats, log_life: Floats) -> dict[str, float]:
    """How often intervals held the life of cells used neither to train nor to calibrate."""
    inside, widths = [], []
    for repeat in folds(len(given)):
        for fold in repeat:
            others = np.setdiff1d(np.arange(len(given)), fold)
            found = fit(given[others], log_life[others])
            half = calibrate(given[others], log_life[others]).half_width * found.scale(given[fold])
            inside.append(np.abs(found.log_life(given[fold]) - log_life[fold]) <= half)
            widths.append(half)
    return {
        "measured_cross_validated": float(np.mean(np.concatenate(inside))),
        "median_half_width_percent": float(100 * (10 ** np.median(np.concatenate(widths)) - 1)),
    }


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
                    f"{text} is {value:.3g}{unit and ' ' + unit}, known is {low:.3g} to {high:.3g}"
                )
        out.append(reasons)
    return out


def _graph(found: Fit, half_width: float) -> onnx.ModelProto:
    """The graph: features to life_cycles, low, high and distance, in doubles."""
    from onnx import TensorProto, helper, numpy_helper

    kept: list[Any] = []

    def constant(name: str, value: Any) -> str:
        kept.append(numpy_helper.from_array(np.asarray(value, np.float64), name))
        return name

    nodes = []

    def node(kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> None:
        nodes.append(helper.make_node(kind, list(inputs), [output], **attributes))

    width, directions = found.directions.shape
    node("Sub", ["features", constant("mean", found.mean)], "centred")
    node("Div", ["centred", constant("spread", found.spread)], "standard")
    node("MatMul", ["standard", constant("weights", found.weights)], "weighted")
    node("Add", ["weighted", constant("constant", found.constant)], "log_life")
    node("MatMul", ["standard", constant("directions", found.directions)], "at")
    node("Mul", ["at", "at"], "squares")
    node("ReduceMean", ["squares"], "square", axes=[1], keepdims=0)
    node("Sqrt", ["square"], "distance")
    node("Mul", ["square", constant("share", directions / found.cells)], "leverage")
    node("Add", ["leverage", constant("one", 1 + 1 / found.cells)], "variance")
    node("Sqrt", ["variance"], "scale")
    node("Mul", ["scale", constant("half_width", half_width)], "reach")
    node("Sub", ["log_life", "reach"], "log_low")
    node("Add", ["log_life", "reach"], "log_high")
    for name, power in (("life_cycles", "log_life"), ("low", "log_low"), ("high", "log_high")):
        node("Pow", ["ten", power], name)
    constant("ten", 10.0)
    outputs = ("life_cycles", "low", "high", "distance")
    double = TensorProto.DOUBLE
    graph = helper.make_graph(
        nodes,
        KIND,
        [helper.make_tensor_value_info("features", double, ["cells", width])],
        [helper.make_tensor_value_info(name, double, ["cells"]) for name in outputs],
        kept,
    )
    return helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="battery-streaming-pipeline",
    )
