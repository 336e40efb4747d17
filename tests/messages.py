"""Builders of raw batches and readings that the tests of several packages share."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from schemas import profiles
from transforms.batch import MESSAGES, BatchKind, Origin, RawBatch
from transforms.decode import decode
from transforms.limits import Limits
from transforms.validate import validate

START = dt.datetime(2024, 6, 1, 12, tzinfo=dt.UTC)
START_US = 1_717_243_200_000_000
SECOND = 1_000_000
ARRIVED_US = START_US + 3_600 * SECOND
NOW_US = START_US + 7_200 * SECOND

PROFILES = profiles.load()


def limits() -> Limits:
    """The built-in profiles' bounds."""
    return Limits(PROFILES)


def reading(**changes: Any) -> dict[str, Any]:
    """A message's fields that break no rule; a change to None leaves the field out."""
    fields: dict[str, Any] = {
        "equipment_id": "CS2_35",
        "recorded_at": "2024-06-01T12:00:00Z",
        "test_time_s": 0.0,
        "record_index": 1,
        "voltage_v": 3.7,
        "current_a": 0.5,
    }
    fields |= changes
    return {name: value for name, value in fields.items() if value is not None}


def messages(
    payloads: Sequence[Mapping[str, Any] | bytes | None],
    *,
    keys: Sequence[bytes | None] | None = None,
    attributes: Sequence[str | None] | None = None,
    arrived: Sequence[int | None] | None = None,
    files: Sequence[str | None] | None = None,
    **origin: Any,
) -> RawBatch:
    """A batch of messages; a mapping is sent as JSON, bytes as they are."""
    count = len(payloads)
    encoded = [json.dumps(p).encode() if isinstance(p, Mapping) else p for p in payloads]
    table = pa.table(
        [
            pa.array(encoded, pa.binary()),
            pa.array(keys or [None] * count, pa.binary()),
            pa.array(attributes or [None] * count, pa.string()),
            pa.array([f"topic/0/{row}" for row in range(count)], pa.string()),
            pa.array(arrived or [ARRIVED_US] * count, MESSAGES.field("arrived_at").type),
            pa.array(files or [None] * count, pa.string()),
        ],
        schema=MESSAGES,
    )
    origin.setdefault("arrived_at_us", ARRIVED_US)
    return RawBatch(table, BatchKind.MESSAGES, Origin("test://messages", **origin))


def rows(columns: Mapping[str, Any] | pa.Table, **origin: Any) -> RawBatch:
    """A batch of table rows with the source's own column names."""
    table = columns if isinstance(columns, pa.Table) else pa.table(dict(columns))
    origin.setdefault("arrived_at_us", ARRIVED_US)
    return RawBatch(table, BatchKind.ROWS, Origin("test://rows", **origin))


def valid(readings: Sequence[Mapping[str, Any]], **origin: Any) -> pa.Table:
    """Readings, none of which breaks a rule, as `transforms.validate` gives them on."""
    decoded, refused = decode(messages(readings, **origin))
    assert not refused.rows
    table, refused = validate(decoded, limits(), NOW_US)
    assert not refused.rows
    return table


def at(seconds: float) -> str:
    """The time so many seconds after START, as ISO 8601."""
    return (START + dt.timedelta(seconds=seconds)).isoformat()
