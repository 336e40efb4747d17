"""Writes rows of one table: many requests at once, never too many, tried again until they are in.

What a bundle was given is in Cassandra, at the consistency level asked for, when the bundle is
finished. A row that is written twice stays one, because its key is the same.
"""

from __future__ import annotations

import os
import threading
import time
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.metrics import Metrics
from cassandra import InvalidRequest, RequestValidationException, Unauthorized
from cassandra.cluster import ResponseFuture, Session
from cassandra.query import BatchStatement, BatchType, BoundStatement, PreparedStatement

from pipeline import account
from pipeline.connect.cassandra import PASSING, connection
from pipeline.connect.cassandra_errors import said
from pipeline.errors import WarehouseFailed
from pipeline.sinks.base import bundles, refused
from pipeline.sinks.base.bundles import BundleWriter, WriteBundles
from pipeline.sinks.base.outage import Outage
from pipeline.sinks.base.tally import Kept
from pipeline.sinks.cassandra import encode, tables
from pipeline.sinks.cassandra.encode import Request
from pipeline.sinks.cassandra.target import Target
from pipeline.sinks.cassandra.versions import Versions
from schemas import forms
from schemas.reading import EQUIPMENT_PROFILE, READING, READING_SUPERSEDED, Table

STEP = "cassandra"
# Of one table and worker: a node takes some thousand requests at a time, from all its clients.
_MOST_UNDER_WAY = 32
_FEWEST_UNDER_WAY = 2
_MOST_UNDER_WAY_BYTES = 16 << 20
# Gathered before they are sent, so that rows of one partition meet.
_GATHERED_ROWS = 20_000
_GATHERED_BYTES = 16 << 20
# Longer than a node's restart; after that somebody should look.
_PATIENCE_S = 300.0
_LONGEST_PAUSE_S = 5.0
_RENEW_AFTER_S = 30.0
_ADVICE = "see whether enough nodes are up (nodetool status) and take writes"


class Figures(bundles.Figures):
    """The counters of a table's writer."""

    def __init__(self, table: Table, label: str = "") -> None:
        super().__init__("cassandra", table, label)
        self.corrected = Metrics.counter(account.CORRECTED, label or "Cassandra")


class _Statement:
    """The statement that writes a row of a table, prepared once for every session."""

    def __init__(self, target: Target, table: Table) -> None:
        self._target, self._table = target, table
        self._lock = threading.Lock()
        self._prepared: tuple[Session, PreparedStatement] | None = None
        self.most_under_way = float(_MOST_UNDER_WAY)
        self.outage = Outage(
            f"{target.told}, table {forms.cassandra_name(table)}",
            _PATIENCE_S, _LONGEST_PAUSE_S, _ADVICE,
        )  # fmt: skip

    def on(self, session: Session) -> PreparedStatement:
        """The statement for a session; raises what asking the server for it does."""
        with self._lock:
            if self._prepared is None or self._prepared[0] is not session:
                self._prepared = session, session.prepare(insert(self._target, self._table))
            return self._prepared[1]

    def slower(self) -> None:
        """A request failed: half as many at a time, because a busy node gets no less busy."""
        self.most_under_way = max(_FEWEST_UNDER_WAY, self.most_under_way / 2)

    def faster(self) -> None:
        """A request succeeded: one more at a time after as many as there are."""
        more = self.most_under_way + 1 / self.most_under_way
        self.most_under_way = min(_MOST_UNDER_WAY, more)


def insert(target: Target, table: Table) -> str:
    """The CQL that writes a row."""
    names = list(forms.cassandra_types(table))
    expiry = f" USING TTL {target.ttl_s}" if target.ttl_s and table != EQUIPMENT_PROFILE else ""
    return (
        f"INSERT INTO {tables.full_name(target, table)} ({', '.join(names)}) "  # noqa: S608
        f"VALUES ({', '.join(['?'] * len(names))}){expiry}"
    )


# By process: DoFns come and go.
_statements: dict[tuple[int, Target, str], _Statement] = {}
_making = threading.Lock()


def _statement(target: Target, table: Table) -> _Statement:
    with _making:
        key = os.getpid(), target, table.name
        return _statements.setdefault(key, _Statement(target, table))


