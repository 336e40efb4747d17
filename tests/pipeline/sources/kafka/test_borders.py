"""Records that are cut out of their batches at once are what they are one by one, whatever they are."""

from __future__ import annotations

import gzip
import random
import struct
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import lz4.frame
import pyarrow as pa
import pytest
import snappy
import zstandard
from apache_beam.io.restriction_trackers import OffsetRange, OffsetRestrictionTracker
from hypothesis import given
from hypothesis import strategies as st
from kafka import TopicPartition
from kafka.protocol.consumer import IsolationLevel
from kafka.record import MemoryRecords, MemoryRecordsBuilder
from kafka.record.util import calc_crc32c

from pipeline.sources.kafka.borders import Batch as Header
from pipeline.sources.kafka.borders import Borders
from pipeline.sources.kafka.columns import Columns
from pipeline.sources.kafka.records import Records
from pipeline.sources.kafka.split import claimed
from pipeline.sources.kafka.unpack import UNREADABLE, Unpacked
from tests.poison import AT_MS, Batch, Sent, varint
from tests.properties import use_profile
from transforms.budget import TOO_LARGE, Budget

use_profile()

PART = TopicPartition("cells", 3)
BUDGET = Budget(message_kb=16, held_mb=1)
PACK: dict[int, Callable[[bytes], bytes]] = {
    0: bytes, 1: gzip.compress, 2: snappy.compress, 3: lz4.frame.compress, 4: zstandard.compress,
}  # fmt: skip
_LOG_APPEND, _TRANSACTIONAL, _CONTROL = 0x08, 0x10, 0x20
_PRODUCER = 9


def body(sent: Sequence[Sent]) -> bytes:
    return b"".join(each.encoded(place) for place, each in enumerate(sent))


def fetched(data: bytes, at: int = 0, **settings: Any) -> Unpacked:
    found = Unpacked(at, PART, MemoryRecords(data), **settings)
    found.budget = BUDGET
    return found


def rows_of(columns: Columns) -> list[tuple[Any, ...]]:
    """Offset, time, key, value, headers and what is wrong of each."""
    found = []
    for part in columns.parts:
        part.keys.validate(full=True)
        part.values.validate(full=True)
        assert len(part) == len(part.times) == len(part.keys) == len(part.values) > 0
        lists = (
            part.offsets.tolist(),
            part.times.tolist(),
            part.keys.to_pylist(),
            part.values.to_pylist(),
        )
        for place, row in enumerate(zip(*lists, strict=True)):
            headers = None if part.headers is None else part.headers[place]
            found.append((*row, list(headers or ()), part.whys.get(place)))
    return found


def packed(columns: list[Columns]) -> list[dict[str, Any]]:
    """The rows of the raw batches, without the time of reading, and what is refused of them."""
    found = []
    for each in columns:
        raw, counts = Records("cells", "kafka://b/cells").batch({PART: each})
        assert counts == {3: len(each)} == {3: raw.table.num_rows}
        raw.table.validate(full=True)
        rows = raw.table.drop_columns("arrived_at").to_pylist()
        found += [row | {"why": raw.refused.get(place)} for place, row in enumerate(rows)]
    return found


# --- equal to the strict way --------------------------------------------------------------------

_CONTENT = st.none() | st.binary(max_size=30) | st.integers(0, 200).map(lambda n: b"v" * n)
_PLAIN = st.builds(
    Sent,
    value=st.integers(0, 500).map(lambda n: b"{" + b"7" * n),
    key=st.none() | st.sampled_from((b"", b"cell_1", b"k" * 70)),
    time_ms=st.integers(AT_MS - 100, AT_MS + 20_000),
)
_ODD = st.one_of(
    st.builds(
        Sent, value=_CONTENT, key=_CONTENT,
        headers=st.lists(st.tuples(st.sampled_from((b"a", b"source_file", b"\xff")), _CONTENT), max_size=2),
        time_ms=st.integers(AT_MS - 2**40, AT_MS + 2**40) | st.sampled_from((-5, 0, 2**62)),
    ),
    st.builds(Sent, value=st.sampled_from((7_900, 8_300, 16_300, 17_000)).map(lambda n: b"x" * n)),
    st.builds(Sent, raw=st.binary(max_size=12)),
    st.builds(Sent, value=st.just(b"{}"), offset=st.integers(-2, 40)),
    st.sampled_from([
        Sent(raw=b"\0" + varint(0) + b"\x82\0" + varint(-1) + varint(1) + b"x\0"),
        Sent(raw=b"\0" + varint(0) + varint(1) + varint(-1) + varint(2**31)),
        Sent(raw=b"\0" + varint(0) + varint(1) + varint(2**33) + varint(1) + b"x\0"),
        Sent(raw=b"\0" + b"\xff" * 12 + b"\0"),
    ]),
)  # fmt: skip


