"""The files that all tools get: made cells of known truth, and workbooks of a real one."""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from python_calamine import CalamineWorkbook

from tests.peers.cell import Cell, Truth, partial_ends, swings, whole_cycles

NOMINAL_AH = 2.0
_PROFILE = f"""
name = "peers_made_cell"
equipment = ["made_*"]
chemistry = "LiCoO2"
nominal_capacity_ah = {NOMINAL_AH}
rated_current_a = 2.0
v_min_v = 2.9
v_max_v = 4.2
cutoff_current_a = 0.1
"""
# One of the cell's first files, and its last: half of the capacity is gone there.
_WORKBOOKS = {
    "CS2_35_early": "CS2_35/CS2_35_9_7_10.xlsx",
    "CS2_35_late": "CS2_35/CS2_35_2_10_11.xlsx",
}
WHOLE = ("made_whole_1s", "made_whole_30s")
SWINGS = ("made_partial_30s", "made_shallow_30s", "made_deep_60s")
CALCE = tuple(_WORKBOOKS)


@dataclass(frozen=True)
class Input:
    """A cycler's file as every tool reads it.

    Attributes:
        equipment_id: the cell, by which the models know it; the line's name in the table.
        rows: a CSV file with Arbin's columns.
        nominal_ah: of the cell.
        interval_s: usual time between readings.
        truths: what is known of each cycle; empty for a real cell.
        peak_cycles: cycles whose dQ/dV peaks are compared.
    """

    equipment_id: str
    rows: Path
    nominal_ah: float
    interval_s: float
    truths: Mapping[int, Truth] = field(default_factory=dict)
    peak_cycles: Sequence[int] = ()

    @property
    def settings(self) -> dict[str, Any]:
        """What the tools' scripts have to know; the last two are of PyProBE's LEAN."""
        fine = self.interval_s < 5
        return {
            "nominal_ah": self.nominal_ah,
            "peak_cycles": list(self.peak_cycles),
            "rest_below_a": 0.005 * self.nominal_ah,
            "step_v": 0.0001 if fine else 0.001,
            "bin_v": 0.002 if fine else 0.005,
        }


def made_cells(folder: Path) -> list[Input]:
    """Writes the made cells below `folder`, each in a folder of its own.

    Full cycles logged every second and every 30 s; swings between 30 and 80 % with a full one now
    and then; shallow ones without a cycle number, and deep ones of changing ends.
    """
    shallow = swings(30.0, [(0.55, 0.65 + 0.01 * (n % 3)) for n in range(90)], numbered=False)
    deep = swings(60.0, [(0.05 + 0.01 * (n % 7), 0.95 - 0.02 * (n % 5)) for n in range(12)])
    cells: dict[str, tuple[Cell, float]] = {
        "made_whole_1s": (whole_cycles(1.0, 4), 1.0),
        "made_whole_30s": (whole_cycles(30.0, 12), 30.0),
        "made_partial_30s": (swings(30.0, partial_ends(60, 20)), 30.0),
        "made_shallow_30s": (shallow, 30.0),
        "made_deep_60s": (deep, 60.0),
    }
    found = []
    for name, (cell, interval_s) in cells.items():
        rows = folder / name / "test.csv"
        cell.write(rows)
        peak_cycles = [cycle for cycle, truth in cell.truths.items() if len(truth.peaks) == 2]
        found.append(Input(name, rows, NOMINAL_AH, interval_s, cell.truths, peak_cycles))
    return found


def profile(folder: Path) -> Path:
    """Writes the made cells' profile."""
    path = folder / "made.toml"
    path.write_text(_PROFILE)
    return path


def workbooks(archive: Path, folder: Path, rows: Path) -> list[Input]:
    """Unpacks the real cell's workbooks below `folder`, and their rows as CSV files to `rows`.

    The job reads the workbooks, the other tools the CSV files.
    """
    found = []
    with zipfile.ZipFile(archive) as packed:
        for name, member in _WORKBOOKS.items():
            content = packed.read(member)
            workbook = folder / name / f"{name}.xlsx"
            workbook.parent.mkdir(parents=True)
            workbook.write_bytes(content)
            path = rows / f"{name}.csv"
            _write(content, path)
            cycles = range(2, 42, 3)
            found.append(Input(name, path, 1.1, 30.0, peak_cycles=list(cycles)))
    return found


def _write(workbook: bytes, path: Path) -> None:
    opened = CalamineWorkbook.from_filelike(io.BytesIO(workbook))
    sheets = [name for name in opened.sheet_names if name.startswith("Channel")]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        for number, name in enumerate(sheets):
            writer.writerows(opened.get_sheet_by_name(name).to_python()[bool(number) :])
