"""Where reading goes on when a log has not what was asked, and what is written down of what was read."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pipeline.sources.live.offsets import (
    COMPACTION,
    CONTROL,
    MISSING,
    RETENTION,
    TRUNCATED,
    Gap,
    Span,
    before,
    gap,
    merged,
    placed,
    replaced,
    told,
    why_compacted,
)
from pipeline.sources.live.positions import EVERY_S, Ledger, Run, joined, table
from tests.properties import use_profile

use_profile()

RUN = Run("run-1", "kafka://b/cells", "cells")
OFFSETS = st.integers(0, 10**6)


@given(OFFSETS, OFFSETS, OFFSETS)
def test_reading_goes_on_within_the_log_and_passes_nothing_in_silence(
    asked: int, one: int, other: int
) -> None:
    first, end = sorted((one, other))
    where = placed(asked, first, end)
    assert first <= where.at <= end
    if where.gap is None:
        assert where.at == asked
    elif where.gap.reason == RETENTION:
        assert (where.gap.first, where.gap.last + 1, where.at) == (asked, first, first)
        assert where.gap.offsets == first - asked
    else:
        assert where.gap.reason == TRUNCATED and asked > end and where.at == first


def test_another_log_is_read_from_its_start_whatever_offsets_it_has() -> None:
    assert replaced(30, 5) == (5, Gap(0, 29, 0, TRUNCATED))
    assert replaced(0, 0) == (0, None)


def test_a_loss_is_told_with_topic_partition_and_offsets() -> None:
    lost = placed(10, 70, 100).gap
    assert lost is not None
    assert told("cells", 3, lost).startswith("topic cells, partition 3: offsets 10 to 69 (60) were")
    lost = placed(1000, 0, 50).gap
    assert lost is not None
    assert told("cells", 3, lost).startswith("topic cells, partition 3: offset 1,000 was to be")


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), max_size=20), st.integers(0, 200))
def test_what_lies_before_an_offset_is_cut_exactly(steps: list[Any], stop: int) -> None:
    at, gaps = 0, []
    for space, size in steps:
        gaps.append(gap(at + space, at + space + size - 1, CONTROL))
        at += space + size
    covered = {offset for each in gaps for offset in range(each.first, each.last + 1)}
    cut = before(gaps, stop)
    assert sum(each.offsets for each in cut) == len({each for each in covered if each < stop})
    assert sum(each.offsets for each in merged(gaps)) == len(covered)


def test_gaps_of_a_topic_that_is_not_compacted_are_missing() -> None:
    gaps = [gap(1, 2, COMPACTION), gap(3, 3, CONTROL)]
    assert [each.reason for each in why_compacted(gaps, False)] == [MISSING, CONTROL]
    for known in (True, None):
        assert why_compacted(gaps, known) == gaps


class Clock:
    """A clock that goes when it is told to."""

    def __init__(self) -> None:
        self.at_s = 0.0

    def __call__(self) -> float:
        return self.at_s


def rows(ledger: Ledger, end: bool = False) -> list[tuple[Any, ...]]:
    due = ledger.due(end)
    if due is None:
        return []
    assert due.positions is not None and not due.table.num_rows
    names = ("partition_number", "first_offset", "last_offset", "messages_read", "reason")
    return [tuple(row[name] for name in names) for row in due.positions.to_pylist()]


def test_what_follows_one_another_is_one_row_written_every_few_minutes_and_at_the_end() -> None:
    clock = Clock()
    ledger = Ledger(RUN, clock)
    ledger.took({0: Span(5, 10, 5), 1: Span(0, 3, 2, [gap(1, 1, CONTROL)])})
    ledger.took({0: Span(10, 12, 2)})
    assert rows(ledger) == []
    clock.at_s = EVERY_S
    assert rows(ledger) == [(0, 5, 11, 7, None), (1, 0, 2, 2, None), (1, 1, 1, 0, CONTROL)]
    ledger.took({0: Span(12, 13, 1)})
    assert rows(ledger) == [] and rows(ledger, end=True) == [(0, 12, 12, 1, None)]
    assert rows(ledger, end=True) == []


def test_a_loss_is_written_down_at_once() -> None:
    ledger = Ledger(RUN, Clock())
    ledger.gap(0, gap(3, 9, CONTROL))
    assert rows(ledger) == []
    ledger.gap(0, gap(10, 19, RETENTION))
    assert rows(ledger) == [(0, 3, 9, 0, CONTROL), (0, 10, 19, 0, RETENTION)]


def test_offsets_of_another_log_are_rows_of_their_own() -> None:
    ledger = Ledger(RUN, Clock())
    ledger.took({0: Span(0, 10, 10, log="a")})
    ledger.took({0: Span(0, 4, 4, log="b")})
    due = ledger.due(end=True)
    assert due is not None and due.positions is not None
    found = due.positions.to_pylist()
    assert [(row["log_id"], row["messages_read"]) for row in found] == [("a", 10), ("b", 4)]
    assert len({row["position_id"] for row in found}) == 2


def test_messages_without_offsets_are_counted() -> None:
    ledger = Ledger(RUN, Clock())
    ledger.took({0: ["key", "key"]})
    ledger.took({0: ["key"]})
    assert rows(ledger, end=True) == [(None, 0, 2, 3, None)]
    ledger.took({0: ["key"]})
    assert rows(ledger, end=True) == [(None, 3, 3, 1, None)]


def test_rows_that_come_with_every_batch_are_brought_together() -> None:
    parts = [(0, 10, 9), (10, 20, 10), (25, 30, 5)]
    spans = [row for a, b, n in parts for row in RUN.of_span(0, Span(a, b, n), 1)]
    # A bundle that was done again changes nothing, and neither does their order.
    for order in (spans, spans[::-1], [*spans, *spans]):
        found = [
            (row["first_offset"], row["last_offset"], row["messages_read"]) for row in joined(order)
        ]
        assert found == [(0, 19, 19), (25, 29, 5)]
    assert table(joined(spans)).num_rows == 2
