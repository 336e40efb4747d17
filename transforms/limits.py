"""The bounds that apply to each row of a batch, looked up once per equipment."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

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
        self._known: dict[tuple[str | None, str | None], int] = {}
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
        numbers = [value(profile) for profile in self.profiles]  # type: ignore[operator]
        # Rounded, so that 2.7 − 0.05 is the 2.65 a person means and a reading may have.
        return np.asarray(np.round(numbers, 9), dtype=np.float64)

    def profile_of(self, equipment_id: str | None, equipment_type: str | None) -> int:
        """The index of the equipment's profile; generic profiles cover every equipment."""
        profile = choose(self.profiles, equipment_id or "", equipment_type)
        return 0 if profile is None else self.profiles.index(profile)

    def rows(self, table: pa.Table) -> npt.NDArray[np.int64]:
        """The profile index per row, from the dictionary columns equipment_id, equipment_type."""
        ids, id_codes = codes(table, "equipment_id")
        types, type_codes = codes(table, "equipment_type")
        pairs = id_codes * len(types) + type_codes
        present = np.flatnonzero(np.bincount(pairs))
        keys = list(
            zip(
                ids.take(pa.array(present // len(types))).to_pylist(),
                types.take(pa.array(present % len(types))).to_pylist(),
                strict=True,
            )
        )
        known = self._known
        if unknown := [key for key in keys if key not in known]:
            if len(known) + len(unknown) > _MOST_CACHED:
                known.clear()
                unknown = keys
            known.update((key, self.profile_of(*key)) for key in unknown)
        out = np.zeros(len(ids) * len(types), dtype=np.int64)
        out[present] = [known[key] for key in keys]
        return np.asarray(out[pairs])


def codes(table: pa.Table, name: str) -> tuple[pa.Array, npt.NDArray[np.int64]]:
    """A text column as its distinct values and a code per row; null is the last value, if any."""
    column = table.column(name)
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    if column.num_chunks != 1:
        column = column.unify_dictionaries().combine_chunks()
    array = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
    words, indices = array.dictionary, array.indices
    if indices.null_count:
        indices = indices.fill_null(len(words))
        words = pa.concat_arrays([words, pa.nulls(1, words.type)])
    return words, indices.to_numpy(zero_copy_only=False).astype(np.int64)


def ranked(words: pa.Array) -> npt.NDArray[np.int64]:
    """The place of each word in alphabetical order, null before all others."""
    rank = np.empty(len(words), dtype=np.int64)
    order = pc.sort_indices(words, sort_keys=[("", "ascending", "at_start")])
    rank[order.to_numpy()] = np.arange(len(words))
    return rank
