"""What decoding gives: readings in the reading's columns, with the raw batch they came from."""

from __future__ import annotations

from dataclasses import dataclass

import apache_beam as beam
import pyarrow as pa

from transforms.batch import PickledCoder, RawBatch
from transforms.interpret import apply
from transforms.interpret.interpretation import Interpretation

# The table of a batch of which no row could be read.
NOTHING = pa.table({"row": pa.array([], pa.int64())})


@dataclass(frozen=True)
class Decoded:
    """Readings in the reading's columns, with the raw batch they came from.

    Attributes:
        table: columns of `schemas.reading.READING` that are not derived, without those that are
            null in every row; names of low cardinality as dictionaries; plus `flags` (int64,
            a bit per quality flag), `row` (int64, the row in `raw`) and, of a file, `interval_s`
            (double, its median time between two rows).
        raw: the batch as it came, so that a later reject can keep its payload.
        test_start_us: the start of the test the rows belong to, where their file is one.
        dialect: how the rows of a file were understood; None for messages.
    """

    table: pa.Table
    raw: RawBatch
    test_start_us: int | None
    dialect: Interpretation | None = None

    def missing(self, name: str) -> str:
        """What to say of a required field that the rows lack: what their file has instead."""
        if self.dialect is None:
            return f"{name} is missing"
        known = [f"{column}: {why}" for column, why in self.dialect.refused]
        shown = ", ".join(apply.parted(self.raw.table)[0].column_names[:40])
        return f"{name} is missing; the file has {shown}" + "".join(f"; {text}" for text in known)


class DecodedCoder(PickledCoder):
    """Beam's coder for decoded batches."""

    held = Decoded


beam.coders.registry.register_coder(Decoded, DecodedCoder)
