"""Builds dead letters: what could not become a reading, unmodified, with the reason."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from schemas.forms import arrow_schema
from schemas.reading import DEAD_LETTER
from transforms.budget import LETTER_BYTES

SCHEMA = arrow_schema(DEAD_LETTER)

# The end of the year 9999: sinks and their clients know no later time.
_LATEST_US = 253_402_300_799_999_999
# No id, name or message of the job's own is as long.
_MOST_CHARACTERS = {
    "step": 100,
    "error_type": 100,
    "error_message": 2000,
    "field": 500,
    "source": 2000,
    "source_file": 4096,
    "position": 500,
    "equipment_id": 4096,
}


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
            data = part if isinstance(part, bytes) else _bytes(part or "")
            digest.update(len(data).to_bytes(8, "big"))
            digest.update(data)
        return digest.hexdigest()


def table(letters: Iterable[DeadLetter]) -> pa.Table:
    """The letters as a table of schema DEAD_LETTER, in the order given.

    None keeps more than LETTER_BYTES of a payload, key or attributes: what is larger is left out,
    and the message says so. Other texts are cut. Every dead letter is made here, so that none can
    break a sink by what a sender put into it.
    """
    rows = [_bounded(letter) for letter in letters]
    columns = {name: [row[name] for row in rows] for name in SCHEMA.names}
    return pa.table([pa.array(columns[field.name], field.type) for field in SCHEMA], schema=SCHEMA)


def _bounded(letter: DeadLetter) -> dict[str, Any]:
    """A letter's columns, none of them larger than a row can hold."""
    notes = []
    row: dict[str, Any] = {"dead_letter_id": letter.dead_letter_id}
    for name, what in (
        ("payload", "payload"),
        ("message_key", "key"),
        ("attributes", "attributes"),
    ):
        kept = getattr(letter, name)
        size = 0 if kept is None else len(kept if isinstance(kept, bytes) else _bytes(kept))
        if size > LETTER_BYTES:
            notes.append(f"{what} of {size:,} bytes left out: it is whole at the source's position")
            kept = None
        row[name] = kept
    row["attributes"] = _text(row["attributes"], LETTER_BYTES)
    for name, most in _MOST_CHARACTERS.items():
        row[name] = _text(getattr(letter, name), most)
    if notes:
        row["error_message"] = f"{row['error_message']} ({'; '.join(notes)})"
    row["ingested_at"] = min(max(letter.ingested_at_us, 0), _LATEST_US)
    return row


def _text(text: str | None, most: int) -> str | None:
    """A text that Arrow and every sink takes: valid UTF-8, cut to so many characters."""
    if text is None:
        return None
    if len(text) > most:
        text = f"{text[: most - 1]}…"
    return text if text.isascii() else _bytes(text).decode()


def _bytes(text: str) -> bytes:
    # A file's name or a library's message may hold halves of characters.
    return text.encode("utf-8", "replace")
