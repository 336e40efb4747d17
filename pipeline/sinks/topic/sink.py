"""The topics beside lake and warehouse: dead letters, to be corrected and sent again; predictions."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import NamedTuple, Self

import apache_beam as beam
import orjson
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.metrics import Metrics

from pipeline import shown
from pipeline.connect import topics
from pipeline.connect.kafka import DELIVERY_S
from pipeline.connect.topics import Receipt, Topic, Undelivered, topic_at
from pipeline.sinks import Produced, Sink, Wanted
from pipeline.sinks.base.tally import Counts, Kept
from schemas.reading import DEAD_LETTER, PREDICTION

FLAG = "--dead_letter_topic"
LABEL = "DeadLetterTopic"
PREDICTIONS_FLAG = "--prediction_topic"
PREDICTIONS_LABEL = "PredictionTopic"

# What a letter tells of itself; null ones are left out.
_TOLD = ("dead_letter_id", "step", "error_type", "error_message", "field", "source",
         "source_file", "position", "equipment_id")  # fmt: skip
# Kafka's default for the largest message is a little more.
_MESSAGE_BYTES = 1_000_000
_MOST_UNDER_WAY = 32 * 1024 * 1024

# Clients are kept per process: the local runner rebuilds DoFns for every bundle, and no client
# survives being pickled.
_topics: dict[str, Topic] = {}
_lock = threading.Lock()


class _Kind(NamedTuple):
    """What is sent to a topic.

    Attributes:
        flag, label: what names the topic, and its steps.
        table: the name of the rows' table.
        what: as a person calls them.
        messages: makes messages (schema `topics.MESSAGES`) of rows, of so many bytes at most.
    """

    flag: str
    label: str
    table: str
    what: str
    messages: Callable[[pa.Table, int], pa.Table]


def _topic(uri: str, flag: str) -> Topic:
    with _lock:
        if uri not in _topics:
            _topics[uri] = topic_at(uri, flag)
        return _topics[uri]


def messages(letters: pa.Table, most: int = _MESSAGE_BYTES) -> pa.Table:
    """Dead letters (schema DEAD_LETTER) as messages (schema `topics.MESSAGES`).

    The value is the payload, to the byte; the key the message's own, else the equipment. The
    message's own attributes stay, beside those that tell what was wrong with it. Of a letter of
    more than `most` bytes the payload is left out, then the attributes, then the key; the size of
    each is told, such as `payload_bytes`.
    """
    told = letters.select([*_TOLD, "attributes"]).to_pylist()
    times = pc.replace_substring(letters.column("ingested_at").cast(pa.string()), " ", "T")
    payloads = letters.column("payload").to_pylist()
    keys = letters.column("message_key").to_pylist()
    attributes = []
    for row, (letter, arrived) in enumerate(zip(told, times.to_pylist(), strict=True)):
        own = {name: letter[name] for name in _TOLD if letter[name] is not None}
        own["ingested_at"] = arrived
        theirs = letter["attributes"] or ""
        sizes = {
            "payload": len(payloads[row] or b""),
            "attributes": len(theirs.encode()),
            "message_key": len(keys[row] or b""),
        }
        left = sum(sizes.values())
        for name, size in sizes.items():
            if left > most and size:
                own[f"{name}_bytes"] = str(size)
                left -= size
        payloads[row] = None if "payload_bytes" in own else payloads[row]
        keys[row] = None if "message_key_bytes" in own else keys[row]
        kept = {} if "attributes_bytes" in own else topics.json_object(theirs)
        attributes.append(orjson.dumps({**kept, **own}).decode())
    columns = {
        "payload": pa.array(payloads, pa.binary()),
        "key": pc.coalesce(
            pa.array(keys, pa.binary()), letters.column("equipment_id").cast(pa.binary())
        ),
        "attributes": pa.array(attributes, pa.string()),
        "timestamp_ms": pa.nulls(letters.num_rows, pa.int64()),
    }
    return pa.table(columns, schema=topics.MESSAGES)


def prediction_messages(rows: pa.Table, most: int = _MESSAGE_BYTES) -> pa.Table:
    """Predictions (schema PREDICTION) as JSON messages, keyed by cell; nulls are left out.

    Of `most` bytes at most they always are: nothing of a prediction is a sender's, but for the id.
    """
    del most
    payloads = []
    for row in rows.to_pylist():
        known = {name: value for name, value in row.items() if value is not None}
        payloads.append(orjson.dumps(known, option=orjson.OPT_UTC_Z))
    none = pa.nulls(rows.num_rows, pa.string())
    columns = {
        "payload": pa.array(payloads, pa.binary()),
        "key": rows.column("equipment_id").cast(pa.binary()),
        "attributes": none,
        "timestamp_ms": pa.nulls(rows.num_rows, pa.int64()),
    }
    return pa.table(columns, schema=topics.MESSAGES)


_LETTERS = _Kind(FLAG, LABEL, DEAD_LETTER.name, "dead letters", messages)
_PREDICTIONS = _Kind(
    PREDICTIONS_FLAG, PREDICTIONS_LABEL, PREDICTION.name, "predictions", prediction_messages
)


class _Publish(beam.DoFn):
    """Sends a bundle's rows; the bundle is finished when the broker has all of them."""

    def __init__(self, uri: str, kind: _Kind) -> None:
        self._uri, self._kind = uri, kind
        self._under_way: deque[tuple[Receipt, int, pa.Table]] = deque()
        self._bytes = 0
        self._sent = 0
        self._counts = Counts(kind.label, kind.table)
        letters = Metrics.counter("topic", "dead_letters_published")
        predictions = Metrics.counter("topic", "predictions_published")
        self._published = letters if kind is _LETTERS else predictions

    def start_bundle(self) -> None:
        # What a failed bundle left behind is sent again by the one that repeats it.
        self._under_way, self._bytes, self._sent = deque(), 0, 0

    def process(self, letters: pa.Table) -> None:
        size = int(letters.nbytes)
        while self._under_way and self._bytes + size > _MOST_UNDER_WAY:
            self._settle_oldest()
        self._under_way.append((self._send(letters, _MESSAGE_BYTES), size, letters))
        self._bytes += size
        self._sent += letters.num_rows
        self._published.inc(letters.num_rows)

    def finish_bundle(self) -> None:
        while self._under_way:
            self._settle_oldest()
        self._counts.in_bundle(self._counts.commit(Kept(stored=self._sent)))

    def _settle_oldest(self) -> None:
        receipt, size, letters = self._under_way.popleft()
        self._bytes -= size
        self._wait(receipt)
        if receipt.too_large:
            # The topic takes less than its default: what was wrong and where fits into any.
            again = letters.take(pa.array(receipt.too_large, pa.int64()))
            # A producer that a broker has refused one for size was seen to be refused small ones.
            with _lock:
                refused = _topics.pop(self._uri, None)
            if refused is not None:
                refused.close()
            receipt = self._send(again, 0)
            self._wait(receipt)
        if receipt.too_large:
            raise Undelivered(
                f"{self._kind.flag}={shown.address(self._uri)}: {len(receipt.too_large)} "
                f"{self._kind.what} are larger than the "
                "topic takes; raise its max.message.bytes to Kafka's default or more"
            )

    def _send(self, rows: pa.Table, most: int) -> Receipt:
        return _topic(self._uri, self._kind.flag).send(self._kind.messages(rows, most))

    def _wait(self, receipt: Receipt) -> None:
        told = f"{self._kind.flag}={shown.address(self._uri)}: "
        fix = "see whether its broker takes messages, then run the job again"
        try:
            # The client's own time to deliver ends sooner, and tells why.
            if receipt.wait(DELIVERY_S + 60):
                return
        except Undelivered as error:
            raise Undelivered(f"{told}{str(error).removeprefix(told)}; {fix}") from error
        raise Undelivered(f"{told}no acknowledgement within {DELIVERY_S} s; {fix}")


