"""Turns Arrow rows into requests: values in Cassandra's own encoding, a partition's rows together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from cassandra.query import UNSET_VALUE

from schemas import forms
from schemas.reading import READING, Field, Kind, Table

_DAY_US = 86_400_000_000
# Of the type `date`: days are unsigned, with 1970 in the middle.
_DAY_ZERO = 1 << 31
# Partition keys' parts have their length in two bytes.
MOST_KEY_BYTES = 65_535
# A request: large enough that the rows cost more than it does, small for the node that takes it.
_MOST_ROWS = 100
_MOST_BYTES = 48 * 1024
# What is turned into Python's objects at a time.
_SLICE_ROWS = 8_192

Row = tuple[Any, ...]
Digits = tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Request:
    """Rows of one partition, which are written together.

    Attributes:
        values: the encoded values of each row, in the order of `forms.cassandra_types`.
        rows: the rows that hold them.
        places: where in `rows` each of them is.
        size: bytes, about.
    """

    values: list[Row]
    rows: pa.Table
    places: list[int]
    size: int

    def single(self, place: int) -> Request:
        """The request of one of the rows alone."""
        return Request([self.values[place]], self.rows, [self.places[place]], self.size)


def rounded(rows: pa.Table, digits: Digits) -> pa.Table:
    """Readings with some fields rounded, half to even, as pandas does."""
    for name, count in digits:
        place = rows.schema.get_field_index(name)
        values = pc.round(rows.column(name), ndigits=count)
        rows = rows.set_column(place, rows.schema.field(name), values)
    return rows


def requests(
    table: Table, rows: pa.Table, digits: Digits = (), whole: bool = False
) -> Iterator[Request]:
    """The requests that write `rows`, none of which has a partition's key that is too long.

    Args:
        table: the table.
        rows: its rows, in any order.
        digits: decimals that fields are rounded to, by name.
        whole: whether nulls are to take the place of what is there; see `encoded`.
    """
    if not rows.num_rows:
        return
    rows = rows.combine_chunks()
    partition = _partitions(table, rows)
    order = np.argsort(partition, kind="stable")
    if not np.array_equal(order, np.arange(len(order))):
        rows, partition = rows.take(pa.array(order)).combine_chunks(), partition[order]
    sizes = _sizes(table, rows)
    for start in range(0, rows.num_rows, _SLICE_ROWS):
        end = min(start + _SLICE_ROWS, rows.num_rows)
        part = rows.slice(start, end - start)
        values = encoded(table, rounded(part, digits), whole)
        yield from _cut(part, values, partition[start:end].tolist(), sizes[start:end].tolist())


def _cut(
    rows: pa.Table, values: list[Row], partition: list[int], sizes: list[int]
) -> Iterator[Request]:
    start, held = 0, 0
    for place, size in enumerate(sizes):
        if place > start and (
            partition[place] != partition[start]
            or place - start >= _MOST_ROWS
            or held + size > _MOST_BYTES
        ):
            yield Request(values[start:place], rows, list(range(start, place)), held)
            start, held = place, 0
        held += size
    yield Request(values[start:], rows, list(range(start, len(values))), held)


def too_long(table: Table, rows: pa.Table) -> pa.BooleanArray:
    """Of each row whether its partition's key is too long for Cassandra."""
    name = forms.cassandra_key(table)[0][0]
    return pc.greater(pc.binary_length(rows.column(name)), MOST_KEY_BYTES)


def _partitions(table: Table, rows: pa.Table) -> np.ndarray:
    """A number for each row that is the same for rows of one partition."""
    names, _ = forms.cassandra_key(table)
    indices = rows.column(names[0]).combine_chunks().dictionary_encode().indices
    keys: np.ndarray = indices.to_numpy().astype(np.int64)
    if table.partition:
        keys = keys * (1 << 32) + (_micros(rows, table.partition) // _DAY_US + _DAY_ZERO)
    return keys


def _micros(rows: pa.Table, name: str) -> np.ndarray:
    micros: np.ndarray = rows.column(name).cast(pa.int64()).to_numpy()
    return micros


def _sizes(table: Table, rows: pa.Table) -> np.ndarray:
    """The bytes of each row, about: every value has its length before it."""
    sizes = np.full(rows.num_rows, 12 * len(forms.cassandra_types(table)), np.int64)
    for field in table.fields:
        if field.kind in (Kind.STRING, Kind.BYTES, Kind.JSON):
            lengths = pc.fill_null(pc.binary_length(rows.column(field.name)), 0)
            sizes += lengths.to_numpy().astype(np.int64)
    return sizes


def encoded(table: Table, rows: pa.Table, whole: bool = False) -> list[Row]:
    """The values of each row as Cassandra has them, in the order of `forms.cassandra_types`.

    A null that came with the source is left unset, because writing it would leave a tombstone; one
    that the job computed is written, so that it takes the place of what an earlier run computed.
    With `whole` all are: nothing of another version of the row may stay.
    """
    by_name: dict[str, list[Any]] = {}
    for field in table.fields:
        null = None if field.derived or whole else UNSET_VALUE
        values = _values(field, rows, null)
        by_name[field.name] = [null] * rows.num_rows if values is None else values
    if table.partition:
        micros = _micros(rows, table.partition)
        by_name["day"] = _packed(micros // _DAY_US + _DAY_ZERO, ">u4")
        if table == READING:
            by_name[f"{table.partition}_us"] = _packed(micros, ">i8")
    return list(zip(*(by_name[name] for name in forms.cassandra_types(table)), strict=True))


def _values(field: Field, rows: pa.Table, null: Any) -> list[Any] | None:
    """A column's encoded values; None if all are null."""
    column = rows.column(field.name)
    if column.null_count == len(column):
        return None
    values: list[Any]
    match field.kind:
        case Kind.DOUBLE:
            values = _packed(pc.fill_null(column, 0.0).to_numpy(), ">f8")
        case Kind.INTEGER:
            values = _packed(pc.fill_null(column, 0).to_numpy(), ">i8")
        case Kind.TIMESTAMP:
            micros = pc.fill_null(column.cast(pa.int64()), 0).to_numpy()
            values = _packed(micros // 1000, ">i8")
        case Kind.BOOLEAN:
            values = _packed(pc.fill_null(column, False).cast(pa.uint8()).to_numpy(), "u1")
        case Kind.STRINGS:
            known: dict[tuple[str, ...], bytes] = {}
            return [_list(tuple(each), known) for each in column.to_pylist()]
        case _:
            values = column.cast(pa.binary()).to_numpy().tolist()
    if column.null_count:
        for place in np.flatnonzero(column.is_null().to_numpy()).tolist():
            values[place] = null
    return values


def _packed(values: np.ndarray, form: str) -> list[bytes]:
    """Numbers in network byte order, each as its own bytes."""
    packed = np.ascontiguousarray(values.astype(form))
    return packed.view(f"V{packed.dtype.itemsize}").tolist()  # type: ignore[no-any-return]


def _list(texts: tuple[str, ...], known: dict[tuple[str, ...], bytes]) -> bytes:
    if texts not in known:
        parts = [len(texts).to_bytes(4, "big")]
        for text in texts:
            data = text.encode()
            parts += [len(data).to_bytes(4, "big"), data]
        known[texts] = b"".join(parts)
    return known[texts]
