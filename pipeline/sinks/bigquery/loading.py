"""When the lake's files are loaded: every few minutes of a live job, and when a job has ended."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

import apache_beam as beam
from apache_beam import coders
from apache_beam.metrics import Metrics
from apache_beam.transforms.periodicsequence import PeriodicImpulse
from apache_beam.transforms.userstate import ReadModifyWriteStateSpec

from pipeline.errors import WarehouseFailed
from pipeline.sinks.base.tally import PROCESS, Counts, Kept
from pipeline.sinks.bigquery import file_loads
from pipeline.sinks.bigquery.address import Address
from pipeline.sinks.bigquery.file_loads import Loaded

_LOG = logging.getLogger(__name__)


def load_and_tell(lake: str, address: Address, label: str = "") -> Loaded:
    """Loads what is new, and counts it as the sink's of that label.

    Raises:
        WarehouseFailed: it could not, or files had to be set aside.
    """
    done = file_loads.load_new(lake, address)
    for table, rows in done.by_table.items():
        PROCESS.add(label, table, Kept(stored=rows))
    if done.failed:
        raise WarehouseFailed(
            f"{address.told}: {len(done.failed)} files of the lake can't be loaded and are set "
            f"aside, {next(iter(done.failed))} for one; the log has BigQuery's reasons"
        )
    return done


class LoadThread:
    """Loads every few minutes, beside a live job of this process.

    What can't be loaded just now does not stop the job: the lake has it, and the next time, or
    the last, loads it.
    """

    def __init__(self, lake: str, address: Address, every_s: float, label: str = "") -> None:
        self._lake, self._address, self._every_s, self._label = lake, address, every_s, label
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True, name="load jobs")

    def start(self) -> None:
        """Begins; the first load is after the first few minutes."""
        self._thread.start()

    def stop(self) -> None:
        """Ends, after a load that is under way."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()

    def _follow(self) -> None:
        while not self._over.wait(self._every_s):
            try:
                load_and_tell(self._lake, self._address, self._label)
            except Exception:  # noqa: BLE001 - whatever it was, there is a next time
                _LOG.exception("%s: the lake's files wait for the next load", self._address.told)


class _Load(beam.DoFn):
    """(nothing, when it is due) → loads; one at a time, because all have one key."""

    # Only there so that a runner works on a key's elements one after another.
    LAST = ReadModifyWriteStateSpec("last", coders.FloatCoder())

    def __init__(self, lake: str, address: Address, every_s: float, label: str = "") -> None:
        self._lake, self._address, self._every_s = lake, address, every_s
        self._kept = {table.name: Counts(label, table.name) for table in file_loads.LOADED}
        self._rows = Metrics.counter("bigquery", "rows_loaded")
        self._files = Metrics.counter("bigquery", "files_loaded")
        self._failed = Metrics.counter("bigquery", "files_set_aside")

    def process(self, element: tuple[int, Any], last: Any = beam.DoFn.StateParam(LAST)) -> None:
        """Loads, unless that was done since it was due."""
        due_s = float(element[1])
        if (last.read() or 0.0) >= due_s:
            return
        began_s = time.time()
        done = file_loads.load_new(self._lake, self._address)
        self._rows.inc(done.rows)
        for table, rows in done.by_table.items():
            self._kept[table].in_bundle(Kept(stored=rows))
        self._files.inc(done.files)
        self._failed.inc(len(done.failed))
        last.write(began_s)


class LoadEvery(beam.PTransform):
    """Loads every few minutes, as a step of the job."""

    def __init__(self, lake: str, address: Address, every_s: float, label: str = "") -> None:
        super().__init__()
        self._lake, self._address, self._every_s, self._label = lake, address, every_s, label

    def expand(self, root: beam.Pipeline) -> beam.PCollection:
        """Adds the steps."""
        return (
            root
            | "Every" >> PeriodicImpulse(fire_interval=self._every_s)
            | "AsOne" >> beam.Map(lambda due: (0, float(due))).with_output_types(tuple[int, float])
            | "Load" >> beam.ParDo(_Load(self._lake, self._address, self._every_s, self._label))
        )
