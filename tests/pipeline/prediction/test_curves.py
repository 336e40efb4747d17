"""The folder of curves: what is read, and that whatever is wrong is named by file and column."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import ConfigError
from pipeline.prediction import curves
from tests.early_cells import made, write

CELLS, CURVES = "cells.parquet", "discharge_curves.parquet"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    cells, life = made(4, seed=1)
    return write(tmp_path / "f", cells, life, ["d", "b", "a", "c"], ["train", "x", "train", "x"])


def change(folder: Path, name: str, column: str, values: Any) -> None:
    """Puts a column in the place of one; None drops it."""
    table = pq.read_table(folder / name)
    place = table.column_names.index(column)
    table = table.drop_columns([column])
    if values is not None:
        table = table.add_column(
            place, column, values if isinstance(values, pa.Array) else [values]
        )
    pq.write_table(table, folder / name)


def column(folder: Path, name: str, column: str) -> list[Any]:
    found: list[Any] = pq.read_table(folder / name)[column].to_pylist()
    return found


def refused(folder: Path, split: str | None = None, lives: bool = True) -> str:
    with pytest.raises(ConfigError) as error:
        curves.read(str(folder), split, lives)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_cells_are_read_by_name(folder: Path) -> None:
    known, life = made(4, seed=1)
    found = curves.read(str(folder), None, lives=True)
    order = [2, 1, 3, 0]
    assert found.cells == ("a", "b", "c", "d")
    assert found.life_cycles == pytest.approx(life[order])
    assert found.curves.cycles == known.cycles
    assert found.curves.discharged == pytest.approx(known.discharged[order], abs=1e-6)
    assert found.curves.capacities == pytest.approx(known.capacities[order])


def test_only_a_split(folder: Path) -> None:
    assert curves.read(str(folder), "train", lives=True).cells == ("a", "d")
    assert "--split=test: cells.parquet has no such cell; there are train, x" in refused(
        folder, "test"
    )


def test_lives_are_not_looked_at_unless_asked_for(folder: Path) -> None:
    change(folder, CELLS, "life_cycles", pa.array(["secret"] * 4))
    assert np.isnan(curves.read(str(folder), None, lives=False).life_cycles).all()
    assert "cells.parquet: column life_cycles is string, not numbers" in refused(folder)
    change(folder, CELLS, "life_cycles", None)
    change(folder, CELLS, "split", None)
    assert len(curves.read(str(folder), None, lives=False).cells) == 4
    assert "cells.parquet: has no column life_cycles" in refused(folder)
    assert "cells.parquet: has no column split" in refused(folder, "train")


@pytest.mark.parametrize(("name", "column"), [(CURVES, "cell"), (CURVES, "cycle"), (CURVES, "discharge_ah"),
    (CELLS, "cell"), (CELLS, "capacity_ah_cycles_2_to_100")])  # fmt: skip
def test_a_column_that_is_missing(folder: Path, name: str, column: str) -> None:
    change(folder, name, column, None)
    assert f"--curves={folder}: {name}: has no column {column}; it has" in refused(folder)


@pytest.mark.parametrize("name", [CURVES, CELLS])
def test_a_file_that_is_missing_or_none(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"garbage")
    assert f"{name}: can't be read as Parquet" in refused(folder)
    (folder / name).unlink()
    assert f"{name} is missing" in refused(folder)
    assert "no such folder" in refused(folder / "none")


def test_curves_and_capacities_of_another_length(folder: Path) -> None:
    values = column(folder, CELLS, "capacity_ah_cycles_2_to_100")
    values[1] = values[1][:-1]
    change(folder, CELLS, "capacity_ah_cycles_2_to_100", pa.array(values))
    said = "column capacity_ah_cycles_2_to_100 has 98 values for cell b, and needs 99"
    assert said in refused(folder)
    values = column(folder, CURVES, "discharge_ah")
    values[0] = values[0] * 2
    change(folder, CURVES, "discharge_ah", pa.array(values))
    change(folder, CELLS, "capacity_ah_cycles_2_to_100", pa.array([[1.0] * 99] * 4))
    assert "column discharge_ah has 2,000 values for cell d, and needs 1,000" in refused(folder)


def test_columns_of_another_kind(folder: Path) -> None:
    change(folder, CURVES, "discharge_ah", pa.array([1.0] * 44))
    assert "column discharge_ah is double, not a list of 1,000 numbers" in refused(folder)
    change(folder, CURVES, "discharge_ah", pa.array([["a"] * 1000] * 44))
    assert "column discharge_ah is string, not numbers" in refused(folder)


@pytest.mark.parametrize("cycles", [[2.5] * 44, [None] * 44])
def test_cycles_that_are_no_numbers(folder: Path, cycles: list[float | None]) -> None:
    change(folder, CURVES, "cycle", pa.array(cycles, pa.float64()))
    assert "column cycle has values that are no whole numbers" in refused(folder)


def test_a_cell_or_curve_that_is_there_twice(folder: Path) -> None:
    change(folder, CURVES, "cycle", pa.array([2] * 44))
    assert "has cycle 2 of cell d twice" in refused(folder)
    change(folder, CELLS, "cell", pa.array(["a", "b", "a", "c"]))
    assert "cells.parquet: has cell a twice" in refused(folder)


def test_cells_without_a_name(folder: Path) -> None:
    change(folder, CELLS, "cell", pa.array(["a", "b", None, "c"]))
    assert "column cell has rows without a name" in refused(folder)


def test_curves_of_other_cells_or_cycles(folder: Path) -> None:
    change(folder, CURVES, "cell", pa.array(["z"] * 44))
    assert (
        "has no curve of cycles 2, 20, 30, 60, 100 for these cells; it has cycles none"
        in refused(folder)
    )


def test_what_is_null_is_not_known(folder: Path) -> None:
    values = column(folder, CELLS, "capacity_ah_cycles_2_to_100")
    values[0], values[1][7] = None, None
    change(folder, CELLS, "capacity_ah_cycles_2_to_100", pa.array(values, pa.list_(pa.float64())))
    found = curves.read(str(folder), None, lives=False).curves.capacities
    assert np.isnan(found[3]).all() and np.isnan(found[1, 7]) and np.isnan(found).sum() == 100


@pytest.mark.parametrize("kind", [pa.large_list(pa.float64()), pa.list_(pa.float32(), 99)])
def test_other_kinds_of_lists(folder: Path, kind: pa.DataType) -> None:
    values = column(folder, CELLS, "capacity_ah_cycles_2_to_100")
    change(folder, CELLS, "capacity_ah_cycles_2_to_100", pa.array(values, kind))
    found = curves.read(str(folder), None, lives=False).curves.capacities
    assert found[3] == pytest.approx(values[0])


def test_where_cells_come_from(folder: Path) -> None:
    assert curves.origin(str(folder)) is None
    (folder / "ORIGIN.md").write_text("# Title\n\nFrom a lab,\n2024.\n\nMore.\n")
    assert curves.origin(str(folder)) == "From a lab, 2024."
