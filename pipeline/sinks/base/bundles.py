"""What warehouses share that are written a bundle at a time: the step, its writer, its counters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

import apache_beam as beam
import pyarrow as pa
from apache_beam.metrics import Metrics
from apache_beam.transforms.window import GlobalWindows
from apache_beam.utils.windowed_value import WindowedValue

from pipeline import account
from pipeline.sinks.base import refused
from pipeline.sinks.base.tally import Counts, Kept
from schemas.reading import Table

# A request that is under way.
_Sent = TypeVar("_Sent")


class Figures:
    """The counters of a table's writer.

    Args:
        namespace: the warehouse's, of all that are not the account's.
        table: the table.
        label: the sink's, see `Sink.label`; the namespace unless given.
    """

    def __init__(self, namespace: str, table: Table, label: str = "") -> None:
        self.kept = Counts(label or namespace, table.name)
        self.written = Metrics.counter(namespace, f"{table.name}_written")
        self.refused = Metrics.counter(account.NAMESPACE, "refused")
        self.requests = Metrics.counter(namespace, "requests")
        self.retries = Metrics.counter(namespace, "retries")


class BundleWriter(ABC, Generic[_Sent]):
    """Writes a bundle's rows, of one table, several requests at once.

    Args:
        step: the warehouse, as dead letters name it.
        table: the table.
        source: the job's source, for dead letters.
        figures: what is counted.
    """

    def __init__(self, step: str, table: Table, source: str, figures: Figures) -> None:
        self._step, self._table, self._source = step, table, source
        self._refusals = figures.refused
        self._counts, self._kept = figures.kept, Kept()
        self._held: list[pa.Table] = []
        self._held_bytes = 0
        self._under_way: deque[_Sent] = deque()
        self._bytes = 0
        self._letters: list[pa.Table] = []

    @abstractmethod
    def add(self, rows: pa.Table) -> None:
        """Takes rows; sends them once there are enough."""

    @abstractmethod
    def _send_held(self) -> None:
        """Sends what is held."""

    @abstractmethod
    def _settle_oldest(self) -> None:
        """Returns when what was sent first is written or refused."""

    def finish(self) -> list[pa.Table]:
        """Returns when all rows are written: those that were refused, as dead letters.

        Raises:
            WarehouseFailed: the table can't be written.
        """
        self._send_held()
        while self._under_way:
            self._settle_oldest()
        letters, self._letters = self._letters, []
        self._counts.in_bundle(self._counts.commit(self._kept))
        self._kept = Kept()
        return letters

    def _has(self, kept: Kept) -> None:
        """Takes note of rows that the warehouse has; they count when all of the bundle is there."""
        self._kept += kept

    def _refuse(self, rows: pa.Table | pa.RecordBatch, reasons: list[tuple[str, str]]) -> None:
        """Makes dead letters of rows; error type and message of each."""
        self._refusals.inc(rows.num_rows)
        self._kept += Kept(refused=rows.num_rows)
        self._letters.append(refused.letters(self._step, self._table, rows, reasons, self._source))


class WriteBundles(beam.DoFn):
    """Writes tables of rows; gives dead letters of those that were refused.

    Args:
        new_writer: makes a bundle's writer; it is pickled.
    """

    def __init__(self, new_writer: Callable[[], BundleWriter[Any]]) -> None:
        self._new_writer = new_writer
        self._writer: BundleWriter[Any] | None = None

    def start_bundle(self) -> None:
        """Begins with nothing."""
        # What a failed bundle left behind is sent again by the one that repeats it.
        self._writer = self._new_writer()

    def process(self, rows: pa.Table) -> None:
        """Hands rows to the writer."""
        assert self._writer is not None
        self._writer.add(rows)

    def finish_bundle(self) -> Iterator[WindowedValue]:
        """Waits until all are written."""
        assert self._writer is not None
        for letters in self._writer.finish():
            yield GlobalWindows.windowed_value(letters)
        self._writer = None
