"""What the deployment's tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.deploy import tools
from tests.services.fixtures import available


@pytest.fixture(scope="session")
def checkers() -> Path:
    """A Python that has checkov and other checkers; installed the first time."""
    return available(tools.checkers)


@pytest.fixture(scope="session")
def gcloud() -> str:
    """The Google Cloud CLI; the tests keep it from the network and from this machine's settings."""
    return available(tools.program, "gcloud")


@pytest.fixture(scope="session")
def terraform() -> str:
    """Terraform, without any provider."""
    return available(tools.program, "terraform")
