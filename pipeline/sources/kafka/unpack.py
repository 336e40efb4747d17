"""Unpacks what a Kafka broker gives; what can't be read is given as refused and stepped over."""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple

from kafka.consumer.fetcher import ConsumerRecord, Fetcher
from kafka.protocol.consumer import IsolationLevel
from kafka.record import MemoryRecords
from kafka.record.default_records import DefaultRecordBatch
from kafka.record.legacy_records import LegacyRecordBatch
from kafka.record.util import calc_crc32c, decode_varint
from kafka.structs import TopicPartition

from pipeline.sources.kafka.borders import Batch, Borders
from pipeline.sources.kafka.codecs import unpacked
from pipeline.sources.kafka.columns import NO_TIME, Columns
from pipeline.sources.live.offsets import ABORTED, COMPACTION, CONTROL, Gap, gap
from transforms.budget import LETTER_BYTES, TOO_LARGE, USUAL, Budget

UNREADABLE = "unreadable_record"

# What one poll gives at most, and one record beyond it.
POLL_BYTES = 16 << 20

_FRAME = struct.Struct(">qi")
_MAGIC_AT = 16
_HEADER = DefaultRecordBatch.HEADER_STRUCT
_CRC_FROM = DefaultRecordBatch.ATTRIBUTES_OFFSET
_LOG_APPEND_TIME = DefaultRecordBatch.TIMESTAMP_TYPE_MASK
_CONTROL = DefaultRecordBatch.CONTROL_MASK
_TRANSACTIONAL = DefaultRecordBatch.TRANSACTIONAL_MASK
_CODEC = DefaultRecordBatch.CODEC_MASK
# A marker's key: version, and whether its transaction was aborted (0) or committed (1).
_MARKER = struct.Struct(">hh")
_ABORT = 0
_BIGGEST = 2**63 - 1
_MOST_ROWS = 1 << 20
# The length of what is not there, -1, as it is written.
_NULL = 1
_record = ConsumerRecord._make
# The same of as many values as there are fields.
_new = tuple.__new__


class Refusal(NamedTuple):
    """Why a record is none; it stands in the place of the record's checksum, which nobody uses."""

    error_type: str
    message: str


class _Broken(ValueError):
    """A record's bytes are none."""


class _Mark(NamedTuple):
    """Where reading a part of a fetch stands, so that it can go back there; see `Unpacked`."""

    frame: int
    is_within: bool
    next_fetch_offset: int
    bytes_read: int
    records_read: int
    leader_epoch: int
    aborted: frozenset[int]
    transactions: tuple[Any, ...]
    skipped: int


