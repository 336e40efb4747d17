"""The raw archive of a stream: every message verbatim and once, in files of many."""

from __future__ import annotations

import datetime as dt
import json
import re
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from apache_beam import coders
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import (
    BagStateSpec,
    ReadModifyWriteStateSpec,
    TimerSpec,
    on_timer,
)
from apache_beam.utils.timestamp import Timestamp

from pipeline.sinks.background import Background
from pipeline.sinks.files import digest, write_parquet
from transforms.batch import PackedBatch, PackedBatchCoder, RawBatch, stack
from transforms.convert import Mask
from transforms.order import EARLIEST, window_end
from transforms.sequence import I64

_HOUR_US = 3_600_000_000
# So many messages are worth a file at once; fewer wait for more.
_FILE_ROWS = 20_000
_WAIT_US = 60_000_000
# Hours whose files are known by heart; a stream writes into one or two at a time.
_HOURS = 8
_RANGES = b"offsets"


def hour_folder(arrived_us: int) -> str:
    """`dt=…/hr=…` of an arrival time, µs since 1970 UTC."""
    moment = dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=arrived_us)
    return f"dt={moment:%Y-%m-%d}/hr={moment:%H}"


def slug(text: str) -> str:
    """`text` as one path segment that every file system and query engine takes."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text).strip("_")[:80] or "source"


class _Known:
    """Which messages the files of one hour hold.

    Messages with an offset (`topic/3/1702`, `part/17`) are known by ranges: a file holds all
    messages of its hour between its first and its last offset. Others by their position itself.
    """

    def __init__(self, folder: Path) -> None:
        self._ranges: dict[str, list[tuple[int, int, Path]]] = {}
        self._ids: set[str] = set()
        for path in sorted(folder.glob("*.parquet")):
            ranges = (pq.read_schema(path).metadata or {}).get(_RANGES)
            if ranges is not None:
                self.add_ranges(json.loads(ranges), path)
            else:
                self._ids.update(_positions(path))

    def add_ranges(self, ranges: Mapping[str, tuple[int, int]], path: Path) -> None:
        for prefix, (first, last) in ranges.items():
            self._ranges.setdefault(prefix, []).append((first, last, path))

    def add_ids(self, ids: list[str]) -> None:
        self._ids.update(ids)

    def holds_offsets(self, prefix: str, offsets: I64) -> Mask:
        """Of messages of this hour."""
        held = np.zeros(len(offsets), dtype=bool)
        for first, last, _ in self._near(prefix, offsets):
            held |= (offsets >= first) & (offsets <= last)
        return held

    def lists_offsets(self, prefix: str, offsets: I64) -> Mask:
        """Of messages of another hour, for which the ranges say nothing: by the files' rows."""
        held = np.zeros(len(offsets), dtype=bool)
        near = list(self._near(prefix, offsets))
        if near:
            names = [f"{prefix}/{offset}" for offset in offsets.tolist()]
            there = {name for _, _, path in near for name in _positions(path)}
            held |= np.fromiter((name in there for name in names), dtype=bool, count=len(names))
        return held

    def _near(self, prefix: str, offsets: I64) -> Iterator[tuple[int, int, Path]]:
        lowest, highest = int(offsets.min()), int(offsets.max())
        for first, last, path in self._ranges.get(prefix, ()):
            if first <= highest and last >= lowest:
                yield first, last, path

    def holds_ids(self, ids: list[str]) -> Mask:
        return np.fromiter((name in self._ids for name in ids), dtype=bool, count=len(ids))


def _positions(path: Path) -> list[str]:
    return list(pq.read_table(path, columns=["position"], partitioning=None)[0].to_pylist())


# Per process: DoFns come and go, and what was written must not be looked up again and again.
_known: OrderedDict[Path, _Known] = OrderedDict()
_lock = threading.Lock()


def look_again() -> None:
    """Forgets which messages the archive holds: another job may have written some."""
    with _lock:
        _known.clear()


def write_messages(root: Path, table: pa.Table) -> None:
    """Writes the messages (schema MESSAGES) that `root` does not hold yet, by hour of arrival."""
    hours = table.column("arrived_at").cast(pa.int64()).fill_null(0).to_numpy() // _HOUR_US
    for hour in np.unique(hours).tolist():
        mine = hours == hour
        part = table if mine.all() else table.filter(pa.array(mine))
        with _lock:
            folder = root / hour_folder(hour * _HOUR_US)
            # A message whose producer's clock is ahead counts as come when it is read, and may
            # have been read in the hour before.
            before = root / hour_folder((hour - 1) * _HOUR_US)
            _write_hour(folder, part, _known_in(folder), _known_in(before))


