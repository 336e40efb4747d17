"""Sends tables of messages to a Kafka or Pub/Sub topic and tells when they are safe there."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from functools import cached_property, lru_cache
from typing import Any, Protocol
from zlib import crc32

import orjson
import pyarrow as pa
from google.api_core import exceptions, retry
from google.pubsub_v1 import PublisherClient
from google.pubsub_v1.types import PublishRequest
from kafka import KafkaProducer, errors

from pipeline import shown
from pipeline.connect import kafka, pubsub
from pipeline.errors import ConfigError, JobFailed
from transforms.framing import as_name

# What a topic takes. `attributes` is a JSON object, Kafka's headers; `timestamp_ms` is null for
# now. Pub/Sub keeps the key as attribute `equipment_id` and sets the time itself.
MESSAGES = pa.schema(
    [
        pa.field("payload", pa.binary()),
        pa.field("key", pa.binary()),
        pa.field("attributes", pa.string()),
        pa.field("timestamp_ms", pa.int64()),
    ]
)

# A Pub/Sub request's limits are 1000 messages and 10 MB; a message's own are 10 MB and 100
# attributes, a value's 1024 bytes.
_REQUEST_MESSAGES = 1000
_REQUEST_BYTES = 5_000_000
_MESSAGE_BYTES = 9_500_000
_ATTRIBUTE_BYTES = 1024
_ATTRIBUTES = 100
_LANES = 8
_TRY_AGAIN = retry.Retry(
    predicate=retry.if_exception_type(
        exceptions.Aborted,
        exceptions.Cancelled,
        exceptions.DeadlineExceeded,
        exceptions.InternalServerError,
        exceptions.ResourceExhausted,
        exceptions.ServiceUnavailable,
        exceptions.Unknown,
    ),
    initial=0.1,
    maximum=2.0,
    timeout=kafka.DELIVERY_S,
)


class Undelivered(JobFailed):
    """The broker did not take messages in all the time it was given."""


class Receipt(Protocol):
    """What becomes of messages that were sent together.

    Attributes:
        too_large: rows that the topic refused for their size; complete once `wait` was True.
    """

    too_large: list[int]

    def wait(self, seconds: float) -> bool:
        """Whether all are acknowledged or refused, waiting `seconds` at most; raises Undelivered."""


class Topic(Protocol):
    """A topic to send to."""

    def create(self, partitions: int) -> bool:
        """Creates it unless it is there, -1 for the default; ConfigError if that can't be done."""

    def check(self) -> None:
        """Finds out whether it can be sent to; raises ConfigError."""

    def send(self, messages: pa.Table) -> Receipt:
        """Starts sending messages of schema MESSAGES; those of one key stay in order."""

    def close(self) -> None:
        """Lets go of the connection; what isn't acknowledged may be lost."""


def topic_at(uri: str, flag: str) -> Topic:
    """The topic that `uri` names; ConfigError if it can't be one."""
    scheme = uri.partition("://")[0].lower()
    if scheme == kafka.SCHEME:
        return KafkaTopic(kafka.KafkaAddress.parse(uri, flag), flag)
    if scheme == pubsub.SCHEME:
        return PubSubTopic(pubsub.PubSubAddress.parse(uri, flag, "topic", ("ordered",)), flag)
    raise ConfigError(
        f"{flag}={shown.address(uri)}: no such topic; give kafka://HOST:PORT[,…]/TOPIC or pubsub://PROJECT/TOPIC"
    )


def equipment_key(key: bytes | None) -> str | None:
    """The key as text, and as hexadecimal digits where it is none."""
    return None if key is None else as_name(key)


def json_object(text: str | None) -> dict[str, Any]:
    """The object that a JSON text holds; empty where it holds none."""
    try:
        found = orjson.loads(text or "{}")
    except orjson.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}


@lru_cache(maxsize=8192)
def _attributes(text: str | None) -> dict[str, str]:
    """A JSON object's members as texts; whatever else it holds as JSON."""
    return {
        name: value if isinstance(value, str) else orjson.dumps(value).decode()
        for name, value in json_object(text).items()
        if value is not None
    }


class KafkaTopic:
    """A Kafka topic; connects at the first message."""

    def __init__(self, address: kafka.KafkaAddress, flag: str) -> None:
        self._address = address
        self._flag = flag

    @cached_property
    def _producer(self) -> KafkaProducer:
        try:
            return kafka.producer(self._address)
        except errors.KafkaTimeoutError as error:
            raise Undelivered(f"{self._flag}={self._address}: {error}") from error

    def create(self, partitions: int) -> bool:
        """Creates it unless it is there."""
        return kafka.create_topic(self._address, partitions, -1, self._flag)

    def check(self) -> None:
        """Finds out whether it can be sent to."""
        kafka.check_topic(self._address, self._flag, "WRITE")

    def send(self, messages: pa.Table) -> _KafkaReceipt:
        """Starts sending; a key's messages go to one partition, in order."""
        send, topic, now = self._producer.send, self._address.topic, time.time_ns() // 1_000_000
        payloads, keys, attributes, times = (
            messages.column(name).to_pylist() for name in MESSAGES.names
        )
        receipt = _KafkaReceipt()
        for row, payload in enumerate(payloads):
            key, at = keys[row], times[row]
            try:
                future = send(
                    topic,
                    # A message needs a key or a value.
                    b"" if payload is None and key is None else payload,
                    key,
                    _headers(attributes[row]),
                    # A broker refuses times far in the future.
                    timestamp_ms=None if at is None else max(0, min(at, now)),
                )
            except errors.MessageSizeTooLargeError:
                receipt.too_large.append(row)
            except errors.KafkaError as error:
                raise Undelivered(f"{self._flag}={self._address}: {error}") from error
            else:
                receipt.sent.append((row, future))
        return receipt

    def close(self) -> None:
        """Lets go of the connection."""
        if "_producer" in self.__dict__:
            self._producer.close(timeout=5)

    def __str__(self) -> str:
        return str(self._address)


