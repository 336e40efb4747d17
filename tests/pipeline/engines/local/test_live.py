"""A live source on the local runner: what has happened by the time it is asked again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.direct.direct_runner import BundleBasedDirectRunner
from apache_beam.runners.runner import PipelineState

from pipeline.clock import CLOCK, steady_us
from pipeline.engines.local import live, patches
from pipeline.engines.polling import NOTHING_WAITS, Polled, ReadLive
from pipeline.sources.live.watermark import NEVER
from tests.messages import PROFILES, SECOND, START_US
from tests.transforms.recorder import Record, recording
from tests.transforms.test_sequence import cell, table_of
from transforms.batch import BatchKind, Origin, RawBatch
from transforms.order import Order

WINDOW_US = 60 * SECOND


@pytest.fixture(autouse=True, scope="module")
def _installed() -> None:
    live.install()
    patches.install()


def moment(seconds: float) -> int:
    return START_US + round(seconds * SECOND)


def batch(*seconds: float, equipment_id: str = "c") -> RawBatch:
    readings = [
        cell(at, voltage_v=3.0 + at % 7 / 10, equipment_id=equipment_id) for at in seconds
    ]  # fmt: skip
    return RawBatch(table_of(readings), BatchKind.ROWS, Origin("test://live"))


@dataclass
class Script:
    """A source that gives what is written down, and notes what it finds whenever it is asked.

    Attributes:
        polls: what it gives, one poll after another; the last one should be done.
        look: what to note.
        waiting: per poll the earliest event time that waited before it.
        seen: per poll what `look` gave before it.
    """

    polls: list[Polled]
    look: Callable[[], Any] = lambda: None
    waiting: list[int] = field(default_factory=list)
    seen: list[Any] = field(default_factory=list)

    def settled(self, before_us: int) -> None:
        assert len(self.waiting) == len(self.seen)
        self.waiting.append(before_us)
        self.seen.append(self.look())

    def poll(self) -> Polled:
        assert len(self.waiting) == len(self.seen)
        return self.polls[len(self.waiting) - 1]


def new_pipeline() -> beam.Pipeline:
    return beam.Pipeline(
        runner=BundleBasedDirectRunner(), options=PipelineOptions(streaming=True)
    )  # fmt: skip


def ran(pipeline: beam.Pipeline) -> str:
    result = pipeline.run()
    result.wait_until_finish()
    return str(result.state)


def ordered(
    script: Script, shards: int = 1, longest_us: int = 3_600 * SECOND
) -> tuple[list[list[float]], str]:
    """The windows' event times, s after the start, in the order they were released."""
    with recording("live") as found:
        script.look = lambda: [times(table) for table in found]
        pipeline = new_pipeline()
        valid = (
            pipeline
            | ReadLive("scripted", script)
            | beam.Map(lambda raw: raw.table).with_output_types(pa.Table)
        )
        assert not valid.is_bounded
        order = Order(PROFILES, WINDOW_US, 300 * SECOND, shards, True, longest_us, CLOCK)
        _ = (valid | order).ordered | beam.ParDo(Record("live"))
        state = ran(pipeline)
        return [times(table) for table in found], state


def times(table: pa.Table) -> list[float]:
    micros = table.column("recorded_at").cast(pa.int64()).to_pylist()
    return [(time_us - START_US) / SECOND for time_us in micros]


def nothing(seconds: float) -> Polled:
    return Polled([], moment(seconds))


DONE = Polled([], moment(0), done=True)


# --- windows ------------------------------------------------------------------------------------


def test_windows_are_released_while_the_source_goes_on() -> None:
    script = Script(
        [
            Polled([batch(10, 20)], moment(20)),
            nothing(59),
            nothing(60),  # the first window is over
            nothing(60),
            Polled([batch(70), batch(130)], moment(119)),
            nothing(119),
            nothing(120),
            nothing(120),
            DONE,
        ]
    )
    found, state = ordered(script)
    assert found == [[10, 20], [70], [130]]
    assert state == PipelineState.DONE
    # A watermark is published with the poll after the one that gave it.
    assert [len(seen) for seen in script.seen] == [0, 0, 0, 0, 1, 1, 1, 1, 2]
    assert script.seen[4] == [[10, 20]]