def _known_in(folder: Path) -> _Known:
    known = _known.get(folder)
    if known is None:
        known = _known[folder] = _Known(folder)
        if len(_known) > _HOURS:
            _known.popitem(last=False)
    return known


def _write_hour(folder: Path, table: pa.Table, known: _Known, before: _Known) -> None:
    positions = table.column("position").combine_chunks()
    split = pc.split_pattern(positions, "/", max_splits=1, reverse=True)
    ranges: dict[str, tuple[int, int]] | None = None
    if not pc.all(pc.equal(pc.list_value_length(split), 2)).as_py():
        names = positions.to_pylist()
        held = known.holds_ids(names) | before.holds_ids(names)
    else:
        prefixes = pc.list_element(split, 0).dictionary_encode()
        offsets = pc.list_element(split, 1).cast(pa.int64()).to_numpy()
        codes = prefixes.indices.to_numpy()
        held = np.zeros(len(offsets), dtype=bool)
        ranges = {}
        for code, prefix in enumerate(prefixes.dictionary.to_pylist()):
            rows = codes == code
            mine = offsets[rows]
            held[rows] = known.holds_offsets(prefix, mine) | before.lists_offsets(prefix, mine)
            ranges[prefix] = (int(offsets[rows].min()), int(offsets[rows].max()))
    if held.all():
        return
    new = table.filter(pa.array(~held)) if held.any() else table
    if ranges is not None:
        new = new.replace_schema_metadata({_RANGES: json.dumps(ranges)})
    name = digest([new.column("payload"), new.column("position")])
    path = folder / f"{name}.parquet"
    write_parquet(path, new)
    # Only now: what failed is tried again.
    if ranges is None:
        known.add_ids(new.column("position").to_pylist())
    else:
        known.add_ranges(ranges, path)


def _root(folder: str, source: str) -> Path:
    return Path(folder, "raw", f"source={slug(source)}")


class ArchiveBatches(beam.DoFn):
    """Writes every raw batch as it comes, for sources whose batches are large."""

    def __init__(self, folder: str, source: str) -> None:
        self._root = _root(folder, source)

    def process(self, raw: RawBatch) -> None:
        """Writes one batch."""
        if raw.table.num_rows:
            write_messages(self._root, raw.table)


class ArchiveStream(beam.DoFn):
    """Gathers small batches of a stream, by (any key, raw batch), and writes few large files."""

    WAITING = BagStateSpec("waiting", PackedBatchCoder())
    ROWS = ReadModifyWriteStateSpec("rows", coders.VarIntCoder())
    EARLIEST = ReadModifyWriteStateSpec(EARLIEST, coders.VarIntCoder())
    DUE = TimerSpec("due", TimeDomain.WATERMARK)

    def __init__(self, folder: str, source: str) -> None:
        self._root = _root(folder, source)
        self._background: Background | None = None

    def setup(self) -> None:
        """Makes the thread that writes."""
        if self._background is None:
            self._background = Background(threads=1, waiting=4)

    def finish_bundle(self) -> None:
        """Waits until all is written."""
        assert self._background is not None
        self._background.drain()

    def process(  # type: ignore[no-untyped-def]
        self,
        element: tuple[int, RawBatch],
        at=beam.DoFn.TimestampParam,
        waiting=beam.DoFn.StateParam(WAITING),
        rows=beam.DoFn.StateParam(ROWS),
        earliest=beam.DoFn.StateParam(EARLIEST),
        due=beam.DoFn.TimerParam(DUE),
    ) -> None:
        """Keeps a batch until there are enough messages for a file, or a minute is over."""
        table = element[1].table
        there = (rows.read() or 0) + table.num_rows
        # A batch without messages asks for all that waits.
        if there >= _FILE_ROWS or not table.num_rows:
            pieces = [*(piece.table for piece in waiting.read()), table]
            self._write([piece for piece in pieces if piece.num_rows])
            waiting.clear()
            rows.clear()
            earliest.clear()
            return
        if earliest.read() is None:
            earliest.write(int(at.micros))
            due.set(Timestamp(micros=window_end(int(at.micros), _WAIT_US) - 1))
        waiting.add(PackedBatch(table).packed())
        rows.write(there)

    @on_timer(DUE)
    def flush(  # type: ignore[no-untyped-def]
        self,
        waiting=beam.DoFn.StateParam(WAITING),
        rows=beam.DoFn.StateParam(ROWS),
        earliest=beam.DoFn.StateParam(EARLIEST),
    ) -> None:
        """Writes what waits."""
        self._write([piece.table for piece in waiting.read()])
        waiting.clear()
        rows.clear()
        earliest.clear()

    def _write(self, tables: list[pa.Table]) -> None:
        if tables:
            assert self._background is not None
            self._background.submit(write_messages, self._root, stack(tables))
