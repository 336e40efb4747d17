"""Pub/Sub: the address in a URI, topics and subscriptions checked and created."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, TypeVar

import grpc
from google.api_core import exceptions
from google.auth import exceptions as auth_exceptions
from google.pubsub_v1 import PublisherClient, SubscriberClient, types

from pipeline import shown
from pipeline.connect import CHECK_S, google, parameters, split_uri, within
from pipeline.errors import ConfigError

_T = TypeVar("_T")
_Client = TypeVar("_Client", PublisherClient, SubscriberClient)

SCHEME = "pubsub"
_NAME = re.compile(r"(?!goog)[A-Za-z][A-Za-z0-9._~%+-]{2,254}")
_EMULATOR = "PUBSUB_EMULATOR_HOST"
_ANY_SIZE = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


@dataclass(frozen=True)
class PubSubAddress:
    """The topic or subscription that a `pubsub://` URI names.

    Attributes:
        project: the project's id.
        name: the topic's or subscription's name.
        parameters: what stands behind the question mark.
    """

    project: str
    name: str
    parameters: dict[str, str] = field(default_factory=dict, hash=False)

    @classmethod
    def parse(cls, uri: str, flag: str, kind: str, known: Collection[str] = ()) -> PubSubAddress:
        """The address that `uri` names.

        Args:
            uri: `pubsub://PROJECT/NAME[?name=value…]`.
            flag: the flag that carried it, such as `--source`.
            kind: `topic` or `subscription`: what NAME is to be.
            known: the parameters that may be given.

        Raises:
            ConfigError: it can't be used; the message names the flag and the fix.
        """
        form = f"pubsub://PROJECT/{kind.upper()}"
        project, name, query = split_uri(uri, SCHEME, form, flag)
        google.check_project(project, uri, form, flag)
        if not _NAME.fullmatch(name):
            raise ConfigError(
                f"{flag}={shown.address(uri)}: {name!r} can't be a {kind}; a name has 3 to 255 letters, digits "
                "and -._~%+, begins with a letter and not with goog"
            )
        return cls(project, name, parameters(query, uri, known, flag))

    @property
    def topic_path(self) -> str:
        """The topic's full name."""
        return f"projects/{self.project}/topics/{self.name}"

    @property
    def subscription_path(self) -> str:
        """The subscription's full name."""
        return f"projects/{self.project}/subscriptions/{self.name}"

    def __str__(self) -> str:
        return f"{SCHEME}://{self.project}/{self.name}"


def client(
    kind: type[_Client], address: PubSubAddress, flag: str, patience_s: float = CHECK_S
) -> _Client:
    """A client for the address, or within `patience_s` why there can't be one.

    Raises:
        ConfigError: there are no credentials.
    """
    if emulator := os.environ.get(_EMULATOR):
        # By itself the client takes no answer above 4 MB from one, which a single message may have.
        channel = grpc.insecure_channel(emulator, options=_ANY_SIZE)
        return kind(transport=kind.get_transport_class("grpc")(channel=channel))
    return kind(
        credentials=google.credentials(
            google.PUBSUB_SCOPE, f"{flag}={address}", [_EMULATOR], patience_s
        )
    )


def check_topic(address: PubSubAddress, flag: str) -> types.Topic | None:
    """The topic, or within about 10 s what is wrong; None if it may be used but not looked at.

    Raises:
        ConfigError: Pub/Sub can't be reached, refuses the credentials, or the topic is missing or
            must not be published to.
    """
    found: types.Topic | None = _check(
        PublisherClient, address, flag, "topic", "pubsub.topics.publish"
    )
    return found


def check_subscription(address: PubSubAddress, flag: str) -> types.Subscription | None:
    """The subscription, or within about 10 s what is wrong; None if it may be used but not looked at.

    Raises:
        ConfigError: Pub/Sub can't be reached, refuses the credentials, or the subscription is
            missing or must not be consumed from.
    """
    found: types.Subscription | None = _check(
        SubscriberClient, address, flag, "subscription", "pubsub.subscriptions.consume"
    )
    return found


def create_topic(address: PubSubAddress, flag: str) -> bool:
    """Creates the topic unless it is there; returns whether it had to.

    Raises:
        ConfigError: Pub/Sub can't be reached or refuses.
    """
    wanted = {"name": address.topic_path}
    try:
        _ask(PublisherClient, address, flag, lambda admin, call: admin.create_topic(wanted, **call))
    except exceptions.AlreadyExists:
        return False
    except exceptions.PermissionDenied as error:
        raise ConfigError(
            f"{flag}={address}: this account may not create the topic; have it created, or grant "
            "it roles/pubsub.editor on the project"
        ) from error
    return True


def _check(
    kind: type[_Client], address: PubSubAddress, flag: str, what: str, permission: str
) -> Any:
    path = address.topic_path if what == "topic" else address.subscription_path

    def look(admin: _Client, call: dict[str, Any]) -> Any:
        try:
            found = getattr(admin, f"get_{what}")({what: path}, **call)
        except exceptions.PermissionDenied:
            # Whoever may only publish or consume may not look; what counts is asked below.
            found = None
        return found, _may(admin, path, permission, call)

    try:
        found, may = _ask(kind, address, flag, look)
    except exceptions.NotFound as error:
        raise ConfigError(
            f"{flag}={address}: there is no {what} {address.name} in project {address.project}; "
            "create it, or check its name"
            + (" (--create_topic creates it)" if flag == "--to" else "")
        ) from error
    if not may:
        role = "publisher" if what == "topic" else "subscriber"
        raise ConfigError(
            f"{flag}={address}: there is no such {what}, or this account may not use it; check "
            f"its name, or grant the account roles/pubsub.{role} on it"
        )
    return found


def _may(
    admin: PublisherClient | SubscriberClient, path: str, permission: str, call: dict[str, Any]
) -> bool:
    if os.environ.get(_EMULATOR):
        return True  # it knows no permissions
    answer = admin.test_iam_permissions({"resource": path, "permissions": [permission]}, **call)
    return permission in answer.permissions


def _ask(
    kind: type[_Client],
    address: PubSubAddress,
    flag: str,
    question: Callable[[_Client, dict[str, Any]], _T],
) -> _T:
    """What Pub/Sub answers; ConfigError within about CHECK_S if nothing does."""
    ends = time.monotonic() + CHECK_S
    admin = client(kind, address, flag)
    left = max(ends - time.monotonic(), 2.0)
    try:
        return within(left + 1, lambda: question(admin, {"timeout": left, "retry": None}))
    except (auth_exceptions.GoogleAuthError, exceptions.Unauthenticated) as error:
        raise ConfigError(f"{flag}={address}: {google.REFUSED}") from error
    except exceptions.InvalidArgument as error:
        raise ConfigError(
            f"{flag}={address}: Pub/Sub refuses the name ({error.message}); correct it"
        ) from error
    except (exceptions.ServerError, exceptions.RetryError, TimeoutError) as error:
        why = google.why_silent("Pub/Sub", "pubsub.googleapis.com", _EMULATOR)
        raise ConfigError(f"{flag}={address}: {why}") from error
