"""Packs the messages of one or many files into batches."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import orjson
import pyarrow as pa

from pipeline.sources.formats.content import Content, Messages, Settings
from transforms import naming
from transforms.batch import MESSAGES, BatchKind, Origin, RawBatch
from transforms.budget import MIB

BATCH_BYTES = 8 * MIB


@lru_cache(maxsize=4096)
def equipment_of(path: str) -> str | None:
    """The equipment that a file of messages speaks of, by its path.

    As for tables; None where neither the file's name nor a folder's says anything.

    >>> equipment_of("landing/B0005/stream_1717243200000.json")
    'B0005'
    """
    name = naming.equipment_from_path(path)
    return None if naming.is_generic(name) else name


class Packer:
    """Gathers messages, of as many files as it takes, until they make a batch.

    Thousands of files with one message each would otherwise be thousands of batches. Each
    message keeps its own file, time and equipment: the last in its attributes, because the
    batch's origin knows only what all of its messages share.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._parts: list[Messages] = []
        self._rows = 0
        self._bytes = 0

    def add(self, part: Messages) -> Iterator[RawBatch]:
        """Takes messages of one file; yields the batch that they do not fit into any more."""
        full = self._rows + len(part.payloads) > self._settings.batch_rows
        if self._parts and (full or self._bytes + part.size > BATCH_BYTES):
            yield self._pack()
        self._parts.append(part)
        self._rows += len(part.payloads)
        self._bytes += part.size

    def flush(self) -> Iterator[RawBatch]:
        """Yields what is left."""
        if self._rows:
            yield self._pack()

    def _pack(self) -> RawBatch:
        parts, settings = self._parts, self._settings
        self._parts, self._rows, self._bytes = [], 0, 0
        payloads: list[bytes] = []
        positions: list[str] = []
        attributes: list[str | None] = []
        arrived: list[int] = []
        files: list[str] = []
        for part in parts:
            content, count = part.content, len(part.payloads)
            payloads += part.payloads
            positions += part.positions
            attributes += [_attributes(self._equipment(content))] * count
            arrived += [content.arrived_at_us] * count
            files += [content.source_file] * count
        table = pa.table(
            [
                pa.array(payloads, pa.binary()),
                pa.nulls(len(payloads), pa.binary()),
                pa.array(attributes, pa.string()),
                pa.array(positions, pa.string()),
                pa.array(arrived, pa.timestamp("us", tz="UTC")),
                pa.array(files, pa.string()),
            ],
            schema=MESSAGES,
        )
        shared = {(part.content.source_file, self._equipment(part.content)) for part in parts}
        one_file = next(iter(shared)) if len(shared) == 1 else (None, settings.equipment_id)
        origin = Origin(
            source=settings.source,
            source_file=one_file[0],
            arrived_at_us=max(arrived),
            equipment_id=one_file[1],
        )
        return RawBatch(table, BatchKind.MESSAGES, origin)

    def _equipment(self, content: Content) -> str | None:
        return self._settings.equipment_id or equipment_of(content.path)


@lru_cache(maxsize=4096)
def _attributes(equipment: str | None) -> str | None:
    return None if equipment is None else orjson.dumps({"equipment_id": equipment}).decode()
