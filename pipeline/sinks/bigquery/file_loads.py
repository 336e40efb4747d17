"""Loads the lake's Parquet files into BigQuery by load jobs: each file once, whatever is killed.

A load job has the name of its entry in the ledger, and BigQuery runs no two jobs of one name. The
entry is made before its job is started, and closed after the job is done; what a killed loader
left between the two is asked for by that name and finished.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import requests as http
from google.api_core import exceptions
from google.cloud import bigquery

from pipeline import shown
from pipeline.errors import ConfigError, WarehouseFailed
from pipeline.sinks.bigquery import client, tables
from pipeline.sinks.bigquery.address import Address
from pipeline.sinks.bigquery.ledger import Entry, Ledger
from pipeline.sinks.bigquery.patience import outage_of
from pipeline.stores import Store, store_at
from pipeline.stores.gcs import GcsStore
from schemas.reading import (
    CYCLE_SUMMARY,
    CYCLES_LIVE,
    DEAD_LETTER,
    PREDICTION,
    READING,
    SOURCE_POSITION,
    TEST_DIALECT,
    WINDOW_STATS,
    Table,
)

_LOG = logging.getLogger(__name__)
_T = TypeVar("_T")
LOADED = (
    READING, DEAD_LETTER, WINDOW_STATS, TEST_DIALECT, CYCLE_SUMMARY, SOURCE_POSITION, CYCLES_LIVE,
    PREDICTION,
)  # fmt: skip
# BigQuery's reasons for a job's failure that another try may not meet.
_PASSING = {
    "backendError", "internalError", "jobBackendError", "jobInternalError", "jobRateLimitExceeded",
    "quotaExceeded", "rateLimitExceeded", "stopped", "tableUnavailable", "timeout",
}  # fmt: skip
_PASSING_CALLS = (
    exceptions.ServerError, exceptions.TooManyRequests,
    http.exceptions.RequestException, TimeoutError,
)  # fmt: skip
# So many files that BigQuery does not take: then it is the table that is to blame.
_MOST_FAILED = 20
_FIRST_POLL_S = 0.1
_LONGEST_POLL_S = 5.0
# One loader at a time in a process; between processes the ledger sees to it.
_loading = threading.Lock()


@dataclass
class Loaded:
    """What was done.

    Attributes:
        files: loaded by now.
        rows: of these.
        by_table: the same rows, by the table's name.
        failed: files that BigQuery does not take, and are set aside → its reason.
    """

    files: int = 0
    rows: int = 0
    by_table: Counter[str] = field(default_factory=Counter)
    failed: dict[str, str] = field(default_factory=dict)


def lake_in_cloud(lake: str | None) -> GcsStore:
    """The lake that load jobs read from.

    Raises:
        ConfigError: it is not in Cloud Storage.
    """
    found = store_at(lake) if lake else None
    if not isinstance(found, GcsStore):
        raise ConfigError(
            f"--lake={shown.address(lake or 'none')}: load jobs read the lake's files from Cloud Storage; give "
            "--lake=gs://BUCKET/PREFIX, or another --bigquery_method"
        )
    return found


def check_location(address: Address, store: GcsStore, place: bigquery.Dataset) -> None:
    """Whether load jobs of the dataset may read from the lake's bucket.

    Raises:
        ConfigError: they lie in different parts of the world.
    """
    ours, theirs = str(place.location or "").upper(), str(store.location() or "").upper()
    # A multi-region takes from the regions within it, and dual regions are not told apart here.
    near = {"US": ("US", "NAM4"), "EU": ("EU", "EUR4", "EUR5", "EUR7", "EUR8")}
    fits = (
        not ours or not theirs or ours == theirs or theirs.startswith(near.get(ours, ("\0",)))
        or (ours not in near and not _is_region(theirs))
    )  # fmt: skip
    if not fits:
        raise ConfigError(
            f"{address.told}: the dataset lies in {ours} and the lake's bucket {store.bucket} in "
            f"{theirs}, from where load jobs can't read; give a --lake in {ours}, a dataset in "
            f"{theirs}, or another --bigquery_method"
        )


def _is_region(location: str) -> bool:
    """Whether it is a region such as EUROPE-WEST3; dual regions (EUR4) hold several of them."""
    return "-" in location or location in ("US", "EU", "ASIA")


def load_new(lake: str, address: Address) -> Loaded:
    """Loads every file of the lake that is not loaded yet, and finishes what was begun.

    It can be called at any time, from several places at once.

    Raises:
        WarehouseFailed: a table is gone or may not be written, or BigQuery gives no answer.
    """
    store, done = lake_in_cloud(lake), Loaded()
    with _loading:
        for table in LOADED:
            _Loader(address, table, store).load_new(done)
    return done


class _Loader:
    def __init__(self, address: Address, table: Table, lake: GcsStore) -> None:
        self._address, self._table, self._lake = address, table, lake
        self._told = f"{address.told}, table {table.name}"
        self._outage = outage_of(address, table)
        self._rest = client.rest(address)

    def load_new(self, done: Loaded) -> None:
        found = self._asked(self._table_found)
        # A table that was deleted and made again is another: it gets all files.
        created_ms = round(found.created.timestamp() * 1000)
        folder = f"{self._table.name}/{created_ms}"
        ledger = _ledger(self._lake.uri, self._address, folder)
        while begun := ledger.unfinished():
            for entry in begun:
                self._finish(ledger, entry, found, done)
        for entry in ledger.enter_new(self._lake, self._table.name):
            self._finish(ledger, entry, found, done)
            while halves := ledger.unfinished():
                for half in halves:
                    self._finish(ledger, half, found, done)

    def _table_found(self) -> bigquery.Table:
        try:
            return self._rest.get_table(
                self._address.table(self._table.name), retry=client.ONCE, timeout=tables.CALL_S
            )
        except exceptions.NotFound as error:
            raise WarehouseFailed(
                f"{self._told}: it is not there; run the job or python -m pipeline.load again, "
                "which make it"
            ) from error

    def _finish(self, ledger: Ledger, entry: Entry, found: bigquery.Table, done: Loaded) -> None:
        tries = 0
        while True:
            job = self._job(entry, found, tries)
            error = job.error_result
            if error is None:
                ledger.close(entry, "done", job=job.job_id, rows=job.output_rows)
                done.files += len(entry.paths)
                done.rows += job.output_rows or 0
                done.by_table[self._table.name] += job.output_rows or 0
                self._outage.over()
                return
            message = f"{error.get('reason')}: {error.get('message')}"
            if error.get("reason") not in _PASSING:
                self._set_aside(ledger, entry, message, done)
                return
            self._wait(message)
            tries += 1

    def _set_aside(self, ledger: Ledger, entry: Entry, why: str, done: Loaded) -> None:
        """Finds the file that is to blame by halves; the others are loaded."""
        # If the table is gone or nothing may be read, no file is.
        self._asked(self._table_found)
        if why.startswith("accessDenied") or len(done.failed) >= _MOST_FAILED:
            raise WarehouseFailed(
                f"{self._told}: load jobs fail ({why}); mend the table, or grant the account that "
                "runs them roles/storage.objectViewer on the lake's bucket, and run it again"
            )
        if len(entry.paths) > 1:
            for half in entry.halves:
                ledger.enter(half)
            ledger.close(entry, "split", reason=why)
            return
        ledger.close(entry, "failed", reason=why)
        (path,) = entry.paths
        done.failed[path] = why
        _LOG.error(
            "%s: %s can't be loaded and is set aside (%s); mend it and load it by hand: "
            "bq load --source_format=PARQUET", self._told, self._uri(path), why,
        )  # fmt: skip

    def _job(self, entry: Entry, found: bigquery.Table, tries: int) -> bigquery.LoadJob:
        """The entry's job when it is done, started if it was not."""
        name = self._job_name(entry, found, tries)
        pause = _FIRST_POLL_S
        while (job := self._asked(lambda: self._get_or_start(name, entry, found))).state != "DONE":
            time.sleep(pause)
            pause = min(pause * 1.5, _LONGEST_POLL_S)
        return job

    def _get_or_start(self, name: str, entry: Entry, found: bigquery.Table) -> bigquery.LoadJob:
        try:
            job = self._rest.get_job(
                name, location=found.location, retry=client.ONCE, timeout=tables.CALL_S
            )
        except exceptions.NotFound:
            pass
        else:
            assert isinstance(job, bigquery.LoadJob)
            return job
        try:
            return self._rest.load_table_from_uri(
                [self._uri(path) for path in entry.paths],
                found.reference,
                job_id=name,
                location=found.location,
                job_config=_config(),
                retry=client.ONCE,
                timeout=60.0,
            )
        except exceptions.Conflict:
            # Another loader was faster, or the answer to an earlier call was lost.
            return self._get_or_start(name, entry, found)

    def _job_name(self, entry: Entry, found: bigquery.Table, tries: int) -> str:
        """The same for an entry and try, and for no other lake's or table's."""
        whose = f"{self._lake.uri} {found.reference} {found.created}"
        digest = hashlib.blake2b(whose.encode(), digest_size=8).hexdigest()
        return f"battery_{self._table.name}_{digest}_{entry.name}_{tries}"

    def _uri(self, path: str) -> str:
        scheme, _, rest = self._lake.uri.partition("://")
        # BigQuery takes no two slashes in a row.
        parts = [part for part in rest.split("/") if part]
        return f"{scheme}://{'/'.join(parts)}/{path}"

    def _wait(self, reason: str) -> None:
        self._outage.wait(reason, time.monotonic())

    def _asked(self, question: Callable[[], _T]) -> _T:
        """What BigQuery answers, after an outage if there is one."""
        while True:
            try:
                return question()
            except _PASSING_CALLS as error:
                self._wait(str(error).splitlines()[0])
            except exceptions.Forbidden as error:
                if _over_quota(error):
                    self._wait(str(error.message))
                    continue
                raise WarehouseFailed(
                    f"{self._told}: this account may not load it ({error.message}); grant it "
                    "roles/bigquery.dataEditor on the dataset, roles/bigquery.jobUser on the "
                    "project and roles/storage.objectViewer on the lake's bucket"
                ) from error
            except exceptions.ClientError as error:
                raise WarehouseFailed(f"{self._told}: BigQuery refuses ({error})") from error


