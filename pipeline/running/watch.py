"""What a running live job tells: account lines, Prometheus metrics, end-to-end latency."""

from __future__ import annotations

import datetime as dt
import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self
from wsgiref.simple_server import WSGIServer

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from apache_beam.metrics import Metrics
from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from pipeline import account
from pipeline.account import Account
from pipeline.clock import now_us
from pipeline.engines.results import PipelineResult
from pipeline.errors import ConfigError
from pipeline.shown import say
from pipeline.sinks import Produced, Sink
from pipeline.sinks.base import tally
from pipeline.sinks.base.tally import SinkAccount
from pipeline.sources import Behind
from pipeline.sources.live.watermark import NEVER

_log = logging.getLogger(__name__)

# Upper bounds of the buckets, seconds; densest where a job with windows of a minute is.
BOUNDS_S = (
    *(0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 45.0, 60.0, 75.0, 90.0),
    *(120.0, 180.0, 300.0, 600.0, 1200.0, 1800.0, 3600.0),
)
# Arrival times kept at once; beyond it they are kept to the second, of which a week has 0.6 M.
_MOST_KEPT = 1 << 20
# Beam's distribution takes one value at a time; a value stands for so many readings.
_PER_UPDATE = 100
# A port that other machines can reach is opened only where the flag says so: the figures are shown
# to whoever asks.
_HOST = "127.0.0.1"
# Beam looks through plain dicts that the runner adds to now and then; a second look succeeds.
_LOOKS = 5


@dataclass(frozen=True)
class Histogram:
    """Latencies by bucket.

    Attributes:
        counts: int64, readings per bucket of BOUNDS_S, and beyond the last bound.
        total_s: sum of the latencies, seconds.
    """

    counts: npt.NDArray[np.int64]
    total_s: float

    @property
    def count(self) -> int:
        """How many readings."""
        return int(self.counts.sum())

    def since(self, earlier: Histogram) -> Histogram:
        """What has come since an earlier look."""
        return Histogram(self.counts - earlier.counts, self.total_s - earlier.total_s)

    def quantile(self, share: float) -> float:
        """The latency that `share` (above 0, at most 1) of the readings did not pass, seconds.

        Interpolated within its bucket; infinite beyond the last bound, nan where nothing came.
        """
        upto = np.cumsum(self.counts)
        if not upto[-1]:
            return math.nan
        rank = share * upto[-1]
        bucket = int(np.searchsorted(upto, rank))
        if bucket == len(BOUNDS_S):
            return math.inf
        low = BOUNDS_S[bucket - 1] if bucket else 0.0
        inside = 1 - (upto[bucket] - rank) / self.counts[bucket]
        return float(low + inside * (BOUNDS_S[bucket] - low))


_NOTHING = Histogram(np.zeros(len(BOUNDS_S) + 1, np.int64), 0.0)


_Given = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]


def _together(given: Sequence[_Given]) -> _Given:
    arrived, readings = zip(*given, strict=True)
    return np.concatenate(arrived), np.concatenate(readings)


