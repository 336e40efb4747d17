"""Which version of a reading counts in Cassandra, where the last one written would win."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from cassandra import InvalidRequest, Unauthorized
from cassandra.cluster import Session
from cassandra.concurrent import execute_concurrent_with_args

from pipeline.connect.cassandra import PASSING, Connection
from pipeline.connect.cassandra_errors import said
from pipeline.errors import WarehouseFailed
from pipeline.sinks.base.outage import Outage
from pipeline.sinks.cassandra import tables
from pipeline.sinks.cassandra.target import Target
from schemas import forms
from schemas.reading import READING, READING_SUPERSEDED, Table
from transforms.sequence import SUPERSEDED_BY

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_AT_ONCE = 32

# A partition of readings, and the first and last time that is asked for.
_Place = tuple[str, dt.date, dt.datetime, dt.datetime]
# Content, file and arrival of a reading as it is there; contents of older versions are unknown.
_Stored = tuple[int | None, str | None, dt.datetime]
# Place among the rows (-1: the one that is there), file and arrival of a version.
_Version = tuple[int, str | None, dt.datetime]


class Settled(NamedTuple):
    """What is to be written.

    Attributes:
        rows: readings that are new, or there already and to be written again: each once.
        whole: readings that stand for another version: none of its values may stay.
        superseded: of schema READING_SUPERSEDED, to be written before `whole`.
        corrected: how many versions do not count any more, or never did.
        there: how many rows are copies of what is there or written, and are left out.
    """

    rows: pa.Table
    whole: pa.Table
    superseded: pa.Table
    corrected: int
    there: int = 0


class Sorted(NamedTuple):
    """Rows by what is there.

    Attributes:
        versions: by reading and content the version that is there and new ones.
        contested: the readings of which there is more than one version.
        again: by reading the row that is there already, and is to be written again: it may be
            half written, but nothing is overwritten by a copy that arrived later.
        copies: how many rows are left out for being copies.
    """

    versions: dict[str, dict[int | None, _Version]]
    contested: set[str]
    again: dict[str, int]
    copies: int


class Versions:
    """Compares readings with those that are there.

    Args:
        target: the keyspace.
        connection: to it.
        outage: of the table of readings.
        on_conflict: one of `options.CONFLICTS`.
    """

    def __init__(
        self, target: Target, connection: Connection, outage: Outage, on_conflict: str
    ) -> None:
        self._target, self._connection, self._outage = target, connection, outage
        self._first_stays = on_conflict == "keep"
        self._keeps = on_conflict != "replace"

    def settle(self, rows: pa.Table) -> Settled:
        """Of each reading the version that counts; the others, as superseded ones.

        Raises:
            WarehouseFailed: what is there may not or can't be read.
        """
        places = _places(rows)
        stored = {
            row.reading_id: (row.content_id, row.source_file, _aware(row.ingested_at))
            for row in self._asked(
                READING, "reading_id, content_id, source_file, ingested_at", places
            )
        }
        ids = rows.column("reading_id")
        if not stored and pc.count_distinct(ids).as_py() == rows.num_rows:
            return Settled(rows, rows.slice(0, 0), _none(), 0)
        return self._judged(rows, places, stored)

    def _judged(
        self,
        rows: pa.Table,
        places: list[_Place],
        stored: Mapping[str, _Stored],
    ) -> Settled:
        """Row by row: what is there already comes seldom, and costs a request each anyway."""
        versions, contested, again, copies = sorted_out(rows, stored, self._first_stays)
        former: set[str] = set()
        if contested:
            asked = self._asked(READING_SUPERSEDED, "version_id", places)
            former = {row.version_id for row in asked}
        fresh, whole = list[int](), list[int]()
        lost: dict[int, int] = {}
        replaced: dict[str, int] = {}
        beaten: dict[str, _Stored] = {}
        for name, known in versions.items():
            alive = {
                content: version
                for content, version in known.items()
                if version[0] < 0 or f"{name}:{content}" not in former
            }
            # What lost before loses again, unless nothing else is left of the reading.
            alive = alive or known
            winner, best = min(alive.items(), key=partial(preference, self._first_stays))
            place = best[0]
            if place >= 0:
                (whole if name in stored else fresh).append(place)
                if name in stored:
                    replaced[name] = place
            else:
                beaten[name] = stored[name]
            for content, version in alive.items():
                if content != winner and version[0] >= 0:
                    lost[version[0]] = place
        # Written in any order, and tried again: an old copy must not come after the correction.
        still = [place for name, place in again.items() if name not in replaced]
        fresh += still
        copies += len(again) - len(still)
        corrected = len(lost) + len(replaced)
        superseded = _none()
        if self._keeps and corrected:
            superseded = self._superseded(rows, places, lost, replaced, beaten)
        return Settled(
            _taken(rows, sorted(fresh)), _taken(rows, whole), superseded, corrected, copies
        )

    def _superseded(
        self,
        rows: pa.Table,
        places: list[_Place],
        lost: Mapping[int, int],
        replaced: Mapping[str, int],
        beaten: Mapping[str, _Stored],
    ) -> pa.Table:
        found: list[dict[str, Any]] = []
        if replaced:
            for row in self._asked(READING, "*", places):
                if row.reading_id in replaced:
                    by = rows.slice(replaced[row.reading_id], 1)
                    found.append(_as_reading(row) | _standing_for(by))
        for place, winner in lost.items():
            own = rows.slice(place, 1).to_pylist()[0]
            if winner >= 0:
                by_row = _standing_for(rows.slice(winner, 1))
            else:
                content, file, arrived = beaten[own["reading_id"]]
                by_row = _by(content, file, arrived)
            found.append(own | by_row)
        for one in found:
            one["version_id"] = f"{one['reading_id']}:{one['content_id']}"
            one["quality_flags"] = sorted({*(one["quality_flags"] or ()), "superseded"})
        return pa.Table.from_pylist(found, schema=forms.arrow_schema(READING_SUPERSEDED))

    def _asked(self, table: Table, columns: str, places: list[_Place]) -> list[Any]:
        """Rows of some partitions, within their times."""
        statement = (
            f"SELECT {columns} FROM {tables.full_name(self._target, table)} "  # noqa: S608
            "WHERE equipment_id = ? AND day = ? AND recorded_at >= ? AND recorded_at <= ?"
        )

        def ask(session: Session) -> list[Any]:
            answers = execute_concurrent_with_args(
                session, session.prepare(statement), places, concurrency=_AT_ONCE
            )
            return [row for _, answer in answers for row in answer]

        return self._patiently(ask)

    def _patiently(self, question: Callable[[Session], list[Any]]) -> list[Any]:
        while True:
            asked_s = time.monotonic()
            try:
                answer = question(self._connection.session())
            except Unauthorized as error:
                raise WarehouseFailed(
                    f"{self._target.told}: {said(error)}; readings are compared with those that "
                    "are there: grant it SELECT and run the job again"
                ) from error
            except PASSING as error:
                wanted = (READING, READING_SUPERSEDED)
                refused = isinstance(error, InvalidRequest)
                if told := tables.unfit(self._connection, self._target, wanted, refused):
                    raise WarehouseFailed(told) from error
                self._outage.wait(said(error), asked_s)
            else:
                self._outage.over()
                return answer


def sorted_out(rows: pa.Table, stored: Mapping[str, _Stored], first_stays: bool = False) -> Sorted:
    """What of the rows is there, is a copy, and is another version.

    Args:
        rows: of schema READING.
        stored: by reading what is there of it.
        first_stays: as of `preference`.
    """
    found = rows.select(["reading_id", "content_id", "source_file", "ingested_at"])
    versions: dict[str, dict[int | None, _Version]] = {}
    contested: set[str] = set()
    again: dict[str, tuple[tuple[Any, ...], int]] = {}
    copies = 0
    for place, row in enumerate(found.to_pylist()):
        name, content = row["reading_id"], row["content_id"]
        file, arrived = row["source_file"], row["ingested_at"]
        there = stored.get(name)
        if there is not None and (there[0] is None or content in (None, there[0])):
            if there[0] is not None and _millis(arrived) > _millis(there[2]):
                copies += 1
                continue
            # Where the stored content is unknown, several versions may be in place of it.
            rank = preference(first_stays, (content, (place, file, arrived)))
            if there[0] is not None:
                rank = (_millis(arrived), file or "")
            copies += name in again
            again[name] = min(again.get(name, (rank, place)), (rank, place))
            continue
        known = versions.setdefault(name, {})
        if there is not None:
            known[there[0]] = (-1, *there[1:])
        former = known.get(content)
        if former is None:
            known[content] = (place, file, arrived)
        else:
            copies += 1
            # A version arrived when its first copy did.
            known[content] = min(
                former, (place, file, arrived), key=lambda one: (one[2], one[1] or "", one[0])
            )
        if len(known) > 1:
            contested.add(name)
    for name, (_, place) in again.items():
        content, file, since = stored[name]
        if content in versions.get(name, {}):
            since = min(since, found.column("ingested_at")[place].as_py())
            versions[name][content] = (-1, file, since)
    return Sorted(versions, contested, {name: place for name, (_, place) in again.items()}, copies)


def preference(first_stays: bool, item: tuple[int | None, _Version]) -> tuple[Any, ...]:
    """What versions are sorted by, the one that counts first; as `transforms.sequence` has it."""
    content, (place, file, arrived) = item
    if first_stays:
        return (place >= 0, arrived, file or "", content or 0)
    return (-_millis(arrived), file or "", content or 0)


def _millis(moment: dt.datetime) -> int:
    """As Cassandra has times."""
    return (moment - _EPOCH) // dt.timedelta(milliseconds=1)


def _places(rows: pa.Table) -> list[_Place]:
    """The partitions of readings, with the first and last time in each."""
    days = pc.floor_temporal(rows.column("recorded_at"), unit="day")
    keyed = pa.table(
        {"id": rows.column("equipment_id"), "day": days, "at": rows.column("recorded_at")}
    )
    spans = keyed.group_by(["id", "day"]).aggregate([("at", "min"), ("at", "max")])
    found = []
    for one in spans.to_pylist():
        # Times there are in milliseconds.
        first = one["at_min"].replace(microsecond=one["at_min"].microsecond // 1000 * 1000)
        found.append((one["id"], one["day"].date(), first, one["at_max"]))
    return found


def _taken(rows: pa.Table, places: list[int]) -> pa.Table:
    return rows.take(pa.array(places, pa.int64()))


def _none() -> pa.Table:
    return forms.arrow_schema(READING_SUPERSEDED).empty_table()


def _aware(moment: dt.datetime) -> dt.datetime:
    return moment.replace(tzinfo=dt.UTC)


def _standing_for(row: pa.Table) -> dict[str, Any]:
    return _by(*(row.column(name)[0].as_py() for name in SUPERSEDED_BY.values()))


def _by(content: int | None, file: str | None, arrived: dt.datetime) -> dict[str, Any]:
    return dict(zip(SUPERSEDED_BY, (content, file, arrived), strict=True))


def _as_reading(row: Any) -> dict[str, Any]:
    """A row as Cassandra gives it, as one of schema READING."""
    values: dict[str, Any] = row._asdict()
    found = {name: values.get(name) for name in READING.names}
    for name, value in found.items():
        if isinstance(value, dt.datetime):
            found[name] = _aware(value)
    if values.get("recorded_at_us") is not None:
        found["recorded_at"] = _EPOCH + dt.timedelta(microseconds=values["recorded_at_us"])
    return found
