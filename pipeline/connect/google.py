"""Google Cloud: credentials, project ids, and what is told where either can't be used."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

import google.auth
from google.auth import exceptions
from google.auth.credentials import AnonymousCredentials, Credentials

from pipeline import shown
from pipeline.connect import CHECK_S, within
from pipeline.errors import ConfigError

CLOUD_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
PUBSUB_SCOPE = "https://www.googleapis.com/auth/pubsub"
REFUSED = (
    "Google Cloud refuses the credentials; renew them (gcloud auth application-default login), or "
    "check GOOGLE_APPLICATION_CREDENTIALS"
)
_PROJECT = re.compile(r"[a-z0-9.:-]{1,100}")


def anonymous() -> Credentials:
    """What is shown to an emulator, which asks for nothing."""
    return AnonymousCredentials()  # type: ignore[no-untyped-call]


def credentials(
    scope: str, told: str, emulators: Sequence[str], patience_s: float = CHECK_S
) -> Credentials:
    """The application's default credentials, or within `patience_s` why there are none.

    Args:
        scope: what they are for.
        told: the flag and its value, as messages begin.
        emulators: the variables that lead to an emulator; where the first is set, it is used.
        patience_s: seconds.

    Raises:
        ConfigError: there are none.
    """
    if os.environ.get(emulators[0]):
        return anonymous()
    try:
        # Where there are none, a metadata server is waited for.
        found, _ = within(patience_s, lambda: google.auth.default(scopes=(scope,)))
    except (exceptions.GoogleAuthError, TimeoutError) as error:
        raise ConfigError(
            f"{told}: no credentials for Google Cloud were found; set "
            "GOOGLE_APPLICATION_CREDENTIALS, run gcloud auth application-default login, or set "
            f"{' and '.join(emulators)} to use an emulator"
        ) from error
    return found


def check_project(project: str, uri: str, form: str, flag: str) -> None:
    """Looks whether it can be a project's id.

    Args:
        project: the id.
        uri: the address that has it, as given.
        form: how the address should look, for the message.
        flag: the flag that carried it.

    Raises:
        ConfigError: it can't.
    """
    if not _PROJECT.fullmatch(project):
        raise ConfigError(
            f"{flag}={shown.address(uri)}: {project!r} can't be a project's id; must look like {form}"
        )


def why_silent(service: str, host: str, emulator: str) -> str:
    """Why a service, or its emulator, gives no answer, and the fix.

    Args:
        service: its name.
        host: where it answers.
        emulator: the variable that leads to its emulator.
    """
    if place := os.environ.get(emulator):
        return f"no emulator answers at {emulator}={place}; start it, or unset {emulator}"
    return f"{service} does not answer; check the network and {host}"
