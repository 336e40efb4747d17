"""What sources, sinks and the publisher share about a broker: address, credentials, checks."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import TypeVar
from urllib.parse import parse_qsl

from pipeline.errors import ConfigError
from pipeline.shown import address, refuse_login

_T = TypeVar("_T")

# An error has to be on the screen before anybody wonders whether the job hangs.
CHECK_S = 7.0


def within(seconds: float, call: Callable[[], _T]) -> _T:
    """What `call` returns or raises; TimeoutError once `seconds` are over.

    A client that hangs is left behind in its thread, which does not keep the process alive.
    """
    outcome: queue.SimpleQueue[tuple[_T | None, BaseException | None]] = queue.SimpleQueue()

    def work() -> None:
        try:
            outcome.put((call(), None))
        except BaseException as error:  # noqa: BLE001 - handed on to the caller
            outcome.put((None, error))

    threading.Thread(target=work, daemon=True, name="check").start()
    try:
        result, error = outcome.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"no answer within {seconds:g} s") from None
    if error is not None:
        raise error
    return result  # type: ignore[return-value] # None only where the call returns it


@contextmanager
def silent(library: str) -> Iterator[None]:
    """Keeps a library's own log lines out of the way of the one error that is raised."""
    logger = logging.getLogger(library)
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(before)


def split_uri(uri: str, scheme: str, form: str, flag: str) -> tuple[str, str, str]:
    """Host part, name and query of `scheme://HOST/NAME?QUERY`.

    Args:
        uri: as given.
        scheme: what it must begin with, such as `kafka`.
        form: how it should look, for the message.
        flag: the flag that carried it.

    Raises:
        ConfigError: it is not of that form, or carries a password.
    """
    refuse_login(flag, uri)
    head, separator, rest = uri.partition("://")
    uri = address(uri)
    if head.lower() != scheme or not separator:
        raise ConfigError(f"{flag}={uri}: must look like {form}")
    path, _, query = rest.partition("?")
    host, _, name = path.partition("/")
    if not host or not name or "/" in name:
        raise ConfigError(f"{flag}={uri}: must look like {form}")
    return host, name, query


def parameters(query: str, uri: str, known: Collection[str], flag: str) -> dict[str, str]:
    """The parameters of an address's query.

    Raises:
        ConfigError: one that is not among `known`, given twice, or without a value.
    """
    uri = address(uri)
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError:
        raise ConfigError(f"{flag}={uri}: parameters look like ?name=value&other=value") from None
    found: dict[str, str] = {}
    for name, value in pairs:
        if name not in known:
            valid = f"valid are {', '.join(sorted(known))}" if known else "it takes none"
            raise ConfigError(f"{flag}={uri}: no such parameter {name!r}; {valid}")
        if name in found:
            raise ConfigError(f"{flag}={uri}: parameter {name!r} is given twice; drop one")
        if not value:
            raise ConfigError(f"{flag}={uri}: parameter {name!r} has no value; give one or drop it")
        found[name] = value
    return found