def test_what_waits_is_released_when_the_source_is_done() -> None:
    for end in (
        [DONE],
        [Polled([batch(200)], moment(200), done=True)],
        [nothing(10), nothing(10), DONE],
    ):
        script = Script([Polled([batch(10, 70, 130)], moment(10)), *end])
        found, state = ordered(script)
        wanted = [10, 70, 130] + [200] * bool(end[0].batches)
        assert list(chain(*found)) == wanted and state == PipelineState.DONE
        assert len(script.waiting) == 1 + len(end)  # it is not asked again


def test_a_source_that_is_done_at_once_gives_nothing() -> None:
    assert ordered(Script([DONE])) == ([], PipelineState.DONE)


def test_what_is_behind_is_released_in_one_go() -> None:
    # Batches carry the watermark after them, so many windows need one release.
    script = Script(
        [Polled([batch(*range(0, 600, 20))], moment(599)), nothing(599), nothing(599), DONE]
    )
    found, _ = ordered(script)
    assert [len(part) for part in found] == [27, 3]
    assert [len(seen) for seen in script.seen] == [0, 0, 1, 1]


def test_shards_without_a_reading_release_what_is_due_too() -> None:
    readings = [batch(10, equipment_id=f"c{at}") for at in range(8)]
    script = Script([Polled(readings, moment(10)), nothing(60), nothing(60), nothing(60), DONE])
    found, _ = ordered(script, shards=4)
    assert len(script.seen[-1]) == len(found) > 1
    assert list(chain(*found)) == [10.0] * 8


# --- what the source is told --------------------------------------------------------------------


def test_it_is_told_since_when_the_oldest_waits() -> None:
    script = Script(
        [
            nothing(0),
            Polled([batch(40, 50), batch(30)], moment(0)),
            Polled([batch(70)], moment(60)),
            nothing(60),
            nothing(120),
            nothing(120),
            DONE,
        ]
    )
    began = steady_us()
    ordered(script)
    first, second = script.waiting[2], script.waiting[4]
    assert began < first < second < steady_us()
    assert script.waiting == [
        NOTHING_WAITS,
        NOTHING_WAITS,
        first,
        first,
        second,
        second,
        NOTHING_WAITS,
    ]


def test_the_oldest_of_all_shards_is_told() -> None:
    first = [batch(10 + at, equipment_id=f"c{at}") for at in range(8)]
    script = Script([Polled(first, moment(5)), nothing(5), DONE])
    began = steady_us()
    ordered(script, shards=4)
    assert script.waiting[0] == NOTHING_WAITS
    assert began < script.waiting[1] == script.waiting[2] < steady_us()


# --- what event time keeps waiting ---------------------------------------------------------------


class Slow(Script):
    """Between two polls some time passes."""

    def poll(self) -> Polled:
        time.sleep(0.2)
        return super().poll()


def test_readings_that_wait_too_long_are_written_whatever_event_time_does() -> None:
    # The watermark never gets to the end of their window.
    script = Slow([Polled([batch(10, 20)], moment(20)), *[nothing(20)] * 12, DONE])
    found, _ = ordered(script, longest_us=1 * SECOND)
    assert found == [[10, 20]]
    seen = [len(each) for each in script.seen]
    assert seen[2] == 0 and seen[-2] == 1  # while it ran, not at its end
    assert script.waiting[2] != NOTHING_WAITS and script.waiting[-1] == NOTHING_WAITS


def test_what_came_later_goes_on_waiting_for_its_window() -> None:
    script = Slow(
        [
            Polled([batch(200)], moment(20)),  # a clock that is ahead
            *[nothing(20)] * 4,
            Polled([batch(30)], moment(30)),
            nothing(30),
            nothing(30),
            nothing(60),
            nothing(60),
            nothing(60),
            Polled([batch(205)], moment(70)),
            DONE,
        ]
    )
    found, _ = ordered(script, longest_us=1 * SECOND)
    # 200 was given on alone, 30 with its window; 205 finds its place behind 200.
    assert found == [[200], [30], [205]]


def test_a_run_before_leaves_nothing_that_waits() -> None:
    ordered(Script([Polled([batch(10)], moment(10)), DONE]))
    script = Script([nothing(0), nothing(0), DONE])
    ordered(script)
    assert script.waiting == [NOTHING_WAITS] * 3


