"""Turns a source's raw batches into messages that the job decodes to the same readings."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.connect import topics
from schemas.reading import READING, Kind
from transforms.batch import BatchKind, RawBatch
from transforms.decode import STEP, decode
from transforms.limits import Limits
from transforms.rejects import Rejects, dead_letters
from transforms.validate import validate

Times = npt.NDArray[np.int64]

# What goes to the topic, and when it is due: microseconds of the source's own time.
OUTGOING = topics.MESSAGES.append(pa.field("due_us", pa.int64(), nullable=False))
# Due before everything: messages whose time nobody can tell.
AT_ONCE = int(np.iinfo(np.int64).min)

# A row's arrival is its message's; a type that was only assumed is left to the job's profiles.
_LEFT_OUT = {"ingested_at"} | {field.name for field in READING.fields if field.derived}
_TIMES = [field.name for field in READING.fields if field.kind is Kind.TIMESTAMP]
# No reading is refused for its time here: the job's clock is what counts.
_NEVER = sys.maxsize


@dataclass(frozen=True)
class Reading:
    """How the source is read, as the job would; and what of its times is needed.

    Attributes:
        limits: bounds of the equipment profiles.
        time_zone: the zone of times that carry none.
        day_first: whether dates with slashes are day/month/year, None to tell it from the file.
        timed: whether `due_us` is needed.
        by_arrival: whether messages are due when they arrived (the simulator's clock) rather
            than by their event time.
        stamped: whether a message's timestamp is its event time instead of now.
    """

    limits: Limits
    time_zone: str = "UTC"
    day_first: bool | None = None
    timed: bool = False
    by_arrival: bool = False
    stamped: bool = False


class Outgoing:
    """Makes messages (schema OUTGOING) of raw batches, one for each message or row."""

    def __init__(self, how: Reading) -> None:
        self._how = how
        self._last_due = AT_ONCE

    def of(self, raw: RawBatch) -> pa.Table:
        """The batch's messages, as many as it has rows.

        Messages stay as they are to the byte, with their key and attributes; without a key they
        get the equipment's. Rows of tables become JSON objects of the reading's own fields, with
        the test and the file they belong to, because a message can't know these; rows that
        can't be readings keep their source's own names and values, so that the job refuses them
        as it would have in the file, and come after the batch's readings.
        """
        if raw.kind is BatchKind.MESSAGES:
            return self._of_messages(raw)
        return self._of_rows(raw)

    def _of_messages(self, raw: RawBatch) -> pa.Table:
        how, table, rows = self._how, raw.table, raw.table.num_rows
        keys = table.column("key").combine_chunks()
        recorded = None
        if keys.null_count or how.stamped or (how.timed and not how.by_arrival):
            decoded, _ = decode(raw, how.time_zone, how.day_first)
            ids, recorded = _placed(decoded.table, rows)
            keys = pc.coalesce(keys, ids.cast(pa.binary()), _named(raw).cast(pa.binary()))
        arrived = table.column("arrived_at").combine_chunks().cast(pa.int64())
        return self._table(
            table.column("payload"),
            keys,
            _with_file(raw),
            recorded,
            arrived if how.by_arrival else recorded,
        )

    def _of_rows(self, raw: RawBatch) -> pa.Table:
        how = self._how
        decoded, rejects = decode(raw, how.time_zone, how.day_first)
        valid, refused = validate(decoded, how.limits, _NEVER)
        rejects.rows.update(refused.rows)
        named = "equipment_type" in decoded.table.column_names
        good = self._of_readings(valid, typed=named) if valid.num_rows else None
        bad = self._of_refused(raw, rejects) if rejects.rows else None
        table = pa.concat_tables([part for part in (good, bad) if part is not None])
        assert table.num_rows == raw.table.num_rows
        return table

    def _of_readings(self, readings: pa.Table, typed: bool) -> pa.Table:
        names = [
            name
            for name in READING.names
            if name in readings.column_names
            and name not in _LEFT_OUT
            and (typed or name != "equipment_type")
        ]
        names += ["extra"] if "extra" in readings.column_names and "extra" not in names else []
        recorded = readings.column("recorded_at").combine_chunks().cast(pa.int64())
        return self._table(
            pa.array(_objects(readings.select(names)), pa.binary()),
            readings.column("equipment_id").cast(pa.string()).cast(pa.binary()),
            pa.nulls(readings.num_rows, pa.string()),
            recorded,
            recorded,
        )

    def _of_refused(self, raw: RawBatch, rejects: Rejects) -> pa.Table:
        letters = dead_letters(raw, rejects, STEP)
        attributes = [
            _attributes(text, file)
            for text, file in zip(
                letters.column("attributes").to_pylist(),
                letters.column("source_file").to_pylist(),
                strict=True,
            )
        ]
        return self._table(
            letters.column("payload"),
            letters.column("equipment_id").cast(pa.binary()),
            pa.array(attributes, pa.string()),
            None,
            None,
        )

    def _table(
        self,
        payload: Any,
        key: Any,
        attributes: Any,
        recorded: pa.Array | None,
        due: pa.Array | None,
    ) -> pa.Table:
        rows = len(payload)
        stamp = pa.nulls(rows, pa.int64())
        if self._how.stamped and recorded is not None:
            stamp = pc.divide(recorded, 1000)
        columns = [payload, key, attributes, stamp, self._due(due, rows)]
        return pa.table(columns, schema=OUTGOING)

    def _due(self, due: pa.Array | None, rows: int) -> pa.Array:
        """When each is due; one without a time goes with the one before it."""
        if due is None or not self._how.timed:
            return pa.array(np.full(rows, self._last_due, np.int64))
        known = np.asarray(due.is_valid())
        times = due.fill_null(self._last_due).to_numpy(zero_copy_only=False)
        before = np.maximum.accumulate(np.where(known, np.arange(rows), -1))
        filled: Times = np.where(before >= 0, times[before], self._last_due)
        if rows:
            self._last_due = int(filled[-1])
        return pa.array(filled)


def _placed(decoded: pa.Table, rows: int) -> tuple[pa.Array, pa.Array]:
    """Equipment and event time of every row of a batch, null where it could not be decoded."""
    if not decoded.num_rows:
        return pa.nulls(rows, pa.string()), pa.nulls(rows, pa.int64())
    place = np.full(rows, -1, np.int64)
    place[decoded.column("row").to_numpy()] = np.arange(decoded.num_rows)
    at = pa.array(place, mask=place < 0)
    recorded = decoded.column("recorded_at").combine_chunks().cast(pa.int64())
    if "equipment_id" not in decoded.column_names:
        return pa.nulls(rows, pa.string()), recorded.take(at)
    ids = decoded.column("equipment_id").combine_chunks()
    if isinstance(ids, pa.ChunkedArray):
        ids = pa.concat_arrays(ids.chunks)
    return ids.take(at).cast(pa.string()), recorded.take(at)


def _named(raw: RawBatch) -> pa.Array:
    """The equipment that messages' attributes name, null where they name none."""
    texts = raw.table.column("attributes").to_pylist()
    return pa.array([_attribute(text, "equipment_id") for text in texts], pa.string())


@lru_cache(maxsize=8192)
def _attribute(text: str | None, name: str) -> str | None:
    found = topics.json_object(text).get(name)
    return found if isinstance(found, str) else None


def _with_file(raw: RawBatch) -> pa.Array:
    """The messages' attributes, with the file they first came from."""
    attributes = raw.table.column("attributes").combine_chunks()
    files = raw.table.column("source_file").combine_chunks()
    own = raw.origin.source_file
    if files.null_count == len(files) and own is None:
        return attributes
    pairs = zip(attributes.to_pylist(), files.to_pylist(), strict=True)
    return pa.array([_attributes(text, file or own) for text, file in pairs], pa.string())


@lru_cache(maxsize=8192)
def _attributes(text: str | None, file: str | None) -> str | None:
    if file is None:
        return text
    return orjson.dumps({"source_file": file, **topics.json_object(text)}).decode()


def _objects(table: pa.Table) -> Iterator[bytes]:
    """Each row as a JSON object, without its nulls."""
    columns = []
    for name in table.column_names:
        column = table.column(name)
        if name in _TIMES:
            column = pc.replace_substring(column.cast(pa.string()), " ", "T")
        columns.append(column.to_pylist())
    names = table.column_names
    whole = all(not column.null_count for column in table.columns)
    for values in zip(*columns, strict=True):
        if whole:
            yield orjson.dumps(dict(zip(names, values, strict=True)))
        else:
            pairs = zip(names, values, strict=True)
            yield orjson.dumps({name: value for name, value in pairs if value is not None})