@st.composite
def logs(draw: st.DrawFn) -> tuple[bytes, int]:
    """A stretch of a log, often with something in it that is not plain, and the offset behind it."""
    at, whole = draw(st.sampled_from((0, 10, 2**40))), b""
    for _ in range(draw(st.integers(1, 5))):
        odd = draw(st.sampled_from((0, 0, 0, 1, 2, 9)))
        sent = draw(st.lists(_PLAIN, max_size=20))
        for _ in range(odd):
            sent.insert(draw(st.integers(0, len(sent))), draw(_ODD))
        if draw(st.integers(0, 9)) == 0:
            sent = sent * 30  # more than one number of a byte counts
        codec = draw(st.integers(0, 4))
        bits = draw(
            st.sampled_from((0, 0, 0, _LOG_APPEND, _TRANSACTIONAL, _TRANSACTIONAL | _CONTROL))
        )
        changes = {_PRODUCER: draw(st.sampled_from((7, 8)))} if bits & _TRANSACTIONAL else {}
        if draw(st.integers(0, 7)) == 0:  # compaction has taken the last ones, or a header lies
            changes[6] = len(sent) + draw(st.integers(-3, 3))
        if draw(st.integers(0, 15)) == 0:
            changes[draw(st.sampled_from((7, 8)))] = draw(
                st.sampled_from((-1, 2**63 - 1, -(2**63)))
            )
        content = body(sent)
        if draw(st.integers(0, 15)) == 0:
            content = content[: draw(st.integers(0, len(content)))]
        if bits & _CONTROL:
            content = Sent(b"\0" * 6, key=struct.pack(">hh", 0, draw(st.integers(0, 1)))).encoded(0)
        batch = Batch(sent, at, codec | bits, PACK[codec](content), changes)
        whole += batch.encoded()
        at += max(1, changes.get(6, len(sent) - 1) + 1)
        at += draw(st.sampled_from((0, 0, 0, 0, 5)))
    if draw(st.integers(0, 15)) == 0:
        builder = MemoryRecordsBuilder(1, 0, 1 << 20)
        builder.append(AT_MS, b"k", b"{}")
        builder.close()
        whole = bytes(builder.buffer()) + whole
    if draw(st.integers(0, 2)) == 0:
        whole = damaged(draw, bytearray(whole))
    return whole, at


def damaged(draw: st.DrawFn, whole: bytearray) -> bytes:
    """Some bytes are others; sometimes by somebody who sets the first checksum right."""
    for _ in range(draw(st.integers(1, 4))):
        whole[draw(st.integers(0, len(whole) - 1))] = draw(st.integers(0, 255))
    length = int.from_bytes(whole[8:12], "big")
    if draw(st.booleans()) and 61 <= 12 + length <= len(whole):
        whole[17:21] = calc_crc32c(memoryview(whole)[21 : 12 + length]).to_bytes(4, "big")
    return bytes(whole)


@given(st.data())
def test_columns_are_what_records_are(data: st.DataObject) -> None:
    log, end = data.draw(logs())
    settings: dict[str, Any] = {
        "isolation_level": data.draw(st.sampled_from(list(IsolationLevel))),
        "aborted_transactions": [
            SimpleNamespace(producer_id=7, first_offset=data.draw(st.integers(0, 40)))
        ],
    }
    at = max(0, end - data.draw(st.integers(0, 60) | st.just(10**6)))
    high = data.draw(st.none() | st.integers(max(0, end - 9), end))
    most_bytes = data.draw(st.sampled_from((200, 5_000, 1 << 20)))
    both = []
    for _ in range(2):
        part = fetched(log, at, **settings)
        part.high, part.most_bytes = high, most_bytes
        both.append(part)
    strict, fast = both
    wanted = []
    while records := strict.take(data.draw(st.sampled_from((1, 7, 20_000, None)))):
        wanted.append(Columns.of(records))
    found = []
    while fast:
        rows = data.draw(st.sampled_from((1, 2, 30, 20_000, None)))
        # Both ways in turn, too.
        by_columns = data.draw(st.integers(0, 5)) > 0
        each = fast.columns(rows) if by_columns else Columns.of(fast.take(rows))
        assert rows is None or len(each) <= rows
        if len(each):
            found.append(each)
    mine, theirs = (
        [row for each in columns for row in rows_of(each)] for columns in (found, wanted)
    )
    different = [pair for pair in zip(mine, theirs, strict=False) if pair[0] != pair[1]]
    assert not different[:1] and len(mine) == len(theirs)
    assert packed(found) == packed(wanted)
    assert fast.skipped == strict.skipped
    assert fast.next_fetch_offset == strict.next_fetch_offset
    assert fast.leader_epoch == strict.leader_epoch
    assert fast.aborted_producer_ids == strict.aborted_producer_ids
    assert fast.records_read == strict.records_read


# --- what a bundle of a splittable reader takes -------------------------------------------------


@pytest.mark.parametrize(("splits_at", "rows"), [(None, 900), (0.0, 0), (0.5, 500)])
def test_a_bundle_takes_what_its_restriction_has(splits_at: float | None, rows: int) -> None:
    columns = fetched(Batch(PLAIN).encoded()).columns()
    tracker = OffsetRestrictionTracker(OffsetRange(0, 1_001))
    if splits_at is not None:
        # The runner does so while the messages are fetched.
        tracker.try_split(splits_at)
    mine = claimed(tracker, columns)
    assert rows_of(mine) == rows_of(columns)[:rows]
    tracker.check_done() if splits_at is not None else tracker.try_split(0)
    assert tracker.current_restriction() == OffsetRange(0, rows)


