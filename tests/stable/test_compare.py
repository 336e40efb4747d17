"""What changes of the real graph, and of what steps keep, are told as."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import pytest
from apache_beam import coders
from apache_beam.pipeline import AppliedPTransform, ComponentIdMap
from apache_beam.transforms.core import Windowing
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.window import FixedWindows
from apache_beam.typehints import Tuple

from pipeline import job
from pipeline.sinks.bigquery import exactly_once
from pipeline.sources.kafka import split
from tests.stable import record, releases
from tests.stable.compare import Verdict, differences
from tests.stable.fingerprint import Fingerprint, fingerprint, key_of
from tests.stable.graphs import CONFIGURATIONS, DATAFLOW, FLINK, build, built
from tests.stable.releases import Release
from tests.stable.scenes import SCENES
from transforms import batch, identity
from transforms.batch import PackedBatchCoder, RawBatch
from transforms.decode import Decode
from transforms.order import _OrderUnbounded

# Small, with a splittable source, the step that orders, and one that gathers.
SMALL = ("--source=kafka://broker:9092/readings", "--lake=none", "--warehouse=none")
ORDER, GATHER = "Order/InOrder/ParDo(_OrderUnbounded)", "PositionsGather/Together"
BREAKS, ASKS, FINE = Verdict.BREAKS, Verdict.ASKS, Verdict.FINE
ENGINES = pytest.mark.parametrize("engine", [DATAFLOW, FLINK])
Told = dict[tuple[Verdict, str], str]


@pytest.fixture(scope="module", autouse=True)
def as_it_stands() -> None:
    """All graphs are built before any test changes what they are built of."""
    for configuration in (*CONFIGURATIONS.values(), (DATAFLOW, SMALL), (FLINK, SMALL)):
        built(*configuration)
    small(DATAFLOW), small(FLINK)


@cache
def small(engine: str) -> Fingerprint:
    """Of the small job as it stands."""
    return fingerprint(built(engine, SMALL))


def told(old: Fingerprint, new: Fingerprint) -> Told:
    """By verdict and step the whole lines of what differs."""
    found: Told = {}
    for each in differences(json.loads(json.dumps(old)), new):
        found[each.verdict, each.step] = found.get((each.verdict, each.step), "") + each.line
    return found


def changed(engine: str, change: Callable[[beam.Pipeline], None] | None = None, *more: str) -> Told:
    """What becomes of the small job if it is built differently."""
    return told(small(engine), fingerprint(build(engine, (*SMALL, *more), change)))


def steps(step: AppliedPTransform) -> Iterator[AppliedPTransform]:
    yield step
    for part in step.parts:
        yield from steps(part)


def named(pipeline: beam.Pipeline, name: str) -> AppliedPTransform:
    found = [step for step in steps(pipeline._root_transform()) if step.full_label == name]
    assert len(found) == 1
    return found[0]


def renamed(name: str, new: str) -> Callable[[beam.Pipeline], None]:
    def change(pipeline: beam.Pipeline) -> None:
        named(pipeline, name).full_label = new

    return change


def test_the_same_graph_has_no_differences() -> None:
    for engine in (DATAFLOW, FLINK):
        assert changed(engine) == {}
        # Code, paths and ids may be others.
        assert changed(engine, None, "--time_zone=Europe/Berlin", "--on_conflict=keep") == {}


# --- steps --------------------------------------------------------------------------------------


def test_a_renamed_step_with_state_needs_a_mapping_on_dataflow() -> None:
    found = changed(DATAFLOW, renamed(ORDER, "Order/InTurn"))
    ((verdict, step),) = found
    assert (verdict, step) == (ASKS, ORDER)
    mapping = json.dumps({ORDER: "Order/InTurn"})
    assert f"--transform_name_mapping='{mapping}'" in found[verdict, step]


def test_on_flink_its_timers_are_lost() -> None:
    found = changed(FLINK, renamed(ORDER, "Order/InTurn"))
    assert "its timers belong to" in found[BREAKS, ORDER]
    assert found[FINE, ORDER].endswith("the operator is the same")


def test_a_renamed_step_before_it_loses_its_state_on_flink_alone() -> None:
    rename = renamed("Order/ToShards", "Order/Shards")
    found = changed(FLINK, rename)
    assert (
        "operator '14Order/ToShards.None' before, '12Order/Shards.None' now" in found[BREAKS, ORDER]
    )
    assert "--allow_non_restored_state Flink would drop it" in found[BREAKS, ORDER]
    assert set(changed(DATAFLOW, rename)) == {(ASKS, "Order/ToShards"), (FINE, "Order/Shards")}


def test_a_splittable_source_is_found_by_the_step_before_it() -> None:
    found = changed(FLINK, renamed("Kafka/Spread/RemoveRandomKeys", "Kafka/Spread/Keyless"))
    assert "its state is not found (splittable)" in found[BREAKS, "Kafka/Read"]
    assert (ASKS, "29Kafka/Spread/RemoveRandomKeys.None") in found


def test_a_step_with_state_that_is_gone_breaks() -> None:
    once = (*SMALL[:2], "--warehouse=bigquery://my-project/battery_raw",
            "--bigquery_delivery=exactly_once")  # fmt: skip
    for engine in (DATAFLOW, FLINK):
        with_it, without = fingerprint(build(engine, once)), small(engine)
        gone = told(with_it, without)
        told_of = gone[BREAKS, "BigQuery_readings/AppendOnce"]
        assert "states streams, timers ts-end, ts-flush" in told_of and "drain" in told_of
        added = told(without, with_it)
        assert {verdict for verdict, _ in added} == {FINE}
        assert "starts empty" in added[FINE, "BigQuery_readings/AppendOnce"]


class More(Decode):
    """Decodes, with a step more before it."""

    def expand(self, batches: beam.PCollection) -> Any:
        more = batches | "More" >> beam.Map(lambda batch: batch).with_output_types(RawBatch)
        return super().expand(more)


@ENGINES
def test_a_step_more_is_fine(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "Decode", More)
    assert set(changed(engine)) == {(FINE, "Decode/More")}


def test_but_for_flink_not_with_beams_own_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "StepIds", ComponentIdMap)
    before = fingerprint(build(FLINK, SMALL))
    monkeypatch.setattr(job, "Decode", More)
    found = told(before, fingerprint(build(FLINK, SMALL)))
    assert "a pending one would fail the job" in found[BREAKS, ORDER]


def test_a_sink_more_is_fine() -> None:
    more = (
        *SMALL[:2],
        "--warehouse=cassandra://db/battery",
        "--dead_letter_topic=kafka://b:9092/d",
    )
    for engine in (DATAFLOW, FLINK):
        before, after = small(engine), fingerprint(build(engine, more))
        assert {verdict for verdict, _ in told(before, after)} == {FINE}
        gone = told(after, before)
        # Dataflow is told of every step that is gone.
        assert {verdict for verdict, _ in gone} == {ASKS if engine == DATAFLOW else FINE}


def test_another_source_breaks() -> None:
    pubsub = ("--source=pubsub://my-project/readings", *SMALL[1:])
    found = told(small(DATAFLOW), fingerprint(build(DATAFLOW, pubsub)))
    assert {(BREAKS, "Kafka/Read"), (BREAKS, "Kafka/Topic/Impulse")} <= set(found)
    assert (FINE, "PubSub/Read") in found


def test_a_second_beginning_is_to_be_tried_on_flink() -> None:
    def change(pipeline: beam.Pipeline) -> None:
        _ = pipeline | "Root" >> beam.Create([1])

    assert "try it on a copy" in changed(FLINK, change)[ASKS, "impulses"]
    assert {verdict for verdict, _ in changed(DATAFLOW, change)} == {FINE}


# --- states, timers, coders ---------------------------------------------------------------------


class Change(NamedTuple):
    """Of the step that orders, an attribute of a spec that is changed, and what is told of it."""

    engine: str
    spec: str
    attribute: str
    value: Any
    told: str


@pytest.mark.parametrize(
    "change",
    [
        Change(DATAFLOW, "TAIL", "name", "last",
               "state tail (read modify write of PackedBatchCoder) was removed or renamed"),
        Change(FLINK, "TAIL", "coder", coders.BytesCoder(),
               "state tail is read modify write of bytes, was read modify write of Packed"),
        Change(DATAFLOW, "RECENT", "coder", PackedBatchCoder(),
               "state recent is bag of PackedBatchCoder, was bag of kv(varint, PackedBatchCoder)"),
        Change(FLINK, "DUE", "name", "ts-then", "timer ts-due was removed or renamed"),
        Change(DATAFLOW, "DUE", "time_domain", TimeDomain.REAL_TIME,
               "timer ts-due is of processing time, was of event time"),
    ],
    ids=lambda change: f"{change.spec}.{change.attribute}",
)  # fmt: skip
def test_what_a_state_or_timer_is(change: Change, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = getattr(_OrderUnbounded, change.spec)
    monkeypatch.setattr(spec, change.attribute, change.value)
    found = changed(change.engine)
    assert change.told in found[BREAKS, ORDER] and "drain" in found[BREAKS, ORDER]
    assert {verdict for verdict, _ in found} <= {BREAKS, FINE}


def test_a_coder_s_own_version_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PackedBatchCoder, "version_tag", lambda _: "2")
    assert "PackedBatchCoder:2, was" in changed(DATAFLOW)[BREAKS, ORDER]


def test_a_state_more_starts_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as before:
        before.setattr(_OrderUnbounded.SINCE, "name", "more")
        was = fingerprint(build(FLINK, SMALL))
    was["keeps"][ORDER]["states"].pop("more")
    assert set(told(was, small(FLINK))) == {(FINE, ORDER)}


def elements(kind: Any) -> Callable[[beam.Pipeline], None]:
    def change(pipeline: beam.Pipeline) -> None:
        named(pipeline, ORDER).inputs[0].element_type = kind

    return change


def test_what_waits_for_a_step_must_be_read_on_dataflow() -> None:
    values = elements(Tuple[int, bytes])
    assert (
        "takes kv(varint, bytes), took kv(varint, kv(" in changed(DATAFLOW, values)[BREAKS, ORDER]
    )
    assert set(changed(FLINK, values)) == {(FINE, ORDER)}


def test_another_key_finds_nothing() -> None:
    keys = elements(Tuple[str, bytes])
    for engine in (DATAFLOW, FLINK):
        assert (BREAKS, ORDER) in changed(engine, keys)


def test_other_windows_find_nothing() -> None:
    def change(pipeline: beam.Pipeline) -> None:
        named(pipeline, ORDER).inputs[0]._windowing = Windowing(FixedWindows(60))

    for engine in (DATAFLOW, FLINK):
        assert "windows are fixed_windows" in changed(engine, change)[BREAKS, ORDER]


def test_what_is_left_to_read_must_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(split._Offsets, "restriction_coder", lambda _: coders.VarIntCoder())
    for engine in (DATAFLOW, FLINK):
        found = changed(engine)[BREAKS, "Kafka/Read"]
        assert "its restriction was kv(FastPrimitivesCoder, FastPrimitivesCoder), is kv(v" in found


def test_the_key_of_a_coder() -> None:
    assert key_of("kv(varint, kv(varint, PackedBatchCoder))") == "varint"
    assert key_of("kv(tuple(a, b), c)") == "tuple(a, b)"
    assert key_of("FastPrimitivesCoder") == "FastPrimitivesCoder"


# --- what is kept -------------------------------------------------------------------------------


def lost() -> set[str]:
    return {each.step for each in releases.current().not_survived()}


def test_a_form_that_reads_itself_alone_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    encode, decode = batch._encode, batch._decode
    monkeypatch.setattr(batch, "_encode", lambda table: encode(table)[::-1])
    monkeypatch.setattr(batch, "_decode", lambda data: decode(data[::-1]))
    assert {"state of scene order", "state of scene gather"} <= lost()
    assert "values of kv(varint, kv(varint, PackedBatchCoder))" in lost()


def test_a_state_that_is_understood_otherwise_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exactly_once, "Stream", NamedTuple("Stream", [("name", str)]))
    assert lost() == {"state of scene streams"}


def test_readings_that_are_not_known_again_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    mix = identity._mix
    monkeypatch.setattr(identity, "_mix", lambda value: mix(value + np.uint64(1)))
    assert lost() == {"state of scene order"}


def test_a_class_that_a_job_hands_on_must_stay_where_it_is(tmp_path: Path) -> None:
    scenes = releases.current().kept()["scenes"]
    data = base64.b64decode(scenes["offsets"]["element"])
    assert b"pipeline.sources.kafka.split" in data
    moved = base64.b64encode(data.replace(b"kafka.split", b"kafka.splat")).decode()
    release = Release("0.9.0", tmp_path)
    release.write("kept", {"scenes": {"offsets": {**scenes["offsets"], "element": moved}}})
    (found,) = release.not_survived()
    assert "No module named 'pipeline.sources.kafka.splat'" in found.what


# --- the command --------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where records are kept; one configuration is."""
    monkeypatch.setattr(releases, "FOLDER", tmp_path)
    for module in (record, releases):
        monkeypatch.setattr(module, "CONFIGURATIONS", {"small": (FLINK, SMALL)})
        monkeypatch.setattr(module, "built", cache(build))
    monkeypatch.setattr(releases, "SCENES", {"gather": SCENES["gather"]})
    return tmp_path


def version(monkeypatch: pytest.MonkeyPatch, folder: Path, text: str) -> None:
    setup = folder / "setup.py"
    setup.write_text(f'setup(name="x", version="{text}")')
    monkeypatch.setattr(releases, "_SETUP", setup)


def test_recording(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    version(monkeypatch, folder, "1.9.0")
    assert record.main([]) == 0 and record.main([]) == 0
    assert releases.current().graphs()["small"]["engine"] == FLINK
    assert releases.to_know(releases.current()) == {}
    monkeypatch.setattr(_OrderUnbounded.TAIL, "name", "last")
    for module in (record, releases):
        monkeypatch.setattr(module, "built", cache(build))
    capsys.readouterr()
    assert record.main([]) == 1
    shown = capsys.readouterr().err
    assert "a job of release 1.9.0 can't be updated in place" in shown and "state tail (" in shown
    version(monkeypatch, folder, "1.10.0")
    assert record.main([]) == 0
    assert [each.version for each in releases.recorded()] == ["1.9.0", "1.10.0"]
    (known,) = releases.current().updates()["1.9.0"]["small"]
    assert (known["verdict"], known["step"]) == ("breaks", ORDER)
