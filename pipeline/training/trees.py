"""Write gradient-boosted trees of scikit-learn as nodes of an ONNX tree ensemble.

Only what this project's models use: trees on numbers, missing values included. What is written is
exact: a threshold is rounded down to the largest float32 that is not above it, so that float32
features fall on the same side of it.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, Final, TypeAlias

import numpy as np
import onnx
from onnx import helper

from pipeline.prediction.model_file import IR_VERSION, OPSET

# What scikit-learn has no types for.
Boosted: TypeAlias = Any
DOMAIN: Final = "ai.onnx.ml"


class Ensemble:
    """Trees whose leaves are added to one of several targets."""

    def __init__(self, targets: int) -> None:
        self._targets = targets
        self._base = [0.0] * targets
        self._lists: dict[str, list[Any]] = defaultdict(list)
        self._trees = 0

    def add(self, model: Boosted, target: int) -> None:
        """Adds a fitted model's trees and its first guess: its raw prediction."""
        self._base[target] += float(np.ravel(model._baseline_prediction)[0])
        for (predictor,) in model._predictors:
            self._tree(predictor.nodes, target)

    def add_table(
        self,
        features: tuple[int, int],
        edges: tuple[Sequence[float], Sequence[float]],
        values: Sequence[Sequence[float]],
        target: int,
    ) -> None:
        """Adds a table of two features: values[i][j] from the i-th and j-th of their edges on."""
        free = itertools.count()

        def grow(axis: int, low: int, high: int, row: int) -> int:
            """Nodes for the values low … high of a feature; each before those below it."""
            if low == high and axis == 0:
                return grow(1, 0, len(edges[1]), low)
            place = next(free)
            if low == high:
                self._leaf(self._trees, place, values[row][low], target)
                return place
            middle = (low + high) // 2
            # `<=` of the largest float32 below the edge: an edge belongs to what lies above it.
            limit = float(
                np.nextafter(np.float32(_above(edges[axis][middle])), np.float32(-np.inf))
            )
            at = self._node(self._trees, place, features[axis], limit, 0, 0, False)
            self._lists["nodes_truenodeids"][at] = grow(axis, low, middle, row)
            self._lists["nodes_falsenodeids"][at] = grow(axis, middle + 1, high, row)
            return place

        grow(0, 0, len(edges[0]), 0)
        self._trees += 1

    def node(self, source: str, output: str) -> onnx.NodeProto:
        """The node that reads `source` (n, features) and gives `output` (n, targets)."""
        lists: dict[str, Any] = dict(self._lists)
        return helper.make_node(
            "TreeEnsembleRegressor",
            [source],
            [output],
            domain=DOMAIN,
            n_targets=self._targets,
            base_values=self._base,
            aggregate_function="SUM",
            post_transform="NONE",
            **lists,
        )

    def _tree(self, nodes: np.ndarray[Any, Any], target: int) -> None:
        for place, node in enumerate(nodes):
            if node["is_leaf"]:
                self._leaf(self._trees, place, float(node["value"]), target)
            else:
                self._node(
                    self._trees,
                    place,
                    int(node["feature_idx"]),
                    _below(float(node["num_threshold"])),
                    int(node["left"]),
                    int(node["right"]),
                    bool(node["missing_go_to_left"]),
                )
        self._trees += 1

    def _node(
        self, tree: int, place: int, feature: int, limit: float, low: int, high: int, none_low: bool
    ) -> int:
        self._append(tree, place, feature, limit, "BRANCH_LEQ", low, high, none_low)
        return len(self._lists["nodes_modes"]) - 1

    def _leaf(self, tree: int, place: int, value: float, target: int) -> None:
        self._append(tree, place, 0, 0.0, "LEAF", 0, 0, False)
        for name, one in (
            ("treeids", tree),
            ("nodeids", place),
            ("ids", target),
            ("weights", value),
        ):
            self._lists[f"target_{name}"].append(one)

    def _append(self, *values: Any) -> None:
        names = ("treeids", "nodeids", "featureids", "values", "modes", "truenodeids",
                 "falsenodeids", "missing_value_tracks_true")  # fmt: skip
        for name, value in zip(names, values, strict=True):
            self._lists[f"nodes_{name}"].append(int(value) if isinstance(value, bool) else value)


def _below(limit: float) -> float:
    """The largest float32 that is not above the limit."""
    near = np.float32(limit)
    return float(near if near <= limit else np.nextafter(near, np.float32(-np.inf)))


def _above(limit: float) -> float:
    """The smallest float32 that is not below the limit."""
    return -_below(-limit)


def graph(
    name: str,
    nodes: Iterable[onnx.NodeProto],
    features: int,
    outputs: dict[str, int],
    constants: dict[str, Any],
) -> onnx.ModelProto:
    """A checked model of one input `features` (n, features) float32 and outputs (n, width)."""

    def shaped(of: str, width: int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(of, onnx.TensorProto.FLOAT, ["cells", width])

    made = helper.make_model(
        helper.make_graph(
            list(nodes),
            name,
            [shaped("features", features)],
            [shaped(output, width) for output, width in outputs.items()],
            [
                onnx.numpy_helper.from_array(np.asarray(value), key)
                for key, value in constants.items()
            ],
        ),
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 3)],
        ir_version=IR_VERSION,
    )
    onnx.checker.check_model(made)
    return made
