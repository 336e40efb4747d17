"""Shows dead letters to DuckDB: the letters' columns, and the fields of their JSON payloads."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import duckdb
import pyarrow as pa

from pipeline.sinks.duckdb import statements

_INT64 = range(-(2**63), 2**63)
# Columns for fields that the expression does not name, such as for `message::VARCHAR`: payloads
# may have as many names as there are letters.
_MOST_OTHERS = 200


def database() -> duckdb.DuckDBPyConnection:
    """A database in memory, whose SQL reaches no file and no network."""
    found = duckdb.connect()
    found.execute("SET TimeZone = 'UTC'")
    found.execute("SET enable_external_access = false")
    found.execute("SET lock_configuration = true")
    return found


def objects(letters: pa.Table) -> list[dict[str, Any] | None]:
    """The JSON object that each payload is; None where it is none."""
    return [_object(payload) for payload in letters.column("payload").to_pylist()]


def _object(payload: bytes | None) -> dict[str, Any] | None:
    try:
        found = json.loads(payload or b"")
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


@contextlib.contextmanager
def shown(
    database: duckdb.DuckDBPyConnection, letters: pa.Table, expression: str
) -> Iterator[list[str]]:
    """Within it there is a table `incoming`; gives the names of its columns of fields.

    Its columns are `row`, the payloads' fields f0, f1, … in the order of the names, `letter`, a
    struct of the letter's columns, and `message`, a struct of the payload's fields: all that the
    expression names, and the first ones of the others. A name that no column can have is left out.
    """
    found = objects(letters)
    names = _names(found, expression)
    # DuckDB tells no case apart.
    folded = [
        {name.lower(): each[name] for name in reversed(each)} if each else {} for each in found
    ]
    columns = [
        _column([_value(each, other, name) for each, other in zip(found, folded, strict=True)])
        for name in names
    ]
    texts = [_text(payload) for payload in letters.column("payload").to_pylist()]
    plain = letters.set_column(
        letters.column_names.index("payload"), "payload", pa.array(texts, pa.string())
    ).combine_chunks()
    letter = pa.StructArray.from_arrays(
        [_one(column) for column in plain.columns], names=plain.column_names
    )
    message = pa.StructArray.from_arrays([*columns, pa.nulls(len(found))], names=[*names, ""])
    row = pa.array(range(len(found)), pa.int64())
    table = pa.table({"row": row, "letter": letter, "message": message})
    with statements.shown(database, "incoming", table):
        yield names


def _names(found: list[dict[str, Any] | None], expression: str) -> list[str]:
    """The fields that get a column, in order of their appearance."""
    there = {name.lower(): name for each in found for name in each or ()}
    text = expression.lower()
    names, others = [], 0
    for folded, name in there.items():
        if not _can_be(name):
            continue
        if folded not in text and folded.replace('"', '""') not in text:
            others += 1
            if others > _MOST_OTHERS:
                continue
        names.append(name)
    return names


def _can_be(name: str) -> bool:
    """Whether a column can have the name: not an empty one, nor half a character."""
    try:
        return bool(name.encode()) and "\0" not in name
    except UnicodeEncodeError:
        return False


def _one(column: pa.ChunkedArray) -> pa.Array:
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)


def _text(payload: bytes | None) -> str | None:
    try:
        return None if payload is None else payload.decode()
    except UnicodeDecodeError:
        return None


def _column(values: list[Any]) -> pa.Array:
    """A field of all payloads: numbers, truth values or else text."""
    kinds = {type(value) for value in values if value is not None}
    if kinds == {bool}:
        return pa.array(values, pa.bool_())
    if kinds == {int} and all(value is None or value in _INT64 for value in values):
        return pa.array(values, pa.int64())
    if kinds and kinds <= {int, float}:
        with contextlib.suppress(OverflowError):
            return pa.array([None if v is None else float(v) for v in values], pa.float64())
    return pa.array([_as_text(value) for value in values], pa.string())


def _value(each: dict[str, Any] | None, folded: dict[str, Any], name: str) -> Any:
    return each[name] if each and name in each else folded.get(name.lower())


def _as_text(value: Any) -> str | None:
    text = value if value is None or isinstance(value, str) else json.dumps(value)
    return None if text is None else text.encode("utf-8", "replace").decode()


def told(flag: str, error: duckdb.Error) -> str:
    """One line about an expression that DuckDB does not take."""
    said = str(error).strip().splitlines()
    hint = next((line for line in said if line.startswith("Candidate bindings")), "")
    return (
        f"{flag}: {said[0]}{'; ' + hint if hint else ''}; names are columns, texts stand in '…', and "
        "a field that is text in one letter is text in all (TRY_CAST makes a number of it)"
    )
