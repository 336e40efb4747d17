"""Starts the local runner: which of Beam's it is, and with how many processes."""

from __future__ import annotations

from dataclasses import replace

from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.direct.direct_runner import BundleBasedDirectRunner
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.runners.runner import PipelineRunner

from pipeline.engines.local import ENGINE as LOCAL
from pipeline.engines.local import live as streaming_live
from pipeline.engines.local import patches
from pipeline.engines.properties import Engine
from pipeline.engines.results import as_it_is, nowhere

NAMES = ("DirectRunner", "apache_beam.runners.DirectRunner", "FnApiRunner")


def is_meant(name: str) -> bool:
    """Whether `--runner` means this engine."""
    return name in NAMES


def engine(options: PipelineOptions) -> Engine:
    """The engine as these flags have it."""
    return replace(LOCAL, one_process=_one_process(options))


def _one_process(options: PipelineOptions) -> bool:
    """Whether a local job has no worker processes."""
    given = options.get_all_options()
    workers = int(given.get("direct_num_workers") or 1)
    return workers == 1 and (given.get("direct_running_mode") or "in_memory") == "in_memory"


def runner(_options: PipelineOptions, live: bool) -> PipelineRunner:
    """Fn for bounded input; for a live source the bundle-based one.

    Only there do windows fire while the source still reads.
    """
    if live:
        streaming_live.install()
        patches.install()
        return BundleBasedDirectRunner()
    return FnApiRunner()


def check(_options: PipelineOptions) -> None:
    """Nothing can be missing: it is this process."""


only_written = nowhere
followed = as_it_is
