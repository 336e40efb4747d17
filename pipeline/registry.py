"""Which source, lake and warehouse a URI means: a table, with one line for each there is.

A class is imported when its line is asked for, and builds itself from the job's configuration.
"""

from __future__ import annotations

from importlib import import_module
from typing import NamedTuple, cast

import apache_beam as beam

from pipeline.engines import HERE, Engine
from pipeline.errors import ConfigError
from pipeline.options import JobConfig
from pipeline.shown import address
from pipeline.sinks import Configured, Sink
from pipeline.sinks import Wanted as WantedSink
from pipeline.sources import Source, Told
from pipeline.sources import Wanted as WantedSource


class Line(NamedTuple):
    """A line of the table.

    Attributes:
        form: what to give, as messages tell it.
        means: the class, as `module:name`.
    """

    form: str
    means: str


# By scheme; a path has none.
_FILES = Line(
    "a file, folder or glob (local, gs://, s3://)", "pipeline.sources.files.source:FileSource"
)
SOURCES = {
    "": _FILES,
    "gs": _FILES,
    "s3": _FILES,
    "kafka": Line("kafka://", "pipeline.sources.kafka.source:KafkaSource"),
    "pubsub": Line("pubsub://", "pipeline.sources.pubsub.source:PubSubSource"),
    "simulator": Line("simulator:", "pipeline.sources.simulation.source:SimulatorSource"),
}
WAREHOUSES = {
    "duckdb": Line("duckdb:PATH", "pipeline.sinks.duckdb.sink:DuckDBSink"),
    "md": Line("md:DATABASE", "pipeline.sinks.duckdb.sink:MotherDuckSink"),
    "bigquery": Line("bigquery://PROJECT/DATASET", "pipeline.sinks.bigquery:BigQuerySink"),
    "cassandra": Line("cassandra://HOST/KEYSPACE", "pipeline.sinks.cassandra:CassandraSink"),
}
# Whatever their scheme: `stores` and `connect` know what lies behind it.
LAKE = "pipeline.sinks.lake.sink:LakeSink"
DEAD_LETTER_TOPIC = "pipeline.sinks.topic.sink:TopicSink"
PREDICTION_TOPIC = "pipeline.sinks.topic.sink:PredictionTopic"


def scheme(uri: str) -> str:
    """The part before the first colon, in lower case; empty for a plain path."""
    head, colon, _ = uri.partition(":")
    # A path may hold a colon; a scheme is a short word.
    return head.lower() if colon and head.isalnum() and len(head) > 1 else ""


def _class(means: str) -> object:
    module, _, name = means.partition(":")
    return getattr(import_module(module), name)


def _source_class(line: Line) -> type[Source]:
    return cast("type[Source]", _class(line.means))


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
    line = SOURCES.get(kind)
    meant = None if line is None else _source_class(line)
    if config.dialects and not (meant and meant.takes_dialects):
        raise ConfigError("--dialect says how files are read; drop it, or give files as --source")
    if config.until_latest and not (meant and meant.takes_until_latest):
        forms = [each.form for each in _lines(SOURCES) if _source_class(each).takes_until_latest]
        raise ConfigError(f"--until=latest is for {' and '.join(forms)} sources; drop it")
    if meant is None:
        *most, last = (each.form for each in _lines(SOURCES))
        raise ConfigError(
            f"--source={address(config.source)}: no source reads {kind}:; give "
            f"{', '.join(most)} or {last}"
        )
    return meant.from_config(WantedSource(config, engine, told or Told()))


def predict(config: JobConfig) -> beam.PTransform:
    """The step that runs `--model`; heavy libraries are only loaded where it is asked for."""
    from pipeline.prediction.in_stream import Predict

    assert config.model is not None
    return Predict(config.model, config.source.partition("?")[0], config.model_timeout_s)


def check_model(config: JobConfig) -> None:
    """Finds out whether `--model` can be used; raises ConfigError."""
    if config.model is not None:
        from pipeline.prediction.in_stream import check

        check(config.model, config.model_timeout_s)


def _lines(table: dict[str, Line]) -> list[Line]:
    """Each line once, whatever number of schemes mean it."""
    return list(dict.fromkeys(table.values()))


def sinks(config: JobConfig, since_s: float | None = None, engine: Engine = HERE) -> list[Sink]:
    """The lake and warehouses of `--lake` and `--warehouse`; ConfigError if one is unknown.

    Args:
        config: the job's.
        since_s: since when the last run of a live job wrote what it could not commit, seconds
            since 1970, if there was one.
        engine: what the job runs on.
    """
    found: list[Sink] = []

    def add(means: str, uri: str, number: str = "") -> None:
        meant = cast("type[Configured]", _class(means))
        found.append(meant.from_config(WantedSink(uri, config, engine, number, since_s)))

    if config.lake is not None:
        add(LAKE, config.lake)
    for place, uri in enumerate(config.warehouses, start=1):
        line = WAREHOUSES.get(scheme(uri))
        if line is None:
            forms = ", ".join(each.form for each in _lines(WAREHOUSES))
            raise ConfigError(
                f"--warehouse={address(uri)}: no such warehouse; give {forms} or none"
            )
        add(line.means, uri, "" if place == 1 else str(place))
    if config.dead_letter_topic is not None:
        add(DEAD_LETTER_TOPIC, config.dead_letter_topic)
    if config.prediction_topic is not None:
        add(PREDICTION_TOPIC, config.prediction_topic)
    return found
