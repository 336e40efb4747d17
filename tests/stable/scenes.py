"""Scenes: what a step keeps when a job stops midway, and what it gives when a job resumes with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import pyarrow as pa
from apache_beam.io.restriction_trackers import OffsetRange
from apache_beam.runners.common import DoFnSignature
from apache_beam.utils.timestamp import Timestamp

from pipeline.sinks.bigquery import exactly_once
from pipeline.sinks.bigquery.streams import Stream
from tests.messages import NOW_US, SECOND, START, START_US, limits, messages, reading
from tests.stable.graphs import CONFIGURATIONS, Graph, built
from tests.stable.worker import Worker
from transforms.batch import PackedBatch
from transforms.decode import decode
from transforms.order import by_shard
from transforms.validate import validate

Kept = dict[str, bytes]


@dataclass(frozen=True)
class Scene:
    """A step with state in the middle of its work.

    Attributes:
        name: the scene's.
        graph: the configuration with the step.
        step: its name there. Others of the same states are the same step with other data.
        before: works until the job stops; gives what is kept, by state.
        after: resumes with that; gives what a person can compare, as JSON.
    """

    name: str
    graph: str
    step: str
    before: Callable[[Scene], Kept]
    after: Callable[[Scene, Kept], Any]

    @property
    def built(self) -> Graph:
        """Its job."""
        return built(*CONFIGURATIONS[self.graph])


# --- readings that wait for their window, and what is remembered of those before ----------------


def _reading(second: int, equipment: str = "CS2_35") -> dict[str, Any]:
    moment = START.replace(minute=second // 60, second=second % 60)
    return reading(equipment_id=equipment, recorded_at=moment.isoformat(), record_index=second,
                   test_time_s=float(second), voltage_v=3.5 + second / 1000)  # fmt: skip


def _valid(given: Sequence[Mapping[str, Any]]) -> pa.Table:
    """As they come to be put in order."""
    decoded, refused = decode(messages(given))
    table, invalid = validate(decoded, limits(), NOW_US)
    assert not (refused.rows or invalid.rows)
    return table


def _order(scene: Scene, kept: Kept | None = None) -> Worker:
    return Worker(scene.built, scene.step, 0, kept)


def _send(worker: Worker, *seconds: int) -> None:
    table = _valid([_reading(each) for each in seconds])
    for _, piece in by_shard(table, 1):
        worker.process(piece, Timestamp(micros=START_US))


def _pass(worker: Worker, second: int) -> None:
    worker.fire("ts-due", Timestamp(micros=START_US + second * SECOND - 1))


def _order_before(scene: Scene) -> Kept:
    worker = _order(scene)
    _send(worker, 10, 30)
    _pass(worker, 60)
    _send(worker, 70, 80)
    return worker.kept()


def _order_after(scene: Scene, kept: Kept) -> Any:
    """One that is repeated of those released and of those that wait, one that is late, a new one."""
    worker = _order(scene, kept)
    _send(worker, 30, 50, 70, 90)
    _pass(worker, 120)
    names = ["equipment_id", "voltage_v", "flags", "time_delta_s", "charge_ah"]
    rows = pa.concat_tables([each.select(names) for each in worker.given[None]]).to_pylist()
    return {"given": rows, "superseded": len(worker.given["superseded"])}


# --- what is gathered for a file -----------------------------------------------------------------


def _gather(scene: Scene, kept: Kept | None = None) -> Worker:
    return Worker(scene.built, scene.step, "2024-06-01", kept)


def _piece(rank: str) -> tuple[str, int, PackedBatch]:
    return rank, 10, PackedBatch(pa.table({"rank": [rank, rank]}))


def _gather_before(scene: Scene) -> Kept:
    worker = _gather(scene)
    worker.process(_piece("c"))
    worker.process(_piece("a"))
    return worker.kept()


def _gather_after(scene: Scene, kept: Kept) -> Any:
    worker = _gather(scene, kept)
    worker.process(_piece("b"))
    with worker.state("held") as held:
        bytes_held = held.read()
    worker.fire("ts-long")
    worker.fire("ts-end")
    return {"held": bytes_held, "given": [each.to_pydict() for each in worker.given[None]]}


# --- tables that wait until a checkpoint holds them ----------------------------------------------


def _hold(scene: Scene, kept: Kept | None = None) -> Worker:
    return Worker(scene.built, scene.step, 2, kept)


def _hold_before(scene: Scene) -> Kept:
    worker = _hold(scene)
    for name in ("first", "second"):
        worker.process(PackedBatch(pa.table({"name": [name]})))
    return worker.kept()


def _hold_after(scene: Scene, kept: Kept) -> Any:
    worker = _hold(scene, kept)
    worker.process(PackedBatch(pa.table({"name": ["third"]})))
    with worker.state("number") as number:
        last = number.read()
    worker.fire("ts-end")
    return {"number": last, "given": [each.to_pydict() for each in worker.given[None]]}


# --- BigQuery: the streams that are written, and when files were loaded last ---------------------


def _streams_before(scene: Scene) -> Kept:
    worker = Worker(scene.built, scene.step, 3)
    with worker.state("streams") as state:
        state.write([tuple(Stream("streams/one", 120, 120)), tuple(Stream("streams/two", 7))])
    return worker.kept()


def _streams_after(scene: Scene, kept: Kept) -> Any:
    with Worker(scene.built, scene.step, 3, kept).state("streams") as state:
        return [each._asdict() for each in exactly_once._read(state)]


def _loads_before(scene: Scene) -> Kept:
    worker = Worker(scene.built, scene.step, 0)
    with worker.state("last") as state:
        state.write(START_US / 1e6)
    return worker.kept()


def _loads_after(scene: Scene, kept: Kept) -> Any:
    worker = Worker(scene.built, scene.step, 0, kept)
    # That was due before the last load; another one would look for a lake and find none here.
    worker.process(START_US / 1e6 - 1.0)
    with worker.state("last") as state:
        return state.read()


# --- Kafka and Pub/Sub: what is left to read --------------------------------------------------------

_PARTITION, _OFFSET = 3, 41_000


def _left_before(scene: Scene) -> Kept:
    worker = Worker(scene.built, scene.step, None)
    parts = scene.built.pipeline._root_transform().parts
    read = next(part.transform for part in parts if part.full_label == scene.step.split("/")[0])
    run = "20240601T120000Z-0badcafe"
    element: Any
    if scene.name == "messages":
        element = (replace(read._subscription, run=run), _PARTITION)
    else:
        topic = replace(read._topic, run=run, partitions=4)
        element = topic if scene.name == "partitions" else (topic, _PARTITION)
    left = (OffsetRange(_OFFSET, 2**63 - 1), Timestamp(micros=START_US))
    return {
        "element": worker.element_coder.encode_nested(element),
        "restriction": worker.restriction_coder.encode_nested(left),
    }


def _left_after(scene: Scene, kept: Kept) -> Any:
    worker = Worker(scene.built, scene.step, None)
    element = worker.element_coder.decode_nested(kept["element"])
    given, number = element if isinstance(element, tuple) else (element, None)
    decoded, _ = given.decode(messages([_reading(5)]))
    told = {each.name: str(getattr(given, each.name)) for each in fields(given)}
    restriction, state = worker.restriction_coder.decode_nested(kept["restriction"])
    signature = DoFnSignature(worker.fn)
    tracker = signature.get_restriction_provider().create_tracker(restriction)
    watermarks = signature.get_watermark_estimator_provider()
    return {
        "given": {**told, "decode": f"{decoded.table.num_rows} reading"},
        "number": number,
        "reads from": tracker.current_restriction().start,
        "may claim it": tracker.try_claim(_OFFSET),
        "watermark": watermarks.create_watermark_estimator(state).current_watermark().micros,
    }


SCENES = {
    scene.name: scene
    for scene in (
        Scene("order", "flink_kafka_bigquery", "Order/InOrder/ParDo(_OrderUnbounded)",
              _order_before, _order_after),
        Scene("hold", "flink_kafka_bigquery", "Stable/Hold/ParDo(_Hold)", _hold_before, _hold_after),
        Scene("gather", "flink_kafka_bigquery", "LakeReadingsGather/Together",
              _gather_before, _gather_after),
        Scene("streams", "flink_kafka_bigquery", "BigQuery_readings/AppendOnce",
              _streams_before, _streams_after),
        Scene("loads", "flink_kafka_file_loads", "BigQuery_loads/Load",
              _loads_before, _loads_after),
        Scene("partitions", "flink_kafka_bigquery", "Kafka/Partitions",
              _left_before, _left_after),
        Scene("offsets", "flink_kafka_bigquery", "Kafka/Read",
              _left_before, _left_after),
        Scene("messages", "flink_pubsub", "PubSub/Read", _left_before, _left_after),
    )
}  # fmt: skip
