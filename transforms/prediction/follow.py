"""Follows each cell's health from cycle to cycle: state of health, and the features of its fade."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import apache_beam as beam
import pyarrow as pa
from apache_beam import coders
from apache_beam.pvalue import TaggedOutput
from apache_beam.transforms.userstate import ReadModifyWriteStateSpec

from transforms.health import Cell, Health
from transforms.life import features
from transforms.life.features import Features
from transforms.life.history import History, HistoryError, Point
from transforms.prediction.curves import cycle_segments

# After so many cycles without a full discharge the intervals from windows alone have held too little
# on the real cell that they were tried on.
_LONG_WITHOUT: Final = 20
# A 90 % interval of a normal distribution is so many standard errors to either side.
_HALF_WIDTH: Final = 1.645
# The time from cycle to cycle is that of about so many of the last ones.
_RECENT: Final = 20
_LENGTHS: Final = struct.Struct("<III")

# A cell's id and what is remembered of it, of an earlier run.
Remembered = tuple[str, bytes]


@dataclass(frozen=True)
class Asked:
    """What a model is asked about one cell after a cycle.

    Attributes:
        equipment_id, cycle_id, cycle_number: which.
        ended_at_us: when the cycle ended, microseconds since 1970.
        threshold: the state of health at which life ends.
        health: after the cycle.
        features: of the fade so far.
        cycle_s: from one cycle's end to the next, of the last ones, s; NaN after the first.
        reasons: what is in doubt of the state of health.
    """

    equipment_id: str
    cycle_id: str
    cycle_number: int
    ended_at_us: int
    threshold: float
    health: Health
    features: Features
    cycle_s: float
    reasons: tuple[str, ...]


@dataclass
class Memory:
    """What is remembered of a cell between cycles; at most about 8 kB.

    Attributes:
        cell: its health.
        history: of its fade.
        number: of the last cycle.
        first: of the first one that was seen.
        full: of the last one with a full discharge; 0 if there was none.
        ended_s: when the last one ended, s since 1970; NaN before any.
        cycle_s: see `Asked`.
    """

    cell: Cell
    history: History
    number: int = 0
    first: int = 0
    full: int = 0
    ended_s: float = math.nan
    cycle_s: float = math.nan

    def to_bytes(self) -> bytes:
        """Everything, with the lengths of its parts before them."""
        told = [self.number, self.first, self.full, self.ended_s, self.cycle_s]
        parts = [
            json.dumps([None if math.isnan(each) else each for each in told]).encode(),
            self.cell.to_bytes(),
            self.history.to_bytes(),
        ]
        return _LENGTHS.pack(*map(len, parts)) + b"".join(parts)

    @classmethod
    def from_bytes(cls, data: bytes | None) -> Memory:
        """The opposite; a new one of nothing, or of what another version has kept."""
        if not data:
            return cls(Cell(), History())
        try:
            parts, at = [], _LENGTHS.size
            for size in _LENGTHS.unpack_from(data):
                parts.append(data[at : at + size])
                at += size
            number, first, full, ended_s, cycle_s = json.loads(parts[0])
            return cls(
                Cell.from_bytes(parts[1]),
                History.from_bytes(parts[2]),
                int(number),
                int(first),
                int(full),
                math.nan if ended_s is None else float(ended_s),
                math.nan if cycle_s is None else float(cycle_s),
            )
        except (ValueError, TypeError, struct.error, HistoryError):
            return cls(Cell(), History())

    def follow(self, row: dict[str, Any]) -> Asked | None:
        """Takes a row of `curves.SCHEMA`; None for a cycle that was taken before, or comes late."""
        number = int(row["cycle_number"])
        if number <= self.number:
            return None
        cycle, known = cycle_segments(row)
        health = self.cell.update(cycle, known)
        self.first = self.first or number
        self._clock(cycle.ended_at_s, number)
        if health.soh is not None:
            assert health.soh_low is not None and health.soh_high is not None
            error = (health.soh_high - health.soh_low) / (2.0 * _HALF_WIDTH)
            self.history.add(
                Point(
                    number,
                    row["throughput_ah"] / (2.0 * known.nominal_ah),
                    health.soh,
                    error,
                    math.nan if cycle.resistance_ohm is None else cycle.resistance_ohm,
                    math.nan if cycle.temperature_c is None else cycle.temperature_c,
                )
            )
        self.number = number
        reasons = [] if health.reason is None else [f"soh: {health.reason}"]
        if cycle.capacity_ah is not None:
            self.full = number
        elif health.soh is not None and number - self.full > _LONG_WITHOUT:
            since = f"for {number - self.full} cycles" if self.full else "yet"
            reasons.append(f"soh: no full discharge {since}; its interval may be too narrow")
        if not row["is_whole"]:
            reasons.append("soh: not all of the cycle was seen")
        threshold = float(row["threshold_soh"])
        return Asked(
            row["equipment_id"],
            row["cycle_id"],
            number,
            round(cycle.ended_at_s * 1e6),
            threshold,
            health,
            features.of(self.history, threshold),
            self.cycle_s,
            tuple(reasons),
        )

    def _clock(self, ended_s: float, number: int) -> None:
        """Notes how long a cycle takes."""
        took = (ended_s - self.ended_s) / max(number - self.number, 1)
        if took > 0.0:
            old = self.cycle_s
            self.cycle_s = took if math.isnan(old) else old + (took - old) / _RECENT
        self.ended_s = ended_s


class _ByCell(beam.DoFn):
    """Cuts tables of `curves.SCHEMA` by cell."""

    def process(self, table: pa.Table) -> Iterator[tuple[str, dict[str, Any] | bytes]]:
        for row in table.to_pylist():
            yield row["equipment_id"], row


class _Follow(beam.DoFn):
    MEMORY = ReadModifyWriteStateSpec("memory", coders.BytesCoder())

    def process(  # type: ignore[no-untyped-def]
        self,
        element: tuple[str, dict[str, Any] | bytes],
        state=beam.DoFn.StateParam(MEMORY),
    ) -> Iterable[Any]:
        name, given = element
        if isinstance(given, bytes):
            if state.read() is None:
                state.write(given)
                yield TaggedOutput("memory", (name, given))
            return
        memory = Memory.from_bytes(state.read())
        asked = memory.follow(given)
        if asked is None:
            return
        data = memory.to_bytes()
        state.write(data)
        yield TaggedOutput("memory", (name, data))
        yield asked


class Follow(beam.PTransform):
    """Tables of `curves.SCHEMA` → Asked, one per cell and cycle, in order.

    Takes `{"curves": tables, "remembered": (cell, bytes)}` or the tables alone. Main output `asked`;
    `memory`: (cell, bytes), what a later run takes as `remembered`.
    """

    def expand(self, given: beam.PCollection | dict[str, beam.PCollection]) -> Any:
        """Adds the steps."""
        inputs = given if isinstance(given, dict) else {"curves": given}
        kind = tuple[str, Any]
        cells = inputs["curves"] | "ByCell" >> beam.ParDo(_ByCell()).with_output_types(kind)
        if "remembered" in inputs:
            known = inputs["remembered"] | "Remembered" >> beam.Map(
                lambda pair: pair
            ).with_output_types(kind)
            cells = (cells, known) | "WithRemembered" >> beam.Flatten()
        step = beam.ParDo(_Follow()).with_output_types(Asked, memory=tuple[str, bytes])
        return cells | "Cells" >> step.with_outputs("memory", main="asked")
