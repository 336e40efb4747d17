"""The Pub/Sub source: pubsub://PROJECT/SUBSCRIPTION, live or up to what is there now."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Self

import apache_beam as beam
from apache_beam.io.gcp.pubsub import ReadFromPubSub

from pipeline.connect import pubsub as connect
from pipeline.engines import HERE, Engine, Finished
from pipeline.engines.polling import ReadLive
from pipeline.errors import ConfigError
from pipeline.shown import address as shown
from pipeline.sources import Received, Told, Wanted
from pipeline.sources.live import positions
from pipeline.sources.live.positions import Ledger, Run
from pipeline.sources.live.reader import LiveReader, LiveSource, counted, disorder_us
from pipeline.sources.pubsub import split
from pipeline.sources.pubsub.broker import PubSubBroker
from pipeline.sources.pubsub.messages import PackMessages
from pipeline.sources.pubsub.split import ReadSplit, Subscription
from transforms.batch import RawBatch
from transforms.decoded import Decoded
from transforms.rejects import Rejects

_PARAMETERS = ("disorder", "id_label", "readers", "timestamp_attribute")
# How many read at the same time, where they are steps of the job's; each gets its share.
_READERS = 4
_MOST_READERS = 100


class PubSubSource(LiveSource):
    """Reads a subscription.

    Args:
        uri: `pubsub://PROJECT/SUBSCRIPTION[?disorder=5&readers=4]`. On Dataflow also `id_label` and
            `timestamp_attribute`, which Beam's ReadFromPubSub explains; others need neither.
            `readers` is for those that neither read in this process nor have Beam's own step.
        decode: decodes a raw batch; the watermark needs its event times.
        engine: what the job runs on.
        until_latest: whether to end once nothing has come for some seconds; local runner only.
            What a job held that was killed comes again only within a minute, when its leases
            have run out.
        told: what the job wants to know.
        run: the run's id.
    """

    def __init__(
        self,
        uri: str,
        decode: Callable[[RawBatch], tuple[Decoded, Rejects]],
        engine: Engine,
        until_latest: bool,
        told: Told,
        run: str = "",
    ) -> None:
        self._uri = uri
        self.address = connect.PubSubAddress.parse(uri, "--source", "subscription", _PARAMETERS)
        self._disorder_us = disorder_us(uri, self.address.parameters.get("disorder"))
        self._readers = _number_of_readers(uri, self.address.parameters.get("readers"))
        self._decode = decode
        self._engine = engine
        self._until_latest = until_latest
        self._told = told
        self.name = str(self.address)
        self._run = run

    @classmethod
    def from_config(cls, wanted: Wanted) -> Self:
        """The subscription that `--source` names."""
        config = wanted.config
        return cls(
            config.source,
            wanted.decode,
            wanted.engine,
            config.until_latest,
            wanted.told,
            config.run,
        )

    @property
    def live(self) -> bool:
        """Whether readings go on coming until the job is stopped."""
        return True

    @property
    def total(self) -> int | None:
        """Not known: only Pub/Sub's own statistics, minutes old, tell how much there is."""
        return None

    def check(self) -> None:
        """Finds out within seconds whether the subscription can be read; raises ConfigError."""
        if not _can_read(self._engine):
            from pipeline.engines import choose

            fit = choose.those(_can_read)
            raise ConfigError(
                f"--source={self.name}: {self._engine.name} keeps what it has taken in memory alone, "
                "so that no message could be acknowledged before the job's end; only "
                f"{_listed('and', [each.name for each in fit])} can read Pub/Sub: give "
                f"{_listed('or', [each.flag for each in fit])}"
            )
        if self._until_latest and not self._engine.here:
            raise ConfigError(
                f"--until=latest: a pubsub:// source has an end on {HERE.name} only; drop it, "
                f"or give {HERE.flag}"
            )
        found = connect.check_subscription(self.address, "--source")
        native = self._engine.native_pubsub
        if not native and found is not None and found.enable_message_ordering:
            # A key's next messages come when its last are acknowledged, which is after their
            # window or some checkpoints; by then the watermark has gone past them.
            raise ConfigError(
                f"--source={self.name}: the subscription delivers in order, which holds readings "
                "back until those before them are written; the job puts them in order itself: "
                "give it a subscription without message ordering"
            )

    def read(self, pipeline: beam.Pipeline) -> Received:
        """Adds the source's steps."""
        if not self._engine.here and not self._engine.native_pubsub:
            subscription = Subscription(
                self.address, self.name, self._disorder_us, self._decode, self._run
            )
            batches = pipeline | "PubSub" >> ReadSplit(subscription, self._readers)
            told = positions.together(positions.of_batches(batches))
            return Received(batches, None, None, disorder_us=self._disorder_us, positions=told)
        here = self._engine.here
        batches = self._read_here(pipeline) if here else self._read_natively(pipeline)
        return Received(
            counted(batches),
            dead_letters=None,
            files=None,
            leads=here,
            disorder_us=self._disorder_us,
            positions=positions.of_batches(batches) if here else None,
        )

    def _read_here(self, pipeline: beam.Pipeline) -> beam.PCollection:
        at_end = self.stop if self._until_latest else _go_on
        broker = PubSubBroker(self.address, self.name, at_end)
        ledger = Ledger(Run(self._run, self.name, self.address.name))
        self.reader = LiveReader(broker, self._decode, self._disorder_us, self._told, ledger=ledger)
        return pipeline | "PubSub" >> ReadLive("PubSub", self.reader)

    def _read_natively(self, pipeline: beam.Pipeline) -> beam.PCollection:
        parameters = self.address.parameters
        messages = pipeline | "PubSub" >> ReadFromPubSub(
            subscription=self.address.subscription_path,
            with_attributes=True,
            id_label=parameters.get("id_label"),
            timestamp_attribute=parameters.get("timestamp_attribute"),
        )
        return messages | "Pack" >> beam.ParDo(PackMessages(self.name)).with_output_types(RawBatch)

    def stop(self) -> None:
        """Reads no further; what was read goes through the pipeline, then the job ends."""
        split.end()
        super().stop()

    def finish(self) -> None:
        """Acknowledges all messages; to be called when every sink has everything."""
        split.finish()
        super().finish()


def _can_read(engine: Engine) -> bool:
    """Whether there is a moment at which a message can be acknowledged while the job goes on."""
    return engine.here or engine.native_pubsub or engine.finished is Finished.DURABLE


def _listed(word: str, names: Sequence[str]) -> str:
    return f" {word} ".join((", ".join(names[:-1]), names[-1])) if names[1:] else names[0]


def _number_of_readers(uri: str, given: str | None) -> int:
    if given is None:
        return _READERS
    if not given.isdecimal() or not 1 <= int(given) <= _MOST_READERS:
        raise ConfigError(f"--source={shown(uri)}: readers={given} must be 1 to {_MOST_READERS}")
    return int(given)


def _go_on() -> None:
    """New messages are waited for."""
