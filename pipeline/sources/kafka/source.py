"""The Kafka source: kafka://HOST:PORT[,…]/TOPIC, live or up to what is there now."""

from __future__ import annotations

import datetime as dt
import logging
import time
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Self

import apache_beam as beam
import pyarrow as pa
from kafka.errors import KafkaError

from pipeline.clock import now_us
from pipeline.connect import kafka as connect
from pipeline.connect import secrets
from pipeline.engines import Engine, Finished
from pipeline.engines.polling import ReadLive
from pipeline.errors import ConfigError, SourceFailed
from pipeline.shown import address
from pipeline.sources import Received, Told, Wanted
from pipeline.sources.kafka import native, split
from pipeline.sources.kafka.bounded import ReadRange, There, cut, ends, what_is_there
from pipeline.sources.kafka.broker import KafkaBroker
from pipeline.sources.kafka.client import adopt, before_ends, commit_offsets
from pipeline.sources.kafka.java import ReadJava
from pipeline.sources.kafka.split import ReadSplit, Topic
from pipeline.sources.kafka.transactions import WAIT_S
from pipeline.sources.live import positions
from pipeline.sources.live.positions import Ledger, Run
from pipeline.sources.live.reader import LiveReader, LiveSource, counted, disorder_us
from transforms.batch import RawBatch
from transforms.budget import USUAL, Budget
from transforms.decoded import Decoded
from transforms.rejects import Rejects

_PARAMETERS = ("group", "start", "disorder", "reader", "client", "isolation", "transaction_wait")
# A topic has a default group of its own: members of a group must agree on their topics.
_DEFAULT_GROUP = "battery-pipeline.{topic}"
# That of all topics until there was one for each.
_FORMER_GROUP = "battery-pipeline"

_log = logging.getLogger(__name__)


