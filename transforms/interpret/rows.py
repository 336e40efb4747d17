"""Rows of `test_dialects`: how the file of each test was read, from what was decided about it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import orjson
import pyarrow as pa

from schemas.forms import arrow_schema
from schemas.reading import TEST_DIALECT
from transforms.interpret.interpretation import Interpretation, as_json

SCHEMA = arrow_schema(TEST_DIALECT)


def dialect_rows(
    table: pa.Table, dialect: Interpretation, source_file: str | None, arrived_us: int
) -> pa.Table:
    """One row of schema TEST_DIALECT per equipment and test that `table` has readings of.

    Args:
        table: validated readings, with `equipment_id` and, where there are cells, `test_id`.
        dialect: what was decided about their file.
        source_file: the file, with its folder; None where there is none.
        arrived_us: when it arrived, microseconds since 1970 UTC.

    Returns:
        the rows, in the order of their keys. The same file, test and decision always give the
        same key.
    """
    decided = as_json(dialect)
    spelled = _json(decided)
    shared = {
        "source_file": source_file,
        "dialect": dialect.dialect,
        "columns_used": _json(decided["columns"]),
        "columns_left": _json({"kept": decided["left"], "not_understood": decided["refused"]})
        if dialect.left or dialect.refused
        else None,
        "current_sign": dialect.sign.value,
        "clock": dialect.clock,
        "event_time": dialect.event_time,
        "date_order": _date_order(dialect.day_first),
        "counter_grain": dialect.counter_grain,
        "sampling_interval_s": dialect.sampling_s,
        "witnesses": _json({"witnesses": decided["witnesses"]}) if dialect.witnesses else None,
        "disagreements": sorted(set(dialect.disagreements)),
    }
    found = [
        {
            **shared,
            "dialect_id": _key(equipment, test, source_file, spelled),
            "equipment_id": equipment,
            "test_id": test,
        }
        for equipment, test in _tests(table)
    ]
    found.sort(key=lambda row: str(row["dialect_id"]))
    columns = {name: [row.get(name) for row in found] for name in SCHEMA.names}
    columns["ingested_at"] = [arrived_us] * len(found)
    return pa.table([pa.array(columns[f.name], f.type) for f in SCHEMA], schema=SCHEMA)


def _tests(table: pa.Table) -> Sequence[tuple[str, str | None]]:
    """The pairs of equipment and test that a table has."""
    keys = [name for name in ("equipment_id", "test_id") if name in table.column_names]
    plain = pa.table({name: table.column(name).cast(pa.string()) for name in keys})
    pairs = plain.group_by(keys).aggregate([]).to_pylist()
    return [(pair["equipment_id"], pair.get("test_id")) for pair in pairs]


def _date_order(day_first: bool | None) -> str | None:
    if day_first is None:
        return None
    return "dmy" if day_first else "mdy"


def _json(value: object) -> str:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()


def _key(equipment: str, test: str | None, source_file: str | None, decided: str) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in (equipment, test, source_file, decided):
        data = b"" if part is None else part.encode()
        # A missing part is another thing than an empty one.
        digest.update((0 if part is None else len(data) + 1).to_bytes(8, "big"))
        digest.update(data)
    return digest.hexdigest()
