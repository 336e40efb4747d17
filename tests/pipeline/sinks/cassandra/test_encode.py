"""Rows as Cassandra's requests: encoded as the driver would, whole, in partitions, small enough."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from typing import Any

import pyarrow as pa
import pytest
from cassandra.cqltypes import lookup_casstype
from cassandra.query import UNSET_VALUE

from pipeline.sinks.cassandra import encode
from pipeline.sinks.cassandra.target import Target
from pipeline.sinks.cassandra.write import insert
from schemas import forms
from schemas.reading import DEAD_LETTER, EQUIPMENT_PROFILE, READING, TABLES, Kind, Table

# What the driver calls Cassandra's types.
DRIVERS = {
    "text": "UTF8Type", "bigint": "LongType", "double": "DoubleType", "blob": "BytesType",
    "boolean": "BooleanType", "timestamp": "TimestampType", "date": "SimpleDateType",
    "frozen<list<text>>": "FrozenType(ListType(UTF8Type))",
}  # fmt: skip
# A leap day shortly before midnight, before 1970, and with microseconds.
TIMES = [
    dt.datetime(2024, 2, 29, 23, 59, 59, 999_999, tzinfo=dt.UTC),
    dt.datetime(1969, 12, 31, 23, 59, 59, 999_500, tzinfo=dt.UTC),
    dt.datetime(1970, 1, 1, tzinfo=dt.UTC),
    dt.datetime(2010, 9, 7, 12, 0, 0, 1_001, tzinfo=dt.UTC),
]
VALUES: dict[Kind, list[Any]] = {
    Kind.STRING: ["cell-1", "", "Größe ☃", "x" * 300],
    Kind.INTEGER: [0, -1, 2**62, -(2**63)],
    Kind.DOUBLE: [0.1, -0.0, 1e308, 5e-324],
    Kind.TIMESTAMP: TIMES,
    Kind.BYTES: [b"", b"\x00\xff", b"payload", b"\n"],
    Kind.STRINGS: [[], ["gap"], ["gap", "late"], ["ä"]],
    Kind.JSON: ["{}", '{"a": 1}', '{"b": null}', "{}"],
    Kind.BOOLEAN: [True, False, False, True],
}


def full(table: Table) -> pa.Table:
    """Four rows without a null."""
    columns = {field.name: VALUES[field.kind] for field in table.fields}
    return pa.table(columns, schema=forms.arrow_schema(table))


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_values_are_encoded_as_the_driver_does(table: Table) -> None:
    rows = full(table).to_pylist()
    types = forms.cassandra_types(table)
    for row, encoded in zip(rows, encode.encoded(table, full(table)), strict=True):
        if table.partition:
            moment = row[table.partition]
            row["day"] = moment.date()
            since = moment - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
            row["recorded_at_us"] = since // dt.timedelta(microseconds=1)
        for (name, kind), data in zip(types.items(), encoded, strict=True):
            value = row[name]
            if kind == "timestamp":
                # The driver would go through floats, and before 1970 towards zero.
                since = value - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
                assert int.from_bytes(data, "big", signed=True) == since // dt.timedelta(
                    milliseconds=1
                )
            else:
                assert data == lookup_casstype(DRIVERS[kind]).serialize(value, 4), name


def test_a_null_leaves_no_tombstone_unless_the_job_computed_it() -> None:
    rows = full(READING).to_pylist()
    for row in rows[:2]:
        row |= {"temperature_c": None, "extra": None, "time_delta_s": None}
    for row in rows:
        row["frequency_hz"] = None
    found = encode.encoded(READING, pa.Table.from_pylist(rows, forms.arrow_schema(READING)))
    place = list(forms.cassandra_types(READING)).index
    for number, values in enumerate(found):
        gone = number < 2
        assert (values[place("temperature_c")] is UNSET_VALUE) == gone
        assert (values[place("extra")] is UNSET_VALUE) == gone
        assert (values[place("time_delta_s")] is None) == gone
        assert values[place("frequency_hz")] is UNSET_VALUE
        assert UNSET_VALUE is not values[place("voltage_v")] is not None


def fleet(count: int, equipments: int, note: str = "{}") -> pa.Table:
    """Readings of a fleet in turns, half an hour apart, over some days."""
    start = dt.datetime(2024, 6, 1, tzinfo=dt.UTC)
    base = full(READING).slice(0, 1).to_pylist()[0]
    rows = [
        base
        | {
            "reading_id": f"{number:032x}",
            "equipment_id": f"cell-{number % equipments}",
            "recorded_at": start + dt.timedelta(minutes=30 * number // equipments),
            "extra": note,
        }
        for number in range(count)
    ]
    return pa.Table.from_pylist(rows, forms.arrow_schema(READING))


@pytest.mark.parametrize(("count", "equipments", "note"), [
    (1, 1, "{}"), (3_000, 3, "{}"), (9_000, 700, "{}"), (200, 2, "x" * 9_000), (5, 1, "x" * 99_000),
])  # fmt: skip
def test_a_request_holds_rows_of_one_partition_and_every_row_is_in_one(
    count: int, equipments: int, note: str
) -> None:
    rows = fleet(count, equipments, note)
    place = list(forms.cassandra_types(READING)).index
    seen: Counter[bytes] = Counter()
    requests = list(encode.requests(READING, rows))
    for request in requests:
        values = request.values
        assert len({(row[place("equipment_id")], row[place("day")]) for row in values}) == 1
        assert 0 < len(values) <= encode._MOST_ROWS
        assert len(values) == 1 or request.size <= encode._MOST_BYTES
        written = sum(len(value) for row in values for value in row if isinstance(value, bytes))
        assert written <= request.size
        for row, at in zip(values, request.places, strict=True):
            seen[row[place("reading_id")]] += 1
            (kept,) = request.rows.slice(at, 1).column("reading_id").to_pylist()
            assert kept.encode() == row[place("reading_id")]
    assert seen == Counter({f"{number:032x}".encode(): 1 for number in range(count)})


def test_no_rows_make_no_request() -> None:
    assert list(encode.requests(READING, full(READING).slice(0, 0))) == []


def test_rounding_is_for_what_is_written_and_not_for_what_is_refused() -> None:
    rows = full(READING).slice(0, 1)
    rows = rows.set_column(
        rows.schema.get_field_index("voltage_v"), rows.schema.field("voltage_v"), pa.array([2.675])
    )
    (request,) = encode.requests(READING, rows, (("voltage_v", 1),))
    place = list(forms.cassandra_types(READING)).index("voltage_v")
    assert request.values[0][place] == lookup_casstype("DoubleType").serialize(2.7, 4)
    assert request.rows.column("voltage_v").to_pylist() == [2.675]


def test_a_key_that_is_too_long_is_found() -> None:
    rows = full(READING).to_pylist()
    rows[1]["equipment_id"] = "e" * encode.MOST_KEY_BYTES
    rows[2]["equipment_id"] = "ä" * encode.MOST_KEY_BYTES
    long = encode.too_long(READING, pa.Table.from_pylist(rows, forms.arrow_schema(READING)))
    assert long.to_pylist() == [False, False, True, False]


def test_statements_name_every_column_and_expire_rows_that_have_a_time() -> None:
    target = Target.parse("cassandra://h/Fleet?ttl=2")
    types = forms.cassandra_types(READING)
    statement = insert(target, READING)
    assert statement.startswith(f'INSERT INTO "Fleet".sensor_data ({", ".join(types)}) VALUES (')
    assert statement.count("?") == len(types)
    assert statement.endswith(") USING TTL 172800")
    assert "USING TTL 172800" in insert(target, DEAD_LETTER)
    assert "TTL" not in insert(target, EQUIPMENT_PROFILE)
    assert "TTL" not in insert(Target.parse("cassandra://h/Fleet"), READING)
