"""Cuts a table by a number that each row has, in one pass however many numbers there are."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa


def by_number(table: pa.Table, numbers: npt.NDArray[np.int64]) -> Iterator[tuple[int, pa.Table]]:
    """Each number, in order, with its rows, which keep theirs.

    Rows are brought together once and not looked for anew for each number: whoever sends readings
    decides how many days there are.

    Args:
        table: n rows.
        numbers: shape (n,).
    """
    if not len(numbers):
        return
    if (numbers == numbers[0]).all():
        yield int(numbers[0]), table
        return
    order = np.argsort(numbers, kind="stable")
    together, ordered = table.take(pa.array(order)), numbers[order]
    edges = [0, *(np.flatnonzero(np.diff(ordered)) + 1).tolist(), len(ordered)]
    for begin, end in itertools.pairwise(edges):
        yield int(ordered[begin]), together.slice(begin, end - begin)
