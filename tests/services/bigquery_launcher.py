"""Runs local-bigquery: a script for the emulator's own environment, with what it lacks mended.

Only the wheels of package registries are at hand, not the extensions that DuckDB would download
while it runs: a DuckDB that has its extension as a wheel does the work.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import re
from pathlib import Path
from typing import Any

import duckdb
import duckdb_extension_ducklake
import grpc
import uvicorn

_connect = duckdb.connect
_server = grpc.server
_EXTENSION = next(Path(duckdb_extension_ducklake.__file__).parent.rglob("*.duckdb_extension"))


def connect(*args: Any, config: dict[str, Any] | None = None, **others: Any) -> Any:
    """A connection that has DuckLake; the time zone needs ICU, which comes with the first query."""
    settings = dict(config or {})
    zone = settings.pop("TimeZone", None)
    connection = _connect(*args, config=settings, **others)
    connection.execute(f"LOAD '{_EXTENSION}'")
    if zone:
        connection.execute(f"SET GLOBAL TimeZone = '{zone}'")
    return connection


def serve(_: Any) -> grpc.Server:
    """A gRPC server that takes requests of the size that BigQuery takes, and many streams.

    Every open AppendRows stream holds a thread.
    """
    return _server(
        concurrent.futures.ThreadPoolExecutor(max_workers=200),
        options=[("grpc.max_receive_message_length", 64 << 20)],
    )


duckdb.connect = connect
grpc.server = serve

# Both must be in place when the emulator is imported.
from google.cloud.bigquery_storage_v1 import types  # noqa: E402
from local_bigquery.engine import database  # noqa: E402
from local_bigquery.grpc import server, write  # noqa: E402
from local_bigquery.grpc.read import StorageError  # noqa: E402
from local_bigquery.jobs import load, query  # noqa: E402
from local_bigquery.settings import settings  # noqa: E402
from local_bigquery.sql import script  # noqa: E402

LARGEST_REQUEST = 20 << 20  # bytes of an AppendRows request, BigQuery's published limit

_execute = query.execute
_set = script.Interpreter.set
_decoder = write._decoder
_hive = load._hive
_ONE_STRUCT = re.compile(
    r"^\s*set\s*\(\s*(\w+)\s*\)\s*=\s*\(\s*select\s+as\s+struct\b", re.IGNORECASE
)


def execute(*args: Any, **others: Any) -> Any:
    """BigQuery tells the table of CREATE TABLE … AS as the job's destination; dbt reads it."""
    statistics, children, destination = _execute(*args, **others)
    made = statistics.ddlTargetTable
    if destination is None and statistics.statementType == "CREATE_TABLE_AS_SELECT" and made:
        destination = made if made.datasetId and not others.get("dry_run") else None
    return statistics, children, destination


def assign(self: Any, statement: Any) -> None:
    """SET (x) = (SELECT AS STRUCT …), by which dbt's insert_overwrite collects partitions."""
    if _ONE_STRUCT.match(statement.text):
        text = _ONE_STRUCT.sub(r"SET \1 = (SELECT", statement.text)
        statement = dataclasses.replace(statement, text=text)
    _set(self, statement)


def decoder(request: Any) -> Any:
    """Asked once for every AppendRows request: here one above BigQuery's limit is refused."""
    size = types.AppendRowsRequest.pb(request).ByteSize()
    if size > LARGEST_REQUEST:
        message = f"AppendRows request too large: {size} limit {LARGEST_REQUEST}"
        raise StorageError(grpc.StatusCode.INVALID_ARGUMENT, message)
    return _decoder(request)


def hive(config: Any) -> dict[str, str]:
    """Folders named `column=value` are columns only where a load job asks for that."""
    return _hive(config) or {"hive_partitioning": "false"}


query.execute = execute
script.Interpreter.set = assign
write._decoder = decoder
load._hive = hive


def main() -> None:
    """Serves until it is told to end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rest", type=int, required=True)
    parser.add_argument("--grpc", type=int, required=True)
    parser.add_argument("--project", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--gcs", type=Path, required=True)
    flags = parser.parse_args()
    settings.bigquery_host, settings.bigquery_port = "127.0.0.1", flags.rest
    settings.grpc_port = flags.grpc
    settings.default_project_id = flags.project
    settings.data_dir, settings.gcs_local_root = flags.data, flags.gcs
    database.connection()  # what keeps it from opening its files ends it at once
    storage, _ = server.start("127.0.0.1", flags.grpc)
    uvicorn.run("local_bigquery:app", host="127.0.0.1", port=flags.rest, log_level="warning")
    storage.stop(None)


if __name__ == "__main__":
    main()
