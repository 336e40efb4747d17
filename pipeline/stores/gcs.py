"""A lake in Google Cloud Storage."""

from __future__ import annotations

import base64
import datetime as dt
import io
import os
import secrets
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from typing import Any, BinaryIO, NamedTuple, TypeVar, cast

import google_crc32c
import pyarrow as pa
import requests
from google.api_core import exceptions
from google.api_core.retry import Retry
from google.auth import exceptions as auth_exceptions
from google.cloud import storage
from google.cloud.storage.exceptions import InvalidResponse

from pipeline.connect import within
from pipeline.errors import ConfigError
from pipeline.safe_open import EVERYBODY
from pipeline.stores import Content, Stored
from pipeline.stores.remote import (
    ANSWER_S,
    CHECK_S,
    CONNECT_S,
    LARGE_BYTES,
    answered,
    blocks,
    hidden,
    passing,
    reader,
    retrying,
    size_of,
)

_T = TypeVar("_T")
_TIMEOUT = (CONNECT_S, ANSWER_S)
# So much of a large file is in memory while it goes up.
_CHUNK_BYTES = 16 * 1024 * 1024
# No object has it: what asks for it is refused, after permissions have been looked at.
_NO_GENERATION = 1
_CREDENTIALS = (
    "set GOOGLE_APPLICATION_CREDENTIALS to a key file or run gcloud auth application-default login"
)


class Location(NamedTuple):
    """Where a bucket's data lie.

    Attributes:
        name: a region or several, such as US-CENTRAL1, EU or EUR4; None: not told.
        regions: the two that were chosen for the bucket, if so.
    """

    name: str | None
    regions: tuple[str, ...]


