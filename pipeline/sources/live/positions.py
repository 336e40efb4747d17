"""Rows of `source_positions`: what a run read of its source, and what it passed."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import pyarrow as pa

from pipeline.clock import now_us
from pipeline.sources.live.offsets import LOST, Gap, Span, merged
from schemas.forms import arrow_schema
from schemas.reading import SOURCE_POSITION
from transforms.batch import MESSAGES, BatchKind, Origin, PackedBatch, RawBatch
from transforms.convert import to_micros
from transforms.gather import Gather, Piece

SCHEMA = arrow_schema(SOURCE_POSITION)

# A live job writes down what it has read at least so often.
EVERY_S = 120.0


@dataclass(frozen=True)
class Run:
    """Which run reads what.

    Attributes:
        run: its id.
        source: the source as readings carry it.
        topic: the topic, subscription or file.
    """

    run: str
    source: str
    topic: str

    def row(
        self,
        began_us: int,
        partition: int | None = None,
        first: int | None = None,
        last: int | None = None,
        read: int = 0,
        skipped: int = 0,
        reason: str | None = None,
        log: str | None = None,
    ) -> dict[str, Any]:
        """A row; the same stretch of the same run has the same id."""
        identity = "\0".join(
            map(str, (self.run, self.source, self.topic, log, partition, first, reason))
        )
        return {
            "position_id": hashlib.blake2b(identity.encode(), digest_size=16).hexdigest(),
            "run_id": self.run,
            "source": self.source,
            "topic": self.topic,
            "log_id": log,
            "partition_number": partition,
            "first_offset": first,
            "last_offset": last,
            "messages_read": read,
            "offsets_skipped": skipped,
            "reason": reason,
            "began_at": began_us,
            "ended_at": max(began_us, now_us()),
        }

    def of_span(self, partition: int | None, span: Span, began_us: int) -> list[dict[str, Any]]:
        """The rows of what was read one after the other."""
        rows = []
        if span.following > span.first:
            rows.append(
                self.row(
                    began_us, partition, span.first, span.following - 1, span.read, log=span.log
                )
            )
        return rows + [self.of_gap(partition, gap, began_us, span.log) for gap in merged(span.gaps)]

    def of_gap(
        self, partition: int | None, gap: Gap, began_us: int, log: str | None = None
    ) -> dict[str, Any]:
        """The row of what gave no message."""
        return self.row(
            began_us,
            partition,
            gap.first,
            gap.last,
            skipped=gap.offsets,
            reason=gap.reason,
            log=log,
        )


def table(rows: list[dict[str, Any]]) -> pa.Table:
    """Rows as a table of schema SOURCE_POSITION."""
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def without_messages(rows: list[dict[str, Any]]) -> RawBatch:
    """A batch that carries rows and nothing else."""
    return RawBatch(MESSAGES.empty_table(), BatchKind.MESSAGES, Origin(""), positions=table(rows))


class Ledger:
    """What a live job has taken of each partition since it was written down last.

    Its source's thread tells it of gaps, the pipeline's of what it takes; safe under threads.

    Args:
        run: which run it is.
        clock_s: seconds that go on evenly.
    """

    def __init__(self, run: Run, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._run = run
        self._clock_s = clock_s
        self._lock = threading.Lock()
        self._open: dict[int | None, tuple[Span, int]] = {}
        self._seen = 0
        self._rows: list[dict[str, Any]] = []
        self._at_once = False
        self._written_s = clock_s()

    def gap(self, partition: int, gap: Gap, log: str | None = None) -> None:
        """Offsets that gave no message and belong to nothing that is taken."""
        with self._lock:
            self._rows.append(self._run.of_gap(partition, gap, now_us(), log))
            self._at_once |= gap.reason in LOST

    def took(self, positions: Mapping[int, Any]) -> None:
        """The pipeline has taken what stands at these positions."""
        with self._lock:
            for number, span in self._spans(positions):
                known = self._open.get(number)
                if known is None:
                    self._open[number] = (span, now_us())
                elif known[0].following == span.first and known[0].log == span.log:
                    before, since = known
                    gaps = merged((*before.gaps, *span.gaps))
                    read = before.read + span.read
                    joined = Span(before.first, span.following, read, gaps, span.log)
                    self._open[number] = (joined, since)
                else:
                    self._rows += self._run.of_span(number, *known)
                    self._open[number] = (span, now_us())

    def _spans(self, positions: Mapping[int, Any]) -> Iterator[tuple[int | None, Span]]:
        """Positions as spans; of messages without an offset the run's own count of them."""
        for number, given in positions.items():
            if isinstance(given, Span):
                yield number, given
            else:
                first, self._seen = self._seen, self._seen + len(given)
                yield None, Span(first, self._seen, len(given))

    def due(self, end: bool = False) -> RawBatch | None:
        """What is to be written down now, as a batch without messages; at the end all of it."""
        with self._lock:
            now_s = self._clock_s()
            if not (end or self._at_once or now_s - self._written_s >= EVERY_S):
                return None
            rows = self._rows
            for number, (span, since) in self._open.items():
                rows += self._run.of_span(number, span, since)
            self._rows, self._open, self._at_once, self._written_s = [], {}, False, now_s
        return without_messages(rows) if rows else None