def _over_quota(error: exceptions.Forbidden) -> bool:
    reasons = {part.get("reason") for part in error.errors if isinstance(part, dict)}
    return bool(reasons & _PASSING)


def _config() -> bigquery.LoadJobConfig:
    parquet = bigquery.ParquetOptions()  # type: ignore[no-untyped-call]
    # A list of strings becomes ARRAY<STRING>, not a record that holds one.
    parquet.enable_list_inference = True
    config = bigquery.LoadJobConfig(
        source_format=bigquery.SourceFormat.PARQUET,
        write_disposition=bigquery.WriteDisposition.WRITE_APPEND,
        create_disposition=bigquery.CreateDisposition.CREATE_NEVER,
        schema_update_options=[bigquery.SchemaUpdateOption.ALLOW_FIELD_ADDITION],
        max_bad_records=0,
    )
    config.parquet_options = parquet
    return config


_ledgers: dict[tuple[str, Address, str], Ledger] = {}


def _ledger(lake: str, address: Address, folder: str) -> Ledger:
    """Kept, because it remembers what it has read."""
    key = (lake, address, folder)
    if key not in _ledgers:
        # A store of its own: the lake's does not show what is hidden.
        place: Store = store_at(f"{lake.rstrip('/')}/.loads/{address.project}.{address.dataset}")
        _ledgers[key] = Ledger(place, folder)
    return _ledgers[key]
