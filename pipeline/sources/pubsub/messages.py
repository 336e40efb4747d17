"""Pub/Sub's messages as raw batches."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam
import orjson
import pyarrow as pa
from apache_beam.io.gcp.pubsub import PubsubMessage
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.timestamp import Timestamp
from apache_beam.utils.windowed_value import WindowedValue

from schemas.forms import UTC_MICROSECONDS
from transforms import convert
from transforms.batch import MESSAGES, BatchKind, Origin, RawBatch

_EQUIPMENT = "equipment_id"
# A packed batch is no larger, and waits no longer for more.
_MOST_ROWS = 5_000
_MOST_BYTES = 16 << 20
_MOST_S = 1.0


def batch(messages: Sequence[Any], arrived_us: Sequence[int], name: str) -> RawBatch:
    """Packs messages.

    Args:
        messages: as Pub/Sub's client or Beam gives them; at least one.
        arrived_us: when each was published, µs since 1970.
        name: the source as readings' origins carry it.
    """
    attributes = [dict(message.attributes or {}) for message in messages]
    keys = [
        message.ordering_key or found.get(_EQUIPMENT)
        for message, found in zip(messages, attributes, strict=True)
    ]
    columns = {
        "payload": pa.array([message.data for message in messages], pa.binary()),
        "key": pa.array([key.encode() if key else None for key in keys], pa.binary()),
        "attributes": pa.array([_text(found) for found in attributes], pa.string()),
        # The same however often the message is delivered.
        "position": pa.array([message.message_id for message in messages], pa.string()),
        "arrived_at": pa.array(arrived_us, pa.int64()).cast(UTC_MICROSECONDS),
        # A message that was published from a file says so.
        "source_file": pa.array([found.get("source_file") for found in attributes], pa.string()),
    }
    origin = Origin(name, arrived_at_us=arrived_us[0])
    return RawBatch(pa.table(columns, schema=MESSAGES), BatchKind.MESSAGES, origin)


def _text(attributes: dict[str, str]) -> str | None:
    if not attributes:
        return None
    # A map has no order, and a message must be the same whenever it is archived.
    return orjson.dumps(attributes, option=orjson.OPT_SORT_KEYS).decode()


class PackMessages(beam.DoFn):
    """Beam's single Pub/Sub messages → raw batches, a few for every bundle and window.

    Args:
        name: the source as readings' origins carry it.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._waiting: dict[Any, list[tuple[PubsubMessage, Timestamp]]] = {}
        self._rows = self._bytes = 0
        self._since = 0.0

    def start_bundle(self) -> None:
        """Begins with nothing."""
        self._waiting, self._rows, self._bytes = {}, 0, 0

    def process(  # type: ignore[no-untyped-def]
        self,
        message: PubsubMessage,
        at=beam.DoFn.TimestampParam,
        window=beam.DoFn.WindowParam,
    ) -> Iterable[WindowedValue]:
        """Keeps a message until there are enough."""
        if not self._rows:
            self._since = time.monotonic()
        self._waiting.setdefault(window, []).append((message, at))
        self._rows += 1
        self._bytes += len(message.data or b"")
        full = self._rows >= _MOST_ROWS or self._bytes >= _MOST_BYTES
        if full or time.monotonic() - self._since >= _MOST_S:
            yield from self._flush()

    def finish_bundle(self) -> Iterable[WindowedValue]:
        """Nothing may wait longer than its bundle: then Pub/Sub is told that it is safe."""
        yield from self._flush()

    def _flush(self) -> Iterator[WindowedValue]:
        for window, found in self._waiting.items():
            messages = [message for message, _ in found]
            arrived = [_published_us(message, at) for message, at in found]
            earliest = min(at for _, at in found)
            yield WindowedValue(batch(messages, arrived, self._name), earliest, (window,))
        self._waiting, self._rows, self._bytes = {}, 0, 0


def _published_us(message: PubsubMessage, at: Timestamp) -> int:
    if message.publish_time is not None:
        return convert.to_micros(message.publish_time)
    return min(int(at.micros), int(GlobalWindow().max_timestamp().micros))