class _Take(beam.DoFn):
    def process(self, raw: RawBatch) -> Any:
        if raw.positions is not None:
            yield raw.positions


def of_batches(batches: beam.PCollection) -> beam.PCollection:
    """The tables that a live source's batches carry."""
    return batches | "Positions" >> beam.ParDo(_Take()).with_output_types(pa.Table)


# What an engine's readers tell is brought together for so long, s; or until it is so much.
_TOGETHER_S = 120
_TOGETHER_BYTES = 256 * 1024


def joined(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of one run, partition and reason; those that follow one another as one."""
    found: list[dict[str, Any]] = []
    for row in sorted(rows, key=lambda row: (row["first_offset"], row["last_offset"])):
        last = found[-1] if found else None
        done = last is not None and (
            last["position_id"] == row["position_id"]
            or (row["reason"] is None and row["last_offset"] <= last["last_offset"])
        )
        if done:
            continue  # a bundle was done again
        # Of gaps the offsets between them are messages.
        follows = last is not None and (
            row["reason"] is not None or last["last_offset"] + 1 == row["first_offset"]
        )
        if last is None or not follows:
            found.append(dict(row))
            continue
        last["last_offset"] = max(last["last_offset"], row["last_offset"])
        last["messages_read"] += row["messages_read"]
        last["offsets_skipped"] += row["offsets_skipped"]
        last["began_at"] = min(last["began_at"], row["began_at"])
        last["ended_at"] = max(last["ended_at"], row["ended_at"])
    return found


def _pieces(rows: pa.Table) -> Iterator[tuple[str, Piece]]:
    for place, row in enumerate(rows.to_pylist()):
        one = rows.slice(place, 1)
        key = f"{row['run_id']}/{row['log_id']}/{row['partition_number']}/{row['reason']}"
        yield key, (row["position_id"], one.nbytes, PackedBatch(one))


def _joined_table(rows: pa.Table) -> pa.Table:
    found = rows.to_pylist()
    for row in found:
        row |= {name: to_micros(row[name]) for name in ("began_at", "ended_at")}
    return table(joined(found))


def together(tables: beam.PCollection) -> beam.PCollection:
    """The same, of a source that tells it with every batch: a row per partition and some minutes."""
    return (
        tables
        | "PositionRows" >> beam.FlatMap(_pieces).with_output_types(tuple[str, Piece])
        | "PositionsGather" >> Gather(_TOGETHER_BYTES, _TOGETHER_S, time.time)
        | "PositionTables" >> beam.Map(_joined_table).with_output_types(pa.Table)
    )
