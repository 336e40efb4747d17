"""Builds dead letters: what could not become a reading, unmodified, with the reason."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa

from schemas.forms import arrow_schema
from schemas.reading import DEAD_LETTER

SCHEMA = arrow_schema(DEAD_LETTER)


@dataclass(frozen=True)
class DeadLetter:
    """One refused message, row or file; `schemas.reading.DEAD_LETTER` says what each field is."""

    step: str
    error_type: str
    error_message: str
    source: str
    ingested_at_us: int
    payload: bytes | None = None
    field: str | None = None
    source_file: str | None = None
    position: str | None = None
    message_key: bytes | None = None
    attributes: str | None = None
    equipment_id: str | None = None

    @property
    def dead_letter_id(self) -> str:
        """32 hexadecimal digits that are the same however often the letter is met."""
        digest = hashlib.blake2b(digest_size=16)
        parts = (self.source_file or self.source, self.position, self.step, self.error_type)
        for part in (*parts, self.payload):
            data = part if isinstance(part, bytes) else (part or "").encode()
            digest.update(len(data).to_bytes(8, "big"))
            digest.update(data)
        return digest.hexdigest()


def table(letters: Iterable[DeadLetter]) -> pa.Table:
    """The letters as a table of schema DEAD_LETTER, in the order given."""
    letters = list(letters)
    columns = {
        name: [getattr(letter, name) for letter in letters]
        for name in SCHEMA.names
        if name != "ingested_at"
    }
    columns["ingested_at"] = [letter.ingested_at_us for letter in letters]
    return pa.table([pa.array(columns[field.name], field.type) for field in SCHEMA], schema=SCHEMA)
