"""Finds out before anything is read whether the dataset is there and may be written to."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import TypeVar

import requests as http
from google.api_core import exceptions
from google.auth import exceptions as auth_exceptions
from google.cloud import bigquery

from pipeline.connect import google, within
from pipeline.errors import ConfigError
from pipeline.sinks.bigquery import client, tables
from pipeline.sinks.bigquery.address import Address
from pipeline.sinks.bigquery.tables import CALL_S, Found
from schemas.reading import READING

_LOG = logging.getLogger(__name__)
_T = TypeVar("_T")
# For all questions together. Making tables may take longer than looking at them.
LOOK_S = 15.0
MAKE_S = 60.0
_NEEDED = ("bigquery.tables.get", "bigquery.tables.updateData")


def ask(address: Address, seconds: float, question: Callable[[], _T]) -> _T:
    """What BigQuery answers.

    Raises:
        ConfigError: it can't be reached or refuses; the message says the fix.
    """
    try:
        return within(seconds, question)
    except (auth_exceptions.GoogleAuthError, exceptions.Unauthenticated) as error:
        raise ConfigError(f"{address.told}: {google.REFUSED}") from error
    except exceptions.Forbidden as error:
        raise ConfigError(f"{address.told}: {_forbidden(address, error)}") from error
    except exceptions.BadRequest as error:
        raise ConfigError(f"{address.told}: BigQuery refuses ({_said(error)})") from error
    except (
        exceptions.ServerError, exceptions.RetryError, exceptions.TooManyRequests,
        http.exceptions.RequestException, TimeoutError,
    ) as error:  # fmt: skip
        why = google.why_silent("BigQuery", "bigquery.googleapis.com", client.EMULATOR)
        raise ConfigError(f"{address.told}: {why}") from error


def _forbidden(address: Address, error: exceptions.Forbidden) -> str:
    message = _said(error)
    if "has not been used in project" in message or "is disabled" in message:
        return (
            f"the BigQuery API is not enabled in project {address.project}; enable it: gcloud "
            f"services enable bigquery.googleapis.com --project={address.project}"
        )
    if "billing" in message.lower():
        return f"project {address.project} needs billing ({message})"
    return (
        f"this account may not use the dataset ({message}); grant it roles/bigquery.dataEditor on "
        f"the dataset and roles/bigquery.jobUser on project {address.project}"
    )


def _said(error: exceptions.GoogleAPICallError) -> str:
    """BigQuery's own words, without the client's."""
    told = [part.get("message") for part in error.errors if isinstance(part, dict)]
    return str(told[0] if told else error.message)


def dataset(address: Address) -> bigquery.Dataset:
    """The dataset.

    Raises:
        ConfigError: there is none, within LOOK_S.
    """
    try:
        return client.rest(address).get_dataset(
            f"{address.project}.{address.dataset}", retry=client.ONCE, timeout=CALL_S
        )
    except exceptions.NotFound as error:
        if "not found: project" in _said(error).lower():
            raise ConfigError(
                f"{address.told}: there is no project {address.project}; check its id"
            ) from error
        raise ConfigError(
            f"{address.told}: there is no dataset {address.dataset} in project {address.project}; "
            f"create it: bq mk --dataset --location=LOCATION {address.project}:{address.dataset} "
            "(LOCATION: US, EU or a region, such as europe-west3; that of the lake's bucket)"
        ) from error


def look(address: Address, also: Callable[[bigquery.Dataset], None] | None = None) -> Found:
    """The tables that are there, found fit; creates nothing.

    Args:
        address: the dataset.
        also: what else is to be checked against it.

    Raises:
        ConfigError: something is missing or unfit, within LOOK_S.
    """

    def questions() -> Found:
        place = dataset(address)
        if also is not None:
            also(place)
        found = tables.look(address)
        tables.check(address, found)
        for table in found.values():
            _may_write(address, table)
        return found

    return ask(address, LOOK_S, questions)


def storage(address: Address) -> None:
    """Finds out whether the Storage Write API can be reached.

    Raises:
        ConfigError: it can't, or is not enabled.
    """
    stream = f"{address.path(READING.name)}/streams/_default"
    try:
        client.writer(address).get_write_stream(name=stream, retry=client.ONCE, timeout=CALL_S)
    except exceptions.PermissionDenied as error:
        # That the account may write is asked elsewhere; the table may not be there yet.
        if "has not been used in project" in str(error) or "is disabled" in str(error):
            raise ConfigError(
                f"{address.told}: the BigQuery Storage API is not enabled in project "
                f"{address.project}; enable it: gcloud services enable "
                f"bigquerystorage.googleapis.com --project={address.project}"
            ) from error
    except exceptions.ServerError as error:
        emulator = os.environ.get(client.STORAGE_EMULATOR)
        place, fix = (
            (f"no emulator answers at {client.STORAGE_EMULATOR}={emulator}", "start it")
            if emulator
            else (
                "the Storage Write API does not answer",
                "check the network and bigquerystorage.googleapis.com",
            )
        )
        raise ConfigError(f"{address.told}: {place}; {fix}") from error
    except exceptions.ClientError:
        return  # a table that is not there yet


def _may_write(address: Address, table: bigquery.Table) -> None:
    if os.environ.get(client.EMULATOR):
        return  # it knows no permissions
    answer = client.rest(address).test_iam_permissions(
        table, _NEEDED, retry=client.ONCE, timeout=CALL_S
    )
    missing = sorted(set(_NEEDED) - set(answer.get("permissions", ())))
    if missing:
        raise ConfigError(
            f"{address.told}: this account lacks {', '.join(missing)} on table "
            f"{table.table_id}; grant it roles/bigquery.dataEditor on the dataset"
        )
