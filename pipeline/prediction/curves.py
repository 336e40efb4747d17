"""Reads a folder of early-life discharge curves: discharge_curves.parquet and cells.parquet."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.errors import ConfigError
from transforms.prediction.early_life import COUNT, CYCLES, POINTS, Curves

Floats = npt.NDArray[np.float64]

CURVES, CELLS = "discharge_curves.parquet", "cells.parquet"
_CAPACITIES = "capacity_ah_cycles_2_to_100"
_LIFE, _SPLIT = "life_cycles", "split"
_ORIGIN = "ORIGIN.md"
_SHOWN = 5


@dataclass(frozen=True)
class Folder:
    """What a folder holds of the cells that were asked for, by cell's name.

    Attributes:
        flag: what named it, for messages.
        cells: their names.
        curves: of each.
        life_cycles: of each, NaN where it is not known; only where it was asked for.
    """

    flag: str
    cells: tuple[str, ...]
    curves: Curves
    life_cycles: Floats


def read(folder: str, split: str | None, lives: bool) -> Folder:
    """Reads the cells of a folder.

    Args:
        folder: has `discharge_curves.parquet` (cell, cycle, discharge_ah: Ah at 1,000 voltages from
            3.5 V down to 2.0 V) and `cells.parquet` (cell, capacity_ah_cycles_2_to_100: 99 values;
            split and life_cycles where they are asked for).
        split: only the cells of this split; None takes all.
        lives: whether life_cycles is read; otherwise it is not even looked for.

    Raises:
        ConfigError: a file or column is missing or of another shape; names it, the flag and the fix.
    """
    flag = f"--curves={folder}"
    if "://" in folder:
        raise ConfigError(f"{flag}: must be a folder of this machine; copy it here first")
    if not Path(folder).is_dir():
        raise ConfigError(f"{flag}: there is no such folder; give one with {CURVES} and {CELLS}")
    wanted = ["cell", _CAPACITIES, *([_SPLIT] if split else []), *([_LIFE] if lives else [])]
    table = _table(folder, CELLS, wanted, flag)
    cells = _names(table, f"{flag}: {CELLS}")
    if len(set(cells)) < len(cells):
        twice = next(name for name in cells if cells.count(name) > 1)
        raise ConfigError(f"{flag}: {CELLS}: has cell {twice} twice; leave one row of each cell")
    if split:
        splits = table[_SPLIT].to_pylist()
        keep = np.array([each == split for each in splits], dtype=bool)
        if not keep.any():
            raise ConfigError(
                f"--split={split}: {CELLS} has no such cell; there are {_some(sorted(set(map(str, splits))))}"
            )
        table = table.filter(pa.array(keep))
    table = table.sort_by("cell")
    cells = _names(table, f"{flag}: {CELLS}")
    if not cells:
        raise ConfigError(f"{flag}: {CELLS}: has no cell; give a folder with cells")
    capacities = _lists(table, _CAPACITIES, COUNT, f"{flag}: {CELLS}", cells)
    cycles, discharged = _curves(folder, flag, cells)
    if lives:
        found = _numbers(table[_LIFE], _LIFE, f"{flag}: {CELLS}")
    else:
        found = np.full(len(cells), np.nan)
    return Folder(flag, tuple(cells), Curves(cycles, discharged, capacities), found)


def origin(folder: str) -> str | None:
    """Where the cells come from, as the folder's ORIGIN.md says: its first paragraph."""
    try:
        text = Path(folder, _ORIGIN).read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    parts = [" ".join(part.split()) for part in text.split("\n\n")]
    return next((part for part in parts if part and not part.startswith("#")), None)


def _curves(folder: str, flag: str, cells: Sequence[str]) -> tuple[tuple[int, ...], Floats]:
    table = _table(folder, CURVES, ["cell", "cycle", "discharge_ah"], flag)
    where = f"{flag}: {CURVES}"
    table = table.filter(pc.is_in(table["cell"].cast(pa.string()), pa.array(cells, pa.string())))
    names = _names(table, where)
    numbers = _numbers(table["cycle"], "cycle", where)
    if not np.isfinite(numbers).all() or (numbers % 1).any():
        raise ConfigError(
            f"{where}: column cycle has values that are no whole numbers; correct them"
        )
    cycles = sorted({int(each) for each in numbers})
    if not set(CYCLES) & set(cycles):
        raise ConfigError(
            f"{where}: has no curve of cycles {_some(CYCLES)} for these cells; it has cycles "
            f"{_some(cycles) or 'none'}"
        )
    values = _lists(table, "discharge_ah", POINTS, where, names)
    row = {name: place for place, name in enumerate(cells)}
    column = {cycle: place for place, cycle in enumerate(cycles)}
    out = np.full((len(cells), len(cycles), POINTS), np.nan)
    seen = set()
    for name, cycle, curve in zip(names, numbers.astype(int).tolist(), values, strict=True):
        if (name, cycle) in seen:
            raise ConfigError(f"{where}: has cycle {cycle} of cell {name} twice; leave one of them")
        seen.add((name, cycle))
        out[row[name], column[cycle]] = curve
    return tuple(cycles), out


def _table(folder: str, name: str, columns: Sequence[str], flag: str) -> pa.Table:
    path = Path(folder, name)
    where = f"{flag}: {name}"
    if not path.is_file():
        raise ConfigError(f"{where} is missing; give a folder with {CURVES} and {CELLS}")
    try:
        there = pq.read_schema(path).names
        lacks = [each for each in columns if each not in there]
        if lacks:
            raise ConfigError(f"{where}: has no column {lacks[0]}; it has {_some(there)}")
        return pq.read_table(path, columns=list(columns), partitioning=None)
    except (pa.ArrowException, OSError) as error:
        raise ConfigError(
            f"{where}: can't be read as Parquet ({str(error).splitlines()[0]}); write it again"
        ) from error


def _names(table: pa.Table, where: str) -> list[str]:
    names = table["cell"].cast(pa.string()).to_pylist()
    if None in names:
        raise ConfigError(f"{where}: column cell has rows without a name; name the cell of each")
    return [str(name) for name in names]


def _numbers(column: pa.ChunkedArray, name: str, where: str) -> Floats:
    try:
        values = column.cast(pa.float64(), safe=False)
    except pa.ArrowException as error:
        raise ConfigError(f"{where}: column {name} is {column.type}, not numbers") from error
    return np.array(values.to_numpy(), np.float64)


def _lists(table: pa.Table, name: str, length: int, where: str, cells: Sequence[str]) -> Floats:
    """A column of lists of one length as a matrix; a null, or a list that is null, as NaN."""
    column = table[name].combine_chunks()
    if isinstance(column, pa.ChunkedArray):  # of no rows
        column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    kind = column.type
    if not (
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    ):
        raise ConfigError(f"{where}: column {name} is {kind}, not a list of {length:,} numbers")
    lengths = pc.list_value_length(column)
    there = np.asarray(pc.is_valid(lengths))
    counts = np.asarray(lengths.fill_null(length))
    if (counts != length).any():
        place = int(np.argmax(counts != length))
        raise ConfigError(
            f"{where}: column {name} has {counts[place]:,} values for cell {cells[place]}, and needs "
            f"{length:,}"
        )
    flat = pc.list_flatten(column)
    values = _numbers(pa.chunked_array([flat]), name, where)
    out = np.full((len(column), length), np.nan)
    out[there] = values.reshape(-1, length)
    return out


def _some(items: Iterable[object]) -> str:
    listed = list(items)
    return ", ".join(map(str, listed[:_SHOWN])) + (", …" if len(listed) > _SHOWN else "")
