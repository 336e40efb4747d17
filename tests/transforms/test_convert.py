import datetime as dt
import decimal
import math
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pytest

from tests.messages import START, START_US
from transforms import convert

UTC = ZoneInfo("UTC")
BERLIN = ZoneInfo("Europe/Berlin")
NAIVE = START.replace(tzinfo=None)


def values_and_bad(converted):
    bad = [] if converted.bad is None else np.flatnonzero(converted.bad).tolist()
    return converted.array.to_pylist(), bad


def micros(converted):
    return converted.array.cast(pa.int64()).to_pylist()


@pytest.mark.parametrize(
    "column",
    [
        [1.5, 2.0, None],
        ["1.5", " 2 ", "n/a"],
        ["1,5", "2", "--"],
        ["+1.5e0", "2", ""],
        ["1.5", 2, None],
        [1.5, "2,0", "NaN"],
        pa.array([1.5, 2.0, None], pa.float32()),
        pa.array([1.5, 2.0, None], pa.float16()),
        pa.array([decimal.Decimal("1.5"), decimal.Decimal(2), None]),
        pa.array(["1.5", "2", None], pa.large_string()),
        pa.array(["1.5", "2", "null"]).dictionary_encode(),
        pa.chunked_array([pa.array([1.5]), pa.array([2.0, None])]),
        [dt.timedelta(seconds=1.5), dt.timedelta(seconds=2), None],
        [dt.timedelta(seconds=1.5), "2", None],
        pa.array([1_500, 2_000, None], pa.duration("ms")),
    ],
    ids=str,
)
def test_numbers_are_read_however_they_are_spelled(column):
    assert values_and_bad(convert.doubles(column)) == ([1.5, 2.0, None], [])


@pytest.mark.parametrize("word", sorted(convert.MISSING))
def test_missing_markers_are_null_in_any_case(word):
    column = [word, word.upper(), f" {word} ", "1"]
    assert values_and_bad(convert.doubles(column)) == ([None, None, None, 1.0], [])


@pytest.mark.parametrize(
    "item", ["abc", "1_000", "1,000,000", True, b"1", [1], {"a": 1}, "1 V", "0x10", 10**400]
)
def test_what_is_no_number_is_bad_alone(item):
    assert values_and_bad(convert.doubles(["2", item, None, 3])) == ([2.0, None, None, 3.0], [1])


def test_a_column_of_another_type_is_bad_where_it_has_values():
    for column in (pa.array([True, None]), pa.array([[1.0], None]), pa.array([START, None])):
        assert values_and_bad(convert.doubles(column)) == ([None, None], [0])
    assert values_and_bad(convert.doubles(pa.nulls(2))) == ([None, None], [])


def test_numbers_beyond_measure_are_kept_for_the_bounds_to_reject():
    found = convert.doubles(["inf", "-Infinity", "1e999", "5e-324"]).array.to_pylist()
    assert found == [math.inf, -math.inf, math.inf, 5e-324]


def test_units_are_applied_after_reading():
    assert convert.doubles(["1500", None], 1e-3).array.to_pylist() == [1.5, None]
    assert convert.doubles([300.0], 1.0, -273.15).array[0].as_py() == pytest.approx(26.85)
    assert values_and_bad(convert.doubles(["x", "1000"], 1e-3)) == ([None, 1.0], [0])


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("90", 90.0), ("1:30", 5400.0), ("0:01:30", 90.0), ("1:02:03.5", 3723.5),
        ("1d 00:00:01", 86_401.0), ("2 01:00:00", 176_400.0), ("00:00:01,25", 1.25),
    ],
)  # fmt: skip
def test_durations_may_be_clock_times(text, wanted):
    assert values_and_bad(convert.seconds([text, "noon", None])) == ([wanted, None, None], [1])


def test_clock_times_are_hours_whatever_the_unit_of_the_column():
    assert values_and_bad(convert.seconds(["2", "0:00:30", "x"], 60.0)) == ([120, 30, None], [2])


