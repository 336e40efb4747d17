"""Remembers which corrections were sent where, so that none is sent twice."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import orjson

from pipeline.errors import ConfigError, LakeFailed
from pipeline.shown import address
from pipeline.stores import store_at

_FOLDER = "sent"


def digest(to: str, letter_id: str, payload: bytes) -> str:
    """What a correction is known by: the topic, the letter and the corrected payload."""
    found = hashlib.blake2b(digest_size=16)
    for part in (to.partition("?")[0].encode(), letter_id.encode(), payload):
        found.update(len(part).to_bytes(8, "big") + part)
    return found.hexdigest()


class Sent:
    """The list of what was sent: small files in a folder, written once each.

    Args:
        folder: where it is, in a lake or on this machine.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._store = store_at(folder)

    def load(self) -> set[str]:
        """The digests of all corrections that were sent.

        Raises:
            ConfigError: the list can't be read.
        """
        found: set[str] = set()
        for stored in self._store.files(_FOLDER):
            try:
                with self._store.open(stored.path) as file:
                    found.update(orjson.loads(file.read())["sent"])
            except (ValueError, KeyError, TypeError) as error:
                raise ConfigError(
                    f"{address(self._folder)}/{stored.path}: is no list of what was sent; restore "
                    "it, or remove it if what it names may be sent again"
                ) from error
        return found

    def prepare(self) -> None:
        """Finds out whether the list can be written; raises ConfigError."""
        self._store.prepare()

    def add(self, digests: Iterable[str], at: str, by: str) -> None:
        """Remembers corrections that the broker has acknowledged.

        Args:
            digests: of these.
            at: when they were sent, UTC.
            by: who sent them.

        Raises:
            LakeFailed: it can't be written.
        """
        sent = sorted(digests)
        name = hashlib.blake2b("".join((at, *sent)).encode(), digest_size=10).hexdigest()
        path = f"{_FOLDER}/{at.replace(':', '')}-{name}.json"
        data = orjson.dumps({"at": at, "by": by, "sent": sent})
        if not self._store.create(path, data) and not self._store.holds(path, data):
            raise LakeFailed(
                f"{address(self._folder)}: {path} is there and holds other things; remove it"
            )
