"""Reads a Kafka topic through Beam's Java connector, for Dataflow."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import apache_beam as beam
from apache_beam.io.kafka import ReadFromKafka
from apache_beam.transforms.window import GlobalWindows
from apache_beam.utils.timestamp import Timestamp
from kafka import TopicPartition
from kafka.consumer.fetcher import ConsumerRecord

from pipeline.connect.kafka import COMMITTED, KafkaAddress, client_settings
from pipeline.errors import ConfigError
from pipeline.sources.kafka.records import Records
from pipeline.sources.kafka.unpack import POLL_BYTES
from transforms.batch import RawBatch

_MOST_ROWS = 5_000
# kafka-python's name of what a Java client calls otherwise.
_JAVA = {"security_protocol": "security.protocol"}
_LOGIN = ("KAFKA_SASL_USERNAME", "KAFKA_SASL_PASSWORD", "KAFKA_SSL_PASSWORD")


def consumer_config(
    address: KafkaAddress, group: str, start: str | int, environment: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """The Java consumer's configuration: where, from when on, and whether with TLS.

    It stands in the job's graph, where others can see it.

    Raises:
        ConfigError: the environment has a login or a key's password, which must not stand there,
            or names files, which workers elsewhere do not have.
    """
    settings = client_settings(environment)
    login = [name for name in _LOGIN if environment.get(name)]
    if login:
        raise ConfigError(
            f"{', '.join(login)}: with reader=java a login would stand in the job's graph, where "
            "others can see it; drop reader=java"
        )
    files = [name for name in settings if name.startswith("ssl_") and name.endswith("file")]
    if files:
        raise ConfigError(
            "KAFKA_SSL_CAFILE, KAFKA_SSL_CERTFILE and KAFKA_SSL_KEYFILE can't be used with "
            "reader=java: Java reads key stores on the workers; drop reader=java"
        )
    config = {
        "bootstrap.servers": ",".join(address.bootstrap),
        "group.id": group,
        "auto.offset.reset": "latest" if start == "latest" else "earliest",
        "enable.auto.commit": "false",
        "isolation.level": address.parameters.get("isolation", COMMITTED),
    }
    config |= {_JAVA[name]: value for name, value in settings.items() if name in _JAVA}
    return config


def _record(row: Any) -> ConsumerRecord:
    """The connector's row as kafka-python gives records; what is not used is left out."""
    fields = dict.fromkeys(ConsumerRecord._fields)
    headers = [(header.key, header.value) for header in row.headers or ()]
    fields |= {"offset": row.offset, "timestamp": row.timestamp, "headers": headers}
    return ConsumerRecord(**fields | {"key": row.key, "value": row.value})


class _Pack(beam.DoFn):
    """The connector's single rows → raw batches, a few for every bundle."""

    def __init__(self, topic: str, name: str) -> None:
        self._topic = topic
        self._name = name
        self._waiting: list[tuple[Any, Timestamp]] = []
        self._bytes = 0

    def start_bundle(self) -> None:
        self._waiting, self._bytes = [], 0

    def process(self, row: Any, at: Any = beam.DoFn.TimestampParam) -> Iterable[Any]:
        self._waiting.append((row, at))
        self._bytes += len(row.value or b"") + len(row.key or b"")
        if len(self._waiting) >= _MOST_ROWS or self._bytes >= POLL_BYTES:
            yield from self._flush()

    def finish_bundle(self) -> Iterable[Any]:
        # What a bundle has taken must leave it: then it counts as read.
        yield from self._flush()

    def _flush(self) -> Iterator[Any]:
        if not self._waiting:
            return
        found: dict[TopicPartition, list[ConsumerRecord]] = {}
        for row, _ in self._waiting:
            part = TopicPartition(self._topic, row.partition)
            found.setdefault(part, []).append(_record(row))
        earliest = min(at for _, at in self._waiting)
        batch, _ = Records(self._topic, self._name).batch(found)
        self._waiting, self._bytes = [], 0
        yield GlobalWindows.windowed_value(batch, timestamp=earliest)


class ReadJava(beam.PTransform):
    """Raw batches of a topic, by the connector.

    Its watermark follows the records' own timestamps, not the readings' event times: where a
    producer sends what it had stored, that is late. Building it needs Java and Beam's expansion
    service, which Beam downloads.
    """

    def __init__(self, address: KafkaAddress, group: str, start: str | int, name: str) -> None:
        super().__init__()
        self._topic = address.topic
        self._name = name
        self._start = start
        self._config = consumer_config(address, group, start)

    def expand(self, begin: beam.pvalue.PBegin) -> beam.PCollection:
        """Adds the steps."""
        read = ReadFromKafka(
            consumer_config=self._config,
            topics=[self._topic],
            start_read_time=self._start if isinstance(self._start, int) else None,
            commit_offset_in_finalize=True,
            timestamp_policy=ReadFromKafka.create_time_policy,
            with_metadata=True,
        )
        pack = beam.ParDo(_Pack(self._topic, self._name))
        return begin | "Connector" >> read | "Pack" >> pack.with_output_types(RawBatch)
