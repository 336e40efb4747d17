"""Chooses the engine by our own rule: the job behaves the same whatever it is."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol, cast

from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
from apache_beam.runners.runner import PipelineRunner

from pipeline.engines import HERE, dataflow, flink, prism
from pipeline.engines.local import runner as local
from pipeline.engines.local.spill import local_shuffle
from pipeline.engines.properties import Engine


class Started(Protocol):
    """What the file of every engine offers, beside its description."""

    def is_meant(self, name: str, /) -> bool:
        """Whether `--runner` means this engine."""

    def engine(self, options: PipelineOptions, /) -> Engine:
        """The engine as these flags have it."""

    def runner(self, options: PipelineOptions, live: bool, /) -> PipelineRunner:
        """What the pipeline is given to; for a live source, if it is one."""

    def check(self, options: PipelineOptions, /) -> None:
        """Finds out before it starts what it needs; raises ConfigError."""


# A line for each: its description and its file. The first that is meant is taken, and the last
# takes every name.
_LINES = (
    (HERE, local),
    (prism.ENGINE, prism),
    (dataflow.ENGINE, dataflow),
    (flink.ENGINE, flink),
)
ENGINES = tuple(engine for engine, _ in _LINES)


def name(options: PipelineOptions) -> str:
    """What `--runner` says."""
    return str(options.view_as(StandardOptions).runner or "DirectRunner")


def _started(options: PipelineOptions) -> Started:
    meant = name(options)
    return next(cast("Started", file) for _, file in _LINES if file.is_meant(meant))


def engine(options: PipelineOptions) -> Engine:
    """What `--runner` and its flags mean, as properties."""
    return _started(options).engine(options)


def choose(options: PipelineOptions, live: bool = False) -> PipelineRunner:
    """The runner for `--runner`.

    DirectRunner would be Prism, Fn or the bundle-based one by what can be downloaded and what the
    graph holds; here bounded input always gets Fn, and a live source the bundle-based one, so that
    the job behaves the same everywhere.
    """
    return _started(options).runner(options, live)


def ready(options: PipelineOptions) -> None:
    """Finds out within seconds whether the engine can take the job; raises ConfigError."""
    _started(options).check(options)


def shuffle(engine: Engine, live: bool = False) -> AbstractContextManager[None]:
    """Within it the engine keeps on disk what it would keep in memory, where we have to see to it."""
    return local_shuffle(engine, live)


def drain_hint(options: PipelineOptions, job_id: str | None) -> str:
    """How a job is drained that goes on when this process ends, on the engine where it does."""
    return dataflow.drain_hint(options, job_id)


def those(which: Callable[[Engine], bool | None]) -> list[Engine]:
    """The engines that have a property, for messages that name them."""
    return [each for each in ENGINES if which(each)]
