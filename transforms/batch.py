"""What travels between steps: raw batches from a source, and packed Arrow tables of readings."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

import pyarrow as pa
from apache_beam import coders

from schemas.forms import UTC_MICROSECONDS
from transforms.interpret.interpretation import Interpretation

# A source's messages, one row each. `position` says where in the source the message stood (for
# example `topic/3/1702`); `attributes` is a JSON object; `source_file` names the file a replayed
# message first came from.
MESSAGES = pa.schema(
    [
        pa.field("payload", pa.binary()),
        pa.field("key", pa.binary()),
        pa.field("attributes", pa.string()),
        pa.field("position", pa.string()),
        pa.field("arrived_at", UTC_MICROSECONDS),
        pa.field("source_file", pa.string()),
    ]
)


class BatchKind(StrEnum):
    """How the rows of a raw batch are to be understood."""

    MESSAGES = "messages"  # schema MESSAGES: every payload is one JSON object
    ROWS = "rows"  # a table with the source's own column names and any column types


@dataclass(frozen=True)
class Origin:
    """Where a raw batch comes from, and what its rows mean where they do not say it themselves.

    Attributes:
        source: the source as configured, without secrets.
        source_file: the file, with its folder (`CS2_35/CS2_35_8_18_10.xlsx`), or None.
        arrived_at_us: when the batch arrived, microseconds since 1970 UTC.
        equipment_id: the equipment of rows that name none.
        test_start_us: earliest event time of the whole file, where the batch is only a part of
            it; None makes the batch's own earliest row the start.
        day_first: whether the file's dates with slashes are day/month/year, where it was seen.
        first_row: position in the file of the batch's first row, counted from 1.
        reading: how the rows of a table are to be understood; None lets them decide themselves.
        last_s: the largest test time of the whole file, where the batch is only a part of it and
            nothing else says when the test was.
    """

    source: str
    source_file: str | None = None
    arrived_at_us: int = 0
    equipment_id: str | None = None
    test_start_us: int | None = None
    day_first: bool | None = None
    first_row: int = 1
    reading: Interpretation | None = None
    last_s: float | None = None


@dataclass(frozen=True)
class RawBatch:
    """Thousands of messages or table rows as the source gave them, with their origin.

    Attributes:
        table: the messages (schema MESSAGES) or rows.
        kind: which of the two.
        origin: where they come from.
        ahead: what `transforms.decode.decode` gives for them, where the source had to know; it
            does not travel between processes.
        refused: rows that the source could not read or would not hold: the error type and message
            of each. They are dead letters of what `table` kept of them.
        positions: what the source has read so far, a table of schema SOURCE_POSITION; None for
            nothing new.
    """

    table: pa.Table
    kind: BatchKind
    origin: Origin
    ahead: Any = field(default=None, compare=False, repr=False)
    refused: Mapping[int, tuple[str, str]] = field(default_factory=dict)
    positions: pa.Table | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        given = (self.table, self.kind, self.origin, None, self.refused, self.positions)
        return RawBatch, given

    def slice(self, offset: int, length: int) -> RawBatch:
        """The `length` rows from `offset` on, zero-copy, with their place in the file kept."""
        origin = replace(self.origin, first_row=self.origin.first_row + offset)
        refused = {
            row - offset: why
            for row, why in self.refused.items()
            if offset <= row < offset + length
        }
        return RawBatch(self.table.slice(offset, length), self.kind, origin, None, refused)


def stack(tables: Sequence[pa.Table]) -> pa.Table:
    """The rows of all tables as one, in one chunk; columns that some lack are null there."""
    if len(tables) == 1 and all(column.num_chunks == 1 for column in tables[0].columns):
        return tables[0]
    whole = tables[0] if len(tables) == 1 else None
    if whole is None:
        whole = pa.concat_tables(tables, promote_options="permissive")
    return whole.unify_dictionaries().combine_chunks()


class PackedBatch:
    """An Arrow table that stays encoded until somebody asks for it.

    Batches cross a shuffle and sit in state as bytes; a step that only passes or stores them
    must not pay for decoding. `store` (see `PackedBatchCoder`) may keep the bytes elsewhere.
    """

    __slots__ = ("_handle", "_table")

    def __init__(self, table: pa.Table | None = None, handle: bytes | None = None) -> None:
        if (table is None) == (handle is None):
            raise ValueError("a packed batch is made from a table or from encoded bytes")
        self._table = table
        self._handle = handle

    @property
    def table(self) -> pa.Table:
        """The table; decoded at every call if it came encoded, so that the caller owns its life."""
        if self._table is not None:
            return self._table
        assert self._handle is not None
        return _decode(self._handle)

    @property
    def handle(self) -> bytes:
        """The encoded form; encodes (once) if it was made from a table."""
        if self._handle is None:
            self._handle = _encode(self._table)
        return self._handle

    def packed(self) -> PackedBatch:
        """The same batch without its table: what is kept of it is its handle."""
        return PackedBatch(handle=self.handle)

    def __reduce__(self) -> tuple[type[PackedBatch], tuple[None, bytes]]:
        return PackedBatch, (None, self.handle)


class BatchStore:
    """Where encoded batches are kept: by default, in the encoded element itself.

    The local runner replaces this by one that keeps large batches on disk, because it holds
    everything between two stages in memory.
    """

    def put(self, data: pa.Buffer) -> bytes:
        """Keeps `data` and returns what finds it again."""
        kept: bytes = data.to_pybytes()
        return b"\x00" + kept

    def get(self, handle: bytes) -> pa.Buffer:
        """The data that `put` kept under `handle`."""
        return pa.py_buffer(memoryview(handle)[1:])


_DEFAULT_STORE = BatchStore()
_store: BatchStore = _DEFAULT_STORE


def use_store(store: BatchStore | None) -> None:
    """Keeps batches encoded from now on, in this process, in `store` (None: in the element)."""
    global _store
    _store = store if store is not None else _DEFAULT_STORE


def _encode(table: pa.Table | None) -> bytes:
    assert table is not None
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with pa.ipc.new_stream(sink, table.schema, options=options) as writer:
        writer.write_table(table)
    return _store.put(sink.getvalue())


def _decode(handle: bytes) -> pa.Table:
    store = _DEFAULT_STORE if handle[:1] == b"\x00" else _store
    return pa.ipc.open_stream(store.get(handle)).read_all()


class _SizedCoder(coders.Coder):
    """A coder that tells an element's size without encoding it.

    Beam samples sizes for its metrics; by default it encodes the element for that, which for a
    packed batch costs more than the step that made it.
    """

    def is_deterministic(self) -> bool:
        """False: equal tables may be laid out differently."""
        return False


class PackedBatchCoder(_SizedCoder):
    """Beam's coder for packed batches: the handle as it is."""

    def encode(self, value: PackedBatch) -> bytes:
        """The batch's handle."""
        return value.handle

    def decode(self, encoded: bytes) -> PackedBatch:
        """A batch that decodes when it is asked for its table."""
        return PackedBatch(handle=encoded)

    def estimate_size(self, value: PackedBatch) -> int:
        """Bytes of the handle."""
        return len(value.handle)

    def to_type_hint(self) -> type[PackedBatch]:
        """The type this coder serves."""
        return PackedBatch


