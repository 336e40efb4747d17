"""Which column is which clock, in what unit, and what was done to it, is decided from the values."""

import datetime as dt
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pytest

from tests.transforms.interpret import cell
from transforms.interpret import clocks
from transforms.interpret.agreement import passing, set_back
from transforms.interpret.apply import fields
from transforms.interpret.clocks import chunk_ratio
from transforms.interpret.decide import decide
from transforms.interpret.interpretation import Head
from transforms.interpret.timeline import measured_order, runs_on
from transforms.validate import FLAG

UTC = ZoneInfo("UTC")
NAN = np.nan
N = 400
EVERY = 30.0
SECONDS = EVERY * np.arange(N)
VOLTAGE = 3.5 + 1e-3 * np.arange(N)
START = dt.datetime(2024, 3, 1, 22, 0, tzinfo=dt.UTC)
WALL = [START + dt.timedelta(seconds=s) for s in SECONDS.tolist()]


def told(columns, head=None, zone=UTC, **how):
    """The decision, and the fields it gives, of a table with these clocks."""
    table = pa.table({"Voltage(V)": VOLTAGE, "Current(A)": np.ones(N), **columns})
    found = decide(table, head, zone, **how)
    return found, fields(table, found, zone)


def texts(pattern, times=WALL):
    return [time.strftime(pattern) for time in times]


def used(how, field):
    use = how.use_of(field)
    return None if use is None else use.column


# --- clocks that were never set ------------------------------------------------------------------


@pytest.mark.parametrize("start", ["1904-01-01 00:00:00", "1970-01-01 01:00:00", "01/01/1980"])
def test_a_head_s_start_of_a_clock_that_was_never_set_is_none(start):
    how, found = told({"Test_Time(s)": SECONDS}, Head(start=start))
    assert how.start_us is None and "recorded_at" not in found.found
    assert "time_assumed" in how.disagreements
    assert any(start in witness.text for witness in how.witnesses)


def test_a_head_s_start_stands_in_for_such_a_clock():
    unset = [f"1904-01-01 {time:%H:%M:%S}" for time in WALL]
    how, found = told(
        {"Date_Time": unset, "Test_Time(s)": SECONDS}, Head(start="2024-03-01 22:00:00")
    )
    assert cell.times(found) == WALL
    assert used(how, "recorded_at") is None and "time_assumed" not in how.disagreements


def test_a_step_s_time_is_a_clock_too():
    unset = [time.replace(year=1970, month=1, day=1 + time.day % 2) for time in WALL]
    how, _ = told({"Date_Time": unset, "Step_Time(s)": SECONDS % 600})
    assert used(how, "recorded_at") is None and how.by_runs


@pytest.mark.parametrize("clock", [{}, {"Test_Time(s)": np.zeros(N)}, {"Test_Time(s)": [None] * N}])
def test_such_a_clock_is_used_where_no_other_runs(clock):
    how, _ = told({"Date_Time": [time.replace(year=1975) for time in WALL], **clock})
    assert used(how, "recorded_at") == "Date_Time"


# --- points in time ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("Date_Time", WALL),
        ("Date_Time", texts("%Y-%m-%d %H:%M:%S")),
        ("DPT Time", texts("%m/%d/%Y %I:%M:%S %p")),
        ("Date", texts("%Y/%m/%d %H:%M:%S")),
        ("Time", texts("%Y-%m-%d %H:%M:%S")),
        ("time", [time.timestamp() for time in WALL]),
        ("Date_Time", [45_352 + 22 / 24 + s / 86_400 for s in SECONDS.tolist()]),
        ("unix_time_second", [time.timestamp() for time in WALL]),
        ("unix_time_second", [time.timestamp() * 1e3 for time in WALL]),  # not what it says
        ("timestamp_ms", [time.timestamp() * 1e3 for time in WALL]),
        ("系统时间", texts("%Y-%m-%d %H:%M:%S")),
        ("Test_Time(s)", [time.timestamp() for time in WALL]),
        ("TestTime", texts("%Y-%m-%d %H:%M:%S")),
    ],
)  # fmt: skip
def test_event_time_is_found_under_whatever_name(name, values):
    how, found = told({name: values})
    assert used(how, "recorded_at") == name
    got = [time.timestamp() for time in cell.times(found)]
    assert got == pytest.approx([time.timestamp() for time in WALL], abs=1e-3)
    assert "time_assumed" not in how.disagreements


