"""What fixtures of services share: started when first asked for, skipped where it can't be had."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Protocol, TypeVar

import pytest

from tests.services.processes import Unavailable


class Startable(AbstractContextManager[object], Protocol):
    """A service that its `start` may find Unavailable."""

    def start(self) -> None: ...


_S = TypeVar("_S", bound=Startable)


def started(service: _S) -> Iterator[_S]:
    """The service, running; its end is the fixture's. Skips with the reason."""
    try:
        service.start()
    except Unavailable as reason:
        pytest.skip(str(reason))
    with service:
        yield service