class Writer(BundleWriter[tuple[Request, ResponseFuture | Exception, float]]):
    """Writes rows of one table.

    Args:
        target: the keyspace.
        table: the table.
        source: the job's source, for dead letters.
        figures: what is counted.
        on_conflict: one of `options.CONFLICTS`, of readings.
    """

    def __init__(
        self,
        target: Target,
        table: Table,
        source: str,
        figures: Figures,
        on_conflict: str = "version",
    ) -> None:
        super().__init__(STEP, table, source, figures)
        self._target, self._figures = target, figures
        self._connection = connection(target.address)
        self._statement = _statement(target, table)
        self._held_rows = 0
        self._versions: Versions | None = None
        self._former: Writer | None = None
        if table == READING:
            self._versions = Versions(target, self._connection, self._statement.outage, on_conflict)
            self._former = Writer(target, READING_SUPERSEDED, source, Figures(READING_SUPERSEDED))

    def add(self, rows: pa.Table) -> None:
        """Takes rows; sends them once there are enough."""
        self._held.append(rows)
        self._held_rows += rows.num_rows
        self._held_bytes += rows.nbytes
        if self._held_rows >= _GATHERED_ROWS or self._held_bytes >= _GATHERED_BYTES:
            self._send_held()

    def _send_held(self) -> None:
        if not self._held:
            return
        rows = pa.concat_tables(self._held)
        self._held, self._held_rows, self._held_bytes = [], 0, 0
        rows = self._fitting(rows)
        if self._versions is None or self._former is None:
            self._send_rows(rows)
            return
        if not rows.num_rows:
            return
        # What is there includes what this bundle has written.
        while self._under_way:
            self._settle_oldest()
        settled = self._versions.settle(rows)
        self._figures.corrected.inc(settled.corrected)
        passed = rows.num_rows - settled.rows.num_rows - settled.whole.num_rows
        self._has(Kept(already_there=settled.there, superseded=passed - settled.there))
        if settled.superseded.num_rows:
            self._former.add(settled.superseded)
            self._letters += self._former.finish()
        self._send_rows(settled.rows)
        self._send_rows(settled.whole, whole=True)

    def _send_rows(self, rows: pa.Table, whole: bool = False) -> None:
        digits = self._target.digits if self._table == READING else ()
        for request in encode.requests(self._table, rows, digits, whole):
            while self._under_way and (
                len(self._under_way) >= self._statement.most_under_way
                or self._bytes + request.size > _MOST_UNDER_WAY_BYTES
            ):
                self._settle_oldest()
            self._under_way.append((request, *self._send(request)))
            self._bytes += request.size

    def _fitting(self, rows: pa.Table) -> pa.Table:
        """The rows whose key Cassandra can have; refuses the others."""
        long = encode.too_long(self._table, rows)
        if pc.any(long).as_py():
            bad = rows.filter(long)
            why = f"its key is longer than {encode.MOST_KEY_BYTES} bytes"
            self._refuse(bad, [_refusal(why)] * bad.num_rows)
            rows = rows.filter(pc.invert(long))
        return rows

    def _send(self, request: Request) -> tuple[ResponseFuture | Exception, float]:
        """Begins to write; an error of the session is as good as the answer."""
        now = time.monotonic()
        self._figures.requests.inc()
        try:
            session = self._connection.session()
            prepared = self._statement.on(session)
            return session.execute_async(_bound(prepared, request)), now
        except (RequestValidationException, *PASSING) as error:
            return error, now

    def _settle_oldest(self) -> None:
        request, sent, at_s = self._under_way.popleft()
        self._bytes -= request.size
        self._settle(request, sent, at_s)

    def _settle(self, request: Request, sent: ResponseFuture | Exception, at_s: float) -> None:
        """Returns when the rows are written or refused."""
        outage = self._statement.outage
        while True:
            try:
                if isinstance(sent, Exception):
                    raise sent
                sent.result()
            except Unauthorized as error:
                raise WarehouseFailed(
                    f"{self._told}: {said(error)}; grant it and run the job again"
                ) from error
            except RequestValidationException as error:
                self._refused(request, error)
                return
            except PASSING as error:
                self._figures.retries.inc()
                self._statement.slower()
                outage.wait(said(error), at_s)
                if outage.lasted_s > _RENEW_AFTER_S:
                    self._connection.renew()
            else:
                break
            sent, at_s = self._send(request)
        outage.over()
        self._statement.faster()
        self._figures.written.inc(len(request.values))
        # An INSERT of CQL writes over what is there without looking.
        self._has(Kept(stored_or_there=len(request.values)))

    @property
    def _told(self) -> str:
        return f"{self._target.told}, table {forms.cassandra_name(self._table)}"

    def _refused(self, request: Request, error: Exception) -> None:
        """Writes the rows one by one; refuses a single one, unless it is the table's fault."""
        if len(request.values) > 1:
            for place in range(len(request.values)):
                alone = request.single(place)
                self._settle(alone, *self._send(alone))
            return
        self._raise_unfit(error)
        self._refuse(request.rows.slice(request.places[0], 1), [_refusal(said(error))])

    def _raise_unfit(self, error: Exception) -> None:
        """Asks whether the table is as it should be; returns if so."""
        if told := tables.unfit(self._connection, self._target, [self._table], True):
            raise WarehouseFailed(told) from error
        if not isinstance(error, InvalidRequest):
            raise WarehouseFailed(f"{self._told}: Cassandra refuses: {said(error)}") from error


def _refusal(why: str) -> tuple[str, str]:
    return refused.REFUSED, f"Cassandra refuses it: {why}"


def _bound(prepared: PreparedStatement, request: Request) -> BoundStatement | BatchStatement:
    """The rows as one statement; they are encoded, so nothing is left for the driver to bind."""
    if len(request.values) == 1:
        return _row(prepared, request.values[0])
    # Unlogged: rows of one partition are one write of the node, all or nothing, without a log.
    batch = BatchStatement(BatchType.UNLOGGED)
    for values in request.values:
        batch.add(_row(prepared, values))
    return batch


def _row(prepared: PreparedStatement, values: encode.Row) -> BoundStatement:
    bound = BoundStatement(prepared)
    bound.values = list(values)
    return bound


class Write(WriteBundles):
    """Writes tables of rows; gives dead letters of those that Cassandra refused."""

    def __init__(
        self,
        target: Target,
        table: Table,
        source: str,
        label: str = "",
        on_conflict: str = "version",
    ) -> None:
        figures = Figures(table, label)
        super().__init__(partial(Writer, target, table, source, figures, on_conflict))
