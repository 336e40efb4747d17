"""Trains the model of the remaining life from the fade so far.

Gradient-boosted trees give three quantiles (5, 50, 95 %) of the logarithm of the remaining
throughput in spans of the history (`transforms.life.features`), and the risk of a knee. The outer
two are widened by split conformal prediction on cells that the trees never saw, by stage of life;
what is said of error and coverage is measured on a third group of cells.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import onnx
from onnx import helper
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.linear_model import LogisticRegression

from pipeline.errors import ConfigError
from pipeline.prediction.model_file import Card
from pipeline.prediction.remaining_life import KIND
from pipeline.training import life_cells, trees
from pipeline.training.life_cells import LifeCell
from transforms.life import answer, features
from transforms.life.answer import Domain
from transforms.life.features import Features
from transforms.life.history import Floats, History, Ints

if TYPE_CHECKING:
    import argparse

THRESHOLD: Final = 0.8
INTERVAL: Final = 0.9
_QUANTILES: Final = ((1.0 - INTERVAL) / 2.0, 0.5, (1.0 + INTERVAL) / 2.0)
# By these features intervals are widened alike between the edges.
_GROUPS: Final = ("stage", "spread")
_PLACES: Final = (features.NAMES.index(_GROUPS[0]), features.NAMES.index(_GROUPS[1]))
_EDGES: Final = ((0.2, 0.4, 0.6, 0.8), (0.05, 0.2, 0.6))
_FEW_KNEES: Final = 10  # snapshots: of fewer nothing is learned
_SNAPSHOTS: Final = 12  # of a cell
_LEAST_CELLS: Final = 40
_OF_OWN: Final = 30  # of a cell that is one's own: there are fewer
# Of the cells: trees, calibration, test.
_SHARES: Final = (0.6, 0.2, 0.2)
_OWN_SHARES: Final = (0.8, 0.2)  # trees and calibration by cross-validation, test
_FOLDS: Final = 5
_AGE: Final = features.NAMES.index("age")
_TREES: Final = {
    "max_iter": 250,
    "learning_rate": 0.08,
    "max_leaf_nodes": 12,
    "min_samples_leaf": 60,
    "l2_regularization": 1.0,
    "early_stopping": False,
    "random_state": 0,
}


@dataclass(frozen=True)
class Snapshot:
    """A cell at one moment of its life, with what came after.

    Attributes:
        cell: its name.
        family: its family.
        threshold: of the state of health.
        share: of the life's cycles that is spent.
        features: of the history so far.
        cycles: cycle numbers left.
        throughput: equivalent full cycles left.
        life: cycle number of the end of life.
        now: cycle number of the newest point.
        knee_ahead: see `life_cells.KNEE`.
        is_own: see `LifeCell`.
    """

    cell: str
    family: str
    threshold: float
    share: float
    features: Features
    cycles: float
    throughput: float
    life: float
    now: int
    knee_ahead: bool
    is_own: bool


def snapshots(
    cell: LifeCell, shares: Sequence[float], thresholds: Sequence[float], begin: float = 0.0
) -> Iterator[Snapshot]:
    """A cell at these shares of its life to the thresholds; none where it is too short to tell.

    Args:
        cell: the cell.
        shares: of the cycles to the threshold, 0 to 1.
        thresholds: one for each share; those that the cell does not reach are left out.
        begin: cycle number from which it was seen.
    """
    wanted = []
    for share, threshold in zip(shares, thresholds, strict=True):
        end = cell.end(threshold)
        if end is not None and cell.soh[0] > threshold + 0.03:
            wanted.append((share * end[0], share, threshold, end))
    history = History()
    points = iter(cell.points)
    ahead = next(points, None)
    for until, share, threshold, (end_cycle, end_throughput) in sorted(wanted):
        while ahead is not None and ahead.cycle <= until:
            if ahead.cycle >= begin:
                history.add(ahead)
            ahead = next(points, None)
        last = history.last
        if last is None or len(history) < features.LEAST_POINTS or last.cycle >= end_cycle:
            continue
        found = features.of(history, threshold)
        yield Snapshot(
            cell=cell.name,
            family=cell.family,
            threshold=threshold,
            share=share,
            features=found,
            cycles=end_cycle - last.cycle,
            throughput=end_throughput - last.throughput,
            life=end_cycle,
            now=last.cycle,
            knee_ahead=life_cells.knee_ahead(cell, last.throughput, found.span),
            is_own=cell.is_own,
        )


def drawn_snapshots(cell: LifeCell, seed: int) -> Iterator[Snapshot]:
    """A cell at random moments and thresholds, for training; some are seen only from later on."""
    dice = np.random.default_rng((seed, *cell.name.encode()))
    count = _OF_OWN if cell.is_own else _SNAPSHOTS
    shares = dice.uniform(0.03, 1.0, count)
    usual = dice.random(count) < 0.6
    thresholds = np.where(usual, THRESHOLD, dice.uniform(0.65, 0.92, count))
    begin = dice.uniform(0.0, 0.3) * cell.cycle[-1] if dice.random() < 0.15 else 0.0
    return snapshots(cell, shares.tolist(), thresholds.tolist(), begin)


@dataclass(frozen=True)
class _Rows:
    """Snapshots as arrays, (n,) and (n, features)."""

    cell: np.ndarray[Any, np.dtype[np.str_]]
    x: Floats
    y: Floats  # log of spans left
    knee: np.ndarray[Any, np.dtype[np.bool_]]
    share: Floats
    cycles: Floats
    life: Floats
    per_span: Floats  # cycle numbers in a span
    is_own: np.ndarray[Any, np.dtype[np.bool_]]

    @classmethod
    def of(cls, found: Iterable[Snapshot]) -> _Rows:
        asked = [one for one in found if answer.is_asked(one.features)]
        if not asked:
            raise ConfigError("--simulate: no cell has a history that is long enough; give more")
        own = np.array([one.is_own for one in asked])
        x = np.stack([np.asarray(one.features.values, np.float64) for one in asked])
        x[~own, _AGE] = np.nan  # synthetic lives are of any length: theirs says nothing
        return cls(
            np.array([one.cell for one in asked]),
            x,
            np.log([one.throughput / one.features.span for one in asked]),
            np.array([one.knee_ahead for one in asked]),
            np.array([one.share for one in asked]),
            np.array([one.cycles for one in asked]),
            np.array([one.life for one in asked]),
            np.array([one.features.span * one.features.cycles_per_throughput for one in asked]),
            own,
        )

    def those(self, which: np.ndarray[Any, Any]) -> _Rows:
        return _Rows(**{name: value[which] for name, value in vars(self).items()})


def fit(found: Iterable[Snapshot], seed: int = 1) -> tuple[onnx.ModelProto, Card]:
    """Trains, calibrates and tests on snapshots; each cell is in one of the three groups only.

    Returns:
        The model, and the part of its card that is measured.

    Raises:
        ConfigError: there are too few cells.
    """
    rows = _Rows.of(found)
    dice = np.random.default_rng(seed)
    own = dice.permutation(np.unique(rows.cell[rows.is_own]))
    others = dice.permutation(np.unique(rows.cell[~rows.is_own]))
    if own.size + others.size < _LEAST_CELLS:
        raise ConfigError(
            f"--simulate: {own.size + others.size} cells are known to their end, and at least "
            f"{_LEAST_CELLS} are needed to learn from and to calibrate with; give --simulate=2000, "
            "also with --warehouse"
        )
    # Enough own cells calibrate and test alone: others help to learn, but their errors are others'.
    is_for_own = own.size >= _LEAST_CELLS
    if is_for_own:
        known, kept_back = _split(own, _OWN_SHARES)
        learning = [np.append(known, others)]
        # There are few: each calibrates a model that learned from the rest.
        folds = np.array_split(known, _FOLDS)
        parts = [(np.setdiff1d(learning[0], fold), fold) for fold in folds]
    else:
        learned, calibrating, kept_back = _split(np.append(own, others), _SHARES)
        learning, parts = [learned], [(learned, calibrating)]
    train, test = (rows.those(np.isin(rows.cell, part)) for part in (learning[0], kept_back))
    final = _learn(train)
    said = []
    for learned, fold in parts:
        calibration = rows.those(np.isin(rows.cell, fold))
        models = _learn(rows.those(np.isin(rows.cell, learned))) if is_for_own else final
        said.append((calibration, models.say(calibration.x)))
    low, high, raw = (np.concatenate([each[k] for _, each in said]) for k in range(3))
    y, x, cell, knee = (
        np.concatenate([getattr(one, name) for one, _ in said])
        for name in ("y", "x", "cell", "knee")
    )
    tail = (1.0 - INTERVAL) / 2.0
    wider = [
        conformal(low - y, groups(x), cell, tail),
        conformal(y - high, groups(x), cell, tail),
    ]
    made = _graph(final, wider, *_scaling(raw, knee))
    _same(made, final.quantiles, wider, test.x)
    return made, {
        "cells": {"own": own.size, "synthetic": others.size, "trained": learning[0].size,
                  "calibrated": np.unique(cell).size, "tested": kept_back.size},
        **Domain.of(train.x).card(),
        "widened_by": {"edges": dict(zip(_GROUPS, _EDGES, strict=True)), "low": wider[0],
                       "high": wider[1], "unit": "log of spans"},
        **_measured(made, test),
    }  # fmt: skip


@dataclass(frozen=True)
class _Learned:
    """Trees for the three quantiles, and for the knee; `base` is the logit without trees for it."""

    quantiles: list[trees.Boosted]
    knee: trees.Boosted | None
    base: float

    def say(self, x: Floats) -> tuple[Floats, Floats, Floats]:
        """Low and high quantile, and the knee's logit before it is scaled, (n,) each."""
        raw = np.full(len(x), self.base) if self.knee is None else self.knee.decision_function(x)
        return self.quantiles[0].predict(x), self.quantiles[2].predict(x), raw


