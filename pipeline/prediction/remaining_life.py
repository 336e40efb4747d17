"""Runs a model of the remaining life from the fade so far: many cells at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from pipeline.prediction.model_file import Card, Model
from transforms.life import answer, features
from transforms.life.answer import Domain, Remaining
from transforms.life.features import Features

KIND: Final = "remaining_life"
# The model that ships with this package.
SHIPPED: Final = Path(__file__).with_name("models") / "remaining_life.onnx"


class RemainingLife:
    """A model in a file, ready to be asked.

    Attributes:
        domain: what the model was trained on.
    """

    def __init__(self, path: str | Path = SHIPPED) -> None:
        """Reads it.

        Args:
            path: a file, gs://BUCKET/NAME or s3://BUCKET/NAME.

        Raises:
            ConfigError: it can't be read, or is no model of the remaining life by these features.
        """
        self._model = Model.load(path, KIND, features.NAMES)
        self.domain = Domain.parse(self._model.card)

    @property
    def version(self) -> str:
        """A hash of the model's content."""
        return self._model.version

    @property
    def card(self) -> Card:
        """The model card."""
        return self._model.card

    def of(self, cells: Sequence[Features]) -> list[Remaining]:
        """Remaining life of cells, each by the features of its history; in their order."""
        return answers(cells, self.domain, self._ask)

    def _ask(self, values: np.ndarray) -> tuple[np.ndarray, list[float]]:
        out = self._model.run({"features": values})
        return out["spans"], out["knee_risk"][:, 0].tolist()


def answers(
    cells: Sequence[Features],
    domain: Domain,
    ask: Callable[[np.ndarray], tuple[np.ndarray, list[float]]],
) -> list[Remaining]:
    """What is said of cells, of which a model is asked about those that it can know.

    Args:
        cells: the features of each one's history.
        domain: what the model was trained on.
        ask: features of shape (n, features) → spans left, shape (n, 3), and n knee risks.
    """
    asked = [one.values for one in cells if answer.is_asked(one) and one.values is not None]
    rows: Iterator[tuple[Any, float]] = iter(())
    if asked:
        spans, risks = ask(np.stack(asked))
        rows = iter(zip(spans, risks, strict=True))
    found = []
    for one in cells:
        if answer.is_asked(one):
            span, risk = next(rows)
            found.append(answer.of(one, domain, span, risk))
        else:
            found.append(answer.of(one, domain))
    return found
