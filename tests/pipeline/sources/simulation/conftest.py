"""The default fleet and its first cell, simulated once for all tests."""

from __future__ import annotations

import pytest

from pipeline.sources.simulation.config import FleetConfig
from pipeline.sources.simulation.fleet import Fleet
from tests.pipeline.sources.simulation.reading import Columns, columns_of


@pytest.fixture(scope="package")
def default() -> Fleet:
    return Fleet(FleetConfig())


@pytest.fixture(scope="package")
def cell(default: Fleet) -> Columns:
    return columns_of(default, 0)