class Unpacked(Fetcher.PartitionRecords):  # type: ignore[misc,unused-ignore]
    """A partition's part of a fetch, record by record.

    The client's own gives up a partition for ever at the first byte that it does not understand.
    Here what can't be read is a record too, with a `Refusal`: one for a record that stands alone,
    one at the last offset of all records that can't be told apart. Where the client reads what is
    committed alone, batches of aborted transactions are left out; the client's own unpacking, in
    whose place this stands, would do so.

    `columns` gives the same as `take` without an object for each message: of whole batches, whose
    headers say which offsets they hold, many records are cut at once (`borders`). Where these are
    not what their headers say, it goes back and takes them one by one.

    Attributes:
        budget: what a message may take.
        high: the offset behind the partition's last record; None where it is not known.
        most_bytes: `take` ends with the record that makes it so many.
        as_columns: whether `take` gives what `columns` does, in one piece.
        skipped: the offsets that were passed so far and hold no message.
    """

    budget: Budget = USUAL
    high: int | None = None
    most_bytes: int = POLL_BYTES
    as_columns: bool = False
    # The client's: where to go on, and what it gives until nothing is left.
    next_fetch_offset: int
    fetch_offset: int
    record_iterator: Iterator[Any] | None
    bytes_read: int
    records_read: int
    leader_epoch: int
    isolation_level: int
    aborted_producer_ids: set[int]
    aborted_transactions: deque[Any]

    def __init__(self, *args: Any, **named: Any) -> None:
        self.skipped: list[Gap] = []
        # Where the batch begins that is to be read next, or that is being read now; then where it
        # ends. And which offsets of it were read before.
        self._frame = self._behind = self._passed = 0
        self._is_within = False
        self._only_strictly = False
        # What takes records that are cut at once, and up to how many of them and of the bytes read.
        self._cut: Borders | None = None
        self._cut_rows = self._cut_bytes = 0
        super().__init__(*args, **named)

    def _skip(self, first: int, last: int, reason: str) -> None:
        """Takes note of offsets without a message, as far as they were asked for."""
        first = max(first, self.next_fetch_offset)
        if first <= last:
            self.skipped.append(gap(first, last, reason))

    def take(self, n: int | None = None) -> Any:
        """The next records, at most `n`, in a list; see `as_columns`."""
        if self.as_columns:
            return _OnePiece(self.columns(n))
        return self._taken(n)[0]

    def columns(self, n: int | None = None) -> Columns:
        """The next records as columns, at most `n`."""
        mark = self._mark()
        self._cut = cut = Borders(self.budget.message_bytes)
        try:
            found, rows = self._taken(n)
        finally:
            self._cut = None
        if not len(cut):
            return Columns.of(found)
        bytes_read = self.bytes_read
        parts = cut.parts(self._strict)
        self.bytes_read = bytes_read
        if parts is None:
            self._go_back(mark)
            return Columns.of(self._taken(n)[0])
        return _mixed(Columns(parts), found, rows)

    def _taken(self, n: int | None) -> tuple[list[Any], list[int]]:
        """The next records but for those that are cut, and how many of these stand before each."""
        found: list[Any] = []
        rows: list[int] = []
        if self.record_iterator is None:
            return found, rows
        most = self._cut_bytes = self.bytes_read + self.most_bytes
        self._cut_rows = _MOST_ROWS if n is None else n
        for record in self.record_iterator:
            if record is not None:
                self._cut_rows -= 1
                found.append(record)
                rows.append(0 if self._cut is None else len(self._cut))
            if self._cut_rows <= 0 or self.bytes_read >= most:
                break
        return found, rows

    def _mark(self) -> _Mark:
        return _Mark(
            self._frame, self._is_within, self.next_fetch_offset, self.bytes_read, self.records_read,
            self.leader_epoch, frozenset(self.aborted_producer_ids),
            tuple(self.aborted_transactions), len(self.skipped),
        )  # fmt: skip

    def _go_back(self, mark: _Mark) -> None:
        """Reads on from there, record by record."""
        self.next_fetch_offset, self.bytes_read = mark.next_fetch_offset, mark.bytes_read
        self.records_read, self.leader_epoch = mark.records_read, mark.leader_epoch
        self.aborted_producer_ids = set(mark.aborted)
        self.aborted_transactions = deque(mark.transactions)
        del self.skipped[mark.skipped :]
        self._only_strictly = True
        self.record_iterator = self._from(mark.frame, mark.is_within)

    def _maybe_skip_record(self, record: Any) -> bool:
        # Of those that are cut none is before what was asked for.
        return record is not None and super()._maybe_skip_record(record)

    def _strict(self, batch: Batch, data: bytes, size: int, before: int) -> Any:
        base, last, first_ms, sent_ms = batch
        return self._of_record(data, 0, size, base, before, last, first_ms, sent_ms)

    def step_over(self, message: str) -> None:
        """Gives nothing but the refusal of what stands at the offset that was asked for."""

        def only() -> Iterator[Any]:
            yield self._refused(UNREADABLE, message, self.fetch_offset, None)
            self.drain()

        self.record_iterator = only()

    def _unpack_records(
        self,
        tp: TopicPartition,  # noqa: ARG002 - as the client calls it
        records: MemoryRecords,
        *_deserializers: Any,
    ) -> Iterator[Any]:
        self._data = memoryview(records._buffer)
        return self._from(0)

    def _from(self, at: int, again: bool = False) -> Iterator[Any]:
        """The records from a batch on; None stands for some that are cut.

        `again`: this batch was read before, up to the next offset or to its end.
        """
        data = self._data
        self._passed = self.next_fetch_offset if again else self.fetch_offset
        while at + _FRAME.size <= len(data):
            base, length = _FRAME.unpack_from(data, at)
            stop = at + _FRAME.size + length
            if length <= _MAGIC_AT - _FRAME.size or stop > len(data):
                # Cut off by the fetch's size, so the next fetch begins here.
                break
            self._frame, self._behind, self._is_within = at, stop, True
            following = _FRAME.unpack_from(data, stop)[0] if stop + 12 <= len(data) else None
            batch = data[at:stop]
            if not again or self._last_of(base, batch, following) >= self.next_fetch_offset:
                yield from self._of_batch(base, batch, following)
            again, self._passed = False, self.fetch_offset
            at = stop
        if self.next_fetch_offset == self.fetch_offset and data.nbytes:
            yield self._refused(
                UNREADABLE, "the length of its batch is damaged", self.fetch_offset, bytes(data)
            )
        self.drain()

    def _of_batch(self, base: int, batch: memoryview, following: int | None) -> Iterator[Any]:
        """A batch's records, and what is wrong with those that are none."""
        expected = self.next_fetch_offset
        last = self._last_of(base, batch, following)
        # A broker may have looked where its log ends before it read what it gives; but what it has
        # got since then has no gaps.
        beyond = self.high is not None and last >= self.high and base > expected
        if last < expected or beyond:
            if following is not None and following <= self.fetch_offset:
                return  # some brokers begin before what they were asked for
            # No checksum covers where a batch begins.
            known = following is not None and expected < following <= (self.high or _BIGGEST)
            last = following - 1 if known and following is not None else expected
            self._frame, self._is_within = self._behind, False
            yield self._refused(
                UNREADABLE, f"a batch says that it begins at {base:,}", last, bytes(batch), expected
            )
            return
        try:
            if batch[_MAGIC_AT] == 2:
                self._pass(base - 1, COMPACTION)
                yield from self._of_records(base, last, batch)
            else:
                yield from self._of_legacy(base, batch)
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, it is this batch's
            begins = max(base, self.next_fetch_offset)
            if self.high is not None and self.high > begins:
                last = min(last, self.high - 1)  # its header may be damaged, too
            if begins <= last:
                self._frame, self._is_within = self._behind, False
                why = f"{str(error) or type(error).__name__}; their batch has {len(batch):,} bytes"
                yield self._refused(UNREADABLE, why, last, bytes(batch), begins)
        # Compaction may have taken a batch's last records.
        self._skip(self.next_fetch_offset, last, COMPACTION)
        self.next_fetch_offset = max(self.next_fetch_offset, last + 1)

    @staticmethod
    def _last_of(base: int, batch: memoryview, following: int | None) -> int:
        """A batch's last offset, which is before the next one's first."""
        last = base
        if batch[_MAGIC_AT] == 2 and len(batch) >= _HEADER.size:
            last = base + max(0, _HEADER.unpack_from(batch)[6])
        return following - 1 if following is not None and base < following <= last else last

    def _of_records(self, base: int, last: int, batch: memoryview) -> Iterator[Any]:
        header = _HEADER.unpack_from(batch)
        if calc_crc32c(batch[_CRC_FROM:]) != header[4]:
            raise _Broken("the checksum is wrong")
        self.leader_epoch = header[2]
        attributes, first_ms, latest_ms, count = header[5], header[7], header[8], header[12]
        committed = self.isolation_level == IsolationLevel.READ_COMMITTED
        if committed and header[9] >= 0:
            self._consume_aborted_transactions_up_to(last)
        if attributes & _CONTROL:
            if committed and _is_abort(batch[_HEADER.size :]):
                self.aborted_producer_ids.discard(header[9])
            self._pass(last, CONTROL)
            return
        if committed and attributes & _TRANSACTIONAL and header[9] in self.aborted_producer_ids:
            self._pass(last, ABORTED)
            return
        data, whole = unpacked(batch[_HEADER.size :], attributes & _CODEC, self.budget.held_bytes)
        sent_ms = latest_ms if attributes & _LOG_APPEND_TIME else None
        at, before, expected, left = 0, base - 1, self.next_fetch_offset, count
        plain = Batch(base, last, first_ms, sent_ms)
        # Not where compaction has taken some of them.
        can_cut = last - base + 1 == count and plain.is_near and not self._only_strictly
        while left > 0:
            if can_cut and self._cut is not None and before + 1 == self.next_fetch_offset:
                can_cut = at > 0 or _begins_plain(data)
                rows, stop = self._to_cut(plain, data, at, left) if can_cut else (0, at)
                if rows:
                    at, before, left = stop, before + rows, left - rows
                    yield None
                    continue
            left -= 1
            try:
                low = data[at]
                if low < 0x80:
                    length, began = (low >> 1) ^ -(low & 1), at + 1
                elif not low & 1 and (high := data[at + 1]) < 0x80:
                    length, began = (low & 0x7F | high << 7) >> 1, at + 2
                else:
                    length, began = decode_varint(data, at)
            except (IndexError, ValueError):
                break
            stop = began + length
            if length < 0 or stop > len(data):
                break
            at = stop
            record = self._of_record(data, began, stop, base, before, last, first_ms, sent_ms)
            if record is None:
                break
            before = record[3]
            if before < expected:
                continue  # it was asked for an offset within the batch
            self.records_read += 1
            if before != self.next_fetch_offset:
                self._skip(self.next_fetch_offset, before - 1, COMPACTION)
            self.next_fetch_offset = before + 1
            yield record
        else:
            if at == len(data) and whole:
                return
        yield from self._rest(max(before + 1, expected), last, len(data) - at, whole)

    def _to_cut(self, batch: Batch, data: bytes, at: int, left: int) -> tuple[int, int]:
        """Leaves records to be cut; returns how many, and where the next one stands."""
        assert self._cut is not None
        most = self._cut_bytes - self.bytes_read
        rows = min(left, self._cut_rows)
        found, stop = self._cut.add(batch, data, at, self.next_fetch_offset, rows, most)
        self._cut_rows -= found
        self.records_read += found
        self.bytes_read += stop - at
        self.next_fetch_offset += found
        return found, stop

    def _pass(self, last: int, reason: str) -> None:
        self._skip(self.next_fetch_offset, last, reason)
        self.next_fetch_offset = max(self.next_fetch_offset, last + 1)

    def _rest(self, first: int, last: int, size: int, whole: bool) -> Iterator[Any]:
        """What stands behind the last record of a batch that can be told apart from the others."""
        if first > last:
            return
        if whole:
            what = f"their {size:,} bytes are no records"
            yield self._refused(UNREADABLE, what, last, None, first)
        else:
            what = f"their batch has more than {self.budget.held_mb:,} MiB when it is unpacked"
            what = self.budget.over("held_mb", what)
            yield self._refused(TOO_LARGE, what, last, None, first)

    def _of_record(
        self, data: bytes, at: int, stop: int, base: int, before: int, last: int,
        first_ms: int, sent_ms: int | None,
    ) -> Any:  # fmt: skip
        """The record that stands in `data` from `at` to `stop`; None where it has no offset."""
        self.bytes_read += stop - at
        if before >= last:
            return None
        headers: list[tuple[str, bytes | None]] = []
        bad = None
        plain = _plain(data, at, stop)
        if plain is not None:
            offset, time_ms, key, value = plain
        else:
            try:
                offset, time_ms, key, value, headers, bad = _fields(
                    data, at, stop, self.budget.message_bytes
                )
            except (_Broken, IndexError, ValueError) as error:
                return self._refused(UNREADABLE, str(error), before + 1, data[at:stop])
        offset += base
        if not before < offset <= last:
            what = f"it says that its offset is {offset:,}, in a batch of {base:,} to {last:,}"
            return self._refused(UNREADABLE, what, before + 1, data[at:stop])
        if stop - at > self.budget.message_bytes:
            what = self.budget.over("message_kb", f"the message has {stop - at:,} bytes")
            return self._refused(TOO_LARGE, f"{what}; it is whole in the topic", offset, None)
        time_ms = first_ms + time_ms if sent_ms is None else sent_ms
        if not 0 <= time_ms <= _BIGGEST:
            time_ms = NO_TIME
        why = None if bad is None else Refusal(UNREADABLE, f"a header's name is not UTF-8: {bad!r}")
        tp = self.topic_partition
        return _new(
            ConsumerRecord,
            (tp.topic, tp.partition, self.leader_epoch, offset, time_ms, int(sent_ms is not None),
             key, value, headers, why, -1, -1, -1),
        )  # fmt: skip

    def _of_legacy(self, base: int, batch: memoryview) -> Iterator[Any]:
        """A message set of the formats before Kafka 0.11."""
        found = _Legacy(batch, batch[_MAGIC_AT])
        found.most = self.budget.held_bytes
        if found.magic > 1:
            raise _Broken(f"format {found.magic} is not known")
        if not found.validate_crc():
            raise _Broken("the checksum is wrong")
        tp = self.topic_partition
        for record in found:
            size = len(record.key or b"") + len(record.value or b"")
            self.bytes_read += size
            if not (record.validate_crc() and self.next_fetch_offset <= record.offset <= base):
                if record.offset < self._passed:
                    continue
                raise _Broken("a record's checksum or offset is wrong")
            if size > self.budget.message_bytes:
                what = self.budget.over("message_kb", f"the message has {size:,} bytes")
                yield self._refused(TOO_LARGE, what, record.offset, None)
                continue
            self.records_read += 1
            self._skip(self.next_fetch_offset, record.offset - 1, COMPACTION)
            self.next_fetch_offset = record.offset + 1
            yield _record(
                (tp.topic, tp.partition, -1, record.offset, record.timestamp,
                 record.timestamp_type, record.key, record.value, [], None, -1, -1, -1)
            )  # fmt: skip

    def _refused(
        self, error_type: str, message: str, last: int, kept: bytes | None, first: int | None = None
    ) -> Any:
        """A record that is none, at the last offset it stands for; the position goes behind it."""
        first = last if first is None else first
        if first < last:
            message = f"offsets {first:,} to {last:,} of the partition: {message}"
        if kept is not None and len(kept) > LETTER_BYTES:
            kept = None
        self.bytes_read += len(kept or b"")
        self.next_fetch_offset = max(self.next_fetch_offset, last + 1)
        tp = self.topic_partition
        return _record(
            (tp.topic, tp.partition, self.leader_epoch, last, NO_TIME, 0, None, kept, [],
             Refusal(error_type, message), -1, -1, -1)
        )  # fmt: skip


