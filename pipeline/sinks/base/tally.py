"""The account by sink: of the rows that a sink was given, how many it stored and how many it had."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields

from apache_beam.metrics import Metrics
from apache_beam.metrics.metric import MetricsFilter

from pipeline.engines.results import PipelineResult
from pipeline.sinks import Sink
from schemas.reading import DEAD_LETTER, READING, READING_SUPERSEDED, TABLES

NAMESPACE = "sinks"


@dataclass(frozen=True)
class Kept:
    """What became of rows that a sink was given, once it has committed them.

    Attributes:
        stored: rows that were not there before.
        already_there: rows that were there, and stay as they are.
        superseded: rows that replace what was there, or are replaced by it.
        refused: rows that the sink did not take.
        stored_or_there: rows that are there now; the sink does not know since when.
    """

    stored: int = 0
    already_there: int = 0
    superseded: int = 0
    refused: int = 0
    stored_or_there: int = 0

    def __add__(self, other: Kept) -> Kept:
        """Both together."""
        return Kept(*(getattr(self, name) + getattr(other, name) for name in NAMES))

    @property
    def given(self) -> int:
        """All of them."""
        return sum(getattr(self, name) for name in NAMES)

    def __str__(self) -> str:
        """As a line has it, such as `stored 3,360, already there 0`."""
        if self.stored_or_there:
            parts = [f"stored or already there {self.stored_or_there:,}"]
            parts += [f"stored {self.stored:,}"] if self.stored else []
        else:
            parts = [f"stored {self.stored:,}"]
        if self.already_there or not self.stored_or_there:
            parts.append(f"already there {self.already_there:,}")
        parts += [f"superseded {self.superseded:,}"] if self.superseded else []
        parts += [f"refused {self.refused:,}"] if self.refused else []
        return ", ".join(parts)


NAMES = tuple(each.name for each in fields(Kept))
_NOTHING = Kept()


class _Process:
    """What this process's sinks have committed; safe under threads.

    A sink of the local runner may commit after its bundle is over, when Beam counts no more. So
    where all steps are in this process it is asked, and Beam's counters where they are not.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: dict[tuple[str, str], Kept] = {}
        self.asked = False

    def begin(self, asked: bool) -> None:
        """Starts at nothing; `asked`: whether all steps of the job are in this process."""
        with self._lock:
            self._kept, self.asked = {}, asked

    def add(self, label: str, table: str, kept: Kept) -> None:
        """Adds what a sink has committed."""
        with self._lock:
            self._kept[label, table] = self._kept.get((label, table), _NOTHING) + kept

    def found(self) -> dict[tuple[str, str], Kept]:
        """By sink and table."""
        with self._lock:
            return dict(self._kept)


# One per process: DoFns can't hold it, they are copied.
PROCESS = _Process()


class Counts:
    """Counts what becomes of one table's rows in one sink; it travels with the step.

    Args:
        label: the sink's, see `Sink.label`.
        table: the table's name.
    """

    def __init__(self, label: str, table: str) -> None:
        self._label, self._table = label, table
        self._counters = {
            name: Metrics.counter(NAMESPACE, f"{label}/{table}/{name}") for name in NAMES
        }

    def commit(self, kept: Kept) -> Kept:
        """Counts what is durable by now, in any thread; returns it, for `in_bundle`."""
        PROCESS.add(self._label, self._table, kept)
        return kept

    def in_bundle(self, kept: Kept) -> None:
        """Counts the same for Beam; within a bundle."""
        for name, counter in self._counters.items():
            if number := getattr(kept, name):
                counter.inc(number)


@dataclass(frozen=True)
class SinkAccount:
    """What one sink has of what it was given.

    Attributes:
        sink: as a person knows it, such as `duckdb:data/warehouse.duckdb`.
        tables: by the table's name.
        every: whether it counts every row it is given; load jobs do not.
        readings: whether it is given readings.
        left_out: readings that it is not given, because another version counts.
    """

    sink: str
    tables: Mapping[str, Kept] = field(default_factory=dict)
    every: bool = True
    readings: bool = True
    left_out: int = 0

    def of(self, table: str) -> Kept:
        """What became of a table's rows."""
        return self.tables.get(table, _NOTHING)

    @property
    def committed(self) -> int:
        """Readings that are done with: the sink has them, has refused them, or is not given them."""
        return self._readings.given + self.left_out

    @property
    def _readings(self) -> Kept:
        """What became of readings; those that come as superseded ones are kept as such."""
        former = self.of(READING_SUPERSEDED.name)
        return self.of(READING.name) + Kept(
            already_there=former.already_there,
            superseded=former.given - former.already_there - former.refused,
            refused=former.refused,
        )

    def balances(self, written: int) -> bool:
        """Whether it has or has refused all that it was to be given."""
        return not self.readings or not self.every or self.committed == written

    def line(self, written: int, saved: bool = False) -> str:
        """The sink's account for a person.

        Args:
            written: readings that it was to be given.
            saved: whether a savepoint holds what it has not got yet.
        """
        if not self.readings:
            return f"{self.sink}: dead letters sent {self.of(DEAD_LETTER.name).given:,}"
        found = self._readings
        told = str(found) if self.every else f"loaded {found.stored:,} from the lake"
        if not self.balances(written):
            left = written - self.committed
            later = saved and left > 0
            told = f"{told}, in the savepoint {left:,}" if later else f"given {written:,} ≠ {told}"
        letters = self.of(DEAD_LETTER.name)
        return f"{self.sink}: {told}" + (f"; dead letters: {letters}" if letters.given else "")


def of(
    result: PipelineResult | None, sinks: Sequence[Sink], superseded: int = 0
) -> list[SinkAccount]:
    """The account of each sink, of a finished or running job.

    Args:
        result: the job.
        sinks: its sinks.
        superseded: readings that were handed on as superseded ones, which not every sink takes.
    """
    found = PROCESS.found() if PROCESS.asked else _of_metrics(result)
    return [
        SinkAccount(
            sink.shown,
            {table.name: found.get((sink.label, table.name), _NOTHING) for table in TABLES},
            sink.counts_every,
            sink.takes_readings,
            0 if sink.takes_superseded else superseded,
        )
        for sink in sinks
        if sink.label
    ]


def _of_metrics(result: PipelineResult | None) -> dict[tuple[str, str], Kept]:
    if result is None:
        return {}
    found: dict[tuple[str, str], Kept] = {}
    for counter in result.metrics().query(MetricsFilter().with_namespace(NAMESPACE))["counters"]:
        label, table, name = counter.key.metric.name.split("/")
        one = Kept(**{name: int(counter.result or 0)})
        found[label, table] = found.get((label, table), _NOTHING) + one
    return found


def lines(found: Sequence[SinkAccount], written: int, saved: bool = False) -> list[str]:
    """A line for each sink; one that says so where readings are kept nowhere; see `line`."""
    told = [each.line(written, saved) for each in found]
    if not any(each.readings for each in found):
        told.append("nothing is kept: --lake=none --warehouse=none")
    return told


def in_every(found: Sequence[SinkAccount], handed: int) -> int:
    """Readings that every sink is done with.

    Args:
        found: the sinks' accounts.
        handed: readings that were handed to the sinks.
    """
    return min([handed, *(each.committed for each in found if each.readings and each.every)])


def waiting(found: Sequence[SinkAccount], handed: int) -> dict[str, int]:
    """By sink, the readings that it was given and has not committed yet."""
    return {
        each.sink: handed - each.committed
        for each in found
        if each.readings and each.every and each.committed < handed
    }
