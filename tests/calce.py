"""Finds the real CALCE data, which lies outside the repository."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_BESIDE = Path(__file__).resolve().parents[2] / "shared" / "data" / "calce"


def calce_dir() -> Path:
    """The folder with CS2_35.zip; skips the test where there is none."""
    folder = Path(os.environ.get("CALCE_DIR") or _BESIDE)
    if not (folder / "CS2_35.zip").is_file():
        pytest.skip(f"no CALCE data in {folder}; set CALCE_DIR to a folder with CS2_35.zip")
    return folder
