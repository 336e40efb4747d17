"""The Kafka source: kafka://HOST:PORT[,…]/TOPIC, live or up to what is there now."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable
from functools import cached_property

import apache_beam as beam
from kafka.errors import KafkaError

from pipeline.connect import kafka as connect
from pipeline.connect import secrets
from pipeline.errors import ConfigError, SourceFailed
from pipeline.runner import Where
from pipeline.shown import address
from pipeline.sources import Received, Told, kafka_split
from pipeline.sources.kafka_broker import KafkaBroker
from pipeline.sources.kafka_client import commit_offsets
from pipeline.sources.kafka_java import ReadJava
from pipeline.sources.kafka_range import Range, ReadRange, cut, ends, what_is_there
from pipeline.sources.kafka_split import ReadSplit, Topic
from pipeline.sources.live import LiveReader, LiveSource, counted, disorder_us
from pipeline.streaming.live import ReadLive
from transforms.batch import RawBatch
from transforms.budget import USUAL, Budget
from transforms.decoded import Decoded
from transforms.rejects import Rejects

_PARAMETERS = ("group", "start", "disorder", "reader")
_DEFAULT_GROUP = "battery-pipeline"


class KafkaSource(LiveSource):
    """Reads a topic.

    Args:
        uri: `kafka://HOST:PORT[,HOST:PORT…]/TOPIC[?group=…&start=…&disorder=…]`.
        decode: decodes a raw batch; the watermark needs its event times.
        where: what kind of runner the job runs on.
        until_latest: whether to read what is there now and finish.
        told: what the job wants to know.
        budget: what a message may take.
    """

    def __init__(
        self,
        uri: str,
        decode: Callable[[RawBatch], tuple[Decoded, Rejects]],
        where: Where,
        until_latest: bool,
        told: Told,
        budget: Budget = USUAL,
    ) -> None:
        self._uri = uri
        self._budget = budget
        self.address = connect.KafkaAddress.parse(uri, "--source", _PARAMETERS)
        parameters = self.address.parameters
        self.group = parameters.get("group") or _DEFAULT_GROUP
        self._start = _start(uri, parameters.get("start") or "earliest")
        self._disorder_us = disorder_us(uri, parameters.get("disorder"))
        self._java = _is_java(uri, parameters.get("reader"), where, until_latest)
        if self._java and secrets.PARAMETER in parameters:
            raise ConfigError(
                f"--source={address(uri)}: with reader=java a secret would stand in the job's graph, where "
                "others can see it; drop reader=java"
            )
        self._decode = decode
        self._where = where
        self._until_latest = until_latest
        self._told = told
        self.name = str(self.address)
        self._partitions = 0
        self._began_s = time.time()

    @property
    def live(self) -> bool:
        """Whether readings go on coming until the job is stopped."""
        return not self._until_latest

    @property
    def total(self) -> int | None:
        """How many messages there are to read; None where they go on coming."""
        return sum(part.stop - part.start for part in self._there) if self._until_latest else None

    @cached_property
    def _there(self) -> list[Range]:
        return what_is_there(self.address, self.group, self._start)

    def check(self) -> None:
        """Finds out within seconds whether the topic can be read; raises ConfigError."""
        self._began_s = time.time()
        self._partitions = connect.check_topic(self.address, "--source", "READ")

    def read(self, pipeline: beam.Pipeline) -> Received:
        """Adds the source's steps."""
        if self._until_latest:
            batches = (
                pipeline
                | "Ranges" >> beam.Create(cut(self._there))
                | "Spread" >> beam.Reshuffle()
                | "ReadRange"
                >> beam.ParDo(ReadRange(self.address, self.name, self._budget)).with_output_types(
                    RawBatch
                )
            )
            return Received(batches=batches, dead_letters=None, files=None)
        if self._java:
            read = ReadJava(self.address, self.group, self._start, self.name)
            batches = counted(pipeline | "Kafka" >> read)
            return Received(batches, None, None, disorder_us=self._disorder_us)
        if self._where is not Where.HERE:
            topic = Topic(
                self.address,
                self.group,
                self._start,
                self.name,
                self._disorder_us,
                self._decode,
                self._partitions,
                self._where is Where.KEPT,
                self._budget,
            )
            batches = pipeline | "Kafka" >> ReadSplit(topic)
            return Received(batches, None, None, disorder_us=self._disorder_us)
        broker = KafkaBroker(self.address, self.group, self._start, self.name, self._budget)
        self.reader = LiveReader(broker, self._decode, self._disorder_us, self._told)
        batches = pipeline | "Kafka" >> ReadLive("Kafka", self.reader)
        return Received(
            counted(batches),
            dead_letters=None,
            files=None,
            leads=True,
            disorder_us=self._disorder_us,
        )

    def stop(self) -> None:
        """Reads no further; what was read goes through the pipeline, then the job ends."""
        kafka_split.end()
        super().stop()

    def finish(self) -> None:
        """Commits all offsets; to be called when every sink has everything."""
        if self.reader is not None:
            super().finish()
            return
        self._told.committing(self._began_s)
        offsets = ends(self._there) if self._until_latest else kafka_split.read_to()
        try:
            if offsets:
                commit_offsets(self.address, self.group, offsets)
        except KafkaError as error:
            raise SourceFailed(
                f"the offsets of group {self.group} could not be committed "
                f"({type(error).__name__}); all is written, and the next run reads it again and "
                "drops it. Is another job reading in this group, or may this account not?"
            ) from error


def _is_java(uri: str, reader: str | None, where: Where, until_latest: bool) -> bool:
    if reader not in (None, "python", "java"):
        raise ConfigError(f"--source={address(uri)}: reader={reader} must be python or java")
    if reader == "java" and (where is not Where.KEPT or until_latest):
        raise ConfigError(
            f"--source={address(uri)}: reader=java is for live reading on Dataflow or Flink; drop it"
        )
    return reader == "java"


def _start(uri: str, start: str) -> str | int:
    if start in ("earliest", "latest"):
        return start
    try:
        moment = dt.datetime.fromisoformat(start)
    except ValueError as error:
        raise ConfigError(
            f"--source={address(uri)}: start={start} must be earliest, latest or a time such as "
            "2024-06-01T12:00:00Z"
        ) from error
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=dt.UTC)
    return int(moment.timestamp() * 1000)