class Latency:
    """From a reading's arrival to its being in every sink; safe under threads.

    Between `begin` and `end` it remembers when readings arrived that the sinks are being given,
    until it is told that they are done with them. Elsewhere, as in a worker of another machine,
    where nobody tells, it remembers nothing.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._on = False
        self._kept = 0
        # Arrivals, ms since 1970, and how many readings each stands for.
        self._waiting: list[_Given] = []
        # What was given before it was told last that something is durable.
        self._earlier: list[_Given] = []
        self._histogram = _NOTHING

    def begin(self) -> None:
        """Starts with nothing."""
        with self._lock:
            self._on = True
            self._waiting, self._earlier, self._kept, self._histogram = [], [], 0, _NOTHING

    def end(self) -> None:
        """Remembers nothing more; what was measured stays."""
        with self._lock:
            self._on = False
            self._waiting, self._earlier, self._kept = [], [], 0

    def given(self, arrived_us: npt.NDArray[np.int64]) -> None:
        """Takes note of readings that the sinks are given: their arrival, µs since 1970."""
        if not self._on:
            return
        arrived, readings = np.unique(arrived_us // 1000, return_counts=True)
        with self._lock:
            self._waiting.append((arrived, readings))
            self._kept += len(arrived)
            if self._kept > _MOST_KEPT:
                self._keep_seconds()

    def _keep_seconds(self) -> None:
        arrived, readings = _together(self._waiting)
        seconds, place = np.unique(arrived // 1000, return_inverse=True)
        summed = np.bincount(place, weights=readings).astype(np.int64)
        self._waiting, self._kept = [(seconds * 1000, summed)], len(seconds)

    def settled(self, now_us: int, everything: bool = True) -> None:
        """Told that every sink has all that it was given, or was given before it was told last."""
        with self._lock:
            due, self._earlier = self._earlier, [] if everything else self._waiting
            if everything:
                due = due + self._waiting
            self._waiting, self._kept = [], 0
            if not due:
                return
            arrived, readings = _together(due)
            # A broker's clock may be ahead of ours.
            took_s = np.maximum(now_us / 1e6 - arrived / 1e3, 0.0)
            places = np.searchsorted(BOUNDS_S, took_s)
            added = np.bincount(places, weights=readings, minlength=len(BOUNDS_S) + 1)
            self._histogram = Histogram(
                self._histogram.counts + added.astype(np.int64),
                self._histogram.total_s + float(took_s @ readings),
            )

    def histogram(self) -> Histogram:
        """What was measured so far."""
        return self._histogram


# One per process: DoFns can't hold it, they are copied.
LATENCY = Latency()


class _Watch(beam.DoFn):
    def __init__(self) -> None:
        self._latency_ms = Metrics.distribution(account.NAMESPACE, "latency_ms")

    def process(self, readings: pa.Table) -> None:
        arrived_us = readings.column("ingested_at").cast(pa.int64()).to_numpy()
        LATENCY.given(arrived_us)
        took_ms = np.maximum(now_us() - arrived_us, 0) // 1000
        for start in range(0, len(took_ms), _PER_UPDATE):
            self._latency_ms.update(int(took_ms[start : start + _PER_UPDATE].mean()))


class Watch(Sink):
    """Looks at a running live job; in the graph it stands like a sink.

    It is a context manager: at the end of it account lines and metrics end.

    Args:
        lag: messages known to be unread; None where that is not known.
        watermark_us: event time, µs since 1970, before which nothing more is expected; None or
            NEVER before it is known.
        every_s: seconds between account lines; 0 for none.
        metrics_port: PORT or HOST:PORT at which Prometheus finds the metrics, or None.
        behind: the partition that event time waits for, if it waits for one.
        sinks: those of the job, whose accounts are shown.
        trouble: why the source can't be read now, if so.
    """

    def __init__(
        self,
        lag: Callable[[], int | None],
        watermark_us: Callable[[], int | None],
        every_s: float = 60.0,
        metrics_port: str | None = None,
        behind: Callable[[], Behind | None] = lambda: None,
        sinks: Callable[[], Sequence[Sink]] = tuple,
        trouble: Callable[[], str | None] = lambda: None,
    ) -> None:
        self._sinks = sinks
        self._lag = lag
        self._behind = behind
        self._trouble = trouble
        self._watermark_us = watermark_us
        self._every_s = every_s
        self._metrics_port = metrics_port
        self._result: PipelineResult | None = None
        self._account = Account()
        self._by_sink: list[SinkAccount] = []
        self._over = threading.Event()
        self._teller = threading.Thread(target=self._tell, name="account lines", daemon=True)
        self._server: tuple[WSGIServer, threading.Thread] | None = None

    # --- as a sink -----------------------------------------------------------------------------

    def prepare(self) -> None:
        """Opens the port; raises ConfigError if that can't be done."""
        if not (math.isfinite(self._every_s) and self._every_s >= 0):
            raise ConfigError(
                f"--account_every={self._every_s:g}: must be 0 (no account lines) or more seconds"
            )
        if self._metrics_port is not None:
            self._server = _serve(self._metrics_port, _Figures(self))
            host, port = self._server[0].server_address[:2]
            shown = f"[{host!s}]" if ":" in str(host) else str(host)
            say(f"metrics: http://{shown}:{port}/metrics")

    def write(self, produced: Produced) -> None:
        """Adds the step that takes note of what the sinks are given."""
        _ = produced.readings | "Watch" >> beam.ParDo(_Watch())

    # --- while the job runs --------------------------------------------------------------------

    def __enter__(self) -> Self:
        LATENCY.begin()
        return self

    def follow(self, result: PipelineResult) -> None:
        """Looks at this job from now on, and begins with the account lines."""
        self._result = result
        if self._every_s:
            self._teller.start()

    def settled(self, everything: bool = True) -> None:
        """Told when every sink is done with all it was given; or was given before the last time."""
        LATENCY.settled(now_us(), everything)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        if self._teller.is_alive():
            self._teller.join()
        if self._server is not None:
            server, thread = self._server
            server.shutdown()
            server.server_close()
            thread.join()
            self._server = None
        LATENCY.end()

    # --- what is seen --------------------------------------------------------------------------

    def account(self) -> Account:
        """The account now; safe while the runner adds to it."""
        if self._result is not None:
            for _ in range(_LOOKS):
                try:
                    # The sinks first: they have nothing that was not handed to them before.
                    by_sink = tally.of(self._result, self._sinks(), self._account.superseded)
                    self._account, self._by_sink = account.of(self._result), by_sink
                    break
                except RuntimeError as error:
                    if "changed size" not in str(error):
                        raise
        return self._account

    def by_sink(self) -> list[SinkAccount]:
        """The sinks' accounts at the last look at the account."""
        return self._by_sink

    def lag(self) -> int | None:
        """Messages known to be unread."""
        return self._lag()

    def watermark_age_s(self) -> float | None:
        """How far event time is behind the clock, seconds; None before it is known."""
        at = self._watermark_us()
        return None if at is None or at == NEVER else (now_us() - at) / 1e6

    def latency_told(self) -> str:
        """The latency over the whole run, such as `latency p50 31 s p99 64 s`."""
        return _latency(LATENCY.histogram())

    def _tell(self) -> None:
        before, latency_before, then = self.account(), LATENCY.histogram(), time.monotonic()
        while not self._over.wait(self._every_s):
            try:
                found, latency, now = self.account(), LATENCY.histogram(), time.monotonic()
                rate = (found.read - before.read) / (now - then)
                recent = latency.since(latency_before)
                age_s, by_sink = self.watermark_age_s(), self.by_sink()
                why = (self._behind(), by_sink, self._trouble())
                say(line(found, rate, self.lag(), age_s, recent, *why))
            except Exception as error:  # noqa: BLE001 - one failed look must not end the looking
                _log.warning("no account line (%s)", error)
                continue
            before, latency_before, then = found, latency, now


