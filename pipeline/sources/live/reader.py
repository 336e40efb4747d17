"""Reads a broker in a thread of its own, and gives back its positions when all is durable."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.metrics import Metrics

from pipeline.clock import now_us, steady_us
from pipeline.engines.polling import Polled
from pipeline.errors import ConfigError, SourceFailed
from pipeline.shown import address
from pipeline.sources import Behind, Told
from pipeline.sources.live.positions import Ledger
from pipeline.sources.live.watermark import NEVER, Watermark
from transforms.batch import MESSAGES, BatchKind, Origin, RawBatch
from transforms.decoded import Decoded
from transforms.rejects import Rejects
from transforms.sequence import I64

_log = logging.getLogger(__name__)

# Fetched and decoded ahead of the pipeline, so that it never waits for the network.
_AHEAD = 6
_POLL_S = 0.1
# Between commits at least this long; and so many times as long as what goes with one takes.
_COMMIT_S = 5.0
_COMMIT_SHARE = 20
# A reading may be dated this far ahead of its arrival (`transforms.validate`); what is dated later
# becomes a dead letter and waits for no window.
_MOST_AHEAD_US = 300_000_000
# A batch without messages lets the raw archive write what it has gathered.
_NOTHING = RawBatch(MESSAGES.empty_table(), BatchKind.MESSAGES, Origin(""))
# Between two looks whether the pipeline, which is behind, has taken a batch.
_FULL_S = 0.02
# No call of a client takes as long as this, whatever the network does. Looked for as often as the
# source is polled; what passes between two looks counts no more than this, for the machine or this
# process may have been stopped meanwhile.
_HUNG_S = 120.0
_LOOK_COUNTS_S = 1.0
# How long the end of a run waits for the broker to take the last positions.
_LAST_COMMIT_S = 15.0
# How long partitions are kept from their next reader; less than a group waits for a member.
_HAND_OVER_S = 4.0


@dataclass(frozen=True)
class Fetched:
    """What a broker gave at once.

    Attributes:
        batch: the messages; None if nothing came.
        rows: per partition the number of its messages in `batch`, in the order they stand there.
        positions: per partition what is to be given back once the messages are durable.
        ended: the partitions with nothing left to read.
        lag: messages known to be left, or None.
        complete: whether `ended` says so of all that this job may still be given; what a reader
            that died had taken may come again later.
    """

    batch: RawBatch | None
    rows: Mapping[int, int] = field(default_factory=dict)
    positions: Mapping[int, Any] = field(default_factory=dict)
    ended: Collection[int] = ()
    lag: int | None = None
    complete: bool = True


class Broker(Protocol):
    """A connection to a broker; every call but `refused` comes from one and the same thread."""

    @property
    def trouble(self) -> str | None:
        """Why nothing can be read now, though the broker is asked again and again."""

    def open(self, hand_over: Callable[[], None]) -> None:
        """Connects.

        `hand_over` is to be called, from any thread, before partitions go to another reader: it
        gives back what the pipeline has not taken (see `refused`), waits until the pipeline has
        written what it has taken, but for readings that wait for their window, and commits what
        is durable.
        """

    def refused(self, fetched: Fetched) -> None:
        """Was fetched in vain, because partitions move: of those that stay it is fetched again.

        Called from the thread that calls `hand_over`, too.
        """

    def partitions(self) -> Collection[int]:
        """The partitions that are read now."""

    def fetch(self) -> Fetched:
        """What has come; waits about a tenth of a second if nothing has."""

    def rest(self) -> None:
        """Called now and then while nothing is fetched because the pipeline is busy."""

    def commit(self, positions: Sequence[Mapping[int, Any]], wait: bool = True) -> None:
        """Gives back positions whose messages every sink has, oldest first.

        Where it raises CommitFailed it is called again later, with these and newer ones. With
        `wait` false it only sends, because `hand_over` was called where nothing may block.
        """

    def close(self) -> None:
        """Disconnects."""


@dataclass(frozen=True)
class _Ready:
    fetched: Fetched
    batch: RawBatch | None
    watermark_us: int
    last: bool
    watermark: Watermark


@dataclass
class _UnderWay:
    number: int
    positions: Mapping[int, Any]
    taken_us: int
    last: bool  # of what there was at some moment since this run began
    # When the pipeline had taken it: what waits since a later moment is none of it.
    through_us: int | None = None


class LiveReader:
    """Between a broker's own thread and the local streaming runner (a `engines.polling.Pollable`).

    Args:
        broker: what to read.
        decode: decodes a raw batch, which the watermark needs and the pipeline then finds done.
        disorder_us: see `Watermark`.
        told: what the job wants to know.
        now_us: the machine's clock.
        steady_us: the clock by which the pipeline's steps say since when something waits.
        ledger: is told what the pipeline takes, and gives what is to be written down of it.
    """

    def __init__(
        self,
        broker: Broker,
        decode: Callable[[RawBatch], tuple[Decoded, Rejects]],
        disorder_us: int,
        told: Told,
        now_us: Callable[[], int] = now_us,
        steady_us: Callable[[], int] = steady_us,
        ledger: Ledger | None = None,
    ) -> None:
        self._broker = broker
        self._ledger = ledger
        self._decode = decode
        self._watermark = Watermark(disorder_us)
        # As it was when the pipeline took its last batch; what is refused must not move it.
        self._taken = self._watermark.copy()
        self._told = told
        self._now_us = now_us
        self._steady_us = steady_us
        self._ready: queue.Queue[_Ready] = queue.Queue(maxsize=_AHEAD)
        self._durable: queue.SimpleQueue[Mapping[int, Any]] = queue.SimpleQueue()
        # The pipeline's side: what it has taken and some sink may lack, and what none lacks.
        self._under_way: deque[_UnderWay] = deque()
        self._settled: list[Mapping[int, Any]] = []
        self._polls = self._settled_polls = 0
        self._waits_us = NEVER
        self._commit_at = 0.0
        # The broker's side: what is to go to the pipeline next, and what the broker is owed.
        self._owed: list[Mapping[int, Any]] = []
        self._commit_failed = False
        self._beats = self._beats_seen = 0
        self._silent_s = self._looked_at = 0.0
        self._stopping = threading.Event()
        self._finished = threading.Event()
        self._handing_over = threading.Event()
        # What goes to the pipeline, and what is refused, is decided under the lock. Nothing that
        # was fetched before or while partitions move may overtake what was refused then: its
        # positions would be given back while the others are to be read again.
        self._offering = threading.Lock()
        self._moves = 0
        self._refused = False
        self._flushing = False
        self._handed_over = threading.Event()
        self._caught_up = False
        self._partitions: set[int] = set()
        self._failed: BaseException | None = None
        self._trouble: str | None = None
        self._thread = threading.Thread(target=self._work, name="broker", daemon=True)
        self.watermark_us = NEVER
        self._lag: int | None = None

    @property
    def trouble(self) -> str | None:
        """Why nothing can be read now."""
        return self._broker.trouble

    @property
    def lag(self) -> int | None:
        """Messages that the pipeline has not taken; None where that is not known."""
        left = self._lag
        with self._ready.mutex:
            ready = sum(sum(each.fetched.rows.values()) for each in self._ready.queue)
        return None if left is None else left + ready

    @property
    def behind(self) -> Behind | None:
        """What event time waits for; None for nothing."""
        return self._taken.behind

    # --- the pipeline's side -------------------------------------------------------------------

    def start(self) -> None:
        """Begins to read."""
        self._looked_at = time.monotonic()
        self._thread.start()

    def stop(self) -> None:
        """Reads no further; what was fetched already still goes through the pipeline."""
        self._stopping.set()

    def settled(self, before_us: int) -> None:
        """See `engines.polling.Pollable`."""
        # Sinks write while the next poll goes through the pipeline, so this is about the last one;
        # before partitions go it is about all.
        self._told.settled(self._flushing)
        now_us = self._steady_us()
        for poll in self._under_way:
            if poll.through_us is None:
                poll.through_us = now_us
        border_us, self._waits_us = self._waits_us, before_us
        taken, self._settled_polls = self._settled_polls, self._polls
        if self._flushing:
            border_us, taken = before_us, self._polls
        while self._under_way and self._is_durable(self._under_way[0], taken, border_us):
            done = self._under_way.popleft()
            self._settled.append(done.positions)
            self._caught_up |= done.last
        soon = self._handing_over.is_set() or self._stopping.is_set()
        if self._settled and (soon or time.monotonic() >= self._commit_at):
            self._give_back()
        if self._flushing:
            self._flushing = False
            self._handed_over.set()

    @staticmethod
    def _is_durable(poll: _UnderWay, taken: int, border_us: int) -> bool:
        return poll.number <= taken and poll.through_us is not None and poll.through_us < border_us

    def _give_back(self) -> None:
        began = time.monotonic()
        # What is remembered counts as written: it must be, down to the last release.
        self._told.settled(True)
        oldest = self._under_way[0].taken_us if self._under_way else self._now_us()
        self._told.committing(oldest / 1e6 if self._caught_up else None)
        for positions in self._settled:
            self._durable.put(positions)
        self._settled = []
        ended = time.monotonic()
        self._commit_at = ended + max(_COMMIT_S, _COMMIT_SHARE * (ended - began))

    def poll(self) -> Polled:
        """See `engines.polling.Pollable`."""
        if self._handing_over.is_set() and not self._flushing:
            # Whoever reads these partitions next must find in the archive what this job has read.
            self._flushing = True
            return Polled([_NOTHING], self.watermark_us)
        try:
            ready = self._ready.get(timeout=_POLL_S)
        except queue.Empty:
            self._look_after()
            over = self._stopping.is_set() or self._failed is not None
            return Polled(self._written_down(over), self.watermark_us, done=over)
        self.watermark_us, self._taken = ready.watermark_us, ready.watermark
        if ready.batch is None:
            if ready.last and self._under_way:
                self._under_way[-1].last = True
            else:
                self._caught_up |= ready.last
            return Polled(self._written_down(), self.watermark_us)
        self._polls += 1
        positions = ready.fetched.positions
        self._under_way.append(_UnderWay(self._polls, positions, self._now_us(), ready.last))
        if self._ledger is not None:
            self._ledger.took(positions)
        return Polled([ready.batch, *self._written_down()], self.watermark_us)

    def _written_down(self, end: bool = False) -> list[RawBatch]:
        """What is due to be written down of what was read, as a batch without messages."""
        due = None if self._ledger is None else self._ledger.due(end)
        return [] if due is None else [due]

    def _look_after(self) -> None:
        now, before = time.monotonic(), self._looked_at
        self._looked_at = now
        if self._beats != self._beats_seen:
            self._beats_seen, self._silent_s = self._beats, 0.0
            return
        self._silent_s += min(now - before, _LOOK_COUNTS_S)
        if self._silent_s > _HUNG_S and not self._stopping.is_set():
            self._failed = TimeoutError(f"its client has not come back for {self._silent_s:.0f} s")

    def finish(self) -> None:
        """After the pipeline has ended and every sink has everything: gives back all positions.

        Raises:
            SourceFailed: it ended because reading failed, or while nothing could be read.
        """
        self._stopping.set()
        self._settled += [taken.positions for taken in self._under_way]
        self._under_way.clear()
        self._give_back()
        self._finished.set()
        self._thread.join(_LAST_COMMIT_S)
        if self._failed is not None:
            raise SourceFailed(
                f"reading the source failed ({self._failed}); what was read before is written, and "
                "running the job again goes on safely"
            ) from self._failed
        if self._owed or not self._durable.empty() or self._thread.is_alive():
            _log.warning(
                "the last positions could not be committed; the next run reads the messages "
                "behind them again and drops them"
            )
        if self._trouble is not None:
            raise SourceFailed(
                f"the job was stopped while its source could not be read ({self._trouble}); what "
                "was read before is written, and a restart resumes behind it"
            )

    # --- the broker's side ---------------------------------------------------------------------

    def _work(self) -> None:
        try:
            self._broker.open(self._hand_over)
            while not self._stopping.is_set():
                self._beats += 1
                self._commit()
                moves = self._moves
                if self._refused:
                    self._refused = False
                    self._watermark = self._taken.copy()
                self._offer(self._prepare(self._broker.fetch()), moves)
            self._trouble = self._broker.trouble
            while not self._finished.wait(0.05):
                self._commit()
                self._broker.rest()
            until = time.monotonic() + _LAST_COMMIT_S - 1
            while not self._commit() and time.monotonic() < until:
                self._broker.rest()
                time.sleep(_POLL_S)
            self._broker.close()
        except BaseException as error:  # noqa: BLE001 - raised on the pipeline's side
            self._failed = error

    def _offer(self, ready: _Ready, moves: int) -> None:
        rest_at = time.monotonic()
        while not self._stopping.is_set():
            with self._offering:
                if moves != self._moves or self._handing_over.is_set():
                    self._broker.refused(ready.fetched)
                    self._refused = True
                    return
                if not self._ready.full():
                    self._ready.put_nowait(ready)
                    return
            self._beats += 1
            now = time.monotonic()
            if now >= rest_at:
                rest_at = now + _POLL_S
                self._commit()
                self._broker.rest()
            time.sleep(_FULL_S)

    def _prepare(self, fetched: Fetched) -> _Ready:
        now_us = self._steady_us()
        self._lag = fetched.lag
        partitions = set(self._broker.partitions())
        if partitions - self._partitions:
            self._told.taking_over()
        self._partitions = partitions
        self._watermark.keep(partitions)
        batch = fetched.batch
        if batch is not None:
            decoded = self._decode(batch)
            self._take_note(decoded[0], fetched)
            batch = replace(batch, ahead=decoded)
        self._watermark.ended(fetched.ended, now_us)
        # While no broker answers nobody can catch up.
        watermark_us = self._watermark.at(now_us, answered=fetched.lag is not None or bool(batch))
        last = fetched.complete and bool(partitions) and partitions <= set(fetched.ended)
        known = self._watermark.copy()
        return _Ready(fetched, batch, watermark_us, last, known)

    def _take_note(self, decoded: Decoded, fetched: Fetched) -> None:
        """Tells the watermark what each partition gave."""
        assert fetched.batch is not None
        times = believed_times(decoded, self._now_us())
        partitions = np.repeat(np.array(list(fetched.rows)), list(fetched.rows.values()))
        numbers = partitions[times.rows]
        for number in np.unique(numbers).tolist():
            self._watermark.saw(number, int(times.latest[numbers == number].max()))

    def _commit(self, wait: bool = True) -> bool:
        """Gives back what is durable; returns whether nothing is owed any more."""
        while True:
            try:
                self._owed.append(self._durable.get_nowait())
            except queue.Empty:
                break
        if self._owed:
            try:
                self._broker.commit(self._owed, wait)
                self._owed = []
                self._commit_failed = False
            except CommitFailed as error:
                if not self._commit_failed:
                    _log.warning("positions not committed, trying again (%s)", error)
                self._commit_failed = True
        return not self._owed

    def _hand_over(self) -> None:
        with self._offering:
            self._moves += 1
            self._refused = True
            # At once: what the pipeline still takes must not come after what is given back.
            with self._ready.mutex:
                given_back = list(self._ready.queue)
                self._ready.queue.clear()
                self._ready.not_full.notify_all()
            for ready in given_back:
                self._broker.refused(ready.fetched)
            if not self._finished.is_set():
                self._handed_over.clear()
                self._handing_over.set()
        if self._handing_over.is_set():
            if not self._handed_over.wait(_HAND_OVER_S):
                _log.warning("partitions go to another job while their messages are being written")
            self._handing_over.clear()
        self._commit(wait=False)


class Times(NamedTuple):
    """Event times of a batch's readings, µs, each of shape (n,).

    Attributes:
        rows: their rows in the raw batch.
        latest: as the watermark takes them, no later than the message's arrival: a producer whose
            clock is ahead must not make everybody else late.
    """

    rows: I64
    latest: I64


def believed_times(decoded: Decoded, now_us: int) -> Times:
    """The times of what may become readings; what is dated too far ahead becomes a dead letter.

    Args:
        decoded: the batch.
        now_us: the clock; a job was launched before it, and refuses nothing earlier.
    """
    if not decoded.table.num_rows:
        nothing = np.empty(0, dtype=np.int64)
        return Times(nothing, nothing)
    rows = decoded.table.column("row").to_numpy()
    dated = decoded.table.column("recorded_at").cast(pa.int64()).to_numpy()
    arrived = decoded.raw.table.column("arrived_at").cast(pa.int64()).to_numpy()[rows]
    may_be = dated <= np.maximum(arrived, now_us) + _MOST_AHEAD_US
    rows, dated, arrived = rows[may_be], dated[may_be], arrived[may_be]
    return Times(rows, np.minimum(dated, arrived))


class CommitFailed(Exception):
    """A broker did not take positions now; it may later."""


class _CountRead(beam.DoFn):
    def __init__(self) -> None:
        self._read = Metrics.counter("account", "read")

    def process(self, raw: RawBatch) -> Iterable[RawBatch]:
        self._read.inc(raw.table.num_rows)
        yield raw


def counted(batches: beam.PCollection) -> beam.PCollection:
    """The batches, with their messages counted as read."""
    return batches | "Count" >> beam.ParDo(_CountRead()).with_output_types(RawBatch)


class LiveSource:
    """What sources have in common that a `LiveReader` reads in this process.

    Attributes:
        reader: the reader; None where another runner reads.
    """

    unit = "readings"
    takes_dialects = False
    takes_until_latest = True
    reader: LiveReader | None = None

    @property
    def lag(self) -> int | None:
        """Messages known to be unread; None where that is not known."""
        return None if self.reader is None else self.reader.lag

    @property
    def watermark_us(self) -> int | None:
        """How far event time has come, µs since 1970; None where that is not known."""
        return None if self.reader is None else self.reader.watermark_us

    @property
    def behind(self) -> Behind | None:
        """What event time waits for; None for nothing, or where that is not known."""
        return None if self.reader is None else self.reader.behind

    @property
    def trouble(self) -> str | None:
        """Why it can't be read now; None if it can, or where that is not known."""
        return None if self.reader is None else self.reader.trouble

    def start(self) -> None:
        """Begins to read, where this process does; called when the graph is built."""
        if self.reader is not None:
            self.reader.start()

    def stop(self) -> None:
        """Reads no further; what was read goes through the pipeline, then the job ends."""
        if self.reader is not None:
            self.reader.stop()

    def finish(self) -> None:
        """Gives back all positions; to be called when every sink has everything."""
        if self.reader is not None:
            self.reader.finish()


_DEFAULT_DISORDER_S = 5.0


def disorder_us(uri: str, seconds: str | None) -> int:
    """The disorder bound that a source's parameter gives, in µs; ConfigError if it can't be."""
    try:
        bound = _DEFAULT_DISORDER_S if seconds is None else float(seconds)
    except ValueError:
        bound = -1.0
    if not 0 <= bound <= 86_400:
        raise ConfigError(f"--source={address(uri)}: disorder={seconds} must be 0 to 86400 seconds")
    return round(bound * 1e6)
