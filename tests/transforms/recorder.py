"""Records what a pipeline outputs, in its order; runners need their DoFns importable."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import apache_beam as beam

_recorded: dict[str, list[Any]] = {}


class Record(beam.DoFn):
    """Appends every element to the recording called `name`."""

    def __init__(self, name: str) -> None:
        self._name = name

    def process(self, element: Any) -> None:
        _recorded[self._name].append(element)


@contextmanager
def recording(name: str) -> Iterator[list[Any]]:
    """The list that `Record(name)` appends to."""
    _recorded[name] = []
    try:
        yield _recorded[name]
    finally:
        del _recorded[name]
