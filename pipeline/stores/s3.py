"""A lake in S3, or a server that speaks its protocol, such as MinIO."""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import io
import os
import secrets
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from typing import Any, BinaryIO, cast

import boto3
import pyarrow as pa
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions, S3Options
from botocore import exceptions
from botocore.config import Config

from pipeline.connect import within
from pipeline.errors import ConfigError
from pipeline.safe_open import EVERYBODY
from pipeline.stores import Content, Stored
from pipeline.stores.remote import (
    ANSWER_S,
    CHECK_S,
    CONNECT_S,
    LARGE_BYTES,
    Ranged,
    answered,
    blocks,
    hidden,
    passing,
    reader,
    retrying,
    size_of,
)

# The most that S3 takes at once; larger files go up in parts and appear when all are there.
_SINGLE_BYTES = 5 * 1024**3
_PART_BYTES = 512 * 1024**2
_THERE = 412
# Two uploads of one name at the same time: neither may have been taken.
_CONFLICT = 409
_NO_ETAG = '"00000000000000000000000000000000"'
_CREDENTIALS = (
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (with MinIO its own), or AWS_PROFILE"
)
_ENDPOINT = "check the network and AWS_ENDPOINT_URL or --s3_endpoint_url"
_REGION_CODES = (
    "AuthorizationHeaderMalformed",
    "IllegalLocationConstraintException",
    "PermanentRedirect",
    "301",
)
_CREDENTIAL_CODES = ("InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken")


