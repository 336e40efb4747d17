"""TLS from the environment: variables that brokers and databases name alike."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pipeline.errors import ConfigError

_FILES = ("CAFILE", "CERTFILE", "KEYFILE")


def file_names(prefix: str) -> tuple[str, ...]:
    """The variables that name files, such as KAFKA_SSL_CAFILE where `prefix` is KAFKA_SSL."""
    return tuple(f"{prefix}_{kind}" for kind in _FILES)


def files(environment: Mapping[str, str], prefix: str) -> dict[str, str]:
    """The paths that are set, by `cafile`, `certfile` and `keyfile`.

    Raises:
        ConfigError: one is no file, or the key has no certificate; the message names the variable.
    """
    found = {}
    for kind, name in zip(_FILES, file_names(prefix), strict=True):
        if path := environment.get(name):
            if not Path(path).is_file():
                raise ConfigError(f"{name}={path}: no such file; give the path of a PEM file")
            found[kind.lower()] = path
    if "keyfile" in found and "certfile" not in found:
        raise ConfigError(
            f"{prefix}_KEYFILE is set without {prefix}_CERTFILE; set both, or neither"
        )
    return found


def truth(environment: Mapping[str, str], name: str, default: bool) -> bool:
    """Whether a variable says true.

    Raises:
        ConfigError: it says neither true nor false.
    """
    spelled = environment.get(name, "").lower() or str(default).lower()
    if spelled not in ("true", "false"):
        raise ConfigError(f"{name}={spelled}: must be true or false")
    return spelled == "true"
