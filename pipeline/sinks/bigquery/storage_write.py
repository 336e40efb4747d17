"""Writes through the Storage Write API's default stream: Arrow as it is, each row at least once.

A row can be there twice where an answer was lost on its way, or where a bundle is tried again
(every runner does) or a job restarted. It then has the same `reading_id`, by which the models keep
one. What a bundle was given is in the table when the bundle is finished.
"""

from __future__ import annotations

import os
import threading
from functools import partial

import pyarrow as pa
from apache_beam.metrics import Metrics

from pipeline.sinks.base import bundles, refused
from pipeline.sinks.base.bundles import BundleWriter, WriteBundles
from pipeline.sinks.base.tally import Kept
from pipeline.sinks.bigquery import bounds, client, failure, requests
from pipeline.sinks.bigquery.address import Address
from pipeline.sinks.bigquery.answers import Answer
from pipeline.sinks.bigquery.appends import Connection, Sent
from pipeline.sinks.bigquery.patience import outage_of
from pipeline.sinks.bigquery.requests import Request
from schemas.reading import Table

# Of one table and bundle. Memory is bounded by it.
_MOST_UNDER_WAY_BYTES = 48 << 20
_MOST_UNDER_WAY = 16


class Figures(bundles.Figures):
    """The counters of a table's writer."""

    def __init__(self, table: Table, label: str = "") -> None:
        super().__init__("bigquery", table, label)
        self.milliseconds = Metrics.distribution("bigquery", "append_ms")


class _Shared:
    """What a process keeps for a table, because DoFns come and go: its connection, its outage."""

    def __init__(self, address: Address, table: Table) -> None:
        self._address, self._table = address, table
        self._lock = threading.Lock()
        self._connection: Connection | None = None
        self.outage = outage_of(address, table)

    def connection(self) -> Connection:
        with self._lock:
            if self._connection is None or not self._connection.usable:
                stream = f"{self._address.path(self._table.name)}/streams/_default"
                form = requests.schema(self._table)
                self._connection = Connection(client.writer(self._address), stream, form)
            return self._connection


_shared: dict[tuple[Address, str, str | None], _Shared] = {}
_making = threading.Lock()


def _of(address: Address, table: Table) -> _Shared:
    key = (address, table.name, os.environ.get(client.STORAGE_EMULATOR))
    with _making:
        if key not in _shared:
            _shared[key] = _Shared(address, table)
        return _shared[key]


class Writer(BundleWriter[tuple[Request, Sent]]):
    """Appends rows of one table, several requests at once.

    Args:
        address: the dataset.
        table: the table.
        source: the job's source, for dead letters.
        figures: what is counted.
    """

    def __init__(self, address: Address, table: Table, source: str, figures: Figures) -> None:
        super().__init__(requests.STEP, table, source, figures)
        self._address, self._figures = address, figures
        self._form = requests.schema(table)
        self._shared = _of(address, table)

    def add(self, rows: pa.Table) -> None:
        """Takes rows; sends them once there are enough for a request."""
        self._held.append(requests.shaped(rows, self._form))
        self._held_bytes += rows.nbytes
        if self._held_bytes >= requests.AIM_BYTES:
            self._send_held()

    def _send_held(self) -> None:
        if not self._held:
            return
        rows = pa.concat_tables(self._held)
        self._held, self._held_bytes = [], 0
        for request in requests.cut(rows):
            if request.data is None:
                self._refuse(request.rows, [(refused.ROW_TOO_LARGE, requests.too_large(request))])
                continue
            while self._under_way and (
                self._bytes + request.size > _MOST_UNDER_WAY_BYTES
                or len(self._under_way) >= _MOST_UNDER_WAY
            ):
                self._settle_oldest()
            self._under_way.append((request, self._send(request)))
            self._bytes += request.size

    def _send(self, request: Request) -> Sent:
        assert request.data is not None
        self._figures.requests.inc()
        return self._shared.connection().send(request.data)

    def _settle_oldest(self) -> None:
        request, sent = self._under_way.popleft()
        self._bytes -= request.size
        while not (answer := sent.wait()).written:
            answer = bounds.named(self._table, request.rows, answer)
            if answer.refused:
                rest = self._without_refused(request, answer)
                if rest is None:
                    return
                request = rest
            else:
                failure.raise_lasting(self._address, self._table, answer)
                self._figures.retries.inc()
                self._shared.outage.wait(str(answer), sent.sent_s)
                self._send_failed()
            sent = self._send(request)
        self._shared.outage.over()
        self._figures.written.inc(request.rows.num_rows)
        self._has(Kept(stored=request.rows.num_rows))
        self._figures.milliseconds.update(sent.milliseconds)

    def _send_failed(self) -> None:
        """Sends again what was under way on a connection that has broken."""
        for place, (request, sent) in enumerate(self._under_way):
            if sent.failed:
                self._figures.retries.inc()
                self._under_way[place] = (request, self._send(request))

    def _without_refused(self, request: Request, answer: Answer) -> Request | None:
        """The request without the rows that BigQuery named; None if there are no others."""
        # If it lacks a column, every row is named, and none is to blame.
        failure.raise_unfit(self._address, self._table)
        assert answer.refused
        good, bad, why = requests.parted(request, answer.refused)
        self._refuse(bad, why)
        return good


class Append(WriteBundles):
    """Writes tables of rows; gives dead letters of those that BigQuery refused."""

    def __init__(self, address: Address, table: Table, source: str, label: str = "") -> None:
        super().__init__(partial(Writer, address, table, source, Figures(table, label)))
