"""What one message may take: over it is a dead letter of its own, and no other message's cost."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest

from schemas import aliases
from tests.messages import messages, reading, rows
from transforms import messages as parsing
from transforms.budget import LETTER_BYTES, TOO_LARGE, USUAL, Budget
from transforms.dead_letter import DeadLetter, table
from transforms.decode import decode

SMALL = Budget(message_kb=1, names=20, text=30)


def refused(sent: list[Any], budget: Budget = SMALL, **how: Any) -> dict[int, tuple[str, str]]:
    """(error type, message) of each refused row; all others are decoded."""
    decoded, rejects = decode(messages(sent, **how), budget=budget)
    assert sorted([*decoded.table["row"].to_pylist(), *rejects.rows]) == list(range(len(sent)))
    return {row: (error, message) for row, (error, _, message) in rejects.rows.items()}


@pytest.mark.parametrize(
    ("odd", "limit"),
    [
        (reading(note="x" * 2000), "message_kb"),
        (b"x" * 2000, "message_kb"),
        ({**reading(), **{f"k{at}": at for at in range(20)}}, "names"),
        ({**reading(), "k" * 31: 1}, "text"),
        (reading(equipment_id="E" * 31), "text"),
        (reading(test_id="T" * 31), "text"),
        (reading(source_file="f" * 31), "text"),
        (reading(equipment_type="t" * 31), "text"),
    ],
)
def test_a_message_over_a_limit_is_a_dead_letter_with_the_flag(odd: Any, limit: str) -> None:
    for sent in ([reading(), odd, reading(record_index=2)], [odd]):
        found = refused(sent)
        assert list(found) == [sent.index(odd)]
        error, message = found[sent.index(odd)]
        assert error == TOO_LARGE and f"--limit {limit}=" in message
    assert not refused([odd], USUAL) or odd == b"x" * 2000 or limit == "text"


def test_keys_headers_and_ids_of_the_envelope_have_limits() -> None:
    bare = reading(equipment_id=None)
    found = refused(
        [bare] * 5,
        keys=[b"c1", b"k" * 31, b"k" * 1100, b"\xff", None],
        attributes=[None, None, None, None, json.dumps({"equipment_id": "E" * 31})],
        files=[None] * 5,
    )
    assert {row: error for row, (error, _) in found.items()} == dict.fromkeys((1, 2, 4), TOO_LARGE)
    # Nobody looks for an equipment's name in it either.
    assert list(refused([bare] * 2, files=["a/c1.csv", "1" * 60 + "x"])) == [1]


def test_rows_of_a_table_have_the_same_limit_of_ids() -> None:
    batch = rows({"equipment_id": ["c1", "E" * 31], "voltage_v": [1.0, 2.0]})
    decoded, rejects = decode(batch, budget=SMALL)
    assert decoded.table["row"].to_pylist() == [0]
    assert rejects.rows[1][:2] == (TOO_LARGE, "equipment_id")


# --- names --------------------------------------------------------------------------------------


def test_names_cost_what_they_are_not_their_number_times_the_messages() -> None:
    def sent(count: int) -> list[dict[str, Any]]:
        return [{**reading(record_index=at), **{f"n{at}_{k}": k for k in range(40)}}
                for at in range(count)]  # fmt: skip

    found = parsing.parse(
        pa.array([json.dumps(each).encode() for each in sent(400)]), lambda *_: None
    )
    cells = sum(len(alike.columns) * len(alike.rows or ()) for alike in found)
    assert cells <= 400 * len(reading())
    took = []
    for count in (200, 800):
        batch = messages(sent(count))
        began = time.process_time()
        decode(batch)
        took.append(time.process_time() - began)
    # Four times as many messages and names: 16 times as many cells.
    assert took[1] < 10 * took[0]


def test_known_names_in_very_many_spellings_cost_no_more() -> None:
    spelled = ["".join(c.upper() if at >> bit & 1 else c for bit, c in enumerate("voltage"))
               for at in range(128)]  # fmt: skip
    sent = [{**reading(), "voltage_v": None, f"{name} ": 3.7} for name in spelled]
    found = parsing.parse(pa.array([json.dumps(each).encode() for each in sent]), lambda *_: None)
    cells = sum(len(alike.columns) * len(alike.rows or ()) for alike in found)
    assert cells <= 16 * sum(map(len, sent))
    decoded, rejects = decode(messages(sent))
    assert decoded.table["voltage_v"].to_pylist() == [3.7] * 128 and not rejects.rows


def test_other_names_are_kept_whatever_their_company() -> None:
    sent = [{**reading(record_index=at), f"n{at}": at, "extra": json.dumps({"old": at}), "x": None}
            for at in range(40)]  # fmt: skip
    together, _ = decode(messages(sent))
    alone = [decode(messages([each]))[0].table for each in sent]
    texts = together.table.sort_by("row")["extra"].to_pylist()
    assert texts == [each["extra"][0].as_py() for each in alone]
    assert json.loads(texts[3]) == {"n3": 3, "old": 3}


def test_a_quick_look_at_a_name_misses_none_that_is_understood() -> None:
    units = ("", "_mV", " (mAh)", "/s", "[degC]", " / Ah", "<ms>")
    for base in (*aliases._BASES, *aliases._UNIT_BASES, *aliases._BDF):
        for unit in units:
            for name in (base + unit, base.title() + unit, base.title().replace("_", "") + unit):
                assert aliases.meaning(name) == aliases._in_full(name)
    for name in ("mAmps", "mV", "kΩ", "Milliamps", " voltage ", "cellVoltage", "电压(V)"):
        assert aliases.meaning(name) == aliases._in_full(name)


# --- what breaks a batch ------------------------------------------------------------------------


def test_rows_that_a_source_refused_keep_their_reason_in_every_part_of_a_batch() -> None:
    raw = messages([reading(), b"half", reading(record_index=2), None])
    raw = replace(raw, refused={1: ("unreadable_record", "why"), 3: ("too_large", "so")})
    decoded, rejects = decode(raw)
    assert decoded.table["row"].to_pylist() == [0, 2]
    assert rejects.rows == {1: ("unreadable_record", None, "why"), 3: ("too_large", None, "so")}
    assert raw.slice(1, 2).refused == {0: ("unreadable_record", "why")}
    made, values = raw.__reduce__()
    assert made(*values).refused == raw.refused


@pytest.mark.parametrize(
    "odd",
    [
        b'{"equipment_id":"\\ud800","voltage":1,"current":1}', b'{"voltage":' + b"9" * 400 + b"}",
        b'{"a":' * 5000, b'{"time":1e300,"voltage":1,"current":1}', b'{"time":"99999-01-01T00:00Z"}',
        b'{"time":-1e18}', b'{"cycle_index":1e30}', b'{"record_index":-9223372036854775809}',
        b'{"voltage":[[[[]]]]}', b'{"":1}', b'{"\\u0000":"\\u0000"}', b'{"extra":"{"}',
        b'{"extra":1e999}', b'{"voltage":"1e400"}', b'{"test_time":"99999999999:00:00"}',
        b'{"recorded_at":"0000-00-00T00:00:00Z"}', b'{"recorded_at":"2024-06-01T24:00:60+99:99"}',
    ],
)  # fmt: skip
def test_odd_messages_cost_their_batch_nothing(odd: bytes) -> None:
    sent = [
        reading(),
        odd,
        {**reading(), "n": 1},
        *[{**reading(), f"x{at}": 1} for at in range(20)],
    ]
    decoded, rejects = decode(messages(sent))
    assert set(rejects.rows) <= {1}
    assert {0, *range(2, 23)} <= set(decoded.table["row"].to_pylist())


# --- dead letters -------------------------------------------------------------------------------


def letter(**changes: Any) -> DeadLetter:
    return DeadLetter(**{"step": "decode", "error_type": "e", "error_message": "m",
                         "source": "kafka://b/t", "ingested_at_us": 5, **changes})  # fmt: skip


def test_a_letter_keeps_no_more_than_a_row_can_hold() -> None:
    much = LETTER_BYTES + 1
    found = table([
        letter(payload=b"x" * much, message_key=b"k" * much, attributes='"' + "é" * much + '"',
               error_message="m" * 10_000, field="f" * much, equipment_id="e" * much,
               ingested_at_us=2**62),
        letter(payload=b"x" * LETTER_BYTES, error_message="\ud800", source_file="a\udcffb",
               ingested_at_us=-7),
    ]).to_pylist()  # fmt: skip
    assert found[0]["payload"] is found[0]["message_key"] is found[0]["attributes"] is None
    assert f"payload of {much:,} bytes left out" in found[0]["error_message"]
    assert sum(len(str(value)) for value in found[0].values()) < 12_000
    assert found[0]["ingested_at"].year == 9999
    assert found[1]["payload"] == b"x" * LETTER_BYTES
    assert (found[1]["error_message"], found[1]["source_file"]) == ("?", "a?b")
    assert found[1]["ingested_at"].year == 1970


def test_letters_with_the_same_start_are_told_apart_by_all_they_had() -> None:
    one, other = (letter(payload=b"x" * LETTER_BYTES + end) for end in (b"ab", b"cd"))
    assert len(set(table([one, other])["dead_letter_id"].to_pylist())) == 2
