"""What BigQuery's answer to an append means: written, refused rows, try again, or give up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import grpc
from google.api_core import exceptions
from google.cloud.bigquery_storage_v1 import types
from google.rpc import status_pb2  # type: ignore[import-untyped]

Code = grpc.StatusCode
_CODES = {code.value[0]: code for code in Code}
# UNKNOWN is what a connection that was cut can look like.
_RETRYABLE = {
    Code.UNAVAILABLE, Code.ABORTED, Code.INTERNAL, Code.DEADLINE_EXCEEDED,
    Code.RESOURCE_EXHAUSTED, Code.CANCELLED, Code.UNKNOWN,
}  # fmt: skip
_STORAGE_ERROR = "type.googleapis.com/google.cloud.bigquery.storage.v1.StorageError"
StorageCode = types.StorageError.StorageErrorCode


@dataclass(frozen=True)
class Answer:
    """The outcome of one append.

    Attributes:
        code: OK, or what went wrong.
        message: BigQuery's words.
        storage_code: BigQuery's finer code, where it gave one.
        refused: index of a row in the request → why BigQuery does not take it; if there are any,
            nothing of the request was written.
    """

    code: grpc.StatusCode
    message: str = ""
    storage_code: int = 0
    refused: dict[int, str] | None = None

    @property
    def written(self) -> bool:
        """Whether all rows are in the table, or in the stream."""
        return self.code is Code.OK

    @property
    def retryable(self) -> bool:
        """Whether the same request may succeed a little later."""
        return not self.refused and self.code in _RETRYABLE

    @property
    def unknown_columns(self) -> bool:
        """Whether rows have columns that the table has not, as far as the Write API knows."""
        return self.storage_code == StorageCode.SCHEMA_MISMATCH_EXTRA_FIELDS

    @property
    def stream_gone(self) -> bool:
        """Whether a stream of our own is not there any more, or takes nothing any more."""
        return self.storage_code in (
            StorageCode.STREAM_NOT_FOUND,
            StorageCode.STREAM_FINALIZED,
            StorageCode.INVALID_STREAM_STATE,
            StorageCode.STREAM_ALREADY_COMMITTED,
        ) or (
            self.code in (Code.NOT_FOUND, Code.INVALID_ARGUMENT, Code.FAILED_PRECONDITION)
            and "stream" in self.message.lower()
        )

    def __str__(self) -> str:
        return f"{self.code.name}: {self.message.strip()}" if self.message else self.code.name


OK = Answer(Code.OK)


def of_response(response: types.AppendRowsResponse) -> Answer:
    """The answer that a response carries."""
    message = types.AppendRowsResponse.pb(response)
    if message.WhichOneof("response") != "error" and not message.row_errors:
        return OK
    status = message.error
    return Answer(
        _CODES.get(status.code, Code.UNKNOWN) if status.code else Code.INVALID_ARGUMENT,
        status.message,
        _storage_code(status.details),
        {row.index: row.message for row in message.row_errors} or None,
    )


def of_error(error: grpc.RpcError) -> Answer:
    """The answer that ended a connection."""
    code = error.code() if isinstance(error, grpc.Call) else Code.UNKNOWN
    details = error.details() if isinstance(error, grpc.Call) else str(error)
    metadata = error.trailing_metadata() or () if isinstance(error, grpc.Call) else ()
    packed = [value for key, value in metadata if key == "grpc-status-details-bin"]
    return Answer(code, details or "", _storage_code(_details(packed)))


def of_api_error(error: exceptions.GoogleAPICallError) -> Answer:
    """The answer to a call that is not an append."""
    if error.errors and isinstance(error.errors[0], grpc.RpcError):
        return of_error(error.errors[0])
    return Answer(error.grpc_status_code or Code.UNKNOWN, str(error.message))


def _details(packed: list[bytes]) -> list[Any]:
    return [part for data in packed for part in status_pb2.Status.FromString(data).details]


def _storage_code(details: list[Any]) -> int:
    for detail in details:
        if detail.type_url == _STORAGE_ERROR:
            return int(types.StorageError.deserialize(detail.value).code)
    return 0
