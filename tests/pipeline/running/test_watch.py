"""A running job tells what it has done: lines, Prometheus metrics over HTTP, latency."""

from __future__ import annotations

import math
import re
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.metrics.cells import DistributionData
from apache_beam.metrics.execution import MetricKey, MetricUpdates
from apache_beam.metrics.metricbase import MetricName
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
from apache_beam.runners.direct.direct_metrics import DirectMetrics
from apache_beam.runners.runner import PipelineResult
from prometheus_client.parser import text_string_to_metric_families

from pipeline import account, job
from pipeline.account import Account
from pipeline.engines import choose as runner
from pipeline.engines.polling import Polled, ReadLive
from pipeline.errors import ConfigError
from pipeline.options import JobConfig
from pipeline.running.watch import BOUNDS_S, LATENCY, Histogram, Latency, Watch, line
from pipeline.sources import Behind, Received
from pipeline.sources.live.reader import counted
from pipeline.sources.live.watermark import NEVER
from tests.messages import PROFILES, messages, reading

SECOND = 1_000_000
ROWS = 200


def histogram(seconds: np.ndarray[Any, Any]) -> Histogram:
    latency = Latency()
    latency.begin()
    now_us = 2_000_000_000 * SECOND
    latency.given(now_us - np.round(seconds * 1e6).astype(np.int64))
    latency.settled(now_us)
    return latency.histogram()


# --- latency ---------------------------------------------------------------------------------


def test_latencies_are_counted_in_their_bucket_with_its_upper_bound_inside() -> None:
    found = histogram(np.array([0.05, 0.1, 0.101, 60.0, 60.002, 3600.0, 4000.0]))
    by_bound = dict(zip((*BOUNDS_S, math.inf), found.counts.tolist(), strict=True))
    assert {bound: count for bound, count in by_bound.items() if count} == {
        0.1: 2,
        0.2: 1,
        60.0: 1,
        75.0: 1,
        3600.0: 1,
        math.inf: 1,
    }
    assert found.count == 7
    assert found.total_s == pytest.approx(0.05 + 0.1 + 0.101 + 60 + 60.002 + 3600 + 4000)


def test_quantiles_are_interpolated_within_their_bucket() -> None:
    seconds = np.random.default_rng(7).uniform(5, 60, 100_000)
    found = histogram(seconds)
    for share in (0.01, 0.5, 0.9, 0.99, 1.0):
        assert found.quantile(share) == pytest.approx(np.quantile(seconds, share), abs=0.3)
    assert histogram(np.full(100, 7.0)).quantile(0.5) == pytest.approx(7.5)


def test_a_quantile_beyond_the_last_bound_is_infinite_and_of_nothing_unknown() -> None:
    assert histogram(np.array([1.0, 9000.0])).quantile(0.99) == math.inf
    assert math.isnan(histogram(np.array([])).quantile(0.5))


def test_what_came_since_an_earlier_look() -> None:
    first, both = histogram(np.array([1.0])), histogram(np.array([1.0, 7.0, 7.0]))
    recent = both.since(first)
    assert recent.count == 2
    assert recent.total_s == pytest.approx(14)
    assert 5 < recent.quantile(0.5) <= 10


def test_a_broker_whose_clock_is_ahead_gives_no_negative_latency() -> None:
    found = histogram(np.array([-30.0]))
    assert found.counts[0] == 1
    assert found.total_s == 0


def test_latency_is_measured_when_the_sinks_are_done_not_before() -> None:
    latency = Latency()
    latency.begin()
    latency.given(np.full(5, 100 * SECOND))
    assert latency.histogram().count == 0
    latency.settled(104 * SECOND)
    latency.settled(200 * SECOND)
    assert latency.histogram().count == 5
    assert latency.histogram().total_s == pytest.approx(20)


def test_nothing_is_kept_where_nobody_tells_that_it_is_durable() -> None:
    latency = Latency()
    latency.given(np.arange(1000))
    assert not latency._waiting
    latency.begin()
    latency.settled(SECOND)
    assert latency.histogram().count == 0
    latency.given(np.arange(1000))
    latency.end()
    latency.given(np.arange(1000))
    latency.settled(SECOND)
    assert latency.histogram().count == 0
    assert not latency._waiting


