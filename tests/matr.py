"""Finds the real early-life discharge curves, which lie outside the repository."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_BESIDE = Path(__file__).resolve().parents[2] / "shared" / "data" / "matr"


def matr_dir() -> Path:
    """The folder with discharge_curves.parquet; skips the test where there is none."""
    folder = Path(os.environ.get("MATR_DIR") or _BESIDE)
    if not (folder / "discharge_curves.parquet").is_file():
        pytest.skip(
            f"no early-life curves in {folder}; set MATR_DIR to a folder with "
            "discharge_curves.parquet and cells.parquet"
        )
    return folder
