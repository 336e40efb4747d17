"""Refused rows become dead letters with all that is needed to send them again."""

import json

import numpy as np
import pyarrow as pa

from tests.messages import ARRIVED_US, messages, reading, rows
from transforms import rejects as rejected
from transforms.decode import decode
from transforms.rejects import Rejects, dead_letters, letters_in_parts


def test_a_letter_without_its_own_envelope_takes_the_origins():
    raw = messages([b"{"], arrived=[None], source_file="a/b.json", equipment_id="x", first_row=7)
    names = raw.table.column_names
    nowhere = raw.table.set_column(names.index("position"), "position", [pa.nulls(1, pa.string())])
    raw = type(raw)(nowhere, raw.kind, raw.origin)
    (letter,) = dead_letters(raw, decode(raw)[1], "decode").to_pylist()
    assert letter["source_file"] == "a/b.json"
    assert letter["position"] == "7"
    assert letter["equipment_id"] == "x"
    assert letter["ingested_at"].timestamp() * 1e6 == ARRIVED_US


def test_letters_have_the_same_id_in_any_batch():
    alone = messages([b"{"])
    among = messages([b"{", reading()], arrived=[ARRIVED_US + 9, ARRIVED_US])
    ids = [dead_letters(raw, decode(raw)[1], "decode")["dead_letter_id"] for raw in (alone, among)]
    assert ids[0] == ids[1]


def test_a_tables_refused_row_can_be_sent_again_as_a_message():
    raw = rows(
        {"Voltage(V)": ["3.7", "high"], "Current(A)": [0.5, 0.5], "Date_Time": [45_444.5, 45_444.5],
         "note": [None, "ö"], "blob": [b"\xff", b"\xff"]},
        equipment_id="CS2_35", source_file="CS2_35/a.csv", first_row=10,
    )  # fmt: skip
    (letter,) = dead_letters(raw, decode(raw)[1], "decode").to_pylist()
    assert letter["position"] == "11"
    assert letter["source_file"] == "CS2_35/a.csv"
    assert letter["field"] == "voltage_v"
    assert letter["message_key"] is None
    sent = json.loads(letter["payload"])
    assert sent["Voltage(V)"] == "high"
    assert sent["note"] == "ö"
    sent["Voltage(V)"] = 3.7
    again = messages([sent], attributes=[letter["attributes"]])
    assert decode(again)[0].table["equipment_id"].to_pylist() == ["CS2_35"]


def test_the_first_thing_wrong_is_the_reason():
    rejects = Rejects()
    rejects.add(1, "first", None, "a")
    rejects.add(1, "second", "field", "b")
    rejects.add_mask(np.array([True, True]), "third", "field", "c")
    rejects.add_mask(None, "fourth", "field", "d")
    assert rejects.rows == {0: ("third", "field", "c"), 1: ("first", None, "a")}


def test_many_letters_travel_in_tables_that_are_not_large(monkeypatch):
    monkeypatch.setattr(rejected, "_LETTERS_BYTES", 10_000)
    raw = messages([b"x" * 1000] * 50)
    _, rejects = decode(raw)
    parts = list(letters_in_parts(raw, rejects, "decode"))
    assert len(parts) > 4 and max(part.num_rows for part in parts) < 12
    assert pa.concat_tables(parts).equals(dead_letters(raw, rejects, "decode"))
