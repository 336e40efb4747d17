"""Collects readings per shard, releases whole windows in event-time order, once and complete."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam import coders
from apache_beam.metrics import Metrics
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import (
    BagStateSpec,
    ReadModifyWriteStateSpec,
    TimerSpec,
    on_timer,
)
from apache_beam.transforms.window import GlobalWindow, GlobalWindows
from apache_beam.utils.timestamp import Timestamp

from schemas.profiles import Profile
from transforms import identity
from transforms.batch import PackedBatch, PackedBatchCoder, stack
from transforms.limits import Limits, codes
from transforms.sequence import Sequenced, sequence

# About this many readings are released at once from bounded input: enough to be fast and to make
# few files, little enough that memory does not depend on how much there is in all.
RELEASE_ROWS = 100_000

_PIECE = coders.TupleCoder((coders.VarIntCoder(), PackedBatchCoder()))


def times_us(table: pa.Table) -> Any:
    """The event times, int64 microseconds since 1970, shape (n,)."""
    return table.column("recorded_at").cast(pa.int64()).to_numpy()


def window_end(time_us: int, window_us: int) -> int:
    """The end, exclusive, of the window that an event time falls into, in µs."""
    return time_us // window_us * window_us + window_us


def by_shard(table: pa.Table, shards: int) -> Iterator[tuple[int, tuple[int, PackedBatch]]]:
    """Cuts a batch into (shard, (earliest event time in µs, rows of the shard))."""
    ids, id_codes = codes(table, "equipment_id")
    which = identity.shards(ids.to_pylist(), shards)[id_codes]
    for shard in np.unique(which).tolist():
        mine = which == shard
        part = table if mine.all() else table.take(pa.array(np.flatnonzero(mine)))
        yield shard, (int(times_us(part).min()), PackedBatch(part))


class Release:
    """The readings of one shard that were collected and not yet given on, in event-time order.

    Readings are given on in whole windows, so that a window's statistics are complete; and at
    borders that depend on the readings alone, never on how they were packed, so that the same
    input in another order gives the same tables.
    """

    def __init__(self, window_us: int, limits: Limits, tail: pa.Table | None = None) -> None:
        self._window_us = window_us
        self._limits = limits
        self.tail = tail
        self._waiting: list[pa.Table] = []
        self._rows = 0
        self._retry_at = 0

    def sweep(
        self, pieces: Iterable[tuple[int, PackedBatch]], rows: int = RELEASE_ROWS
    ) -> Iterator[Sequenced]:
        """Releases all that `pieces` hold, about `rows` readings at a time.

        A piece is only decoded when the sweep gets to its earliest time, so that what is in
        memory is what overlaps in time, not what there is.
        """
        for earliest, piece in sorted(pieces, key=lambda piece: piece[0]):
            if self._rows >= max(rows, self._retry_at):
                complete = earliest // self._window_us * self._window_us
                yield from self._release_before(complete, rows)
            table = piece.table
            self._waiting.append(table)
            self._rows += table.num_rows
        yield from self._release_before(None, rows)
        if self._waiting:
            yield self._give(self._take(None))

    def _release_before(self, end_us: int | None, rows: int) -> Iterator[Sequenced]:
        while self._rows >= rows:
            border = self._border(end_us, rows)
            if border is None:
                # Nothing to do until markedly more has come: looking costs a pass over it all.
                self._retry_at = self._rows + self._rows // 4
                return
            yield self._give(self._take(border))
        self._retry_at = 0

    def _border(self, end_us: int | None, rows: int) -> int | None:
        """The end of the first window by which `rows` readings have come, if it is complete."""
        times = np.concatenate([times_us(table) for table in self._waiting])
        reached = np.partition(times, rows - 1)[rows - 1]
        border = window_end(int(reached), self._window_us)
        if end_us is not None and border > end_us:
            return None
        return border

    def _take(self, border: int | None) -> pa.Table:
        """All waiting readings before `border`, which leaves the rest."""
        due, rest = split_at(self._waiting, border)
        self._waiting = rest
        self._rows = sum(table.num_rows for table in rest)
        return stack(due)

    def _give(self, table: pa.Table) -> Sequenced:
        released = sequence(table, self.tail, self._limits)
        self.tail = released.tail
        return released


def split_at(
    tables: Sequence[pa.Table], border: int | None
) -> tuple[list[pa.Table], list[pa.Table]]:
    """The rows before `border` (µs; None: all of them), and the others."""
    if border is None:
        return list(tables), []
    due, rest = [], []
    for table in tables:
        before = times_us(table) < border
        if before.all():
            due.append(table)
        elif not before.any():
            rest.append(table)
        else:
            due.append(table.filter(pa.array(before)))
            rest.append(table.filter(pa.array(~before)))
    return due, rest


class _ToShards(beam.DoFn):
    def __init__(self, shards: int) -> None:
        self._shards = shards

    def process(self, table: pa.Table) -> Iterable[tuple[int, tuple[int, PackedBatch]]]:
        return by_shard(table, self._shards)


class _Ordering(beam.DoFn):
    """What both ways of ordering share; with them, the only step that remembers anything."""

    WAITING = BagStateSpec("waiting", _PIECE)

    def __init__(self, profiles: tuple[Profile, ...], window_us: int) -> None:
        self._profiles = profiles
        self._window_us = window_us
        self._limits: Limits | None = None
        self._duplicates = Metrics.counter("account", "duplicates")

    @property
    def limits(self) -> Limits:
        if self._limits is None:
            self._limits = Limits(self._profiles)
        return self._limits

    def counted(self, released: Iterable[Sequenced]) -> Iterator[pa.Table]:
        for part in released:
            self._duplicates.inc(part.duplicates)
            if part.table.num_rows:
                yield part.table


class _OrderBounded(_Ordering):
    """Waits for the end of the input, then releases a shard's readings in one sweep."""

    DUE = TimerSpec("due", TimeDomain.WATERMARK)

    def process(  # type: ignore[no-untyped-def]
        self,
        element: tuple[int, tuple[int, PackedBatch]],
        waiting=beam.DoFn.StateParam(_Ordering.WAITING),
        due=beam.DoFn.TimerParam(DUE),
    ) -> None:
        earliest, batch = element[1]
        # State may keep the object until the bundle ends; the table must not wait with it.
        waiting.add((earliest, batch.packed()))
        due.set(GlobalWindow().max_timestamp())

    @on_timer(DUE)
    def release(  # type: ignore[no-untyped-def]
        self, waiting=beam.DoFn.StateParam(_Ordering.WAITING)
    ) -> Iterator[pa.Table]:
        pieces = list(waiting.read())
        waiting.clear()
        yield from self.counted(Release(self._window_us, self.limits).sweep(pieces))


