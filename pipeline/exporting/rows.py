"""The readings of the chosen tests, test after test, each in order of time; memory is bounded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import duckdb
import pyarrow as pa

from pipeline.exporting.columns import boundaries
from pipeline.exporting.selection import FIELDS, ExportedTest, columns

_ROWS = 100_000
_TIMES = ("recorded_at", "streamed_at")


def of(
    database: duckdb.DuckDBPyConnection, tests: Sequence[ExportedTest]
) -> Iterator[tuple[int, pa.Table]]:
    """Tables of a test's readings, with the test's place in `tests`; tests in their order.

    Columns are the reading's; times are int64 µs since 1970. The database sorts, on its disk
    where there is more than fits into memory.
    """
    there = columns(database, "readings")
    chosen = pa.table(
        {
            "test_number": pa.array(range(len(tests)), pa.int64()),
            "chosen_equipment": pa.array([test.equipment_id for test in tests], pa.string()),
            "chosen_test": pa.array([test.test_id for test in tests], pa.string()),
        }
    )
    database.register("chosen_tests", chosen)
    fields = [name for name in FIELDS if name in there]
    values = [f"epoch_us({name}) AS {name}" if name in _TIMES else name for name in fields]
    order = ["test_number", "readings.recorded_at"]
    order += [
        name
        for name in ("test_time_s", "record_index", "source_row", "reading_id")
        if name in there
    ]
    # Not unregistered in the end: while the caller has not read everything, nothing else may run.
    reader = database.sql(
        f"SELECT test_number, {', '.join(values)} FROM readings "  # noqa: S608
        "JOIN chosen_tests ON equipment_id = chosen_equipment "
        "AND test_id IS NOT DISTINCT FROM chosen_test "
        "WHERE equipment_type = 'battery_cell' ORDER BY " + ", ".join(order)
    ).to_arrow_reader(_ROWS)
    for batch in reader:
        table = pa.Table.from_batches([batch])
        numbers = table.column("test_number").to_numpy()
        for number, start, end in boundaries(numbers):
            yield number, table.slice(start, end - start)
