"""Which source, lake and warehouse a URI means: one line for each there is."""

from __future__ import annotations

from pipeline.errors import ConfigError
from pipeline.options import JobConfig
from pipeline.sinks import Sink
from pipeline.sinks.duckdb import DuckDBSink
from pipeline.sinks.lake import LakeSink
from pipeline.sources import Source
from pipeline.sources.files import FileSource
from pipeline.sources.simulator import SimulatorSource

_FILE_SYSTEMS = ("", "gs", "s3")


def scheme(uri: str) -> str:
    """The part before the first colon, in lower case; empty for a plain path."""
    head, colon, _ = uri.partition(":")
    # A path may hold a colon; a scheme is a short word.
    return head.lower() if colon and head.isalnum() and len(head) > 1 else ""


def source(config: JobConfig) -> Source:
    """The source `--source` names; ConfigError if there is no such kind."""
    kind = scheme(config.source)
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
        "(local, gs://, s3://), or simulator:"
    )


def sinks(config: JobConfig) -> list[Sink]:
    """The lake and warehouses of `--lake` and `--warehouse`; ConfigError if one is unknown."""
    found: list[Sink] = []
    if config.lake is not None:
        if scheme(config.lake):
            raise ConfigError(f"--lake={config.lake}: the lake must be a local folder, or none")
        found.append(LakeSink(config.lake, source=config.source))
    for place, uri in enumerate(config.warehouses, start=1):
        if scheme(uri) != "duckdb":
            raise ConfigError(f"--warehouse={uri}: no such warehouse; give duckdb:PATH or none")
        label = "DuckDB" if place == 1 else f"DuckDB{place}"
        found.append(DuckDBSink(uri.partition(":")[2], config.profiles, label))
    return found
