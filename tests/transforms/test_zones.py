"""Hours that a time zone skips and hours that it has twice: no reading is lost in either."""

from __future__ import annotations

import copy
import datetime as dt
import itertools
import json
import pickle
from dataclasses import replace
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pytest

from schemas.forms import flag_names
from tests.messages import rows
from transforms.batch import MESSAGES, BatchKind, Origin, RawBatch
from transforms.decode import decode
from transforms.interpret.decide import decide
from transforms.zones import Gap, gap_of, in_zone, with_gap, zone_of

BERLIN = ZoneInfo("Europe/Berlin")


def day(text: str) -> dt.datetime:
    """Midnight of a day, without a zone."""
    return dt.datetime.fromisoformat(text)


SPRING, AUTUMN = day("2025-03-30"), day("2025-10-26")
MINUTE = dt.timedelta(minutes=1)


def minutes(start: dt.datetime, end: dt.datetime) -> list[dt.datetime]:
    return [start + MINUTE * number for number in range((end - start) // MINUTE)]


def placed(times: list[dt.datetime], zone: ZoneInfo) -> list[str | None]:
    found = in_zone(pa.array(times, pa.timestamp("us")), zone).array.to_pylist()
    return [None if time is None else time.isoformat(timespec="auto")[11:-6] for time in found]


AROUND = [SPRING + dt.timedelta(hours=hours) for hours in (1.5, 2.5, 3.5)]


@pytest.mark.parametrize(
    ("gap", "wanted"),
    [
        (Gap.AUTO, ["00:30:00", "01:30:00.000001", "01:30:00"]),
        (Gap.SHIFT, ["00:30:00", "01:30:00.000001", "01:30:00"]),
        (Gap.STANDARD, ["00:30:00", "01:30:00", "02:30:00"]),
        (Gap.REJECT, ["00:30:00", None, "01:30:00"]),
    ],
)
def test_a_skipped_hour_is_what_was_asked_for(gap: Gap, wanted: list[str | None]) -> None:
    assert placed(AROUND, with_gap(BERLIN, gap)) == wanted


@pytest.mark.parametrize("gap", [Gap.AUTO, Gap.SHIFT, Gap.STANDARD])
@pytest.mark.parametrize(
    ("zone", "date"),
    [
        ("Europe/Berlin", SPRING),
        ("America/New_York", day("2025-03-09")),
        ("Australia/Lord_Howe", day("2025-10-05")),  # by half an hour
        ("Pacific/Apia", day("2011-12-30")),  # a whole day
    ],
)
def test_distinct_local_times_are_distinct_moments(gap: Gap, zone: str, date: dt.datetime) -> None:
    if (gap, zone) == (Gap.STANDARD, "Pacific/Apia"):
        pytest.skip("there it was standard time itself that skipped a day")
    times = minutes(date - dt.timedelta(hours=1), date + dt.timedelta(hours=26))
    found = in_zone(pa.array(times, pa.timestamp("us")), with_gap(ZoneInfo(zone), gap)).array
    assert len(found.unique()) == len(times) and not found.null_count


def test_standard_time_is_that_of_every_season_and_half_of_the_earth() -> None:
    summer, winter = day("2025-07-01 12:00"), day("2025-01-01 12:00")
    for zone, utc in (("Europe/Berlin", "11:00:00"), ("Australia/Adelaide", "02:30:00")):
        assert placed([summer, winter], zone_of(f"{zone};standard")) == [utc, utc]


def test_standard_time_is_winter_s_where_the_law_calls_summer_s_so() -> None:
    times = [day("2025-01-01 12:00"), day("2025-03-30 12:00"), day("2025-07-01 12:00")]
    assert placed(times, zone_of("Europe/Dublin;standard")) == ["12:00:00"] * 3
    # In Morocco clocks go back for Ramadan only, March of that year.
    ramadan = [day("2025-01-01 12:00"), day("2025-03-15 12:00"), day("2025-07-01 12:00")]
    assert placed(ramadan, zone_of("Africa/Casablanca;standard")) == ["11:00:00"] * 3


@pytest.mark.parametrize("gap", list(Gap))
def test_what_is_made_of_the_gap_goes_with_the_zone_to_other_processes(gap: Gap) -> None:
    zone = with_gap(BERLIN, gap)
    for other in (pickle.loads(pickle.dumps(zone)), copy.deepcopy(zone)):
        assert (other.key, gap_of(other)) == (zone.key, gap)


def test_nothing_else_is_touched_and_nulls_stay() -> None:
    times = [day("2025-07-01 12:00"), None, SPRING + dt.timedelta(hours=2.5)]
    found = in_zone(pa.array(times, pa.timestamp("s")), BERLIN)
    assert [time is None for time in found.array.to_pylist()] == [False, True, False]
    assert found.doubtful is not None and found.doubtful.tolist() == [False, False, True]
    assert in_zone(pa.array(times[:2], pa.timestamp("us")), BERLIN).doubtful is None


def test_a_zone_s_name_may_say_what_is_made_of_the_gap() -> None:
    assert zone_of("Europe/Berlin") is ZoneInfo("Europe/Berlin")
    with pytest.raises(ValueError, match="sideways"):
        zone_of("Europe/Berlin;sideways")


# --- files -----------------------------------------------------------------------------------


def file_of(times: list[dt.datetime], seconds: list[float] | None = None) -> RawBatch:
    """A cell at rest, logged by a clock on the wall and, where given, the test's."""
    columns: dict[str, list[object]] = {
        "Date_Time": [time.isoformat(" ") for time in times],
        "Voltage(V)": [3.65] * len(times),
        "Current(A)": [0.0] * len(times),
    }
    if seconds is not None:
        columns["Test_Time(s)"] = list(seconds)
    return rows(columns)


def read(batch: RawBatch, zone: str = "Europe/Berlin") -> tuple[list[dt.datetime], list[set[str]]]:
    """Event times in the file's order, and flags."""
    how = decide(batch.table, None, zone_of(zone))
    decoded, refused = decode(replace(batch, origin=replace(batch.origin, reading=how)), zone)
    assert not refused.rows
    table = decoded.table
    flags = [set(flag_names(mask)) for mask in table.column("flags").to_pylist()]
    return table.column("recorded_at").to_pylist(), flags


def steps(times: list[dt.datetime]) -> set[float]:
    return {(after - before).total_seconds() for before, after in itertools.pairwise(times)}


@pytest.mark.parametrize("clock", [True, False])
def test_a_logger_on_standard_time_all_year_is_found_out_in_spring(clock: bool) -> None:
    times = minutes(
        SPRING + dt.timedelta(hours=1, minutes=50), SPRING + dt.timedelta(hours=3, minutes=10)
    )
    batch = file_of(times, [60.0 * row for row in range(len(times))] if clock else None)
    found, _ = read(batch)
    assert steps(found) == {60.0}
    assert found[0].hour == 0
    how = decide(batch.table, None, BERLIN)
    assert how.standard_time
    assert any("stays on standard time" in witness.text for witness in how.witnesses)


def test_the_test_s_clock_finds_it_out_without_a_reading_in_the_gap() -> None:
    times = [
        *minutes(SPRING + dt.timedelta(hours=1), SPRING + dt.timedelta(hours=2)),
        *minutes(SPRING + dt.timedelta(hours=3), SPRING + dt.timedelta(hours=4)),
    ]
    follows = [60.0 * row for row in range(120)]
    assert steps(read(file_of(times, follows))[0]) == {60.0}
    stays = [60.0 * (row + 60 * (row >= 60)) for row in range(120)]
    assert steps(read(file_of(times, stays))[0]) == {60.0, 3660.0}


def test_a_clock_that_is_set_an_hour_late_is_moved_on() -> None:
    times = [
        *minutes(SPRING + dt.timedelta(hours=1), SPRING + dt.timedelta(hours=2, minutes=30)),
        *minutes(SPRING + dt.timedelta(hours=3, minutes=30), SPRING + dt.timedelta(hours=5)),
    ]
    batch = file_of(times, [60.0 * row for row in range(len(times))])
    found, flags = read(batch)
    assert not decide(batch.table, None, BERLIN).standard_time
    assert max(abs(step - 60.0) for step in steps(found)) < 1e-5
    assert ["clock_disagrees" in names for names in flags] == [60 <= row < 90 for row in range(180)]


@pytest.mark.parametrize("clock", [True, False])
def test_in_autumn_the_order_of_the_rows_tells_the_hours_apart(clock: bool) -> None:
    once, again = dt.timedelta(hours=1), dt.timedelta(hours=2)
    times = [
        *minutes(AUTUMN + once, AUTUMN + 3 * once),
        *minutes(AUTUMN + again, AUTUMN + 4 * once),
    ]
    batch = file_of(times, [60.0 * row for row in range(len(times))] if clock else None)
    found, flags = read(batch)
    assert steps(found) == {60.0}
    assert len(set(found)) == len(times)
    assert "clock_disagrees" in flags[130]


def test_in_autumn_a_logger_on_standard_time_is_told_by_its_test_s_clock() -> None:
    times = minutes(AUTUMN + dt.timedelta(hours=1), AUTUMN + dt.timedelta(hours=5))
    batch = file_of(times, [60.0 * row for row in range(len(times))])
    assert steps(read(batch)[0]) == {60.0}


# --- messages --------------------------------------------------------------------------------


def messages(times: list[dt.datetime]) -> RawBatch:
    payloads = [
        json.dumps({"recorded_at": time.isoformat(), "voltage": 3.65, "current": 0.0}).encode()
        for time in times
    ]
    columns = {
        name: pa.nulls(len(times), kind)
        for name, kind in zip(MESSAGES.names, MESSAGES.types, strict=True)
    }
    columns["payload"] = pa.array(payloads, pa.binary())
    return RawBatch(
        pa.table(columns, schema=MESSAGES), BatchKind.MESSAGES, Origin("test", equipment_id="REST")
    )


def test_messages_of_the_skipped_hour_are_flagged_and_none_is_another_s_copy() -> None:
    times = minutes(
        SPRING + dt.timedelta(hours=1, minutes=50), SPRING + dt.timedelta(hours=3, minutes=10)
    )
    decoded, refused = decode(messages(times), "Europe/Berlin")
    assert not refused.rows
    found = decoded.table.column("recorded_at")
    assert len(found.unique()) == len(times)
    flagged = decoded.table.column("flags").to_numpy() != 0
    assert flagged.tolist() == [time.hour == 2 for time in times]
    # However they are cut to batches, they are the same readings.
    halves = [decode(messages(part), "Europe/Berlin")[0] for part in (times[:40], times[40:])]
    assert (
        pa.chunked_array(
            [chunk for half in halves for chunk in half.table.column("recorded_at").chunks]
        ).to_pylist()
        == found.to_pylist()
    )


def test_a_message_of_the_skipped_hour_can_be_refused() -> None:
    decoded, refused = decode(messages(AROUND), "Europe/Berlin;reject")
    assert decoded.table.num_rows == 2
    assert list(refused.rows) == [1]
    assert refused.rows[1][:2] == ("unparsable_time", "recorded_at")


def test_messages_of_a_logger_on_standard_time_keep_their_distance() -> None:
    times = minutes(SPRING + dt.timedelta(hours=1), SPRING + dt.timedelta(hours=5))
    decoded, _ = decode(messages(times), "Europe/Berlin;standard")
    micros = decoded.table.column("recorded_at").cast(pa.int64()).to_numpy()
    assert set(np.diff(micros)) == {60_000_000}