def test_times_without_a_zone_are_the_labs():
    _, found = told({"Date_Time": texts("%Y-%m-%d %H:%M:%S")}, zone=ZoneInfo("Asia/Tokyo"))
    assert cell.times(found)[0] == START - dt.timedelta(hours=9)


def test_a_date_and_a_time_of_day_are_one_point_in_time():
    columns = {"Date": texts("%Y-%m-%d"), "Time": texts("%H:%M:%S")}
    how, found = told(columns)
    assert cell.times(found) == WALL
    assert how.event_time == "Date + Time"
    columns["Date"][3], columns["Time"][4] = "never", "noon"
    _, found = told(columns)
    assert {name: np.flatnonzero(mask).tolist() for mask, _, _, name in found.bad} == {
        "Date cannot be parsed as a date and time": [3],
        "Time cannot be parsed as a date and time": [4],
    }


def test_a_date_beside_elapsed_time_is_the_day_of_the_test():
    short = [time.replace(tzinfo=None).date() for time in [START] * N]
    how, found = told({"Date": pa.array(short), "Test_Time(s)": SECONDS})
    assert how.start_us == 1_709_251_200_000_000  # midnight of that day
    assert cell.times(found)[-1] == dt.datetime(2024, 3, 1, tzinfo=dt.UTC) + dt.timedelta(
        seconds=SECONDS[-1]
    )


