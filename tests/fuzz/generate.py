"""Exports by number: the same seed and number give the same export, whatever else is made."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tests.fuzz.brands import BRANDS
from tests.fuzz.draw import Draw
from tests.fuzz.truth import Export

# The table of nobody's in particular has the most axes, so it takes more turns.
TURNS = (*BRANDS, "generic", "generic", "generic")


def one(seed: int, number: int) -> Export:
    """The export of that number."""
    brand = TURNS[number % len(TURNS)]
    name = f"FZ{number:05d}"
    return BRANDS[brand](Draw(f"{seed}:{number}"), name)


def exports(seed: int, count: int) -> Iterator[Export]:
    """The first `count` exports; the brands take turns."""
    return (one(seed, number) for number in range(count))


def write(export: Export, folder: Path) -> None:
    """Writes an export's files below a folder of its own."""
    (folder / export.name).mkdir(parents=True)
    for file, content in export.files.items():
        (folder / export.name / file).write_bytes(content)
