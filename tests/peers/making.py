"""Runs the job and the models on the files that the other tools get."""

from __future__ import annotations

from pathlib import Path

from pipeline import models
from tests.peers import inputs
from tests.peers.sides import Sides
from tests.running import run


def made_sides(folder: Path) -> dict[str, Sides]:
    """The made cells by name, through the job and the models."""
    given = inputs.made_cells(folder / "in")
    return _sides(folder, given, f"--equipment_profile={inputs.profile(folder)}")


def calce_sides(folder: Path, archive: Path) -> dict[str, Sides]:
    """The same of the real cell's workbooks, which are in `archive`."""
    return _sides(folder, inputs.workbooks(archive, folder / "in", folder / "rows"))


def _sides(folder: Path, given: list[inputs.Input], *flags: str) -> dict[str, Sides]:
    ran = run(folder, folder / "in", *flags)
    assert ran.status == 0, ran.err
    success, counts = models.build(f"duckdb:{ran.warehouse}")
    assert success, counts
    return {one.equipment_id: Sides(one, ran.warehouse) for one in given}