def test_midnights_alone_are_dates():
    days = [
        dt.datetime(2024, 3, 1, tzinfo=dt.UTC) + dt.timedelta(days=at // 200) for at in range(N)
    ]
    how, _ = told({"Date_Time": pa.array(days), "Test_Time(s)": SECONDS})
    assert how.event_time == "Date_Time + Test_Time(s)"


def test_of_two_columns_the_one_that_tells_rows_apart_is_the_clock():
    how, found = told({"Date_Time": [WALL[0]] * N, "Timestamp": WALL})
    assert used(how, "recorded_at") == "Timestamp"
    assert cell.times(found) == WALL


def test_where_the_better_clock_is_empty_the_other_one_counts():
    half: list = list(WALL)
    half[100:200] = [None] * 100
    _, found = told({"Date_Time": half, "Timestamp": WALL})
    assert cell.times(found) == WALL


def test_a_column_with_hardly_a_time_in_it_is_no_clock():
    how, _ = told({"Date_Time": [WALL[0], *[None] * (N - 1)], "Test_Time(s)": SECONDS})
    assert used(how, "recorded_at") is None and "Date_Time" in how.left


def test_the_head_says_when_the_test_began():
    how, found = told({"Test_Time(s)": SECONDS}, Head(start="2024-03-01 22:00:00"))
    assert cell.times(found) == WALL
    assert how.event_time == "start in the file's head + Test_Time(s)"
    assert how.disagreements == ()


@pytest.mark.parametrize(
    ("start", "dialect", "guessed"),
    [
        ("03/04/2024 22:00:00", None, True),
        ("03/04/2024 22:00:00", "Arbin", False),
        ("03/04/2024 10:00:00 PM", None, False),
        ("03.04.2024 22:00:00", "Basytec", False),
        ("03/13/2024 22:00:00", None, False),
        ("03/03/2024 22:00:00", None, False),
    ],
)
def test_a_start_that_may_be_two_days_is_named(start, dialect, guessed):
    how, _ = told({"Test_Time(s)": SECONDS}, Head(start=start, dialect=dialect))
    assert ("date_order_guessed" in how.disagreements) is guessed


@pytest.mark.parametrize("start", [None, "yesterday"])
def test_without_any_date_the_time_is_said_to_be_assumed(start):
    how, _ = told({"Test_Time(s)": SECONDS}, Head(start=start))
    assert how.disagreements == ("time_assumed",)
    assert how.event_time == "file modification time"


# --- the order of day and month ------------------------------------------------------------------


@pytest.mark.parametrize(("pattern", "day_first"), [("%d/%m/%Y", True), ("%m/%d/%Y", False)])
def test_a_day_above_twelve_shows_the_order(pattern, day_first):
    later = [time + dt.timedelta(days=20) for time in WALL]
    how, found = told({"Date_Time": texts(f"{pattern} %H:%M:%S", later)})
    assert (how.day_first, how.date_order) == (day_first, "dmy" if day_first else "mdy")
    assert cell.times(found) == later


@pytest.mark.parametrize("pattern", ["%d/%m/%Y", "%m/%d/%Y", "%d.%m.%Y", "%d-%m-%Y"])
def test_time_that_runs_evenly_shows_the_order(pattern):
    """From the first of March to the second: read the other way it jumps a month."""
    how, found = told({"Date_Time": texts(f"{pattern} %H:%M:%S")})
    assert cell.times(found) == WALL
    assert how.disagreements == ()


ONE_DAY = [dt.datetime(2024, 4, 3, 1, tzinfo=dt.UTC) + dt.timedelta(seconds=s) for s in SECONDS]


@pytest.mark.parametrize(
    ("pattern", "head", "day_first", "doubts"),
    [
        ("%d/%m/%Y %H:%M:%S", Head(), False, {"date_order_guessed"}),
        ("%m/%d/%Y %H:%M:%S", Head(dialect="Arbin"), False, set()),
        ("%m/%d/%Y %I:%M:%S %p", Head(), False, {"date_order_guessed"}),
        ("%d.%m.%Y %H:%M:%S", Head(), True, {"date_order_guessed"}),
        ("%d.%m.%Y %H:%M:%S", Head(dialect="Basytec"), True, set()),
    ],
)
def test_a_test_of_one_day_leaves_the_order_open_and_says_so(pattern, head, day_first, doubts):
    how, _ = told({"Date_Time": texts(pattern, ONE_DAY)}, head)
    assert (how.day_first, set(how.disagreements)) == (day_first, doubts)


def test_the_order_is_no_matter_where_day_and_month_are_equal():
    same = [time.replace(month=4, day=4) for time in ONE_DAY]
    how, found = told({"Date_Time": texts("%d/%m/%Y %H:%M:%S", same)})
    assert (how.day_first, how.date_order, how.disagreements) == (None, None, ())
    assert cell.times(found) == same


@pytest.mark.parametrize("day_first", [True, False])
def test_an_order_that_is_given_is_no_guess(day_first):
    pattern = "%d/%m/%Y %H:%M:%S" if day_first else "%m/%d/%Y %H:%M:%S"
    how, found = told({"Date_Time": texts(pattern, ONE_DAY)}, day_first=day_first)
    assert how.disagreements == ()
    assert cell.times(found) == ONE_DAY


# --- elapsed time --------------------------------------------------------------------------------

STEP_S = EVERY * (np.arange(N) % 100)
STEP = np.arange(N) // 100 + 1


@pytest.mark.parametrize(
    ("columns", "test", "step"),
    [
        ({"Test_Time(s)": SECONDS, "Step_Time(s)": STEP_S}, "Test_Time(s)", "Step_Time(s)"),
        ({"Total Time": SECONDS, "Time": STEP_S}, "Total Time", "Time"),
        ({"Time": STEP_S, "Cumulative Time": SECONDS}, "Cumulative Time", "Time"),
        ({"Time": SECONDS}, "Time", None),
        ({"Time": STEP_S, "Step": STEP}, None, "Time"),
        # called the test's, but it begins again with every step
        ({"Test_Time(s)": STEP_S, "Elapsed Time": SECONDS, "Step": STEP}, "Elapsed Time",
         "Test_Time(s)"),
        ({"Test_Time(s)": STEP_S, "Time": SECONDS, "Step": STEP}, "Time", "Test_Time(s)"),
    ],
)  # fmt: skip
def test_which_clock_is_the_tests_and_which_the_steps(columns, test, step):
    how, found = told({"Date_Time": WALL, **columns})
    assert (used(how, "test_time_s"), used(how, "step_time_s")) == (test, step)
    if test:
        assert cell.numbers(found, "test_time_s").tolist() == SECONDS.tolist()
    if step:
        assert cell.numbers(found, "step_time_s").tolist() == STEP_S.tolist()


@pytest.mark.parametrize(
    ("write", "name"),
    [
        (lambda s: f"{int(s) // 3600}:{int(s) // 60 % 60:02d}:{int(s) % 60:02d}", "Test_Time"),
        (lambda s: f"{int(s) // 86400}d {int(s) // 3600 % 24:02d}:{int(s) // 60 % 60:02d}:"
                   f"{int(s) % 60:02d}.000", "TestTime"),
        (lambda s: f"{int(s) // 3600}:{int(s) // 60 % 60:02d}:{int(s) % 60:02d}", "Date_Time"),
        (lambda s: dt.timedelta(seconds=s), "Test_Time"),
        (lambda s: dt.timedelta(seconds=s), "Date_Time"),
    ],
)  # fmt: skip
def test_clock_notation_is_hours_minutes_and_seconds(write, name):
    how, found = told({name: [write(s) for s in SECONDS.tolist()]}, Head(start="2024-03-01 22:00"))
    assert cell.numbers(found, "test_time_s").tolist() == SECONDS.tolist()
    assert how.disagreements == ()


@pytest.mark.parametrize("unit", clocks.UNITS.values())
@pytest.mark.parametrize("name", ["TestTime", "Time", "Test_Time(s)", "Total Time, min"])
def test_the_wall_clock_overrules_any_name(unit, name):
    how, found = told({"Date_Time": WALL, name: SECONDS / unit})
    np.testing.assert_allclose(cell.numbers(found, "test_time_s"), SECONDS, rtol=1e-9)
    assert how.disagreements == ()
    assert "unit" in {witness.about for witness in how.witnesses}


def test_the_steps_clock_has_the_unit_of_the_tests():
    how, found = told({"Date_Time": WALL, "TestTime": SECONDS / 60, "StepTime": STEP_S / 60})
    np.testing.assert_allclose(cell.numbers(found, "step_time_s"), STEP_S)
    assert how.use_of("step_time_s").why == "as the test's clock"


def test_two_clocks_that_drift_apart_are_named():
    how, _ = told({"Date_Time": WALL, "Test_Time(s)": SECONDS * 1.1})
    assert how.disagreements == ("clock_disagrees",)


def test_pauses_of_the_wall_clock_are_no_disagreement():
    paused = WALL[:200] + [time + dt.timedelta(days=3) for time in WALL[200:]]
    how, found = told({"Date_Time": paused, "Test_Time(s)": SECONDS})
    assert how.disagreements == ()
    assert cell.times(found) == paused


def test_a_ratio_of_clocks_is_that_of_most_of_the_time():
    walls = SECONDS.copy()
    walls[150:] += 1e6
    assert chunk_ratio(walls, SECONDS / 60) == pytest.approx(60.0)
    assert chunk_ratio(walls[:1], SECONDS[:1]) is None
    assert chunk_ratio(np.zeros(9), np.arange(9.0)) is None
    assert chunk_ratio(np.array([NAN, 1.0, 2.0]), np.array([1.0, NAN, 2.0])) is None


# --- the order of the rows -----------------------------------------------------------------------


@pytest.mark.parametrize("records", [True, False])
def test_the_newest_row_may_come_first(records):
    columns = {"Date_Time": WALL[::-1], "Test_Time(s)": SECONDS[::-1],
               "Voltage(V)": VOLTAGE[::-1]}  # fmt: skip
    if records:
        columns["Record"] = np.arange(N, 0, -1)
    how, found = told(columns)
    assert how.order == ("record" if records else "reversed")
    assert how.in_order and how.disagreements == ()
    assert cell.times(found) == WALL[::-1]


def test_record_numbers_show_the_order_of_a_shuffled_file():
    mixed = np.random.default_rng(1).permutation(N)
    how, found = told({"Record": mixed + 1, "Date_Time": [WALL[at] for at in mixed],
                       "TestTime": SECONDS[mixed] / 60, "Voltage(V)": VOLTAGE[mixed]})  # fmt: skip
    assert (how.order, how.disagreements) == ("record", ())
    assert cell.numbers(found, "test_time_s").tolist() == pytest.approx(SECONDS[mixed].tolist())


def test_record_numbers_that_restart_say_nothing_of_the_order():
    how, _ = told({"Record": np.arange(N) % 100 + 1, "Date_Time": WALL, "Test_Time(s)": SECONDS})
    assert how.order == "file"


def test_rows_are_put_in_order_equipment_by_equipment():
    groups = np.array([1, 0, 1, 0])
    assert [part.tolist() for part in measured_order("file", groups, None)] == [
        [1, 3, 0, 2], [True, False, True, False]
    ]  # fmt: skip
    assert measured_order("reversed", groups, None)[0].tolist() == [3, 1, 2, 0]
    assert measured_order("record", groups, np.array([2.0, 9, 1, 8]))[0].tolist() == [3, 1, 2, 0]
    assert measured_order("record", groups, None)[0].tolist() == [1, 3, 0, 2]


def test_what_passed_by_the_tests_clock_or_the_steps():
    first = np.array([True, False, False, True, False])
    elapsed = np.array([0.0, 10.0, 5.0, 100.0, 110.0])
    np.testing.assert_equal(passing(first, elapsed, None), [NAN, 10.0, -5.0, NAN, 10.0])
    np.testing.assert_equal(passing(first, None, elapsed), [NAN, 10.0, 5.0, NAN, 10.0])
    assert passing(first, None, None) is None


def test_record_numbers_run_on_if_they_rise_with_every_row_of_an_equipment():
    perm, first = np.arange(4), np.array([True, False, True, False])
    assert runs_on(np.array([5.0, 6, 1, 2]), perm, first).tolist() == [True] * 3
    # Once or twice they may fall: a block of rows is there again.
    assert runs_on(np.array([5.0, 6, 2, 2]), perm, first).tolist() == [True, True, False]
    one = np.array([True, *[False] * 7])
    assert runs_on(np.array([5.0, 4, 5, 4, 5, 4, 5, 6]), np.arange(8), one) is None
    assert runs_on(None, perm, first) is None
    assert runs_on(np.array([1.0]), perm[:1], first[:1]) is None


# --- a clock that was set back -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wall", "passed", "numbered", "back"),
    [
        ([30, -3570, 30], [30, 30, 30], False, [False, True, False]),  # the test's clock ran on
        ([30, -3570, 30], [30, -60, 30], False, [False] * 3),  # another test begins
        ([30, -500, 30], None, True, [False, True, False]),  # record numbers ran on
        ([30, -500, 30], None, False, [False] * 3),  # simply not sorted
        ([30, -3570, 30], None, False, [False, True, False]),  # the end of summer time
        ([30, -3570, -500, 30], None, False, [False] * 4),  # nor sorted
        ([30, -1, 30], [30, 30, 30], False, [False] * 3),  # whole seconds
        ([30, -3570, NAN], [30, 30, NAN], False, [False, True, False]),
        ([30, -200_000, 30], [30, 30, 30], False, [False] * 3),  # by days: an older file behind
        ([-3600, -3600], None, False, [True, True]),
        ([], None, True, []),
    ],
)  # fmt: skip
def test_where_a_clock_was_set_back(wall, passed, numbered, back):
    given_passed = None if passed is None else np.array(passed, dtype=float)
    up = np.ones(len(wall), dtype=bool) if numbered else None
    assert set_back(np.array(wall, dtype=float), given_passed, up).tolist() == back