@pytest.mark.parametrize("item", [[1], True, {"a": 1}])
def test_a_duration_of_another_type_is_bad(item):
    assert values_and_bad(convert.seconds([item, None])) == ([None, None], [0])


def test_durations_too_long_to_count_in_microseconds_do_not_stop_the_job():
    found = convert.seconds(pa.array([2**60], pa.duration("s")))
    assert values_and_bad(found) == ([float(2**60)], [])


@pytest.mark.parametrize(
    ("column", "wanted", "bad"),
    [
        (pa.array([1, None], pa.int8()), [1, None], []),
        (pa.array([2**63 - 1]), [2**63 - 1], []),
        (pa.array([2**64 - 1, 5], pa.uint64()), [None, 5], [0]),
        ([1.5, 2.999, -0.5], [1, 2, -1], []),
        (["7", "7.5", "n/a"], [7, 7, None], []),
        ([math.inf, math.nan, 1.0], [None, None, 1], [0, 1]),
        ([1e300, 1.0], [None, 1], [0]),
        (["x", "1"], [None, 1], [0]),
        ([10**30, 1], [None, 1], [0]),
    ],
    ids=str,
)
def test_whole_numbers(column, wanted, bad):
    assert values_and_bad(convert.integers(column)) == (wanted, bad)


@pytest.mark.parametrize(
    ("column", "wanted", "bad"),
    [
        ([" CS2_35 ", "", None], ["CS2_35", None, None], []),
        ([35, 36], ["35", "36"], []),
        ([35.0, 36.5], ["35", "36.5"], []),
        (["a", 5, 6.0], ["a", "5", "6"], []),
        ([True, "a"], [None, "a"], [0]),
        ([[1], None], [None, None], [0]),
        (pa.nulls(2), [None, None], []),
        (pa.array(["x", "y"]).dictionary_encode(), ["x", "y"], []),
        (pa.chunked_array([pa.array([b"x ", b"\xff", None, b" "])]), ["x", None, None, None], [1]),
        (pa.array([b"x"], pa.large_binary()), ["x"], []),
        (["\ud800", "a"], [None, "a"], [0]),
    ],
    # An array's text names its address, which differs from process to process.
    ids=lambda value: repr(value) if isinstance(value, list) else str(value.type),
)
def test_names(column, wanted, bad):
    assert values_and_bad(convert.texts(column)) == (wanted, bad)


T = "2024-06-01 12:00:00"


@pytest.mark.parametrize(
    "text",
    [
        "2024-06-01T12:00:00Z", "2024-06-01T12:00:00.000z", "2024-06-01 14:00:00+02:00",
        "2024-06-01T14:00:00+0200", "2024-06-01T06:30:00-05:30", "2024-06-01T12:00:00.000000",
        T, "2024-06-01 12:00", "20240601T120000", "2024/06/01 12:00:00", "2024/06/01 12:00:00.0",
        "06/01/2024 12:00:00", "6/1/2024 12:00", "06/01/2024 12:00:00 PM", "06/01/24 12:00:00",
        "06/01/2024 12:00:00.000", "01.06.2024 12:00:00", "01.06.2024 12:00", "06-01-2024 12:00:00",
        "01-Jun-24 12:00:00 PM", "01-Jun-2024 12:00:00", "2024-06-01 12-00-00", "1717243200",
        "1717243200000", "1717243200000000", "1717243200000000000", "45444.5", "739404.5",
    ],
)  # fmt: skip
def test_points_in_time_are_read_however_they_are_spelled(text):
    assert micros(convert.timestamps([text, None], UTC)) == [START_US, None]
    # A column of several spellings goes another way; it must lead to the same.
    assert micros(convert.timestamps([text, "01.06.2024 12:00:00", "nil"], UTC)) == [
        START_US, START_US, None,
    ]  # fmt: skip


