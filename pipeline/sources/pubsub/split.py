"""Reads a subscription without end as a splittable source, for engines that checkpoint what they took.

Messages are acknowledged when a checkpoint surely has them (`outstanding`). Until then their leases
are extended here. What an engine loses, because it goes back to a checkpoint or a worker dies, is
delivered again; what it had already is left out by whoever writes it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial

import apache_beam as beam
import pyarrow as pa
from apache_beam.metrics import Metrics
from apache_beam.transforms.window import TimestampedValue

from pipeline.clock import now_us
from pipeline.connect.pubsub import PubSubAddress
from pipeline.engines.checkpointed import Word
from pipeline.errors import SourceFailed
from pipeline.sources.live.endless import NUMBERS, WATERMARK, advance, go_on, moment
from pipeline.sources.live.offsets import Span
from pipeline.sources.live.positions import Run, table
from pipeline.sources.live.reader import CommitFailed, Fetched, believed_times
from pipeline.sources.live.watermark import NEVER, PATIENCE_US, Watermark
from pipeline.sources.pubsub.broker import PubSubBroker
from pipeline.sources.pubsub.outstanding import Batch, Outstanding
from transforms.batch import RawBatch
from transforms.decoded import Decoded
from transforms.rejects import Rejects

_log = logging.getLogger(__name__)

_PAUSE_S = 0.1
# So long messages are kept for an engine that says nothing of them, or asks for none.
LONGEST_S = 600.0
# Nothing is pulled for an engine that has not asked for so long: its readers may be elsewhere now.
_UNASKED_S = 5.0
# While nothing comes, the engine's word is asked for so often.
_WORD_S = 0.5
_WAITS = ("a checkpoint", "more frequent checkpoints need fewer")


@dataclass(frozen=True)
class Subscription:
    """What every worker needs to know to read.

    Attributes:
        address: the subscription.
        name: the source as readings' origins carry it.
        disorder_us: see `Watermark`.
        decode: decodes a raw batch; the watermark needs its event times.
        run: which run it is.
    """

    address: PubSubAddress
    name: str
    disorder_us: int
    decode: Callable[[RawBatch], tuple[Decoded, Rejects]]
    run: str = ""


# Whether the readers in this process, which are all where the runner calls back into it, are to
# come to an end.
_ending = threading.Event()


class _Reader:
    """One of the numbered readers, kept by a worker from call to call."""

    def __init__(self) -> None:
        self.calls = threading.Lock()
        self.outstanding = Outstanding()
        self._asked_s = float("-inf")

    def is_word_due(self, now_s: float) -> bool:
        """Whether the engine is to say when this call's bundle is finished, though it gave nothing."""
        if not self.outstanding or now_s - self._asked_s < _WORD_S:
            return False
        self._asked_s = now_s
        return True