def waiting(found: Account) -> int:
    """Readings that were read and no sink was given yet: they wait for their window.

    The counts are looked at one after the other while the job goes on, hence not below 0.
    """
    return max(0, found.read - found.written - found.duplicates - found.dead_letters)


def line(
    found: Account,
    rate: float,
    lag: int | None,
    age_s: float | None,
    latency: Histogram,
    behind: Behind | None = None,
    by_sink: Sequence[SinkAccount] = (),
    trouble: str | None = None,
) -> str:
    """The account of a running job as a line.

    Args:
        found: the counts since its start.
        rate: readings read per second, of late.
        lag: messages known to be unread.
        age_s: age of the watermark, seconds.
        latency: of late.
        behind: the partition that event time waits for, if it waits for one.
        by_sink: what each sink has of what it was given.
        trouble: why the source can't be read now, if so.
    """
    waits = [f"{waiting(found):,} for their window"]
    waits += [
        f"{rows:,} for {sink}" for sink, rows in tally.waiting(by_sink, found.written).items()
    ]
    return (
        f"so far: read {found.read:,}, written {tally.in_every(by_sink, found.written):,}, "
        f"waiting {', '.join(waits)}, "
        f"duplicates {found.duplicates:,}, dead letters {found.dead_letters:,}, "
        f"late {found.late:,}, corrected {found.corrected:,}; {rate:,.0f}/s, "
        f"lag {'unknown' if lag is None else f'{lag:,}'}, "
        f"watermark {'unknown' if age_s is None else f'{_seconds(age_s)} behind'}, "
        f"{_latency(latency)}"
        + ("" if behind is None else f"; {_waits_for(behind)}")
        + ("" if trouble is None else f"; nothing can be read: {trouble}")
    )