_gathered: list[int] = []
_written: list[int] = []


class Writes(beam.DoFn):
    """Gathers what a bundle gives and writes it at the bundle's end, as sinks do."""

    def start_bundle(self) -> None:
        _gathered.clear()

    def process(self, number: int) -> None:
        _gathered.append(number)

    def finish_bundle(self) -> None:
        time.sleep(0.01)  # as if to a disk
        _written.extend(_gathered)
        _gathered.clear()


class Numbers(beam.DoFn):
    """Gives on half of what it has at the end of its bundle, as steps that pack do."""

    def process(self, raw: RawBatch) -> Iterator[int]:
        self._number = int(raw.origin.first_row)
        yield 2 * self._number

    def finish_bundle(self) -> Iterator[Any]:
        yield beam.transforms.window.GlobalWindows.windowed_value(2 * self._number + 1)


def numbered(number: int) -> RawBatch:
    return RawBatch(pa.table({}), BatchKind.ROWS, Origin("test://live", first_row=number))


def test_every_step_s_bundle_is_over_when_it_is_asked_again() -> None:
    _written.clear()
    given = [[], [0, 1, 2], [], [3], [4], []]
    polls = [Polled([numbered(n) for n in each], moment(0)) for each in given]
    script = Script([*polls, DONE], look=lambda: (sorted(_written), list(_gathered)))
    pipeline = new_pipeline()
    raw = pipeline | ReadLive("numbered", script)
    for name in ("one", "other"):
        _ = raw | f"N{name}" >> beam.ParDo(Numbers()) | name >> beam.ParDo(Writes())
    assert ran(pipeline) == PipelineState.DONE
    for poll, (written, gathered) in enumerate(script.seen):
        numbers = [number for each in given[:poll] for number in each]
        # Two sinks; of a bundle of several batches, the last one's odd number.
        last = [each[-1] for each in given[:poll] if each]
        assert written == sorted(2 * ([2 * n for n in numbers] + [2 * n + 1 for n in last]))
        assert gathered == []


def test_batches_carry_the_watermark_that_they_have_been_taken_into_account_for() -> None:
    script = Script(
        [
            Polled([numbered(1)], moment(10)),
            nothing(15),
            Polled([numbered(2), numbered(3)], moment(20)),
            Polled([numbered(4)], moment(30), done=True),
        ]
    )
    with recording("stamps") as found:
        pipeline = new_pipeline()
        _ = pipeline | ReadLive("stamped", script) | beam.ParDo(_Stamp("stamps"))
        assert ran(pipeline) == PipelineState.DONE
    last = beam.transforms.window.GlobalWindow().max_timestamp().micros
    assert found == [moment(10), moment(20), moment(20), last]


class _Stamp(Record):
    """Records elements' times in µs."""

    def process(self, element: Any, at: Any = beam.DoFn.TimestampParam) -> None:
        super().process(at.micros)


def test_batches_from_before_any_time_is_known_go_through() -> None:
    script = Script([Polled([numbered(1)], NEVER), Polled([], NEVER), nothing(0), DONE])
    with recording("never") as found:
        pipeline = new_pipeline()
        _ = pipeline | ReadLive("never", script) | beam.ParDo(Record("never"))
        assert ran(pipeline) == PipelineState.DONE
        assert [raw.origin.first_row for raw in found] == [1]


def test_the_source_of_a_name_is_the_last_one_given() -> None:
    first, second = Script([DONE]), Script([nothing(5), DONE])
    pipeline = new_pipeline()
    ReadLive("same", first)
    _ = pipeline | ReadLive("same", second)
    assert ran(pipeline) == PipelineState.DONE
    assert (first.waiting, len(second.waiting)) == ([], 2)


def test_an_error_of_the_source_ends_the_run() -> None:
    @dataclass
    class Fails(Script):
        def poll(self) -> Polled:
            if len(self.waiting) > 1:
                raise RuntimeError("reading the source failed")
            return super().poll()

    pipeline = new_pipeline()
    _ = pipeline | ReadLive("fails", Fails([nothing(0)]))
    with pytest.raises(RuntimeError, match="reading the source failed"):
        ran(pipeline)
