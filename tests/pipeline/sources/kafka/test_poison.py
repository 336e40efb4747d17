"""What a Kafka client may refuse: a dead letter at its offset; all others are read."""

from __future__ import annotations

import json
import zlib
from typing import Any

import lz4.frame
import pytest
import snappy
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from kafka import TopicPartition
from kafka.record import MemoryRecords, MemoryRecordsBuilder
from kafka.record.util import calc_crc32c

from pipeline.sources.kafka.codecs import unpacked
from pipeline.sources.kafka.records import Records
from pipeline.sources.kafka.unpack import UNREADABLE, Unpacked
from tests.messages import reading
from tests.poison import AT_MS, Batch, Sent, varint
from tests.properties import use_profile
from transforms.budget import LETTER_BYTES, TOO_LARGE, Budget
from transforms.decode import decode
from transforms.rejects import dead_letters

use_profile()

PART = TopicPartition("cells", 3)
BUDGET = Budget(message_kb=64, held_mb=1)
GOOD = json.dumps(reading()).encode()
A, B = Sent(GOOD, key=b"a"), Sent(GOOD, key=b"b")


def fetched(data: bytes, at: int = 0, high: int | None = None) -> Unpacked:
    found = Unpacked(at, PART, MemoryRecords(data))
    found.budget, found.high = BUDGET, high
    return found


def read(*batches: Batch | bytes, at: int = 0, high: int | None = None) -> tuple[Any, int]:
    """(offset, error type or None) of each record, and where the next fetch begins."""
    data = b"".join(each if isinstance(each, bytes) else each.encoded() for each in batches)
    part = fetched(data, at, high)
    records = part.take()
    return [(record.offset, record.checksum and record.checksum[0]) for record in records], (
        part.next_fetch_offset
    )


def good(*offsets: int) -> list[tuple[int, None]]:
    return [(offset, None) for offset in offsets]


# Each poison stands as record 1 of a batch of three.
IN_A_RECORD = {
    "a header's name that is not UTF-8": Sent(GOOD, headers=[(b"\xff\xfebad", b"v")]),
    "nothing": Sent(raw=b""),
    "a byte": Sent(raw=b"\xff"),
    "garbage": Sent(raw=b"\xff" * 40),
    "a value beyond its end": Sent(raw=b"\0" + varint(0) + varint(1) + varint(-1) + varint(99)),
    "a value of 2 GiB": Sent(raw=b"\0" + varint(0) + varint(1) + varint(-1) + varint(2**31)),
    "a million headers": Sent(raw=b"\0" + varint(0) + varint(1) + varint(-1) * 2 + varint(10**6)),
    "headers below 0": Sent(raw=b"\0" + varint(0) + varint(1) + varint(-1) * 2 + varint(-5)),
    "a header without a name": Sent(
        raw=b"\0" + varint(0) + varint(1) + varint(-1) * 2 + varint(1) + varint(-1) + varint(-1)
    ),
    "bytes behind it": Sent(raw=b"\0" + varint(0) + varint(1) + varint(-1) * 2 + varint(0) + b"x"),
    "an offset behind its batch": Sent(GOOD, offset=2**31),
    "the offset of the one before": Sent(GOOD, offset=0),
    "an offset below 0": Sent(GOOD, offset=-7),
    "a number without an end": Sent(raw=b"\0" + b"\xff" * 12 + b"\0"),
}


@pytest.mark.parametrize("codec", [0, 1])
@pytest.mark.parametrize("poison", IN_A_RECORD.values(), ids=IN_A_RECORD)
def test_a_bad_record_costs_its_batch_nothing(poison: Sent, codec: int) -> None:
    found = read(Batch([A, poison, B], 10, codec), Batch([A], 13))
    assert found == ([(10, None), (11, UNREADABLE), (12, None), (13, None)], 14)


# Each is a batch of the offsets 10 to 12.
WHOLE_BATCHES = {
    "a wrong checksum": Batch([A, A, A], 10, crc=1),
    "bytes that are not packed": Batch([A, A, A], 10, 1, packed=b"not gzip at all"),
    "a codec that Kafka does not have": Batch([A, A, A], 10, 7),
    "bytes that are cut off": Batch([A, A, A], 10, 4, packed=zstandard.compress(b"x" * 99)[:-4]),
    "a length beyond its end": Batch([A, A, A], 10, packed=varint(10**6) + b"x" * 40),
    "a length below 0": Batch([A, A, A], 10, packed=varint(-3) + b"x" * 40),
    "a block of 2 GiB": Batch([A, A, A], 10, 2, packed=b"\xff\xff\xff\xff\x07\0\0"),
    "more records than bytes": Batch([A, A, A], 10, packed=b""),
    "an unknown format": Batch([A, A, A], 10, changes={3: 9}),
}


