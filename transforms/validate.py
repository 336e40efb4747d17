"""Rejects readings that are physically impossible and flags those outside operating limits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.metrics import Metrics

from schemas.profiles import Profile, choose
from schemas.reading import COUNTERS, QUALITY_FLAGS, READING, Kind
from transforms import identity
from transforms.batch import Origin
from transforms.convert import Mask
from transforms.decode import MEASURED
from transforms.decoded import Decoded
from transforms.interpret.interpretation import Interpretation
from transforms.interpret.rows import dialect_rows
from transforms.limits import F64, Limits, codes
from transforms.rejects import Rejects, letters_in_parts

STEP = "validate"
FLAG = {name: 1 << bit for bit, name in enumerate(QUALITY_FLAGS)}
MOST_AHEAD_US = 5 * 60 * 1_000_000
# 1970, when no cell had a digital log. With the limit ahead it bounds the days, of which each has
# a file of its own in the lake, by some 20,000, whatever somebody sends.
EARLIEST_US = 0
# Far more tests than a bundle's files hold.
_MOST_TOLD = 100_000

_NOT_NEGATIVE = ("test_time_s", "step_time_s", "cycle_index", "step_index", "charge_capacity_ah",
                 "discharge_capacity_ah", "charge_energy_wh", "discharge_energy_wh",
                 "frequency_hz")  # fmt: skip
# What only a cycler reports.
_OF_A_CYCLER = (
    "cycle_index",
    "step_index",
    "record_index",
    "test_time_s",
    "step_time_s",
    *COUNTERS,
)
_DOUBLES = tuple(f.name for f in READING.fields if f.kind is Kind.DOUBLE and not f.derived)


@dataclass(frozen=True)
class _Columns:
    """A table's columns as numpy arrays, NaN or null replaced where a rule needs it."""

    table: pa.Table

    def has(self, name: str) -> bool:
        return name in self.table.column_names

    def numbers(self, name: str) -> F64:
        column = self.table.column(name).cast(pa.float64(), safe=False)
        return np.asarray(column.to_numpy())

    def present(self, name: str) -> Mask:
        return np.asarray(self.table.column(name).is_valid())


def _with_types(table: pa.Table, profiles: Sequence[Profile]) -> pa.Table:
    """Fills in the type of equipments that do not say theirs.

    A profile made for the equipment decides; else one that reports a frequency above 0, and
    nothing that only a cycler does, is a machine and all others are cells.
    """
    names = table.column_names
    if "equipment_type" in names and table.column("equipment_type").null_count == 0:
        return table
    ids, id_codes = codes(table, "equipment_id")
    named = [p for p in profiles if p.equipment != ("*",)]
    chosen = [None if word is None else choose(named, word, None) for word in ids.to_pylist()]
    by_id = pa.array([None if p is None else p.equipment_type for p in chosen], pa.string())
    from_profile = by_id.take(pa.array(id_codes))
    if "frequency_hz" in names:
        turns = pc.fill_null(pc.greater(table.column("frequency_hz"), 0.0), False)
        cycled = [table.column(name).is_valid() for name in _OF_A_CYCLER if name in names]
        for known in cycled:
            turns = pc.and_(turns, pc.invert(known))
        by_field = pc.if_else(turns, "machine", "battery_cell")
    else:
        by_field = pa.scalar("battery_cell")
    given = [table.column("equipment_type").cast(pa.string())] if "equipment_type" in names else []
    filled = pc.coalesce(*given, from_profile, by_field).dictionary_encode()
    if "equipment_type" in names:
        return table.set_column(names.index("equipment_type"), "equipment_type", filled)
    return table.add_column(names.index("equipment_id") + 1, "equipment_type", filled)


def _with_tests(table: pa.Table, test_start_us: int | None) -> pa.Table:
    """Fills in the test of cells that do not name theirs.

    A cycler's file is one test, named by its equipment and its first reading's time, so that the
    same test uploaded again under another name, or exported again when it has grown, stays one.
    A stream's readings are one test per cell. Machines have none.
    """
    names = table.column_names
    is_cell = pc.equal(table.column("equipment_type").cast(pa.string()), "battery_cell")
    if "test_id" in names:
        given = table.column("test_id").cast(pa.string())
        if not pc.any(pc.and_(is_cell, given.is_null())).as_py():
            return table
    ids, id_codes = codes(table, "equipment_id")
    if test_start_us is None:
        tests = ids
    else:
        moment = np.datetime_as_string(np.datetime64(test_start_us, "us"), unit="s")
        tests = pc.binary_join_element_wise(ids, f"@{moment}Z", "")
    made = tests.take(pa.array(id_codes))
    made = pc.if_else(is_cell, made, pa.scalar(None, pa.string()))
    if "test_id" in names:
        filled = pc.coalesce(given, made).dictionary_encode()
        return table.set_column(names.index("test_id"), "test_id", filled)
    if made.null_count == len(made):
        return table
    return table.append_column("test_id", made.dictionary_encode())


