"""What tests get services by: they skip, with the reason, where one can't be had."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ParamSpec, TypeVar

import pytest

from tests.services.processes import Startable, Unavailable

_P = ParamSpec("_P")
_T = TypeVar("_T")
_S = TypeVar("_S", bound=Startable)


def available(make: Callable[_P, _T], *arguments: _P.args, **named: _P.kwargs) -> _T:
    """What `make` returns for these arguments; skips where that is Unavailable."""
    try:
        return make(*arguments, **named)
    except Unavailable as reason:
        pytest.skip(str(reason))


def started(make: Callable[_P, _S], *arguments: _P.args, **named: _P.kwargs) -> _S:
    """The service that `make` returns for these arguments, running; as a context manager it ends.

    Skips where it is Unavailable.
    """
    service = available(make, *arguments, **named)
    available(service.start)
    return service


def set_environment(patch: pytest.MonkeyPatch, environment: Mapping[str, str]) -> None:
    """Puts a service's `environment` into that of the tests, until the patch is undone."""
    for name, value in environment.items():
        patch.setenv(name, value)
