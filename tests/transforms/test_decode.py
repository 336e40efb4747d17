import decimal
import gc
import json
import re
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.reading import READING
from tests.messages import ARRIVED_US, SECOND, START, START_US, at, limits, messages, reading, rows
from transforms.decode import (
    DIRECTION_DISAGREES,
    EVENT_TIME_ASSUMED,
    Rejects,
    dead_letters,
    decode,
)
from transforms.enrich import enrich
from transforms.interpret.apply import event_times
from transforms.interpret.decide import decide
from transforms.interpret.interpretation import Interpretation
from transforms.sequence import sequence
from transforms.validate import validate

UTC = ZoneInfo("UTC")


def decoded(raw, time_zone="UTC"):
    found, refused = decode(raw, time_zone)
    assert not refused.rows
    return found.table


def column(table, name):
    if name not in table.column_names:
        return [None] * table.num_rows
    return table.column(name).to_pylist()


def extras(raw):
    return [text and json.loads(text) for text in column(decoded(raw), "extra")]


def refusals(raw, time_zone="UTC"):
    return {row: (kind, field) for row, (kind, field, _) in decode(raw, time_zone)[1].rows.items()}


CALCE = {
    "Data_Point": [1, 2],
    "Test_Time(s)": [0.0, 30.015],
    "Date_Time": [45_444.5, 45_444.5 + 30 / 86_400],
    "Step_Time(s)": [0.0, 30.015],
    "Step_Index": [1, 1],
    "Cycle_Index": [1, 1],
    "Current(A)": [0.0, 0.55],
    "Voltage(V)": [3.5, 3.6],
    "Charge_Capacity(Ah)": [0.0, 0.0046],
    "Discharge_Capacity(Ah)": [0.0, 0.0],
    "Charge_Energy(Wh)": [0.0, 0.016],
    "Discharge_Energy(Wh)": [0.0, 0.0],
    "dV/dt(V/s)": [0.0, 0.001],
    "Internal_Resistance(Ohm)": [0.0, 0.09],
    "Is_FC_Data": [0, 0],
    "AC_Impedance(Ohm)": [0.0, 0.0],
    "ACI_Phase_Angle(Deg)": [0.0, 0.0],
}


@pytest.mark.parametrize(
    ("equipment_id", "expected"),
    [
        ("export", ["CS2_35", "CS2_36", "export"]),  # a guess from the export's own name
        (None, ["CS2_35", "CS2_36", None]),
        ("LAB7", ["LAB7"] * 3),  # somebody has said so
    ],
)
def test_the_rows_of_an_export_are_of_the_files_that_they_name(equipment_id, expected):
    files = ["CS2_35/CS2_35_8_18_10.xlsx", "CS2_36/CS2_36_8_18_10.xlsx", ""]
    exported = {"voltage(v)": [3.5, 3.6, 3.7], "current(a)": [0.0, 0.0, 0.0],
                "date_time": ["2024-06-01T12:00:00Z"] * 3, "source_file": files}  # fmt: skip
    table = decode(rows(exported, source_file="export.parquet", equipment_id=equipment_id), "UTC")
    assert column(table[0].table, "equipment_id") == expected


def test_a_calce_workbook_is_read_as_it_is():
    table = decoded(rows(CALCE, source_file="CS2_35/a.xlsx", equipment_id="CS2_35"))
    assert column(table, "recorded_at")[0] == START
    assert column(table, "record_index") == [1, 2]
    assert column(table, "test_time_s") == [0.0, 30.015]
    assert column(table, "step_time_s") == [0.0, 30.015]
    assert column(table, "cycle_index") == column(table, "step_index") == [1, 1]
    assert column(table, "current_a") == [0.0, 0.55]
    assert column(table, "voltage_v") == [3.5, 3.6]
    assert column(table, "charge_capacity_ah") == [0.0, 0.0046]
    assert column(table, "charge_energy_wh") == [0.0, 0.016]
    assert column(table, "equipment_id") == ["CS2_35"] * 2
    assert column(table, "source_file") == ["CS2_35/a.xlsx"] * 2
    assert column(table, "internal_resistance_ohm") == [None, 0.09]
    extra = [json.loads(text) for text in column(table, "extra")]
    assert extra[1] == {
        "dV/dt(V/s)": 0.001, "Is_FC_Data": 0, "AC_Impedance(Ohm)": 0, "ACI_Phase_Angle(Deg)": 0,
    }  # fmt: skip


