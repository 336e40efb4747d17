"""Gathers small tables to larger ones, so that what is written of them is few large files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam import coders
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import (
    BagStateSpec,
    ReadModifyWriteStateSpec,
    TimerSpec,
    on_timer,
)
from apache_beam.transforms.window import GlobalWindow, GlobalWindows
from apache_beam.utils.timestamp import Timestamp

from transforms.batch import PackedBatch, PackedBatchCoder, stack

# A table, its rank among those of its key, and its size in bytes.
Piece = tuple[str, int, PackedBatch]

_PIECE = coders.TupleCoder((coders.StrUtf8Coder(), coders.VarIntCoder(), PackedBatchCoder()))


def _rank(piece: Piece) -> str:
    return piece[0]


def cut(pieces: list[Piece], most_bytes: int) -> Iterator[pa.Table]:
    """Tables of all pieces, in the order of their ranks, each of `most_bytes` at most.

    A piece that is larger by itself stays whole. Where it is cut depends on the pieces alone, not
    on the order in which they came.
    """
    taken: list[PackedBatch] = []
    there = 0
    for _, size, batch in sorted(pieces, key=_rank):
        if taken and there + size > most_bytes:
            yield stack([each.table for each in taken])
            taken, there = [], 0
        taken.append(batch)
        there += size
    if taken:
        yield stack([each.table for each in taken])


class _Gathering(beam.DoFn):
    WAITING = BagStateSpec("waiting", _PIECE)

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes


class _GatherBounded(_Gathering):
    """Waits for the end of the input: the same pieces then give the same tables."""

    END = TimerSpec("end", TimeDomain.WATERMARK)

    def process(  # type: ignore[no-untyped-def]
        self,
        element: tuple[str, Piece],
        waiting=beam.DoFn.StateParam(_Gathering.WAITING),
        end=beam.DoFn.TimerParam(END),
    ) -> None:
        rank, size, batch = element[1]
        # State may keep the object until the bundle ends; the table must not wait with it.
        waiting.add((rank, size, batch.packed()))
        end.set(GlobalWindow().max_timestamp())

    @on_timer(END)
    def release(  # type: ignore[no-untyped-def]
        self, waiting=beam.DoFn.StateParam(_Gathering.WAITING)
    ) -> Iterator[pa.Table]:
        pieces = list(waiting.read())
        waiting.clear()
        yield from cut(pieces, self._most_bytes)


class _GatherLive(_Gathering):
    """Waits until there is enough, or the first has waited for long."""

    HELD = ReadModifyWriteStateSpec("held", coders.VarIntCoder())
    LONG = TimerSpec("long", TimeDomain.REAL_TIME)
    # A job that is drained comes to its end.
    END = TimerSpec("end", TimeDomain.WATERMARK)

    def __init__(self, most_bytes: int, wait_s: float, clock: Callable[[], float]) -> None:
        super().__init__(most_bytes)
        self._wait_s = wait_s
        self._clock = clock

    def process(  # type: ignore[no-untyped-def]
        self,
        element: tuple[str, Piece],
        waiting=beam.DoFn.StateParam(_Gathering.WAITING),
        held=beam.DoFn.StateParam(HELD),
        end=beam.DoFn.TimerParam(END),
        long=beam.DoFn.TimerParam(LONG),
    ) -> Iterator[pa.Table]:
        rank, size, batch = element[1]
        there = held.read() or 0
        if there and there + size > self._most_bytes:
            yield from self._all(waiting, held)
            there = 0
        if not there:
            end.set(GlobalWindow().max_timestamp())
            long.set(Timestamp(self._clock() + self._wait_s))
        waiting.add((rank, size, batch.packed()))
        held.write(there + max(size, 1))
        if there + size >= self._most_bytes:
            yield from self._all(waiting, held)

    @on_timer(LONG)
    def waited(  # type: ignore[no-untyped-def]
        self,
        waiting=beam.DoFn.StateParam(_Gathering.WAITING),
        held=beam.DoFn.StateParam(HELD),
    ) -> Iterator[pa.Table]:
        yield from self._all(waiting, held)

    @on_timer(END)
    def ended(  # type: ignore[no-untyped-def]
        self,
        waiting=beam.DoFn.StateParam(_Gathering.WAITING),
        held=beam.DoFn.StateParam(HELD),
        long=beam.DoFn.TimerParam(LONG),
    ) -> Iterator[pa.Table]:
        # An engine would wait for it before it takes this step to be over.
        long.clear()
        yield from self._all(waiting, held)

    def _all(self, waiting: Any, held: Any) -> Iterator[pa.Table]:
        pieces = sorted(waiting.read(), key=_rank)
        waiting.clear()
        held.clear()
        if pieces:
            yield stack([batch.table for _, _, batch in pieces])


class Gather(beam.PTransform):
    """(key, piece) → larger tables, each of pieces of one key.

    Of bounded input every key waits for the end, and the same pieces give the same tables. Live
    input waits until a table has its size, or for `wait_s`; which pieces come together then
    depends on chance, so that whoever names something by a table has to make it stable first.

    Args:
        most_bytes: size of a table, by the pieces' own sizes.
        wait_s: seconds that a piece of live input waits at most.
        clock: the time now, seconds since 1970.
    """

    def __init__(self, most_bytes: int, wait_s: float, clock: Callable[[], float]) -> None:
        super().__init__()
        self._most_bytes = most_bytes
        self._wait_s = wait_s
        self._clock = clock

    def expand(self, pieces: beam.PCollection) -> beam.PCollection:
        """Adds the steps."""
        gathering: _Gathering = (
            _GatherBounded(self._most_bytes)
            if pieces.is_bounded
            else _GatherLive(self._most_bytes, self._wait_s, self._clock)
        )
        step = beam.ParDo(gathering).with_output_types(pa.Table)
        return pieces | "Global" >> beam.WindowInto(GlobalWindows()) | "Together" >> step