def _reject(
    cols: _Columns,
    limits: Limits,
    now_us: int,
    rejects: Rejects,
    missing: Callable[[str], str],
) -> Mask:
    """Notes what is wrong with each row; returns where nothing is.

    The row numbers noted are those of the raw batch.
    """
    table = cols.table
    ok = np.ones(table.num_rows, dtype=bool)
    raw_rows = table.column("row").to_numpy()

    def refuse(mask: Mask, error_type: str, field: str, message: str) -> None:
        if mask.any():
            for row in raw_rows[mask].tolist():
                rejects.add(row, error_type, field, message)
            np.logical_and(ok, ~mask, out=ok)

    for field in ("equipment_id", "voltage_v", "current_a"):
        if not cols.has(field):
            refuse(np.ones(len(ok), dtype=bool), "missing_field", field, missing(field))
        elif table.column(field).null_count:
            refuse(~cols.present(field), "missing_field", field, f"{field} is missing")
    if not ok.any():
        return ok
    for field in _DOUBLES:
        if cols.has(field):
            values = table.column(field)
            finite = pc.fill_null(pc.is_finite(values), True)
            if not pc.all(finite).as_py():
                refuse(~np.asarray(finite), "non_finite", field, f"{field} is not a finite number")
    for field in _NOT_NEGATIVE:
        if cols.has(field):
            lowest = pc.min(table.column(field)).as_py()
            if lowest is not None and not lowest >= 0:
                with np.errstate(invalid="ignore"):
                    below = cols.numbers(field) < 0
                refuse(below, "negative", field, f"{field} must not be below 0")
    _reject_beyond_bounds(cols, limits, refuse)
    recorded = table.column("recorded_at").cast(pa.int64()).to_numpy()
    refuse(
        recorded < EARLIEST_US,
        "time_behind",
        "recorded_at",
        "recorded_at is before 1970: the clock was never set; set it and send it again, or add a "
        "column with the test's time (such as Test Time(s)), by which a file is read without it",
    )
    ahead = recorded > now_us + MOST_AHEAD_US
    if ahead.any():
        arrived = table.column("ingested_at").cast(pa.int64()).to_numpy()
        ahead &= recorded > arrived + MOST_AHEAD_US
        refuse(ahead, "time_ahead", "recorded_at", "recorded_at is over 5 minutes in the future")
    return ok


def _reject_beyond_bounds(cols: _Columns, limits: Limits, refuse: Any) -> None:
    if not cols.has("profile"):
        return
    profile = cols.table.column("profile").to_numpy()
    for field, low, high in (
        ("voltage_v", -limits.reject_voltage, limits.reject_voltage),
        ("current_a", -limits.reject_current, limits.reject_current),
        ("temperature_c", limits.reject_temperature_low, limits.reject_temperature_high),
        ("ambient_temperature_c", limits.reject_temperature_low, limits.reject_temperature_high),
    ):
        if cols.has(field):
            beyond = _beyond(cols.numbers(field), low[profile], high[profile])
            if beyond.any():
                worst = limits.profiles[int(profile[beyond][0])]
                refuse(
                    beyond,
                    "out_of_bounds",
                    field,
                    f"{field} is beyond what profile {worst.name} holds possible",
                )


def _beyond(values: F64, low: F64, high: F64) -> Mask:
    with np.errstate(invalid="ignore"):
        return (values < low) | (values > high)


def _flags(cols: _Columns, limits: Limits) -> npt.NDArray[np.int64]:
    """The quality flags of single readings, a bit each, added to those already set."""
    flags: npt.NDArray[np.int64] = cols.table.column("flags").to_numpy().copy()
    profile = cols.table.column("profile").to_numpy()
    for field, name, low, high in (
        ("voltage_v", "voltage_out_of_range", limits.voltage_low, limits.voltage_high),
        ("current_a", "current_out_of_range", -limits.current, limits.current),
        ("temperature_c", "temperature_out_of_range", limits.temperature_low,
         limits.temperature_high),
        ("ambient_temperature_c", "temperature_out_of_range", limits.temperature_low,
         limits.temperature_high),
        ("frequency_hz", "frequency_out_of_range", limits.frequency_low, limits.frequency_high),
    ):  # fmt: skip
        if cols.has(field):
            beyond = _beyond(cols.numbers(field), low[profile], high[profile])
            flags[beyond] |= FLAG[name]
    if cols.has("frequency_hz"):
        is_cell = np.asarray(
            pc.equal(cols.table.column("equipment_type").cast(pa.string()), "battery_cell")
        )
        with np.errstate(invalid="ignore"):
            flags[is_cell & (cols.numbers("frequency_hz") > 0)] |= FLAG["impedance"]
            flags[is_cell] &= ~FLAG["frequency_out_of_range"]
    return flags