class Intake:
    """All that this process reads of a subscription, for however many readers it has.

    Pub/Sub shares messages out among all that pull. So readers of one process pull together, and
    have one event time: one that happens to get nothing holds up nobody.
    """

    def __init__(self, subscription: Subscription) -> None:
        self._subscription = subscription
        self._asked_s = time.monotonic()
        self._readers: dict[int, _Reader] = {}
        self._lock = threading.Lock()
        self._acknowledging = threading.Lock()
        self._watermark = Watermark(subscription.disorder_us)
        # How far event time has come, and since when there has been nothing left to read.
        self.reached_us = NEVER
        self._ended_us: int | None = None
        self.broker = PubSubBroker(
            subscription.address,
            subscription.name,
            waits=_WAITS,
            wanted=self._is_asked,
            beat=self.look_after,
        )
        self.broker.open(lambda: None)

    def reader(self, number: int) -> _Reader:
        """The reader of that number."""
        with self._lock:
            return self._readers.setdefault(number, _Reader())

    def begin(self, reader: _Reader, start: int) -> None:
        """A reader goes on at a number; what the engine does not know of any more is given back."""
        lost = reader.outstanding.begin(start)
        if not lost:
            return
        _log.warning(
            "%s: the engine went back to a checkpoint; %d messages are delivered again",
            self._subscription.name, len(lost),
        )  # fmt: skip
        self.broker.give_back(lost)
        with self._lock:
            # They were part of how far event time had come.
            self._watermark, self.reached_us = Watermark(self._subscription.disorder_us), NEVER

    def fetch(self) -> Fetched:
        """What has come; waits about a tenth of a second if nothing has.

        Raises:
            SourceFailed: the subscription can't be read any more.
        """
        self._asked_s = time.monotonic()
        try:
            return self.broker.fetch()
        except RuntimeError as error:
            # The engine tries again, with a client that knows nothing of this.
            _forget(self)
            self.broker.close()
            raise SourceFailed(str(error)) from error

    def saw(self, decoded: Decoded) -> None:
        """Takes note of the event times that a reader gives to its engine."""
        latest = believed_times(decoded, now_us()).latest
        if len(latest):
            with self._lock:
                self._watermark.saw(0, int(latest.max()))

    def look(self, fetched: Fetched, at_us: int) -> int:
        """How far event time has come, µs since 1970. Where nothing comes for long it holds nothing up.

        The engine takes the least of all readers', and knows of none that it is idle.

        Args:
            fetched: what was fetched last.
            at_us: the clock.
        """
        ended = bool(fetched.ended)
        with self._lock:
            if not ended:
                self._ended_us = None
            elif self._ended_us is None:
                self._ended_us = at_us
            self._watermark.ended({0} if ended else (), at_us)
            found = self._watermark.at(at_us, answered=self.broker.trouble is None)
            idle = self._ended_us is not None and at_us - self._ended_us > PATIENCE_US
            if idle and found == NEVER:
                found = at_us - PATIENCE_US - self._subscription.disorder_us
            self.reached_us = max(self.reached_us, found)
            return self.reached_us

    def heard(self, reader: _Reader, word: Word) -> None:
        """The engine says that a call's bundle is finished: what is surely durable is acknowledged."""
        reader.outstanding.heard(word, time.monotonic())
        # Many are finished at once; whoever comes later finds it done, or the next word does.
        if self._acknowledging.acquire(blocking=False):
            try:
                self._acknowledge(reader, reader.outstanding.durable())
            finally:
                self._acknowledging.release()

    def _acknowledge(self, reader: _Reader, done: list[Batch]) -> None:
        if not done:
            return
        try:
            self.broker.commit([{0: batch.keys} for batch in done])
        except CommitFailed as error:
            _log.warning(
                "%s: %d messages not acknowledged, trying again (%s)",
                self._subscription.name, sum(len(batch.keys) for batch in done), error,
            )  # fmt: skip
        else:
            reader.outstanding.settled(set(done))

    def _is_asked(self) -> bool:
        return not _ending.is_set() and time.monotonic() - self._asked_s < _UNASKED_S

    def look_after(self) -> None:
        """Gives back what an engine has said nothing of for LONGEST_S; called twice a second."""
        before_s = time.monotonic() - LONGEST_S
        with self._lock:
            readers = list(self._readers.values())
        found = [key for each in readers for key in each.outstanding.given_up(before_s)]
        if found:
            _log.warning(
                "%s: no checkpoint for %.0f s; %d messages are given back and delivered again, and "
                "left out where they were written",
                self._subscription.name, LONGEST_S, len(found),
            )  # fmt: skip
            self.broker.give_back(found)
        if self._asked_s < before_s:
            self.broker.give_back_ahead()

    def finish(self) -> None:
        """After the job's end, when every sink has everything: acknowledges all that was given."""
        for reader in self._readers.values():
            self._acknowledge(reader, reader.outstanding.all())
            if reader.outstanding:
                _log.warning(
                    "%s: the last messages could not be acknowledged; the next run reads them "
                    "again and drops them", self._subscription.name,
                )  # fmt: skip
        self.broker.close()


