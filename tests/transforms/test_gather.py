"""Gathering: few large tables, the same ones from the same pieces, and none that waits for ever."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

import apache_beam as beam
import pyarrow as pa
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
from apache_beam.runners.direct.direct_runner import BundleBasedDirectRunner
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.test_stream import TestStream as Played
from hypothesis import given
from hypothesis import strategies as st

from tests.transforms.recorder import Record, recording
from transforms.batch import PackedBatch
from transforms.gather import Gather, Piece, cut

WAIT_S = 100.0


def piece(rank: int, rows: int = 1, size: int | None = None) -> Piece:
    """One whose rows all hold its rank."""
    table = pa.table({"n": pa.array([rank] * rows, pa.int64())})
    return f"{rank:04}", rows if size is None else size, PackedBatch(table)


def told(table: pa.Table) -> list[int]:
    found: list[int] = table.column("n").to_pylist()
    return found


def gathered(pieces: beam.PCollection, most_bytes: int, clock: float = 0.0) -> beam.PCollection:
    typed = pieces | "Typed" >> beam.Map(lambda each: each).with_output_types(tuple[str, Piece])
    return typed | Gather(most_bytes, WAIT_S, lambda: clock)


def of_bounded(pieces: Sequence[tuple[str, Piece]], most_bytes: int) -> list[list[int]]:
    with recording("gather") as found:
        with beam.Pipeline(FnApiRunner()) as pipeline:
            made = pipeline | beam.Create(pieces, reshuffle=False)
            _ = gathered(made, most_bytes) | beam.ParDo(Record("gather"))
        return sorted(map(told, found))


def of_live(stream: Played, most_bytes: int, clock: float = 0.0) -> list[list[int]]:
    """In the order in which they came."""
    options = PipelineOptions([])
    options.view_as(StandardOptions).streaming = True
    with recording("gather") as found:
        with beam.Pipeline(BundleBasedDirectRunner(), options=options) as pipeline:
            made = pipeline | stream
            _ = gathered(made, most_bytes, clock) | beam.ParDo(Record("gather"))
        return list(map(told, found))


# --- bounded ------------------------------------------------------------------------------------


def test_pieces_of_a_key_come_together_in_the_order_of_their_ranks() -> None:
    pieces = [("a", piece(2)), ("b", piece(3)), ("a", piece(1, rows=2)), ("b", piece(0))]
    assert of_bounded(pieces, 100) == [[0, 3], [1, 1, 2]]


def test_a_table_has_its_size_at_most() -> None:
    pieces = [("a", piece(n, rows=3)) for n in range(4)]
    assert of_bounded(pieces, 6) == [[0] * 3 + [1] * 3, [2] * 3 + [3] * 3]
    assert of_bounded(pieces, 8) == [[0] * 3 + [1] * 3, [2] * 3 + [3] * 3]
    assert of_bounded(pieces, 9) == [[0] * 3 + [1] * 3 + [2] * 3, [3] * 3]


def test_a_piece_that_is_too_large_stays_whole() -> None:
    pieces = [("a", piece(1, rows=2)), ("a", piece(2, rows=20)), ("a", piece(3, rows=2))]
    assert of_bounded(pieces, 5) == [[1] * 2, [2] * 20, [3] * 2]


def test_nothing_gives_nothing() -> None:
    assert of_bounded([], 10) == [] and list(cut([], 10)) == []


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 12)), unique_by=lambda each: each[0]),
    st.integers(1, 20),
    st.randoms(),
)
def test_the_same_pieces_in_any_order_give_the_same_tables(
    made: list[tuple[int, int]], most_bytes: int, chance: random.Random
) -> None:
    pieces = [piece(rank, rows=1, size=size) for rank, size in made]
    first = [told(table) for table in cut(pieces, most_bytes)]
    chance.shuffle(pieces)
    assert [told(table) for table in cut(pieces, most_bytes)] == first
    assert [n for each in first for n in each] == sorted(rank for rank, _ in made)
    sizes = dict(made)
    assert all(len(each) == 1 or sum(sizes[n] for n in each) <= most_bytes for each in first)


# --- live ---------------------------------------------------------------------------------------


def stream(*steps: Iterable[tuple[str, Piece]] | float) -> Played:
    """Elements, and seconds that pass."""
    made = Played()
    for step in steps:
        if isinstance(step, float):
            made = made.advance_processing_time(step)
        else:
            made = made.add_elements(list(step))
    return made.advance_watermark_to_infinity()


def test_what_is_enough_goes_on_at_once() -> None:
    first = [("a", piece(n, rows=4)) for n in range(3)]
    assert of_live(stream(first), 10) == [[0] * 4 + [1] * 4, [2] * 4]
    assert of_live(stream(first), 8) == [[0] * 4 + [1] * 4, [2] * 4]
    assert of_live(stream([("a", piece(0, rows=30))]), 8) == [[0] * 30]


def test_what_has_waited_goes_on() -> None:
    steps = stream([("a", piece(0))], 60.0, [("a", piece(1))], 60.0, [("a", piece(2))], 10.0)
    assert of_live(steps, 100) == [[0, 1], [2]]


def test_the_wait_begins_anew_with_the_next_piece() -> None:
    steps = stream(
        [("a", piece(0)), ("b", piece(5))], 100.0, [("a", piece(1))], 99.0, [("a", piece(2))], 1.0
    )
    found = of_live(steps, 100)
    # Of two keys that are due together any may be first.
    assert sorted(found[:2]) == [[0], [5]] and found[2] in ([1, 2], [1])
    assert sorted(n for each in found for n in each) == [0, 1, 2, 5]


def test_the_end_has_all_that_waits() -> None:
    assert sorted(of_live(stream([("a", piece(1)), ("b", piece(2)), ("a", piece(0))]), 100)) == [
        [0, 1], [2]
    ]  # fmt: skip
    assert of_live(stream([]), 100) == []


def test_a_piece_without_size_is_not_forgotten() -> None:
    steps = stream([("a", piece(0, size=0))], 100.0, [("a", piece(1, size=0))])
    assert of_live(steps, 100) == [[0], [1]]
