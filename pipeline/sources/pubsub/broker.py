"""Reads a Pub/Sub subscription with leases of our own; acknowledges what is durable."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from google.api_core import exceptions
from google.pubsub_v1 import SubscriberClient
from google.pubsub_v1.types import PullResponse

from pipeline.connect import pubsub as connect
from pipeline.connect.pubsub import PubSubAddress
from pipeline.sources.live.reader import CommitFailed, Fetched
from pipeline.sources.pubsub.leases import LEASE_S, Key, Leases
from pipeline.sources.pubsub.messages import batch

_log = logging.getLogger(__name__)

BATCH_ROWS = 20_000
# Of one batch, and of what is pulled ahead, about: a pull may give 10 MB.
BATCH_BYTES = 16 << 20
_LINGER_S = 0.1
# A request's limits are 1000 messages to pull and 512 KiB of acknowledgement ids.
_PULL_ROWS = 1000
_IDS = 1000
_PULLERS = 4
# How long a pull waits for messages, and how long ago one may have come back empty for the
# subscription to count as read to its end.
_PULL_S = 3.0
_FRESH_S = 3 * _PULL_S
_CALL_S = 10.0
# Messages that were given out and are not acknowledged, each some 500 bytes here.
MOST_OUTSTANDING = 500_000
# `--until=latest` ends after so long without a message.
_LATEST_S = 5.0
# Beyond a lease, until what it covered surely comes again.
_GRACE_S = 10.0
# What should not mend itself is given this long to do so: a permission or a subscription may have
# just been made anew.
_PATIENCE_S = 10.0
# How long the end of a run waits for requests under way.
_CLOSE_S = _PULL_S + 2.0

# Errors that another try may not have; all others of Pub/Sub should stay.
_PASSING = (
    exceptions.ServerError,
    exceptions.RetryError,
    exceptions.Aborted,
    exceptions.Cancelled,
    exceptions.TooManyRequests,
)


class PubSubBroker:
    """A `sources.live.reader.Broker` for a subscription, as one partition 0.

    Positions are the keys of messages. They are acknowledged only when every sink has them; until
    then their leases are extended, and at the end what is left is given back at once.

    Args:
        address: the subscription.
        name: the source as readings' origins carry it.
        at_end: called once nothing has come for some seconds.
        waits: what messages that are not acknowledged wait for, and how fewer would.
        wanted: whether to pull now.
        beat: called twice a second, before leases are extended, in the thread that does so.
    """

    def __init__(
        self,
        address: PubSubAddress,
        name: str,
        at_end: Callable[[], None] = lambda: None,
        waits: tuple[str, str] = ("their windows", "a shorter --window needs fewer"),
        wanted: Callable[[], bool] = lambda: True,
        beat: Callable[[], None] = lambda: None,
    ) -> None:
        self._address = address
        self._name = name
        self._at_end = at_end
        self._waits = waits
        self._wanted = wanted
        self._beat = beat
        self._leases = Leases()
        # The bytes of each pull's messages with these.
        self._pulled: queue.SimpleQueue[tuple[int, list[tuple[Key, Any]]]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._ahead = 0  # messages that were pulled and not fetched yet
        self._ahead_bytes = 0
        self._closing = threading.Event()
        self._health = _Health(name)
        # Seconds of the monotonic clock.
        self._message_at = self._opened_at = time.monotonic()
        self._empty_at = self._failed_at = float("-inf")
        self._paused = False
        self._client: SubscriberClient | None = None
        self._threads: list[threading.Thread] = []

    @property
    def client(self) -> SubscriberClient:
        """The client, once open."""
        assert self._client is not None
        return self._client

    def open(self, hand_over: Callable[[], None]) -> None:  # noqa: ARG002 - never needed
        """Begins to pull; nothing is ever handed over, as messages have no partitions."""
        self._client = connect.client(SubscriberClient, self._address, "--source")
        works = [self._pull_on] * _PULLERS + [self._extend_on]
        self._threads = [
            threading.Thread(target=work, name="pubsub", daemon=True) for work in works
        ]
        for thread in self._threads:
            thread.start()

    def refused(self, fetched: Fetched) -> None:
        """Never called, as nothing is handed over."""

    @property
    def trouble(self) -> str | None:
        """Why the subscription can't be read now; None if it answers."""
        return self._health.trouble_now

    def partitions(self) -> Collection[int]:
        """The only one."""
        return (0,)

    def fetch(self) -> Fetched:
        """Up to BATCH_ROWS messages."""
        self._health.raise_failure()
        found = self._gather()
        ended = {0} if self._at_its_end() else set()
        # Until the leases of a job that died have run out, its messages are still to come.
        now = time.monotonic()
        complete = now - max(self._opened_at, self._failed_at) > LEASE_S + _GRACE_S
        if not found:
            # So are those of an answer that was lost.
            whole = now - self._failed_at > LEASE_S + _GRACE_S and not self._full()
            if ended and now - self._message_at > _LATEST_S and whole:
                self._at_end()
            return Fetched(None, ended=ended, complete=complete)
        keys = [key for key, _ in found]
        packed = batch([message for _, message in found], [at for _, at in keys], self._name)
        return Fetched(packed, {0: len(found)}, {0: keys}, ended, complete=complete)

    def _gather(self, wait_s: float | None = None) -> list[tuple[Key, Any]]:
        until = time.monotonic() + (_LINGER_S if wait_s is None else wait_s)
        found: list[tuple[Key, Any]] = []
        size = 0
        while len(found) + _PULL_ROWS <= BATCH_ROWS and size < BATCH_BYTES:
            try:
                own, pulled = self._pulled.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                break
            size += own
            found += pulled
        with self._lock:
            self._ahead -= len(found)
            self._ahead_bytes -= size
        return found

    def _at_its_end(self) -> bool:
        """Whether nothing is left to read, or will be read before what was taken is written."""
        now = time.monotonic()
        if self._health.troubled or not self._pulled.empty():
            return False
        quiet = self._message_at < self._empty_at and now - self._empty_at < _FRESH_S
        # Windows that waited for further messages would keep these from ever being pulled.
        return quiet or self._full()

    def _full(self) -> bool:
        return len(self._leases) >= MOST_OUTSTANDING

    def rest(self) -> None:
        """Nothing to do: leases are extended all the time."""

    def commit(self, positions: Sequence[Mapping[int, Any]], wait: bool = True) -> None:  # noqa: ARG002
        """Acknowledges messages, oldest first."""
        keys = [key for each in positions for key in each[0]]
        for part in _parts(keys):
            # Again for those that have come again meanwhile.
            while owed := self._leases.owed(part):
                self._acknowledge(owed)

    def _acknowledge(self, owed: Sequence[tuple[Key, str]]) -> None:
        request = {
            "subscription": self._address.subscription_path,
            "ack_ids": [ack_id for _, ack_id in owed],
        }
        try:
            self.client.acknowledge(request, retry=None, timeout=_CALL_S)
        except exceptions.InvalidArgument as error:
            # Exactly-once delivery says so of leases that ran out: these messages come again.
            _log.warning("%s: some messages may come again (%s)", self._name, error.message)
        except exceptions.GoogleAPIError as error:
            raise CommitFailed(str(error)) from error
        self._leases.acknowledged(owed)

    def give_back(self, keys: Iterable[Key]) -> None:
        """Gives messages back, so that whoever reads has them at once; this reader, too."""
        self._release(self._leases.let_go(keys))

    def give_back_ahead(self) -> None:
        """Gives back what was pulled and not fetched."""
        self.give_back([key for key, _ in self._gather(wait_s=0.0)])

    def _release(self, ack_ids: Sequence[str]) -> None:
        try:
            for ids in _parts(ack_ids):
                self._set_deadline(ids, 0)
        except exceptions.InvalidArgument:
            pass  # as in _acknowledge
        except exceptions.GoogleAPIError as error:
            _log.warning(
                "%s: messages could not be given back; they come again within %d s (%s)",
                self._name, LEASE_S, error,
            )  # fmt: skip

    def close(self) -> None:
        """Gives back what is not acknowledged, so that the next reader has it at once."""
        self._closing.set()
        # A pull that waits would take what is given back.
        ends = time.monotonic() + _CLOSE_S
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, ends - time.monotonic()))
        self._release(self._leases.all())
        self.client.transport.close()  # type: ignore[no-untyped-call]

    # --- in threads of their own ----------------------------------------------------------------

    def _pull_on(self) -> None:
        while not self._closing.is_set():
            ahead = self._ahead >= BATCH_ROWS or self._ahead_bytes >= BATCH_BYTES
            if ahead or not self._wanted():
                self._closing.wait(_LINGER_S / 2)
                continue
            if self._full():
                self._pause()
                continue
            self._paused = False
            try:
                received = self._pull()
            except Exception as error:  # noqa: BLE001 - the broker's thread hears of it
                self._failed_at = time.monotonic()
                if not self._closing.wait(1.0):
                    self._health.trouble(error)
            else:
                self._health.well()
                self._take(received)

    def _pause(self) -> None:
        if not self._paused:
            self._paused = True
            _log.warning(
                "%s: %d messages wait for %s; no more are pulled until some are acknowledged (%s)",
                self._name, len(self._leases), *self._waits,
            )  # fmt: skip
        self._closing.wait(_LINGER_S)

    def _pull(self) -> Sequence[Any]:
        path = self._address.subscription_path
        request = {"subscription": path, "max_messages": _PULL_ROWS}
        try:
            answer = self.client.pull(request, retry=None, timeout=_PULL_S)
        except exceptions.DeadlineExceeded:
            # Nothing to deliver looks like nobody there; only an answer tells.
            self._ask()
            return ()
        received: Sequence[Any] = PullResponse.pb(answer).received_messages
        return received

    def _ask(self) -> None:
        # Whoever may only consume may not look; that is an answer too.
        with contextlib.suppress(exceptions.PermissionDenied):
            self.client.get_subscription(
                {"subscription": self._address.subscription_path}, retry=None, timeout=_PULL_S
            )

    def _take(self, received: Sequence[Any]) -> None:
        now = time.monotonic()
        if not received:
            self._empty_at = now
            return
        self._message_at = now
        pulled = [(_key(one.message), one.ack_id) for one in received]
        new, again = self._leases.take(pulled, now)
        if again:
            self._acknowledge_again(again)
        if new:
            messages = [(pulled[place][0], received[place].message) for place in new]
            size = sum(message.ByteSize() for _, message in messages)
            with self._lock:
                self._ahead += len(new)
                self._ahead_bytes += size
            self._pulled.put((size, messages))

    def _acknowledge_again(self, pairs: Sequence[tuple[Key, str]]) -> None:
        try:
            self._acknowledge(pairs)
        except CommitFailed as error:
            _log.warning("%s: %d messages will come again (%s)", self._name, len(pairs), error)

    def _extend_on(self) -> None:
        while not self._closing.wait(0.5):
            self._beat()
            for ids in _parts(self._leases.due(time.monotonic())):
                self._extend(ids)

    def _extend(self, ids: Sequence[str]) -> None:
        while not self._closing.is_set():
            try:
                self._set_deadline(ids, LEASE_S)
            except exceptions.InvalidArgument:
                pass  # as in _acknowledge
            except exceptions.GoogleAPIError as error:
                # Pulls and commits meet the same and say so.
                _log.info("%s: leases not extended, trying again (%s)", self._name, error)
                self._closing.wait(1.0)
                continue
            return

    def _set_deadline(self, ids: Sequence[str], seconds: int) -> None:
        request = {
            "subscription": self._address.subscription_path,
            "ack_ids": ids,
            "ack_deadline_seconds": seconds,
        }
        self.client.modify_ack_deadline(request, retry=None, timeout=_CALL_S)