class TopicSink(Sink):
    """Dead letters as messages of a Kafka or Pub/Sub topic.

    They are at least once there: a bundle that is repeated sends its letters again, with the
    same `dead_letter_id`.
    """

    takes_readings = False

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self.label, self.shown = LABEL, shown.address(uri)
        self._checked = topic_at(uri, FLAG)

    @classmethod
    def from_config(cls, wanted: Wanted) -> Self:
        """The topic that `--dead_letter_topic` names."""
        return cls(wanted.uri)

    def check(self) -> None:
        """Finds out whether the topic is there and can be sent to."""
        self._checked.check()

    def prepare(self) -> None:
        """Finds out the same."""
        self.check()

    def write(self, produced: Produced) -> None:
        """Adds nothing: it takes dead letters alone."""

    def write_dead_letters(self, letters: beam.PCollection) -> None:
        """Adds the step that sends."""
        _ = letters | LABEL >> beam.ParDo(_Publish(self._uri, _LETTERS))


class PredictionTopic(TopicSink):
    """Predictions as JSON messages of a Kafka or Pub/Sub topic, keyed by cell.

    They are at least once there, with the same `prediction_id` when they come again.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri
        # Of no sink's account: it is given no readings and no dead letters.
        self.label, self.shown = "", shown.address(uri)
        self._checked = topic_at(uri, PREDICTIONS_FLAG)

    def write(self, produced: Produced) -> None:
        """Adds the step that sends."""
        if produced.predictions is not None:
            step = beam.ParDo(_Publish(self._uri, _PREDICTIONS))
            _ = produced.predictions | PREDICTIONS_LABEL >> step

    def write_dead_letters(self, letters: beam.PCollection) -> None:
        """Adds nothing."""
