"""Makes cells whose life follows from how their discharge curves change, by a law with known noise."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from transforms.prediction.early_life import COUNT, FIRST, LAST, VOLTAGES, Curves, Floats

CYCLES = (2, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100)
NOISE_LOG10 = 0.03  # of a life around what its curves say


def made(count: int, seed: int) -> tuple[Curves, Floats]:
    """Cells with a flat plateau at 3.1 V, and their lives in cycles."""
    rng = np.random.default_rng(seed)
    strength = 10 ** rng.uniform(-2.0, -1.2, count)  # Ah lost at the worst voltage by cycle 100
    life = 90 * strength**-0.6 * 10 ** rng.normal(0, NOISE_LOG10, count)
    capacity = rng.normal(1.06, 0.01, count)
    at = np.arange(FIRST, LAST + 1)
    ages = np.array(CYCLES)
    kept = (
        capacity[:, None]
        + 0.004 * (1 - np.exp(-at / 8))
        - 0.3 * strength[:, None] * (at / 100) ** 2
    )
    plateau = 1 / (1 + np.exp((VOLTAGES - 3.1) / 0.02))
    bump = np.exp(-(((VOLTAGES - 2.95) / 0.12) ** 2))
    lost = strength[:, None] * (ages / 100) ** 1.3
    curves = kept[:, ages - FIRST, None] * plateau - lost[:, :, None] * bump * 0.7
    curves += rng.normal(0, 2e-4, (count, len(CYCLES), 1)) * plateau
    curves = np.maximum.accumulate(curves, axis=2)
    capacities = np.array(kept)
    capacities[:, ages - FIRST] = curves[:, :, -1]
    assert capacities.shape == (count, COUNT)
    return Curves(CYCLES, curves, capacities), life


def write(
    folder: Path,
    curves: Curves,
    life: Floats | None = None,
    names: Sequence[str] | None = None,
    splits: Sequence[str] | None = None,
) -> Path:
    """A folder with the cells, as the commands take it; without lives there is no such column."""
    count = len(curves.discharged)
    names = names or [f"cell_{number:03}" for number in range(count)]
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        {"cell": name, "cycle": cycle, "discharge_ah": curves.discharged[cell, place].tolist()}
        for cell, name in enumerate(names)
        for place, cycle in enumerate(curves.cycles)
    ]
    kind = pa.schema(
        [("cell", pa.string()), ("cycle", pa.int16()), ("discharge_ah", pa.list_(pa.float32()))]
    )
    pq.write_table(pa.Table.from_pylist(rows, kind), folder / "discharge_curves.parquet")
    cells: dict[str, Any] = {"cell": list(names)}
    if splits is not None:
        cells["split"] = list(splits)
    if life is not None:
        cells["life_cycles"] = life.tolist()
    cells["capacity_ah_cycles_2_to_100"] = curves.capacities.tolist()
    pq.write_table(pa.table(cells), folder / "cells.parquet")
    return folder
