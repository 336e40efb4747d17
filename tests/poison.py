"""Kafka's record batches built by hand, with everything in them that a client may refuse."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from kafka.record.default_records import DefaultRecordBatch
from kafka.record.util import calc_crc32c, encode_varint

_HEADER = DefaultRecordBatch.HEADER_STRUCT
AT_MS = 1_717_243_200_000


def varint(value: int) -> bytes:
    """Kafka's varint, zigzag."""
    out = bytearray()
    encode_varint(value, out.append)
    return bytes(out)


def _sized(data: bytes | None) -> bytes:
    return varint(-1) if data is None else varint(len(data)) + data


@dataclass(frozen=True)
class Sent:
    """A record; its offset counts from its batch's first, and `raw` takes the place of all."""

    value: bytes | None = b""
    key: bytes | None = None
    headers: Sequence[tuple[bytes, bytes | None]] = ()
    offset: int | None = None
    time_ms: int = AT_MS
    raw: bytes | None = None

    def encoded(self, place: int) -> bytes:
        """The record with its length."""
        body = self.raw
        if body is None:
            offset = place if self.offset is None else self.offset
            body = b"\0" + varint(self.time_ms - AT_MS) + varint(offset)
            body += _sized(self.key) + _sized(self.value) + varint(len(self.headers))
            body += b"".join(_sized(name) + _sized(value) for name, value in self.headers)
        return varint(len(body)) + body


@dataclass(frozen=True)
class Batch:
    """A record batch.

    Attributes:
        records: its records.
        base: the first one's offset.
        attributes: Kafka's bits: codec, kind of time, transaction, marker.
        packed: what stands in the place of the records, packed already.
        changes: values of the header's fields, by place, such as {6: 99} for the last offset.
        crc: another checksum than the right one.
    """

    records: Sequence[Sent] = ()
    base: int = 0
    attributes: int = 0
    packed: bytes | None = None
    changes: Mapping[int, int] = field(default_factory=dict)
    crc: int | None = None

    def encoded(self) -> bytes:
        """As a broker stores it."""
        body = b"".join(sent.encoded(place) for place, sent in enumerate(self.records))
        if self.packed is not None:
            body = self.packed
        elif self.attributes & 7 == 1:
            body = gzip.compress(body)
        count = len(self.records)
        fields = [self.base, _HEADER.size - 12 + len(body), 0, 2, 0, self.attributes,
                  max(0, count - 1), AT_MS, AT_MS, -1, -1, -1, count]  # fmt: skip
        for place, value in self.changes.items():
            fields[place] = value
        whole = bytearray(_HEADER.pack(*fields) + body)
        crc = calc_crc32c(memoryview(whole)[21:]) if self.crc is None else self.crc
        struct.pack_into(">I", whole, 17, crc)
        return bytes(whole)
