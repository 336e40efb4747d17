"""The straight line to the end of life, on lives whose end is known: its range holds the truth."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import duckdb
import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow.parquet as pq

from pipeline import models
from tests.matr import matr_dir

Floats = npt.NDArray[np.float64]
EACH = 25  # cells of a shape
SPENT = (0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 0.95)  # shares of the life

# Loss of capacity by share of the life; 1 at its end.
SHAPES: Mapping[str, Callable[[Floats, np.random.Generator], Floats]] = {
    "even": lambda x, _: x,
    "square root": lambda x, _: np.sqrt(x),
    "accelerating": lambda x, _: 0.3 * x + 0.7 * x**3,
    "knee": lambda x, draw: _knee(x, draw.uniform(0.5, 0.9), draw.uniform(3, 8)),
    "flat, then sudden": lambda x, draw: _knee(x, draw.uniform(0.85, 0.95), 40),
}


def _knee(x: Floats, at: float, ratio: float) -> Floats:
    """A bend at a share of the life, after which the fade is `ratio` times as fast."""
    loss = x + (ratio - 1) * np.maximum(x - at, 0)
    return loss / (1 + (ratio - 1) * (1 - at))


def median5(values: Floats) -> Floats:
    """As battery_health has it: of up to five cycles around each."""
    told = pd.Series(values).rolling(5, center=True, min_periods=3).median()
    return np.asarray(told, np.float64)


def judged(folder: Path, cells: Mapping[str, Floats], nominal_ah: float) -> pd.DataFrame:
    """What int_remaining_life says of cells by name, given the capacity of their first cycles, Ah."""
    warehouse = folder / "warehouse.duckdb"
    rows = pd.concat(
        pd.DataFrame(
            {
                "equipment_id": name,
                "cycle_number": np.arange(1, len(ah) + 1),
                "is_valid": True,
                "discharge_median_ah": median5(ah),
                "nominal_capacity_ah": nominal_ah,
                "is_end_of_life": False,
            }
        )
        for name, ah in cells.items()
    )
    with duckdb.connect(str(warehouse)) as database:
        database.register("rows", rows)
        database.execute("CREATE TABLE battery_health AS FROM rows")
    success, counts = models.build(f"duckdb:{warehouse}", "int_remaining_life")
    assert success, counts
    assert not counts["WARN"], list(models.warned(f"duckdb:{warehouse}"))
    with duckdb.connect(str(warehouse), read_only=True) as database:
        return database.sql("FROM int_remaining_life").df().set_index("equipment_id")


def holds(told: pd.DataFrame, left: pd.Series) -> pd.Series:
    """Whether the range holds the truth; where nothing is said, it does."""
    low, high = told["remaining_cycles_low"].fillna(0), told["remaining_cycles_high"].fillna(np.inf)
    return (low <= left) & (left <= high)


def test_its_range_holds_the_truth_and_ends_with_the_record(tmp_path: Path) -> None:
    draw = np.random.default_rng(11)
    cells: dict[str, Floats] = {}
    left: dict[str, int] = {}
    for shape, loss in SHAPES.items():
        for number in range(EACH):
            life = int(draw.integers(150, 1500))
            spent_share = np.arange(1, life + 1) / life
            noise = draw.normal(0, draw.uniform(0.0005, 0.005), life)
            ah = 2.0 * (1 - 0.2 * loss(spent_share, draw) + noise)
            for spent in SPENT:
                name = f"{shape}|{number}|{spent}"
                cells[name] = ah[: int(spent * life)]
                left[name] = life - len(cells[name])
    told = judged(tmp_path, cells, 2.0)
    truth = pd.Series(left)
    right = holds(told, truth.loc[told.index])
    shape = told.index.str.split("|").str[0]
    assert right.mean() >= 0.95
    share = right.groupby(shape).mean()
    # What fails within its last cycles shows nothing before.
    assert share.drop("flat, then sudden").min() >= 0.95, share
    assert share["flat, then sudden"] >= 0.8
    # It says something: near the end, and always how many cycles there are at least.
    late = told.index.str.endswith("|0.95") & (shape != "flat, then sudden")
    assert told.loc[late, "remaining_cycles"].notna().mean() > 0.8
    enough = told["record_cycles"] >= 25
    assert told.loc[enough, "remaining_cycles_low"].notna().all()
    assert told.loc[~enough, "remaining_cycles_low"].isna().all()
    # And nothing beyond the record.
    for column in ("remaining_cycles", "remaining_cycles_low", "remaining_cycles_high"):
        known = told[column].notna()
        assert (told.loc[known, column] <= told.loc[known, "record_cycles"]).all(), column
    assert (told["remaining_cycles"].isna() == told["remaining_reason"].notna()).all()


def test_published_lives_after_100_cycles(tmp_path: Path) -> None:
    table = pq.read_table(matr_dir() / "cells.parquet").to_pandas().set_index("cell")
    cells = {
        str(cell): np.asarray(ah, np.float64)
        for cell, ah in table["capacity_ah_cycles_2_to_100"].items()
    }
    told = judged(tmp_path, cells, 1.1)
    left = table["life_cycles"].loc[told.index] - 100
    assert holds(told, left).mean() >= 0.95
    # A hundred cycles tell of few of these lives how long they will be: their knees come later.
    assert told["remaining_cycles"].notna().sum() <= 5
