"""Cycles that end in the step which puts readings in order: live, bounded, and over a restart."""

from __future__ import annotations

from typing import Any

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.direct.direct_runner import BundleBasedDirectRunner
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing import test_stream
from apache_beam.transforms.window import TimestampedValue

from tests.messages import PROFILES, SECOND, limits
from tests.transforms.recorder import Record, recording
from tests.transforms.test_order import CLOCK, WINDOW_US, moment, named
from tests.transforms.test_sequence import table_of
from transforms.batch import TableCoder
from transforms.cycles.ended import OpenCycles
from transforms.cycles.memory import Change, Kept, heads_of, heads_table, together
from transforms.order import Order
from transforms.sequence import sequence

# A cycle of 20 readings, ten seconds apart: ten up, ten down.
PERIOD, EVERY_S = 20, 10


def reading(at: int, **more: Any) -> dict[str, Any]:
    up = at % PERIOD < PERIOD // 2
    fields = {"cycle_index": at // PERIOD + 1, "step_index": 1 if up else 2} | more
    return named(at, at * EVERY_S, current_a=1.0 if up else -1.0, **fields)


def played(
    batches: list[list[dict[str, Any]]], live: bool, kept: Kept | None = None
) -> tuple[list[dict[str, Any]], list[pa.Table]]:
    """The rows of ended cycles, and what is to be remembered of the others."""
    stream = test_stream.TestStream(coder=TableCoder()).advance_watermark_to(moment(0))
    tables = [table_of(batch) for batch in batches]
    for batch, table in zip(batches, tables, strict=True):
        first = min(each["seconds"] for each in batch)
        last = max(each["seconds"] for each in batch)
        stream = stream.add_elements([TimestampedValue(table, moment(first))])
        stream = stream.advance_watermark_to(moment(last + 1))
    with recording("cycles") as found, recording("open") as opened:
        pipeline = beam.Pipeline(
            runner=BundleBasedDirectRunner() if live else FnApiRunner(),
            options=PipelineOptions(streaming=live),
        )
        ending = stream.advance_watermark_to_infinity()
        given = {"valid": pipeline | "Valid" >> (ending if live else beam.Create(tables))}
        if kept is not None:
            given["open_cycles"] = pipeline | "Kept" >> beam.Create([kept])
        out = given | Order(PROFILES, WINDOW_US, 300 * SECOND, 2, clock=CLOCK, cycles=True)
        _ = out.cycles | "C" >> beam.ParDo(Record("cycles"))
        _ = (
            out.open_cycles
            | "Heads" >> beam.Map(lambda pair: _told(pair[1]))
            | beam.ParDo(Record("open"))
        )
        pipeline.run().wait_until_finish()
    rows = [row for table in found for row in table.to_pylist()]
    return sorted(rows, key=lambda row: (row["cycle_number"], row["version"])), list(opened)


def _told(change: Change) -> pa.Table:
    return change.heads.table


def numbers(rows: list[dict[str, Any]]) -> list[tuple[int, int, int, bool]]:
    return [(row["cycle_index"], row["version"], row["readings"], row["is_ended"]) for row in rows]


def test_bounded_input_gives_all_cycles_and_the_one_that_goes_on() -> None:
    rows, _ = played([[reading(at) for at in range(50)]], live=False)
    assert numbers(rows) == [(1, 1, 20, True), (2, 1, 20, True), (3, 1, 10, False)]
    assert all(row["is_whole"] for row in rows)


def test_a_live_cycle_is_given_when_the_next_one_begins() -> None:
    batches = [[reading(at) for at in range(start, start + 5)] for start in range(0, 50, 5)]
    rows, heads = played(batches, live=True)
    assert numbers(rows) == [(1, 1, 20, True), (2, 1, 20, True)]
    bounded, _ = played([[reading(at) for at in range(50)]], live=False)
    for one, other in zip(rows, bounded, strict=False):
        assert one["version_id"] == other["version_id"]
        assert one["charge_ah"] == pytest.approx(other["charge_ah"], rel=1e-12)
    (head,) = heads_of(heads[-1]).values()
    assert head.cycle == 3.0
    # Within the allowed lateness both can still be corrected.
    assert [each.cycle for each in head.emitted] == [1, 2]


def test_a_late_reading_makes_another_version() -> None:
    batches = [[reading(at) for at in range(start, start + 5)] for start in range(0, 30, 5)]
    missing = batches[2].pop(3)
    rows, _ = played([*batches, [missing, reading(30)]], live=True)
    assert numbers(rows) == [(1, 1, 19, True), (1, 2, 20, True)]
    assert rows[0]["cycle_id"] == rows[1]["cycle_id"]


def test_a_run_goes_on_with_what_the_last_one_kept() -> None:

    cells = OpenCycles(PROFILES, 0, bounded=True)
    first = sequence(table_of([reading(at) for at in range(30)]), None, limits())
    cells.feed(first.table, 0)
    kept = together([(heads_table(cells.heads), cells.pieces)])
    assert kept is not None
    rows, heads = played([[reading(at) for at in range(30, 45)]], live=True, kept=kept)
    assert numbers(rows) == [(2, 1, 20, True)]
    assert heads_of(heads[0])


def test_bounded_runs_go_on_with_each_others_cycles() -> None:
    cells = OpenCycles(PROFILES, 0, bounded=True)
    first = sequence(table_of([reading(at) for at in range(30)]), None, limits())
    cells.feed(first.table, 0)
    cells.look(None, 0, final=True)
    kept = together([(heads_table(cells.heads), cells.pieces)])
    assert kept is not None
    rows, _ = played([[reading(at) for at in range(30, 45)]], live=False, kept=kept)
    # The second cycle was given before, as one that had not ended.
    assert numbers(rows) == [(2, 2, 20, True), (3, 1, 5, False)]
