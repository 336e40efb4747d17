"""python -m pipeline.publish: sends a source's readings to a Kafka or Pub/Sub topic."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from tqdm import tqdm

from pipeline import failures, registry, scratch
from pipeline.connect.topics import Topic, Undelivered, topic_at
from pipeline.errors import ConfigError
from pipeline.options import JobConfig
from pipeline.progress import PROGRESS
from pipeline.publishing.merge import WHAT, TimeOrder
from pipeline.publishing.messages import Outgoing, Reading
from pipeline.publishing.options import Publication, publication
from pipeline.publishing.pacing import Pace
from pipeline.publishing.position import Position
from pipeline.publishing.window import GaveUp, Window
from pipeline.shown import address, say
from pipeline.sources.files.source import FileSource
from pipeline.sources.simulation.source import SimulatorSource
from transforms.batch import RawBatch
from transforms.dead_letter import DeadLetter
from transforms.limits import Limits

_FLAG = "--to"
_SAVE_EVERY_S = 1.0


def _source(config: JobConfig) -> FileSource | SimulatorSource:
    source = registry.source(config)
    if not isinstance(source, FileSource | SimulatorSource):
        raise ConfigError(
            f"--source={address(config.source)}: only files and simulator: can be published; the job "
            "keeps what it reads from a topic in its lake, which can"
        )
    return source


def _position(what: Publication, source: FileSource | SimulatorSource) -> Position:
    """The position in just these messages in just this order."""
    job = what.job
    deciding = {
        "--source": job.source,
        "--to": what.to,
        "order": "time" if what.by_time else "source",
        "--time_zone": job.zone,
        "--date_order": str(job.day_first),
        "--equipment_id": str(job.equipment_id),
        "--dialect": repr(job.dialects),
        # Which rows are refused, and so stand last in their batch, is the profiles' to say.
        "--equipment_profile": repr(job.profiles),
    }
    if isinstance(source, FileSource):
        digest = hashlib.blake2b(digest_size=16)
        for split in source.found:
            digest.update(repr((split.path, split.size, split.modified_us)).encode())
        deciding["files"] = digest.hexdigest()
    return Position(what.resume, deciding)


class _Messages:
    """The messages of a source in its order, from a position on.

    Attributes:
        left_out: what of the source could not be read, so that there is no message of it.
    """

    def __init__(
        self, source: FileSource | SimulatorSource, how: Reading, stop: threading.Event
    ) -> None:
        self._source = source
        self._outgoing = Outgoing(how)
        self._stop = stop
        self.left_out: list[DeadLetter] = []

    def tables(self, skipped: int = 0) -> Iterator[pa.Table]:
        """Tables of schema OUTGOING; ends early at a stop."""
        self.left_out.clear()
        for raw in self._source.batches():
            if self._stop.is_set():
                return
            if isinstance(raw, RawBatch):
                rows = raw.table.num_rows
                if skipped >= rows:
                    skipped -= rows
                    continue
                yield self._outgoing.of(raw).slice(skipped)
                skipped = 0
            else:
                self.left_out.append(raw)


def _after(tables: Iterator[pa.Table], skipped: int) -> Iterator[pa.Table]:
    for table in tables:
        passed = min(skipped, table.num_rows)
        skipped -= passed
        if passed < table.num_rows:
            yield table.slice(passed)


def _up_to(tables: Iterator[pa.Table], limit: int | None) -> Iterator[pa.Table]:
    left = math.inf if limit is None else limit
    for table in tables:
        if table.num_rows >= left:
            yield table.slice(0, int(left))
            return
        left -= table.num_rows
        yield table


@contextlib.contextmanager
def _bar(title: str, total: int | None, unit: str, shown: bool) -> Iterator[Any]:
    with tqdm(total=total, unit=unit, unit_scale=True, desc=title, leave=False,
              disable=None if shown else True) as bar:  # fmt: skip
        yield bar


def _send(
    what: Publication,
    tables: Iterator[pa.Table],
    window: Window,
    position: Position,
    begun_at: int,
    stop: threading.Event,
    show: Callable[[], None],
) -> None:
    """Sends all tables, saving the position as the broker acknowledges."""
    pace = Pace(what.rate, what.speed, stop)
    saved_at = time.monotonic()
    try:
        for table in tables:
            for piece in pace.pieces(table):
                window.send(piece)
                show()
                if time.monotonic() > saved_at + _SAVE_EVERY_S:
                    position.save(begun_at + window.acknowledged)
                    saved_at = time.monotonic()
            if stop.is_set():
                break
        window.drain()
    finally:
        position.save(begun_at + window.acknowledged)


def _publish(what: Publication, stop: threading.Event) -> int:
    source, topic = _source(what.job), topic_at(what.to, _FLAG)
    source.check()
    if what.partitions is not None:
        topic.create(what.partitions)
    topic.check()
    position = _position(what, source)
    begun_at = position.load()
    how = Reading(
        limits=Limits(what.job.profiles),
        time_zone=what.job.zone,
        day_first=what.job.day_first,
        timed=what.by_time,
        by_arrival=isinstance(source, SimulatorSource),
        stamped=what.stamped,
    )
    messages = _Messages(source, how, stop)
    PROGRESS.reset()
    with contextlib.ExitStack() as until_sent:
        if what.by_time:
            folder = until_sent.enter_context(scratch.folder(WHAT, "publish-"))
            tables, total = _in_time_order(what, messages, folder, begun_at)
            unit = "readings"
        else:
            tables, total = messages.tables(begun_at), source.total or 0
            unit = source.unit
            if unit != "B":
                total = min(total - begun_at, what.limit or total)
        return _run(what, topic, _up_to(tables, what.limit), (total, unit), position, begun_at,
                    messages, stop)  # fmt: skip


def _in_time_order(
    what: Publication, messages: _Messages, folder: Path, begun_at: int
) -> tuple[Iterator[pa.Table], int]:
    order = TimeOrder(folder)
    with _bar("sorting", None, "readings", what.job.progress) as bar:

        def counted() -> Iterator[pa.Table]:
            for table in messages.tables():
                bar.update(table.num_rows)
                yield table

        order.add(counted())
    left = max(order.rows - begun_at, 0)
    return _after(order.tables(), begun_at), min(left, what.limit or left)


def _run(
    what: Publication,
    topic: Topic,
    tables: Iterator[pa.Table],
    measure: tuple[int, str],
    position: Position,
    begun_at: int,
    messages: _Messages,
    stop: threading.Event,
) -> int:
    window = Window(topic, stop)
    started = time.monotonic()
    failure: Exception | None = None
    with _bar("publishing", *measure, what.job.progress) as bar:

        def show() -> None:
            bar.update((PROGRESS.done if measure[1] == "B" else window.acknowledged) - bar.n)

        try:
            _send(what, tables, window, position, begun_at, stop, show)
        except (Undelivered, GaveUp) as error:
            failure = error
    seconds = time.monotonic() - started
    topic.close()
    sent = window.acknowledged - window.too_large
    say(f"published {sent:,} to {topic}; {seconds:.1f} s, {sent / max(seconds, 1e-9):,.0f}/s")
    if window.too_large:
        _warn(f"{window.too_large:,} messages are larger than the topic takes and were left out")
    if messages.left_out:
        first = messages.left_out[0]
        _warn(
            f"{len(messages.left_out):,} pieces of the source could not be read and were left out; "
            f"the first: {first.source_file} {first.position or ''}: {first.error_message}"
        )
    go_on = (
        f"the same command goes on after them (--resume={what.resume})"
        if what.resume
        else "with --resume=FILE the same command would go on after them"
    )
    if isinstance(failure, Undelivered):
        _warn(f"the broker did not take more ({failure}); {go_on}")
        return 1
    if stop.is_set():
        _warn(f"stopped; {go_on}")
    return 0


def _warn(line: str) -> None:
    say(line, error=True)


@contextlib.contextmanager
def _stoppable() -> Iterator[threading.Event]:
    """An event that the first SIGINT or SIGTERM sets; the next one interrupts."""
    stop = threading.Event()

    def ask(*_: Any) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status.

    0: published, or stopped by a signal; 1: the broker did not take everything; 2: a flag or
    resource the user can mend; 130: interrupted twice.
    """
    argv = sys.argv[1:] if argv is None else argv
    failures.begin(argv)
    # During an outage it prints every try; what matters of it is told here.
    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    try:
        what = publication(argv)
        with _stoppable() as stop:
            return _publish(what, stop)
    except KeyboardInterrupt:
        _warn("interrupted; what was acknowledged is published")
        return 130
    except Exception as error:  # noqa: BLE001 - each ends in one line
        return failures.ended(error, argv)


if __name__ == "__main__":
    sys.exit(main())
