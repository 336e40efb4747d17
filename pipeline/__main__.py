"""python -m pipeline: reads a source, writes lake and warehouse, prints the account."""

from __future__ import annotations

from pipeline.running.stopping import (  # takes signals from here on
    EARLY,
    StoppedEarly,
    stop_on_signals,
)

import gc
import logging
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from types import TracebackType

import apache_beam as beam
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
from tqdm import tqdm

from pipeline import account, describe, failures, job, options, outcome, registry
from pipeline.engines import Stopped, choose
from pipeline.engines.results import PipelineResult
from pipeline.errors import ConfigError, SourceFailed
from pipeline.options import JobConfig
from pipeline.progress import PROGRESS
from pipeline.running.checkpoint import Checkpoint
from pipeline.running.open_cycles import OpenCycles
from pipeline.running.watch import Watch
from pipeline.shown import say
from pipeline.sinks import Sink
from pipeline.sinks.base import background, tally
from pipeline.sources import Source, Told
from pipeline.stores import local

_log = logging.getLogger(__name__)


@contextmanager
def _progress_bar(source: Source, shown: bool) -> Iterator[None]:
    """A bar of what has been read; only on a terminal."""
    total = source.total if shown else None
    if total is None:
        yield
        return
    PROGRESS.reset()
    over = threading.Event()
    with tqdm(
        total=total, unit=source.unit, unit_scale=True, desc="reading", disable=None, leave=False
    ) as bar:

        def follow() -> None:
            while not over.wait(0.2):
                bar.update(PROGRESS.done - bar.n)
                if bar.n >= total:
                    bar.set_description("ordering and writing")

        watcher = threading.Thread(target=follow, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            over.set()
            watcher.join()


def run(config: JobConfig, beam_options: PipelineOptions) -> int:
    """Runs the job to its end; returns the exit status.

    That is 0, or 1 if an account does not balance, a file gave nothing but dead letters, or a topic
    had lost messages before they were read.
    """
    choose.check(beam_options)
    FileSystems.set_options(beam_options)
    engine = choose.engine(beam_options)
    kept = Checkpoint(config.checkpoint) if config.checkpoint and engine.one_process else None
    open_cycles = OpenCycles(kept.path) if kept and config.cycles else None
    watch = Watch(
        lambda: source.lag,
        lambda: source.watermark_us,
        config.account_every_s,
        config.metrics_port,
        lambda: source.behind,
        lambda: sinks,
        lambda: source.trouble,
    )

    def look_again() -> None:
        since_s = kept.others_since_s if kept else started_s
        for sink in sinks:
            sink.look_again(since_s)

    def settled(everything: bool) -> None:
        background.settle(everything)
        watch.settled(everything)

    def committing(since_s: float | None) -> None:
        # Before the checkpoint: offsets are only committed for what both hold.
        if open_cycles is not None:
            open_cycles.save()
        (kept.save if kept else Told.committing)(since_s)

    started_s = time.time()
    told = Told(settled, committing, look_again)
    source = registry.source(config, engine, told)
    sinks = registry.sinks(config, kept.since_s if kept else None, engine)
    if config.metrics_port and not source.live:
        raise ConfigError("--metrics_port is for a job with a live source; drop it")
    EARLY.check()
    source.check()
    registry.check_model(config)
    EARLY.check()
    choose.ready(beam_options)
    if config.dry_run:
        return _dry_run(config, beam_options, source, sinks)
    sinks += [*([kept] if kept else []), *([open_cycles] if open_cycles else [])]
    sinks += [watch] if source.live else []
    started = time.monotonic()
    # A live job that runs here has no other process.
    tally.PROCESS.begin(asked=engine.here and (engine.one_process or source.live))
    with watch, ExitStack() as open_sinks:
        for sink in sinks:
            EARLY.check()
            open_sinks.push(partial(_let_go, sink))
            sink.prepare()
        result, failed = _finished(config, beam_options, source, sinks, watch, kept, open_cycles)
    if written := choose.only_written(beam_options):
        say(f"the job is written to {written}; nothing was read")
        return 0
    found, beside = account.of(result), outcome.of(result)
    latency = watch.latency_told() if source.live else ""
    by_sink = tally.of(result, sinks, found.superseded)
    kept_at_all = any(each.readings for each in by_sink)
    saved = choose.saved(result)
    shown = found.lines(time.monotonic() - started, latency, kept_at_all, saved)
    for line in (*shown, *tally.lines(by_sink, found.written, saved), *beside.lines()):
        say(line)
    if failed is not None:
        raise failed
    complaints = beside.complaints()
    for line in complaints:
        say(line, error=True)
    # A live job continues; it warned when it noticed.
    losses = [] if source.live else beside.losses()
    for line in losses:
        say(line, error=True)
    if complaints or (losses and not config.allow_data_loss):
        return 1
    # Other engines' counters may miss what a bundle that was tried again had counted; there the
    # tables tell.
    balances = found.balances and all(each.balances(found.written) for each in by_sink)
    return 0 if balances or engine.repeats_bundles else 1


def _let_go(
    sink: Sink,
    _kind: type[BaseException] | None,
    error: BaseException | None,
    _trace: TracebackType | None,
) -> None:
    """Closes a sink; its error is only logged where the job has failed already."""
    try:
        sink.finish()
    except Exception as another:
        if error is None:
            raise
        _log.warning("%s", failures.line(another))


def _dry_run(
    config: JobConfig, beam_options: PipelineOptions, source: Source, sinks: Sequence[Sink]
) -> int:
    """Checks everything, prints configuration and graph, and has the runner translate it."""
    for sink in sinks:
        sink.check()
    beam_options.view_as(StandardOptions).streaming |= source.live
    chosen = choose.choose(beam_options, source.live)
    pipeline = beam.Pipeline(runner=chosen, options=beam_options)
    job.build(pipeline, config, source, sinks, engine=choose.engine(beam_options))
    for line in (
        *describe.configuration(config, choose.name(beam_options)),
        "",
        *describe.graph(pipeline),
    ):
        say(line)
    if not choose.engine(beam_options).here:
        # Pickles every step, as the engine would be given it.
        pipeline.to_runner_api()
    say("", "everything is there; nothing was read or written")
    return 0


@contextmanager
def _collecting(live: bool) -> Iterator[None]:
    """Within it the collector leaves alone what was there before.

    What is read would make it look through all that was imported, again and again: a sixth of the
    time of a backlog. A live job looks once first, because it runs for long.
    """
    if live:
        gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _finished(
    config: JobConfig,
    beam_options: PipelineOptions,
    source: Source,
    sinks: Sequence[Sink],
    watch: Watch,
    kept: Checkpoint | None,
    open_cycles: OpenCycles | None,
) -> tuple[PipelineResult, SourceFailed | None]:
    """The result of the job, which has come to its end; a live one when it was asked to.

    And why its source could not be read any more, or not be told what was; all that was read
    before is written then.
    """
    stopping = threading.Event()

    def stop() -> None:
        stopping.set()
        source.stop()

    beam_options.view_as(StandardOptions).streaming |= source.live
    chosen = choose.choose(beam_options, source.live)
    engine = choose.engine(beam_options)
    shown = config.progress and engine.here
    shuffle = choose.shuffle(engine, source.live)
    # A live source here asks what is durable before it gives anything back.
    ahead = background.writing_ahead() if source.live and engine.here else nullcontext()
    # What a live source gave is forgotten; other input is read again if this run fails.
    on_disk = nullcontext() if source.live or kept else local.synced_at_end()
    with ahead, on_disk, shuffle, _collecting(source.live), _progress_bar(source, shown):
        pipeline = beam.Pipeline(runner=chosen, options=beam_options)
        remembered = kept.remembered() if kept else None
        going_on = open_cycles.remembered() if open_cycles else None
        cells = open_cycles.cells() if open_cycles and config.model else []
        job.build(pipeline, config, source, sinks, remembered, going_on, cells, engine)
        EARLY.check()
        written = choose.only_written(beam_options)
        if not source.live or written:
            EARLY.end()
        # Another engine takes the job first, if its flags are right.
        if engine.here:
            failures.reads()
        source.start()
        result = pipeline.run()
        failures.reads()
        if written:
            return result, None
        if source.live:
            result = choose.followed(beam_options, result, stopping.is_set)
            watch.follow(result)
        if engine.stopped is Stopped.ELSEWHERE:
            _follow_elsewhere(result, beam_options)
            return result, None
        # Only now: some runners put handlers of their own in place when they start.
        with stop_on_signals(stop) if source.live else nullcontext():
            result.wait_until_finish()
        failed = None
        try:
            source.finish()
        except SourceFailed as error:
            failed = error
    for sink in sinks:
        sink.complete()
    return result, failed


def _follow_elsewhere(result: PipelineResult, beam_options: PipelineOptions) -> None:
    """Waits for a job that goes on without this process."""
    EARLY.end()
    try:
        if EARLY.asked:
            signal.raise_signal(signal.SIGINT)
        result.wait_until_finish()
    except KeyboardInterrupt:
        say(choose.drain_hint(beam_options, result.job_id()), error=True)
        sys.exit(130)


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status: 2 for a flag or resource the user can mend."""
    argv = sys.argv[1:] if argv is None else argv
    failures.begin(argv)
    EARLY.imported()
    try:
        beam_options = options.parse(argv)
        return run(options.config_from(beam_options), beam_options)
    except StoppedEarly as error:
        say(str(error), error=True)
        return 0
    except (KeyboardInterrupt, Exception) as error:  # noqa: BLE001 - each ends in one line
        # A runner wraps what a step raised.
        wrapped = isinstance(error, RuntimeError) and "KeyboardInterrupt" in str(error)
        if isinstance(error, Exception) and not wrapped:
            return failures.ended(error, argv)
        say("interrupted; running it again goes on safely", error=True)
        return 130


if __name__ == "__main__":
    sys.exit(main())
