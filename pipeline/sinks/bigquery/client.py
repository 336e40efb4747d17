"""The clients of BigQuery: one of each per process, led to an emulator by the environment."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import grpc
from google.auth.credentials import Credentials
from google.cloud import bigquery
from google.cloud.bigquery_storage_v1 import BigQueryWriteClient
from google.cloud.bigquery_storage_v1.services.big_query_write.transports import (
    BigQueryWriteGrpcTransport,
)

from pipeline.connect import google
from pipeline.errors import ConfigError
from pipeline.sinks.bigquery.address import Address

EMULATOR = "BIGQUERY_EMULATOR_HOST"
STORAGE_EMULATOR = "BIGQUERY_STORAGE_EMULATOR_HOST"
_T = TypeVar("_T")
# As `retry`: this package itself tries again, and tells.
ONCE: Any = None

# The local runner rebuilds DoFns for every bundle, and no client survives being pickled. What
# leads to a client is part of its key.
_clients: dict[tuple[str | None, ...], object] = {}
_lock = threading.Lock()


def _kept(key: tuple[str | None, ...], make: Callable[[], _T]) -> _T:
    with _lock:
        if key not in _clients:
            _clients[key] = make()
        return _clients[key]  # type: ignore[return-value] # made by the same `make`


def rest(address: Address) -> bigquery.Client:
    """The client of tables and jobs.

    Raises:
        ConfigError: there are no credentials.
    """
    host = os.environ.get(EMULATOR)
    return _kept(
        ("rest", address.project, host),
        lambda: bigquery.Client(address.project, credentials=_credentials(address)),
    )


def writer(address: Address) -> BigQueryWriteClient:
    """The client of the Storage Write API.

    Raises:
        ConfigError: there are no credentials, or an emulator's address is missing.
    """
    host = os.environ.get(STORAGE_EMULATOR)
    if os.environ.get(EMULATOR) and not host:
        raise ConfigError(
            f"{address.told}: {EMULATOR} is set, but {STORAGE_EMULATOR} is not; set it to the "
            "emulator's HOST:PORT of the Storage Write API, or take another --bigquery_method"
        )
    return _kept(("writer", address.project, host), lambda: _writer(address, host))


def _writer(address: Address, host: str | None) -> BigQueryWriteClient:
    if host is None:
        made = BigQueryWriteGrpcTransport(credentials=_credentials(address))
        return BigQueryWriteClient(transport=made)  # type: ignore[no-untyped-call]
    unlimited = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    channel = grpc.insecure_channel(host, options=unlimited)
    return BigQueryWriteClient(  # type: ignore[no-untyped-call]
        transport=BigQueryWriteGrpcTransport(channel=channel)
    )


def _credentials(address: Address) -> Credentials:
    return google.credentials(google.CLOUD_SCOPE, address.told, (EMULATOR, STORAGE_EMULATOR))
