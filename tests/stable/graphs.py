"""Builds the live graph as Dataflow and Flink are given it, for typical flags; asks no service."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions, TestOptions
from apache_beam.runners.dataflow.dataflow_runner import DataflowRunner
from apache_beam.runners.portability.flink_runner import FlinkRunner

from pipeline import job, options, registry
from pipeline.engines import choose
from pipeline.sources import Told

DATAFLOW, FLINK = "Dataflow", "Flink"

_KAFKA = "--source=kafka://broker:9092/readings"
_PUBSUB = "--source=pubsub://my-project/readings-sub"
_BIGQUERY = "--warehouse=bigquery://my-project/battery_raw"
_ONCE = "--bigquery_delivery=exactly_once"
_GCS, _S3 = "--lake=gs://my-bucket/lake", "--lake=s3://my-bucket/lake"
_LETTERS_KAFKA = "--dead_letter_topic=kafka://broker:9092/dead-letters"
_LETTERS_PUBSUB = "--dead_letter_topic=pubsub://my-project/dead-letters"

# What people run; with the second one each step that keeps anything is in some graph.
CONFIGURATIONS: dict[str, tuple[str, tuple[str, ...]]] = {
    "dataflow_pubsub": (DATAFLOW, (_PUBSUB, _GCS, _BIGQUERY, _LETTERS_PUBSUB)),
    "dataflow_pubsub_exactly_once": (DATAFLOW, (_PUBSUB, _GCS, _BIGQUERY, _ONCE)),
    "dataflow_kafka_file_loads": (
        DATAFLOW,
        (_KAFKA, _GCS, _BIGQUERY, "--bigquery_method=file_loads"),
    ),
    "flink_kafka_bigquery": (FLINK, (_KAFKA, _GCS, _BIGQUERY, _ONCE, _LETTERS_KAFKA)),
    "flink_pubsub": (FLINK, (_PUBSUB, _GCS, _BIGQUERY, _LETTERS_PUBSUB)),
    "flink_kafka_file_loads": (FLINK, (_KAFKA, _GCS, _BIGQUERY, "--bigquery_method=file_loads")),
    "flink_kafka_own_stores": (
        FLINK,
        (_KAFKA, _S3, "--warehouse=duckdb:warehouse.duckdb", "--warehouse=cassandra://db/battery"),
    ),
}

_OF_ENGINE = {
    DATAFLOW: (
        "--runner=DataflowRunner",
        "--project=my-project",
        "--region=europe-west3",
        "--temp_location=gs://my-bucket/tmp",
        "--sdk_container_image=image",
    ),
    # A worker pool beside each TaskManager.
    FLINK: ("--runner=FlinkRunner", "--flink_master=flink:8081", "--environment_type=EXTERNAL",
            "--environment_config=localhost:50000"),
}  # fmt: skip

# Changes the pipeline before the engine is given it; for tests of what such a change breaks.
Change = Callable[[beam.Pipeline], None]


@dataclass(frozen=True)
class Graph:
    """A job as an engine is given it.

    Attributes:
        engine: DATAFLOW or FLINK.
        flags: the job's own.
        proto: Beam's pipeline proto.
        pipeline: what it was made of.
    """

    engine: str
    flags: tuple[str, ...]
    proto: Any
    pipeline: beam.Pipeline

    def step(self, name: str) -> Any:
        """A step of the proto, by its full name."""
        steps = self.proto.components.transforms.values()
        return next(step for step in steps if step.unique_name == name)


class _Given(FlinkRunner):
    """Keeps what the job server would be given."""

    proto: Any = None

    def run_portable_pipeline(self, pipeline: Any, options: PipelineOptions) -> Any:
        self.proto = pipeline


def _to_flink(pipeline: beam.Pipeline, given: PipelineOptions) -> Any:
    runner = _Given()
    runner.run_pipeline(pipeline, given)
    return runner.proto


def _to_dataflow(pipeline: beam.Pipeline, given: PipelineOptions) -> Any:
    given.view_as(TestOptions).dry_run = True  # all but the call of the service
    runner = DataflowRunner()
    runner.run_pipeline(pipeline, given)
    return runner.proto_pipeline


def build(engine: str, flags: Sequence[str], change: Change | None = None) -> Graph:
    """The live graph that an engine is given for some flags, as it is or changed."""
    given = options.parse([*_OF_ENGINE[engine], *flags])
    given.view_as(StandardOptions).streaming = True
    config = options.config_from(given, now_us=0)
    properties = choose.engine(given)
    source = registry.source(config, properties, Told())
    sinks = registry.sinks(config, None, properties)
    # With the engine's own options a pipeline would look for buckets and credentials.
    pipeline = beam.Pipeline(options=PipelineOptions(["--streaming"]))
    job.build(pipeline, config, source, sinks, engine=properties)
    if change is not None:
        change(pipeline)
    # For another one pip would be asked what is installed here, which graphs only carry along.
    given.view_as(StandardOptions).runner = "DirectRunner"
    translate = _to_dataflow if engine == DATAFLOW else _to_flink
    return Graph(engine, tuple(flags), translate(pipeline, given), pipeline)


@cache
def built(engine: str, flags: tuple[str, ...]) -> Graph:
    """The same as it is, built once."""
    return build(engine, flags)