_intakes: dict[tuple[str, str], Intake] = {}
_making = threading.Lock()


def _intake(subscription: Subscription) -> Intake:
    key = (subscription.address.subscription_path, subscription.run)
    with _making:
        if key not in _intakes:
            _intakes[key] = Intake(subscription)
        return _intakes[key]


def _forget(intake: Intake) -> None:
    with _making:
        for key in [key for key, each in _intakes.items() if each is intake]:
            del _intakes[key]


class _Read(beam.DoFn):
    """(subscription, reader's number) → raw batches, with event-time watermarks.

    The restriction counts messages, so that what a reader has given is known by its number.
    """

    def __init__(self) -> None:
        self._read = Metrics.counter("account", "read")

    @beam.DoFn.unbounded_per_element()
    def process(  # type: ignore[no-untyped-def]
        self,
        element: tuple[Subscription, int],
        finalizer=beam.DoFn.BundleFinalizerParam,  # Beam wants it before the other two
        tracker=NUMBERS,
        watermark=WATERMARK,
    ) -> Iterable[TimestampedValue]:
        subscription, number = element
        intake = _intake(subscription)
        reader = intake.reader(number)
        some = False
        with reader.calls:
            start = int(tracker.current_restriction().start)
            intake.begin(reader, start)
            if not _ending.is_set():
                fetched = intake.fetch()
                keys = fetched.positions.get(0, ())
                some = bool(keys) and tracker.try_claim(start + len(keys) - 1)
                if some:
                    reader.outstanding.gave(keys, time.monotonic())
                    yield self._batch(subscription, number, intake, fetched, start)
                elif keys:
                    intake.broker.give_back(keys)
                advance(watermark, intake.look(fetched, now_us()))
            if some or reader.is_word_due(time.monotonic()):
                word = reader.outstanding.word()
                finalizer.register(partial(intake.heard, reader, word))
        go_on(tracker, 0 if some else _PAUSE_S, _ending)

    def _batch(
        self,
        subscription: Subscription,
        number: int,
        intake: Intake,
        fetched: Fetched,
        start: int,
    ) -> TimestampedValue:
        batch = fetched.batch
        assert batch is not None
        rows = batch.table.num_rows
        decoded = subscription.decode(batch)
        self._read.inc(rows)
        reached_us = intake.reached_us
        intake.saw(decoded[0])
        positions = self._positions(subscription, number, Span(start, start + rows, rows))
        return TimestampedValue(
            replace(batch, ahead=decoded, positions=positions), moment(reached_us)
        )

    @staticmethod
    def _positions(subscription: Subscription, number: int, span: Span) -> pa.Table:
        """The rows of what one batch holds; they are brought together behind it."""
        run = Run(subscription.run, subscription.name, subscription.address.name)
        return table(run.of_span(number, span, now_us()))


def end() -> None:
    """Lets the readers in this process come to an end."""
    _ending.set()


def finish() -> None:
    """Acknowledges what was read in this process; after the job's end, when every sink has it."""
    if not _ending.is_set():
        return  # it was not drained
    for intake in list(_intakes.values()):
        _forget(intake)
        intake.finish()


class ReadSplit(beam.PTransform):
    """Raw batches of a subscription, for runners that checkpoint what they were given.

    Args:
        subscription: what to read.
        readers: how many read at the same time.
    """

    def __init__(self, subscription: Subscription, readers: int) -> None:
        super().__init__()
        self._subscription = subscription
        self._readers = readers

    def expand(self, begin: beam.pvalue.PBegin) -> beam.PCollection:
        """Adds the steps."""
        _ending.clear()
        for intake in list(_intakes.values()):
            _forget(intake)
            intake.broker.close()
        return (
            begin
            | "Readers" >> beam.Create([(self._subscription, at) for at in range(self._readers)])
            | "Spread" >> beam.Reshuffle()
            | "Read" >> beam.ParDo(_Read()).with_output_types(RawBatch)
        )
