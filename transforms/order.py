"""Collects readings per shard, releases whole windows in event-time order, once and complete."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam import coders
from apache_beam.metrics import Metrics
from apache_beam.pvalue import TaggedOutput
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
from transforms.clock import Clock
from transforms.cycles import memory
from transforms.cycles.ended import Ended, OpenCycles
from transforms.cycles.measure import CellLimits
from transforms.cycles.table import cycle_rows
from transforms.limits import Limits, codes
from transforms.prediction.curves import curves
from transforms.sequence import NOTHING_RECENT, Sequenced, gathered, sequence
from transforms.validate import FLAG

# About this many readings are released at once from bounded input: enough to be fast and to make
# few files, little enough that memory does not depend on how much there is in all.
RELEASE_ROWS = 100_000
# The state in which a step keeps since when (µs of its steady clock) it has had the oldest of what
# it has taken and not given on; what came before that is done with, which a live source must know.
WAITS_SINCE = "waits_since"
# What has waited almost as long as the longest is given on with it.
_TOGETHER_US = 5_000_000
# Input that is behind: as much is released together as comes in a second, if it comes so many times
# faster than it was recorded. What comes in a shorter time is a burst, and tells nothing.
_CATCH_UP_US = 1_000_000
_FASTER = 10
_BURST_US = 5_000_000

# The earliest time of a piece that is none: what an earlier run of the job remembered; word that
# event time goes on; cells' cycles that an earlier run had not ended, and readings of them.
_REMEMBERED = -(2**62)
_GOES_ON = _REMEMBERED + 1
_HEADS = _REMEMBERED + 2
_WAITS = _REMEMBERED + 3
_MARKS = (_REMEMBERED, _GOES_ON, _HEADS, _WAITS)
# Bounded input is in order: nothing comes late.
_NEVER_LATE = 2**62
_NO_READINGS = PackedBatch(pa.table({})).packed()
_NO_HEADS = PackedBatch(memory.heads_table({})).packed()

_PIECE = coders.TupleCoder((coders.VarIntCoder(), PackedBatchCoder()))
# (earliest event time, since when it waits, readings)
_WAITING_PIECE = coders.TupleCoder((coders.VarIntCoder(), coders.VarIntCoder(), PackedBatchCoder()))


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
        part = table if mine.all() else _own_words(table.take(pa.array(np.flatnonzero(mine))))
        yield shard, (int(times_us(part).min()), PackedBatch(part))


def _own_words(part: pa.Table) -> pa.Table:
    """The rows with dictionaries of their own: else each part takes along those of its whole batch.

    A batch of a large fleet has about as many equipments as readings.
    """
    for place, field in enumerate(part.schema):
        if pa.types.is_dictionary(field.type):
            column = part.column(place)
            if max((len(chunk.dictionary) for chunk in column.chunks), default=0) > len(column):
                words = column.cast(field.type.value_type).dictionary_encode().cast(field.type)
                part = part.set_column(place, field, words)
    return part


class Release:
    """The readings of one shard that were collected and not yet given on, in event-time order.

    Readings are given on in whole windows, so that a window's statistics are complete; and at
    borders that depend on the readings alone, never on how they were packed, so that the same
    input in another order gives the same tables.
    """

    def __init__(
        self,
        window_us: int,
        limits: Limits,
        tail: pa.Table | None = None,
        first_stays: bool = False,
    ) -> None:
        self._window_us = window_us
        self._limits = limits
        self._first_stays = first_stays
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
        released = sequence(table, self.tail, self._limits, first_stays=self._first_stays)
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
    """Cuts batches by shard.

    Args:
        shards: how many there are.
        live: whether every shard is to hear of every batch, whose time is its source's watermark:
            one that has no reading in it can then release what is due in one go too.
    """

    def __init__(self, shards: int, live: bool) -> None:
        self._shards = shards
        self._live = live

    def process(self, table: pa.Table) -> Iterable[tuple[int, tuple[int, PackedBatch]]]:
        without = set(range(self._shards)) if self._live else set()
        for shard, piece in by_shard(table, self._shards):
            without.discard(shard)
            yield shard, piece
        for shard in without:
            yield shard, (_GOES_ON, _NO_READINGS)


class _ToTails(beam.DoFn):
    """Cuts what an earlier run remembered by the shards, and the profiles, of this one."""

    def __init__(self, profiles: tuple[Profile, ...], shards: int) -> None:
        self._profiles = profiles
        self._shards = shards

    def process(self, table: pa.Table) -> Iterable[tuple[int, tuple[int, PackedBatch]]]:
        profile = pa.array(Limits(self._profiles).rows(table), pa.int32())
        table = table.set_column(table.column_names.index("profile"), "profile", profile)
        for shard, (_, piece) in by_shard(table, self._shards):
            yield shard, (_REMEMBERED, piece)


class _ToOpen(beam.DoFn):
    """Cuts the cycles that an earlier run had not ended by the shards, and profiles, of this one."""

    def __init__(self, profiles: tuple[Profile, ...], shards: int) -> None:
        self._profiles = profiles
        self._shards = shards

    def process(self, kept: memory.Kept) -> Iterable[tuple[int, tuple[int, PackedBatch]]]:
        kept = memory.with_profiles(kept, Limits(self._profiles))
        for shard, part in memory.by_shard(kept, identity.shards, self._shards):
            yield shard, (_HEADS, PackedBatch(part.heads))
            yield shard, (_WAITS, PackedBatch(part.rows))


class _Ordering(beam.DoFn):
    """What both ways of ordering share; with them, the only step that remembers anything."""

    def __init__(
        self,
        profiles: tuple[Profile, ...],
        window_us: int,
        first_stays: bool,
        cycles: bool,
        curves: bool,
    ) -> None:
        self._profiles = profiles
        self._cycles = cycles
        self._curves = curves
        self._window_us = window_us
        self._first_stays = first_stays
        self._limits: Limits | None = None
        self._duplicates = Metrics.counter("account", "duplicates")
        self._replaced = Metrics.counter("corrected", "stream")

    @property
    def limits(self) -> Limits:
        if self._limits is None:
            self._limits = Limits(self._profiles)
        return self._limits

    def counted(self, released: Sequenced) -> Iterator[Any]:
        self._duplicates.inc(released.duplicates)
        self._replaced.inc(released.replaced)
        if released.table.num_rows:
            yield released.table
        if released.superseded is not None:
            yield TaggedOutput("superseded", released.superseded)

    def ended(self, cycles: Ended | None, limits: CellLimits) -> Iterator[Any]:
        """The rows of cycles that have ended."""
        if cycles is not None and cycles.cycles:
            rows = cycle_rows(cycles, limits)
            yield TaggedOutput("cycles", rows)
            if self._curves:
                found = curves(cycles, rows, limits)
                if found.num_rows:
                    yield TaggedOutput("curves", found)


class _OrderBounded(_Ordering):
    """Waits for the end of the input, then releases a shard's readings in one sweep."""

    WAITING = BagStateSpec("waiting", _PIECE)
    DUE = TimerSpec("due", TimeDomain.WATERMARK)

    def process(  # type: ignore[no-untyped-def]
        self,
        element: tuple[int, tuple[int, PackedBatch]],
        waiting=beam.DoFn.StateParam(WAITING),
        due=beam.DoFn.TimerParam(DUE),
    ) -> None:
        earliest, batch = element[1]
        # State may keep the object until the bundle ends; the table must not wait with it.
        waiting.add((earliest, batch.packed()))
        due.set(GlobalWindow().max_timestamp())

    @on_timer(DUE)
    def release(  # type: ignore[no-untyped-def]
        self, shard=beam.DoFn.KeyParam, waiting=beam.DoFn.StateParam(WAITING)
    ) -> Iterator[Any]:
        pieces = list(waiting.read())
        waiting.clear()
        remembered = [piece.table for earliest, piece in pieces if earliest == _REMEMBERED]
        tail = stack(remembered) if remembered else None
        release = Release(self._window_us, self.limits, tail, self._first_stays)
        following = OpenCycles(self._profiles, 0, bounded=True) if self._cycles else None
        if following is not None:
            for what, piece in pieces:
                if what == _HEADS:
                    following.heads = memory.heads_of(piece.table)
                elif what == _WAITS:
                    following.pieces.append(piece.table)
        for part in release.sweep(piece for piece in pieces if piece[0] not in _MARKS):
            if following is not None and part.table.num_rows:
                yield from self.ended(following.feed(part.table, _NEVER_LATE), following.limits)
            yield from self.counted(part)
        if following is not None:
            yield from self.ended(following.look(None, _NEVER_LATE, final=True), following.limits)
            if following.heads:
                change = memory.change_of(following)
                yield TaggedOutput("open_cycles", (shard, change))
        if release.tail is not None:
            tail = PackedBatch(release.tail).packed()
            yield TaggedOutput("tails", (shard, Tail(tail, None, 0, NOTHING_RECENT)))