@pytest.mark.parametrize("poison", WHOLE_BATCHES.values(), ids=WHOLE_BATCHES)
def test_a_bad_batch_is_one_letter_and_is_stepped_over(poison: Batch) -> None:
    found, following = read(Batch([A, B], 8), poison, Batch([B], 13), high=14)
    assert found == [*good(8, 9), (found[2][0], UNREADABLE), *good(13)]
    assert following == 14
    assert found[2][0] in (10, 12)  # a format that is not known says nothing of its last offset


def test_a_bad_batch_says_which_offsets_it_had() -> None:
    part = fetched(Batch([A, A, A], 10, crc=1).encoded(), at=10, high=13)
    (record,) = part.take()
    assert "offsets 10 to 12 of the partition: the checksum is wrong" in record.checksum[1]
    assert record.value == Batch([A, A, A], 10, crc=1).encoded()


def test_a_batch_whose_length_is_damaged_is_stepped_over_by_an_offset() -> None:
    for length in (-12, -100, 0, 3, 10**6):
        assert read(Batch([A, A], 10, changes={1: length}), at=10) == ([(10, UNREADABLE)], 11)


def test_a_damaged_last_offset_goes_not_beyond_what_is_there() -> None:
    poison = Batch([A], 10, crc=1, changes={6: 2**30})
    assert read(poison, Batch([B], 11), at=10, high=12) == ([(10, UNREADABLE), *good(11)], 12)
    assert read(poison, at=10, high=12) == ([(11, UNREADABLE)], 12)


def test_a_broker_may_have_looked_where_its_log_ends_before_it_read() -> None:
    assert read(Batch([A, B], 10), Batch([A, B], 12), at=10, high=10) == (good(10, 11, 12, 13), 14)
    assert read(Batch([A, B], 10), Batch([A, B], 12), at=10, high=11) == (good(10, 11, 12, 13), 14)
    # What begins far behind it would have the client begin anew.
    assert read(Batch([A, B], 10), Batch([A], 2**40), at=10, high=12) == (
        [*good(10, 11), (12, UNREADABLE)], 13,
    )  # fmt: skip


def test_markers_and_empty_batches_are_passed() -> None:
    marker = Batch([Sent(b"\0\0\0\0\0\0", key=b"\0\0\0\1")], 11, 0x30)
    compacted = Batch((), 12, changes={6: 4})
    assert read(Batch([A], 10), marker, compacted, at=10) == (good(10), 17)
    assert read(Batch([A, A, A], 10), at=12) == (good(12), 13)


def test_times_that_can_t_be_are_the_time_of_reading() -> None:
    times = (-5, 0, 2**62, 2**63 - 1, 2**63 - 1 - AT_MS)
    batches = [Batch([Sent(GOOD, time_ms=time)], at) for at, time in enumerate(times)]
    batches.append(Batch([Sent(GOOD, time_ms=2 * AT_MS)], 5, changes={7: 2**63 - 1}))
    part = fetched(b"".join(each.encoded() for each in batches))
    raw, _ = Records("cells", "kafka://b/cells").batch({PART: part.take()})
    years = {at.as_py().year for at in raw.table["arrived_at"]}
    assert raw.table.num_rows == 6 and max(years) < 9999
    assert not decode(raw)[1].rows


def test_a_message_over_the_limit_is_left_out_and_its_neighbours_are_read() -> None:
    large = Sent(b"x" * 70_000)
    for codec in (0, 1):
        part = fetched(Batch([A, large, B], 0, codec).encoded())
        records = part.take()
        assert [record.checksum and record.checksum[0] for record in records] == [
            None, TOO_LARGE, None,
        ]  # fmt: skip
        assert records[1].value is None and records[1].offset == 1
        assert "--limit message_kb=" in records[1].checksum[1]


def gzipped(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=31)
    return packer.compress(data) + packer.flush()


