"""Chooses the engine by our own rule: the job behaves the same whatever it is."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol, cast

from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
from apache_beam.runners.runner import PipelineResult, PipelineRunner, create_runner

from pipeline.engines import HERE, dataflow, prism
from pipeline.engines.flink import ENGINE as FLINK
from pipeline.engines.flink import runner as flink
from pipeline.engines.local import runner as local
from pipeline.engines.local.spill import local_shuffle
from pipeline.engines.properties import Engine
from pipeline.errors import ConfigError


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

    def only_written(self, options: PipelineOptions, /) -> str | None:
        """The file that the job is only written to; None if it is to be run."""

    def followed(
        self, options: PipelineOptions, result: PipelineResult, stopping: Callable[[], bool], /
    ) -> PipelineResult:
        """A live job's result, made to answer while the job runs and to come to its end."""


# A line for each: its description and its file. The first that is meant is taken, and the last
# takes every name.
_LINES = (
    (HERE, local),
    (prism.ENGINE, prism),
    (dataflow.ENGINE, dataflow),
    (FLINK, flink),
)
ENGINES = tuple(engine for engine, _ in _LINES)


def check(options: PipelineOptions) -> None:
    """Gives `--runner` the name that Beam has for it, in its spelling.

    Raises:
        ConfigError: there is no such runner, it can't be used here, or with so many workers.
    """
    workers = options.get_all_options().get("direct_num_workers")
    if workers is not None and int(workers) < 0:
        raise ConfigError(f"--direct_num_workers={workers}: must be 0 (one a core) or more")
    chosen = options.view_as(StandardOptions)
    given = name(options)
    known = {each.lower(): each for each in StandardOptions.KNOWN_RUNNER_NAMES}
    # As Beam understands it.
    found = known.get(given.lower()) or known.get(f"{given}runner".lower())
    if found is None and "." not in given:
        close = difflib.get_close_matches(given.lower(), known, n=1)
        hint = f"did you mean {known[close[0]]}? There are" if close else "there are"
        raise ConfigError(f"--runner={given}: no such runner; {hint} {_usual_told()}")
    chosen.runner = found or given
    if re.search("direct|interactive", chosen.runner, re.IGNORECASE) and not engine(options).here:
        # They would be taken for an engine that makes durable what it has taken.
        raise ConfigError(f"--runner={given}: is not for jobs; give --runner=DirectRunner")
    if engine(options).here or chosen.runner in _usual():
        return  # Beam has them; making one takes seconds.
    try:
        made = create_runner(chosen.runner)
    except Exception as error:
        why = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise ConfigError(
            f"--runner={given}: can't be used ({why}); there are {_usual_told()}"
        ) from error
    if not isinstance(made, PipelineRunner):
        raise ConfigError(f"--runner={given}: is no runner; there are {_usual_told()}")


def _usual() -> list[str]:
    """Those that the job is made for and tested on; Beam has more."""
    return [each.flag.partition("=")[2] for each in ENGINES]


def _usual_told() -> str:
    *names, last = _usual()
    return f"{', '.join(names)} and {last}"


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


def only_written(options: PipelineOptions) -> str | None:
    """The file that the job is only written to, for others to run: a template or a jar."""
    return _started(options).only_written(options)


def ready(options: PipelineOptions) -> None:
    """Finds out within seconds whether the engine can take the job; raises ConfigError."""
    _started(options).check(options)


def followed(
    options: PipelineOptions, result: PipelineResult, stopping: Callable[[], bool]
) -> PipelineResult:
    """A live job's result, made to answer while the job runs, and to come to its end.

    Args:
        options: the flags.
        result: what the runner gave.
        stopping: whether the source was asked to come to its end.
    """
    return _started(options).followed(options, result, stopping)


def saved(result: PipelineResult | None) -> bool:
    """Whether the job was ended with a savepoint, which holds what was read and not written yet."""
    return bool(getattr(result, "saved", False))


def shuffle(engine: Engine, live: bool = False) -> AbstractContextManager[None]:
    """Within it the engine keeps on disk what it would keep in memory, where we have to see to it."""
    return local_shuffle(engine, live)


def drain_hint(options: PipelineOptions, job_id: str | None) -> str:
    """How to drain a job that continues after this process has ended."""
    return dataflow.drain_hint(options, job_id)


def those(which: Callable[[Engine], bool | None]) -> list[Engine]:
    """The engines that have a property, for messages that name them."""
    return [each for each in ENGINES if which(each)]
