"""What Beam's bundle-based local runner gets wrong or does slowly, and how it is put right."""

from __future__ import annotations

import threading
import weakref
from typing import Any

import apache_beam
from apache_beam.internal import pickler
from apache_beam.metrics.execution import MetricsContainer
from apache_beam.runners.direct import executor, transform_evaluator
from apache_beam.transforms import userstate

# These touch Beam's private parts: they are right for this version alone, and tests hold each.
BEAM = "2.77.0"


def _metrics() -> None:
    """Counters only saw a step's first bundle: the sampler keeps the container it saw first."""
    kept: dict[tuple[int, str], MetricsContainer] = {}

    def container(step: str) -> MetricsContainer:
        key = (threading.get_ident(), step)
        found = kept.get(key)
        if found is None:
            found = kept[key] = MetricsContainer(step)
        else:
            found.reset()
        return found

    executor.MetricsContainer = container


def _inspect_once() -> None:
    """Every bundle and step looked through its DoFn's methods four times, at 2 ms."""
    specs: weakref.WeakKeyDictionary[type, Any] = weakref.WeakKeyDictionary()
    valid: weakref.WeakSet[type] = weakref.WeakSet()
    get, validate = userstate.get_dofn_specs, userstate.validate_stateful_dofn

    def get_once(dofn: Any) -> Any:
        kind = type(dofn)
        found = specs.get(kind)
        if found is None:
            found = specs[kind] = get(dofn)
        return found

    def validate_once(dofn: Any) -> None:
        if type(dofn) not in valid:
            validate(dofn)
            valid.add(type(dofn))

    userstate.get_dofn_specs = transform_evaluator.get_dofn_specs = get_once
    userstate.validate_stateful_dofn = validate_once


class _PickledOnce:
    """In place of Beam's pickler: a DoFn makes one round trip, not one for every bundle.

    It then lives as long as its step, as on other runners, and what it opened in `setup` too.
    """

    def __init__(self) -> None:
        self._copies: dict[int, tuple[Any, Any]] = {}

    def roundtrip(self, dofn: Any) -> Any:
        found = self._copies.get(id(dofn))
        if found is None or found[0] is not dofn:
            found = self._copies[id(dofn)] = (dofn, pickler.roundtrip(dofn))
        return found[1]


def install() -> None:
    """Puts everything right, once per process; RuntimeError under another version of Beam."""
    if apache_beam.__version__ != BEAM:
        raise RuntimeError(
            f"the local streaming runner is made for Beam {BEAM}, this is "
            f"{apache_beam.__version__}; install the locked versions (make install)"
        )
    if not isinstance(transform_evaluator.pickler, _PickledOnce):
        _metrics()
        _inspect_once()
        transform_evaluator.pickler = _PickledOnce()
