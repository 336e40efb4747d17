"""What an engine tells of a job: its result, made to answer anew each time it is asked."""

from __future__ import annotations

from apache_beam.runners.portability import portable_runner
from apache_beam.runners.runner import PipelineResult

__all__ = ["PipelineResult", "anew"]


def anew(result: PipelineResult) -> PipelineResult:
    """The result, which does not answer from what it was told before."""
    if isinstance(result, portable_runner.PipelineResult):
        # On Prism and Flink it would answer for ever what it answered first.
        result._metrics = None
    return result