class _OnePiece:
    """Columns as the client takes them for records: as many as there are, one of which is all."""

    def __init__(self, columns: Columns) -> None:
        self._columns = columns

    def __len__(self) -> int:
        return len(self._columns)

    def __iter__(self) -> Iterator[Columns]:
        return iter((self._columns,))


def _mixed(cut: Columns, records: Sequence[Any], rows: Sequence[int]) -> Columns:
    """Columns with records among them; `rows` tells how many rows stand before each of these."""
    if not records:
        return cut
    found, behind = Columns(), 0
    for place, group in groupby(zip(rows, records, strict=True), key=itemgetter(0)):
        found.extend(cut.slice(behind, place))
        found.extend(Columns.of(record for _, record in group))
        behind = place
    found.extend(cut.slice(behind, len(cut)))
    return found


def _begins_plain(data: bytes) -> bool:
    """Whether a batch's first record is a usual one: the others will be like it."""
    try:
        length, at = decode_varint(data, 0)
    except (IndexError, ValueError):
        return False
    return _plain(data, at, at + length) is not None


def _is_abort(records: memoryview) -> bool:
    """Whether a transaction's marker says that it was aborted; a damaged one says nothing."""
    try:
        length, at = decode_varint(records, 0)
        key = _fields(bytes(records), at, at + length, length)[2]
        return key is not None and _MARKER.unpack_from(key)[1] == _ABORT
    except (IndexError, ValueError, struct.error):
        return False