DIALECTS = {
    "canonical": reading(charge_capacity_ah=1.5, temperature_c=26.85, cycle_index=2),
    "arbin": {
        "Cell_ID": "CS2_35", "Date_Time": 45_444.5, "Test_Time(s)": 0, "Data_Point": 1,
        "Voltage(V)": 3.7, "Current(A)": 0.5, "Charge_Capacity(Ah)": 1.5, "Temperature (C)": 26.85,
        "Cycle_Index": 2,
    },
    "pl": {
        "cell": "CS2_35", "Date_Time": 739_404.5, "Time_sec": 0, "Data_Point": 1,
        "Voltage_Volt": 3.7, "Current_Amp": 0.5, "Charge_Ah": 1.5, "Temperature_C": 26.85,
        "Cycle": 2,
    },
    "motherduck": {
        "battery_id": "CS2_35", "timestamp": "2024-06-01 12:00:00", "test_time": 0, "record": 1,
        "voltage(v)": 3.7, "current(a)": 0.5, "charge_capacity": 1.5, "temperature": 26.85,
        "cycle_number": 2,
    },
    "bdf labels": {
        "cell_name": "CS2_35", "Unix Time / s": 1_717_243_200.0, "Test Time / s": 0,
        "record_index": 1, "Voltage / V": 3.7, "Current / A": 0.5, "Charging Capacity / Ah": 1.5,
        "Surface Temperature / degC": 26.85, "Cycle Count / 1": 2,
    },
    "bdf machine names": {
        "cell_id": "CS2_35", "unix_time_second": 1_717_243_200, "test_time_second": 0,
        "record_index": 1, "voltage_volt": 3.7, "current_ampere": 0.5,
        "schedule_charging_capacity_ah": 1.5, "surface_temperature_celsius": 26.85,
        "cycle_count": 2,
    },
    "small units": {
        "machine_id": "CS2_35", "timestamp_ms": 1_717_243_200_000, "test_time_ms": 0,
        "record_index": 1, "voltage_mv": 3700, "current_ma": 500, "charge_capacity_mah": 1500,
        "temperature_k": 300.0, "cyc": 2,
    },
    "text": {
        "equipment_id": " CS2_35 ", "date_time": "06/01/2024 12:00:00", "test_time": "0:00:00",
        "record_index": "1", "voltage": "3,7", "current": " 0.5", "charge_capacity": "1,5E0",
        "temperature": "26.85", "cycle_index": "2.0",
    },
}  # fmt: skip


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("kind", ["messages", "rows"])
def test_every_dialect_says_the_same(dialect, kind):
    sent = DIALECTS[dialect]
    raw = messages([sent]) if kind == "messages" else rows({n: [v] for n, v in sent.items()})
    (found,) = decoded(raw).to_pylist()
    assert found["recorded_at"] == START
    assert (found["equipment_id"], found["record_index"]) == ("CS2_35", 1)
    assert (found["test_time_s"], found["cycle_index"]) == (0.0, 2)
    assert found["voltage_v"] == pytest.approx(3.7, abs=1e-12)
    assert found["current_a"] == pytest.approx(0.5, abs=1e-12)
    assert found["charge_capacity_ah"] == pytest.approx(1.5, abs=1e-12)
    assert found["temperature_c"] == pytest.approx(26.85, abs=1e-9)
    assert found.get("extra") is None


def test_messages_of_several_shapes_share_a_batch():
    table = decoded(messages([DIALECTS["arbin"], DIALECTS["bdf labels"], DIALECTS["canonical"]]))
    assert column(table, "voltage_v") == [3.7] * 3
    assert column(table, "recorded_at") == [START] * 3


def test_messages_of_very_many_shapes_are_decoded_all_the_same(monkeypatch):
    sent = [{**reading(record_index=at), f"only_{at}": at} for at in range(10)]
    sent[3] = b"{"
    raw = messages(sent)
    monkeypatch.setattr("transforms.messages._MOST_NAMES", 0)
    apart, _ = decode(raw)
    monkeypatch.setattr("transforms.messages._MOST_KINDS", 3)
    together, refused = decode(raw)
    assert list(refused.rows) == [3]
    assert column(together.table, "row") == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    assert together.table.sort_by("row").to_pylist() == apart.table.sort_by("row").to_pylist()


@pytest.mark.parametrize(
    "sent",
    [
        [reading(), {**reading(record_index=2), "seen_by_no_sample": 1}] * 9,
        [
            reading(),
            {"Voltage(V)": 3.7, "Current(A)": 1, "Date_Time": "2024-06-01 12:00:00", "cell": "c"},
            b"[]",
        ],
        [{**reading(), 'a "quoted" name': 1}, reading(record_index=2), b"{", None],
        [{**reading(), "nested": {"b": [1, None], "a": {}}}, {}, reading(record_index=3)],
        [{"voltage_v": 3.7}, {"voltage_v": 3.6}],
    ],
)
def test_the_fast_way_and_the_slow_way_give_the_same(sent, monkeypatch):
    raw = messages(sent)
    fast, refused_fast = decode(raw)
    monkeypatch.setattr("transforms.messages._MOST_NAMES", 0)
    slow, refused_slow = decode(raw)
    assert refused_fast.rows == refused_slow.rows
    columns = sorted(fast.table.column_names)
    assert columns == sorted(slow.table.column_names)
    rows_fast, rows_slow = (
        part.table.select(columns).sort_by("row").to_pylist() for part in (fast, slow)
    )
    assert rows_fast == rows_slow


