"""The job's three ways into BigQuery against a bare client loop that sends the same readings."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pyarrow as pa
import pyarrow.parquet as pq
from google.cloud import bigquery
from google.cloud.bigquery_storage_v1 import BigQueryWriteClient, types
from google.cloud.bigquery_storage_v1.services.big_query_write.transports import (
    BigQueryWriteGrpcTransport,
)

from pipeline import __main__ as command
from pipeline.options import BIGQUERY_METHODS
from schemas.forms import arrow_schema, bigquery_schema
from schemas.reading import READING
from tests.services.bigquery import BigQuery
from tests.services.gcs import Gcs
from tests.services.processes import Unavailable

KINDS = tuple(f"bigquery-{kind}" for kind in ("loop", *BIGQUERY_METHODS))
# As large as the requests that the job sends.
_REQUEST_BYTES = 4 << 20

Spawn = Callable[[str, str], dict[str, Any]]


def speed(scratch: Path, readings: int, rounds: int, spawn: Spawn) -> None:
    """Prints the rates and their ratios to the loop's.

    The emulator takes some thousand rows a second at most, so this tells what the job adds to
    what a client needs there; not what BigQuery takes.

    Args:
        scratch: where the emulators keep their data.
        readings: how many are written.
        rounds: how often each variant runs, in turn with the others.
        spawn: runs a variant, by kind and source, in a process of its own.
    """
    lake = scratch / "bigquery-lake"
    argv = ["-m", "pipeline", f"--source=simulator:?equipment=50&interval=1&readings={readings}",
            f"--lake={lake}", "--warehouse=none", "--no_progress"]  # fmt: skip
    subprocess.run([sys.executable, *argv], check=True, stdout=subprocess.DEVNULL)
    try:
        with (
            Gcs(scratch / "gcs") as gcs,
            BigQuery(scratch / "bigquery", gcs_root=gcs.root) as emulator,
        ):
            os.environ.update(gcs.environment | emulator.environment)
            runs: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
            for _ in range(rounds):
                for kind, done in runs.items():
                    # The lake's bucket stands in the source's place behind the sign.
                    source = f"{lake / 'readings'}#{gcs.make_bucket()}"
                    done.append(spawn(kind, source))
    except Unavailable as reason:
        print(f"bigquery: not measured ({reason})")
        return
    _tell(readings, runs)


def _tell(readings: int, runs: dict[str, list[dict[str, Any]]]) -> None:
    rates = {
        kind: statistics.median(readings / run["seconds"] for run in done)
        for kind, done in runs.items()
    }
    loop = rates["bigquery-loop"]
    print(f"BigQuery emulator, {readings:,} readings: a bare client loop {loop:,.0f}/s")
    for method in BIGQUERY_METHODS:
        rate = rates[f"bigquery-{method}"]
        print(f"  {method:<18} {rate:,.0f}/s = {rate / loop:.2f} of the loop")


def one(kind: str, source: str, _out: Path) -> dict[str, Any]:
    """Runs one variant in this process; its clock starts after the imports."""
    files, _, bucket = source.partition("#")
    dataset = f"bench_{uuid.uuid4().hex[:8]}"
    client = bigquery.Client()
    client.create_dataset(dataset)
    started = time.perf_counter()
    if kind == "bigquery-loop":
        _loop(client, dataset, Path(files))
    else:
        method = kind.removeprefix("bigquery-")
        lake = f"gs://{bucket}/lake" if method == "file_loads" else "none"
        status = command.main(
            ["--runner=DirectRunner", f"--source={files}", f"--lake={lake}", "--no_progress",
             f"--warehouse=bigquery://{client.project}/{dataset}", f"--bigquery_method={method}"]
        )  # fmt: skip
        if status:
            raise SystemExit(status)
    seconds = time.perf_counter() - started
    rows = next(iter(client.query_and_wait(f"SELECT count(*) FROM {dataset}.readings "
                                           "WHERE recorded_at IS NOT NULL")))[0]  # fmt: skip
    return {"seconds": seconds, "readings": rows, "stages": {}}


def _loop(client: bigquery.Client, dataset: str, files: Path) -> None:
    fields = [bigquery.SchemaField.from_api_repr(field) for field in bigquery_schema(READING)]
    table = f"{client.project}.{dataset}.readings"
    client.create_table(bigquery.Table(table, schema=fields))
    stream = f"projects/{client.project}/datasets/{dataset}/tables/readings/streams/_default"
    for answer in _writer().append_rows(iter(_requests(stream, files))):
        if answer.error.code:
            raise RuntimeError(answer.error.message)


def _writer() -> BigQueryWriteClient:
    channel = grpc.insecure_channel(
        os.environ["BIGQUERY_STORAGE_EMULATOR_HOST"],
        options=[("grpc.max_send_message_length", -1)],
    )
    return BigQueryWriteClient(transport=BigQueryWriteGrpcTransport(channel=channel))


def _requests(stream: str, files: Path) -> Iterator[types.AppendRowsRequest]:
    schema = pa.schema([pa.field(field.name, field.type) for field in arrow_schema(READING)])
    for path in sorted(files.rglob("*.parquet")):
        table = pq.read_table(path, partitioning=None).select(schema.names).cast(schema)
        rows = max(1, int(_REQUEST_BYTES / (table.nbytes / table.num_rows)))
        for batch in table.combine_chunks().to_batches(max_chunksize=rows):
            yield types.AppendRowsRequest(
                write_stream=stream,
                arrow_rows=types.AppendRowsRequest.ArrowData(
                    writer_schema=types.ArrowSchema(
                        serialized_schema=schema.serialize().to_pybytes()
                    ),
                    rows=types.ArrowRecordBatch(
                        serialized_record_batch=batch.serialize().to_pybytes()
                    ),
                ),
            )
