import math
import random

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from schemas import profiles
from schemas.forms import flag_names
from schemas.profiles import Profile
from tests.messages import ARRIVED_US, NOW_US, SECOND, START_US, at, limits, messages, reading, rows
from transforms import limits as limits_module
from transforms.decode import decode
from transforms.enrich import enrich
from transforms.limits import Limits
from transforms.sequence import sequence
from transforms.validate import FLAG, validate

MACHINE = {"equipment_id": "pump", "equipment_type": "machine", "voltage_v": 230.0}
UNKNOWN = {"equipment_id": "unknown_cell"}


def verdict(raw, bounds=None, now_us=NOW_US):
    decoded, refused = decode(raw)
    assert not refused.rows
    return validate(decoded, bounds or limits(), now_us)


def judge(**fields):
    """The rule and field a reading breaks, or the names of its flags."""
    table, refused = verdict(messages([reading(**fields)]))
    if refused.rows:
        assert table.num_rows == 0
        kind, field, message = refused.rows[0]
        assert field in message
        return kind, field
    return flag_names(table.column("flags")[0].as_py())


def up(value):
    return math.nextafter(value, math.inf)


def down(value):
    return math.nextafter(value, -math.inf)


@pytest.mark.parametrize(
    ("fields", "field", "kept", "refused"),
    [
        ({}, "voltage_v", 10.0, up(10.0)),
        ({}, "voltage_v", -10.0, down(-10.0)),
        ({}, "current_a", 22.0, up(22.0)),  # 20C of 1.1 Ah
        ({}, "current_a", -22.0, down(-22.0)),
        (UNKNOWN, "current_a", 1000.0, up(1000.0)),
        ({}, "temperature_c", -40.0, down(-40.0)),
        ({}, "temperature_c", 125.0, up(125.0)),
        ({}, "ambient_temperature_c", -40.0, down(-40.0)),
        ({}, "ambient_temperature_c", 125.0, up(125.0)),
        (MACHINE, "voltage_v", 100_000.0, up(100_000.0)),
        (MACHINE, "current_a", -100_000.0, down(-100_000.0)),
    ],
)
def test_beyond_its_profiles_bound_a_reading_is_impossible(fields, field, kept, refused):
    assert isinstance(judge(**{**fields, field: kept}), list)
    assert judge(**{**fields, field: refused}) == ("out_of_bounds", field)


@pytest.mark.parametrize(
    "field",
    ["test_time_s", "step_time_s", "cycle_index", "step_index", "charge_capacity_ah",
     "discharge_capacity_ah", "charge_energy_wh", "discharge_energy_wh", "frequency_hz"],
)  # fmt: skip
def test_what_only_counts_up_is_never_below_zero(field):
    assert isinstance(judge(**{field: 0}), list)
    assert isinstance(judge(**{field: -0.0}), list)
    assert judge(**{field: -1}) == ("negative", field)


@pytest.mark.parametrize("field", ["voltage_v", "current_a", "test_time_s", "temperature_c",
                                   "charge_capacity_ah", "frequency_hz"])  # fmt: skip
@pytest.mark.parametrize("value", ["inf", "-inf", "1e999"])
def test_numbers_without_end_are_refused(field, value):
    assert judge(**{field: value}) == ("non_finite", field)


def test_not_a_number_is_refused_where_a_value_must_be_and_no_value_elsewhere():
    columns = {"cell": ["a"] * 3, "voltage": [3.7, math.nan, 3.7], "current": [0.5] * 3,
               "temperature": [20.0, 20.0, math.nan]}  # fmt: skip
    table, refused = verdict(rows(columns))
    assert {row: what[:2] for row, what in refused.rows.items()} == {1: ("non_finite", "voltage_v")}
    assert table["temperature_c"].to_pylist() == [20.0, None]


@pytest.mark.parametrize("field", ["equipment_id", "voltage_v", "current_a"])
def test_a_required_field_that_is_missing_is_named(field):
    assert judge(**{field: None}) == ("missing_field", field)
    table, refused = verdict(messages([reading(), reading(**{field: None})]))
    assert {row: what[:2] for row, what in refused.rows.items()} == {1: ("missing_field", field)}
    assert table.num_rows == 1


def test_a_row_may_break_several_rules_and_is_refused_once():
    sent = [{"note": 1}, reading(voltage_v="inf", current_a=-99.0, test_time_s=-1.0)]
    table, refused = verdict(messages(sent))
    assert [what[0] for _, what in sorted(refused.rows.items())] == ["missing_field", "non_finite"]
    assert table.num_rows == 0