@pytest.mark.parametrize("word", ["", " ", "NA", "n/a", "NaN", "null", "-", "#N/A", None])
def test_missing_markers_are_no_value(word):
    sent = {**reading(), "temperature": word}
    assert column(decoded(messages([sent, reading(temperature_c=20.0)])), "temperature_c") == [
        None, 20.0,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        ("voltage_v", "high", "wrong_type"),
        ("voltage_v", True, "wrong_type"),
        ("voltage_v", [3.7], "wrong_type"),
        ("voltage_v", {"value": 3.7}, "wrong_type"),
        ("cycle_index", "second", "wrong_type"),
        ("cycle_index", 1e300, "wrong_type"),
        ("test_time_s", "noon", "wrong_type"),
        ("equipment_id", ["a"], "wrong_type"),
        ("test_id", {"a": 1}, "wrong_type"),
        ("recorded_at", "yesterday", "unparsable_time"),
        ("recorded_at", True, "unparsable_time"),
        ("streamed_at", "soon", "unparsable_time"),
        ("equipment_type", "toaster", "unknown_value"),
    ],
)
def test_a_value_of_the_wrong_type_refuses_its_message_alone(field, value, error):
    raw = messages([reading(), reading(**{field: value}), reading()])
    found, refused = decode(raw)
    assert {row: what[:2] for row, what in refused.rows.items()} == {1: (error, field)}
    assert column(found.table, "row") == [0, 2]
    assert column(found.table, "voltage_v") == [3.7, 3.7]


@pytest.mark.parametrize(
    ("payload", "error"),
    [
        (b"", "empty_message"),
        (b"  \n", "empty_message"),
        (None, "empty_message"),
        (b"{", "malformed_json"),
        (b"not json", "malformed_json"),
        (b'{"a":1}{"a":2}', "malformed_json"),
        (b'{"a":NaN}', "malformed_json"),
        (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "malformed_json"),
        (b'{"a":"\xff"}', "bad_encoding"),
        (b"\x00\x01\xfe", "bad_encoding"),
        (b"[1,2]", "not_an_object"),
        (b"5", "not_an_object"),
        (b"null", "not_an_object"),
        (b'"text"', "not_an_object"),
    ],
)
def test_a_broken_message_is_kept_to_the_byte_with_the_reason(payload, error):
    raw = messages(
        [reading(), payload, reading()],
        keys=[None, b"k\xff", None],
        attributes=[None, '{"a":"b"}', None],
        arrived=[ARRIVED_US, ARRIVED_US + 5, ARRIVED_US],
        files=[None, "x/y.json", None],
    )
    found, refused = decode(raw)
    assert column(found.table, "row") == [0, 2]
    (letter,) = dead_letters(raw, refused, "decode").to_pylist()
    assert letter["payload"] == payload
    assert letter["error_type"] == error
    assert letter["error_message"]
    assert letter["step"] == "decode"
    assert letter["position"] == "topic/0/1"
    assert letter["message_key"] == b"k\xff"
    assert letter["attributes"] == '{"a":"b"}'
    assert letter["source"] == "test://messages"
    assert letter["source_file"] == "x/y.json"
    assert letter["ingested_at"].timestamp() == pytest.approx((ARRIVED_US + 5) / 1e6)


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
    assert column(decoded(again), "equipment_id") == ["CS2_35"]


def test_the_first_thing_wrong_is_the_reason():
    rejects = Rejects()
    rejects.add(1, "first", None, "a")
    rejects.add(1, "second", "field", "b")
    rejects.add_mask(np.array([True, True]), "third", "field", "c")
    rejects.add_mask(None, "fourth", "field", "d")
    assert rejects.rows == {0: ("third", "field", "c"), 1: ("first", None, "a")}


