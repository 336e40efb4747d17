"""A live job on Flink, as its account and its end are asked for.

Beam's job server has no metrics of a job that runs, and a Flink job whose source has come to its
end idles on. So Flink is asked for the counters, and the job is ended once all is through.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from apache_beam.metrics.execution import MetricKey, MetricResult
from apache_beam.metrics.metric import MetricResults, MetricsFilter
from apache_beam.metrics.metricbase import MetricName
from apache_beam.runners.runner import PipelineResult, PipelineState

from pipeline.engines.flink.rest import Rest

_log = logging.getLogger(__name__)

# Those of the account.
_NAMESPACES = frozenset(("account", "corrected", "dialects", "files", "positions", "sinks"))
_LOOK_S = 0.5
# An answer is good for so long: an account asks for each namespace in turn.
_GOOD_S = 0.4


class _Counters(MetricResults):
    def __init__(self, found: dict[tuple[str, str], int]) -> None:
        self._found = found

    def query(self, filter: MetricsFilter | None = None) -> dict[str, list[MetricResult]]:  # noqa: A002
        """The counters that a filter lets through; nothing else."""
        keys = {each: MetricKey("job", MetricName(*each)) for each in self._found}
        counters = [
            MetricResult(key, self._found[each], self._found[each])
            for each, key in keys.items()
            if self.matches(filter, key)
        ]
        others: list[str] = [self.DISTRIBUTIONS, self.GAUGES, self.STRINGSETS, self.BOUNDED_TRIES]
        return {self.COUNTERS: counters, **{kind: [] for kind in others}}


class FlinkResult(PipelineResult):
    """A job's result, whose metrics are those of the moment, and after its end the last ones.

    Args:
        result: what Beam's job server says.
        rest: the job at its cluster.
        stopping: whether the source was asked to come to its end.
    """

    def __init__(self, result: PipelineResult, rest: Rest, stopping: Callable[[], bool]) -> None:
        super().__init__(PipelineState.RUNNING)
        self._result, self._rest, self._stopping = result, rest, stopping
        self._lock = threading.Lock()
        self._found: dict[tuple[str, str], int] = {}
        self._asked_s = -_GOOD_S
        self._cancelled = False

    @property
    def state(self) -> str:
        """The job's state; DONE where it was ended because all was through."""
        return str(PipelineState.DONE if self._cancelled else self._result.state)

    def metrics(self) -> MetricResults:
        """The counters of the account; those of the last answer where none comes."""
        with self._lock:
            if not self._cancelled and time.monotonic() - self._asked_s >= _GOOD_S:
                try:
                    self._found = self._rest.counters(_NAMESPACES)
                except (OSError, ValueError, KeyError) as error:
                    # Not begun yet, or too busy to answer.
                    _log.info("no figures of the job (%s)", error)
                self._asked_s = time.monotonic()
            return _Counters(self._found)

    def wait_until_finish(self, duration: int | None = None) -> str:
        """Waits for the job's end; once all is through after a stop, it is ended."""
        threading.Thread(target=self._end, name="end of the job", daemon=True).start()
        logging.getLogger().addFilter(self._is_news)
        try:
            return str(self._result.wait_until_finish(duration))
        except RuntimeError:
            if not self._cancelled:
                raise
            return str(PipelineState.DONE)
        finally:
            logging.getLogger().removeFilter(self._is_news)

    def _is_news(self, record: logging.LogRecord) -> bool:
        """Not that the job was cancelled where it was ended here."""
        return not (self._cancelled and "JobCancellationException" in record.getMessage())

    def cancel(self) -> Any:
        """Ends the job where it is."""
        return self._result.cancel()

    def _end(self) -> None:
        while not self._stopping():
            time.sleep(_LOOK_S)
        through_at: int | None = None
        while True:
            try:
                # A job that starts again from a checkpoint has something to do again.
                if not self._rest.ended():
                    through_at = None
                elif through_at is None:
                    through_at = self._rest.checkpoints()
                # What came last is in the second checkpoint from here, if not in the first.
                elif self._rest.checkpoints() >= through_at + 2:
                    self._found = self._rest.counters(_NAMESPACES)
                    self._cancelled = True
                    self._rest.cancel()
                    return
            except (OSError, ValueError, KeyError) as error:
                self._cancelled = False
                _log.info("the job does not answer (%s)", error)
            time.sleep(_LOOK_S)
