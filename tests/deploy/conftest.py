"""What the deployment's tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.deploy import tools
from tests.services.processes import Unavailable


@pytest.fixture(scope="session")
def checkers() -> Path:
    """A Python that has checkov and other checkers; installed the first time."""
    try:
        return tools.checkers()
    except Unavailable as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="session")
def gcloud() -> str:
    """The Google Cloud CLI; the tests keep it from the network and from this machine's settings."""
    try:
        return tools.program("gcloud")
    except Unavailable as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="session")
def terraform() -> str:
    """Terraform, without any provider."""
    try:
        return tools.program("terraform")
    except Unavailable as reason:
        pytest.skip(str(reason))