def test_a_reading_before_1970_is_of_a_clock_that_was_never_set():
    assert judge(recorded_at="1969-12-31T23:59:59Z") == ("time_behind", "recorded_at")
    assert judge(recorded_at="1970-01-01T00:00:00Z") != ("time_behind", "recorded_at")


class TestTimeAhead:
    LAST = NOW_US + 300 * SECOND

    def sent(self, micros, arrived=ARRIVED_US):
        raw = messages([reading(recorded_at=str(micros))], arrived=[arrived])
        return [what[:2] for what in verdict(raw)[1].rows.values()]

    def test_five_minutes_ahead_of_now_is_the_most(self):
        assert self.sent(self.LAST) == []
        assert self.sent(self.LAST + 1) == [("time_ahead", "recorded_at")]

    def test_now_is_not_before_the_message_arrived(self):
        arrived = NOW_US + 86_400 * SECOND
        assert self.sent(arrived + 300 * SECOND, arrived) == []
        assert self.sent(arrived + 300 * SECOND + 1, arrived) == [("time_ahead", "recorded_at")]


@pytest.mark.parametrize(
    ("fields", "field", "silent", "flagged", "flag"),
    [
        ({}, "voltage_v", 4.25, up(4.25), "voltage_out_of_range"),
        ({}, "voltage_v", 2.65, down(2.65), "voltage_out_of_range"),
        (UNKNOWN, "voltage_v", 2.45, down(2.45), "voltage_out_of_range"),
        (MACHINE, "voltage_v", -0.05, -0.0501, "voltage_out_of_range"),
        ({}, "current_a", 1.21, up(1.21), "current_out_of_range"),
        ({}, "current_a", -1.21, down(-1.21), "current_out_of_range"),
        (MACHINE, "temperature_c", -20.0, down(-20.0), "temperature_out_of_range"),
        (MACHINE, "temperature_c", 110.0, up(110.0), "temperature_out_of_range"),
        (MACHINE, "ambient_temperature_c", 110.0, up(110.0), "temperature_out_of_range"),
        (MACHINE, "frequency_hz", 47.5, down(47.5), "frequency_out_of_range"),
        (MACHINE, "frequency_hz", 52.5, up(52.5), "frequency_out_of_range"),
    ],
)
def test_beyond_an_operating_limit_a_reading_is_kept_and_flagged(
    fields, field, silent, flagged, flag
):
    assert judge(**{**fields, field: silent}) == []
    assert judge(**{**fields, field: flagged}) == [flag]


def test_rules_a_profile_does_not_set_are_not_applied():
    assert judge(**UNKNOWN, current_a=999.0) == []
    bounds = Limits([Profile("bare", reject_voltage_v=1e9)])
    sent = reading(voltage_v=1e8, current_a=1e12, temperature_c=124.0, frequency_hz=1e9)
    table, refused = verdict(messages([sent]), bounds)
    assert not refused.rows
    # A cell's frequency is that of a spectrum.
    assert table.column("flags").to_pylist() == [FLAG["impedance"]]


def test_several_flags_on_one_reading_beside_an_assumed_time():
    found = judge(recorded_at=None, voltage_v=9.0, current_a=5.0, temperature_c=100.0)
    assert found == ["current_out_of_range", "event_time_assumed", "voltage_out_of_range"]


def test_every_equipment_of_a_batch_has_its_own_bounds():
    sent = [reading(voltage_v=4.3), reading(**MACHINE), reading(**UNKNOWN, voltage_v=4.26),
            reading(voltage_v=230.0), reading(**{**MACHINE, "equipment_id": "fan"})]  # fmt: skip
    table, refused = verdict(messages(sent))
    assert {row: what[0] for row, what in refused.rows.items()} == {3: "out_of_bounds"}
    assert "calce_cs2" in refused.rows[3][2]
    flagged = table.filter(pc.not_equal(table.column("flags"), 0)).column("equipment_id")
    assert sorted(flagged.to_pylist()) == ["CS2_35", "unknown_cell"]
    assert table.num_rows == 4