@pytest.mark.parametrize(
    "column",
    [
        [1_717_243_200],
        [1_717_243_200_000],
        [1_717_243_200_000_000],
        [1_717_243_200_000_000_000],
        [45_444.5],
        [739_404.5],
        ["not yet", 45_444.5],
        ["not yet", "2024-06-01T12:00:00Z"],
        ["not yet", 1_717_243_200],
        pa.array([NAIVE]),
        pa.array([START]),
        pa.array([NAIVE], pa.timestamp("s")),
        pa.array([START_US * 1000], pa.timestamp("ns", tz="Europe/Berlin")),
    ],
    ids=str,
)
def test_points_in_time_of_other_types(column):
    assert micros(convert.timestamps(column, UTC))[-1] == START_US


def test_numbers_are_told_apart_by_their_magnitude_row_by_row():
    column = [45_444.5, 739_404.5, 1_717_243_200.0, 1_717_243_200_000.0]
    assert micros(convert.timestamps(column, UTC)) == [START_US] * 4
    assert micros(convert.timestamps([1_717_243_200_000], UTC, 1e-3)) == [START_US]
    assert micros(convert.timestamps([1_717_243_200], UTC, 1e-3)) == [START_US]


@pytest.mark.parametrize(
    ("number", "lowest"),
    [(20_000.0, 19_999.99), (700_000.0, 699_999.9), (1e8, 99_999_999.0), (79_999.99, 80_000.0),
     (799_999.9, 800_000.0), (9.99e18, 1e19)],
)  # fmt: skip
def test_numbers_outside_every_range_are_bad(number, lowest):
    assert values_and_bad(convert.timestamps([number], UTC))[1] == []
    assert values_and_bad(convert.timestamps([lowest], UTC)) == ([None], [0])
    assert values_and_bad(convert.timestamps([str(lowest), T], UTC))[1] == [0]


def test_local_times_take_the_zone_and_absolute_ones_do_not():
    local = START_US - 2 * 3600 * 1_000_000
    for text in (T, "01.06.2024 12:00:00", "06/01/2024 12:00:00", "45444.5", "739404.5"):
        assert micros(convert.timestamps([text], BERLIN)) == [local]
    assert micros(convert.timestamps([45_444.5], BERLIN)) == [local]
    assert micros(convert.timestamps([NAIVE], BERLIN)) == [local]
    for text in ("2024-06-01T12:00:00Z", "1717243200", "2024-06-01T17:30:00+05:30"):
        assert micros(convert.timestamps([text], BERLIN)) == [START_US]