def _waits_for(behind: Behind) -> str:
    since = dt.datetime.fromtimestamp(behind.since_us / 1e6, dt.UTC).strftime("%H:%M:%S")
    why = (
        "which has given nothing yet"
        if behind.behind_us is None
        else f"{_seconds(behind.behind_us / 1e6)} behind the others"
    )
    return f"event time waits for partition {behind.partition}, {why}, since {since} UTC"


def _latency(latency: Histogram) -> str:
    if not latency.count:
        return "latency unknown"
    return f"latency p50 {_seconds(latency.quantile(0.5))} p99 {_seconds(latency.quantile(0.99))}"


def _seconds(value: float) -> str:
    if math.isinf(value):
        return f"over {BOUNDS_S[-1]:,.0f} s"
    return f"{value:,.0f} s" if value >= 10 else f"{value:.1f} s"


class _Figures(Collector):
    """The job's figures at the moment Prometheus asks."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def collect(self) -> Iterable[Metric]:
        found = self._watch.account()
        by_sink = self._watch.by_sink()
        written = tally.in_every(by_sink, found.written)
        for name, text, value in (
            ("readings_read", "Messages and rows the source gave.", found.read),
            ("readings_written", "Readings that every sink has.", written),
            ("readings_duplicates", "Exact repetitions that were dropped.", found.duplicates),
            ("dead_letters", "Messages that could not become a reading.", found.dead_letters),
            ("readings_late", "Readings written out of order: they came too late.", found.late),
            ("readings_corrected", "Versions that another one supersedes.", found.corrected),
            ("readings_flagged", "Readings written with a quality flag.", found.flagged),
            ("messages_lost", "Messages deleted before they were read.", found.lost),
        ):
            yield CounterMetricFamily(f"battery_pipeline_{name}", text, value=value)
        for name, text, level in (
            ("waiting_readings", "Readings that wait for their window.", waiting(found)),
            ("lag_messages", "Messages known to be unread.", self._watch.lag()),
            ("watermark_age_seconds", "Event time's delay.", self._watch.watermark_age_s()),
        ):
            if level is not None:
                yield GaugeMetricFamily(f"battery_pipeline_{name}", text, value=level)
        rows = CounterMetricFamily(
            "battery_pipeline_sink_rows",
            "Rows that a sink was given, by what became of them.",
            labels=("sink", "table", "outcome"),
        )
        waits = GaugeMetricFamily(
            "battery_pipeline_waiting_for_sink_readings",
            "Readings that wait for a sink to commit them.",
            labels=("sink",),
        )
        behind = tally.waiting(by_sink, found.written)
        for each in by_sink:
            waits.add_metric([each.sink], behind.get(each.sink, 0))
            for table, fate in each.tables.items():
                for name in tally.NAMES if fate.given else ():
                    rows.add_metric([each.sink, table, name], getattr(fate, name))
        yield from (rows, waits)
        latency = LATENCY.histogram()
        bounds = [*map(str, BOUNDS_S), "+Inf"]
        yield HistogramMetricFamily(
            "battery_pipeline_end_to_end_latency_seconds",
            "From a reading's arrival to its being durable in every sink.",
            buckets=list(zip(bounds, np.cumsum(latency.counts).tolist(), strict=True)),
            sum_value=latency.total_s,
        )


def _serve(given: str, figures: Collector) -> tuple[WSGIServer, threading.Thread]:
    """Shows the figures, and this process's memory and CPU, at PORT or HOST:PORT."""
    host, _, port = given.rpartition(":")
    if not (port.isascii() and port.isdigit() and int(port) < 1 << 16):
        raise ConfigError(f"--metrics_port={given}: must be PORT or HOST:PORT, such as 9108")
    registry = CollectorRegistry()
    registry.register(figures)
    ProcessCollector(registry=registry)
    try:
        return start_http_server(int(port), host.strip("[]") or _HOST, registry)
    except PermissionError as error:
        raise ConfigError(
            f"--metrics_port={given}: not allowed ({error.strerror}); give a port above 1023"
        ) from error
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no such host"
        raise ConfigError(
            f"--metrics_port={given}: can't listen there ({reason}); give a port that is free, and "
            "a HOST of this machine (0.0.0.0 for all networks)"
        ) from error
