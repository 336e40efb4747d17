"""What is around a message's text: the frame of a schema registry, and keys that are no text."""

from __future__ import annotations

import re
import zlib
from typing import NamedTuple

SCHEMA_REGISTRY = "schema_registry"
BINARY_KEY = "binary_key"

# First bytes of a framed message: Confluent's and Apicurio's, and AWS Glue's.
MAGIC = (b"\x00", b"\x03")
# Confluent: a zero and the schema's id in 4 bytes; Apicurio also with 8.
_CONFLUENT, _APICURIO = 5, 9
# Ids are counted up. Larger ones are UTF-16 or none.
_MOST_ID = 1 << 28
# Glue: version, packed or not, the schema version's UUID.
_GLUE, _GLUE_PLAIN, _GLUE_ZLIB = 18, 0, 5
_GLUE_MOST = 16 << 20
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_HEX = re.compile(r"0x(?:[0-9a-f]{2})+")


class Frame(NamedTuple):
    """A message in the frame of a schema registry.

    Attributes:
        name: whose frame it is, and of which schema, for a person.
        content: what is in it.
    """

    name: str
    content: bytes

    @property
    def is_json(self) -> bool:
        """Whether it seems to be a JSON object."""
        return self.content.lstrip()[:1] == b"{"

    @property
    def why_not(self) -> str:
        """What is wrong with one that is no JSON."""
        return (
            f"framed by a schema registry ({self.name}), and what is in it is not JSON; Avro and "
            "Protobuf are not read: have the producer write JSON (with or without JSON Schema's "
            "frame), or convert the topic (ksqlDB: VALUE_FORMAT='JSON'; Kafka Connect: "
            "JsonConverter)"
        )


def frame(payload: bytes) -> Frame | None:
    """The frame that a message seems to stand in; None if it stands in none."""
    if payload[:1] == b"\x00" and len(payload) > _CONFLUENT:
        number = int.from_bytes(payload[1:_CONFLUENT], "big")
        long = int.from_bytes(payload[1:_APICURIO], "big")
        if len(payload) > _APICURIO and number == 0 and 0 < long < _MOST_ID:
            return Frame(f"Apicurio, schema id {long}", payload[_APICURIO:])
        if number < _MOST_ID:
            name = f"Confluent's wire format, schema id {number}"
            return Frame(name, payload[_CONFLUENT:])
    if payload[:1] == b"\x03" and len(payload) > _GLUE and payload[1] in (_GLUE_PLAIN, _GLUE_ZLIB):
        content = payload[_GLUE:]
        if payload[1] == _GLUE_ZLIB:
            try:
                content = zlib.decompressobj().decompress(content, _GLUE_MOST)
            except zlib.error:
                return None
        return Frame(f"AWS Glue, schema version {payload[2:_GLUE].hex()}", content)
    return None


def readable(value: bytes) -> str:
    """Bytes as text; as `0x` and hexadecimal digits where they are not UTF-8, to tell them apart."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return f"0x{value.hex()}"


def as_name(value: bytes) -> str:
    """The same of what is to name something, in which control characters are no text either."""
    text = readable(value)
    return f"0x{value.hex()}" if _CONTROL.search(text.strip()) else text


def key_text(key: bytes) -> str | None:
    """What a message's key names; None if it is blank.

    A key that a registry's serializer wrote as JSON names what is in the quotes.
    """
    if key[:1] in MAGIC and (framed := frame(key)) is not None:
        inside = framed.content
        if len(inside) > 2 and inside[:1] == inside[-1:] == b'"' and b"\\" not in inside:
            key = inside[1:-1]
    return as_name(key).strip() or None


def is_binary(text: str | None) -> bool:
    """Whether an id has been made of bytes that are no text."""
    return text is not None and _HEX.fullmatch(text) is not None
