"""Learns log10(life) from few cells: a small linear model, calibrated intervals, and its graph.

Few cells are known to the end of their life, so the model is small: for each view of the features a
partial least squares regression with two components, and the mean of these. That is one linear map,
exact as a graph. Intervals are conformal: as wide as the errors were on cells left out one at a time,
wider the further a cell is from those of the training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pipeline.prediction.model_file import IR_VERSION, OPSET
from transforms.prediction import conformal
from transforms.prediction.early_life import FEATURES, VIEWS

if TYPE_CHECKING:
    import onnx

Floats = npt.NDArray[np.float64]

SHARE = 0.9
METHOD = (
    f"mean of {len(VIEWS)} partial least squares regressions of log10(life) with 2 components, one "
    "for each view of the features"
)
INTERVALS = (
    "conformal, cells left out one at a time (jackknife), residuals of log10(life) over "
    "sqrt(1 + leverage)"
)
_COMPONENTS = 2
# Distances are taken along the directions in which the training cells differ most.
_DIRECTIONS, _LEAST_VARIANCE = 6, 1e-9
# A training cell whose error is so many robust standard deviations failed for another reason, if it
# is more than that in log10(life), too.
_STRANGE, _NOT_STRANGE = 4.0, 0.05
_FOLDS, _REPEATS = 5, 2


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
    keep = ordinary(given, log_life)
    return _fit(given[keep], log_life[keep])


def ordinary(given: Floats, log_life: Floats) -> npt.NDArray[np.bool_]:
    """Which cells are not far off the others' law, by the median absolute deviation from it."""
    residuals = log_life - _fit(given, log_life).log_life(given)
    apart = np.abs(residuals - np.median(residuals))
    within: npt.NDArray[np.bool_] = apart <= max(
        _STRANGE * 1.4826 * float(np.median(apart)), _NOT_STRANGE
    )
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
    kept = found.explained_variance_ > _LEAST_VARIANCE
    directions = found.components_[kept].T / np.sqrt(found.explained_variance_[kept])
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


def measured_errors(given: Floats, log_life: Floats, left_out: Calibration) -> dict[str, Any]:
    """How wrong the model is on the cells themselves, and on cells that it did not see."""
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


def measured_coverage(given: Floats, log_life: Floats) -> dict[str, float]:
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


def graph(found: Fit, half_width: float) -> onnx.ModelProto:
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
    made = helper.make_graph(
        nodes,
        "early_life",
        [helper.make_tensor_value_info("features", double, ["cells", width])],
        [helper.make_tensor_value_info(name, double, ["cells"]) for name in outputs],
        kept,
    )
    return helper.make_model(
        made,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="battery-streaming-pipeline",
    )
