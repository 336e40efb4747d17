"""The files of tests that are said to take long are there."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import LONG_FILES, MEASURED


@pytest.mark.parametrize("name", [*LONG_FILES, *MEASURED])
def test_it_is_there(name: str) -> None:
    assert (Path(__file__).parent / name).exists()