PACKERS = {1: gzipped, 2: snappy.compress, 3: lz4.frame.compress, 4: zstandard.compress}


@pytest.mark.parametrize(("codec", "pack"), PACKERS.items())
def test_what_unpacks_to_more_than_the_limit_is_unpacked_to_the_limit(codec, pack) -> None:  # type: ignore[no-untyped-def]
    small = A.encoded(0)
    assert unpacked(pack(small), codec, 1 << 20) == (small, True)
    bomb = Sent(b"A" * (3 << 20))
    body = small + bomb.encoded(1)
    poison = Batch([A, bomb, A], 10, codec, packed=pack(body))
    found, following = read(poison, Batch([B], 13), at=10)
    # Snappy can't be unpacked in part.
    before = [] if codec == 2 else good(10)
    assert found == [*before, (12, UNREADABLE if codec == 2 else TOO_LARGE), *good(13)]
    assert following == 14


def test_a_poll_has_a_bound_of_bytes() -> None:
    part = fetched(Batch([Sent(b"x" * 1000)] * 100).encoded())
    part.most_bytes = 10_000
    assert [len(part.take()) for _ in range(3)] == [10, 10, 10]
    assert part.next_fetch_offset == 30


@pytest.mark.parametrize("magic", [0, 1])
@pytest.mark.parametrize("codec", [0, 1, 2])
def test_formats_of_older_brokers(magic: int, codec: int) -> None:
    builder = MemoryRecordsBuilder(magic, codec, 1 << 20)
    for _ in range(3):
        builder.append(AT_MS, b"k", GOOD)
    builder.close()
    data = bytearray(builder.buffer())
    if codec:
        data[:8] = (2).to_bytes(8, "big")  # the last one's offset, as a broker sets it
    assert read(bytes(data)) == (good(0, 1, 2), 3)
    data[-1] ^= 1
    found, following = read(bytes(data))
    assert found[-1][1] == UNREADABLE and following == 3


def test_poison_becomes_dead_letters_with_its_position_and_what_is_left_of_it() -> None:
    bad = Sent(GOOD, key=b"k", headers=[(b"\xff", b"v"), (b"a", b"b")])
    part = fetched(Batch([A, bad, Sent(raw=b"junk"), Sent(b"x" * 70_000), B], 5).encoded(), at=5)
    raw, counts = Records("cells", "kafka://b/cells").batch({PART: part.take()})
    assert counts == {3: 5}
    decoded, rejects = decode(raw)
    assert decoded.table["row"].to_pylist() == [0, 4]
    letters = dead_letters(raw, rejects, "decode").to_pylist()
    assert [(each["position"], each["error_type"], each["payload"]) for each in letters] == [
        ("cells/3/6", UNREADABLE, GOOD),
        ("cells/3/7", UNREADABLE, b"junk"),
        ("cells/3/8", TOO_LARGE, None),
    ]
    assert json.loads(letters[0]["attributes"]) == {"\ufffd": "v", "a": "b"}
    assert letters[0]["message_key"] == b"k"
    assert "not UTF-8" in letters[0]["error_message"]
    assert len(letters[2]["error_message"]) < 300 < LETTER_BYTES


@given(st.data())
def test_damaged_bytes_never_stop_a_partition(data: st.DataObject) -> None:
    batches = [
        Batch([A, B], 10 + 2 * at, data.draw(st.sampled_from((0, 1)))).encoded() for at in range(3)
    ]
    whole = bytearray(b"".join(batches))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        # As a hostile producer, whose checksums are right.
        at = 0
        length = int.from_bytes(whole[8:12], "big")
        if 61 <= 12 + length <= len(whole):
            crc = calc_crc32c(memoryview(whole)[21 : 12 + length])
            whole[17:21] = crc.to_bytes(4, "big")
    at, seen = 10, []
    for _ in range(20):
        if at >= 16:
            break
        # A broker begins with the batch that holds the offset.
        begins = sum(map(len, batches[: (at - 10) // 2]))
        part = fetched(bytes(whole[begins:]), at, high=16)
        records = part.take()
        seen += [record.offset for record in records]
        assert part.next_fetch_offset > at or records
        Records("cells", "kafka://b/cells").batch({PART: records}) if records else None
        at = part.next_fetch_offset
    assert seen == sorted(set(seen))
    assert at <= 16