def test_a_record_number_that_falls_with_the_clock_is_a_row_that_is_there_again():
    up = np.array([True, False, True])
    assert not set_back(np.array([30.0, -500.0, 30.0]), None, up).any()


def test_a_clock_that_goes_back_all_the_time_is_not_set_back():
    wall = np.tile([30.0, -20.0], 150)
    assert not set_back(wall, np.full(300, 30.0), np.ones(300, dtype=bool)).any()


def witnesses_of_order():
    return {
        "test clock": {"Test_Time(s)": SECONDS},
        "step clock": {"Step_Time(s)": STEP_S, "Step": STEP},
        "record number": {"Record": np.arange(1, N + 1)},
        "nothing": {},
    }


@pytest.mark.parametrize("by", witnesses_of_order())
@pytest.mark.parametrize("forth", [True, False])
def test_a_clock_set_back_is_put_right_and_flagged(by, forth):
    hour = dt.timedelta(hours=1)
    end = 300 if forth else N
    wrong = [time - hour if 150 <= at < end else time for at, time in enumerate(WALL)]
    how, found = told({"Date_Time": wrong, **witnesses_of_order()[by]})
    assert how.disagreements == ("clock_disagrees",) and how.in_order
    times = cell.times(found)
    assert times == WALL
    assert np.flatnonzero(found.flags).tolist() == list(range(150, end))


