"""The bounds that apply to each row of a batch, looked up once per equipment."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from schemas.profiles import Profile, choose

F64 = npt.NDArray[np.float64]

# Far above any fleet: when a cache has grown to this, it is simply begun anew.
_MOST_CACHED = 1_000_000


def _number(value: float | None, missing: float) -> float:
    return missing if value is None else float(value)


class Limits:
    """The profiles as columns of numbers, and which profile each equipment has.

    Rows are taken by the index that `profile_of` gives; a rule that a profile does not set is an
    infinite bound.
    """

    def __init__(self, profiles: Sequence[Profile]) -> None:
        if not profiles:
            raise ValueError("at least one equipment profile is needed")
        self.profiles = tuple(profiles)
        self._known: dict[tuple[str, str | None], int] = {}
        inf = np.inf
        self.reject_voltage = self._column(lambda p: p.reject_voltage_v)
        self.reject_current = self._column(lambda p: _number(p.reject_current, inf))
        self.reject_temperature_low = self._column(lambda p: p.reject_temperature_min_c)
        self.reject_temperature_high = self._column(lambda p: p.reject_temperature_max_c)
        self.voltage_low = self._column(lambda p: _number(p.v_min_v, -inf) - p.voltage_margin_v)
        self.voltage_high = self._column(lambda p: _number(p.v_max_v, inf) + p.voltage_margin_v)
        self.current = self._column(lambda p: _number(p.rated_current_a, inf) * p.current_margin)
        self.temperature_low = self._column(lambda p: _number(p.temperature_min_c, -inf))
        self.temperature_high = self._column(lambda p: _number(p.temperature_max_c, inf))
        self.frequency_low = self._column(
            lambda p: _number(p.nominal_frequency_hz, -inf) * (1 - p.frequency_margin)
        )
        self.frequency_high = self._column(
            lambda p: _number(p.nominal_frequency_hz, inf) * (1 + p.frequency_margin)
        )
        self.gap = self._column(lambda p: p.gap_s)
        self.gap_cv = self._column(lambda p: p.gap_cv_s)
        self.cv_voltage = self._column(lambda p: _number(p.v_max_v, inf) - p.cv_tolerance_v)
        self.stuck = self._column(lambda p: p.stuck_readings)
        self.counter_jump = self._column(lambda p: p.counter_jump_ah)

    def _column(self, value: object) -> F64:
        return np.array([value(profile) for profile in self.profiles], dtype=np.float64)  # type: ignore[operator]

    def profile_of(self, equipment_id: str, equipment_type: str | None) -> int:
        """The index of the equipment's profile; generic profiles cover every equipment."""
        key = (equipment_id, equipment_type)
        found = self._known.get(key)
        if found is None:
            if len(self._known) >= _MOST_CACHED:
                self._known.clear()
            profile = choose(self.profiles, equipment_id, equipment_type)
            found = 0 if profile is None else self.profiles.index(profile)
            self._known[key] = found
        return found

    def rows(self, table: pa.Table) -> npt.NDArray[np.int64]:
        """The profile index per row, from the dictionary columns equipment_id, equipment_type."""
        ids, id_codes = codes(table, "equipment_id")
        types, type_codes = codes(table, "equipment_type")
        pairs = id_codes * len(types) + type_codes
        out = np.zeros(len(ids) * len(types), dtype=np.int64)
        for pair in np.flatnonzero(np.bincount(pairs)).tolist():
            out[pair] = self.profile_of(ids[pair // len(types)], types[pair % len(types)])
        return out[pairs]


def codes(table: pa.Table, name: str) -> tuple[list[str | None], npt.NDArray[np.int64]]:
    """A text column as its distinct values and a code per row; null is the last value, if any."""
    column = table.column(name)
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    if isinstance(column, pa.ChunkedArray):
        column = column.unify_dictionaries().combine_chunks()
    if isinstance(column, pa.ChunkedArray):
        column = column.chunk(0) if column.num_chunks else pa.array([], column.type)
    words = column.dictionary.to_pylist()
    indices = column.indices
    if indices.null_count:
        indices = indices.fill_null(len(words))
        words.append(None)
    return words, indices.to_numpy(zero_copy_only=False).astype(np.int64)