class TableCoder(_SizedCoder):
    """Beam's coder for Arrow tables: an IPC stream, on disk where the store says so."""

    def encode(self, value: pa.Table) -> bytes:
        """The table's handle in the store."""
        return _encode(value)

    def decode(self, encoded: bytes) -> pa.Table:
        """The table."""
        return _decode(encoded)

    def estimate_size(self, value: pa.Table) -> int:
        """Bytes of the table's buffers."""
        return int(value.nbytes)

    def to_type_hint(self) -> Any:
        """The type this coder serves."""
        return pa.Table


class PickledCoder(_SizedCoder):
    """Beam's coder for what holds a table beside other things: pickle.

    Steps hand these on within one worker; only a runner that does not fuse them encodes any.
    """

    held: type

    def encode(self, value: Any) -> bytes:
        """The element, pickled; protocol 5 takes Arrow's buffers as they are."""
        return pickle.dumps(value, protocol=5)

    def decode(self, encoded: bytes) -> Any:
        """The element."""
        return pickle.loads(encoded)  # noqa: S301 - written by this job

    def estimate_size(self, value: Any) -> int:
        """Bytes of the table's buffers."""
        return int(value.table.nbytes)

    def to_type_hint(self) -> type:
        """The type this coder serves."""
        return self.held


class RawBatchCoder(PickledCoder):
    """Beam's coder for raw batches."""

    held = RawBatch


coders.registry.register_coder(PackedBatch, PackedBatchCoder)
coders.registry.register_coder(pa.Table, TableCoder)
coders.registry.register_coder(RawBatch, RawBatchCoder)