def test_what_is_kept_is_bounded_and_still_right_to_the_second() -> None:
    latency = Latency()
    latency.begin()
    arrived = np.arange(3_000_000, dtype=np.int64) * 1000  # a reading each ms, for 50 minutes
    most = 0
    for part in np.array_split(arrived, 300):
        latency.given(part)
        most = max(most, sum(times.nbytes + counts.nbytes for times, counts in latency._waiting))
    assert most < 20 << 20
    latency.settled(3_000 * SECOND)
    found = latency.histogram()
    assert found.count == 3_000_000
    assert found.total_s == pytest.approx(3_000_000 * 1500, rel=1e-3)


# --- the line --------------------------------------------------------------------------------


def test_the_line_of_a_running_job() -> None:
    found = Account(read=1_204_511, written=1_203_900, duplicates=1, dead_letters=4, late=12)
    told = line(found, 20_115.4, 611, 6.23, histogram(np.full(100, 1.4)))
    assert told == (
        "so far: read 1,204,511, written 1,203,900, waiting 606 for their window, duplicates 1, dead letters 4, "
        "late 12, corrected 0; 20,115/s, lag 611, watermark 6.2 s behind, latency p50 1.5 s p99 2.0 s"
    )


def test_the_line_says_what_is_not_known() -> None:
    told = line(Account(), 0, None, None, histogram(np.array([])))
    assert told.endswith("; 0/s, lag unknown, watermark unknown, latency unknown")
    told = line(Account(), 0, None, None, histogram(np.array([])), trouble="there is no topic x")
    assert told.endswith(", latency unknown; nothing can be read: there is no topic x")
    assert "over 3,600 s" in line(Account(), 0, 0, 0, histogram(np.array([9e4])))


def test_the_line_names_what_event_time_waits_for_and_since_when() -> None:
    since_us = 1_717_243_200 * SECOND
    for behind_us, why in (
        (600 * SECOND, "600 s behind the others"),
        (None, "which has given nothing yet"),
    ):
        told = line(Account(), 0, 0, 0, histogram(np.array([1.0])), Behind(3, behind_us, since_us))
        assert told.endswith(f"; event time waits for partition 3, {why}, since 12:00:00 UTC")


# --- the flag --------------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["many", "", "localhost:", "65536", "-1", "1.5", "a:b:c"])
def test_a_port_that_is_none_is_named(given: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"--metrics_port={given}: must be PORT or")):
        Watch(lambda: None, lambda: None, metrics_port=given).prepare()


def test_a_port_in_use_is_named_with_the_fix() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"--metrics_port={port}: .*in use.*that is free"):
            Watch(lambda: None, lambda: None, metrics_port=str(port)).prepare()


@pytest.mark.parametrize("host", ["203.0.113.7", "no-such-host.invalid", "x" * 70])
def test_a_host_of_another_machine_is_named_with_the_fix(host: str) -> None:
    with pytest.raises(ConfigError, match=rf"--metrics_port={host}:9108: .*HOST of this machine"):
        Watch(lambda: None, lambda: None, metrics_port=f"{host}:9108").prepare()


@pytest.mark.parametrize("seconds", [-1, math.nan, math.inf])
def test_an_interval_that_is_none_is_named(seconds: float) -> None:
    with pytest.raises(ConfigError, match="--account_every="):
        Watch(lambda: None, lambda: None, every_s=seconds).prepare()


def test_only_this_machine_reaches_the_port_unless_the_flag_says_otherwise() -> None:
    for given, host in (("0", "127.0.0.1"), ("0.0.0.0:0", "0.0.0.0")):
        with Watch(lambda: None, lambda: None, metrics_port=given) as watch:
            watch.prepare()
            assert watch._server is not None
            assert watch._server[0].server_address[0] == host


# --- a live job ------------------------------------------------------------------------------