class _Legacy(LegacyRecordBatch):  # type: ignore[misc,unused-ignore]
    """A message set that unpacks no more than `most` bytes."""

    most: int

    def _decompress(self, key_offset: int) -> bytes:
        _, data = self._read_key_value(key_offset)
        if data is None:
            raise _Broken("a packed message without content")
        if self.compression_type == self.CODEC_LZ4 and self._magic == 0:
            raise _Broken("LZ4 as Kafka 0.8 wrote it is not known")
        found, whole = unpacked(data, self.compression_type, self.most)
        if not whole:
            raise _Broken(f"more than {self.most:,} bytes when it is unpacked")
        return found


def _plain(data: bytes, at: int, stop: int) -> tuple[int, int, bytes | None, bytes] | None:
    """What `_fields` gives of a usual record: a short key or none, a value below 8 KiB, no headers.

    None for any other, and for what is none. It is for speed alone: a record costs half as much.
    """
    try:
        low, high = data[at + 1], data[at + 2]
        if low < 0x80:
            time_ms, at = (low >> 1) ^ -(low & 1), at + 2
        elif high < 0x80:
            zigzag = low & 0x7F | high << 7
            time_ms, at = (zigzag >> 1) ^ -(zigzag & 1), at + 3
        else:
            time_ms, at = decode_varint(data, at + 1)
        low, high = data[at], data[at + 1]
        if low & 1:
            return None
        if low < 0x80:
            offset, at = low >> 1, at + 1
        elif high < 0x80:
            offset, at = (low & 0x7F | high << 7) >> 1, at + 2
        else:
            return None
        size = data[at]
        at += 1
        if size == _NULL:
            key = None
        elif size & 0x81:
            return None
        else:
            size >>= 1
            key, at = data[at : at + size], at + size
        low, high = data[at], data[at + 1]
        if low & 1:
            return None
        if low < 0x80:
            size, at = low >> 1, at + 1
        elif high < 0x80:
            size, at = (low & 0x7F | high << 7) >> 1, at + 2
        else:
            return None
        value, at = data[at : at + size], at + size
        if at + 1 != stop or data[at]:
            return None
    except (IndexError, ValueError):
        return None
    return offset, time_ms, key, value