class TestEventTime:
    def flags(self, table):
        return [bool(mask & EVENT_TIME_ASSUMED) for mask in column(table, "flags")]

    def test_it_is_the_readings_own_where_it_has_one(self):
        table = decoded(messages([reading(streamed_at=at(5))]))
        assert column(table, "recorded_at") == [START]
        assert self.flags(table) == [False]

    def test_the_time_it_was_sent_stands_in(self):
        table = decoded(messages([reading(recorded_at=None, streamed_at=at(5)), reading()]))
        assert [item.isoformat() for item in column(table, "recorded_at")] == [at(5), at(0)]
        assert self.flags(table) == [True, False]

    def test_else_the_time_it_arrived_stands_in(self):
        sent = reading(recorded_at=None)
        table = decoded(messages([sent, sent], arrived=[START_US, START_US + SECOND]))
        assert [item.isoformat() for item in column(table, "recorded_at")] == [at(0), at(1)]
        assert self.flags(table) == [True, True]

    def test_a_messages_time_does_not_depend_on_its_company(self):
        first = reading(recorded_at=None, test_time_s=10.0)
        last = reading(recorded_at=None, test_time_s=500.0)
        alone = column(decoded(messages([first])), "recorded_at")
        assert column(decoded(messages([first, last])), "recorded_at")[:1] == alone

    def test_a_files_rows_are_spread_by_their_test_time(self):
        table = decoded(
            rows({"test_time": [0.0, 30.0, None, 100.0], "voltage": [3.7] * 4, "current": [0.5] * 4},
                 arrived_at_us=START_US, equipment_id="a")
        )  # fmt: skip
        found = [item.isoformat() for item in column(table, "recorded_at")]
        assert found == [at(-100), at(-70), at(0), at(0)]
        assert self.flags(table) == [True] * 4

    def test_test_times_without_end_do_not_move_it_out_of_the_calendar(self):
        raw = rows({"test_time": [float("inf"), 1e300, float("nan"), 0.0], "voltage": [3.7] * 4},
                   arrived_at_us=START_US)  # fmt: skip
        found = column(decoded(raw), "recorded_at")
        assert found[0] == found[1] == found[2] == START
        assert found[3].year == 1707

    def test_naive_times_take_the_time_zone(self):
        raw = messages([reading(recorded_at="2024-06-01 12:00:00"), reading()])
        found = column(decoded(raw, "Europe/Berlin"), "recorded_at")
        assert [item.isoformat() for item in found] == [at(-7200), at(0)]

    @pytest.mark.parametrize(
        ("values", "field"),
        [
            ([0.0, 30.0], "test_time_s"),
            (["0:00:00", "0:00:30"], "test_time_s"),
            (["2024-06-01 12:00:00", "2024-06-01 12:00:30"], "recorded_at"),
            ([1_717_243_200, 1_717_243_230], "recorded_at"),
        ],
    )
    def test_a_bare_time_is_what_its_values_are(self, values, field):
        table = decoded(rows({"time": values, "voltage": [3.7, 3.7], "current": [0.5, 0.5]}))
        found = column(table, field)
        if field == "recorded_at":
            assert found == [START, START.replace(second=30)]
        else:
            assert found == [0.0, 30.0]

    def test_a_tables_times_can_be_known_before_anything_else(self):
        table = pa.table({"Date_Time": ["01.06.2024 12:00:00", "x"], "timestamp": [None, at(1)]})
        assert [t.as_py() for t in event_times(table, decide(table), UTC)] == [
            START,
            START.replace(second=1),
        ]
        assert event_times(pa.table({"voltage": [1.0]}), Interpretation(), UTC) is None


class TestEquipment:
    def ids(self, *, payload=None, attributes=None, key=None, file=None, origin=None):
        raw = messages(
            [reading(equipment_id=payload)], attributes=[attributes], keys=[key], files=[file],
            equipment_id=origin,
        )  # fmt: skip
        return column(decoded(raw), "equipment_id")[0]

    def test_it_is_looked_for_in_payload_attributes_key_path_and_origin_in_this_order(self):
        known = {
            "payload": "in_payload",
            "attributes": '{"equipment_id":"in_attributes"}',
            "key": b"in_key",
            "file": "in_path/in_path_1_10_11.json",
            "origin": "in_origin",
        }
        while known:
            first = next(iter(known))
            assert self.ids(**known) == {"file": "in_path"}.get(first, f"in_{first}")
            del known[first]
        assert self.ids() is None

    @pytest.mark.parametrize(
        "attributes", ["{", "[1]", "5", "{}", '{"equipment_id":""}', '{"equipment_id":" "}',
                       '{"equipment_id":null}', '{"equipment_id":{"a":1}}'],
    )  # fmt: skip
    def test_attributes_that_name_none_are_passed_over(self, attributes):
        assert self.ids(attributes=attributes, key=b" in_key ") == "in_key"

    def test_other_spellings(self):
        assert self.ids(attributes='{"equipment_id":35}') == "35"
        assert self.ids(key=b"\xff") == "0xff"
        assert self.ids(key=b" ", origin="x") == "x"

    def test_messages_of_one_batch_each_have_their_own(self):
        raw = messages(
            [reading(equipment_id=None)] * 4,
            keys=[b"k", None, None, b"l"],
            attributes=[None, '{"equipment_id":"a"}', None, '{"equipment_id":"b"}'],
            files=[None, None, "p/p_1.json", "q/q.json"],
            source_file="s/s.json",
        )
        assert column(decoded(raw), "equipment_id") == ["k", "a", "p", "b"]
        assert column(decoded(raw), "source_file") == [
            "s/s.json",
            "s/s.json",
            "p/p_1.json",
            "q/q.json",
        ]

    def test_rows_take_the_origins_unless_they_name_one(self):
        raw = rows({"cell": ["a", None], "voltage": [3.7, 3.7]}, equipment_id="o")
        assert column(decoded(raw), "equipment_id") == ["a", "o"]
        assert column(decoded(rows({"voltage": [3.7]})), "equipment_id") == [None]

    @pytest.mark.parametrize(
        ("given_type", "kind"),
        [("battery_cell", "battery_cell"), ("Battery", "battery_cell"), ("CELL", "battery_cell"),
         ("machine", "machine"), ("Motor", "machine"), (None, None)],
    )  # fmt: skip
    def test_types_are_spelled_as_the_schema_does(self, given_type, kind):
        raw = messages([reading(equipment_type=given_type)])
        assert column(decoded(raw), "equipment_type") == [kind]


