"""Dates and times are read however they are written, a whole column by one order."""

import datetime as dt

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms import stamps
from transforms.stamps import Order

EPOCH = dt.datetime(1970, 1, 1)  # noqa: DTZ001  # naive like the texts


def micros(time):
    return (time - EPOCH) // dt.timedelta(microseconds=1)


def parsed(texts, order=None):
    found = stamps.parse(pa.array(texts, pa.string()), order)
    return [value if known else None for value, known in zip(found.micros.tolist(), found.known)]


DATES = [
    ("%Y-%m-%d", None), ("%Y/%m/%d", None), ("%Y.%m.%d", None), ("%Y年%m月%d日", None),
    ("%m/%d/%Y", Order.MONTH_FIRST), ("%d/%m/%Y", Order.DAY_FIRST), ("%d.%m.%Y", Order.DAY_FIRST),
    ("%m-%d-%Y", Order.MONTH_FIRST), ("%d-%m-%y", Order.DAY_FIRST), ("%m/%d/%y", Order.MONTH_FIRST),
    ("%d-%b-%Y", None), ("%d %B %Y", None), ("%b %d, %Y", None), ("%B %d %Y", None),
    ("%a, %d %b %Y", None), ("%A %d-%b-%Y", None), ("%Y-%b-%d", None),
]  # fmt: skip
TIMES = ["%H:%M:%S", "%H:%M:%S.%f", "%H:%M", "%I:%M:%S %p", "%I:%M %p", "%H.%M.%S", "%Hh%Mm%S",
         "%H:%M:%S,%f", "%H:%M:%S:%f"]  # fmt: skip
instants = st.datetimes(dt.datetime(1971, 1, 1), dt.datetime(2068, 12, 31))  # noqa: DTZ001


@given(times=st.lists(instants, min_size=1, max_size=8), date=st.sampled_from(DATES),
       clock=st.sampled_from(TIMES), between=st.sampled_from([" ", "  ", " , "]))  # fmt: skip
def test_whatever_strftime_writes_is_read_as_strptime_reads_it(times, date, clock, between):
    pattern, order = date[0] + between + clock, date[1]
    texts = [time.strftime(pattern) for time in times]
    wanted = [micros(dt.datetime.strptime(text, pattern)) for text in texts]  # noqa: DTZ007
    assert parsed(texts, order) == wanted
    assert parsed([f"  {text} " for text in texts], order) == wanted


@given(times=st.lists(instants, min_size=1, max_size=8), date=st.sampled_from(DATES))
def test_dates_alone_are_midnights(times, date):
    texts = [time.strftime(date[0]) for time in times]
    wanted = [micros(dt.datetime.strptime(text, date[0])) for text in texts]  # noqa: DTZ007
    assert parsed(texts, date[1]) == wanted


@given(time=instants, date=st.sampled_from(["%Y-%m-%d", "%d/%m/%Y"]))
def test_iso_times_with_a_t_and_hyphened_times(time, date):
    time = time.replace(microsecond=0)
    assert parsed([time.strftime(f"{date}T%H:%M:%S")], Order.DAY_FIRST) == [micros(time)]
    assert parsed([time.strftime(f"{date} %H-%M-%S")], Order.DAY_FIRST) == [micros(time)]


@pytest.mark.parametrize(
    ("zone", "minutes"),
    [("Z", 0), ("z", 0), (" UTC", 0), (" GMT", 0), ("+02:00", 120), ("-0530", -330), ("+00:00", 0)],
)
def test_a_zone_is_kept_apart(zone, minutes):
    found = stamps.parse(pa.array([f"2024-03-01T10:00:00{zone}", "2024-03-01T10:00:00", None]))
    assert found.offset_us.tolist() == [minutes * 60_000_000, 0, 0]
    assert found.zoned.tolist() == [True, False, False]
    assert found.known.tolist() == [True, True, False]
    assert found.micros[0] == found.micros[1]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("3/4/2024 12:05:00 AM", dt.datetime(2024, 3, 4, 0, 5)),
        ("3/4/2024 12:05:00 PM", dt.datetime(2024, 3, 4, 12, 5)),
        ("3/4/2024 1:05:00 p.m.", dt.datetime(2024, 3, 4, 13, 5)),
        ("2024年3月4日 下午1:05:00", dt.datetime(2024, 3, 4, 13, 5)),
        ("2024/3/4 上午 12:05:00", dt.datetime(2024, 3, 4, 0, 5)),
        ("2024年3月4日 13时05分00秒", dt.datetime(2024, 3, 4, 13, 5)),
        ("2024-03-04 1:05:00 下午", dt.datetime(2024, 3, 4, 13, 5)),
        ("4. März 2024 10:00", dt.datetime(2024, 3, 4, 10)),
        ("4 Mrz 2024", dt.datetime(2024, 3, 4)),
        ("4-Okt-24 10:00:00", dt.datetime(2024, 10, 4, 10)),
        ("May 1st, 2024", dt.datetime(2024, 5, 1)),
        ("Mon, 4 Mar 2024 10:00:00 GMT", dt.datetime(2024, 3, 4, 10)),
        ("2024-03-04 10:00:00.1234567", dt.datetime(2024, 3, 4, 10, 0, 0, 123456)),
        ("1/2/69", dt.datetime(2069, 1, 2)),
        ("1/2/70", dt.datetime(1970, 1, 2)),
        # no such day or time
        ("30/02/2024", None), ("2023-02-29", None), ("2024-02-29", dt.datetime(2024, 2, 29)),
        ("2024-13-01", None), ("2024-00-10", None), ("2024-01-00", None), ("0000-01-01", None),
        ("2024-01-01 24:00:00", None), ("2024-01-01 10:60:00", None), ("2024-01-01 10:00:60", None),
        ("3/4/2024 13:05:00 PM", None), ("3/4/2024 0:05:00 AM", None),
        ("yesterday", None), ("", None), ("12.5", None), ("1:02:03", None), ("3 Foo 2024", None),
    ],
)  # fmt: skip
def test_spellings_and_what_is_no_time(text, wanted):
    found = parsed([text])[0]
    assert found == (None if wanted is None else micros(wanted))


