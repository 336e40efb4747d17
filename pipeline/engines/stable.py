"""Gives tables on only when the engine has made durable that it has them.

An engine that goes back to a checkpoint gives what came since again, and its timers fire at other
moments then: what was released before in one piece may come in two. What a sink was given has to
stay as it was. So tables wait here, in state, until a checkpoint holds them; after a failure they
come out of it as they were. Beam has `requires_stable_input` for it, which Flink's portable runner
does not keep.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from functools import partial
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
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.timestamp import Timestamp

from pipeline.engines.checkpointed import Checkpointed
from transforms import identity
from transforms.batch import PackedBatch, PackedBatchCoder
from transforms.clock import Clock

# So often it is looked whether a checkpoint is complete.
_LOOK_US = 1_000_000
# Where no checkpoint is complete for so long, readings are worth more than windows in one piece.
_LONGEST_US = 120_000_000

# Number of the table, since when it waits (µs since 1970), the table.
_WAITING = coders.TupleCoder((coders.VarIntCoder(), coders.VarIntCoder(), PackedBatchCoder()))

# Asks for the engine's word, in the same bundle: a timer can't.
_ASK = "ask"

# Per process and step and key: which tables a checkpoint has.
_known: dict[tuple[str, int], Checkpointed] = {}
_lock = threading.Lock()


def _checkpointed(step: str, key: int) -> Checkpointed:
    with _lock:
        return _known.setdefault((step, key), Checkpointed())


class _Hold(beam.DoFn):
    """(key, table) → tables, in the order in which they came; keys whose word is to be asked for."""

    WAITING = BagStateSpec("waiting", _WAITING)
    NUMBER = ReadModifyWriteStateSpec("number", coders.VarIntCoder())
    LOOK = TimerSpec("look", TimeDomain.REAL_TIME)
    # A job that is drained comes to its end.
    END = TimerSpec("end", TimeDomain.WATERMARK)

    def __init__(self, step: str, clock: Clock) -> None:
        self._step = step
        self._clock = clock

    def process(  # type: ignore[no-untyped-def]
        self,
        element: tuple[int, PackedBatch],
        waiting=beam.DoFn.StateParam(WAITING),
        number=beam.DoFn.StateParam(NUMBER),
        look=beam.DoFn.TimerParam(LOOK),
        end=beam.DoFn.TimerParam(END),
    ) -> Iterator[beam.pvalue.TaggedOutput]:
        key, batch = element
        former = number.read() or 0
        known = _checkpointed(self._step, key)
        known.begin(former)
        known.did(former + 1)
        number.write(former + 1)
        now_us = self._now_us()
        waiting.add((former + 1, now_us, batch.packed()))
        yield beam.pvalue.TaggedOutput(_ASK, key)
        look.set(Timestamp(micros=now_us + _LOOK_US))
        end.set(GlobalWindow().max_timestamp())

    @on_timer(LOOK)
    def looked(  # type: ignore[no-untyped-def]
        self,
        key=beam.DoFn.KeyParam,
        waiting=beam.DoFn.StateParam(WAITING),
        number=beam.DoFn.StateParam(NUMBER),
        look=beam.DoFn.TimerParam(LOOK),
    ) -> Iterator[pa.Table | beam.pvalue.TaggedOutput]:
        now_us = self._now_us()
        known = _checkpointed(self._step, key)
        known.begin(number.read() or 0)
        durable = known.through
        there = list(waiting.read())

        def is_early(held: tuple[int, int, PackedBatch]) -> bool:
            mine, since_us, _ = held
            return mine > durable and now_us - since_us < _LONGEST_US

        early = [each for each in there if is_early(each)]
        if len(early) < len(there):
            waiting.clear()
            for each in early:
                waiting.add(each)
        if early:
            look.set(Timestamp(micros=now_us + _LOOK_US))
            yield beam.pvalue.TaggedOutput(_ASK, key)
        yield from self._tables(each for each in there if not is_early(each))

    @on_timer(END)
    def ended(  # type: ignore[no-untyped-def]
        self,
        waiting=beam.DoFn.StateParam(WAITING),
        look=beam.DoFn.TimerParam(LOOK),
    ) -> Iterator[pa.Table]:
        there = list(waiting.read())
        waiting.clear()
        look.clear()
        yield from self._tables(there)

    @staticmethod
    def _tables(held: Any) -> Iterator[pa.Table]:
        for _, _, batch in sorted(held, key=lambda each: each[0]):
            yield batch.table

    def _now_us(self) -> int:
        return int(self._clock.now_s() * 1e6)


class _Ask(beam.DoFn):
    """Keys → nothing; has the engine say when the bundle is finished."""

    def __init__(self, step: str) -> None:
        self._step = step

    def process(  # type: ignore[no-untyped-def]
        self, key: int, finalizer=beam.DoFn.BundleFinalizerParam
    ) -> None:
        known = _checkpointed(self._step, key)
        finalizer.register(partial(known.heard, known.word()))


class Stable(beam.PTransform):
    """Tables of readings → the same, which stay the same after a failure.

    Args:
        shards: in which readings were put in order; a table has those of one.
        clock: the time.
    """

    def __init__(self, shards: int, clock: Clock) -> None:
        super().__init__()
        self._shards = shards
        self._clock = clock

    def expand(self, tables: beam.PCollection) -> beam.PCollection:
        """Adds the steps."""
        shards = self._shards

        def keyed(table: pa.Table) -> tuple[int, PackedBatch]:
            return identity.shard(table, shards), PackedBatch(table)

        by_shard = tables | "ByShard" >> beam.Map(keyed).with_output_types(tuple[int, PackedBatch])
        step = uuid.uuid4().hex
        hold = beam.ParDo(_Hold(step, self._clock)).with_output_types(pa.Table)
        held = by_shard | "Hold" >> hold.with_outputs(_ASK, main="tables")
        _ = held[_ASK] | "Ask" >> beam.ParDo(_Ask(step))
        return held.tables
