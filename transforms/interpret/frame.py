"""A table under examination: which of its columns could mean what, and their values as numbers."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from schemas.aliases import CLOCK, Meaning, dimension_of, meaning, unit_in
from schemas.units import Dimension, Unit, parse
from transforms import convert
from transforms.convert import Notation
from transforms.interpret import notation as notations
from transforms.interpret.told import Told

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

# Decisions are made on so many rows at the most; what a longer file does later is like its head.
SURVEY_ROWS = 300_000
_NUMERIC = frozenset(Dimension) - {Dimension.NONE, Dimension.INSTANT}
_INTEGER = ("record_index", "cycle_index", "step_index", "source_row")


@dataclass
class Frame:
    """A table with its names resolved.

    Attributes:
        table: the rows, in the file's order, under the file's own names.
        told: what the user said.
        meanings: what each column's name means, without those whose unit is not understood.
        refused: (column, why) of those.
        columns: per field its columns, the best name first.
    """

    table: pa.Table
    told: Told = field(default_factory=Told)
    meanings: dict[str, Meaning] = field(default_factory=dict)
    refused: list[tuple[str, str]] = field(default_factory=list)
    columns: dict[str, list[str]] = field(default_factory=dict)
    _numbers: dict[str, F64] = field(default_factory=dict)
    _texts: dict[str, pa.Array | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        present = set(self.table.column_names)
        for _, column in self.told.columns:
            if column not in present:
                self.refused.append((column, "--dialect names it, but the file has no such column"))
        told = {column: name for name, column in self.told.columns if column in present}
        taken = set(told.values())
        for column in self.table.column_names:
            if column in self.told.ignore:
                continue
            found = meaning(column)
            if column in told:
                found = unit_in(column, told[column])
            elif found is not None and found.field in taken:
                continue
            if found is None:
                continue
            if found.unknown is not None and column not in dict(self.told.units):
                why = f"the unit {found.unknown!r} is not understood"
                self.refused.append((column, why))
                continue
            self.meanings[column] = self._with_told_unit(column, found)
            self.columns.setdefault(found.field, []).append(column)
        order = self.table.column_names.index
        for names in self.columns.values():
            names.sort(key=lambda name: (self.meanings[name].rank, order(name)))

    def _with_told_unit(self, column: str, found: Meaning) -> Meaning:
        unit = dict(self.told.units).get(column)
        if unit is None:
            return found
        parsed = parse(unit, dimension_of(found.field))
        return Meaning(found.field, parsed or Unit(unit, 1.0), None, found.rank)

    def said(self, column: str) -> str | None:
        """The field that the user says a column stands for."""
        return next((name for name, told in self.told.columns if told == column), None)

    def unit_is_said(self, column: str) -> bool:
        """Whether the user says the unit of a column."""
        return any(column == told for told, _ in self.told.units)

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return int(self.table.num_rows)

    def has(self, name: str) -> bool:
        """Whether a column could stand for a field."""
        return bool(self.columns.get(name))

    @cached_property
    def notation(self) -> tuple[Notation | None, bool]:
        """How numbers are written, and whether that is a guess."""
        if self.told.notation is not None:
            return self.told.notation, False
        numeric = [
            text
            for column, found in self.meanings.items()
            if dimension_of(found.field) in _NUMERIC or found.field in _INTEGER
            if (text := self.texts(column)) is not None
        ]
        return notations.decide(numeric)

    def texts(self, column: str) -> pa.Array | None:
        """A text column's values, blanks and words for 'nothing' as null; None if not text."""
        if column not in self._texts:
            array = convert.as_array(self.table.column(column))
            found = None
            if array is not None and (
                pa.types.is_string(array.type) or pa.types.is_large_string(array.type)
            ):
                found = convert.blank_to_null(array.cast(pa.string()))
            self._texts[column] = found
        return self._texts[column]

    def numbers(self, column: str) -> F64:
        """A column's values as the file has them, NaN where there is none or no number.

        Times in clock notation are seconds.
        """
        if column not in self._numbers:
            values = self.table.column(column)
            if pa.types.is_timestamp(values.type) or pa.types.is_date(values.type):
                self._numbers[column] = np.full(self.rows, np.nan)
                return self._numbers[column]
            kind = dimension_of(self.meanings[column].field) if column in self.meanings else None
            clocks = kind in (Dimension.TIME, Dimension.INSTANT)
            read = convert.seconds if clocks else convert.doubles
            found = read(values, notation=self.notation[0]).array
            array = found.to_numpy(zero_copy_only=False)
            self._numbers[column] = np.where(np.isfinite(array), array, np.nan)
        return self._numbers[column]

    def in_clock_notation(self, column: str) -> bool:
        """Whether a column's times are texts such as 1:02:03."""
        text = self.texts(column)
        if text is None:
            kind = self.table.column(column).type
            return bool(pa.types.is_time(kind) or pa.types.is_duration(kind))
        return bool(pc.any(pc.fill_null(pc.match_substring(text, ":"), False)).as_py())

    def scaled(self, column: str) -> F64:
        """A column's values in its field's unit, by the unit in its name."""
        unit = self.meanings[column].unit
        values = self.numbers(column)
        if unit is None or (self.meanings[column].field == CLOCK) or self.in_clock_notation(column):
            return values
        return values * unit.scale + unit.offset

    def known_share(self, column: str) -> float:
        """The share of rows in which a column has a number."""
        return float(np.isfinite(self.numbers(column)).mean()) if self.rows else 0.0

    def varying(self, column: str) -> bool:
        """Whether a column has more than one value."""
        values = self.numbers(column)
        known = values[np.isfinite(values)]
        return bool(len(known)) and bool(known.min() != known.max())


def counts_below_zero(counter: F64) -> bool:
    """Whether one of two counters is written as a negative number, as some show discharges."""
    known = counter[np.isfinite(counter)]
    return bool(len(known)) and bool(known.max() <= 0 > known.min())