class S3Store:
    """A prefix of a bucket. Objects appear when their upload is complete, and only if new.

    Endpoint, region and credentials are those of s3:// sources: Beam's flags (--s3_endpoint_url,
    --s3_region_name, …), else the environment (AWS_ENDPOINT_URL, AWS_REGION, …).
    """

    near = False

    def __init__(self, uri: str, bucket: str, prefix: str) -> None:
        self.uri = uri
        self.bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""

    def check(self) -> None:
        """Lists, reads and writes what isn't there."""
        try:
            within(CHECK_S, self._try)
        except (exceptions.NoCredentialsError, exceptions.PartialCredentialsError) as error:
            raise self._wrong("no credentials", _CREDENTIALS) from error
        except exceptions.ClientError as error:
            raise self._refused(error) from error
        except (
            TimeoutError, exceptions.HTTPClientError, exceptions.EndpointConnectionError
        ) as error:  # fmt: skip
            raise self._wrong(f"does not answer ({error})", _ENDPOINT) from error
        except (exceptions.BotoCoreError, ValueError) as error:
            raise self._wrong(f"can't be used ({error})", "check the address") from error

    def prepare(self) -> None:
        """Checks; a prefix needs not be made."""
        self.check()

    def exists(self, path: str) -> bool:
        """Whether there is such an object."""
        try:
            self._size(path)
        except exceptions.ClientError as error:
            if _status(error) != 404:
                raise
            return False
        return True

    def complete(self) -> None:
        """A bucket that holds objects can't be removed."""

    def create(self, path: str, data: bytes | pa.Buffer, replace: bool = False) -> bool:
        """Uploads an object, unless it is there."""
        content = memoryview(data)
        return self._upload(path, io.BytesIO(content), content.nbytes, {}, replace)

    def create_from(
        self,
        path: str,
        file: BinaryIO,
        modified_us: int,
        mode: int = EVERYBODY,  # noqa: ARG002
        replace: bool = False,
    ) -> bool:
        """Uploads a file, unless it is there; who may read it is the bucket's to say."""
        moment = dt.datetime.fromtimestamp(modified_us / 1e6, dt.UTC)
        size = file.seek(0, os.SEEK_END)
        return self._upload(path, file, size, {"modified": moment.isoformat()}, replace)

    def holds(self, path: str, data: Content) -> bool:
        """Compares size and ETag; where that is no checksum, with KMS's encryption, every byte."""
        try:
            found = self._call(path, "head_object")
        except exceptions.ClientError as error:
            if _status(error) != 404:
                raise
            return False
        if found["ContentLength"] != size_of(data):
            return False
        if found.get("ServerSideEncryption", "").startswith("aws:kms"):
            with self.open(path, found["ContentLength"]) as there:
                return all(there.read(len(block)) == block for block in blocks(data))
        return bool(found["ETag"].strip('"') == _etag(data))

    def keep(self, path: str) -> None:
        """An object that is there stays."""

    def files(self, folder: str, since_s: float | None = None) -> Iterator[Stored]:
        """The objects below a folder, by name."""
        page: dict[str, Any] = {"IsTruncated": True}
        more: dict[str, str] = {}
        while page["IsTruncated"]:
            below = f"{self._prefix}{folder}/" if folder else self._prefix
            page = self._call(folder, "list_objects_v2", Key=None, Prefix=below, **more)
            more = {"ContinuationToken": page.get("NextContinuationToken", "")}
            for found in page.get("Contents", ()):
                path = found["Key"].removeprefix(self._prefix)
                modified_s = found["LastModified"].timestamp()
                # S3 tells whole seconds, cut off.
                if not hidden(path) and modified_s + 1 > (since_s or 0):
                    yield Stored(path, found["Size"], modified_s)

    def open(self, path: str, size: int | None = None) -> BinaryIO:
        """An object to read."""
        size = self._size(path) if size is None else size
        return reader(size, partial(self._fetch, path))

    def _size(self, path: str) -> int:
        return int(self._call(path, "head_object")["ContentLength"])

    def _fetch(self, path: str, start: int, end: int) -> bytes:
        def fetch() -> bytes:
            found = _client().get_object(
                Bucket=self.bucket, Key=f"{self._prefix}{path}", Range=f"bytes={start}-{end - 1}"
            )
            return cast("bytes", found["Body"].read())

        return cast("bytes", self._tried(path, fetch))

    def _upload(
        self, path: str, file: Any, size: int, metadata: dict[str, str], replace: bool
    ) -> bool:
        if not replace and size > LARGE_BYTES and self.exists(path):
            return False
        condition = None if replace else "*"
        try:
            if size > _SINGLE_BYTES:
                self._upload_parts(path, file, size, metadata, condition)
            else:
                self._call(
                    path, "put_object", Body=file, ContentLength=size, Metadata=metadata,
                    IfNoneMatch=condition,
                )  # fmt: skip
        except exceptions.ClientError as error:
            # A bucket may refuse every write without the condition.
            if _status(error) != _THERE and not (replace and _status(error) == 403):
                raise
            return False
        return True

    def _upload_parts(
        self, path: str, file: Any, size: int, metadata: dict[str, str], condition: str | None
    ) -> None:
        upload = self._call(path, "create_multipart_upload", Metadata=metadata)["UploadId"]
        parts = []
        try:
            for number, start in enumerate(range(0, size, _PART_BYTES), start=1):
                length = min(_PART_BYTES, size - start)
                sent = self._call(
                    path, "upload_part", UploadId=upload, PartNumber=number,
                    Body=_part(file, start, length), ContentLength=length,
                )  # fmt: skip
                parts.append({"PartNumber": number, "ETag": sent["ETag"]})
            self._complete(path, upload, parts, condition)
        except BaseException:
            # Parts are kept, and cost, until somebody says that no more will come.
            with contextlib.suppress(exceptions.ClientError):
                self._call(path, "abort_multipart_upload", UploadId=upload)
            raise

    def _complete(
        self, path: str, upload: str, parts: list[dict[str, Any]], condition: str | None
    ) -> None:
        try:
            self._call(
                path, "complete_multipart_upload", UploadId=upload, IfNoneMatch=condition,
                MultipartUpload={"Parts": parts},
            )  # fmt: skip
        except exceptions.ClientError as error:
            # An earlier attempt was heard, and its answer was lost.
            if error.response["Error"]["Code"] != "NoSuchUpload" or not self.exists(path):
                raise

    def _call(self, path: str, action: str, **arguments: Any) -> Any:
        """One request, tried again while that may help."""
        arguments = {"Bucket": self.bucket, "Key": f"{self._prefix}{path}"} | arguments
        given = {name: value for name, value in arguments.items() if value is not None}

        def call() -> Any:
            if "Body" in given:
                given["Body"].seek(0)
            return getattr(_client(), action)(**given)

        return self._tried(path, call)

    def _tried(self, path: str, request: Callable[[], Any]) -> Any:
        place = f"s3://{self.bucket}"
        answer = retrying(place, f"{self._prefix}{path}", _soon_over)(request)()
        answered(place)
        return answer

    def _try(self) -> None:
        client, key = _client(), f"{self._prefix}.check-{secrets.token_hex(8)}"
        client.list_objects_v2(Bucket=self.bucket, Prefix=key)
        try:
            client.put_object(Bucket=self.bucket, Key=key, Body=b"", IfMatch=_NO_ETAG)
        except exceptions.ClientError as error:
            if error.response["Error"]["Code"] in ("NoSuchKey", "PreconditionFailed"):
                return
            raise
        # A server that looks at no conditions.
        client.delete_object(Bucket=self.bucket, Key=key)
        raise ValueError("the server ignores If-Match, so files could be overwritten")

    def _refused(self, error: exceptions.ClientError) -> ConfigError:
        told = error.response["Error"]
        code, headers = told["Code"], error.response["ResponseMetadata"].get("HTTPHeaders", {})
        if code in ("NoSuchBucket", "404"):
            fix = f"create it (aws s3 mb s3://{self.bucket}), or name another"
            return self._wrong(f"there is no bucket {self.bucket}", fix)
        if code in _REGION_CODES:
            region = told.get("Region") or headers.get("x-amz-bucket-region") or "another region"
            return self._wrong(
                f"the bucket is in {region}", "set AWS_REGION or --s3_region_name to its region"
            )
        if code in _CREDENTIAL_CODES:
            return self._wrong(f"the credentials are refused ({code})", _CREDENTIALS)
        if code == "NotImplemented":
            return self._wrong(
                "the server knows no conditional writes",
                "use one that does (MinIO of 2024-09 or later), or another lake",
            )
        if _status(error) in (401, 403):
            return self._wrong(
                f"this account may not use it ({code})",
                "grant it s3:ListBucket, s3:GetObject and s3:PutObject there, or name another",
            )
        return self._wrong(f"can't be used ({error})", _ENDPOINT)

    def _wrong(self, what: str, fix: str) -> ConfigError:
        return ConfigError(f"--lake={self.uri}: {what}; {fix}")