class Endless:
    """A live source of good readings, one refused message and one repetition in every batch."""

    unit = "readings"
    live = True

    def __init__(self) -> None:
        self.over = threading.Event()
        self.watermark_us = NEVER
        self.watch: Watch | None = None
        self._polls = 0

    def settled(self, before_us: int) -> None:
        assert self.watch is not None
        self.watch.settled()

    def poll(self) -> Polled:
        if self.over.is_set():
            return Polled([], self.watermark_us, done=True)
        time.sleep(0.02)
        now_us = time.time_ns() // 1000
        self._polls += 1
        rows: list[Any] = [
            reading(
                equipment_id=f"cell-{row % 3}",
                recorded_at=(now_us - (ROWS - row)) / 1e6,
                record_index=self._polls * ROWS + row,
            )
            for row in range(ROWS)
        ]
        rows += [rows[0], b"no JSON"]
        # They arrived four seconds ago.
        batch = messages(rows, arrived=[now_us - 4 * SECOND] * len(rows))
        self.watermark_us = now_us - SECOND // 2
        return Polled([batch], self.watermark_us)

    def read(self, pipeline: beam.Pipeline) -> Received:
        return Received(counted(pipeline | "Live" >> ReadLive("Live", self)), None, None)


@contextmanager
def live_job(**given: Any) -> Iterator[tuple[Endless, Watch, PipelineResult]]:
    """A job on the local streaming runner that goes on until its source's `over` is set."""
    source = Endless()
    options = PipelineOptions([])
    options.view_as(StandardOptions).streaming = True
    with Watch(lambda: 611, lambda: source.watermark_us, **given) as watch:
        source.watch = watch
        watch.prepare()
        pipeline = beam.Pipeline(runner=runner.choose(options, live=True), options=options)
        config = JobConfig(
            profiles=PROFILES, window_us=SECOND, launched_at_us=time.time_ns() // 1000, shards=2
        )
        job.build(pipeline, config, source, [watch])
        result = pipeline.run()
        watch.follow(result)
        try:
            yield source, watch, result
        finally:
            source.over.set()
            result.wait_until_finish()


def scrape(watch: Watch) -> dict[str, Any]:
    """The metric families, by name, as Prometheus would understand them."""
    assert watch._server is not None
    port = watch._server[0].server_address[1]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        assert answer.status == 200
        text = answer.read().decode()
    return {family.name: family for family in text_string_to_metric_families(text)}


def figure(families: dict[str, Any], name: str) -> float:
    (sample,) = families[f"battery_pipeline_{name}"].samples
    return float(sample.value)


def wait_for_written(watch: Watch, readings: int) -> dict[str, Any]:
    until = time.monotonic() + 60
    while figure(families := scrape(watch), "readings_written") < readings:
        assert time.monotonic() < until, "the job writes nothing"
        time.sleep(0.1)
    return families


def test_prometheus_sees_a_job_while_it_runs_and_the_same_account_at_its_end() -> None:
    with live_job(every_s=0, metrics_port="0") as (source, watch, result):
        running = wait_for_written(watch, 3 * ROWS)
        assert figure(running, "readings_read") > figure(running, "readings_written")
        assert figure(running, "waiting_readings") > 0
        assert figure(running, "lag_messages") == 611
        assert 0.4 < figure(running, "watermark_age_seconds") < 10
        source.over.set()
        result.wait_until_finish()
        watch.settled()
        ended = scrape(watch)
        found = account.of(result)
        assert found.balances
        assert figure(ended, "readings_read") == found.read
        assert figure(ended, "readings_written") == found.written
        assert figure(ended, "readings_duplicates") == found.duplicates
        assert figure(ended, "dead_letters") == found.dead_letters
        assert figure(ended, "readings_late") == found.late
        assert figure(ended, "readings_flagged") == found.flagged
        assert figure(ended, "waiting_readings") == 0
        assert found.dead_letters == found.read / (ROWS + 2)
        assert found.duplicates == found.read / (ROWS + 2)
        latency = ended["battery_pipeline_end_to_end_latency_seconds"]
        assert latency.type == "histogram"
        counts = [s.value for s in latency.samples if s.name.endswith("_bucket")]
        assert counts == sorted(counts)
        assert len(counts) == len(BOUNDS_S) + 1
        (total,) = (s.value for s in latency.samples if s.name.endswith("_count"))
        (sum_s,) = (s.value for s in latency.samples if s.name.endswith("_sum"))
        assert total == counts[-1] == found.written
        # Four seconds before the job had them, and up to a window and the disorder bound after.
        assert 4 < sum_s / total < 8
    assert all(family.documentation for family in ended.values())
    kinds = {name: family.type for name, family in ended.items()}
    assert kinds["battery_pipeline_readings_read"] == "counter"
    assert kinds["battery_pipeline_lag_messages"] == "gauge"