class TestExtra:
    def test_unknown_fields_are_kept_and_sorted(self):
        sent = {"z": 1, "a": {"b": [1, None]}, "n": None, "ö": "ü", **reading()}
        assert extras(messages([sent, reading()])) == [
            {"z": 1, "a": {"b": [1, None]}, "ö": "ü"},
            None,
        ]
        text = column(decoded(messages([sent])), "extra")[0]
        backwards = dict(reversed(list(sent.items())))
        assert column(decoded(messages([backwards])), "extra")[0] == text
        assert text.index('"a"') < text.index('"z"')

    def test_what_the_job_derives_is_not_taken_over(self):
        sent = reading(reading_id="x", power_watt=9, time_delta_s=1, quality_flags=["late"])
        table = decoded(messages([sent]))
        assert not {"reading_id", "power_watt", "time_delta_s"} & set(table.column_names)
        assert extras(messages([sent]))[0] == {
            "reading_id": "x", "power_watt": 9, "time_delta_s": 1, "quality_flags": ["late"],
        }  # fmt: skip

    def test_when_it_arrived_is_not_for_a_message_to_say(self):
        table = decoded(messages([reading(ingested_at="2099-01-01T00:00:00Z")]))
        assert column(table, "ingested_at")[0].timestamp() * 1e6 == ARRIVED_US
        assert json.loads(column(table, "extra")[0]) == {"ingested_at": "2099-01-01T00:00:00Z"}

    @pytest.mark.parametrize("kind", ["messages", "rows"])
    def test_a_second_name_of_a_field_is_kept_where_both_have_a_value(self, kind):
        sent = [
            {"voltage_v": 3.7, "volt": 3.6, "ecell": 3.5},
            {"voltage_v": None, "volt": 3.6, "ecell": 3.5},
            {"voltage_v": None, "volt": None, "ecell": 3.5},
        ]
        if kind == "messages":
            raw = messages([{**reading(voltage_v=None), **item} for item in sent])
        else:
            raw = rows(pa.Table.from_pylist(sent))
        # volt is the better of the two names.
        assert column(decoded(raw), "voltage_v") == [3.7, 3.6, 3.5]
        assert extras(raw) == [{"volt": 3.6, "ecell": 3.5}, {"ecell": 3.5}, None]

    def test_a_second_name_is_kept_whatever_the_company(self):
        sent = {**reading(voltage_v=None), "u": 3.7, "volt": 3.6}
        alone = column(decoded(messages([sent])), "extra")
        assert column(decoded(messages([sent, reading()])), "extra")[:1] == alone
        assert json.loads(alone[0]) == {"u": 3.7}

    def test_numbers_of_any_size_and_depth_are_kept(self):
        deep = json.loads("[" * 300 + "]" * 300)
        sent = {**reading(), "big": 10**30, "deep": deep, "small": 1}
        assert extras(messages([sent])) == [{"big": 10**30, "deep": deep, "small": 1}]

    def test_what_is_nested_too_deeply_for_any_encoder_does_not_stop_the_job(self):
        from transforms.extra import dump

        deep = []
        for _ in range(5_000):
            deep = [deep]
        assert json.loads(dump({"a": deep})) == {"error": "nested too deeply to be kept"}

    def test_columns_of_any_type_are_kept(self):
        columns = {
            "voltage": [3.7, 3.8],
            "a": pa.array([1.5, float("nan")]),
            "b": pa.array([1.5, None], pa.float16()),
            "c": pa.array([[1, 2], None]),
            "d": pa.array([{"x": 1}, None]),
            "e": [True, None],
            "f": pa.array([b"\x01", None]),
            "g": pa.nulls(2),
            "h": pa.array([2**64 - 1, None], pa.uint64()),
            "i": pa.array([START_US, None], pa.timestamp("us")),
            "j": pa.array(["q", None]).dictionary_encode(),
            "k": pa.array([570_000_000_000, None], pa.timestamp("s")),
            'l"': pa.array(['"', None]),
        }
        first, second = extras(rows(columns))
        assert second is None
        assert first.pop("k").startswith("20032-")
        assert first.pop("f")
        assert first == {
            "a": 1.5, "b": 1.5, "c": [1, 2], "d": {"x": 1}, "e": True, "h": 2**64 - 1,
            "i": "2024-06-01T12:00:00", "j": "q", 'l"': '"',
        }  # fmt: skip

    def test_an_extra_that_is_no_replay_is_a_field_like_another(self):
        for value in ({"a": 1}, "text", "[1]", 5, '"q"'):
            assert extras(messages([{**reading(), "extra": value}])) == [{"extra": value}]

    def test_a_replayed_extra_takes_its_old_place(self):
        replayed = {**reading(), "extra": '{"b": 1.0e+20,"a":1}'}
        assert column(decoded(messages([replayed])), "extra") == ['{"b": 1.0e+20,"a":1}']
        joined = {**replayed, "c": 2, "a": 3}
        assert extras(messages([joined])) == [{"a": 3, "b": 1e20, "c": 2}]