def _learn(train: _Rows) -> _Learned:
    if train.is_own.any() and not train.is_own.all():
        # Both kinds count alike, about. Rows are repeated: weights make quantiles very slow.
        times = round(float((~train.is_own).sum() / train.is_own.sum()))
        train = train.those(
            np.repeat(np.arange(train.y.size), np.where(train.is_own, max(times, 1), 1))
        )
    # One that is always missing is made constant, so that no tree asks for it.
    x = np.where(np.isnan(train.x).all(axis=0), 0.0, train.x)
    settings = _TREES | {"min_samples_leaf": min(60, max(10, train.y.size // 50))}
    quantiles = [
        HistGradientBoostingRegressor(loss="quantile", quantile=q, **settings).fit(x, train.y)
        for q in _QUANTILES
    ]
    if min(train.knee.sum(), (~train.knee).sum()) < _FEW_KNEES:
        share = (train.knee.sum() + 0.5) / (train.knee.size + 1.0)
        return _Learned(quantiles, None, float(np.log(share / (1.0 - share))))
    knee = HistGradientBoostingClassifier(**settings | {"max_iter": 80, "max_leaf_nodes": 8})
    return _Learned(quantiles, knee.fit(x, train.knee), 0.0)


def _scaling(raw: Floats, knee: np.ndarray[Any, np.dtype[np.bool_]]) -> tuple[float, float]:
    """Slope and shift that make the knee's logit a probability; as it is where knees are few."""
    if min(knee.sum(), (~knee).sum()) < _FEW_KNEES or np.ptp(raw) == 0.0:
        return 1.0, 0.0
    scaled = LogisticRegression(C=1e6).fit(raw[:, None], knee)
    return float(scaled.coef_[0, 0]), float(scaled.intercept_[0])


def _split(
    names: np.ndarray[Any, Any], shares: Sequence[float]
) -> list[np.ndarray[Any, np.dtype[np.str_]]]:
    return np.split(names, (np.cumsum(shares[:-1]) * names.size).astype(int))


def groups(x: Floats) -> Ints:
    """The group of each snapshot, (n, 2): where its stage and its spread lie between the edges."""
    found = [np.digitize(x[:, place], edges) for place, edges in zip(_PLACES, _EDGES, strict=True)]
    return np.stack(found, axis=1)


def conformal(
    score: Floats, group: Ints, cell: np.ndarray[Any, np.dtype[np.str_]], tail: float
) -> list[list[float]]:
    """By how much an end of the interval has to be moved out in each group.

    The snapshots of a cell count as one together: not they but cells are alike. The quantile is
    that of n cells and one more (split conformal prediction); a group of too few cells for it is
    moved as all of its stage together, or as all.

    Args:
        score: how far the truth lies beyond the end, (n,); negative inside.
        group: of each snapshot, (n, 2).
        cell: whose it is, (n,).
        tail: share that may lie beyond.
    """

    def moved(own: np.ndarray[Any, np.dtype[np.bool_]], otherwise: float) -> float:
        _, which, count = np.unique(cell[own], return_inverse=True, return_counts=True)
        if (1.0 - tail) * (count.size + 1) > count.size:
            return otherwise
        order = np.argsort(score[own])
        weight = np.cumsum((1.0 / count[which])[order])
        at = int(np.searchsorted(weight, (1.0 - tail) * (count.size + 1)))
        return float(score[own][order[min(at, order.size - 1)]])

    all_moved = moved(np.ones(score.size, np.bool_), float(np.max(score)))
    out = []
    for stage in range(len(_EDGES[0]) + 1):
        at_stage = moved(group[:, 0] == stage, all_moved)
        out.append(
            [
                moved((group == (stage, spread)).all(axis=1), at_stage)
                for spread in range(len(_EDGES[1]) + 1)
            ]
        )
    return out


def _graph(
    learned: _Learned,
    wider: Sequence[Sequence[Sequence[float]]],
    slope: float,
    shift: float,
) -> onnx.ModelProto:
    logs = trees.Ensemble(3)
    for target, model in enumerate(learned.quantiles):
        logs.add(model, target)
    risk = trees.Ensemble(1)
    if learned.knee is None:
        risk.add_table((0, 0), ((), ()), [[learned.base]], 0)
    else:
        risk.add(learned.knee, 0)
    logs.add_table(_PLACES, _EDGES, [[-value for value in row] for row in wider[0]], 0)
    logs.add_table(_PLACES, _EDGES, wider[1], 2)
    make = helper.make_node
    nodes = [
        logs.node("features", "logs"),
        make("Split", ["logs"], ["low", "middle", "high"], axis=1),
        make("Min", ["low", "middle"], ["lowest"]),
        make("Max", ["high", "middle"], ["highest"]),
        make("Concat", ["lowest", "middle", "highest"], ["ordered"], axis=1),
        make("Exp", ["ordered"], ["spans"]),
        risk.node("features", "raw"),
        make("Mul", ["raw", "slope"], ["steeper"]),
        make("Add", ["steeper", "shift"], ["logit"]),
        make("Sigmoid", ["logit"], ["knee_risk"]),
    ]
    constants = {"slope": np.float32(slope), "shift": np.float32(shift)}
    return trees.graph(KIND, nodes, len(features.NAMES), {"spans": 3, "knee_risk": 1}, constants)


def _run(made: onnx.ModelProto, x: Floats) -> tuple[Floats, Floats]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(made.SerializeToString(), options)
    spans, risk = session.run(["spans", "knee_risk"], {"features": x.astype(np.float32)})
    return spans.astype(np.float64), risk[:, 0].astype(np.float64)


def _same(
    made: onnx.ModelProto,
    quantiles: Sequence[trees.Boosted],
    wider: Sequence[Sequence[Sequence[float]]],
    x: Floats,
) -> None:
    """What was written is what was trained: trees that are written wrong must not be used."""
    low, middle, high = (model.predict(x) for model in quantiles)
    stage, spread = groups(x).T
    low = np.minimum(low - np.array(wider[0])[stage, spread], middle)
    high = np.maximum(high + np.array(wider[1])[stage, spread], middle)
    found = np.log(_run(made, x)[0])
    if not np.allclose(found, np.stack((low, middle, high), axis=1), atol=1e-4):
        raise RuntimeError("the written model does not give what the trained one gives")


def _measured(made: onnx.ModelProto, test: _Rows) -> dict[str, Any]:
    spans, risk = _run(made, test.x)
    low, middle, high = spans.T * test.per_span
    inside = (np.log(spans[:, 0]) <= test.y) & (test.y <= np.log(spans[:, 2]))
    by_share = {}
    for at in (0.2, 0.4, 0.6, 0.8):
        own = np.abs(test.share - at) <= 0.1
        if not own.any():
            continue
        error = np.abs(middle - test.cycles)[own]
        by_share[f"{at:g}"] = {
            "snapshots": int(own.sum()),
            "mean_error_of_remaining": _round(error / test.cycles[own], np.mean),
            "median_error_of_remaining": _round(error / test.cycles[own], np.median),
            "mean_error_of_life": _round(error / test.life[own], np.mean),
            "coverage": _round(inside[own], np.mean),
            "median_width_of_life": _round((high - low)[own] / test.life[own], np.median),
        }
    warned = risk >= 0.5
    return {
        "error": {f"at {share} of life": figures for share, figures in by_share.items()},
        "coverage": {"wanted": INTERVAL, "measured": _round(inside, np.mean)},
        "knee": {
            "share": _round(test.knee, np.mean),
            "mean_risk": _round(risk, np.mean),
            "brier": _round((risk - test.knee) ** 2, np.mean),
            "found_at_risk_0.5": _round(warned[test.knee], np.mean),
            "false_at_risk_0.5": _round(~test.knee[warned], np.mean),
        },
    }


def _round(values: Floats | np.ndarray[Any, Any], of: Callable[[Any], Any]) -> float | None:
    return round(float(of(values)), 4) if values.size else None


def train_on(cells: Iterable[LifeCell], data: str, seed: int = 1) -> tuple[onnx.ModelProto, Card]:
    """Trains on whole lives; returns model and card.

    Args:
        cells: the lives.
        data: what they are, for the card.
        seed: of the draws of moments and of the split.
    """
    made, measured = fit((one for cell in cells for one in drawn_snapshots(cell, seed)), seed)
    data_of = measured.pop("cells")
    card = {
        "name": KIND,
        "kind": KIND,
        "about": (
            "Throughput left until the state of health is below a threshold, from the fade so far."
        ),
        "data": {"cells": data, **data_of},
        "features": features.DEFINITIONS,
        "outputs": {
            "spans": "low, median and high of the throughput left, in spans of the history",
            "knee_risk": f"probability that {life_cells.KNEE}",
        },
        "training": {
            "method": (
                "gradient-boosted quantile trees; the outer quantiles are widened by split "
                "conformal prediction (by cross-validation where it is for own cells), grouped by "
                "cell, at each stage of life; the knee risk is "
                "scaled by a logistic regression on the same cells"
            ),
            "threshold": f"a feature (margin): {THRESHOLD} mostly, 0.65 to 0.92 in the others",
            "count": data_of["trained"] + data_of["calibrated"] + data_of["tested"],
            "seed": seed,
        },
        "limits": (
            "A turn without a sign before it cannot be foreseen; the intervals hold it only as "
            "often as such turns are among the training cells. They hold for cells like these."
        ),
    }
    return made, card | measured


def synthetic(count: int, seed: int = 1) -> Iterator[LifeCell]:
    """Simulated and drawn cells, half and half."""
    yield from life_cells.simulated(count - count // 2, seed)
    yield from life_cells.drawn(count // 2, seed)


def train(given: argparse.Namespace) -> tuple[onnx.ModelProto, Card]:
    """Trains by the flags; returns the graph and its card.

    Raises:
        ConfigError: there is nothing to learn from, or too little.
    """
    count = given.simulate or 0
    if count < 0 or not (count or given.warehouse):
        raise ConfigError(f"--simulate={count}: must be a number of cells, such as 2000")
    cells: list[LifeCell] = []
    told = []
    if given.warehouse:
        cells += life_cells.of_warehouse(given.warehouse)
        told.append(f"{len(cells)} cells of a warehouse (battery_health)")
    if count:
        told.append(
            f"{count} synthetic cells (seed {given.seed}): half of the simulator's, half "
            "drawn as sums of an early loss, a power of time and an acceleration"
        )
    synthesized = synthetic(count, given.seed)
    return train_on(itertools.chain(cells, synthesized), "; ".join(told), given.seed)


def told(card: Card) -> list[str]:
    """What is reported of a trained model, in lines."""
    lines = [f"{card['training']['count']} cells; on those that were kept back:"]
    lines += [
        f"  {at}: error {one['median_error_of_remaining']:.0%} of the cycles left (median), "
        f"{one['mean_error_of_life']:.0%} of life (mean); interval held {one['coverage']:.0%}"
        for at, one in card["error"].items()
    ]
    return lines
