"""What Cassandra's writer makes of copies and versions, before anything is asked or written."""

from __future__ import annotations

import datetime as dt

import pyarrow as pa
import pytest

from pipeline import account
from pipeline.sinks.cassandra.versions import Sorted, sorted_out
from pipeline.sinks.cassandra.write import Figures
from schemas.forms import arrow_schema
from schemas.reading import READING
from tests.messages import START


def at(hours: float) -> dt.datetime:
    return START + dt.timedelta(hours=hours)


def found(
    *rows: tuple[str, int, float], stored: tuple[int | None, str, float] | None = None
) -> Sorted:
    """Rows of one reading (file, content, hours of arrival) beside the one that is there."""
    given = [
        {
            **dict.fromkeys(READING.names), "reading_id": "r", "content_id": content,
            "source_file": file, "ingested_at": at(hours),
        }
        for file, content, hours in rows
    ]  # fmt: skip
    schema = pa.schema([field.with_nullable(True) for field in arrow_schema(READING)])
    there = {} if stored is None else {"r": (stored[0], stored[1], at(stored[2]))}
    return sorted_out(pa.Table.from_pylist(given, schema=schema), there)


def test_a_copy_that_arrived_later_is_not_written_over_the_one_that_is_there() -> None:
    for rows in ([("a.csv", 1, 5)], [("a.csv", 1, 5), ("c.csv", 1, 7)]):
        assert found(*rows, stored=(1, "b.csv", 1)) == ({}, set(), {}, len(rows))
    # It may be half written; what arrived earlier is when the version did.
    assert found(("b.csv", 1, 1), stored=(1, "b.csv", 1)).again == {"r": 0}
    assert found(("b.csv", 1, 1), ("a.csv", 1, 0), stored=(1, "b.csv", 2)).again == {"r": 1}


def test_a_version_arrived_when_its_first_copy_did() -> None:
    for rows in ([("a.csv", 1, 5), ("b.csv", 1, 1)], [("b.csv", 1, 1), ("a.csv", 1, 5)]):
        sorted_rows = found(*rows, ("c.csv", 2, 3))
        assert sorted_rows.versions["r"][1][1:] == ("b.csv", at(1))
        assert (sorted_rows.contested, sorted_rows.copies) == ({"r"}, 1)
    there = found(("b.csv", 1, 1), ("c.csv", 2, 3), stored=(1, "a.csv", 5))
    assert there.versions["r"][1] == (-1, "a.csv", at(1))


@pytest.mark.parametrize("turned", [False, True])
def test_where_the_stored_content_is_unknown_one_version_is_written(turned: bool) -> None:
    rows = [("a.csv", 1, 1), ("b.csv", 2, 3)]
    sorted_rows = found(*(reversed(rows) if turned else rows), stored=(None, "a.csv", 1))
    assert sorted_rows.again == {"r": 0 if turned else 1}
    assert (sorted_rows.versions, sorted_rows.copies) == ({}, 1)


def test_corrections_are_counted_under_the_sink_s_label() -> None:
    names = {Figures(READING, label).corrected.metric_name.name for label in ("Cassandra2", "")}
    assert names == {"Cassandra2", "Cassandra"}
    assert Figures(READING, "x").corrected.metric_name.namespace == account.CORRECTED