def test_two_cells_of_one_table_never_share_a_clock():
    """The second one began an hour before the first one ended: nothing was set back."""
    earlier = [time - dt.timedelta(hours=1) for time in WALL[: N // 2]]
    half = [int(s) for s in SECONDS[: N // 2]]
    columns = {"Cell_ID": ["a"] * (N // 2) + ["b"] * (N // 2), "Test_Time(s)": [*half, *half],
               "Date_Time": [*WALL[: N // 2], *earlier]}  # fmt: skip
    how, found = told(columns)
    assert how.disagreements == () and not found.flags.any()
    assert cell.times(found) == columns["Date_Time"]


def test_a_clock_that_begins_again_with_the_next_cell_is_the_tests():
    half = N // 2
    how, found = told({"Cell_ID": ["a"] * half + ["b"] * half, "Date_Time": WALL,
                       "Time": [*SECONDS[:half], *SECONDS[:half]],
                       "Step": [1] * half + [2] * half})  # fmt: skip
    assert (used(how, "test_time_s"), used(how, "step_time_s")) == ("Time", None)
    assert cell.numbers(found, "test_time_s").tolist() == [*SECONDS[:half], *SECONDS[:half]]


def test_a_clock_set_back_behind_the_rows_that_decided_is_flagged():
    seconds = np.arange(100) * 60.0
    wall = seconds - np.where(np.arange(100) >= 80, 3600.0, 0.0)
    table = pa.table(
        {
            "Date_Time": pa.array((wall * 1e6).astype(np.int64) + 1_700_000_000_000_000).cast(
                pa.timestamp("us")
            ),
            "Test_Time(s)": seconds,
            "Current(A)": np.ones(100),
            "Voltage(V)": np.linspace(3.0, 4.0, 100),
        }
    )
    how = decide(table.slice(0, 70))
    assert not how.in_order and not how.disagreements
    flags = fields(table, how, ZoneInfo("UTC")).flags
    assert np.flatnonzero(flags & FLAG["clock_disagrees"]).tolist() == [80]


def test_a_clock_by_any_name_counts_before_the_files_modification_time():
    table = pa.table(
        {
            "Zeitpunkt der Messung": [f"2024-03-01 09:{minute:02d}:00" for minute in range(30)],
            "Made": ["2020-01-01"] * 30,
            "Voltage(V)": np.linspace(3.0, 4.0, 30),
            "Current(A)": np.ones(30),
        }
    )
    how = decide(table)
    assert how.use_of("recorded_at").column == "Zeitpunkt der Messung"
    assert "time_assumed" not in how.disagreements


def test_a_date_that_stands_still_is_no_clock():
    table = pa.table(
        {"Made": ["2020-01-01"] * 30, "Voltage(V)": np.ones(30), "Current(A)": np.ones(30)}
    )
    assert decide(table).use_of("recorded_at") is None