class GcsStore:
    """A prefix of a bucket. Objects appear when their upload is complete, and only if new.

    Credentials are the application's default ones; STORAGE_EMULATOR_HOST is honoured.

    Args:
        uri: as configured.
        bucket: the bucket's name.
        prefix: what its objects' names begin with; empty for all of them.
        flag: the flag that carried it.
        roles: what an account is to be granted on the bucket, as messages tell it.
        region: where the bucket is to be made if it is missing; None: wherever one likes.
    """

    near = False

    def __init__(
        self,
        uri: str,
        bucket: str,
        prefix: str,
        flag: str = "--lake",
        roles: str = "roles/storage.objectCreator and roles/storage.objectViewer",
        region: str | None = None,
    ) -> None:
        self.uri = uri
        self.bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self._flag, self._roles, self._region = flag, roles, region

    def check(self) -> None:
        """Lists, reads and writes what isn't there."""
        self._ask(self._try)

    def look(self) -> Location:
        """Where the bucket's data lie.

        Raises:
            ConfigError: it can't be found out; names the flag and the fix.
        """
        found = self._ask(lambda: _client().get_bucket(self.bucket, timeout=_TIMEOUT))
        return Location(found.location, tuple(found.data_locations or ()))

    def _ask(self, question: Callable[[], _T]) -> _T:
        """What Cloud Storage answers; ConfigError within CHECK_S if it doesn't or refuses."""
        create = f"gcloud storage buckets create gs://{self.bucket}"
        if self._region is not None:
            create += f" --location={self._region}"
        try:
            return within(CHECK_S, question)
        except TimeoutError as error:
            raise self._wrong("did not answer", f"check the network; or {_CREDENTIALS}") from error
        except auth_exceptions.GoogleAuthError as error:
            raise self._wrong(f"no credentials ({error})", _CREDENTIALS) from error
        except exceptions.NotFound as error:
            raise self._wrong(
                f"there is no bucket {self.bucket}",
                f"create it ({create}), or name another",
            ) from error
        except (exceptions.Forbidden, exceptions.Unauthorized) as error:
            raise self._wrong(
                f"this account may not use it ({error.message})",
                f"grant it {self._roles} on the bucket, or name another",
            ) from error
        except (exceptions.GoogleAPICallError, requests.RequestException, ValueError) as error:
            raise self._wrong(f"can't be used ({error})", "check the address") from error

    def location(self) -> str | None:
        """Where the bucket's data lie, such as EU or US-CENTRAL1; None if that may not be known."""
        try:
            found = (
                _client().get_bucket(self.bucket, timeout=_TIMEOUT, retry=self._retry("")).location
            )
        except exceptions.Forbidden:
            return None
        return cast("str | None", found)

    def prepare(self) -> None:
        """Checks; a prefix needs not be made."""
        self.check()

    def exists(self, path: str) -> bool:
        """Whether there is such an object."""
        return bool(self._blob(path).exists(timeout=_TIMEOUT, retry=self._retry(path)))

    def complete(self) -> None:
        """A bucket that holds objects can't be removed."""

    def create(self, path: str, data: bytes | pa.Buffer, replace: bool = False) -> bool:
        """Uploads an object, unless it is there."""
        # An upload that fails half way begins again.
        content = memoryview(data)
        return self._upload(path, io.BytesIO(content), content.nbytes, None, replace)

    def create_from(
        self,
        path: str,
        file: BinaryIO,
        modified_us: int,
        mode: int = EVERYBODY,  # noqa: ARG002
        replace: bool = False,
    ) -> bool:
        """Uploads a file, unless it is there; who may read it is the bucket's to say."""
        return self._upload(path, file, file.seek(0, os.SEEK_END), modified_us, replace)

    def holds(self, path: str, data: Content) -> bool:
        """Compares size and CRC32C, which Cloud Storage keeps of every object."""
        found = self._found(path)
        if found is None or found.size != size_of(data):
            return False
        checksum = 0
        for block in blocks(data):
            checksum = google_crc32c.extend(checksum, block)
        return bool(found.crc32c == base64.b64encode(checksum.to_bytes(4, "big")).decode())

    def keep(self, path: str) -> None:
        """An object that is there stays."""

    def files(self, folder: str, since_s: float | None = None) -> Iterator[Stored]:
        """The objects below a folder, by name."""
        for blob in _client().list_blobs(
            self.bucket,
            prefix=f"{self._prefix}{folder}/" if folder else self._prefix,
            fields="items(name,size,updated),nextPageToken",
            timeout=_TIMEOUT,
            retry=self._retry(folder),
        ):
            path, modified_s = blob.name.removeprefix(self._prefix), blob.updated.timestamp()
            if not hidden(path) and modified_s >= (since_s or 0):
                yield Stored(path, blob.size, modified_s)

    def open(self, path: str, size: int | None = None) -> BinaryIO:
        """An object to read."""
        blob, retry = self._blob(path), self._retry(path)
        if size is None:
            blob.reload(timeout=_TIMEOUT, retry=retry)
            size = int(blob.size)
        return reader(size, partial(_fetch, blob, retry))

    def _found(self, path: str) -> Any:
        """The object with what the server knows of it; None if there is none."""
        blob = self._blob(path)
        try:
            blob.reload(timeout=_TIMEOUT, retry=self._retry(path))
        except exceptions.NotFound:
            return None
        answered(f"gs://{self.bucket}")
        return blob

    def _upload(
        self, path: str, file: Any, size: int, modified_us: int | None, replace: bool
    ) -> bool:
        if not replace and size > LARGE_BYTES and self.exists(path):
            return False
        blob = self._blob(path)
        blob.chunk_size = _CHUNK_BYTES
        if modified_us is not None:
            blob.custom_time = dt.datetime.fromtimestamp(modified_us / 1e6, dt.UTC)
        try:
            blob.upload_from_file(
                file,
                rewind=True,
                size=size,
                content_type="application/octet-stream",
                if_generation_match=None if replace else 0,
                timeout=_TIMEOUT,
                retry=self._retry(path),
            )
        except exceptions.PreconditionFailed:
            return False
        except exceptions.Forbidden:
            # Writing over an object takes the right to delete it, which a job needs not have; and
            # Cloud Storage may look at rights before it looks at the precondition.
            if not replace and not self.exists(path):
                raise
            return False
        answered(f"gs://{self.bucket}")
        return True

    def _try(self) -> None:
        client, path = _client(), f".check-{secrets.token_hex(8)}"
        list(client.list_blobs(self.bucket, prefix=f"{self._prefix}{path}", retry=None))
        blob = self._blob(path)
        blob.exists(retry=None)
        try:
            blob.upload_from_string(b"", if_generation_match=_NO_GENERATION, retry=None)
        except exceptions.PreconditionFailed:
            return
        # A server that looks at no conditions.
        blob.delete(retry=None)
        raise ValueError("the server ignores if_generation_match, so files could be overwritten")

    def _blob(self, path: str) -> Any:
        return _client().bucket(self.bucket).blob(f"{self._prefix}{path}")

    def _retry(self, path: str) -> Retry:
        return retrying(f"gs://{self.bucket}", f"{self._prefix}{path}", _soon_over)

    def _wrong(self, what: str, fix: str) -> ConfigError:
        return ConfigError(f"{self._flag}={self.uri}: {what}; {fix}")


def _fetch(blob: Any, retry: Retry, start: int, end: int) -> bytes:
    data = blob.download_as_bytes(
        start=start, end=end - 1, raw_download=True, timeout=_TIMEOUT, retry=retry
    )
    answered(f"gs://{blob.bucket.name}")
    return cast("bytes", data)


def _soon_over(error: Exception) -> bool:
    if isinstance(error, exceptions.GoogleAPICallError):
        return passing(error.code)
    if isinstance(error, InvalidResponse):
        return passing(error.response.status_code)
    if isinstance(error, auth_exceptions.TransportError):
        return True
    return isinstance(error, requests.RequestException | ConnectionError)


def _client() -> Any:
    """One per process and surroundings: it can't be pickled, and holds connections."""
    return _client_for(
        os.getpid(),
        os.environ.get("STORAGE_EMULATOR_HOST"),
        os.environ.get("GOOGLE_APPLICATION_CREDENTIALS"),
    )


@lru_cache(maxsize=4)
def _client_for(_process: int, _host: str | None, _credentials: str | None) -> Any:
    # The project is only needed to make buckets.
    return storage.Client(  # type: ignore[no-untyped-call]
        project=os.environ.get("GOOGLE_CLOUD_PROJECT") or None
    )
