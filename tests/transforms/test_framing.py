"""Keys that are no text stay apart, and messages in a schema registry's frame are known as such."""

from __future__ import annotations

import json
import struct
import uuid
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.forms import flag_names
from tests.messages import messages, reading
from tests.properties import use_profile
from transforms import framing
from transforms.decode import decode
from transforms.rejects import dead_letters

use_profile()

NAMELESS = reading(equipment_id=None)
JSON = json.dumps(reading()).encode()
UUID = uuid.UUID("b7b4a7f0-9c96-4e4a-a687-fb5de9ef0c63").bytes


def ids(*keys: bytes, **how: str) -> list[tuple[str, list[str]]]:
    """Equipment and flags of readings that only their key names."""
    table = decode(messages([NAMELESS] * len(keys), keys=keys), **how)[0].table  # type: ignore[arg-type]
    names = table.column("equipment_id").to_pylist()
    flags = [flag_names(mask) for mask in table.column("flags").to_pylist()]
    return list(zip(names, flags, strict=True))


def test_binary_keys_are_names_of_their_own_with_a_flag() -> None:
    assert ids(struct.pack(">q", 200), struct.pack(">q", 201), b"\x00\x01", b" B1 ") == [
        ("0x00000000000000c8", ["binary_id"]),
        ("0x00000000000000c9", ["binary_id"]),
        ("0x0001", ["binary_id"]),
        ("B1", []),
    ]


@given(st.integers(0, 2**63 - 1), st.integers(0, 2**63 - 1))
def test_two_numbers_as_keys_are_two_names(one: int, other: int) -> None:
    keys = [struct.pack(">q", number) for number in (one, other)]
    names = [framing.key_text(key) for key in keys]
    # A number may happen to be text: then it is that, without the blanks around it.
    if all(framing.is_binary(name) for name in names):
        assert (names[0] == names[1]) == (one == other)
    for key, name in zip(keys, names, strict=True):
        assert framing.is_binary(name) or name == (key.decode().strip() or None)


def test_binary_keys_may_be_refused_and_the_letter_says_the_way_out() -> None:
    raw = messages([NAMELESS, NAMELESS, reading()], keys=[b"\xc8\0", b"B1", b"\xc9\0"])
    decoded, rejects = decode(raw, binary_keys="refuse")
    assert decoded.table.column("equipment_id").to_pylist() == ["B1", "CS2_35"]
    (letter,) = dead_letters(raw, rejects, "decode").to_pylist()
    assert (letter["error_type"], letter["field"]) == ("binary_key", "equipment_id")
    assert "--binary_keys=hex" in letter["error_message"] and letter["message_key"] == b"\xc8\0"


def test_a_header_s_bytes_are_flagged_and_the_message_s_own_word_is_not() -> None:
    raw = messages(
        [NAMELESS, reading(equipment_id="0xc8"), NAMELESS],
        attributes=['{"equipment_id": "0xff"}', None, '{"equipment_id": "a\\u0001"}'],
    )
    table = decode(raw)[0].table
    assert table.column("equipment_id").to_pylist() == ["0xff", "0xc8", "0x6101"]
    flags = [flag_names(mask) for mask in table.column("flags").to_pylist()]
    assert flags == [["binary_id"], [], ["binary_id"]]


FRAMES = {
    "Confluent's wire format, schema id 7": b"\0\0\0\0\x07",
    "Apicurio, schema id 300": b"\0" + struct.pack(">q", 300),
    f"AWS Glue, schema version {UUID.hex()}": b"\x03\0" + UUID,
}


@pytest.mark.parametrize("name", FRAMES)
def test_json_in_a_frame_is_read_and_anything_else_is_named(name: str) -> None:
    avro = FRAMES[name] + b"\x0cCS2_35\x9a\x99\x99\x99\x99\x99\r@"
    raw = messages([FRAMES[name] + JSON, avro, JSON, FRAMES[name] + b" " + JSON])
    decoded, rejects = decode(raw)
    assert decoded.table.column("row").to_pylist() == [0, 2, 3]
    assert set(decoded.table.column("equipment_id").to_pylist()) == {"CS2_35"}
    (letter,) = dead_letters(raw, rejects, "decode").to_pylist()
    assert letter["error_type"] == "schema_registry" and letter["payload"] == avro
    assert (
        name in letter["error_message"]
        and "not read: have the producer" in (letter["error_message"])
    )


def test_a_packed_glue_message_is_read() -> None:
    raw = messages([b"\x03\x05" + UUID + zlib.compress(JSON)])
    assert decode(raw)[0].table.num_rows == 1


def test_a_reading_from_a_frame_is_the_one_without_it() -> None:
    framed, plain = decode(messages([b"\0\0\0\0\x07" + JSON, JSON]))[0].table.to_pylist()
    assert framed | {"row": 0} == plain | {"row": 0}


@pytest.mark.parametrize(
    "payload", [b"\0", b"\0\0\0\0\x07", b"\x03", JSON.decode().encode("utf-16-be")]
)
def test_what_only_begins_alike_stands_in_no_frame(payload: bytes) -> None:
    _, rejects = decode(messages([payload, JSON]))
    assert rejects.rows[0][0] != "schema_registry"


def test_a_key_that_a_registry_s_serializer_wrote_names_what_it_quotes() -> None:
    assert framing.key_text(b'\0\0\0\0\x02"B1"') == "B1"
    assert framing.key_text(b"\0\0\0\0\x02\x04B1") == "0x0000000002044231"
    assert framing.key_text(b"  ") is None
