"""The doors of messages: their payloads, Pub/Sub's messages, and Kafka's record batches."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import orjson
from kafka import TopicPartition
from kafka.record import MemoryRecords, MemoryRecordsBuilder
from kafka.record.default_records import DefaultRecordBatch
from kafka.record.util import calc_crc32c

from pipeline.sources.kafka.records import Records
from pipeline.sources.kafka.unpack import Unpacked
from pipeline.sources.pubsub import messages as pubsub_messages
from tests.fuzz.doors.door import Door, Taken, Unaccounted
from tests.fuzz.doors.files import ARRIVED_US, _messages, judge
from tests.messages import messages

_PART = TopicPartition("cells", 3)
_CRC_AT = DefaultRecordBatch.ATTRIBUTES_OFFSET - 4


def _payloads(data: bytes) -> Taken:
    """Each line is a message; key, header and file name come from it, too."""
    lines = data.split(b"\n")
    text = data[:4_000].decode("utf-8", "replace")
    files = [text if place % 3 == 0 else None for place in range(len(lines))]
    keys = [data[:300] if place % 2 else None for place in range(len(lines))]
    attributes = [orjson.dumps({text[:50]: text}).decode() if place % 5 == 0 else None
                  for place in range(len(lines))]  # fmt: skip
    return judge(messages(lines, keys=keys, files=files, attributes=attributes))


def _pubsub(data: bytes) -> Taken:
    """A line is a message; what stands before a tab is an attribute of it."""
    found = []
    for number, line in enumerate(data.split(b"\n")):
        head, tab, body = line.rpartition(b"\t")
        text = head.decode("utf-8", "replace")
        name, _, value = text.partition("=")
        found.append(
            SimpleNamespace(
                data=body, attributes={name: value, "source_file": text} if tab else None,
                ordering_key=text if number % 2 else "", message_id=str(number),
            )
        )  # fmt: skip
    raw = pubsub_messages.batch(found, [ARRIVED_US] * len(found), "pubsub://p/s")
    return judge(raw)


def _pubsub_seeds() -> list[bytes]:
    lines = _messages()[0].splitlines()[:8]
    return [
        b"\n".join(b"equipment_id=CS2_35\t" + line for line in lines),
        b"\n".join([b"source_file=lab/x_8_18_10.csv\t" + lines[0], *lines]),
    ]


def _kafka(data: bytes) -> Taken:
    part = Unpacked(0, _PART, MemoryRecords(data))
    taken = Taken()
    while records := part.take(500):
        raw, counts = Records("cells", "kafka://h/cells").batch({_PART: records})
        if counts != {3: len(records)}:
            raise Unaccounted(f"{len(records)} records, {counts} counted")
        now = judge(raw)
        taken = Taken(taken.readings + now.readings, taken.refused + now.refused)
    # A transaction's marker is no record.
    return Taken(0, 1) if taken == Taken() and _is_marker(data) else taken


def _is_marker(data: bytes) -> bool:
    at = DefaultRecordBatch.ATTRIBUTES_OFFSET
    return len(data) > at + 1 and bool(data[at + 1] & DefaultRecordBatch.CONTROL_MASK)


def _kafka_seeds() -> list[bytes]:
    found = []
    lines = _messages()[0].splitlines()[:6]
    for magic, codec in ((2, 0), (2, 3), (1, 0), (0, 0)):  # gzip would hold the time
        builder = MemoryRecordsBuilder(magic, codec, 1 << 20)
        for number, line in enumerate(lines):
            headers: list[Any] = [("source_file", b"lab/A_1.csv")] if magic == 2 and number else []
            builder.append(1_717_243_200_000 + number, b"CS2_35", line, headers)
        builder.close()
        found.append(bytes(builder.buffer()))
    return found


def _unseal(data: bytes) -> list[bytes]:
    return [data]


def _seal(_: bytes, parts: list[bytes]) -> bytes:
    """The first batch with the checksum of its bytes, and its own length."""
    data = bytearray(parts[0])
    if len(data) > DefaultRecordBatch.HEADER_STRUCT.size and data[16] == 2:
        data[8:12] = (len(data) - 12).to_bytes(4, "big")
        checksum = calc_crc32c(bytes(data[DefaultRecordBatch.ATTRIBUTES_OFFSET :]))
        data[_CRC_AT : _CRC_AT + 4] = checksum.to_bytes(4, "big")
    return bytes(data)


_WORDS = [b'"voltage_v":', b'"Timestamp":', b"\\ud800", b"1e999", b'"extra":"{', b"equipment_id="]
DOORS = [
    Door("payloads", _payloads, _messages, words=_WORDS),
    Door("pubsub", _pubsub, _pubsub_seeds, words=_WORDS),
    Door("kafka", _kafka, _kafka_seeds, _unseal, _seal, _WORDS),
]