class KafkaSource(LiveSource):
    """Reads a topic.

    Args:
        uri: `kafka://HOST:PORT[,HOST:PORT…]/TOPIC[?group=…&start=…&disorder=…&isolation=…]`.
        decode: decodes a raw batch; the watermark needs its event times.
        engine: what the job runs on.
        until_latest: whether to read what is there now and finish.
        told: what the job wants to know.
        budget: what a message may take.
        run: the run's id.
    """

    def __init__(
        self,
        uri: str,
        decode: Callable[[RawBatch], tuple[Decoded, Rejects]],
        engine: Engine,
        until_latest: bool,
        told: Told,
        budget: Budget = USUAL,
        run: str = "",
    ) -> None:
        self._uri = uri
        self._budget = budget
        self.address = connect.KafkaAddress.parse(uri, "--source", _PARAMETERS)
        parameters = self.address.parameters
        self.group = parameters.get("group") or _DEFAULT_GROUP.format(topic=self.address.topic)
        self._former = None if "group" in parameters else _FORMER_GROUP
        _isolation(uri, parameters.get("isolation"))
        _client(uri, parameters.get("client"))
        self._wait_s = _seconds(uri, "transaction_wait", parameters, WAIT_S)
        self._start = _start(uri, parameters.get("start") or "earliest")
        self._disorder_us = disorder_us(uri, parameters.get("disorder"))
        self._java = _is_java(uri, parameters.get("reader"), engine, until_latest)
        if self._java and secrets.PARAMETER in parameters:
            raise ConfigError(
                f"--source={address(uri)}: with reader=java a secret would stand in the job's graph, where "
                "others can see it; drop reader=java"
            )
        self._decode = decode
        self._engine = engine
        self._until_latest = until_latest
        self._told = told
        self.name = str(self.address)
        self._run = run
        self._partitions = 0
        self._compacted: bool | None = None
        self._began_s = time.time()

    @classmethod
    def from_config(cls, wanted: Wanted) -> Self:
        """The topic that `--source` names."""
        config = wanted.config
        return cls(
            config.source,
            wanted.decode,
            wanted.engine,
            config.until_latest,
            wanted.told,
            config.budget,
            config.run,
        )

    @property
    def live(self) -> bool:
        """Whether readings go on coming until the job is stopped."""
        return not self._until_latest

    @property
    def total(self) -> int | None:
        """How many messages there are to read; None where they go on coming."""
        if not self._until_latest:
            return None
        return sum(part.stop - part.start for part in self._there.ranges)

    @cached_property
    def _there(self) -> There:
        return what_is_there(self.address, self.group, self._start, self._former, self._wait_s)

    def check(self) -> None:
        """Finds out within seconds whether the topic can be read; raises ConfigError."""
        self._began_s = time.time()
        self._partitions = connect.check_topic(self.address, "--source", "READ")
        self._compacted = connect.is_compacted(self.address, "--source")
        if self._until_latest:
            connect.check_group(self.address, self.group, "--source")
        elif self._engine.goes_back and not self._engine.restored:
            self._warn_of_offsets()

    def _warn_of_offsets(self) -> None:
        """Says where readings are that an earlier job has committed and not written."""
        if connect.has_offsets(self.address, self.group, "--source"):
            _log.warning(
                "the group %s goes on where an earlier job has committed. What a job on %s has read "
                "and not written lies in its last checkpoint: unless it was drained, start from that "
                "(%s)", self.group, self._engine.name, self._engine.restore_flag,
            )  # fmt: skip

    def read(self, pipeline: beam.Pipeline) -> Received:
        """Adds the source's steps."""
        if self._until_latest:
            return self._read_ranges(pipeline)
        if self._java:
            read = ReadJava(self.address, self.group, self._start, self.name)
            batches = counted(pipeline | "Kafka" >> read)
            return Received(batches, None, None, disorder_us=self._disorder_us)
        if not self._engine.here:
            topic = Topic(
                self.address,
                self.group,
                self._start,
                self.name,
                self._disorder_us,
                self._decode,
                self._partitions,
                self._engine.finished is Finished.DURABLE,
                self._budget,
                self._former,
                self._compacted,
                self._run,
                self._wait_s,
            )
            batches = pipeline | "Kafka" >> ReadSplit(topic)
            told = positions.together(positions.of_batches(batches))
            return Received(batches, None, None, disorder_us=self._disorder_us, positions=told)
        ledger = Ledger(Run(self._run, self.name, self.address.topic))
        broker = KafkaBroker(
            self.address,
            self.group,
            self._start,
            self.name,
            self._budget,
            self._former,
            ledger,
            self._compacted,
            self._wait_s,
        )
        self.reader = LiveReader(broker, self._decode, self._disorder_us, self._told, ledger=ledger)
        batches = pipeline | "Kafka" >> ReadLive("Kafka", self.reader)
        return Received(
            counted(batches),
            dead_letters=None,
            files=None,
            leads=True,
            disorder_us=self._disorder_us,
            positions=positions.of_batches(batches),
        )

    def _read_ranges(self, pipeline: beam.Pipeline) -> Received:
        there = self._there
        read = ReadRange(
            self.address, self.name, self._budget, self._run, self._compacted, there.log
        )
        outputs = (
            pipeline
            | "Ranges" >> beam.Create(cut(there.ranges))
            | "Spread" >> beam.Reshuffle()
            | "ReadRange"
            >> beam.ParDo(read)
            .with_output_types(RawBatch, positions=pa.Table)
            .with_outputs("positions", main="batches")
        )
        run = Run(self._run, self.name, self.address.topic)
        rows = [run.of_gap(number, each, now_us(), there.log) for number, each in there.gaps]
        asked = pipeline | "Gaps" >> beam.Create([positions.table(rows)])
        told = (outputs.positions, asked) | "Positions" >> beam.Flatten()
        return Received(outputs.batches, None, None, positions=told)

    @property
    def lag(self) -> int | None:
        """Messages known to be unread; None where readers are in other processes."""
        return split.lag() if self.reader is None else super().lag

    @property
    def watermark_us(self) -> int | None:
        """How far event time has come, µs since 1970; None where readers are in other processes."""
        return split.reached_us() if self.reader is None else super().watermark_us

    def start(self) -> None:
        """Begins to read, where this process does; called when the graph is built."""
        if self._java:
            # The connector knows one group alone.
            adopt(self.address, self.group, self._former)
        super().start()

    def stop(self) -> None:
        """Reads no further; what was read goes through the pipeline, then the job ends."""
        split.end()
        super().stop()

    def finish(self) -> None:
        """Commits all offsets; to be called when every sink has everything."""
        if self.reader is not None:
            super().finish()
            return
        self._told.committing(self._began_s)
        until = self._until_latest
        offsets = ends(self._there.ranges, self.address) if until else split.read_to()
        try:
            if offsets and until and not self._engine.one_process:
                # Only the process that read it knows that a log has become shorter.
                offsets = before_ends(self.address, offsets)
            if offsets:
                log = self._there.log if self._until_latest else None
                commit_offsets(self.address, self.group, offsets, log)
        except KafkaError as error:
            raise SourceFailed(
                f"the offsets of group {self.group} could not be committed "
                f"({type(error).__name__}); all is written, and the next run reads it again and "
                "drops it. Is another job reading in this group, or may this account not?"
            ) from error


def _isolation(uri: str, level: str | None) -> None:
    if level is not None and level not in connect.ISOLATIONS:
        raise ConfigError(
            f"--source={address(uri)}: isolation={level} must be {' or '.join(connect.ISOLATIONS)}"
        )


def _client(uri: str, client: str | None) -> None:
    if client is not None and client not in native.CLIENTS:
        raise ConfigError(
            f"--source={address(uri)}: client={client} must be {' or '.join(native.CLIENTS)}"
        )
    if client == native.LIBRDKAFKA and not native.is_there():
        raise ConfigError(
            f"--source={address(uri)}: client={client} needs a package that is not installed: "
            "pip install confluent-kafka; or drop client"
        )


def _seconds(uri: str, name: str, parameters: Mapping[str, str], usual: float) -> float:
    try:
        found = float(parameters.get(name, usual))
    except ValueError:
        found = -1.0
    if not 0 <= found <= 3600:
        raise ConfigError(
            f"--source={address(uri)}: {name}={parameters[name]} must be 0 to 3600 seconds"
        )
    return found


def _is_java(uri: str, reader: str | None, engine: Engine, until_latest: bool) -> bool:
    if reader not in (None, "python", "java"):
        raise ConfigError(f"--source={address(uri)}: reader={reader} must be python or java")
    if reader == "java" and (engine.finished is not Finished.DURABLE or until_latest):
        from pipeline.engines import choose

        fit = choose.those(lambda each: each.finished is Finished.DURABLE)
        raise ConfigError(
            f"--source={address(uri)}: reader=java is for live reading on "
            f"{' or '.join(each.name for each in fit)}; drop it"
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
