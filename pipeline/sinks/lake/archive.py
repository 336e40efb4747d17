"""The raw archive of a stream: every message verbatim and once, in files of many."""

from __future__ import annotations

import datetime as dt
import json
import re
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Set
from functools import lru_cache, partial
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.sinks.lake.cuts import by_number
from pipeline.sinks.lake.files import look_into, read, usable, write_parquet
from pipeline.stores import Store, Stored, store_at
from transforms.batch import MESSAGES

_HOUR_US = 3_600_000_000
# Hours whose files are known by heart; a stream writes into one or two at a time.
_HOURS = 8
# And of these so many files' messages, which a restart reads once more.
_FILES = 8
_RANGES = b"offsets"
# What a message is known by.
_IDENTITY = ("payload", "position")


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

    def __init__(self, store: Store, folder: str) -> None:
        self._uri, self._folder = store.uri, folder
        self._ranges: dict[str, list[tuple[int, int, str]]] = {}
        self._ids: set[tuple[str, int]] = set()
        self._paths: set[str] = set()
        self.look(store)

    def look(self, store: Store) -> None:
        """Gets to know the files that are new, which others may have written."""
        there = [each for each in store.files(self._folder) if each.path not in self._paths]
        self._paths.update(each.path for each in there)
        found = look_into(store, there, partial(_footer, store))
        for stored, told in zip(there, found, strict=True):
            if told is None:
                continue
            if told.ranges is not None:
                self.add_ranges(told.ranges, stored.path)
            else:
                self._ids |= _messages(store.uri, stored.path)

    def add_ranges(self, ranges: Mapping[str, tuple[int, int]], path: str) -> None:
        self._paths.add(path)
        for prefix, (first, last) in ranges.items():
            self._ranges.setdefault(prefix, []).append((first, last, path))

    def add_ids(self, table: pa.Table, path: str) -> None:
        self._paths.add(path)
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
        return set().union(*(_messages(self._uri, path) for path in near))


class _Footer(NamedTuple):
    """What a file's footer says of the offsets in it; None where it has none."""

    ranges: Mapping[str, tuple[int, int]] | None


def _footer(store: Store, stored: Stored) -> _Footer:
    with store.open(stored.path, stored.size) as file:
        found = (pq.read_schema(file).metadata or {}).get(_RANGES)
    if found is None:
        return _Footer(None)
    told = json.loads(found)
    return _Footer({name: (int(first), int(last)) for name, (first, last) in told.items()})


def _identities(table: pa.Table) -> set[tuple[str, int]]:
    payloads = table.column("payload").to_pylist()
    return set(zip(table.column("position").to_pylist(), map(hash, payloads), strict=True))


def _messages(uri: str, path: str) -> frozenset[tuple[str, int]]:
    """Position and hash of the payload of each of a file's messages; none if it can't be used."""
    return usable(store_at(uri), path, lambda: _messages_of(uri, path)) or frozenset()


# One that can't be read is not kept here: it may be written again.
@lru_cache(maxsize=_FILES)
def _messages_of(uri: str, path: str) -> frozenset[tuple[str, int]]:
    columns = [MESSAGES.field(name) for name in _IDENTITY]
    return frozenset(_identities(read(store_at(uri), path, columns)))


# Per process: DoFns come and go, and what was written must not be looked up again and again.
_known: OrderedDict[tuple[str, str], _Known] = OrderedDict()
_lock = threading.Lock()


def look_again() -> None:
    """Forgets which messages the archive holds: another job may have written some."""
    with _lock:
        _known.clear()


def by_hour(table: pa.Table) -> Iterator[tuple[int, pa.Table]]:
    """Cuts messages (schema MESSAGES) by the hour of their arrival, its start in µs since 1970."""
    hours = table.column("arrived_at").cast(pa.int64()).fill_null(0).to_numpy() // _HOUR_US
    for hour, part in by_number(table, hours):
        yield hour * _HOUR_US, part


def write_messages(store: Store, root: str, table: pa.Table, others: bool = False) -> None:
    """Writes the messages (schema MESSAGES) that `root` does not hold yet, by hour of arrival.

    Args:
        store: the lake.
        root: where in it.
        table: the messages.
        others: whether others write there meanwhile, so that it has to be looked at each time.
    """
    for hour, part in by_hour(table):
        with _lock:
            folder = f"{root}/{hour_folder(hour)}"
            # A message whose producer's clock is ahead counts as come when it is read, and may
            # have been read in the hour before.
            before = f"{root}/{hour_folder(hour - _HOUR_US)}"
            _write_hour(
                store,
                folder,
                part,
                _known_in(store, folder, others),
                _known_in(store, before, others),
            )


def _known_in(store: Store, folder: str, others: bool) -> _Known:
    known = _known.get((store.uri, folder))
    if known is not None and others:
        known.look(store)
    if known is None:
        known = _known[store.uri, folder] = _Known(store, folder)
        if len(_known) > _HOURS:
            _known.popitem(last=False)
    return known


def _write_hour(store: Store, folder: str, table: pa.Table, known: _Known, before: _Known) -> None:
    ranges = ranges_of(table.column("position"))
    held = known.among(ranges) | before.among(ranges)
    # What has no offset may be delivered again, before the first copy is written, too.
    if held or ranges is None:
        table = _new(table, held)
    if not table.num_rows:
        return
    path = write_named(store, folder, table, ranges)
    # Only now: what failed is tried again.
    if ranges is None:
        known.add_ids(table, path)
    else:
        known.add_ranges(ranges, path)


def _new(table: pa.Table, held: Set[tuple[str, int]]) -> pa.Table:
    """The messages that are not held, each once."""
    payloads = map(hash, table.column("payload").to_pylist())
    messages = zip(table.column("position").to_pylist(), payloads, strict=True)
    first: dict[tuple[str, int], int] = {}
    for place, message in enumerate(messages):
        if message not in held:
            first.setdefault(message, place)
    return (
        table if len(first) == table.num_rows else table.take(pa.array(first.values(), pa.int64()))
    )


def write_named(
    store: Store, folder: str, table: pa.Table, ranges: Mapping[str, tuple[int, int]] | None
) -> str:
    """The path of the file it writes."""
    if ranges is not None:
        table = table.replace_schema_metadata({_RANGES: json.dumps(ranges)})
    return write_parquet(store, folder, table, _IDENTITY)


def ranges_of(positions: pa.ChunkedArray) -> dict[str, tuple[int, int]] | None:
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
