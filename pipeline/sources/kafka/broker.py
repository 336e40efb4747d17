"""Reads a Kafka topic as a member of a consumer group, for the local streaming runner."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from kafka import ConsumerRebalanceListener, TopicPartition, errors
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.errors import KafkaError

from pipeline.connect.kafka import KafkaAddress
from pipeline.sources.kafka.client import Consumer, committed, known_offsets
from pipeline.sources.kafka.columns import Columns
from pipeline.sources.kafka.native import reader
from pipeline.sources.kafka.records import Records
from pipeline.sources.kafka.transactions import WAIT_S, OpenTransactions
from pipeline.sources.kafka.unpack import POLL_BYTES
from pipeline.sources.live.offsets import Gap, Placed, Span, replaced, told, why_compacted
from pipeline.sources.live.positions import Ledger
from pipeline.sources.live.reader import CommitFailed, Fetched
from transforms.budget import USUAL, Budget

_log = logging.getLogger(__name__)

BATCH_ROWS = 20_000
_LINGER_S = 0.1
# A restart after a crash has to wait until the group gives up the member that died.
_SESSION_MS = 10_000
_LOOK_S = 1.0
# A topic may seem to be away while a broker starts.
_GONE_S = 3.0
_CALL_MS = 5000
# A group's round takes seconds; then twice as long, up to this, is waited each time.
_JOIN_AGAIN_S = 3 * _SESSION_MS / 1000
_JOIN_AGAIN_MOST_S = 600.0

# What waiting does not mend; and what the group's next round does.
_FINAL = (
    errors.AuthorizationError,
    errors.SaslAuthenticationFailedError,
    errors.UnsupportedSaslMechanismError,
)
_SHARING_OUT = (
    errors.CommitFailedError,
    errors.IllegalGenerationError,
    errors.RebalanceInProgressError,
    errors.UnknownMemberIdError,
)


@dataclass
class _Found:
    """What polls gave of a partition.

    Attributes:
        first: the offset that they began with.
        records: in their order.
        following: the offset behind all of it.
        gaps: the offsets among them that gave no record.
        log: which log they are of.
    """

    first: int
    log: str | None
    records: Columns = field(default_factory=Columns)
    following: int = 0
    gaps: list[Gap] = field(default_factory=list)


class _Listener(ConsumerRebalanceListener):
    """Tells the broker of one client's partitions, unless that client was given up."""

    def __init__(self, broker: KafkaBroker, number: int) -> None:
        self._broker = broker
        self._number = number

    def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        if self._broker.joined == self._number:
            self._broker.revoked(revoked)

    def on_partitions_lost(self, lost: Collection[TopicPartition]) -> None:
        if self._broker.joined == self._number:
            self._broker.lost(lost)

    def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        if self._broker.joined == self._number:
            self._broker.assigned(assigned)