class TestTypes:
    def kinds(self, *sent, chosen=None):
        bounds = Limits(chosen) if chosen else None
        table, refused = verdict(messages(sent), bounds)
        assert not refused.rows
        found = dict(zip(*(table.column(n).to_pylist() for n in ("equipment_id", "equipment_type")),
                         strict=True))  # fmt: skip
        return [found[item["equipment_id"]] for item in sent]

    def test_a_profile_made_for_the_equipment_decides(self):
        pump = Profile("pumps", equipment_type="machine", equipment=("pump_*",))
        found = self.kinds(
            reading(frequency_hz=50.0),
            reading(equipment_id="pump_1"),
            chosen=[pump, *profiles.load()],
        )
        assert found == ["battery_cell", "machine"]

    def test_else_what_reports_a_frequency_is_a_machine(self):
        free = dict.fromkeys(("test_time_s", "record_index", "cycle_index", "step_index"))
        found = self.kinds(
            reading(equipment_id="a", frequency_hz=50.0, **free), reading(equipment_id="b"),
            reading(equipment_id="c", equipment_type="machine"),
            reading(equipment_id="d", equipment_type="battery", frequency_hz=50.0),
        )  # fmt: skip
        assert found == ["machine", "battery_cell", "machine", "battery_cell"]
        assert self.kinds(reading(equipment_id="b")) == ["battery_cell"]

    def test_a_frequency_of_nothing_or_beside_a_cycle_makes_no_machine(self):
        free = dict.fromkeys(("test_time_s", "record_index", "cycle_index", "step_index"))
        found = self.kinds(
            reading(equipment_id="a", frequency_hz=0.0, **free),
            reading(equipment_id="b", frequency_hz=1000.0, **{**free, "cycle_index": 3}),
        )
        assert found == ["battery_cell", "battery_cell"]


class TestTests:
    COLUMNS = {"Date_Time": [at(1.25), at(2)], "voltage": [3.7] * 2, "current": [0.5] * 2}  # noqa: RUF012

    def named(self, raw):
        table, refused = verdict(raw)
        assert not refused.rows
        return table.column("test_id").to_pylist() if "test_id" in table.column_names else None

    def test_a_file_is_one_test_named_by_its_start(self):
        one = rows(self.COLUMNS, equipment_id="a", source_file="x.csv")
        other = rows(self.COLUMNS, equipment_id="a", source_file="y.csv")
        assert self.named(one) == self.named(other) == ["a@2024-06-01T12:00:01Z"] * 2
        part = rows(self.COLUMNS, equipment_id="a", test_start_us=START_US)
        assert self.named(part) == ["a@2024-06-01T12:00:00Z"] * 2

    def test_a_stream_is_one_test_per_cell_unless_it_says_otherwise(self):
        sent = [
            reading(equipment_id="a"),
            reading(equipment_id="b", test_id="t"),
            reading(**MACHINE),
        ]
        assert set(self.named(messages(sent))) == {"a", "t", None}
        assert self.named(messages([reading(test_id="t")])) == ["t"]

    def test_machines_have_none(self):
        assert self.named(messages([reading(**MACHINE)])) is None
        assert self.named(messages([reading(**MACHINE, test_id="t")])) == ["t"]


def test_tables_in_several_chunks_have_one_code_per_name():
    name = pa.chunked_array([["b", "a"], ["a", None]])
    for table in (pa.table({"n": name}), pa.table({"n": name.dictionary_encode()})):
        words, found = limits_module.codes(table, "n")
        assert words.take(pa.array(found)).to_pylist() == ["b", "a", "a", None]
    words = pa.array(["b", None, "ä", "a"])
    assert limits_module.ranked(words).tolist() == [2, 0, 3, 1]


def test_the_most_equipments_remembered_are_bounded(monkeypatch):
    monkeypatch.setattr(limits_module, "_MOST_CACHED", 2)
    bounds = limits()
    for number in range(7):
        sent = [reading(equipment_id=f"CS2_{number}", voltage_v=4.26), reading(**MACHINE)]
        table, _ = verdict(messages(sent), bounds)
        assert sorted(mask > 0 for mask in table.column("flags").to_pylist()) == [False, True]
    assert len(bounds._known) <= 2
    assert bounds.profile_of("CS2_1", "battery_cell") == 0


def test_bounds_need_a_profile_and_the_first_stands_in_where_none_covers():
    with pytest.raises(ValueError, match="at least one equipment profile"):
        Limits([])
    assert Limits([Profile("a", equipment=("x",))]).profile_of("y", None) == 0


# --- identity ----------------------------------------------------------------------------------


def ids_of(table):
    return list(
        zip(table.column("id_high").to_pylist(), table.column("id_low").to_pylist(), strict=True)
    )


