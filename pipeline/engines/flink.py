"""Flink, and every other engine behind Beam's job API: it has made durable what it says it has taken."""

from __future__ import annotations

from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
from apache_beam.runners.runner import PipelineRunner, create_runner

from pipeline.engines import endpoint
from pipeline.engines.properties import Engine, Finished, Stopped

ENGINE = Engine(
    name="Flink",
    flag="--runner=FlinkRunner",
    here=False,
    one_process=False,
    repeats_bundles=True,
    finished=Finished.DURABLE,
    stopped=Stopped.BY_SOURCE,
    keeps_state=True,
    reads_pubsub=None,
)


def is_meant(_name: str) -> bool:
    """Whether `--runner` means this engine: any that none of the others knows."""
    return True


def engine(_options: PipelineOptions) -> Engine:
    """The engine as these flags have it."""
    return ENGINE


def runner(options: PipelineOptions, _live: bool) -> PipelineRunner:
    """The runner as Beam knows it by its name."""
    return create_runner(options.view_as(StandardOptions).runner)


def check(options: PipelineOptions) -> None:
    """Raises ConfigError if nobody takes jobs where they are to be given."""
    endpoint.answers(options)
