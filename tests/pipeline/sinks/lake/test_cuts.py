"""Tables are cut by day in one pass, in the order of their rows."""

from __future__ import annotations

import time

import pyarrow as pa

from pipeline.sinks.lake.tables import by_day


def test_readings_of_many_days_are_cut_in_time_with_their_number() -> None:
    days = 20_000
    order = [(day * 7_919) % days for day in range(days)] * 2
    times = pa.array([day * 86_400_000_000 for day in order], pa.timestamp("us", tz="UTC"))
    table = pa.table({"recorded_at": times, "place": range(2 * days)})
    began = time.thread_time()
    parts = list(by_day(table, "recorded_at"))
    assert time.thread_time() - began < 3
    assert [day for day, _ in parts[:2]] == ["1970-01-01", "1970-01-02"] and len(parts) == days
    places = [part.column("place").to_pylist() for _, part in parts]
    assert all(first + days == second for first, second in places)  # in the order they came
    assert all(order[first] == day for day, (first, _) in enumerate(places))
    assert [part for _, part in by_day(table.slice(5, 1), "recorded_at")] == [table.slice(5, 1)]
    assert list(by_day(table.slice(0, 0), "recorded_at")) == []
