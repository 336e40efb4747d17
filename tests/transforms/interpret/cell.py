"""A cell of whose cycles all is known, and its log as testers of any convention write it."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from transforms.interpret.apply import Fields

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

NOMINAL_AH = 1.0
BEGAN = dt.datetime(2024, 3, 25, 21, 0, tzinfo=dt.UTC)
_OHM = 0.05
_WORDS = {1: "CC Chg", -1: "CC DChg", 0: "Rest"}


@dataclass(frozen=True)
class Log:
    """Moments of a test, all arrays of shape (n,).

    Attributes:
        elapsed_s: since the test began.
        step_s: since the step began.
        cycle: from 1.
        step: from 1, over the whole test.
        current_a: positive charges.
        voltage_v: of the cell.
        into_ah: what went in since the test began.
        out_ah: what came out since then.
    """

    elapsed_s: F64
    step_s: F64
    cycle: I64
    step: I64
    current_a: F64
    voltage_v: F64
    into_ah: F64
    out_ah: F64

    @property
    def rows(self) -> int:
        return len(self.elapsed_s)

    @property
    def way(self) -> I64:
        return np.sign(self.current_a).astype(np.int64)

    @property
    def words(self) -> list[str]:
        return [_WORDS[way] for way in self.way.tolist()]

    @property
    def wall(self) -> list[dt.datetime]:
        return [BEGAN + dt.timedelta(seconds=round(s, 6)) for s in self.elapsed_s.tolist()]

    def per_cycle(self, counter: F64) -> F64:
        """What a running counter gained in each cycle."""
        ends = np.array([counter[self.cycle == at][-1] for at in np.unique(self.cycle)])
        return np.diff(ends, prepend=0.0)

    def restarting(self, counter: F64, grain: str) -> F64:
        """A running counter as one that begins at zero with every cycle or step."""
        if grain == "test":
            return counter
        number = self.cycle if grain == "cycle" else self.step
        begins = np.flatnonzero(np.diff(number, prepend=number[0] - 1))
        before = np.where(begins > 0, counter[begins - 1], 0.0)
        return counter - np.repeat(before, np.diff(np.append(begins, len(counter))))


def run(
    cycles: int = 3,
    sampling_s: float = 30.0,
    charge_a: float = 1.0,
    discharge_a: float = 1.5,
    discharge_first: bool = False,
) -> Log:
    """Cycles of charge, rest, discharge and rest, logged evenly; what flowed is exact."""
    share = 0.9 if discharge_first else 0.05
    kinds = [(charge_a, 0.80), (0.0, 0.0), (-discharge_a, 0.78), (0.0, 0.0)]
    if discharge_first:
        kinds = kinds[2:] + kinds[:2]
    columns: list[list[F64]] = [[] for _ in range(8)]
    now = into = out = 0.0
    step = 0
    for cycle in range(1, cycles + 1):
        for current, amount in kinds:
            step += 1
            # Each cycle moves a little less than the one before it.
            seconds = 600.0
            if current:
                seconds = (1.0 - 0.03 * cycle) * amount * 3600.0 / abs(current)
            count = max(round(seconds / sampling_s), 2)
            at = sampling_s * np.arange(1, count + 1)
            moved = current * at / 3600.0
            inside = share + moved / NOMINAL_AH
            voltage = 3.0 + 1.1 * inside + 0.05 * np.sin(6 * inside) + _OHM * current
            values = (now + at, at, cycle, step, current, voltage,
                      into + np.maximum(moved, 0.0), out + np.maximum(-moved, 0.0))  # fmt: skip
            for column, value in zip(columns, values, strict=True):
                column.append(np.broadcast_to(value, at.shape).astype(np.float64))
            now, share = now + float(at[-1]), float(inside[-1])
            into, out = into + max(float(moved[-1]), 0.0), out + max(float(-moved[-1]), 0.0)
    t, s, c, n, i, v, q_in, q_out = (np.concatenate(column) for column in columns)
    return Log(t, s, c.astype(np.int64), n.astype(np.int64), i, v, q_in, q_out)


def numbers(fields: Fields, name: str) -> F64:
    """A field's values, NaN where there is none."""
    return np.asarray(fields.found[name].cast(pa.float64()).to_numpy(zero_copy_only=False))


def times(fields: Fields) -> list[dt.datetime | None]:
    return fields.found["recorded_at"].to_pylist()


def increments(counter: F64) -> F64:
    """What a counter gains per row: after a fall its new value; the first row its own."""
    steps = np.diff(counter, prepend=0.0)
    return np.where(steps < 0, counter, steps)


def counted(fields: Fields, name: str, cycle: I64) -> F64:
    """What a counter of the reading gives per cycle."""
    values = numbers(fields, name)
    known = np.isfinite(values)
    gained = np.zeros(len(values))
    gained[known] = increments(values[known])
    return np.array([gained[cycle == at].sum() for at in np.unique(cycle)])


def integrated(fields: Fields, log: Log) -> tuple[F64, F64]:
    """What went in and came out per cycle, by current and test time of the reading."""
    current, at = numbers(fields, "current_a"), numbers(fields, "test_time_s")
    amount = current * np.diff(at, prepend=0.0) / 3600.0
    cycles = np.unique(log.cycle)
    into = [float(np.maximum(amount[log.cycle == n], 0.0).sum()) for n in cycles]
    out = [float(np.maximum(-amount[log.cycle == n], 0.0).sum()) for n in cycles]
    return np.array(into), np.array(out)


def as_texts(table: pa.Table) -> pa.Table:
    """The table as a delimited text would give it."""
    columns = [
        column if pa.types.is_string(column.type) else pc.cast(column, pa.string())
        for column in table.columns
    ]
    return pa.table(columns, names=table.column_names)