def readings_of(raw):
    found, refused = decode(raw)
    table, more = validate(found, limits(), ARRIVED_US)
    assert not refused.rows
    assert not more.rows
    return enrich(sequence(table, None, limits()).table)


def test_readings_read_from_the_lake_again_are_the_same():
    sent = [
        reading(test_time_s=None, record_index=None, note="x", ratio=1e20),
        reading(voltage_v=9.0, temperature_c=20.0, recorded_at=at(1)),
        reading(equipment_id="m", frequency_hz=50.0, recorded_at=at(2)),
    ]
    once = readings_of(messages(sent, files=["a/b.json", None, None]))
    derived = [field.name for field in READING.fields if field.derived]
    twice = readings_of(rows(once.drop_columns(derived), arrived_at_us=ARRIVED_US + 99))
    assert twice.to_pylist() == once.to_pylist()


def test_empty_batches_are_empty():
    for raw in (messages([]), rows({"voltage": pa.array([], pa.float64())})):
        found, refused = decode(raw)
        assert found.table.num_rows == 0
        assert not refused.rows
        assert dead_letters(raw, refused, "decode").num_rows == 0
        assert validate(found, limits(), ARRIVED_US)[0].num_rows == 0


def test_the_cycle_collector_is_left_as_it_was():
    gc.disable()
    try:
        decode(messages([reading()]))
        assert not gc.isenabled()
    finally:
        gc.enable()
    decode(messages([b"{"]))
    assert gc.isenabled()


class TestTestStart:
    def test_a_files_test_begins_with_its_earliest_row(self):
        raw = rows({"Date_Time": [at(5), at(2)], "voltage": [3.7, 3.7]}, equipment_id="a")
        assert decode(raw)[0].test_start_us == START_US + 2 * SECOND

    def test_a_part_of_a_file_is_told(self):
        raw = rows({"Date_Time": [at(5)], "voltage": [3.7]}, test_start_us=START_US)
        assert decode(raw)[0].test_start_us == START_US

    def test_rows_of_many_equipments_and_messages_are_no_test(self):
        raw = rows({"Date_Time": [at(5)], "voltage": [3.7], "cell": ["a"]}, test_start_us=START_US)
        assert decode(raw)[0].test_start_us is None
        assert decode(messages([reading()]))[0].test_start_us is None
        assert decode(rows({"voltage": pa.array([], pa.float64())}))[0].test_start_us is None


# --- arbitrary input ---------------------------------------------------------------------------

NAMES = st.sampled_from([
    "equipment_id", "cell", "equipment_type", "test_id", "recorded_at", "Date_Time", "timestamp_ms",
    "time", "streamed_at", "test_time_s", "step_time_ms", "record_index", "cycle_index", "voltage_v",
    "voltage_mv", "current_a", "charge_capacity_mah", "temperature_k", "frequency", "extra",
    "source_file", "ingested_at", "dcir", "reading_id", "", "ö",
])  # fmt: skip
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(min_value=-(10**25), max_value=10**25),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(["", "n/a", "3.7", "3,7", "1e999", "2024-06-01T12:00:00Z", "45444.5",
                     "13/06/2024 12:00:00", "06/13/2024 12:00:00", "99/99/99", "1:00", "CS2_35",
                     "machine", "\u0000", "1_0", "inf", "nan", "{}", '{"a":1}']),
    st.text(max_size=6),
)  # fmt: skip
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=4,
)  # fmt: skip
PAYLOADS = st.one_of(
    st.binary(max_size=20),
    st.none(),
    st.dictionaries(NAMES, VALUES, max_size=8).map(lambda item: json.dumps(item).encode()),
    st.dictionaries(NAMES, SCALARS, max_size=5).map(
        lambda item: json.dumps({**reading(), **item}).encode()
    ),
    SCALARS.map(lambda item: json.dumps(item).encode()),
)
ZONES = st.sampled_from(["UTC", "Europe/Berlin", "America/St_Johns", "Pacific/Apia"])