class _OrderUnbounded(_Ordering):
    """Releases every window when the watermark has passed its end.

    Readings that come for a window already released are given on at once, in a pane beside it:
    within the allowed lateness in their place, later than that flagged. So are readings that have
    waited for `longest_us`, whatever event time waits for: nobody's clock and no partition that is
    behind keeps others' readings from being written.
    """

    WAITING = BagStateSpec("waiting", _WAITING_PIECE)
    TAIL = ReadModifyWriteStateSpec("tail", PackedBatchCoder())
    RECENT = BagStateSpec("recent", _PIECE)
    DUE = TimerSpec("due", TimeDomain.WATERMARK)
    OVERDUE = TimerSpec("overdue", TimeDomain.REAL_TIME)
    ARMED = ReadModifyWriteStateSpec("armed", coders.VarIntCoder())
    EARLIEST = ReadModifyWriteStateSpec("earliest", coders.VarIntCoder())
    SINCE = ReadModifyWriteStateSpec(WAITS_SINCE, coders.VarIntCoder())
    RELEASED = ReadModifyWriteStateSpec("released", coders.VarIntCoder())
    CYCLE_ROWS = BagStateSpec("cycle_rows", PackedBatchCoder())
    CYCLE_HEADS = ReadModifyWriteStateSpec("cycle_heads", PackedBatchCoder())

    def __init__(
        self,
        profiles: tuple[Profile, ...],
        window_us: int,
        allowed_lateness_us: int,
        leads: bool,
        longest_us: int,
        clock: Clock,
        first_stays: bool,
        cycles: bool,
        curves: bool,
    ) -> None:
        super().__init__(profiles, window_us, first_stays, cycles, curves)
        self._allowed_lateness_us = allowed_lateness_us
        self._leads = leads
        self._longest_us = longest_us
        self._clock = clock

    def process(  # type: ignore[no-untyped-def]
        self,
        element: tuple[int, tuple[int, PackedBatch]],
        at=beam.DoFn.TimestampParam,
        waiting=beam.DoFn.StateParam(WAITING),
        tail=beam.DoFn.StateParam(TAIL),
        recent=beam.DoFn.StateParam(RECENT),
        armed=beam.DoFn.StateParam(ARMED),
        earliest=beam.DoFn.StateParam(EARLIEST),
        since=beam.DoFn.StateParam(SINCE),
        released=beam.DoFn.StateParam(RELEASED),
        cycle_rows=beam.DoFn.StateParam(CYCLE_ROWS),
        cycle_heads=beam.DoFn.StateParam(CYCLE_HEADS),
        due=beam.DoFn.TimerParam(DUE),
        overdue=beam.DoFn.TimerParam(OVERDUE),
    ) -> Iterator[Any]:
        time_us, batch = element[1]
        if time_us in (_HEADS, _WAITS):
            yield from self._go_on(element[0], time_us, batch, cycle_rows, cycle_heads)
            return
        if time_us == _REMEMBERED:
            table = batch.table
            latest = int(times_us(table).max())
            last = PackedBatch(gathered([table], NOTHING_RECENT)).packed()
            tail.write(last)
            recent.add((latest, batch.packed()))
            released.write(window_end(latest, self._window_us))
            yield TaggedOutput(
                "tails", (element[0], Tail(last, batch.packed(), latest, _REMEMBERED))
            )
            return
        first = earliest.read()
        is_first = False
        if time_us != _GOES_ON:
            now_us = self._clock.steady_us()
            waiting.add((time_us, now_us, batch.packed()))
            if since.read() is None:
                since.write(now_us)
                self._look_again(overdue, self._longest_us)
            if first is None or time_us < first:
                first = time_us
                earliest.write(first)
                is_first = True
        if first is None:
            return
        fire_at = window_end(first, self._window_us) - 1
        if self._leads:
            # All windows up to the watermark are due together; input that is behind would else
            # pay for a release per window.
            passed = (int(at.micros) + 1) // self._window_us * self._window_us
            fire_at = max(fire_at, passed - 1)
        before = armed.read()
        is_sooner = before is None or (is_first and fire_at < before)
        if is_sooner or (self._leads and fire_at != before):
            armed.write(fire_at)
            due.set(Timestamp(micros=fire_at))

    def _look_again(self, overdue: Any, in_us: int) -> None:
        overdue.set(Timestamp(self._clock.now_s() + max(in_us, 1_000) / 1e6))

    @on_timer(DUE)
    def release(  # type: ignore[no-untyped-def]
        self,
        shard=beam.DoFn.KeyParam,
        at=beam.DoFn.TimestampParam,
        waiting=beam.DoFn.StateParam(WAITING),
        tail=beam.DoFn.StateParam(TAIL),
        armed=beam.DoFn.StateParam(ARMED),
        earliest=beam.DoFn.StateParam(EARLIEST),
        since=beam.DoFn.StateParam(SINCE),
        released=beam.DoFn.StateParam(RELEASED),
        recent=beam.DoFn.StateParam(RECENT),
        cycle_rows=beam.DoFn.StateParam(CYCLE_ROWS),
        cycle_heads=beam.DoFn.StateParam(CYCLE_HEADS),
        due=beam.DoFn.TimerParam(DUE),
        overdue=beam.DoFn.TimerParam(OVERDUE),
    ) -> Iterator[Any]:
        border = at.micros + 1
        ready, held = _due(waiting.read(), border)
        first = self._keep(held, waiting, earliest, since)
        if first is None:
            armed.clear()
            overdue.clear()
        else:
            following = window_end(first + self._ahead_us(held), self._window_us) - 1
            armed.write(following)
            due.set(Timestamp(micros=following))
        before = released.read()
        horizon = max(border, before or border)
        released.write(horizon)
        cycles = cycle_rows, cycle_heads
        yield from self._given(shard, ready, (before or border, horizon), tail, recent, cycles)

    @on_timer(OVERDUE)
    def release_overdue(  # type: ignore[no-untyped-def]
        self,
        shard=beam.DoFn.KeyParam,
        waiting=beam.DoFn.StateParam(WAITING),
        tail=beam.DoFn.StateParam(TAIL),
        armed=beam.DoFn.StateParam(ARMED),
        earliest=beam.DoFn.StateParam(EARLIEST),
        since=beam.DoFn.StateParam(SINCE),
        released=beam.DoFn.StateParam(RELEASED),
        recent=beam.DoFn.StateParam(RECENT),
        cycle_rows=beam.DoFn.StateParam(CYCLE_ROWS),
        cycle_heads=beam.DoFn.StateParam(CYCLE_HEADS),
        due=beam.DoFn.TimerParam(DUE),
        overdue=beam.DoFn.TimerParam(OVERDUE),
    ) -> Iterator[Any]:
        oldest = since.read()
        if oldest is None:
            return
        now_us = self._clock.steady_us()
        if now_us - oldest < self._longest_us:
            self._look_again(overdue, oldest + self._longest_us - now_us)
            return
        until = now_us - self._longest_us + min(_TOGETHER_US, self._longest_us // 4)
        ready, held = [], []
        for piece in waiting.read():
            if piece[1] <= until:
                ready.append(piece[2].table)
            else:
                held.append(piece)
        if self._keep(held, waiting, earliest, since) is None:
            armed.clear()
            due.clear()
        else:
            oldest = min(piece[1] for piece in held)
            self._look_again(overdue, oldest + self._longest_us - now_us)
        if ready:
            # Windows go on as they were; what comes before these readings is put among them.
            earliest_us = min(int(times_us(table).min()) for table in ready)
            before = released.read()
            horizon = earliest_us if before is None else before
            # Where event time stands still, what came long before these is done with all the same.
            done = max(horizon, earliest_us)
            cycles = cycle_rows, cycle_heads
            yield from self._given(shard, ready, (horizon, done), tail, recent, cycles)

    def _ahead_us(self, held: Sequence[tuple[int, int, PackedBatch]]) -> int:
        """By how much later windows are to be released together with the next one.

        0 for input that is live. Where it is behind and comes much faster than it was recorded, a
        release per window would look through all that waits for each: then as much event time as
        comes within _CATCH_UP_US. Where one reader reads all, its watermark tells it.
        """
        if self._leads:
            return 0
        span = max(piece[0] for piece in held) - min(piece[0] for piece in held)
        took = max(piece[1] for piece in held) - min(piece[1] for piece in held)
        ahead = span * _CATCH_UP_US // max(took, _BURST_US)
        return min(ahead, span) if ahead >= _FASTER * _CATCH_UP_US else 0

    def _keep(
        self, held: Sequence[tuple[int, int, PackedBatch]], waiting: Any, earliest: Any, since: Any
    ) -> int | None:
        """Goes on waiting with these pieces alone; returns their earliest event time."""
        waiting.clear()
        for piece in held:
            waiting.add(piece)
        if not held:
            earliest.clear()
            since.clear()
            return None
        first = min(piece[0] for piece in held)
        earliest.write(first)
        since.write(min(piece[1] for piece in held))
        return first

    def _go_on(
        self, shard: int, what: int, batch: PackedBatch, rows: Any, heads: Any
    ) -> Iterator[Any]:
        """Takes what an earlier run remembered of cycles."""
        if what == _HEADS:
            heads.write(batch.packed())
            yield TaggedOutput("open_cycles", (shard, memory.Change(batch.packed(), None)))
        else:
            rows.add(batch.packed())
            change = memory.Change(heads.read() or _NO_HEADS, batch.packed())
            yield TaggedOutput("open_cycles", (shard, change))

    def _given(
        self,
        shard: int,
        ready: list[pa.Table],
        horizons: tuple[int, int],
        tail: Any,
        recent: Any,
        cycles: tuple[Any, Any],
    ) -> Iterator[Any]:
        """Gives readings on, in order.

        Args:
            shard: theirs.
            ready: the readings.
            horizons: before which all windows are released, without these readings and with them.
            tail: the state of that name.
            recent: the state of that name.
            cycles: the states of the cells' cycles: the readings that wait, and their heads.
        """
        if not ready:
            return
        table = stack(ready)
        times = times_us(table)
        in_place_from, keep_from = (end - self._allowed_lateness_us for end in horizons)
        kept = list(recent.read())
        known = tail.read()
        before = None if known is None else known.table
        if before is not None and kept and times.min() <= max(latest for latest, _ in kept):
            # Some come after their window: they belong among others, or repeat one.
            before = gathered([before, *(piece.table for _, piece in kept)], in_place_from)
        out = sequence(table, before, self.limits, NOTHING_RECENT, self._first_stays)
        last = PackedBatch(out.tail).packed()
        tail.write(last)
        if any(latest < keep_from for latest, _ in kept):
            recent.clear()
            for piece in kept:
                if piece[0] >= keep_from:
                    recent.add(piece)
        latest_us = int(times.max())
        new = _in_place(out, keep_from)
        if new is not None:
            recent.add((latest_us, new))
        yield from self.counted(out)
        yield TaggedOutput("tails", (shard, Tail(last, new, latest_us, keep_from)))
        if self._cycles and out.table.num_rows:
            following = memory.Shard(self._profiles, self._allowed_lateness_us, *cycles)
            ended, change = following.feed(out.table, horizons[1])
            yield from self.ended(ended, following.limits)
            if change is not None:
                yield TaggedOutput("open_cycles", (shard, change))


def _in_place(out: Sequenced, keep_from_us: int) -> PackedBatch | None:
    """What is recent, but for readings that lost their place: they come before no other one."""
    flags = out.table.column("flags").to_numpy()
    lost = (flags & FLAG["late"] != 0) & (times_us(out.table) < keep_from_us)
    recent = out.recent
    assert recent is not None
    if lost.any():
        recent = recent.filter(pa.array(~lost))
    return PackedBatch(recent).packed() if recent.num_rows else None


class Tail(NamedTuple):
    """What a shard has to remember after a release.

    Attributes:
        last: the last reading of every test that goes on.
        recent: the released readings, which later ones may have to be put among; or None.
        latest_us: the latest event time among them.
        keep_from_us: what was released before and is all earlier than this is not needed any more.
    """

    last: PackedBatch
    recent: PackedBatch | None
    latest_us: int
    keep_from_us: int


def _due(
    pieces: Iterable[tuple[int, int, PackedBatch]], border: int
) -> tuple[list[pa.Table], list[tuple[int, int, PackedBatch]]]:
    """The rows before `border` (µs), and the pieces of the others; unpacks only what it must."""
    ready: list[pa.Table] = []
    held: list[tuple[int, int, PackedBatch]] = []
    for piece in pieces:
        if piece[0] >= border:
            held.append(piece)
            continue
        due, rest = split_at([piece[2].table], border)
        ready += due
        held += [
            (int(times_us(table).min()), piece[1], PackedBatch(table).packed()) for table in rest
        ]
    return ready, held


class Order(beam.PTransform):
    """Validated tables of any order → tables in order, with time deltas, duplicates dropped.

    The unit of work is a shard, a hash of the equipment: batches stay large however many
    equipments there are. Windows are cut inside the shard, not by Beam, so that half a year of
    one cell costs no more than its readings. Bounded input is released at its end, live input
    window by window behind the watermark, and at the latest when it has waited for `longest_us`.

    Takes `{"valid": tables, "remembered": tables}` or the valid tables alone. Main output
    `ordered`: the tables; `tails`: (shard, Tail) per release, what the next readings need to know
    of these. Their tables, as one, are what a later run takes as `remembered`. `superseded`:
    tables of readings of which another version counts: the one that arrived last or, where
    `first_stays`, the first. `cycles`: tables of schema CYCLES_LIVE, of the cells' cycles that have ended
    (nothing without `cycles`); `curves`: what they say of health, tables of `curves.SCHEMA` (nothing
    without `curves`); `open_cycles`: (shard, memory.Change), what is to be remembered of the
    others, which a later run takes as `open_cycles` (memory.Kept).

    `leads`: whether the time of every element is the watermark that the whole input will have
    after it, as where one reader reads all. `clock`: of live input alone.
    """

    def __init__(
        self,
        profiles: Sequence[Profile],
        window_us: int,
        allowed_lateness_us: int,
        shards: int,
        leads: bool = False,
        longest_us: int = 600_000_000,
        clock: Clock | None = None,
        first_stays: bool = False,
        cycles: bool = False,
        curves: bool = False,
    ) -> None:
        super().__init__()
        self._curves = curves
        self._first_stays = first_stays
        self._cycles = cycles
        self._leads = leads
        self._longest_us = longest_us
        self._clock = clock
        self._profiles = tuple(profiles)
        self._window_us = window_us
        self._allowed_lateness_us = allowed_lateness_us
        self._shards = shards

    def expand(self, given: beam.PCollection | Mapping[str, beam.PCollection]) -> Any:
        """Adds the steps."""
        inputs = given if isinstance(given, Mapping) else {"valid": given}
        valid = inputs["valid"]
        piece = tuple[int, tuple[int, PackedBatch]]
        pieces = (
            valid
            | "Global" >> beam.WindowInto(GlobalWindows())
            | "ToShards"
            >> beam.ParDo(_ToShards(self._shards, self._leads)).with_output_types(piece)
        )
        if "remembered" in inputs:
            to_tails = beam.ParDo(_ToTails(self._profiles, self._shards))
            tails = inputs["remembered"] | "ToTails" >> to_tails.with_output_types(piece)
            pieces = (pieces, tails) | "WithTails" >> beam.Flatten()
        if "open_cycles" in inputs:
            to_open = beam.ParDo(_ToOpen(self._profiles, self._shards))
            open_cycles = inputs["open_cycles"] | "ToOpen" >> to_open.with_output_types(piece)
            pieces = (pieces, open_cycles) | "WithOpen" >> beam.Flatten()
        if valid.is_bounded:
            ordering: _Ordering = _OrderBounded(
                self._profiles, self._window_us, self._first_stays, self._cycles, self._curves
            )
        else:
            if self._clock is None:
                raise ValueError("live input is ordered by a clock, too; give one")
            ordering = _OrderUnbounded(
                self._profiles,
                self._window_us,
                self._allowed_lateness_us,
                self._leads,
                self._longest_us,
                self._clock,
                self._first_stays,
                self._cycles,
                self._curves,
            )
        step = beam.ParDo(ordering).with_output_types(
            pa.Table,
            tails=tuple[int, Tail],
            superseded=pa.Table,
            cycles=pa.Table,
            curves=pa.Table,
            open_cycles=tuple[int, memory.Change],
        )
        outputs = ("tails", "superseded", "cycles", "curves", "open_cycles")
        return pieces | "InOrder" >> step.with_outputs(*outputs, main="ordered")
