"""Which columns of a reading its cycle needs, and readings of cells as arrays."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.reading import COUNTERS
from transforms.cycles.measure import F64, I64, Rows
from transforms.limits import codes
from transforms.validate import FLAG

_NUMBERS = (
    "test_time_s", "record_index", "source_row", "step_time_s", "cycle_index", "step_index",
    "voltage_v", "current_a", *COUNTERS, "internal_resistance_ohm", "temperature_c",
    "ambient_temperature_c",
)  # fmt: skip
_KEPT = (
    "equipment_id",
    "test_id",
    "recorded_at",
    *_NUMBERS,
    "flags",
    "profile",
    "id_high",
    "id_low",
)


def of_cells(table: pa.Table) -> pa.Table:
    """The readings of cells with the columns that are needed; without those of impedance spectra.

    Args:
        table: `transforms.sequence.Sequenced.table`.
    """
    types, type_codes = codes(table, "equipment_type")
    cell = pc.index(types, "battery_cell").as_py()
    spectrum = table.column("flags").to_numpy() & FLAG["impedance"] != 0
    mine = (type_codes == cell) & ~spectrum
    kept = table.select(
        [
            name
            for name in _KEPT
            if name in table.column_names and table.column(name).null_count < table.num_rows
        ]
    )
    return kept if mine.all() else kept.filter(pa.array(mine))


def numbers(table: pa.Table, name: str) -> F64 | None:
    """A column as doubles, NaN where there is no value; None if there is no such column."""
    if name not in table.column_names:
        return None
    column = table.column(name)
    if pa.types.is_integer(column.type):
        column = column.cast(pa.float64(), safe=False)
    return np.asarray(column.to_numpy(), dtype=np.float64)


def micros(table: pa.Table) -> I64:
    """The event times, microseconds since 1970, shape (n,)."""
    return np.asarray(table.column("recorded_at").cast(pa.int64()).to_numpy())


def in_order(table: pa.Table) -> tuple[pa.Table, I64, I64]:
    """The rows in the order of the models, each reading once, with numbers of equipment and test.

    Tests of one equipment follow one another by their first reading.
    """
    _, equipment = codes(table, "equipment_id")
    test = equipment
    if "test_id" in table.column_names:
        names, which = codes(table, "test_id")
        test = equipment * len(names) + which
    times = micros(table)
    _, test = np.unique(test, return_inverse=True)
    begins = np.full(int(test.max()) + 1, np.iinfo(np.int64).max)
    np.minimum.at(begins, test, times)
    order = _order(table, equipment, begins[test], test, times)
    if not (order[1:] > order[:-1]).all():
        table = table.take(pa.array(order)).combine_chunks()
        equipment, test = equipment[order], test[order]
    high, low = table.column("id_high").to_numpy(), table.column("id_low").to_numpy()
    again = np.zeros(len(high), dtype=bool)
    again[1:] = (high[1:] == high[:-1]) & (low[1:] == low[:-1]) & (test[1:] == test[:-1])
    if again.any():
        table = table.filter(pa.array(~again)).combine_chunks()
        equipment, test = equipment[~again], test[~again]
    return table, equipment, test


def _order(table: pa.Table, equipment: I64, begins: I64, test: I64, times: I64) -> I64:
    """The permutation that sorts by equipment, test, time, test time, record, row and identity."""
    order = np.lexsort((times, test, begins, equipment))
    at, of = times[order], test[order]
    same = (at[1:] == at[:-1]) & (of[1:] == of[:-1])
    if not same.any():
        return order
    # Few rows share a moment: only they are looked at more closely.
    tied = np.zeros(len(order), dtype=bool)
    tied[1:] |= same
    tied[:-1] |= same
    places = np.flatnonzero(tied)
    rows = table.take(pa.array(order[places]))
    keys = [rows.column(name).to_numpy() for name in ("id_low", "id_high")]
    for name in ("source_row", "record_index", "test_time_s"):
        # NaN is sorted last.
        values = numbers(rows, name)
        if values is not None:
            keys.append(values)
    number = np.append(0, np.cumsum(~same))[places]
    order[places] = order[places[np.lexsort((*keys, number))]]
    return order


def arrays(table: pa.Table, test: I64, logs_step_starts: F64, largest_current: F64) -> Rows:
    """The rows of `in_order` as arrays; the two last are what is known of each row's test and cell."""
    size = table.num_rows

    def given(name: str) -> F64:
        values = numbers(table, name)
        return np.full(size, np.nan) if values is None else values

    resistance = numbers(table, "internal_resistance_ohm")
    return Rows(
        test=test,
        time_us=micros(table),
        test_time_s=given("test_time_s"),
        step_time_s=given("step_time_s"),
        cycle=given("cycle_index"),
        step=given("step_index"),
        voltage=given("voltage_v"),
        current=given("current_a"),
        counters={name: numbers(table, name) for name in COUNTERS},
        resistance=resistance,
        temperature=numbers(table, "temperature_c"),
        ambient=numbers(table, "ambient_temperature_c"),
        flags=np.asarray(table.column("flags").to_numpy()),
        profile=np.asarray(table.column("profile").to_numpy()).astype(np.int64),
        logs_step_starts=logs_step_starts,
        largest_current=largest_current,
    )
