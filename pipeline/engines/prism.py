"""Prism: Beam's portable engine in one process of its own, which keeps in memory what it has taken."""

from __future__ import annotations

from apache_beam.options.pipeline_options import DebugOptions, PipelineOptions, StandardOptions
from apache_beam.runners.runner import PipelineRunner, create_runner

from pipeline.engines import endpoint
from pipeline.engines.properties import Engine, Finished, Stopped
from pipeline.engines.results import as_it_is, nowhere

ENGINE = Engine(
    name="Prism",
    flag="--runner=PrismRunner",
    here=False,
    one_process=False,
    repeats_bundles=True,
    finished=Finished.TAKEN,
    stopped=Stopped.BY_SOURCE,
    # As long as its own process lives.
    keeps_state=True,
    goes_back=False,
    native_pubsub=False,
)


def is_meant(name: str) -> bool:
    """Whether `--runner` means this engine."""
    return "prism" in name.lower()


def engine(_options: PipelineOptions) -> Engine:
    """The engine as these flags have it."""
    return ENGINE


def runner(options: PipelineOptions, _live: bool) -> PipelineRunner:
    """Prism, which must not cut slow bundles of stateful steps.

    Two of them would then work on one key at the same time, and what one of them remembers would
    be lost.
    """
    name = options.view_as(StandardOptions).runner
    if name.lower().endswith("prismrunner"):
        options.view_as(DebugOptions).add_experiment("prism_disable_sdf_split")
    return create_runner(name)


def check(options: PipelineOptions) -> None:
    """Raises ConfigError if nobody takes jobs where they are to be given."""
    endpoint.answers(options)


only_written = nowhere
followed = as_it_is