def test_beams_own_metric_holds_the_latency_of_every_reading() -> None:
    with live_job(every_s=0, metrics_port="0") as (source, watch, result):
        wait_for_written(watch, ROWS)
        source.over.set()
        result.wait_until_finish()
        (found,) = result.metrics().query()["distributions"]
        assert found.key.metric == MetricName("account", "latency_ms")
        assert found.committed.min >= 4000
        assert 4000 <= found.committed.mean < 8000
        assert found.committed.count >= account.of(result).written / 100


def test_account_lines_come_while_the_job_runs(capsys: pytest.CaptureFixture[str]) -> None:
    lines: list[str] = []
    with live_job(every_s=0.3):
        until = time.monotonic() + 60
        while sum("latency p50" in line for line in lines) < 2:
            assert time.monotonic() < until, lines
            time.sleep(0.1)
            lines += capsys.readouterr().out.splitlines()
    told = [line for line in lines if line.startswith("so far: read ")]
    reads = [int(line.split()[3].rstrip(",").replace(",", "")) for line in told]
    assert reads == sorted(reads)
    assert reads[-1] > reads[0]
    assert re.search(r"; [\d,]+/s, lag 611, watermark \d+\.\d s behind, latency p50 \d", told[-1])
    capsys.readouterr()
    time.sleep(0.7)
    assert capsys.readouterr().out == ""  # it is over


def test_the_port_is_free_again_after_the_job() -> None:
    with live_job(every_s=0, metrics_port="0") as (_, watch, _):
        scrape(watch)
        assert watch._server is not None
        port = watch._server[0].server_address[1]
    with pytest.raises(urllib.error.URLError, match="refused"):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5)
    with Watch(lambda: None, lambda: None, metrics_port=str(port)) as watch:
        watch.prepare()
        assert figure(scrape(watch), "readings_read") == 0
        assert "battery_pipeline_lag_messages" not in scrape(watch)  # not known
    assert LATENCY._waiting == []


# --- looked at while the runner adds to it ---------------------------------------------------


class _Looked:
    """What `account.of` needs of a result, over Beam's own metrics of a local run."""

    def __init__(self) -> None:
        self.found = DirectMetrics()

    def metrics(self) -> DirectMetrics:
        return self.found


def test_the_account_can_be_looked_at_while_the_runner_adds_metrics() -> None:
    result = _Looked()
    over = threading.Event()

    def add() -> None:
        step = 0
        while not over.is_set():
            step = (step + 1) % 2000
            if not step:
                result.found._counters.clear()
            key = MetricKey(f"step {step}", MetricName("account", "read"))
            times = MetricKey(f"step {step}", MetricName("account", "latency_ms"))
            updates = MetricUpdates({key: 1}, {times: DistributionData(1, 1, 1, 1)})
            result.found.commit_logical(None, updates)
            result.found.commit_physical(object(), updates)

    adding = threading.Thread(target=add)
    adding.start()
    try:
        watch = Watch(lambda: None, lambda: None, every_s=0)
        watch.follow(result)  # type: ignore[arg-type]
        disturbed = 0
        until = time.monotonic() + 30
        while disturbed < 20 and time.monotonic() < until:
            watch.account()
            try:
                account.of(result)  # type: ignore[arg-type]
            except RuntimeError:
                disturbed += 1
    finally:
        over.set()
        adding.join()
    assert disturbed, "Beam has mended it; the second look can go"