def check_account(raw, zone="UTC"):
    """Every row becomes a reading, a duplicate or a dead letter that names its rule."""
    found, refused = decode(raw, zone)
    letters = [dead_letters(raw, refused, "decode")]
    table, more = validate(found, limits(), ARRIVED_US)
    letters.append(dead_letters(raw, more, "validate"))
    written = duplicates = 0
    if table.num_rows:
        released = sequence(table, None, limits())
        duplicates = released.duplicates
        out = enrich(released.table)
        written = out.num_rows
        for field in READING.fields:
            if field.required:
                assert out.column(field.name).null_count == 0, field.name
        out.to_pylist()
    refused_rows = sum(part.num_rows for part in letters)
    assert raw.table.num_rows == written + duplicates + refused_rows
    for part in letters:
        part.to_pylist()
        for name in ("error_type", "error_message", "dead_letter_id", "step"):
            assert all(part.column(name).to_pylist())
    if raw.kind == "messages":
        kept = [p for part in letters for p in part.column("payload").to_pylist()]
        given_payloads = raw.table.column("payload").to_pylist()
        assert all(payload in given_payloads for payload in kept)
    return table


@given(st.lists(PAYLOADS, max_size=8), ZONES)
def test_no_message_stops_the_job(payloads, zone):
    check_account(messages(payloads), zone)


@given(st.lists(PAYLOADS, min_size=1, max_size=6), st.lists(st.binary(max_size=4), min_size=6, max_size=6),
       st.lists(st.sampled_from([None, "{", "[]", '{"equipment_id":5}', '{"equipment_id":[]}']), min_size=6, max_size=6))  # fmt: skip
def test_no_envelope_stops_the_job(payloads, keys, attributes):
    count = len(payloads)
    check_account(messages(payloads, keys=keys[:count], attributes=attributes[:count]))


COLUMN_TYPES = st.sampled_from([
    pa.int8(), pa.int64(), pa.uint64(), pa.float16(), pa.float32(), pa.float64(), pa.bool_(),
    pa.string(), pa.large_string(), pa.binary(), pa.large_binary(), pa.date32(), pa.date64(),
    pa.time32("s"), pa.time64("us"), pa.timestamp("s"), pa.timestamp("us"), pa.timestamp("ns"),
    pa.timestamp("ms", tz="UTC"), pa.timestamp("us", tz="Europe/Berlin"), pa.duration("s"),
    pa.duration("us"), pa.decimal128(10, 2), pa.null(), pa.list_(pa.int64()),
    pa.struct([("a", pa.float64())]), pa.dictionary(pa.int32(), pa.string()),
])  # fmt: skip


def column_of(draw, kind, size):
    words = draw(
        st.lists(st.none() | st.integers(-(2**63), 2**63 - 1), min_size=size, max_size=size)
    )
    if pa.types.is_null(kind):
        return pa.nulls(size)
    if pa.types.is_list(kind):
        return pa.array([None if word is None else [word] for word in words], kind)
    if pa.types.is_struct(kind):
        return pa.array([None if word is None else {"a": float(word)} for word in words], kind)
    if pa.types.is_dictionary(kind):
        return pa.array([None if word is None else str(word) for word in words]).dictionary_encode()
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return pa.array(
            [None if word is None else word.to_bytes(8, signed=True) for word in words], kind
        )
    if pa.types.is_boolean(kind):
        return pa.array([None if word is None else word % 2 == 0 for word in words], kind)
    if pa.types.is_decimal(kind):
        cut = [None if word is None else decimal.Decimal(word % 10**7) for word in words]
        return pa.array(cut, kind)
    if kind in (pa.date32(), pa.time32("s"), pa.int8()):
        narrow = pa.int8() if kind == pa.int8() else pa.int32()
        limit = 2**7 if kind == pa.int8() else 2**31
        if kind == pa.time32("s"):
            limit = 43_200
        cut = [None if word is None else word % limit for word in words]
        return pa.array(cut, narrow).cast(kind)
    if kind == pa.time64("us"):
        return pa.array([None if word is None else word % 86_400_000_000 for word in words]).cast(
            kind
        )
    if kind == pa.uint64():
        return pa.array([None if word is None else word % 2**64 for word in words], kind)
    if pa.types.is_floating(kind):
        special = draw(st.sampled_from([None, float("nan"), float("inf"), -float("inf"), -0.0]))
        numbers = [None if word is None else float(word) for word in words[1:]]
        return pa.array([special, *numbers], pa.float64()).cast(kind, safe=False)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        texts = draw(st.lists(st.none() | st.text(max_size=5), min_size=size, max_size=size))
        return pa.array(texts, kind)
    return pa.array(words, pa.int64()).cast(kind, safe=False)


