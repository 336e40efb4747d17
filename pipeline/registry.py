"""Which source, lake and warehouse a URI means: one line for each there is."""

from __future__ import annotations

from functools import partial

from pipeline.errors import ConfigError
from pipeline.options import JobConfig
from pipeline.runner import Where
from pipeline.sinks import Sink
from pipeline.sinks.duckdb import DuckDBSink
from pipeline.sinks.lake import LakeSink
from pipeline.sinks.topic import TopicSink
from pipeline.sources import Source, Told
from pipeline.sources.files import FileSource
from pipeline.sources.kafka import KafkaSource
from pipeline.sources.pubsub import PubSubSource
from pipeline.sources.simulator import SimulatorSource
from transforms.decode import decode as decode_batch

_FILE_SYSTEMS = ("", "gs", "s3")


def scheme(uri: str) -> str:
    """The part before the first colon, in lower case; empty for a plain path."""
    head, colon, _ = uri.partition(":")
    # A path may hold a colon; a scheme is a short word.
    return head.lower() if colon and head.isalnum() and len(head) > 1 else ""


def source(
    config: JobConfig,
    where: Where = Where.HERE,
    told: Told | None = None,
) -> Source:
    """The source `--source` names; ConfigError if there is no such kind.

    Args:
        config: the job's.
        where: what kind of runner the job runs on.
        told: what the job wants to know of a live source.
    """
    kind = scheme(config.source)
    if kind in ("kafka", "pubsub"):
        live = KafkaSource if kind == "kafka" else PubSubSource
        decode = partial(decode_batch, time_zone=config.time_zone, day_first=config.day_first)
        return live(config.source, decode, where, config.until_latest, told or Told())
    if config.until_latest:
        raise ConfigError("--until=latest is for kafka:// and pubsub:// sources; drop it")
    if kind == "simulator":
        return SimulatorSource(config.source)
    if kind in _FILE_SYSTEMS:
        return FileSource(
            config.source,
            name=config.source,
            equipment_id=config.equipment_id,
            time_zone=config.time_zone,
            day_first=config.day_first,
        )
    raise ConfigError(
        f"--source={config.source}: no source reads {kind}:; give a file, folder or glob "
        "(local, gs://, s3://), kafka://, pubsub:// or simulator:"
    )


def sinks(config: JobConfig, since_s: float | None = None) -> list[Sink]:
    """The lake and warehouses of `--lake` and `--warehouse`; ConfigError if one is unknown.

    Args:
        config: the job's.
        since_s: since when the last run of a live job wrote what it could not commit, seconds
            since 1970, if there was one.
    """
    found: list[Sink] = []
    if config.lake is not None:
        if scheme(config.lake):
            raise ConfigError(f"--lake={config.lake}: the lake must be a local folder, or none")
        found.append(LakeSink(config.lake, config.source, since_s))
    for place, uri in enumerate(config.warehouses, start=1):
        if scheme(uri) != "duckdb":
            raise ConfigError(f"--warehouse={uri}: no such warehouse; give duckdb:PATH or none")
        label = "DuckDB" if place == 1 else f"DuckDB{place}"
        found.append(DuckDBSink(uri.partition(":")[2], config.profiles, label))
    if config.dead_letter_topic is not None:
        found.append(TopicSink(config.dead_letter_topic))
    return found