# --- what goes which way ------------------------------------------------------------------------

PLAIN = [
    Sent(b'{"v": %d}' % 10 ** (place % 90), key=b"cell_%d" % (place % 7), time_ms=AT_MS + place)
    for place in range(900)
]  # fmt: skip


@pytest.mark.parametrize("codec", PACK)
@pytest.mark.parametrize("bits", [0, _LOG_APPEND])
def test_plain_batches_are_cut_in_one_piece(codec: int, bits: int) -> None:
    batches = [
        Batch(PLAIN, base, codec | bits, PACK[codec](body(PLAIN))).encoded() for base in (0, 900)
    ]
    columns = fetched(b"".join(batches)).columns()
    (part,) = columns.parts
    assert rows_of(columns) == [
        (place, AT_MS if bits else sent.time_ms, sent.key, sent.value, [], None)
        for place, sent in enumerate(PLAIN)
    ] + [
        (900 + place, AT_MS if bits else sent.time_ms, sent.key, sent.value, [], None)
        for place, sent in enumerate(PLAIN)
    ]
    # No bytes but their own: those of the batch are not held.
    assert part.values.nbytes < sum(len(sent.value or b"") for sent in PLAIN) * 2 + 4 * 1_900


def test_a_record_that_is_not_plain_costs_its_neighbours_nothing() -> None:
    sent = list(PLAIN)
    sent[100] = Sent(b"{}", headers=[(b"a", b"b")])
    sent[101] = Sent(raw=b"junk")
    sent[500] = Sent(b"x" * 20_000)
    columns = fetched(Batch(sent).encoded()).columns()
    # What is too large is not even copied.
    assert list(map(len, columns.parts)) == [500, 1, 399]
    rows = rows_of(columns)
    assert rows[100][4] == [("a", b"b")] and rows[101][5][0] == UNREADABLE
    assert rows[500][5][0] == TOO_LARGE and rows[500][3] is None
    assert [row[0] for row in rows] == list(range(900))


def test_null_values_and_keys_are_null() -> None:
    sent = [PLAIN[0], *(Sent(None, key=b"k"), Sent(b"", key=None), Sent(b"v", key=b"")) * 20]
    columns = fetched(Batch(sent).encoded()).columns()
    assert len(columns.parts) == 1
    assert [row[2:4] for row in rows_of(columns)] == [(s.key, s.value) for s in sent]


def test_a_batch_that_lies_is_read_one_by_one_from_where_it_was() -> None:
    sent = list(PLAIN)
    sent[300] = Sent(b"{}", offset=310)  # as if nine were missing; then they come nevertheless
    log = Batch(PLAIN, 0).encoded() + Batch(sent, 900).encoded() + Batch(PLAIN, 1_800).encoded()
    part = fetched(log)
    first = part.columns(100)
    left = part.columns()
    strict = fetched(log)
    assert rows_of(first) + rows_of(left) == rows_of(Columns.of(strict.take()))
    assert part.records_read == strict.records_read


def test_a_limit_of_rows_or_bytes_ends_it_within_a_batch() -> None:
    part = fetched(Batch([Sent(b"x" * 1_000)] * 100).encoded())
    part.most_bytes = 10_000
    assert [len(part.columns()) for _ in range(3)] == [10, 10, 10]
    assert len(part.columns(4)) == 4
    assert part.next_fetch_offset == 34 and len(part.take(3)) == 3
    assert rows_of(part.columns())[0][0] == 37


def test_a_batch_of_very_many_tiny_messages_is_cut_by_and_by() -> None:
    count = 120_000
    tiny = [Sent(b"1")] * count
    part = fetched(Batch(tiny, 0, 3, packed=PACK[3](body(tiny))).encoded())
    before = pa.total_allocated_bytes()
    first = part.columns(1_000)
    assert rows_of(first)[-1] == (999, AT_MS, None, b"1", [], None) and len(first.parts) == 1
    assert pa.total_allocated_bytes() - before < 1 << 18
    # Whatever is asked for, so many bytes are enough.
    part.most_bytes = 90_000
    assert 9_000 < len(part.columns()) < 11_000


@given(st.integers(0, 2**31), st.binary(max_size=40))
def test_whatever_follows_it_ends_within_the_bytes(seed: int, tail: bytes) -> None:
    rng = random.Random(seed)
    data = body(PLAIN[: rng.randint(0, 5)]) + tail
    borders = Borders(BUDGET.message_bytes)
    header = Header(0, 10**6, AT_MS, None)
    at = found = 0
    while found < 50:
        rows, stop = borders.add(header, data, at, found, rng.randint(1, 3), rng.randint(1, 99))
        assert at <= stop <= len(data) and (rows > 0) == (stop > at)
        found, at = found + rows, stop
        if not rows:
            break
    assert len(borders) == found
