"""The raw archive of a stream: every message verbatim and once, in files of many."""

from __future__ import annotations

import datetime as dt
import json
import re
import threading
from collections import OrderedDict
from collections.abc import Mapping, Set
from functools import lru_cache
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
from transforms.order import EARLIEST, window_end

_HOUR_US = 3_600_000_000
# So many messages are worth a file at once; fewer wait for more.
_FILE_ROWS = 20_000
_WAIT_US = 60_000_000
# Hours whose files are known by heart; a stream writes into one or two at a time.
_HOURS = 8
# And of these so many files' messages, which a restart reads once more.
_FILES = 8
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

    For messages with an offset (`topic/3/1702`, `part/17`) it keeps each file's first and last
    one, and looks into a file only where these overlap with what is to be written, as after a
    restart. Others are known by their positions themselves. A message is the same if its payload
    is, too: a topic that was deleted and made anew counts from 0 again.
    """

    def __init__(self, folder: Path) -> None:
        self._ranges: dict[str, list[tuple[int, int, Path]]] = {}
        self._ids: set[tuple[str, int]] = set()
        for path in sorted(folder.glob("*.parquet")):
            ranges = (pq.read_schema(path).metadata or {}).get(_RANGES)
            if ranges is not None:
                self.add_ranges(json.loads(ranges), path)
            else:
                self._ids |= _messages(path)

    def add_ranges(self, ranges: Mapping[str, tuple[int, int]], path: Path) -> None:
        for prefix, (first, last) in ranges.items():
            self._ranges.setdefault(prefix, []).append((first, last, path))

    def add_ids(self, table: pa.Table) -> None:
        self._ids |= _identities(table)

    def among(self, ranges: Mapping[str, tuple[int, int]] | None) -> Set[tuple[str, int]]:
        """Of the messages that are held those that messages of these offsets may repeat."""
        if ranges is None:
            return self._ids
        near = {
            path
            for prefix, (first, last) in ranges.items()
            for low, high, path in self._ranges.get(prefix, ())
            if low <= last and high >= first
        }
        return set().union(*(_messages(path) for path in near))


def _identities(table: pa.Table) -> set[tuple[str, int]]:
    payloads = table.column("payload").to_pylist()
    return set(zip(table.column("position").to_pylist(), map(hash, payloads), strict=True))


@lru_cache(maxsize=_FILES)
def _messages(path: Path) -> frozenset[tuple[str, int]]:
    """Position and hash of the payload of each of a file's messages."""
    columns = ["position", "payload"]
    return frozenset(_identities(pq.read_table(path, columns=columns, partitioning=None)))


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
    ranges = _ranges(table.column("position"))
    held = known.among(ranges) | before.among(ranges)
    if held:
        payloads = map(hash, table.column("payload").to_pylist())
        messages = zip(table.column("position").to_pylist(), payloads, strict=True)
        table = table.filter(pa.array([message not in held for message in messages], pa.bool_()))
    if not table.num_rows:
        return
    if ranges is not None:
        table = table.replace_schema_metadata({_RANGES: json.dumps(ranges)})
    path = folder / f"{_name(table)}.parquet"
    write_parquet(path, table)
    # Only now: what failed is tried again.
    if ranges is None:
        known.add_ids(table)
    else:
        known.add_ranges(ranges, path)


def _name(table: pa.Table) -> str:
    return digest([table.column("payload"), table.column("position")])


def _ranges(positions: pa.ChunkedArray) -> dict[str, tuple[int, int]] | None:
    """First and last offset per partition; None where positions are no offsets."""
    split = pc.split_pattern(positions.combine_chunks(), "/", max_splits=1, reverse=True)
    if not pc.all(pc.equal(pc.list_value_length(split), 2)).as_py():
        return None
    prefixes = pc.list_element(split, 0).dictionary_encode()
    offsets = pc.list_element(split, 1).cast(pa.int64()).to_numpy()
    codes = prefixes.indices.to_numpy()
    found = {}
    for code, prefix in enumerate(prefixes.dictionary.to_pylist()):
        mine = offsets[codes == code]
        found[prefix] = (int(mine.min()), int(mine.max()))
    return found


def _root(folder: str, source: str) -> Path:
    return Path(folder, "raw", f"source={slug(source)}")


class ArchiveBatches(beam.DoFn):
    """Writes every raw batch as it comes, for sources whose batches are large.

    Args:
        folder: the lake.
        source: the source as configured.
        same: whether the source gives the same batches whenever it is read. Then a batch's content
            names its one file; months of history would else be cut into a file per hour.
    """

    def __init__(self, folder: str, source: str, same: bool) -> None:
        self._root = _root(folder, source)
        self._same = same

    def process(self, raw: RawBatch) -> None:
        """Writes one batch."""
        if not raw.table.num_rows:
            return
        if not self._same:
            write_messages(self._root, raw.table)
            return
        first = raw.table.column("arrived_at").cast(pa.int64())[0].as_py()
        place = self._root / hour_folder(raw.origin.arrived_at_us if first is None else first)
        write_parquet(place / f"{_name(raw.table)}.parquet", raw.table)


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
