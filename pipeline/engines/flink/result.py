"""A live job on Flink, as its account and its end are asked for.

Beam's job server has no metrics of a job that runs, and a Flink job whose source has come to its
end idles on. So Flink is asked for the counters, and the job is ended once all is through. Where
the readers are in other processes they can't be asked to come to their end: there the job is ended
with a savepoint, which holds what was read and not written yet.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import grpc
from apache_beam.metrics.execution import MetricKey, MetricResult
from apache_beam.metrics.metric import MetricResults, MetricsFilter
from apache_beam.metrics.metricbase import MetricName
from apache_beam.runners.runner import PipelineResult, PipelineState

from pipeline.engines.flink.rest import Rest, Unsaved
from pipeline.errors import EngineFailed, shown_names

_log = logging.getLogger(__name__)

# Those of the account.
_NAMESPACES = frozenset(("account", "corrected", "dialects", "files", "positions", "sinks"))
_LOOK_S = 0.5
# An answer is good for so long: an account asks for each namespace in turn.
_GOOD_S = 0.4
_AGAIN_S = 5.0
# So long a cluster may be away before nobody knows what became of the job.
_SILENT_S = 60.0
_NO_ANSWER = (OSError, ValueError, KeyError, TypeError)
_ENDED = {
    "FINISHED": PipelineState.DONE,
    "CANCELED": PipelineState.CANCELLED,
    "FAILED": PipelineState.FAILED,
}


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
        stopping: whether the job was asked to come to its end.
        drains: whether its source then reads no further; else it is ended with a savepoint.
    """

    def __init__(
        self, result: PipelineResult, rest: Rest, stopping: Callable[[], bool], drains: bool
    ) -> None:
        super().__init__(PipelineState.RUNNING)
        self._result, self._rest, self._stopping = result, rest, stopping
        self._drains = drains
        self._lock = threading.Lock()
        self._found: dict[tuple[str, str], int] = {}
        self._asked_s = -_GOOD_S
        self._silent_s: float | None = None
        self._kept: str | None = None
        self._over = False

    @property
    def state(self) -> str:
        """The job's state; DONE where it was ended from here."""
        return str(PipelineState.DONE if self._over else self._result.state)

    @property
    def saved(self) -> bool:
        """Whether it was ended with a savepoint."""
        return self._over and not self._drains

    def metrics(self) -> MetricResults:
        """The counters of the account; those of the last answer where none comes."""
        with self._lock:
            if not self._over and time.monotonic() - self._asked_s >= _GOOD_S:
                self._look()
                self._asked_s = time.monotonic()
            return _Counters(self._found)

    def _look(self) -> None:
        try:
            self._found = self._rest.counters(_NAMESPACES)
            self._kept = self._rest.checkpoint() or self._kept
        except _NO_ANSWER as error:
            # Not begun yet, or too busy to answer.
            now = time.monotonic()
            self._silent_s = self._silent_s or now
            if now - self._silent_s > _SILENT_S:
                _log.warning("no figures of the job for %.0f s (%s)", _SILENT_S, error)
                self._silent_s = now
        else:
            self._silent_s = None

    def wait_until_finish(self, duration: int | None = None) -> str:
        """Waits for the job's end; after a stop it is ended from here.

        Raises:
            EngineFailed: it has failed, or nobody knows what became of it; says where to go on.
        """
        ending = threading.Thread(target=self._end, name="end of the job", daemon=True)
        ending.start()
        logging.getLogger().addFilter(self._is_news)
        former = threading.excepthook

        def ended(told: threading.ExceptHookArgs) -> None:
            # A thread of Beam's lost the job server; this one notices, too, and says so.
            if not isinstance(told.exc_value, grpc.RpcError):
                former(told)

        threading.excepthook = ended
        try:
            state = str(self._result.wait_until_finish(duration))
            if self._stopping() and not self._drains:
                # The job is over a moment before Flink says where its savepoint lies.
                ending.join(_SILENT_S)
            return state
        except (RuntimeError, grpc.RpcError) as error:
            if self._over:
                return str(PipelineState.DONE)
            if isinstance(error, grpc.RpcError):
                _log.warning("the job server is gone; the job is followed at Flink itself")
                return self._followed()
            if any(name in str(error) for name in shown_names()):
                if self._kept is not None:
                    _log.warning("%s", self._go_on())
                raise
            raise EngineFailed(self._failed(str(error))) from error
        finally:
            threading.excepthook = former
            logging.getLogger().removeFilter(self._is_news)

    def _followed(self) -> str:
        """Waits for the end of a job that nobody but Flink knows of any more."""
        silent_since: float | None = None
        while not self._over:
            time.sleep(_LOOK_S)
            try:
                state = self._rest.state()
            except _NO_ANSWER as error:
                silent_since = silent_since or time.monotonic()
                if time.monotonic() - silent_since > _SILENT_S and not self._over:
                    raise EngineFailed(self._failed(f"Flink does not answer ({error})")) from error
                continue
            silent_since = None
            if state in _ENDED and not self._over:
                if state == "FAILED":
                    raise EngineFailed(self._failed("the job failed at Flink"))
                return str(_ENDED[state])
        return str(PipelineState.DONE)

    def _failed(self, what: str) -> str:
        """What has happened and how to go on, in one line."""
        first = next(iter(what.strip().splitlines()), "")[:300]
        if self._kept is None:
            return f"--runner=FlinkRunner: {first}"
        return f"--runner=FlinkRunner: {first}; {self._go_on()}"

    def _go_on(self) -> str:
        return (
            "what was read and not written lies in the last checkpoint: go on with "
            f"--savepoint_path={self._kept}"
        )

    def _is_news(self, record: logging.LogRecord) -> bool:
        """Not that the job was cancelled where it was ended here."""
        return not (self._over and "JobCancellationException" in record.getMessage())

    def cancel(self) -> Any:
        """Ends the job where it is."""
        return self._result.cancel()

    def _end(self) -> None:
        while not self._stopping():
            time.sleep(_LOOK_S)
        if self._drains:
            self._drain()
        else:
            self._save()

    def _save(self) -> None:
        """Ends the job with a savepoint; where none can be made it warns and tries again."""
        told = False
        while not self._over:
            try:
                # The last figures; without them the job is to end all the same.
                with contextlib.suppress(*_NO_ANSWER):
                    self._found = self._rest.counters(_NAMESPACES)
                self._kept = self._rest.stop()
                self._over = True
                _log.warning(
                    "stopped with a savepoint, which holds what was read and not written yet; go on "
                    "with --savepoint_path=%s", self._kept,
                )  # fmt: skip
                return
            except Unsaved as error:
                if not told:
                    told = True
                    _log.warning(
                        "no savepoint could be made (%s); the job continues, trying again. Flink's "
                        "own configuration has to name a folder: state.savepoints.dir", error,
                    )  # fmt: skip
            except _NO_ANSWER as error:
                if not told:
                    told = True
                    _log.warning(
                        "Flink does not answer (%s), so the job continues; trying again", error
                    )
            time.sleep(_AGAIN_S)

    def _drain(self) -> None:
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
                    self._over = True
                    self._rest.cancel()
                    return
            except _NO_ANSWER as error:
                self._over = False
                _log.info("the job does not answer (%s)", error)
            time.sleep(_LOOK_S)
