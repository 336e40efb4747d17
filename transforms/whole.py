"""Finds out what only all rows of a file show, part by part, so that a large file can be cut."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from schemas.aliases import CAPACITY, ENERGY
from schemas.forms import UTC_MICROSECONDS
from transforms import convert
from transforms.batch import Origin
from transforms.decode import event_time
from transforms.interpret import apply
from transforms.interpret.apply import Fields
from transforms.interpret.interpretation import Interpretation

# What the rows of a file take from those before them, or give to those behind.
_SEEN = (
    "equipment_id", "test_id", "record_index", "recorded_at", "streamed_at", "ingested_at",
    "test_time_s", "step_time_s", "cycle_index", "step_index", "current_a", "voltage_v",
    "charge_capacity_ah", "discharge_capacity_ah", "charge_energy_wh", "discharge_energy_wh",
    CAPACITY, ENERGY,
)  # fmt: skip


@dataclass(frozen=True)
class Whole:
    """What all rows of a file show.

    Attributes:
        placed: array per field that is not what the row alone says, and flags, shape (rows,).
        edges: rows, but for the first, at which time is another than in the row before: between
            two of them the file is not to be cut, because such rows are counted.
        rows: how many there are.
        start_us: earliest event time; None without a row.
        last_s: largest test time; None where there is none.
    """

    placed: dict[str, pa.Array]
    edges: npt.NDArray[np.int64]
    rows: int
    start_us: int | None
    last_s: float | None

    def beside(self, table: pa.Table, offset: int) -> pa.Table:
        """Rows of the file, from row `offset` on, with what they show beside them."""
        for name, array in self.placed.items():
            table = table.append_column(apply.PLACED + name, array.slice(offset, table.num_rows))
        return table

    def cuts(self, size: int) -> Iterator[tuple[int, int]]:
        """Ranges of about `size` rows, or of more where these are of one moment."""
        start = 0
        while start < self.rows:
            place = int(np.searchsorted(self.edges, start + size))
            end = int(self.edges[place]) if place < len(self.edges) else self.rows
            if self.rows - start <= size:
                end = self.rows
            yield start, end
            start = end


class Gatherer:
    """Takes the rows of a file in their order.

    Args:
        how: what was decided about the file.
        origin: of its rows.
        zone: of times that carry none.
    """

    def __init__(self, how: Interpretation, origin: Origin, zone: ZoneInfo) -> None:
        self._how, self._origin, self._zone = how, origin, zone
        self._parts: list[Fields] = []
        self._digests: list[npt.NDArray[np.uint64]] = []

    def add(self, table: pa.Table) -> None:
        """Takes the next rows."""
        part = apply.by_row(table, self._how, self._zone)
        seen = {name: part.found[name] for name in _SEEN if name in part.found}
        self._parts.append(Fields(seen, [], part.flags))
        if self._how.in_order:
            self._digests.append(_digests(table))

    def finish(self) -> Whole:
        """What all rows show."""
        flags = np.concatenate([part.flags for part in self._parts])
        rows = len(flags)
        before = {name: self._whole(name) for name in _SEEN}
        self._parts.clear()
        out = Fields(
            {name: array for name, array in before.items() if array is not None}, [], flags
        )
        copies = None
        if self._digests:
            copies = apply.copies_among(np.concatenate(self._digests), flags)
        self._digests.clear()
        if copies is not None:
            kept = pa.array(copies[0])
            once = {name: array.take(kept) for name, array in out.found.items()}
            some = Fields(once, [], flags[copies[0]])
            apply.in_order(self._how, some)
            out = apply.expanded(some, copies[1])
        else:
            apply.in_order(self._how, out)
        placed = {name: array for name, array in out.found.items() if array is not before.get(name)}
        placed["flags"] = pa.array(out.flags)
        times, last_s = self._times(out, rows)
        moments = [out.found[name] for name in ("test_time_s",) if name in out.found]
        same = convert.as_before([times, *moments], rows)
        start = pc.min(times.cast(pa.int64())).as_py()
        return Whole(placed, np.flatnonzero(~same) + 1, rows, start, last_s)

    def _whole(self, name: str) -> pa.Array | None:
        """A field of all rows; null where a part lacks it."""
        have = next((part.found[name] for part in self._parts if name in part.found), None)
        if have is None:
            return None
        chunks = [
            part.found[name] if name in part.found else pa.nulls(len(part.flags), have.type)
            for part in self._parts
        ]
        flat = [c.combine_chunks() if isinstance(c, pa.ChunkedArray) else c for c in chunks]
        for part in self._parts:
            part.found.pop(name, None)
        return pa.concat_arrays([chunk.cast(have.type) for chunk in flat])

    def _times(self, out: Fields, rows: int) -> tuple[pa.Array, float | None]:
        """The event time of each row, and the largest test time."""
        arrived = pa.scalar(self._origin.arrived_at_us, pa.int64()).cast(UTC_MICROSECONDS)
        given = out.found.get("ingested_at")
        found = {
            **out.found,
            "ingested_at": pa.repeat(arrived, rows)
            if given is None
            else pc.coalesce(given, arrived),
        }
        last_s = None
        if (elapsed := out.found.get("test_time_s")) is not None:
            seconds = elapsed.to_numpy(zero_copy_only=False)
            finite = seconds[np.isfinite(seconds)]
            last_s = float(finite.max()) if len(finite) else None
        times, _ = event_time(found, rows, False, last_s)
        return times, last_s


def _digests(table: pa.Table) -> npt.NDArray[np.uint64]:
    """A number of 64 bits per row, which tells different rows apart, shape (rows,).

    Of ten million rows two are alike by chance with a probability of some 3e-6.
    """
    rows = apply.joined(table)
    if rows is None:  # nested values: no row is taken for a copy
        found: npt.NDArray[np.uint64] = np.random.default_rng().integers(
            2**63, size=table.num_rows, dtype=np.uint64
        )
        return found
    texts = np.asarray(rows.to_numpy(zero_copy_only=False), dtype=object)
    found = pd.util.hash_array(texts, categorize=False)
    return np.asarray(found)
