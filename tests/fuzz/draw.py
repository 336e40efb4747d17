"""Draws an export's recipe: every choice is made by one seeded generator and written down."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, TypeVar

T = TypeVar("T")


class Draw:
    """Makes choices and keeps them by name.

    Attributes:
        recipe: what was chosen, in order; the choices that were not the plain one make an export
            hard.
    """

    def __init__(self, seed: str) -> None:
        self._random = random.Random(seed)
        self.recipe: dict[str, Any] = {}

    def choose(self, name: str, options: Sequence[T]) -> T:
        """One of the options, kept in the recipe."""
        found = self._random.choice(options)
        self.recipe[name] = found
        return found

    def chance(self, name: str, probability: float) -> bool:
        """Whether something happens; kept where it does."""
        happens = self._random.random() < probability
        if happens:
            self.recipe[name] = True
        return happens

    def between(self, low: float, high: float) -> float:
        """A number, not kept."""
        return self._random.uniform(low, high)

    def whole(self, low: int, high: int) -> int:
        """A whole number from low to high, both included, not kept."""
        return self._random.randint(low, high)

    def pick(self, options: Sequence[T]) -> T:
        """One of the options, not kept: a detail of no weight."""
        return self._random.choice(options)
