"""The way the pipeline was first written: a consumer that parses JSON, one object per message."""

from __future__ import annotations

import json
from pathlib import Path

from kafka import KafkaConsumer

from pipeline.connect.kafka import KafkaAddress
from tests.benchmarks.span import Span


def run(address: KafkaAddress, messages: int, out: Path, span: Span) -> None:
    """Writes so many messages of a topic to a folder that stands for the bucket.

    A file costs some tens of microseconds here, an upload to a bucket some tens of milliseconds.
    Objects are named by position: by the record's time, as it was, messages of one millisecond
    overwrite each other.
    """
    folder = out / "battery_raw"
    folder.mkdir(parents=True)
    client = KafkaConsumer(
        address.topic,
        bootstrap_servers=address.servers,
        auto_offset_reset="earliest",
        value_deserializer=lambda m: json.loads(m.decode("utf-8")),
    )
    for seen, msg in enumerate(client):
        span.begin()
        if seen == messages:
            break
        path = folder / f"stream_{msg.partition}_{msg.offset}.json"
        path.write_text(json.dumps(msg.value))
    span.end()
    client.close()
