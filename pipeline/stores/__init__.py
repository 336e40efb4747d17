"""Where the lake's files live: a folder here, Google Cloud Storage or S3; one file each."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple, Protocol, TypeAlias

import pyarrow as pa

from pipeline.errors import ConfigError
from pipeline.safe_open import EVERYBODY
from pipeline.shown import address, refuse_login

# What looks like an address is no folder's name.
_OTHERS = re.compile("(bigquery|cassandra|duckdb|gs|kafka|md|pubsub|s3|simulator):", re.IGNORECASE)


# What a file is to hold: in memory, or in a file that is open for reading.
Content: TypeAlias = bytes | pa.Buffer | BinaryIO


class Stored(NamedTuple):
    """A file of a store.

    Attributes:
        path: below the store.
        size: bytes.
        modified_s: when it was put there, seconds since 1970.
    """

    path: str
    size: int
    modified_s: float


class Store(Protocol):
    """A place for files that are written once: whole or not at all, and only a damaged one is replaced.

    Paths are below it, with `/` between their parts. It can be pickled.

    Attributes:
        uri: as configured.
        near: whether asking it something costs next to nothing.
    """

    uri: str
    near: bool

    def check(self) -> None:
        """Finds out whether it is there and can be used; leaves nothing behind.

        Raises:
            ConfigError: it can't; names --lake and the fix.
        """

    def prepare(self) -> None:
        """Checks, and makes what is only missing because nothing was written yet."""

    def exists(self, path: str) -> bool:
        """Whether there is such a file."""

    def complete(self) -> None:
        """Finds out, when all is written, whether the place is still the one it was written to.

        Raises:
            LakeFailed: it isn't.
        """

    def create(self, path: str, data: bytes | pa.Buffer, replace: bool = False) -> bool:
        """Puts a file there; False if there is one already, which stays as it is.

        False also where an earlier attempt of this very call got there and its answer was lost:
        `holds` tells.

        Args:
            path: where it goes.
            data: its content.
            replace: puts it in the place of one that is damaged; then False means that this
                account may not do that.
        """

    def create_from(
        self,
        path: str,
        file: BinaryIO,
        modified_us: int,
        mode: int = EVERYBODY,
        replace: bool = False,
    ) -> bool:
        """The same from a file on this machine, of any size.

        Args:
            path: where it goes.
            file: open for reading; is read from its start.
            modified_us: its modification time, µs since 1970, which is kept.
            mode: the permissions the copy has at most, where files have any.
            replace: see `create`.
        """

    def holds(self, path: str, data: Content) -> bool:
        """Whether the file there has exactly this content, of memory or of a file of this machine.

        A remote store compares size and checksum, as its server states them.
        """

    def keep(self, path: str) -> None:
        """A file that was there already counts as written from now on."""

    def files(self, folder: str, since_s: float | None = None) -> Iterator[Stored]:
        """The files below a folder, none if there is no such folder; hidden ones are left out.

        Args:
            folder: its path; empty for all there is.
            since_s: leaves out what was put there earlier, seconds since 1970.
        """

    def open(self, path: str, size: int | None = None) -> BinaryIO:
        """A file to read, seekable; `size` in bytes saves a remote store a question."""


def store_at(uri: str) -> Store:
    """The store that `--lake` names.

    Args:
        uri: a folder, `gs://BUCKET/PREFIX` or `s3://BUCKET/PREFIX`.

    Raises:
        ConfigError: it names none.
    """
    refuse_login("--lake", uri)
    scheme, separator, rest = uri.partition("://")
    if not separator and not _OTHERS.match(uri):
        from pipeline.stores.local import LocalStore

        return LocalStore(uri)
    bucket, _, prefix = rest.partition("/")
    if scheme.lower() not in ("gs", "s3") or not separator:
        raise ConfigError(
            f"--lake={address(uri)}: no such lake; give a folder, gs://BUCKET/PREFIX, s3://BUCKET/PREFIX "
            "or none"
        )
    if not bucket or any(sign in rest for sign in "*?[]#"):
        raise ConfigError(
            f"--lake={address(uri)}: must look like {scheme}://BUCKET/PREFIX, without any of * ? [ ] #"
        )
    prefix = "/".join(part for part in prefix.split("/") if part)
    if scheme.lower() == "gs":
        from pipeline.stores.gcs import GcsStore

        return GcsStore(uri, bucket, prefix)
    from pipeline.stores.s3 import S3Store

    return S3Store(uri, bucket, prefix)
