"""Secrets that workers in the cloud need: by their Secret Manager id, never by value."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Mapping

import grpc
from google.api_core import exceptions
from google.auth import exceptions as auth_exceptions
from google.cloud.secretmanager_v1 import SecretManagerServiceClient
from google.cloud.secretmanager_v1.services.secret_manager_service.transports import (
    SecretManagerServiceGrpcTransport,
)

from pipeline.connect import CHECK_S
from pipeline.errors import ConfigError

# The parameter of an address that names one.
PARAMETER = "secret"

_FORM = "projects/PROJECT/secrets/NAME[/versions/VERSION]"
_ID = re.compile(r"projects/[^/]+/secrets/[A-Za-z0-9_-]{1,255}(/versions/[A-Za-z0-9_-]+)?")
# A rotated secret is used for new connections after this long.
_KEPT_S = 600.0
# A plaintext endpoint, for tests.
_EMULATOR = "SECRET_MANAGER_EMULATOR_HOST"

_known: dict[str, tuple[float, dict[str, str]]] = {}
_lock = threading.Lock()


def environment(name: str | None, flag: str) -> Mapping[str, str]:
    """The process's environment, with the secret's lines `VARIABLE=value` over it.

    Args:
        name: a secret's id, with or without its version (then the latest); None for no secret.
        flag: the flag that carried it.

    Raises:
        ConfigError: there is no such secret, it may not be read, or it has other lines. The
            message never shows what it holds.
    """
    if name is None:
        return os.environ
    if not _ID.fullmatch(name):
        raise ConfigError(f"{flag}: {PARAMETER}={name} must look like {_FORM}")
    with _lock:
        read_at, variables = _known.get(name, (float("-inf"), {}))
        if time.monotonic() - read_at > _KEPT_S:
            variables = _variables(_payload(name, flag), name, flag)
            _known[name] = (time.monotonic(), variables)
    return {**os.environ, **variables}


def _payload(name: str, flag: str) -> bytes:
    version = name if "/versions/" in name else f"{name}/versions/latest"
    try:
        answer = _client().access_secret_version(name=version, timeout=CHECK_S)
    except (exceptions.GoogleAPICallError, auth_exceptions.GoogleAuthError) as error:
        told = getattr(error, "message", None) or str(error)
        raise ConfigError(
            f"{flag}: {PARAMETER}={name} can't be read ({type(error).__name__}: {told}); check the "
            "id, and that the job's account has roles/secretmanager.secretAccessor on it"
        ) from error
    return bytes(answer.payload.data)


def _client() -> SecretManagerServiceClient:
    if address := os.environ.get(_EMULATOR):
        channel = grpc.insecure_channel(address)
        return SecretManagerServiceClient(
            transport=SecretManagerServiceGrpcTransport(channel=channel)
        )
    return SecretManagerServiceClient()


def _variables(payload: bytes, name: str, flag: str) -> dict[str, str]:
    found = {}
    for line in payload.decode(errors="replace").splitlines():
        variable, separator, value = line.partition("=")
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if not separator or not variable.strip().isidentifier():
            raise ConfigError(
                f"{flag}: {PARAMETER}={name} must hold lines such as KAFKA_SASL_USERNAME=…"
            )
        found[variable.strip()] = value.strip()
    return found