def one_id(**fields):
    table, refused = verdict(messages([reading(**fields)]))
    assert not refused.rows
    return ids_of(table)[0]


def hex_ids(raw):
    table, _ = verdict(raw)
    return enrich(sequence(table, None, limits()).table).column("reading_id").to_pylist()


def test_the_identity_is_the_same_in_every_release():
    # Written down: if this changes, every reading in every lake gets a new name.
    keyed = hex_ids(messages([reading()]))
    valued = hex_ids(messages([reading(test_time_s=None, record_index=None, note="ö")]))
    assert (keyed, valued) == (
        ["b6d169cee561707858c3a449b71e0dde"],
        ["aed68ae6d76e3dd0ef6456732329e981"],
    )


def test_the_identity_does_not_depend_on_packing_order_or_spelling():
    sent = [
        reading(test_time_s=t, record_index=i, recorded_at=at(s), note=n)
        for t, i, s, n in [
            (0.0, 1, 0, None),
            (1.5, None, 1, None),
            (None, 2, 1, None),
            (None, None, 2, "x"),
        ]
    ]
    wanted = [ids_of(verdict(messages([item]))[0])[0] for item in sent]
    assert len(set(wanted)) == 4
    assert set(ids_of(verdict(messages(sent))[0])) == set(wanted)
    shuffled = list(sent)
    random.Random(1).shuffle(shuffled)
    turned = [dict(reversed(item.items())) for item in shuffled]
    assert set(ids_of(verdict(messages(turned))[0])) == set(wanted)
    names = sorted({name for item in sent for name in item})
    table = rows({name: [item.get(name) for item in sent] for name in names})
    assert ids_of(verdict(table)[0]) == wanted


def test_minus_zero_is_zero():
    assert one_id(test_time_s=-0.0) == one_id(test_time_s=0.0)
    free = {"test_time_s": None, "record_index": None}
    assert one_id(**free, current_a=-0.0) == one_id(**free, current_a=0.0)


@pytest.mark.parametrize(
    "change",
    [{"equipment_id": "CS2_36"}, {"recorded_at": "2024-06-01T12:00:00.000001Z"},
     {"test_time_s": 1e-300}, {"record_index": 2}, {"test_time_s": None}, {"record_index": None},
     {"test_time_s": None, "record_index": None}, {"test_time_s": 1.0, "record_index": 0}],
)  # fmt: skip
def test_readings_that_differ_in_any_part_of_the_key_differ(change):
    assert one_id(**change) != one_id()


@pytest.mark.parametrize(
    "change",
    [{"voltage_v": 3.6}, {"note": "x"}, {"test_id": "x"}, {"source_file": "x"}, {"streamed_at": at(9)}],
)  # fmt: skip
def test_what_is_not_in_the_key_makes_no_difference(change):
    assert one_id(**change) == one_id()


@pytest.mark.parametrize(
    "change",
    [{"voltage_v": 3.6}, {"current_a": 0.6}, {"cycle_index": 1}, {"step_index": 1},
     {"temperature_c": 0.0}, {"ambient_temperature_c": 0.0}, {"note": "x"}, {"note": "y"}],
)  # fmt: skip
def test_without_test_time_and_record_the_measured_values_tell_readings_apart(change):
    free = {"test_time_s": None, "record_index": None}
    assert one_id(**free, **change) != one_id(**free)
    assert one_id(**free, **change) == one_id(**free, **change, streamed_at=at(9), test_id="t")


def test_a_million_readings_have_a_million_identities():
    count = 1_000_000
    number = np.arange(count)
    table = rows({
        "equipment_id": pa.array(["a", "b", "c", "d"]).take(pa.array(number % 4)),
        "recorded_at": pa.array(START_US - number // 8 * 1_000, pa.timestamp("us", tz="UTC")),
        "test_time_s": (number // 4 % 2).astype(float),
        "voltage_v": np.full(count, 3.7),
        "current_a": np.zeros(count),
    })  # fmt: skip
    found, refused = verdict(table)
    assert not refused.rows
    high, low = found.column("id_high").to_numpy(), found.column("id_low").to_numpy()
    assert len(np.unique(high)) == count  # one lane alone: birthday odds are 1 in 37 million
    assert len(np.unique(low)) == count
    # Every bit is as often set as not.
    for lane in (high, low):
        share = np.unpackbits(lane.view(np.uint8)).reshape(count, 64).mean(axis=0)
        assert abs(share - 0.5).max() < 0.005
