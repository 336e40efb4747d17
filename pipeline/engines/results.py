"""What an engine tells of a job: its result, which may have to be asked in another way."""

from __future__ import annotations

from collections.abc import Callable

from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability import portable_runner
from apache_beam.runners.runner import PipelineResult

__all__ = ["PipelineResult", "as_it_is", "nowhere", "without_cache"]


def without_cache(result: PipelineResult) -> PipelineResult:
    """The result; what it is asked next is asked of the engine, not of an earlier answer."""
    if isinstance(result, portable_runner.PipelineResult):
        # On Prism and Flink it would answer for ever what it answered first.
        result._metrics = None
    return result


def nowhere(_options: PipelineOptions) -> None:
    """Where the job is only written to: an engine without such files runs it."""


def as_it_is(
    _options: PipelineOptions, result: PipelineResult, _stopping: Callable[[], bool]
) -> PipelineResult:
    """A live job's result where it answers while the job runs, and the job ends with its source."""
    return result