def test_a_column_may_mix_spellings():
    texts = ["2024-03-04", None, "4 Mar 2024", "Mar 4, 2024", "nothing", "2024-03-04 00-00-00"]
    day = micros(dt.datetime(2024, 3, 4))
    assert parsed(texts) == [day, None, day, day, None, day]


@pytest.mark.parametrize(
    ("text", "order", "day"),
    [
        ("03/04/2024", None, (3, 4)), ("13/04/2024", None, (4, 13)), ("03.04.2024", None, (4, 3)),
        ("03.14.2024", None, (3, 14)), ("03/04/2024", Order.DAY_FIRST, (4, 3)),
        ("03/04/2024", Order.MONTH_FIRST, (3, 4)), ("13/04/2024", Order.MONTH_FIRST, None),
    ],
)  # fmt: skip
def test_without_an_order_the_month_is_first_with_points_the_day(text, order, day):
    assert parsed([text], order) == [None if day is None else micros(dt.datetime(2024, *day))]


@pytest.mark.parametrize(
    ("texts", "order"),
    [
        (["13/04/2024", "03/04/2024"], Order.DAY_FIRST),
        (["04/13/2024", None], Order.MONTH_FIRST),
        (["03/04/2024"], None),
        (["13/04/2024", "04/13/2024"], None),
        (["13/04/2024", "14/04/2024", "04/13/2024"], Order.DAY_FIRST),
        (["14/15/2024", "03/13/2024"], Order.MONTH_FIRST),
        (["14/15/2024"], None),
        (["2024-13-04"], None),
        (["1:02:03", None], None),
        ([], None),
    ],
)
def test_a_part_above_twelve_shows_the_order(texts, order):
    assert stamps.order_of(pa.array(texts, pa.string())) is order


def test_the_parts_that_may_be_day_or_month():
    first, second = stamps.ambiguous_parts(pa.array(["3/4/2024", "2024-05-06", None, "5.6.24"]))
    assert (first.tolist(), second.tolist()) == ([3, 5], [4, 6])
    assert stamps.ambiguous_parts(pa.array(["2024-05-06", None])) is None
    assert stamps.ambiguous_parts(pa.array(["32/05/2024"])) is None


# --- durations -----------------------------------------------------------------------------------


@given(seconds=st.lists(st.integers(0, 10**9), min_size=1, max_size=6),
       millis=st.integers(0, 999), minus=st.booleans(),
       how=st.sampled_from(["hms", "days", "days_word", "days_comma", "hm"]))  # fmt: skip
def test_clock_notation_is_read_back_as_it_was_written(seconds, millis, minus, how):
    def text(total):
        hours, rest = divmod(total, 3600)
        clock = f":{rest // 60:02d}:{rest % 60:02d}.{millis:03d}"
        days = {"days": "{}d {:02d}", "days_word": "{} days, {:02d}", "days_comma": "{},{:02d}"}
        if how in days:
            return days[how].format(hours // 24, hours % 24) + clock
        return f"{hours}:{rest // 60:02d}" if how == "hm" else f"{hours}{clock}"

    signed = -1 if minus else 1
    wanted = [signed * (s // 60 * 60 if how == "hm" else s + millis / 1e3) for s in seconds]
    texts = [("-" if minus else "") + text(s) for s in seconds]
    found, matched = stamps.durations(pa.array([*texts, None, "noon", "12"]))
    assert matched.tolist() == [True] * len(texts) + [False] * 3
    np.testing.assert_allclose(found[: len(texts)], wanted, rtol=1e-12, atol=1e-9)
    assert np.isnan(found[len(texts) :]).all()


def test_a_column_without_clock_notation_has_no_durations():
    found, matched = stamps.durations(pa.array(["1.5", None]))
    assert np.isnan(found).all() and not matched.any()


def test_hours_beyond_any_integer_do_not_stop_the_job():
    found, matched = stamps.durations(pa.array([f"{10**30}:00:00"]))
    assert matched[0] and found[0] == pytest.approx(3.6e33)
