"""The doors of what the job reads back: its checkpoint, and the files of its lake."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import ConfigError
from pipeline.running import checkpoint
from pipeline.running.checkpoint import Checkpoint
from pipeline.sinks.lake import archive, recent
from pipeline.sinks.lake.archive import write_messages
from pipeline.sinks.lake.tables import READINGS, by_day, write_day
from pipeline.stores import store_at
from tests.fuzz.doors.door import Door, Taken, Unaccounted
from tests.messages import limits, messages, reading, valid
from transforms.batch import PackedBatch
from transforms.order import Tail
from transforms.sequence import NOTHING_RECENT, Sequenced, sequence

_SINCE_S = 1_700_000_000.0


# In memory where that can be: on a disk most of the time would be waited for what is flushed to it.
_PLACE = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="door-", dir=_PLACE) as folder:
        yield Path(folder)


def _readings() -> Sequenced:
    sent = [
        reading(
            recorded_at=f"2024-06-01T12:00:{second:02d}Z", test_time_s=second, record_index=second
        )
        for second in range(30)
    ]
    return sequence(valid(sent), None, limits(), NOTHING_RECENT)


def _checkpoint(data: bytes) -> Taken:
    """A start from a checkpoint: it is used, or set aside, and a new one can be written."""
    with _folder() as folder:
        path = folder / "live.checkpoint"
        path.write_bytes(data)
        kept = Checkpoint(str(path))
        try:
            kept.prepare()
            _ = kept.others_since_s
            found = kept.remembered()
            kept.save(None)
            kept.save(_SINCE_S)
        except ConfigError:
            return Taken(0, 1)
        finally:
            kept.finish()
        again = Checkpoint(str(path))
        try:
            if again.since_s != _SINCE_S:
                raise Unaccounted(f"it was saved with {_SINCE_S}, and says {again.since_s}")
        finally:
            again.finish()
        used = found is not None and found.num_rows > 0
        return Taken(int(used), int(not used))


def _checkpoints() -> list[bytes]:
    out = _readings()
    tail = Tail(PackedBatch(out.tail), PackedBatch(out.recent), 2**60, -(2**62))
    found = []
    with _folder() as folder:
        path = folder / "live.checkpoint"
        kept = Checkpoint(str(path))
        kept.prepare()
        kept.save(_SINCE_S)
        found.append(path.read_bytes())
        checkpoint._SHARDS[str(path)].setdefault(0, checkpoint._Shard()).add(tail)
        kept.save(_SINCE_S)
        found.append(path.read_bytes())
        kept.finish()
    return found


def _unseal(data: bytes) -> list[bytes]:
    return [data[checkpoint._HEAD :]]


def _seal(_: bytes, parts: list[bytes]) -> bytes:
    """A checkpoint with the checksum of what it holds."""
    return checkpoint._MAGIC + checkpoint._digest(parts[0]) + parts[0]


def _parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


@cache
def _day() -> pa.Table:
    table = _readings().table
    names = [f"{number:032x}" for number in range(table.num_rows)]
    if "reading_id" not in table.column_names:
        table = table.append_column("reading_id", pa.array(names))
    return table


def _lake(data: bytes) -> Taken:
    """A file among a day's readings, which a run that goes on looks at before it writes."""
    with _folder() as folder:
        store = store_at(str(folder))
        rows = _day()
        day, _ = next(by_day(rows, READINGS.when))
        place = folder / "readings" / f"dt={day}"
        place.mkdir(parents=True)
        (place / "other.parquet").write_bytes(data)
        try:
            recent.look(store, READINGS.root, time.time() - 3600)
            write_day(store, READINGS, day, rows)
        finally:
            recent.forget(store, READINGS.root)
        written = sum(
            pq.read_metadata(path).num_rows
            for path in place.iterdir()
            if path.name != "other.parquet"
        )
        # What the file holds is left out; of a damaged one nothing is.
        return Taken(written, rows.num_rows - written)


def _archived(data: bytes) -> Taken:
    """A file in the archive's hour, which a live job looks at before it archives."""
    with _folder() as folder:
        store = store_at(str(folder))
        table = _raw()
        hour = archive.hour_folder(table.column("arrived_at")[0].value)
        place = folder / "raw" / "x" / hour
        place.mkdir(parents=True)
        (place / "other.parquet").write_bytes(data)
        archive.look_again()
        write_messages(store, "raw/x", table)
        written = sum(
            pq.read_metadata(path).num_rows
            for path in place.iterdir()
            if path.name != "other.parquet"
        )
        return Taken(written, table.num_rows - written)


@cache
def _raw() -> pa.Table:
    table = messages([reading(record_index=number) for number in range(20)]).table
    places = pa.array([f"cells/3/{number}" for number in range(20)])
    return table.set_column(table.column_names.index("position"), "position", places)


def _archives() -> list[bytes]:
    with _folder() as folder:
        write_messages(store_at(str(folder)), "raw/x", _raw().slice(0, 12))
        return [path.read_bytes() for path in folder.rglob("*.parquet")]


DOORS = [
    Door("checkpoint", _checkpoint, _checkpoints, _unseal, _seal),
    Door("lake", _lake, lambda: [_parquet(_day()), _parquet(_day().slice(0, 9))]),
    Door("archive", _archived, _archives),
]
