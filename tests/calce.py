"""Finds the real CALCE data, which lies outside the repository."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_BESIDE = Path(__file__).resolve().parents[2] / "shared" / "data" / "calce"


def calce_folder() -> Path | None:
    """The folder with CS2_35.zip; None where there is none."""
    folder = Path(os.environ.get("CALCE_DIR") or _BESIDE)
    return folder if (folder / "CS2_35.zip").is_file() else None


def calce_dir() -> Path:
    """The same; skips the test where there is none."""
    folder = calce_folder()
    if folder is None:
        pytest.skip("no CALCE data; set CALCE_DIR to a folder with CS2_35.zip")
    return folder
