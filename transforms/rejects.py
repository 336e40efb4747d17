"""The rows of a batch that were refused, and the dead letters they become."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from transforms import convert, dead_letter
from transforms import extra as extras
from transforms.batch import BatchKind, RawBatch
from transforms.budget import MIB
from transforms.convert import Mask
from transforms.dead_letter import DeadLetter
from transforms.interpret import apply

# Of dead letters that travel together, about.
_LETTERS_BYTES = 32 * MIB


@dataclass
class Rejects:
    """The first thing wrong with each row of a raw batch."""

    rows: dict[int, tuple[str, str | None, str]] = field(default_factory=dict)

    def add(self, row: int, error_type: str, column: str | None, message: str) -> None:
        """Notes an error of a row, unless one was noted before."""
        self.rows.setdefault(row, (error_type, column, message))

    def add_mask(self, mask: Mask | None, error_type: str, column: str, message: str) -> None:
        """Notes the same error for every row where `mask` is True."""
        if mask is not None:
            for row in np.flatnonzero(mask).tolist():
                self.add(row, error_type, column, message)


def letters_in_parts(raw: RawBatch, rejects: Rejects, step: str) -> Iterator[pa.Table]:
    """The same as `dead_letters`, in tables that are not large."""
    names = sum(map(len, raw.table.column_names))
    own = raw.table.nbytes // max(1, raw.table.num_rows) + names
    at_once = max(1, _LETTERS_BYTES // max(1, own))
    rows = sorted(rejects.rows)
    for start in range(0, len(rows), at_once):
        part = Rejects({row: rejects.rows[row] for row in rows[start : start + at_once]})
        yield dead_letters(raw, part, step)


def dead_letters(raw: RawBatch, rejects: Rejects, step: str) -> pa.Table:
    """The refused rows of a raw batch as dead letters, payload unmodified.

    A table's row is kept as a JSON object under the source's own column names, so that it can be
    sent again as a message.
    """
    rows = sorted(rejects.rows)
    table = apply.parted(raw.table.take(pa.array(rows, pa.int64())))[0]
    taken = {name: convert.items(table.column(name)) for name in table.column_names}
    letters = []
    for place, row in enumerate(rows):
        content = {name: values[place] for name, values in taken.items()}
        error_type, column, message = rejects.rows[row]
        origin = raw.origin
        common: dict[str, Any] = {
            "step": step,
            "error_type": error_type,
            "error_message": message,
            "field": column,
            "source": origin.source,
        }
        if raw.kind is BatchKind.MESSAGES:
            arrived = content["arrived_at"]
            micros = convert.to_micros(arrived) if arrived is not None else origin.arrived_at_us
            letters.append(
                DeadLetter(
                    **common,
                    payload=content["payload"],
                    source_file=content["source_file"] or origin.source_file,
                    position=content["position"] or str(origin.first_row + row),
                    message_key=content["key"],
                    attributes=content["attributes"],
                    equipment_id=origin.equipment_id,
                    ingested_at_us=micros,
                )
            )
        else:
            present = {name: value for name, value in content.items() if value is not None}
            own = {"equipment_id": origin.equipment_id} if origin.equipment_id else None
            letters.append(
                DeadLetter(
                    **common,
                    payload=extras.dump(present).encode(),
                    source_file=origin.source_file,
                    position=str(origin.first_row + row),
                    attributes=orjson.dumps(own).decode() if own else None,
                    equipment_id=origin.equipment_id,
                    ingested_at_us=origin.arrived_at_us,
                )
            )
    return dead_letter.table(letters)