class KafkaBroker:
    """A `sources.live.reader.Broker` for a topic; positions are a `Span` per partition.

    Args:
        address: brokers and topic.
        group: the consumer group; it shares the partitions out among its members, and keeps the
            offsets from which a restart goes on.
        start: where partitions without committed offsets begin: `earliest`, `latest` or
            milliseconds since 1970.
        name: the source as readings' origins carry it.
        budget: what a message may take.
        former: the group whose offsets count where `group` has none.
        ledger: is told of offsets that gave no message and belong to nothing that is given.
        compacted: whether the topic is; None if that is not known.
        wait_s: how long an open transaction is waited for without a word.

    Attributes:
        joined: how often it has joined the group.
        trouble: see `sources.live.reader.Broker`.
    """

    def __init__(
        self,
        address: KafkaAddress,
        group: str,
        start: str | int,
        name: str,
        budget: Budget = USUAL,
        former: str | None = None,
        ledger: Ledger | None = None,
        compacted: bool | None = None,
        wait_s: float = WAIT_S,
    ) -> None:
        self._open = OpenTransactions(address.topic, wait_s)
        self._address = address
        self._former = former
        self._ledger = ledger
        self._compacted = compacted
        self._budget = budget
        self._group = group
        self._start = start
        self._records = Records(address.topic, name)
        self._consumer: Consumer | None = None
        self._hand_over: Callable[[], None] = lambda: None
        self._at_launch: set[int] = set()
        self._begun: dict[TopicPartition, int] = {}
        self._fresh: set[TopicPartition] = set()
        self.joined = 0
        self._leaving: frozenset[TopicPartition] = frozenset()
        # The next offset of each partition that is this member's.
        self._following: dict[int, int] = {}
        # What was passed behind that without a message.
        self._passed: dict[int, list[Gap]] = {}
        # Which log the topic is, and where its partitions were read to in one that is no more.
        self._log: str | None = None
        self._restart: dict[int, int] = {}
        self._left: dict[int, int] = {}
        self._anew = False
        self._gone_at: float | None = None
        self._topic_gone = False
        # Told by the client's own thread, done by the one that polls: where to fetch again, and
        # which partitions have gone.
        self._told = threading.Lock()
        self._back: dict[int, int] = {}
        self._gone: set[int] = set()
        self._looked_at = 0.0
        self._well_at = 0.0
        self._commits = True
        self._join_again_s = _JOIN_AGAIN_S
        self._answers = True
        self.trouble: str | None = None

    @property
    def consumer(self) -> Consumer:
        """The client, once open."""
        assert self._consumer is not None
        return self._consumer

    def open(self, hand_over: Callable[[], None]) -> None:
        """Joins the group."""
        self._hand_over = hand_over
        self._join()

    def _join(self) -> None:
        # While a broker is away the client reports every attempt; what matters is told here.
        logging.getLogger("kafka").setLevel(logging.CRITICAL)
        client = reader(
            self._address,
            self._budget,
            group_id=self._group,
            session_timeout_ms=_SESSION_MS,
            # Only partitions that move are taken away; the others are read on meanwhile.
            partition_assignment_strategy=[CooperativeStickyAssignor],
        )
        there = set(client.partitions_for_topic(self._address.topic) or ())
        # Only now: where no broker answers the one before it stays.
        self._consumer = client
        self._at_launch = self._at_launch or there
        self._fresh = set()
        self._well_at = time.monotonic()
        self._commits = True
        self.joined += 1
        self.consumer.subscribe([self._address.topic], listener=_Listener(self, self.joined))

    def partitions(self) -> Collection[int]:
        """The partitions the group gave to this member."""
        return [part.partition for part in self.consumer.assignment()]

    # The group has these called in the client's own thread while this one waits in a poll. Nothing
    # there may block for long or ask the broker.

    def revoked(self, revoked: Collection[TopicPartition]) -> None:
        """Before partitions go to another member: lets the pipeline finish what it has taken."""
        # The client has taken them out of its assignment by now, but not out of the group's.
        self._leaving = frozenset(revoked)
        self._give(revoked)
        self._leaving = frozenset()

    def _give(self, parts: Collection[TopicPartition]) -> None:
        with self._told:
            self._gone |= {part.partition for part in parts}
        self._hand_over()

    def lost(self, lost: Collection[TopicPartition]) -> None:
        """The group gave this member up; others read these partitions from what was committed."""
        _log.warning("the group %s gave %d partitions to other members", self._group, len(lost))
        self._give(lost)

    def refused(self, fetched: Fetched) -> None:
        """Remembers where to fetch again."""
        with self._told:
            for number, span in fetched.positions.items():
                if span.log == self._log:
                    self._back[number] = min(span.first, self._back.get(number, span.first))

    def _go_back(self, found: dict[TopicPartition, _Found]) -> None:
        """Does what the client's own thread was told; of what was `found` only the rest stays."""
        with self._told:
            back, gone = self._back, self._gone
            self._back, self._gone = {}, set()
        for number in gone:
            if (following := self._following.pop(number, None)) is not None:
                self._left[number] = following
            self._passed.pop(number, None)
            back.pop(number, None)
        for number in back:
            self._passed.pop(number, None)
        # Also where it has to join again first.
        self._following |= {number: back[number] for number in back if number in self._following}
        mine = self.consumer.assignment()
        for part in [part for part in found if part not in mine or part.partition in back]:
            del found[part]
        for part in mine:
            if part.partition in back and part not in self._fresh:
                self.consumer.seek(part, back[part.partition])

    def assigned(self, assigned: Collection[TopicPartition]) -> None:
        """Keeps new partitions waiting until it is known where to begin."""
        if assigned:
            self.consumer.pause(*assigned)
            self._fresh |= set(assigned)

    def _begin(self) -> None:
        """Puts new partitions where the group is, else where to start."""
        self._look_at_log()
        fresh = self._fresh & self.consumer.assignment()
        # A partition that was added while the job runs is read from its beginning.
        added = {part for part in fresh if part.partition not in self._at_launch}
        added = fresh if self._anew else added
        asked = (self.consumer, self._address)
        former = None if self._anew else self._former
        known = known_offsets(*asked, fresh - added, self._start, former, self._group)
        known |= known_offsets(*asked, added, "earliest", former, self._group)
        for part, each in known.items():
            where = Placed(each.at, each.gap)
            number = part.partition
            before = self._restart.pop(number, None)
            if not each.committed:
                self._begun[part] = each.at
                if before is not None:
                    where = replaced(before, each.at)
            # Where this member had to join again, it has read further.
            at = max(where.at, self._following.get(number, where.at))
            self._move(part, where._replace(at=at))
        self.consumer.resume(*fresh)
        self._fresh -= fresh

    def _move(self, part: TopicPartition, where: Placed) -> None:
        """Reads on elsewhere; tells what is missing because of it."""
        number = part.partition
        self.consumer.seek(part, where.at)
        self._following[number] = where.at
        self._left.pop(number, None)
        passed = self._passed.pop(number, [])
        if where.gap is not None:
            passed.append(where.gap)
            # So that the next run does not miss the same again.
            self._begun[part] = where.at
            _log.warning("%s", told(self._address.topic, number, where.gap))
        if self._ledger is not None:
            for gap in why_compacted(passed, self._compacted):
                self._ledger.gap(number, gap, self._log)

    def _look_at_log(self) -> None:
        """Notices that the topic is gone, or another one of its name."""
        topic, now = self._address.topic, time.monotonic()
        if not self.consumer.is_there(topic):
            self._gone_at = now if self._gone_at is None else self._gone_at
            if not self._topic_gone and self._answers and now - self._gone_at > _GONE_S:
                self._topic_gone = True
                self.trouble = f"there is no topic {topic} any more"
                _log.warning("there is no topic %s any more; waiting for it to be made anew", topic)
            return
        self._gone_at = None
        if self._topic_gone:
            self._topic_gone, self.trouble = False, None
            _log.warning("the topic %s is there again", topic)
        log = self.consumer.log(topic)
        if log is None or log == self._log:
            return
        if self._log is not None:
            # Its offsets mean other messages.
            self._anew = True
            self._restart |= self._left | self._following
            self._following, self._left, self._begun, self._passed = {}, {}, {}, {}
            with self._told:
                self._back = {}
            mine = self.consumer.assignment()
            self.consumer.pause(*mine)
            self._fresh |= mine
        self._log = log

    def _commit_begun(self) -> None:
        """Commits where it began: a crash before the first commit must not begin elsewhere."""
        mine = self.consumer.assignment()
        begun = {part: committed(at, self._log) for part, at in self._begun.items() if part in mine}
        if begun:
            self.consumer.commit(begun, timeout_ms=_CALL_MS)
        self._begun = {}

    def fetch(self) -> Fetched:
        """Up to BATCH_ROWS messages."""
        self._look_at_log()
        found = self._poll()
        ended, lag = self._how_far(bool(found))
        if not found:
            return Fetched(None, ended=ended, lag=lag)
        batch, counts = self._records.batch({part: each.records for part, each in found.items()})
        positions = {
            part.partition: Span(
                each.first,
                each.following,
                len(each.records),
                why_compacted(each.gaps, self._compacted),
                each.log,
            )
            for part, each in found.items()
        }
        return Fetched(batch, counts, positions, ended, lag)

    def _poll(self) -> dict[TopicPartition, _Found]:
        until = time.monotonic() + _LINGER_S
        found: dict[TopicPartition, _Found] = {}
        rows = size = 0
        # Now, while nothing is held that only the client it had would go on behind.
        self._join_again_if_forgotten()
        # Where a poll fails, what the ones before it gave must not be lost.
        with self._outages_waited_for():
            self._read_on(self.consumer.placed())
            while (
                rows < BATCH_ROWS and size < POLL_BYTES and (left := until - time.monotonic()) > 0
            ):
                self._go_on_joining()
                self._go_back(found)
                polled = self.consumer.columns(int(left * 1000), BATCH_ROWS - rows)
                rows += sum(map(len, polled.values()))
                size += self.consumer.polled_bytes if polled else 0
                moved = self._take(polled, found)
                if self._fresh:
                    self._begin()
                elif self._begun and not rows:
                    self._commit_begun()
                # What was read before a partition's position moved is given alone.
                if (not polled or moved) and rows:
                    break
        if rows:
            self._answered()
        self._go_back(found)
        return found

    def _take(
        self,
        polled: Mapping[TopicPartition, Columns],
        found: dict[TopicPartition, _Found],
    ) -> bool:
        """Puts a poll's records to those found before; returns whether a position moved."""
        for part, gaps in self.consumer.skipped().items():
            self._passed.setdefault(part.partition, []).extend(gaps)
        moved = self.consumer.placed()
        for part, records in polled.items():
            if part not in found:
                first = self._following.get(part.partition, records.first)
                found[part] = _Found(first, self._log)
            found[part].records.extend(records)
        for part, each in found.items():
            at = self.consumer.at(part)
            last = each.records.last + 1
            if at is None or part in moved or part in self._fresh:
                each.following = max(each.following, last)
                continue
            each.following = self._following[part.partition] = max(at, last)
            each.gaps += self._passed.pop(part.partition, [])
        self._read_on(moved)
        return bool(moved)

    def _read_on(self, moved: Mapping[TopicPartition, Placed]) -> None:
        """Goes where the log made it go, with the partitions that are still this member's."""
        for part, where in moved.items():
            if part in self.consumer.assignment():
                self._move(part, where)

    def _go_on_joining(self) -> None:
        """Before every poll: lets the client finish a round of the group that it has begun.

        kafka-python 3.0.12 forgets one that a poll's end has interrupted, if what made it necessary
        has passed: it then sends no heartbeats and waits for ever (1 start in 10 on a busy machine).
        """
        group = self.consumer._coordinator
        if group.rejoining and not group.need_rejoin():
            group.request_rejoin()

    def _join_again_if_forgotten(self) -> None:
        """Begins anew as a member that long has no partitions, or could not begin or commit.

        The client may lose its place while it joins, and then waits for ever. A job that is one
        too many has no partitions either: it asks ever more rarely.
        """
        now = time.monotonic()
        if self._gone_at is not None:
            self._well_at = now  # there are no partitions to be given
        elif self.consumer.assignment() and not self._fresh and self._commits:
            self._well_at, self._join_again_s = now, _JOIN_AGAIN_S
        elif self._answers and now - self._well_at > self._join_again_s:
            _log.warning(
                "no place in the group %s for %.0f s; joining again",
                self._group,
                self._join_again_s,
            )
            self._join_again_s = min(2 * self._join_again_s, _JOIN_AGAIN_MOST_S)
            given_up = self.consumer
            with self._outages_waited_for():
                self._join()
                # It may hang, as clients do that lost their place.
                threading.Thread(
                    target=given_up.close, args=(False, 1000), name="given up", daemon=True
                ).start()

    def _how_far(self, came: bool) -> tuple[set[int], int | None]:
        """The partitions with nothing left, and how much is left in all; nothing in an outage.

        `came`: whether the poll before this gave anything.
        """
        ended, lag = set(), 0
        with self._outages_waited_for():
            for part in self.consumer.assignment():
                high, at = self.consumer.highwater(part), self.consumer.position(part)
                if high is None or at is None:
                    return set(), None
                self._open.look(part.partition, at, self.consumer.ends(part))
                lag += max(0, high - at)
                if at >= high:
                    ended.add(part)
            mine = ended or (set() if came else self.consumer.assignment())
            if mine and time.monotonic() - self._looked_at > _LOOK_S:
                # An outage looks like an empty topic: poll gives nothing and raises nothing.
                self.consumer.end_offsets([next(iter(mine))], timeout_ms=500)
                self._answered()
        if not self._answers or not self.consumer.assignment():
            return set(), None
        return {part.partition for part in ended}, lag

    @contextmanager
    def _outages_waited_for(self) -> Iterator[None]:
        """Goes on after an error that may pass; the next call of the client tries again."""
        try:
            yield
        except _FINAL:
            raise
        except _SHARING_OUT:
            time.sleep(_LINGER_S)
        except KafkaError as error:
            if self._answers:
                _log.warning("no broker answers, waiting for one (%s)", type(error).__name__)
            self._answers = False
            self.trouble = f"no broker answers: {error or type(error).__name__}"
            time.sleep(_LINGER_S)

    def _answered(self) -> None:
        if not self._answers:
            _log.warning("a broker answers again")
        self._answers, self.trouble = True, None
        self._looked_at = time.monotonic()

    def rest(self) -> None:
        """Stays a member of the group without fetching."""
        parts = list(self.consumer.assignment() - self._fresh)
        self.consumer.pause(*parts)
        with self._outages_waited_for():
            self._go_on_joining()
            self.consumer.rest()
        self.consumer.resume(*(self.consumer.assignment() & set(parts)))

    def commit(self, positions: Sequence[Mapping[int, Any]], wait: bool = True) -> None:
        """Commits the newest offsets of the partitions that are still this member's."""
        newest: dict[int, int] = {}
        for each in positions:
            # Of a log that is no more nothing is committed: its offsets mean other messages now.
            newest |= {n: span.following for n, span in each.items() if span.log == self._log}
        mine = {
            part: committed(newest[part.partition], self._log)
            for part in self.consumer.assignment() | self._leaving
            if part.partition in newest
        }
        if not mine:
            return
        for part in mine:
            self._begun.pop(part, None)
        if not wait:
            self.consumer.commit_async(mine)
            return
        try:
            self.consumer.commit(mine, timeout_ms=_CALL_MS)
            self._commits = True
        except KafkaError as error:
            self._commits = False
            raise CommitFailed(str(error) or type(error).__name__) from error

    def close(self) -> None:
        """Leaves the group."""
        self.consumer.close(autocommit=False, timeout_ms=5000)