class _Health:
    """Whether the subscription answers; many threads tell, one asks."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._denied_at: float | None = None
        self._failure: BaseException | None = None
        self.troubled = False
        self.trouble_now: str | None = None

    def trouble(self, error: Exception) -> None:
        """An attempt has failed; another will be made."""
        now = time.monotonic()
        with self._lock:
            if not self.troubled:
                _log.warning("%s: does not answer, trying again (%s)", self._name, error)
            self.troubled = True
            self.trouble_now = f"{self._name} does not answer: {error}"
            if isinstance(error, _PASSING):
                self._denied_at = None
            elif self._denied_at is None:
                self._denied_at = now
            elif now - self._denied_at > _PATIENCE_S:
                self._failure = error

    def well(self) -> None:
        """An attempt has succeeded."""
        if not self.troubled:
            return
        with self._lock:
            self.troubled, self.trouble_now, self._denied_at = False, None, None
        _log.warning("%s: answers again", self._name)

    def raise_failure(self) -> None:
        """Raises RuntimeError if it will not answer any more."""
        if self._failure is None:
            return
        if isinstance(self._failure, exceptions.NotFound):
            reason = "the subscription is gone; create it and run the job again"
        elif isinstance(self._failure, exceptions.PermissionDenied):
            reason = "this account may not consume any more; grant it roles/pubsub.subscriber"
        else:
            reason = f"reading failed ({self._failure})"
        raise RuntimeError(f"--source={self._name}: {reason}") from self._failure


def _key(message: Any) -> Key:
    at = message.publish_time
    return message.message_id, at.seconds * 1_000_000 + at.nanos // 1000


def _parts(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), _IDS):
        yield items[start : start + _IDS]