@lru_cache(maxsize=8192)
def _headers(text: str | None) -> list[tuple[str, bytes]]:
    return [(name, value.encode()) for name, value in _attributes(text).items()]


class _KafkaReceipt:
    def __init__(self) -> None:
        self.sent: list[tuple[int, Any]] = []
        self.too_large: list[int] = []
        self._seen = 0

    def wait(self, seconds: float) -> bool:
        ends = time.monotonic() + seconds
        while self._seen < len(self.sent):
            row, future = self.sent[self._seen]
            try:
                future.get(max(0.0, ends - time.monotonic()))
            except errors.MessageSizeTooLargeError:
                self.too_large.append(row)
            except errors.KafkaError as error:
                # The same error tells that this call waited long enough and that the producer did.
                if not future.is_done:
                    return False
                if not future.succeeded():
                    raise Undelivered(str(error)) from error
            self._seen += 1
        return True


class PubSubTopic:
    """A Pub/Sub topic; connects at the first message.

    With `?ordered=true` every message's key is its ordering key too, so that a subscription with
    message ordering delivers an equipment's messages in the order they were sent.
    """

    def __init__(self, address: pubsub.PubSubAddress, flag: str) -> None:
        self._address = address
        self._flag = flag
        ordered = address.parameters.get("ordered", "false").lower()
        if ordered not in ("true", "false"):
            raise ConfigError(f"{flag}={address}: parameter 'ordered' must be true or false")
        self._ordered = ordered == "true"

    @cached_property
    def _client(self) -> PublisherClient:
        return pubsub.client(PublisherClient, self._address, self._flag)

    @cached_property
    def _lanes(self) -> list[ThreadPoolExecutor]:
        return [ThreadPoolExecutor(1, thread_name_prefix="publish") for _ in range(_LANES)]

    def create(self, partitions: int) -> bool:
        """Creates it unless it is there; it has no partitions."""
        if partitions != -1:
            raise ConfigError(
                f"--create_topic={partitions}: a Pub/Sub topic has no partitions; drop the number"
            )
        return pubsub.create_topic(self._address, self._flag)

    def check(self) -> None:
        """Finds out whether it can be sent to."""
        pubsub.check_topic(self._address, self._flag)

    def send(self, messages: pa.Table) -> _PubSubReceipt:
        """Starts sending; a key's messages go one request after another where it is ordered."""
        receipt = _PubSubReceipt()
        client = self._client  # made here: in a lane it would be waited for in vain
        groups: dict[bytes, list[Any]] = {}
        for row, (payload, key, text) in enumerate(
            zip(*(messages.column(name).to_pylist() for name in MESSAGES.names[:3]), strict=True)
        ):
            message = _message(payload, key, text, self._ordered)
            if message.ByteSize() > _MESSAGE_BYTES:
                receipt.too_large.append(row)
            else:
                groups.setdefault(key or b"" if self._ordered else b"", []).append(message)
        for key, group in groups.items():
            for number, part in enumerate(_requests(group)):
                lane = crc32(key) if self._ordered else number
                receipt.sent.append(self._lanes[lane % _LANES].submit(self._publish, client, part))
        return receipt

    def _publish(self, client: PublisherClient, part: Sequence[Any]) -> None:
        request = PublishRequest.pb(PublishRequest())
        request.topic = self._address.topic_path
        request.messages.extend(part)
        try:
            client.publish(PublishRequest.wrap(request), retry=_TRY_AGAIN, timeout=30.0)
        except (exceptions.GoogleAPIError, OSError) as error:
            raise Undelivered(f"{self._flag}={self._address}: {error}") from error

    def close(self) -> None:
        """Lets go of the connection."""
        if "_lanes" in self.__dict__:
            for lane in self._lanes:
                lane.shutdown(wait=False, cancel_futures=True)

    def __str__(self) -> str:
        return str(self._address)


_RawRequest = type(PublishRequest.pb(PublishRequest()))
_RawMessage = _RawRequest().messages.add().__class__


def _message(payload: bytes | None, key: bytes | None, text: str | None, ordered: bool) -> Any:
    found = {
        name: _cut(value)
        for name, value in _attributes(text).items()
        # Pub/Sub keeps names that begin with goog to itself.
        if name and not name.startswith("goog") and len(name.encode()) <= 256
    }
    equipment = _cut(equipment_key(key) or "")
    if equipment:
        found.setdefault("equipment_id", equipment)
    # What the job itself tells of a message comes last.
    found = dict(list(found.items())[-_ATTRIBUTES:])
    message = _RawMessage(data=payload or b"", attributes=found)
    if ordered and equipment:
        message.ordering_key = equipment
    return message


def _cut(text: str) -> str:
    return text.encode("utf-8", "replace")[:_ATTRIBUTE_BYTES].decode("utf-8", "ignore")


def _requests(group: Sequence[Any]) -> list[list[Any]]:
    """Messages cut to what one request takes."""
    parts: list[list[Any]] = [[]]
    size = 0
    for message in group:
        own = message.ByteSize()
        if len(parts[-1]) >= _REQUEST_MESSAGES or (parts[-1] and size + own > _REQUEST_BYTES):
            parts.append([])
            size = 0
        parts[-1].append(message)
        size += own
    return parts


class _PubSubReceipt:
    def __init__(self) -> None:
        self.sent: list[Future[None]] = []
        self.too_large: list[int] = []

    def wait(self, seconds: float) -> bool:
        if wait_for(self.sent, timeout=seconds).not_done:
            return False
        for future in self.sent:
            future.result()
        return True
