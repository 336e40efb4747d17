import itertools
import time

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pytest
from apache_beam.metrics.metric import MetricsFilter
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.pvalue import TaggedOutput
from apache_beam.runners.direct.direct_runner import BundleBasedDirectRunner
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing import test_stream
from apache_beam.transforms.window import TimestampedValue
from apache_beam.utils.timestamp import MIN_TIMESTAMP, Duration, Timestamp
from hypothesis import given
from hypothesis import strategies as st

from schemas.forms import flag_names
from tests.messages import NOW_US, PROFILES, SECOND, START_US, limits, messages
from tests.transforms.recorder import Record, recording
from tests.transforms.test_sequence import SCENES, cell, check, table_of
from transforms.batch import PackedBatch, RawBatch, TableCoder
from transforms.clock import Clock
from transforms.decode import Decode
from transforms.decoded import Decoded
from transforms.enrich import Enrich
from transforms.order import Order, Release, _OrderUnbounded, _ToShards, by_shard, split_at
from transforms.sequence import sequence
from transforms.summarise import Summarise
from transforms.validate import Validate

WINDOW_US = 60 * SECOND


# --- the sweep ---------------------------------------------------------------------------------


def pieces_of(table, sizes):
    """The table cut into consecutive pieces of the sizes given, over and over."""
    at = 0
    for size in itertools.cycle(sizes):
        if at >= table.num_rows:
            return
        part = table.slice(at, size).combine_chunks()
        at += size
        for _, piece in by_shard(part, 1):
            yield piece


def swept(table, sizes, threshold):
    release = Release(WINDOW_US, limits())
    return [part.table for part in release.sweep(pieces_of(table, sizes), threshold)]


def times_of(table):
    return table.column("recorded_at").cast(pa.int64()).to_numpy()


def same(tables, others):
    columns = ["streamed_at", "id_high", "id_low", "flags", "time_delta_s", "charge_ah"]
    return [t.select(columns).to_pylist() for t in tables] == [
        t.select(columns).to_pylist() for t in others
    ]


@given(SCENES, st.lists(st.integers(1, 9), min_size=1, max_size=4), st.integers(1, 30),
       st.randoms(use_true_random=False))  # fmt: skip
def test_packing_and_order_change_no_table(readings, sizes, threshold, random):
    readings = [{**r, "source_file": f"{r['name']:03}"} for r in readings]
    wanted = swept(table_of(readings), [len(readings)], threshold)
    random.shuffle(readings)
    assert same(swept(table_of(readings), sizes, threshold), wanted)


