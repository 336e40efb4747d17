"""Corrects payloads by SQL expressions, and finds out which the job would read now."""

from __future__ import annotations

import contextlib
import datetime as dt
import decimal
import json
import math
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import duckdb
import pyarrow as pa

from pipeline.clock import now_us
from pipeline.connect import topics
from pipeline.errors import ConfigError
from pipeline.options import JobConfig
from pipeline.replaying import fields
from pipeline.sinks.base import refused
from schemas.reading import READING
from transforms.batch import MESSAGES, BatchKind, Origin, RawBatch
from transforms.decode import decode
from transforms.limits import Limits
from transforms.validate import validate

_PAYLOAD = "payload"


@dataclass
class Judged:
    """What became of the letters.

    Attributes:
        letters: those that were changed and would be read now.
        payloads: their corrected payloads.
        unchanged: how many the expressions left as they were.
        wrong: by (error type, field), how many would be refused again.
        example: the position and reason of one of each of these.
        not_messages: how many are rows of other tables than the readings, which a warehouse
            refused: no message makes these.
    """

    letters: pa.Table
    payloads: list[bytes]
    unchanged: int = 0
    wrong: Counter[tuple[str, str]] = field(default_factory=Counter)
    example: dict[tuple[str, str], str] = field(default_factory=dict)
    not_messages: int = 0


def corrected(letters: pa.Table, changes: Sequence[tuple[str, str]]) -> list[bytes | None]:
    """The payload of each letter after the changes; None where they change nothing.

    Each change sees what the ones before it have made of the payload.

    Raises:
        ConfigError: an expression can't be understood, or fails for a letter.
    """
    former = letters.column(_PAYLOAD).to_pylist()
    current = letters
    for name, expression in changes:
        values = _evaluated(current, name, expression)
        payloads = _payloads(current, name, values)
        at = current.column_names.index(_PAYLOAD)
        current = current.set_column(at, _PAYLOAD, pa.array(payloads, pa.binary()))
    now = current.column(_PAYLOAD).to_pylist()
    return [
        None if after is None or after == before else after
        for before, after in zip(former, now, strict=True)
    ]


def _payloads(letters: pa.Table, name: str, values: Sequence[Any]) -> list[bytes | None]:
    """The payloads with a field's new values; they stay to the byte where that changes nothing."""
    payloads: list[bytes | None] = letters.column(_PAYLOAD).to_pylist()
    if name == _PAYLOAD:
        return [
            before if value is None else str(value).encode("utf-8", "replace")
            for before, value in zip(payloads, values, strict=True)
        ]
    for place, message in enumerate(fields.objects(letters)):
        if message is not None and _put(message, name, values[place]):
            text = json.dumps(message, ensure_ascii=False, separators=(",", ":"))
            payloads[place] = text.encode("utf-8", "replace")
    return payloads


def _put(message: dict[str, Any], name: str, value: Any) -> bool:
    """Whether it changes the message."""
    if value is None:
        return message.pop(name, None) is not None
    if name in message and _same(message[name], value):
        return False
    message[name] = value
    return True


def _same(one: Any, other: Any) -> bool:
    # In Python True is 1.
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)


def _evaluated(letters: pa.Table, name: str, expression: str) -> list[Any]:
    """The value that each letter gets."""
    with (
        contextlib.closing(fields.database()) as database,
        fields.shown(database, letters, expression) as names,
    ):
        own = [f"message.{_quoted(field)} AS {_quoted(field)}" for field in names]
        # What a payload has goes before what the letter has; `letter.NAME` is always that.
        known = {field.lower() for field in names} | {"row", "letter", "message"}
        own += [
            f"letter.{_quoted(column)} AS {_quoted(column)}"
            for column in letters.column_names
            if column.lower() not in known
        ]
        source = f"SELECT row, letter, message, {', '.join(own)} FROM incoming"  # noqa: S608
        try:
            rows = database.execute(
                f"SELECT ({expression}) FROM ({source}) ORDER BY row"  # noqa: S608
            ).fetchall()
        except duckdb.Error as error:
            raise ConfigError(fields.told(f"--set={name}={expression}", error)) from error
    return [_json(value) for (value,) in rows]


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _json(value: Any) -> Any:
    """A value of DuckDB's as JSON has it."""
    if isinstance(value, decimal.Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dt.datetime | dt.date | dt.time):
        return value.isoformat()
    if isinstance(value, uuid.UUID | dt.timedelta):
        return str(value)
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def judged(letters: pa.Table, payloads: Sequence[bytes | None], job: JobConfig) -> Judged:
    """Decodes and validates the changed payloads as the job would, were they to arrive now."""
    others = _other_rows(letters)
    places = [
        place
        for place, payload in enumerate(payloads)
        if payload is not None and place not in others
    ]
    changed = letters.take(pa.array(places, pa.int64()))
    given = [payload for place in places if (payload := payloads[place]) is not None]
    unchanged = len(payloads) - len(places) - len(others)
    found = Judged(changed, given, unchanged=unchanged, not_messages=len(others))
    if not places:
        return found
    raw = _messages(changed, given)
    decoded, rejects = decode(raw, job.zone, job.day_first, job.budget, job.binary_keys)
    _, invalid = validate(decoded, Limits(job.profiles), now_us())
    rejects.rows.update(invalid.rows)
    for place, (kind, column, message) in sorted(rejects.rows.items()):
        why = (kind, column or "")
        found.wrong[why] += 1
        position = changed.column("position")[place].as_py()
        found.example.setdefault(why, f"{position or 'one'}: {message}")
    good = [place for place in range(len(given)) if place not in rejects.rows]
    found.letters = changed.take(pa.array(good, pa.int64()))
    found.payloads = [given[place] for place in good]
    return found


def _other_rows(letters: pa.Table) -> set[int]:
    """The places of rows of other tables than the readings; see `sinks.base.refused.letters`."""
    of_rows = {refused.REFUSED, refused.ROW_TOO_LARGE}
    return {
        place
        for place, (kind, attributes) in enumerate(
            zip(
                letters.column("error_type").to_pylist(),
                letters.column("attributes").to_pylist(),
                strict=True,
            )
        )
        if kind in of_rows
        and topics.json_object(attributes).get("table", READING.name) != READING.name
    }


def keys(letters: pa.Table) -> list[bytes | None]:
    """The key of each message: its own, else the equipment, as on the dead-letter topic."""
    pairs = zip(
        letters.column("message_key").to_pylist(),
        letters.column("equipment_id").to_pylist(),
        strict=True,
    )
    return [
        key if key is not None or equipment is None else equipment.encode()
        for key, equipment in pairs
    ]


def _messages(letters: pa.Table, payloads: Sequence[bytes]) -> RawBatch:
    rows = letters.num_rows
    columns = {
        "payload": pa.array(payloads, pa.binary()),
        "key": pa.array(keys(letters), pa.binary()),
        "attributes": letters.column("attributes").cast(pa.string()),
        "position": letters.column("position"),
        "arrived_at": pa.array([now_us()] * rows, MESSAGES.field("arrived_at").type),
        "source_file": letters.column("source_file"),
    }
    table = pa.table([columns[name] for name in MESSAGES.names], schema=MESSAGES)
    return RawBatch(table, BatchKind.MESSAGES, Origin("replay"))
