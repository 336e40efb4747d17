"""Source of a simulated fleet: `simulator:?equipment=8&…`, messages as a gateway would send."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Self
from urllib.parse import parse_qsl

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.metrics import Metrics

from pipeline.errors import ConfigError
from pipeline.progress import PROGRESS
from pipeline.shown import address
from pipeline.sources import Bounded, Received, Wanted
from pipeline.sources.simulation.config import FleetConfig
from pipeline.sources.simulation.fleet import Fleet
from pipeline.sources.simulation.parts import Block, Messages
from schemas.forms import UTC_MICROSECONDS
from transforms.batch import MESSAGES, BatchKind, Origin, RawBatch

SCHEME = "simulator:"
_BATCH = 20_000
# A block of about this many readings is one unit of work: enough of them for all workers.
_BLOCK = 200_000


class _Simulate(beam.DoFn):
    def __init__(self, fleet: FleetConfig, name: str) -> None:
        self._config = fleet
        self._name = name
        self._fleet: Fleet | None = None
        self._read = Metrics.counter("account", "read")

    def process(self, block: Block) -> Iterable[RawBatch]:
        if self._fleet is None:
            self._fleet = Fleet(self._config)
        for raw in _batches(self._fleet, block, self._name):
            self._read.inc(raw.table.num_rows)
            yield raw
            PROGRESS.advance(raw.table.num_rows)


def _batches(fleet: Fleet, block: Block, name: str) -> Iterator[RawBatch]:
    """The messages of a block of the fleet, in order of arrival."""
    for messages in fleet.messages(block, _BATCH):
        yield RawBatch(_table(messages), BatchKind.MESSAGES, Origin(name))


def _table(messages: Messages) -> pa.Table:
    """The messages as a raw batch's table (schema MESSAGES)."""
    rows = len(messages.payloads)
    offsets = pa.array(range(messages.offset, messages.offset + rows)).cast(pa.string())
    columns = {
        "payload": pa.array(messages.payloads, pa.binary()),
        "key": pa.array(messages.keys, pa.binary()),
        "attributes": pa.nulls(rows, pa.string()),
        "position": pc.binary_join_element_wise(messages.partition, offsets, "/"),
        "arrived_at": pa.array(messages.arrived_at_us).cast(UTC_MICROSECONDS),
        "source_file": pa.nulls(rows, pa.string()),
    }
    return pa.table(columns, schema=MESSAGES)


class SimulatorSource(Bounded):
    """A repeatable fleet of cells and machines; see `pipeline.sources.simulation`."""

    def __init__(self, uri: str) -> None:
        self._name = uri
        query = uri.removeprefix(SCHEME).lstrip("/").removeprefix("?")
        try:
            parameters = dict(parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query)))
        except ValueError as error:
            raise ConfigError(
                f"--source={address(uri)}: parameters look like simulator:?equipment=8&seed=2"
            ) from error
        self.config = FleetConfig.parse(parameters)

    @classmethod
    def from_config(cls, wanted: Wanted) -> Self:
        """The fleet that `--source` describes."""
        return cls(wanted.config.source)

    def check(self) -> None:
        """Nothing can be missing: the fleet is made here."""

    @property
    def total(self) -> int | None:
        """How many messages there will be."""
        return Fleet(self.config).total

    unit = "readings"

    def batches(self) -> Iterator[RawBatch]:
        """The whole fleet's messages in this process, one block of equipments after another."""
        fleet = Fleet(self.config)
        for block in fleet.blocks(_BLOCK):
            yield from _batches(fleet, block, self._name)

    def read(self, pipeline: beam.Pipeline) -> Received:
        """Adds the steps: blocks of the fleet, simulated where they are worked on."""
        blocks = Fleet(self.config).blocks(_BLOCK)
        batches = (
            pipeline
            | "Blocks" >> beam.Create(blocks)
            | "Spread" >> beam.Reshuffle()
            | "Simulate"
            >> beam.ParDo(_Simulate(self.config, self._name)).with_output_types(RawBatch)
        )
        return Received(batches=batches, dead_letters=None, files=None)