@given(SCENES, st.integers(1, 30))
def test_a_sweep_loses_nothing_and_cuts_at_windows(readings, threshold):
    release = Release(WINDOW_US, limits())
    found = list(release.sweep(pieces_of(table_of(readings), [3]), threshold))
    check(found, readings)
    windows = [set((times_of(part.table) // WINDOW_US).tolist()) for part in found]
    for earlier, later in itertools.pairwise(windows):
        assert max(earlier) < min(later)
    for part in found[:-1]:
        rows = part.table.num_rows + part.duplicates
        assert rows >= threshold  # no more windows than it takes
        last = times_of(part.table) // WINDOW_US == max(times_of(part.table) // WINDOW_US)
        assert rows - int(last.sum()) - part.duplicates < threshold
    assert found[-1].table.num_rows


def one_second_apart(count, **fields):
    return table_of(
        [cell(second, voltage_v=3.0 + second % 2 / 10, **fields) for second in range(count)]
    )


def test_a_release_ends_with_the_first_window_that_fills_it():
    table = one_second_apart(240)
    assert [part.num_rows for part in swept(table, [240], 1)] == [60] * 4
    assert [part.num_rows for part in swept(table, [7], 60)] == [60] * 4
    assert [part.num_rows for part in swept(table, [7], 61)] == [120, 120]
    assert [part.num_rows for part in swept(table, [50], 121)] == [180, 60]
    assert [part.num_rows for part in swept(table, [50], 1_000)] == [240]
    assert swept(table, [50], 240)[0].num_rows == 240


def test_pieces_that_reach_far_ahead_wait_for_their_windows():
    table = one_second_apart(600)
    turns = table.take(pa.array(np.arange(600).reshape(6, 100).T.reshape(-1)))
    parts = swept(turns, [6], 60)  # every piece spans the whole time
    assert [part.num_rows for part in parts] == [60] * 10
    assert same(parts, swept(table, [600], 60))


def test_nothing_to_sweep_gives_nothing():
    assert list(Release(WINDOW_US, limits()).sweep([])) == []


def test_pieces_are_decoded_when_their_time_comes():
    table = one_second_apart(600)
    decoded = []

    class Watched(PackedBatch):
        @property
        def table(self):
            found = super().table
            decoded.append(int(times_of(found)[0] - START_US) // SECOND)
            return found

    pieces = [(earliest, Watched(packed.table)) for earliest, packed in pieces_of(table, [60])]
    pieces.reverse()
    sweep = Release(WINDOW_US, limits()).sweep(pieces, 60)
    assert decoded == []
    next(sweep)
    assert decoded == [0]
    next(sweep)
    assert decoded == [0, 60]
    assert len(list(sweep)) == 8
    assert decoded == list(range(0, 600, 60))


def test_shards_split_a_batch_by_equipment():
    readings = [cell(at, equipment_id=f"c{at % 5}") for at in range(20)]
    table = table_of(readings)
    found = dict(by_shard(table, 4))
    assert len(found) > 1
    assert sum(packed.table.num_rows for _, packed in found.values()) == 20
    for earliest, packed in found.values():
        assert earliest == times_of(packed.table).min()
    cells = [set(packed.table.column("equipment_id").to_pylist()) for _, packed in found.values()]
    assert sum(map(len, cells)) == 5
    ((shard, (_, whole)),) = by_shard(table, 1)
    assert (shard, whole.table) == (0, table)


def test_a_shards_part_does_not_take_along_the_words_of_the_whole_fleet():
    table = table_of([cell(at, equipment_id=f"equipment {at}") for at in range(2_000)])
    parts = [packed.packed().table for _, (_, packed) in by_shard(table, 40)]
    assert len(parts) == 40
    for part in parts:
        assert part.schema == table.schema
        for name in ("equipment_id", "test_id"):
            (words,) = part.column(name).chunks
            assert len(words.dictionary) <= part.num_rows, name
    again = pa.concat_tables(parts).sort_by("recorded_at").column("equipment_id").to_pylist()
    assert again == [f"equipment {at}" for at in range(2_000)]


def test_tables_are_split_at_a_border():
    early, late = one_second_apart(5), table_of([cell(10)])
    due, rest = split_at([early, late], START_US + 3 * SECOND)
    assert [part.num_rows for part in due] == [3]
    assert [part.num_rows for part in rest] == [2, 1]
    due, rest = split_at([early, late], START_US + 5 * SECOND)
    assert ([part.num_rows for part in due], [part.num_rows for part in rest]) == ([5], [1])
    assert split_at([early, late], None) == ([early, late], [])


# --- bounded input -----------------------------------------------------------------------------


def counters(result):
    found = result.metrics().query(MetricsFilter().with_namespace("account"))["counters"]
    totals = {}
    for counter in found:
        name = counter.key.metric.name
        totals[name] = totals.get(name, 0) + counter.committed
    return totals


@pytest.mark.parametrize("shards", [1, 4])
def test_bounded_input_is_put_in_order_at_its_end(shards):
    readings = [
        cell(second, equipment_id=f"c{second % 3}", name=second, voltage_v=3.0 + second % 2 / 10)
        for second in range(300)
    ]
    copies = [
        {**reading, "name": 1_000 + reading["name"], "source_file": "z"} for reading in readings[:7]
    ]
    sent = readings + copies
    np.random.default_rng(3).shuffle(sent)
    with recording("bounded") as found:
        pipeline = beam.Pipeline(runner=FnApiRunner())
        (
            pipeline
            | beam.Create([table_of(sent[at : at + 40]) for at in range(0, len(sent), 40)])
            | Order(PROFILES, WINDOW_US, 300 * SECOND, shards)
        ).ordered | beam.ParDo(Record("bounded"))
        result = pipeline.run()
        result.wait_until_finish()
    wanted = sequence(table_of(sent), None, limits()).table
    columns = ["streamed_at", "id_high", "flags", "time_delta_s", "charge_ah"]
    together = pa.concat_tables([part.select(columns) for part in found]).sort_by("streamed_at")
    assert together.to_pylist() == wanted.select(columns).sort_by("streamed_at").to_pylist()
    assert counters(result)["duplicates"] == 7
    assert len(found) <= shards


def test_the_whole_way_through_beam_gives_every_message_an_account():
    good = [{"equipment_id": "a", "recorded_at": f"2024-06-01T12:00:{s:02}Z", "voltage_v": 3.7,
             "current_a": 0.5, "test_time_s": float(s)} for s in range(20)]  # fmt: skip
    late = [{**good[0], "voltage_v": 99.0}, {**good[0], "equipment_id": "b", "voltage_v": 9.0}]
    raw = [messages([*good[:9], good[3], *late, b"{", b"[]"]), messages(good[9:]), messages([b"5"])]
    with recording("readings") as readings, recording("stats") as stats, recording("dead") as dead:
        pipeline = beam.Pipeline(runner=FnApiRunner())
        batches = pipeline | beam.Create(raw, reshuffle=False).with_output_types(RawBatch)
        decoded = batches | "Decode" >> Decode()
        valid = decoded.readings | "Validate" >> Validate(PROFILES, NOW_US)
        ordered = (valid.readings | Order(PROFILES, WINDOW_US, 300 * SECOND, 2)).ordered
        _ = ordered | Enrich() | "R" >> beam.ParDo(Record("readings"))
        _ = ordered | Summarise(WINDOW_US) | "S" >> beam.ParDo(Record("stats"))
        letters = (decoded.dead_letters, valid.dead_letters) | beam.Flatten()
        _ = letters | "D" >> beam.ParDo(Record("dead"))
        result = pipeline.run()
        result.wait_until_finish()
    assert counters(result) == {
        "dead_letters": 4, "duplicates": 1, "written": 21, "late": 0, "flagged": counters(result)["flagged"],
    }  # fmt: skip
    out = pa.concat_tables(readings)
    assert out.num_rows == 21
    flags = out.column("quality_flags").to_pylist()
    assert counters(result)["flagged"] == sum(map(bool, flags)) == 12  # 11 stuck, 1 out of range
    rules = sorted(rule for part in dead for rule in part.column("error_type").to_pylist())
    assert rules == ["malformed_json", "not_an_object", "not_an_object", "out_of_bounds"]
    assert sum(sum(part.column("readings").to_pylist()) for part in stats) == 21
    assert pipeline_types(decoded, valid, ordered) == (Decoded, pa.Table, pa.Table)


def pipeline_types(decoded, valid, ordered):
    return decoded.readings.element_type, valid.readings.element_type, ordered.element_type


# --- live input --------------------------------------------------------------------------------


def _now_s():
    return time.time()


def _steady_us():
    return time.monotonic_ns() // 1000


CLOCK = Clock(_now_s, _steady_us)


class Live:
    """A stream played to the Order step, in minute windows with five minutes' lateness."""

    def __init__(self, shards=1, longest_us=3_600 * SECOND):
        self.stream = test_stream.TestStream(coder=TableCoder()).advance_watermark_to(moment(0))
        self.shards = shards
        self.longest_us = longest_us

    def send(self, *readings):
        stamp = moment(min(reading["seconds"] for reading in readings))
        self.stream.add_elements([TimestampedValue(table_of(list(readings)), stamp)])
        return self

    def pass_(self, seconds):
        self.stream.advance_watermark_to(moment(seconds))
        return self

    def panes(self):
        """Per output table: name → (time_delta_s, names of the flags)."""
        with recording("live") as found:
            pipeline = beam.Pipeline(
                runner=BundleBasedDirectRunner(), options=PipelineOptions(streaming=True)
            )
            (
                pipeline
                | self.stream.advance_watermark_to_infinity()
                | Order(
                    PROFILES, WINDOW_US, 300 * SECOND, self.shards, False, self.longest_us, CLOCK
                )
            ).ordered | beam.ParDo(Record("live"))
            pipeline.run().wait_until_finish()
        return [
            {
                sent - START_US: (delta, flag_names(mask))
                for sent, delta, mask in zip(
                    table.column("streamed_at").cast(pa.int64()).to_pylist(),
                    table.column("time_delta_s").to_pylist(),
                    table.column("flags").to_pylist(),
                    strict=True,
                )
            }
            for table in found
        ]


def moment(seconds):
    return Timestamp(micros=START_US + seconds * SECOND)


def named(name, seconds, **fields):
    return cell(seconds, name=name, voltage_v=3.0 + name / 100, **fields)


def test_windows_are_released_one_by_one_when_the_watermark_has_passed():
    live = Live().send(named(2, 40), named(1, 10)).pass_(59).send(named(3, 50)).pass_(60)
    live.send(named(4, 70)).pass_(130).send(named(5, 135))
    assert live.panes() == [
        {1: (None, []), 2: (30.0, []), 3: (10.0, [])},
        {4: (20.0, [])},  # state carries the delta over the border
        {5: (65.0, [])},
    ]


def test_one_batch_may_hold_many_windows():
    live = Live().send(*(named(at, 25 * at) for at in range(9))).pass_(125)
    assert live.panes() == [
        {0: (None, []), 1: (25.0, []), 2: (25.0, [])},
        {3: (25.0, []), 4: (25.0, [])},
        {5: (25.0, []), 6: (25.0, []), 7: (25.0, [])},
        {8: (25.0, [])},
    ]


def test_a_reading_late_within_the_allowance_finds_its_place_in_a_second_pane():
    live = Live().send(named(1, 10), named(2, 50)).pass_(60).send(named(3, 70)).pass_(300)
    live.send(named(4, 30)).pass_(301).send(named(5, 310))
    assert live.panes() == [
        {1: (None, []), 2: (40.0, [])},
        {3: (20.0, [])},
        {4: (20.0, [])},  # nothing of the first pane comes again
        {5: (240.0, ["gap"])},
    ]


def test_a_reading_later_than_the_allowance_has_no_delta_and_says_so():
    live = Live().send(named(1, 10), named(2, 50)).pass_(60).send(named(3, 420)).pass_(480)
    live.send(named(4, 30)).pass_(481).send(named(5, 490))
    assert live.panes() == [
        {1: (None, []), 2: (40.0, [])},
        {3: (370.0, ["gap"])},
        {4: (None, ["late"])},
        {5: (70.0, [])},  # it moved nothing back
    ]


def test_readings_later_than_the_allowance_are_not_each_others_previous_ones():
    live = Live().send(named(1, 400)).pass_(460).send(named(2, 1000)).pass_(1060)
    live.send(named(3, 500)).pass_(1061).send(named(4, 600)).pass_(1062).send(named(5, 1070))
    assert live.panes() == [
        {1: (None, [])},
        {2: (600.0, ["gap"])},
        {3: (None, ["late"])},
        {4: (None, ["late"])},
        {5: (70.0, [])},
    ]


def test_a_copy_of_what_was_released_is_dropped():
    live = Live().send(named(1, 10)).pass_(60).send(named(1, 10), named(2, 65)).pass_(130)
    live.send({**named(2, 65), "name": 3})
    assert live.panes() == [{1: (None, [])}, {2: (55.0, [])}]


def test_every_shard_and_equipment_keeps_its_own_time():
    first = [named(at, 10 + at, equipment_id=f"c{at}") for at in range(6)]
    second = [named(10 + at, 70 + 2 * at, equipment_id=f"c{at}") for at in range(6)]
    found = Live(shards=4).send(*first).pass_(60).send(*second).panes()
    assert len(found) > 2
    together = {name: row for pane in found for name, row in pane.items()}
    assert together == {at: (None, []) for at in range(6)} | {
        10 + at: (60.0 + at, []) for at in range(6)
    }


def test_a_timer_that_fires_again_releases_nothing_again():
    # The local runner fires some timers twice, and one may fire that a later one has replaced.
    class State:
        def __init__(self):
            self.values = []

        add = lambda self, value: self.values.append(value)  # noqa: E731
        read = lambda self: list(self.values)  # noqa: E731
        clear = lambda self: self.values.clear()  # noqa: E731

    class Value:
        value = None
        read = lambda self: self.value  # noqa: E731
        write = lambda self, value: setattr(self, "value", value)  # noqa: E731
        clear = lambda self: setattr(self, "value", None)  # noqa: E731

    class Timer:
        def set(self, at):
            self.at = at

        def clear(self):
            self.at = None

    step = _OrderUnbounded(
        PROFILES,
        WINDOW_US,
        300 * SECOND,
        True,
        3_600 * SECOND,
        CLOCK,
        first_stays=False,
        cycles=True,
        curves=False,
    )
    waiting, tail, recent, armed, earliest, since, released, due, overdue = (
        State(), Value(), State(), Value(), Value(), Value(), Value(), Timer(), Timer(),
    )  # fmt: skip
    cycles = State(), Value()
    states = (waiting, tail, recent, armed, earliest, since, released, *cycles, due, overdue)
    others = (waiting, tail, armed, earliest, since, released, recent, *cycles, due, overdue)

    def send(reading, at=MIN_TIMESTAMP):
        ((_, piece),) = by_shard(table_of(reading), 1)
        assert list(step.process((0, piece), at, *states)) == []

    def fire(at):
        found = list(step.release(0, at, *others))
        tails = [
            part.value for part in found if isinstance(part, TaggedOutput) and part.tag == "tails"
        ]
        released = [part for part in found if not isinstance(part, TaggedOutput)]
        assert [shard for shard, _ in tails] == [0] * len(released)
        return [part.num_rows for part in released]

    send([named(1, 10), named(2, 70)])
    first = moment(60) - Duration(micros=1)
    assert due.at == first
    assert earliest.value == START_US + 10 * SECOND
    assert fire(first) == [1]
    assert due.at == moment(120) - Duration(micros=1)
    assert earliest.value == START_US + 70 * SECOND
    assert fire(first) == []
    assert due.at == moment(120) - Duration(micros=1)
    assert fire(due.at) == [1]
    assert armed.value is earliest.value is None
    assert fire(due.at) == []
    assert released.value == START_US + 120 * SECOND

    # A window that comes again, late, moves nothing back.
    send([named(3, 50)])
    assert due.at == first
    assert fire(first) == [1]
    assert released.value == START_US + 120 * SECOND

    # What is behind is released in one go, as far as the watermark that came with it.
    send([named(4, 130), named(5, 190), named(6, 250), named(7, 310)], at=moment(305))
    assert due.at == moment(300) - Duration(micros=1)
    assert fire(due.at) == [3]
    assert earliest.value == START_US + 310 * SECOND

    # A shard without readings in a batch hears of the watermark too.
    assert list(by_shard_live(step, [named(8, 400)], *states)) == []
    assert due.at == moment(360) - Duration(micros=1)


def by_shard_live(step, readings, *states):
    table = table_of([{**reading, "equipment_id": "b"} for reading in readings])
    mine = next(iter(by_shard(table_of([named(1, 1)]), 2)))[0]
    pieces = dict(_ToShards(2, live=True).process(table))
    assert sorted(pieces) == [0, 1]
    if pieces[mine][1].table.num_rows == 0:
        return step.process((mine, pieces[mine]), moment(405), *states)
    raise AssertionError("the equipments must be of different shards")


@pytest.mark.parametrize("live", [False, True])
def test_what_an_earlier_run_remembered_comes_before_the_first_reading(live):
    earlier = sequence(table_of([named(1, 10), named(2, 30)]), None, limits())
    stream = test_stream.TestStream(coder=TableCoder()).advance_watermark_to(moment(0))
    stream = stream.add_elements([TimestampedValue(table_of([named(3, 50)]), moment(50))])
    with recording("resumed") as found, recording("tails") as tails:
        pipeline = beam.Pipeline(
            runner=BundleBasedDirectRunner() if live else FnApiRunner(),
            options=PipelineOptions(streaming=live),
        )
        once = beam.Create([table_of([named(3, 50)])])
        given = {
            "valid": pipeline
            | "Valid" >> (stream.advance_watermark_to_infinity() if live else once),
            "remembered": pipeline | "Remembered" >> beam.Create([earlier.tail]),
        }
        out = given | Order(PROFILES, WINDOW_US, 300 * SECOND, 4, clock=CLOCK)
        _ = out.ordered | "O" >> beam.ParDo(Record("resumed"))
        _ = (
            out.tails
            | "T" >> beam.Map(lambda kept: kept[1].last.table)
            | beam.ParDo(Record("tails"))
        )
        pipeline.run().wait_until_finish()
    assert [table.column("time_delta_s").to_pylist() for table in found] == [[20.0]]
    latest = max(int(times_of(table).max()) for table in tails)
    assert latest == START_US + 50 * SECOND


def test_an_earlier_window_that_comes_second_is_released_first():
    live = Live().send(named(1, 130)).send(named(2, 10)).pass_(60).send(named(3, 70)).pass_(200)
    assert live.panes() == [{2: (None, [])}, {3: (60.0, [])}, {1: (60.0, [])}]


@pytest.mark.parametrize("seed", range(3))
def test_a_live_stream_in_time_gives_what_bounded_input_gives(seed):
    random = np.random.default_rng(seed)
    readings = [
        cell(float(second), name=at, equipment_id=f"c{random.integers(3)}",
             voltage_v=float(random.choice([3.7, 4.19])))
        for at, second in enumerate(np.sort(random.integers(0, 600, 60)))
    ]  # fmt: skip
    readings = list({(r["seconds"], r["equipment_id"]): r for r in readings}.values())
    live = Live(shards=2)
    for at in range(0, len(readings), 10):
        part = readings[at : at + 10]
        live.pass_(int(part[0]["seconds"]))
        random.shuffle(part)
        live.send(*part)
    found = {name: row for pane in live.panes() for name, row in pane.items()}
    whole = sequence(table_of(readings), None, limits()).table
    wanted = {
        sent - START_US: (delta, flag_names(mask))
        for sent, delta, mask in zip(
            whole.column("streamed_at").cast(pa.int64()).to_pylist(),
            whole.column("time_delta_s").to_pylist(), whole.column("flags").to_pylist(), strict=True,
        )
    }  # fmt: skip
    assert found == wanted