def _fields(data: bytes, at: int, stop: int, most: int) -> tuple[Any, ...]:
    """Offset from the batch's first, milliseconds from its first, key, value, headers.

    Last, the name of a header that is not UTF-8, else None. Of a record of more than `most` bytes
    only the first two are read.

    Raises:
        _Broken, IndexError, ValueError: these are no record's bytes.
    """
    at += 1  # attributes, of which there are none yet
    if data[at] < 0x80:
        time_ms, at = (data[at] >> 1) ^ -(data[at] & 1), at + 1
    else:
        time_ms, at = decode_varint(data, at)
    if data[at] < 0x80:
        offset, at = (data[at] >> 1) ^ -(data[at] & 1), at + 1
    else:
        offset, at = decode_varint(data, at)
    if stop - at > most:
        return offset, time_ms, None, None, [], None
    key, at = _bytes(data, at, stop)
    value, at = _bytes(data, at, stop)
    count, at = decode_varint(data, at)
    headers: list[tuple[str, bytes | None]] = []
    bad = None
    if count < 0 or count > stop - at:
        raise _Broken(f"{count:,} headers in {stop - at:,} bytes")
    for _ in range(count):
        name, at = _bytes(data, at, stop)
        value_of, at = _bytes(data, at, stop)
        if name is None:
            raise _Broken("a header without a name")
        try:
            headers.append((name.decode(), value_of))
        except UnicodeDecodeError:
            bad = bad or name[:100]
            headers.append((name.decode("utf-8", "replace"), value_of))
    if at != stop:
        raise _Broken(f"{stop - at:,} bytes behind its last field")
    return offset, time_ms, key, value, headers, bad


def _bytes(data: bytes, at: int, stop: int) -> tuple[bytes | None, int]:
    length, at = decode_varint(data, at)
    if length < 0:
        return None, at
    if at + length > stop:
        raise _Broken(f"a field of {length:,} bytes goes beyond the record's end")
    return data[at : at + length], at + length
