"""Which source, lake and warehouse a URI means: one line for each there is."""

from __future__ import annotations

from functools import partial

from pipeline.engines import HERE, Engine
from pipeline.errors import ConfigError
from pipeline.options import JobConfig
from pipeline.shown import address
from pipeline.sinks import Sink
from pipeline.sinks.bigquery import BigQuerySink
from pipeline.sinks.duckdb import DuckDBSink, MotherDuckSink
from pipeline.sinks.lake.sink import LakeSink
from pipeline.sinks.topic.sink import TopicSink
from pipeline.sources import Source, Told
from pipeline.sources.files.source import FileSource
from pipeline.sources.kafka.source import KafkaSource
from pipeline.sources.pubsub.source import PubSubSource
from pipeline.sources.simulation.source import SimulatorSource
from transforms.decode import decode as decode_batch

_FILE_SYSTEMS = ("", "gs", "s3")


def scheme(uri: str) -> str:
    """The part before the first colon, in lower case; empty for a plain path."""
    head, colon, _ = uri.partition(":")
    # A path may hold a colon; a scheme is a short word.
    return head.lower() if colon and head.isalnum() and len(head) > 1 else ""


def source(
    config: JobConfig,
    engine: Engine = HERE,
    told: Told | None = None,
) -> Source:
    """The source `--source` names; ConfigError if there is no such kind.

    Args:
        config: the job's.
        engine: what the job runs on.
        told: what the job wants to know of a live source.
    """
    kind = scheme(config.source)
    if config.dialects and kind not in _FILE_SYSTEMS:
        raise ConfigError("--dialect says how files are read; drop it, or give files as --source")
    if kind in ("kafka", "pubsub"):
        decode = partial(
            decode_batch,
            time_zone=config.zone,
            day_first=config.day_first,
            budget=config.budget,
            binary_keys=config.binary_keys,
        )
        common = (config.source, decode, engine, config.until_latest, told or Told())
        if kind == "kafka":
            return KafkaSource(*common, config.budget, config.run)
        return PubSubSource(*common, config.run)
    if config.until_latest:
        raise ConfigError("--until=latest is for kafka:// and pubsub:// sources; drop it")
    if kind == "simulator":
        return SimulatorSource(config.source)
    if kind in _FILE_SYSTEMS:
        return FileSource(
            config.source,
            name=config.source,
            equipment_id=config.equipment_id,
            time_zone=config.zone,
            day_first=config.day_first,
            dialects=config.dialects,
            budget=config.budget,
        )
    raise ConfigError(
        f"--source={address(config.source)}: no source reads {kind}:; give a file, folder or glob "
        "(local, gs://, s3://), kafka://, pubsub:// or simulator:"
    )


def sinks(config: JobConfig, since_s: float | None = None, engine: Engine = HERE) -> list[Sink]:
    """The lake and warehouses of `--lake` and `--warehouse`; ConfigError if one is unknown.

    Args:
        config: the job's.
        since_s: since when the last run of a live job wrote what it could not commit, seconds
            since 1970, if there was one.
        engine: what the job runs on.
    """
    found: list[Sink] = []
    if config.lake is not None:
        loaded = config.bigquery_method == "file_loads" and any(
            scheme(uri) == "bigquery" for uri in config.warehouses
        )
        found.append(
            LakeSink(
                config.lake,
                config.source,
                since_s,
                engine,
                config.lake_file_bytes,
                config.lake_file_wait_s,
                statistics=loaded,
            )
        )
    for place, uri in enumerate(config.warehouses, start=1):
        number = "" if place == 1 else str(place)
        if scheme(uri) == "duckdb":
            label = f"DuckDB{number}"
            path = uri.partition(":")[2]
            found.append(DuckDBSink(path, config.profiles, label, config.on_conflict))
        elif scheme(uri) == "md":
            label = f"MotherDuck{number}"
            found.append(MotherDuckSink(uri, config.profiles, label, config.on_conflict))
        elif scheme(uri) == "bigquery":
            found.append(_bigquery(config, uri, engine, f"BigQuery{number}"))
        elif scheme(uri) == "cassandra":
            found.append(_cassandra(config, uri, f"Cassandra{number}"))
        else:
            raise ConfigError(
                f"--warehouse={address(uri)}: no such warehouse; give duckdb:PATH, md:DATABASE, "
                "bigquery://PROJECT/DATASET, cassandra://HOST/KEYSPACE or none"
            )
    if config.dead_letter_topic is not None:
        found.append(TopicSink(config.dead_letter_topic))
    return found


def _bigquery(config: JobConfig, uri: str, engine: Engine, label: str) -> BigQuerySink:
    others = [config.lake, *config.warehouses, config.dead_letter_topic]
    kept = [other for other in others if other is not None and other != uri]
    return BigQuerySink(
        uri,
        source=config.source,
        used=config.profiles,
        engine=engine,
        method=config.bigquery_method,
        delivery=config.bigquery_delivery,
        lake=config.lake,
        kept_where=kept[0] if kept else None,
        load_every_s=config.bigquery_load_every_s,
        label=label,
        on_conflict=config.on_conflict,
    )


def _cassandra(config: JobConfig, uri: str, label: str) -> Sink:
    # Only now: the driver takes half a second to import.
    from pipeline.sinks.cassandra import CassandraSink

    others = [config.lake, *config.warehouses, config.dead_letter_topic]
    kept = [other for other in others if other is not None and other != uri]
    return CassandraSink(
        uri,
        source=config.source,
        used=config.profiles,
        kept_where=kept[0] if kept else None,
        label=label,
        on_conflict=config.on_conflict,
    )
