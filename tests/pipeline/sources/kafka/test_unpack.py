"""The short way of a usual record gives what the long way gives, whatever the bytes are."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from kafka.record.util import encode_varint

from pipeline.sources.kafka.unpack import _Broken, _fields, _plain
from tests.properties import use_profile

use_profile()

_MOST = 1 << 20


def varint(number: int) -> bytes:
    out = bytearray()
    encode_varint(number, out.append)
    return bytes(out)


def field(content: bytes | None) -> bytes:
    return varint(-1) if content is None else varint(len(content)) + content


_CONTENT = st.none() | st.binary(max_size=200) | st.integers(0, 9_000).map(lambda n: b"x" * n)


@st.composite
def records(draw: st.DrawFn) -> bytes:
    """A record's bytes, of every size of number, often damaged."""
    time_ms = draw(st.integers(-(2**40), 2**40) | st.integers(-70, 9_000))
    offset = draw(st.integers(-3, 70) | st.integers(0, 2**31))
    headers = draw(st.lists(st.tuples(st.binary(max_size=9), _CONTENT), max_size=2))
    record = (
        b"\0" + varint(time_ms) + varint(offset) + field(draw(_CONTENT)) + field(draw(_CONTENT))
    )
    record += varint(len(headers)) + b"".join(field(name) + field(each) for name, each in headers)
    if draw(st.booleans()):
        damaged = bytearray(record)
        for _ in range(draw(st.integers(1, 3))):
            at = draw(st.integers(0, min(len(record) - 1, 20)))
            damaged[at] = draw(st.integers(0, 255))
        record = bytes(damaged)[: draw(st.integers(1, len(record)) | st.just(len(record)))]
    return record


@given(records(), st.binary(max_size=3), st.binary(max_size=30))
def test_what_the_short_way_gives_is_what_the_long_way_gives(
    record: bytes, before: bytes, behind: bytes
) -> None:
    data, at, stop = before + record + behind, len(before), len(before) + len(record)
    found = _plain(data, at, stop)
    try:
        wanted = _fields(data, at, stop, _MOST)
    except (_Broken, IndexError, ValueError):
        wanted = None
    if found is not None:
        offset, time_ms, key, value = found
        assert wanted == (offset, time_ms, key, value, [], None)


@given(
    st.integers(0, 70_000), st.integers(0, 8_191), st.none() | st.binary(max_size=60),
    st.integers(0, 8_191),
)  # fmt: skip
def test_usual_records_go_the_short_way(
    time_ms: int, offset: int, key: bytes | None, size: int
) -> None:
    value = b"v" * size
    record = b"\0" + varint(time_ms) + varint(offset) + field(key) + field(value) + b"\0"
    # Another one stands behind it.
    assert _plain(record + record, 0, len(record)) == (offset, time_ms, key, value)
