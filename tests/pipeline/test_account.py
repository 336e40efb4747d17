"""The account is that of the moment it is asked for, on runners that answer over the network too."""

from __future__ import annotations

import threading

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.portable_runner import PipelineResult

from pipeline import account
from pipeline.account import Account
from pipeline.running.watch import Watch
from pipeline.sinks.base.tally import Kept, SinkAccount

_MAY_GO_ON = threading.Event()


class Read(beam.DoFn):
    """Counts a reading; the steps run in this process, so that the test can hold them up."""

    def __init__(self) -> None:
        self._read = Metrics.counter(account.NAMESPACE, "read")

    def process(self, number: int) -> list[int]:
        assert _MAY_GO_ON.wait(60)
        self._read.inc()
        return [number]


def test_a_portable_runner_is_asked_anew_at_every_look() -> None:
    _MAY_GO_ON.clear()
    options = PipelineOptions(
        ["--runner=PortableRunner", "--job_endpoint=embed", "--environment_type=LOOPBACK"]
    )
    pipeline = beam.Pipeline(options=options)
    _ = pipeline | beam.Create(list(range(7))) | beam.ParDo(Read())
    result = pipeline.run()
    assert isinstance(result, PipelineResult)
    watch = Watch(lambda: None, lambda: None, every_s=0)
    watch.follow(result)
    try:
        # Metrics that a job answers with before it counts anything are not its last word.
        assert watch.account() == Account()
    finally:
        _MAY_GO_ON.set()
        result.wait_until_finish()
    assert watch.account() == account.of(result) == Account(read=7)


def test_what_a_savepoint_holds_is_told_as_such() -> None:
    found = Account(read=10, written=6, duplicates=1)
    (first, *_) = found.lines(1.0, saved=True)
    assert first == "read 10 = written 6 + duplicates 1 + dead letters 0 + in the savepoint 3"
    (first, *_) = found.lines(1.0)
    assert first == "read 10 ≠ written 6 + duplicates 1 + dead letters 0"
    sink = SinkAccount("lake x", {"readings": Kept(stored=4)})
    assert sink.line(6, saved=True) == "lake x: stored 4, already there 0, in the savepoint 2"
    assert sink.line(6) == "lake x: given 6 ≠ stored 4, already there 0"
