"""The way the pipeline was first written: a consumer that parses JSON, one object per message."""

from __future__ import annotations

import json
import time
from pathlib import Path

from kafka import KafkaConsumer

from pipeline.connect.kafka import KafkaAddress


def run(address: KafkaAddress, messages: int, out: Path) -> float:
    """Writes so many messages of a topic to a folder that stands for the bucket; returns seconds.

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
    started = 0.0
    for seen, msg in enumerate(client):
        started = started or time.perf_counter()
        if seen == messages:
            break
        path = folder / f"stream_{msg.partition}_{msg.offset}.json"
        path.write_text(json.dumps(msg.value))
    seconds = time.perf_counter() - started
    client.close()
    return seconds