def _etag(data: Content) -> str:
    """What S3 makes of content that was uploaded as we do it."""
    if size_of(data) <= _SINGLE_BYTES:
        whole = hashlib.md5(usedforsecurity=False)
        for block in blocks(data):
            whole.update(block)
        return whole.hexdigest()
    parts: list[Any] = []
    seen = 0
    for block in blocks(data):
        if seen == len(parts) * _PART_BYTES:
            parts.append(hashlib.md5(usedforsecurity=False))
        parts[-1].update(block)
        seen += len(block)
    joined = b"".join(part.digest() for part in parts)
    return f"{hashlib.md5(joined, usedforsecurity=False).hexdigest()}-{len(parts)}"


def _part(file: Any, start: int, size: int) -> Ranged:
    """A stretch of a file as a file, so that no part has to be in memory."""

    def fetch(first: int, end: int) -> bytes:
        file.seek(start + first)
        return cast("bytes", file.read(end - first))

    return Ranged(size, fetch)


def _status(error: exceptions.ClientError) -> int | None:
    return cast("int | None", error.response.get("ResponseMetadata", {}).get("HTTPStatusCode"))


def _soon_over(error: Exception) -> bool:
    if isinstance(error, exceptions.ClientError):
        code = error.response["Error"]["Code"]
        return passing(_status(error)) or _status(error) == _CONFLICT or code == "RequestTimeout"
    return isinstance(
        error,
        exceptions.HTTPClientError
        | exceptions.ResponseStreamingError
        | exceptions.IncompleteReadError
        | ConnectionError,
    )


def _client() -> Any:
    """One per process and surroundings: it can't be pickled, and holds connections."""
    flags = (FileSystems._pipeline_options or PipelineOptions([])).view_as(S3Options)
    environment = tuple(sorted(each for each in os.environ.items() if each[0].startswith("AWS_")))
    return _client_for(
        os.getpid(),
        environment,
        (
            ("endpoint_url", flags.s3_endpoint_url),
            ("region_name", flags.s3_region_name),
            ("api_version", flags.s3_api_version),
            ("verify", flags.s3_verify),
            ("use_ssl", not flags.s3_disable_ssl),
            ("aws_access_key_id", flags.s3_access_key_id),
            ("aws_secret_access_key", flags.s3_secret_access_key),
            ("aws_session_token", flags.s3_session_token),
        ),
    )


@lru_cache(maxsize=4)
def _client_for(
    _process: int, _environment: tuple[tuple[str, str], ...], flags: tuple[tuple[str, Any], ...]
) -> Any:
    # Tried again by us, so that it is told, and for as long as in other stores.
    config = Config(
        connect_timeout=CONNECT_S,
        read_timeout=ANSWER_S,
        max_pool_connections=32,
        retries={"total_max_attempts": 1},
    )
    return boto3.session.Session().client("s3", config=config, **dict(flags))