class _OrderUnbounded(_Ordering):
    """Releases every window when the watermark has passed its end.

    Readings that come for a window already released are given on at once, in a pane beside it:
    within the allowed lateness in their place, later than that flagged.
    """

    TAIL = ReadModifyWriteStateSpec("tail", PackedBatchCoder())
    DUE = TimerSpec("due", TimeDomain.WATERMARK)
    ARMED = ReadModifyWriteStateSpec("armed", coders.VarIntCoder())
    RELEASED = ReadModifyWriteStateSpec("released", coders.VarIntCoder())

    def __init__(
        self, profiles: tuple[Profile, ...], window_us: int, allowed_lateness_us: int
    ) -> None:
        super().__init__(profiles, window_us)
        self._allowed_lateness_us = allowed_lateness_us

    def process(  # type: ignore[no-untyped-def]
        self,
        element: tuple[int, tuple[int, PackedBatch]],
        waiting=beam.DoFn.StateParam(_Ordering.WAITING),
        armed=beam.DoFn.StateParam(ARMED),
        due=beam.DoFn.TimerParam(DUE),
    ) -> None:
        earliest, batch = element[1]
        waiting.add((earliest, batch.packed()))
        end = window_end(earliest, self._window_us)
        now_armed = armed.read()
        if now_armed is None or end < now_armed:
            armed.write(end)
            now_armed = end
        due.set(Timestamp(micros=now_armed - 1))

    @on_timer(DUE)
    def release(  # type: ignore[no-untyped-def]
        self,
        at=beam.DoFn.TimestampParam,
        waiting=beam.DoFn.StateParam(_Ordering.WAITING),
        tail=beam.DoFn.StateParam(TAIL),
        armed=beam.DoFn.StateParam(ARMED),
        released=beam.DoFn.StateParam(RELEASED),
        due=beam.DoFn.TimerParam(DUE),
    ) -> Iterator[pa.Table]:
        border = at.micros + 1
        pieces = list(waiting.read())
        waiting.clear()
        ready, rest = split_at([piece.table for _, piece in pieces], border)
        held = [(int(times_us(table).min()), PackedBatch(table).packed()) for table in rest]
        for piece in held:
            waiting.add(piece)
        if held:
            following = window_end(min(earliest for earliest, _ in held), self._window_us)
            armed.write(following)
            due.set(Timestamp(micros=following - 1))
        else:
            armed.clear()
        horizon = max(border, released.read() or border)
        released.write(horizon)
        if not ready:
            return
        known = tail.read()
        before = None if known is None else known.table
        out = sequence(stack(ready), before, self.limits, horizon - self._allowed_lateness_us)
        tail.write(PackedBatch(out.tail))
        yield from self.counted([out])


class Order(beam.PTransform):
    """Validated tables of any order → tables in order, with time deltas, duplicates dropped.

    The unit of work is a shard, a hash of the equipment: batches stay large however many
    equipments there are. Windows are cut inside the shard, not by Beam, so that half a year of
    one cell costs no more than its readings. Bounded input is released at its end, live input
    window by window behind the watermark.
    """

    def __init__(
        self,
        profiles: Sequence[Profile],
        window_us: int,
        allowed_lateness_us: int,
        shards: int,
    ) -> None:
        super().__init__()
        self._profiles = tuple(profiles)
        self._window_us = window_us
        self._allowed_lateness_us = allowed_lateness_us
        self._shards = shards

    def expand(self, valid: beam.PCollection) -> beam.PCollection:
        """Adds the steps."""
        pieces = (
            valid
            | "Global" >> beam.WindowInto(GlobalWindows())
            | "ToShards"
            >> beam.ParDo(_ToShards(self._shards)).with_output_types(
                tuple[int, tuple[int, PackedBatch]]
            )
        )
        if valid.is_bounded:
            ordering: _Ordering = _OrderBounded(self._profiles, self._window_us)
        else:
            ordering = _OrderUnbounded(self._profiles, self._window_us, self._allowed_lateness_us)
        return pieces | "InOrder" >> beam.ParDo(ordering).with_output_types(pa.Table)