@given(st.data(), ZONES)
def test_no_table_stops_the_job(data, zone):
    size = data.draw(st.integers(1, 4))
    names = data.draw(st.lists(NAMES, unique=True, min_size=1, max_size=6))
    columns = {name: column_of(data.draw, data.draw(COLUMN_TYPES), size) for name in names}
    usual = {"Voltage(V)": [3.7] * size, "Current(A)": [0.5] * size}
    if data.draw(st.booleans()):
        columns = usual | columns
    origin = data.draw(st.sampled_from([{}, {"equipment_id": "CS2_35", "source_file": "a/b.csv"}]))
    check_account(rows(columns, **origin), zone)


@given(st.lists(PAYLOADS, min_size=2, max_size=8), st.randoms(use_true_random=False))
def test_the_order_and_packing_of_messages_change_no_reading(payloads, random):
    # But for what takes its meaning from its column: a bare `time`, and dates with slashes.
    by_column = re.compile(rb'"time"|/')
    payloads = [item for item in payloads if not by_column.search(item or b"")]
    together = check_account(messages(payloads))
    shuffled = list(payloads)
    random.shuffle(shuffled)
    parts = [check_account(messages([payload])) for payload in shuffled]

    def content(tables):
        found = [row for table in tables for row in table.to_pylist()]
        return sorted(repr(sorted((k, v) for k, v in r.items() if v is not None)) for r in found)

    assert content(parts) == content([together])


def test_a_zone_is_taken_by_name():
    with pytest.raises(Exception, match="Nowhere"):
        decode(messages([reading()]), "Nowhere/Land")
    assert ZoneInfo("Europe/Berlin").key == "Europe/Berlin"


# --- rows of one moment --------------------------------------------------------------------------


def bare(volts, **columns):
    return decoded(rows({"Voltage(V)": volts, "Current(A)": [1.0] * len(volts), **columns}))


def identities(table):
    """What tells readings apart where the record number or, without one, the values do."""
    names = ["recorded_at", "test_time_s", "record_index"]
    keys = zip(*(column(table, name) for name in names), column(table, "voltage_v"), strict=True)
    return [key[:3] if key[2] is not None else key for key in keys]


@pytest.mark.parametrize(
    "volts", [[3.7, 3.7, 3.8] * 50, [3.7, 3.8] * 9, [3.7] * 5, [3.8, 3.7, 3.7]]
)
def test_rows_with_nothing_but_measurements_all_differ_and_keep_their_order(volts):
    table = bare(volts)
    assert len(set(identities(table))) == len(volts)
    assert column(table, "record_index") == list(range(1, len(volts) + 1))


def test_rows_that_differ_need_no_number():
    assert column(bare([3.7, 3.8, 3.9]), "record_index") == [None] * 3
    assert column(bare([3.7]), "record_index") == [None]


def test_only_rows_of_a_moment_that_has_two_alike_are_numbered():
    times = ["2024-01-01 00:00:00"] * 3 + ["2024-01-01 00:00:01"] * 2 + ["2024-01-01 00:00:02"]
    table = bare([3.8, 3.7, 3.7, 3.7, 3.8, 3.7], Date_Time=times)
    assert column(table, "record_index") == [1, 2, 3, None, None, None]


def test_alike_rows_are_found_though_another_stands_between_them():
    times = ["2024-01-01 00:00:00"] * 4
    table = bare([3.7, 3.8, 3.7, 3.8], Date_Time=times)
    assert column(table, "record_index") == [1, 2, 3, 4]


def test_a_copied_block_is_the_same_readings_again():
    times = ["2024-01-01 00:00:00"] * 2 + ["2024-01-01 00:00:01", "2024-01-01 00:00:02"]
    table = bare([3.7, 3.7, 3.8, 3.9] * 2, Date_Time=times * 2)
    assert identities(table)[:4] == identities(table)[4:]


def test_two_cells_of_one_moment_are_not_alike():
    table = bare([3.7, 3.7], Date_Time=["2024-01-01 00:00:00"] * 2, Cell_ID=["a", "b"])
    assert column(table, "record_index") == [None, None]


def test_a_record_number_of_the_files_own_is_left():
    table = bare([3.7, 3.7], Record=[5, 6], Date_Time=["2024-01-01 00:00:00"] * 2)
    assert column(table, "record_index") == [5, 6]


@pytest.mark.parametrize(
    ("state", "current", "doubted"),
    [
        ({"state": "charge"}, -1.5, True),
        ({"mode": "CC Discharge"}, 1.5, True),
        ({"stepStatus": "放电"}, 1.5, True),
        ({"state": "charge"}, 1.5, False),
        ({"state": "rest"}, -0.001, False),
        ({"state": "running"}, -1.5, False),
        ({"state": 7, "mode": None}, -1.5, False),
        ({}, -1.5, False),
    ],
)
def test_a_message_whose_state_speaks_against_its_current_is_flagged(state, current, doubted):
    table = decoded(messages([reading(current_a=current) | state]))
    assert column(table, "current_a") == [current]
    flagged = column(table, "flags")[0] & DIRECTION_DISAGREES
    assert bool(flagged) == doubted