def _identify(table: pa.Table) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """The two lanes of every reading's identity (see `schemas.reading`: reading_id)."""
    rows = table.num_rows
    ids, id_codes = codes(table, "equipment_id")
    high, low = identity.of_names(ids.to_pylist())
    ident = identity.Identity(high[id_codes], low[id_codes])

    def column(name: str) -> pa.Array | None:
        if name not in table.column_names:
            return None
        return table.column(name).combine_chunks()

    ident.absorb_column(column("recorded_at"), rows)
    test_time, index = column("test_time_s"), column("record_index")
    # A clock alone may stand still for several readings: only a record number tells them apart.
    by_values = np.ones(rows, dtype=bool)
    if index is not None:
        by_values = ~np.asarray(index.is_valid())
    ident.absorb_column(test_time, rows)
    ident.absorb_column(index, rows)
    if by_values.any():
        chosen = np.flatnonzero(by_values)
        valued = identity.Identity(ident.high[chosen], ident.low[chosen])
        taken = pa.array(chosen)
        for name in (*MEASURED, "extra"):
            part = column(name)
            valued.absorb_column(None if part is None else part.take(taken), len(chosen))
        ident.high[chosen], ident.low[chosen] = valued.high, valued.low
    return ident.high, ident.low


def validate(decoded: Decoded, limits: Limits, now_us: int) -> tuple[pa.Table, Rejects]:
    """The readings that may be real, identified, typed and flagged; and the others.

    Args:
        decoded: from `transforms.decode.decode`.
        limits: the bounds per equipment profile.
        now_us: the time, microseconds since 1970; readings later than it and than their arrival
            by over 5 minutes are rejected.

    Returns:
        the decoded table without `row`, with equipment_type, test_id (cells), `flags`, the
        index of its profile in `limits` as `profile`, the digest of its content as `content_id`
        (int64), and the identity as `id_high`, `id_low` (uint64); and the rows of the raw batch that were refused.
    """
    rejects = Rejects()
    table = decoded.table
    if "equipment_id" in table.column_names:
        table = _with_types(table, limits.profiles)
        table = table.append_column("profile", pa.array(limits.rows(table), pa.int32()))
    ok = _reject(_Columns(table), limits, now_us, rejects, decoded.missing)
    if not ok.all():
        table = table.filter(pa.array(ok))
    if not table.num_rows:
        return table, rejects
    table = _with_tests(table, decoded.test_start_us)
    flags = _flags(_Columns(table), limits)
    high, low = _identify(table)
    table = table.drop_columns(["row", "flags"])
    table = table.append_column("flags", pa.array(flags))
    table = table.append_column("content_id", identity.content(table, MEASURED, high))
    table = table.append_column("id_high", pa.array(high))
    return table.append_column("id_low", pa.array(low)), rejects


class _ValidateBatch(beam.DoFn):
    def __init__(self, profiles: tuple[Profile, ...], now_us: int) -> None:
        self._profiles = profiles
        self._now_us = now_us
        self._limits: Limits | None = None
        self._dead = Metrics.counter("account", "dead_letters")
        # Of this bundle: what an earlier one gave may be lost if that is tried again.
        self._told: set[str] = set()

    def start_bundle(self) -> None:
        self._told.clear()

    def process(self, decoded: Decoded) -> Iterable[pa.Table]:
        if self._limits is None:
            self._limits = Limits(self._profiles)
        table, rejects = validate(decoded, self._limits, self._now_us)
        if rejects.rows:
            self._dead.inc(len(rejects.rows))
            for letters in letters_in_parts(decoded.raw, rejects, STEP):
                yield beam.pvalue.TaggedOutput("dead_letters", letters)
        if table.num_rows:
            if (dialect := getattr(decoded, "dialect", None)) is not None:
                yield from self._dialects(table, dialect, decoded.raw.origin)
            yield table

    def _dialects(
        self, table: pa.Table, dialect: Interpretation, origin: Origin
    ) -> Iterable[beam.pvalue.TaggedOutput]:
        """How the file was read, once for all of its batches in a bundle."""
        rows = dialect_rows(table, dialect, origin.source_file, origin.arrived_at_us)
        new = [key not in self._told for key in rows.column("dialect_id").to_pylist()]
        if any(new):
            if len(self._told) > _MOST_TOLD:
                self._told.clear()
            rows = rows.filter(pa.array(new))
            self._told.update(rows.column("dialect_id").to_pylist())
            yield beam.pvalue.TaggedOutput("dialects", rows)


class Validate(beam.PTransform):
    """`Decoded` → tables of possible readings (main), `dead_letters` and `dialects`."""

    def __init__(self, profiles: Sequence[Profile], now_us: int) -> None:
        super().__init__()
        self._profiles = tuple(profiles)
        self._now_us = now_us

    def expand(self, decoded: beam.PCollection) -> Any:
        """Adds the step."""
        step = beam.ParDo(_ValidateBatch(self._profiles, self._now_us))
        typed = step.with_output_types(pa.Table, dead_letters=pa.Table, dialects=pa.Table)
        return decoded | typed.with_outputs("dead_letters", "dialects", main="readings")