def test_dates_are_local_midnights():
    midnight = START_US - 12 * 3600 * 1_000_000
    for column in (
        ["2024-06-01"],
        [dt.date(2024, 6, 1)],
        pa.array([midnight // 1000], pa.date64()),
    ):
        assert micros(convert.timestamps(column, UTC)) == [midnight]
        assert micros(convert.timestamps(column, BERLIN)) == [midnight - 2 * 3600 * 1_000_000]


@pytest.mark.parametrize(
    ("local", "utc"),
    [
        ("2024-10-27 02:30:00", "2024-10-27T00:30:00+00:00"),  # twice: the first
        ("2024-03-31 02:30:00", "2024-03-31T01:30:00.000001+00:00"),  # never: moved on
        ("2024-03-31 01:59:59", "2024-03-31T00:59:59+00:00"),
        ("2024-03-31 03:00:00", "2024-03-31T01:00:00+00:00"),
    ],
)
def test_the_hours_of_clock_change_mean_the_same_in_any_column(local, utc):
    wanted = dt.datetime.fromisoformat(utc)
    german = dt.datetime.fromisoformat(local).strftime("%d.%m.%Y %H:%M:%S")
    excel = (
        dt.datetime.fromisoformat(local) - dt.datetime.fromisoformat("1899-12-30")
    ) / dt.timedelta(days=1)
    for column in (
        [local], [local, "01.06.2024 12:00:00"], [german], [excel], [str(excel), T], [excel, T],
        pa.array([dt.datetime.fromisoformat(local)]),
    ):  # fmt: skip
        assert convert.timestamps(column, BERLIN).array[0].as_py() == wanted, column


def test_excel_serials_are_good_to_the_millisecond():
    serial = 45_444.5 + 0.123 / 86_400
    assert micros(convert.timestamps([serial], UTC)) == [START_US + 123_000]


def test_slashes_mean_month_first_unless_a_day_shows_otherwise():
    def days(*texts):
        found = convert.timestamps([f"{text} 00:00:00" for text in texts], UTC).array
        return [item.as_py() and (item.as_py().day, item.as_py().month) for item in found]

    assert days("02/03/2024") == [(3, 2)]
    assert days("02/03/2024", "13/03/2024") == [(2, 3), (13, 3)]
    assert days("02/03/2024", "03/13/2024") == [(3, 2), (13, 3)]
    # What is no date at all tells nothing of the others.
    assert days("02/03/2024", "99/99/2024") == [(3, 2), None]
    assert days("02/03/2024", "13/03/2024", "99/99/2024") == [(2, 3), (13, 3), None]
    # A column that is both stays as most cyclers write, but for what cannot be.
    assert days("02/03/2024", "13/03/2024", "03/13/2024") == [(3, 2), (13, 3), (13, 3)]


@pytest.mark.parametrize(
    "item", ["yesterday", "2024-13-01", "99/99/9999 00:00:00", "12:30", True, [1], {"a": 1}, "-1",
             "0000-01-01T00:00:00Z", "0001-01-01", "9999-12-31T23:59:59Z", "1e300", math.inf, 5],
)  # fmt: skip
def test_what_is_no_point_in_time_is_bad_alone(item):
    found = convert.timestamps(["2024-06-01T12:00:00Z", item, None], UTC)
    assert micros(found) == [START_US, None, None]
    assert np.flatnonzero(found.bad).tolist() == [1]
    assert values_and_bad(convert.timestamps([item], BERLIN)) == ([None], [0])


@pytest.mark.parametrize(
    "column",
    [
        pa.array([2**62], pa.timestamp("s")),
        pa.array([-(2**62)], pa.timestamp("us", tz="UTC")),
        pa.array([2**31 - 1], pa.int32()).cast(pa.date32()),
        pa.array([True]),
        pa.array([[1]]),
    ],
    ids=lambda column: str(column.type),
)
def test_times_outside_the_calendar_are_bad(column):
    found = convert.timestamps(pa.concat_arrays([column, pa.nulls(1, column.type)]), BERLIN)
    assert values_and_bad(found) == ([None, None], [0])


def test_columns_without_a_value_are_null():
    for column in (pa.nulls(2), ["n/a", None], pa.array(["", " "])):
        assert values_and_bad(convert.timestamps(column, UTC)) == ([None, None], [])


def test_python_objects_of_columns_python_cannot_hold():
    huge = pa.array([570_000_000_000, None], pa.timestamp("s"))
    found = convert.items(huge)
    assert found[0].startswith("20032-")
    assert found[1] is None
    assert convert.items((1, "a")) == [1, "a"]
    assert convert.items(pa.array([[2**60]], pa.list_(pa.timestamp("s")))) == [None]
    assert values_and_bad(convert.doubles(huge)) == ([None, None], [0])


@pytest.mark.parametrize("company", [[], ["3 Jan 2024 04:05:06"]])
def test_a_zone_of_hours_alone_is_one_behind_a_time_and_a_day_elsewhere(company: list[str]) -> None:
    texts = ["2024-01-01 00:00:01+00", "2024-01-01 00:00:01.25-05", "2024-01-02 00:00:01+0530"]
    found = convert.timestamps([*texts, *company], ZoneInfo("UTC"))
    assert found.bad is None
    assert found.array.to_pylist()[:3] == [dt.datetime.fromisoformat(text) for text in texts]
    days = convert.timestamps(["2024-01-05", "2024-02-05"], ZoneInfo("America/New_York"))
    assert [each.hour for each in days.array.to_pylist()] == [5, 5]
