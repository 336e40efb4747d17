"""The best plain loop for a backlog in Kafka: librdkafka, DuckDB's JSON reader, numpy, Parquet, DuckDB.

What a good engineer would write for one known producer, kept as fast as its authors can make it. It
does the job's arithmetic and writes its raw archive; it leaves out what makes the job safe: ids,
duplicates, flags, dead-letter tables, lateness, other names and units, crashes.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
import traceback
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from confluent_kafka import Consumer, Message, TopicPartition

from schemas.forms import UTC_MICROSECONDS, arrow_schema
from schemas.reading import READING

_BATCH = 20_000
# Rows of a file of readings, which are one transaction of the warehouse, too.
_FILE_ROWS = 140_000
_MINUTE_US = 60_000_000
_FIRST = np.iinfo(np.int64).min
_SUMMED = ("voltage_v", "current_a", "temperature_c", "power_watt")
_FIELDS = (
    "equipment_id", "equipment_type", "test_id", "recorded_at", "streamed_at", "record_index",
    "test_time_s", "step_time_s", "cycle_index", "step_index", "voltage_v", "current_a",
    "charge_capacity_ah", "discharge_capacity_ah", "charge_energy_wh", "discharge_energy_wh",
    "internal_resistance_ohm", "temperature_c", "ambient_temperature_c", "frequency_hz",
)  # fmt: skip
_READING = arrow_schema(READING)
_SQL_TYPES = {pa.string(): "VARCHAR", pa.float64(): "DOUBLE", pa.int64(): "BIGINT"}


class _Fetched(NamedTuple):
    payloads: pa.Array
    raw: pa.Table


def _sql_type(name: str) -> str:
    return _SQL_TYPES.get(_READING.field(name).type, "TIMESTAMPTZ")


class _Decoder:
    """JSON payloads → a table; what can't be read is left in `refused`."""

    def __init__(self) -> None:
        self._database = duckdb.connect(config={"threads": 1})
        self._database.execute("SET TimeZone = 'UTC'")
        fields = ", ".join(f'"{name}": "{_sql_type(name)}"' for name in _FIELDS)
        self._shape = f"'{{{fields}}}'"
        self.refused: list[Any] = []

    def __call__(self, payloads: pa.Array) -> pa.Table:
        try:
            return self._read(payloads)
        except duckdb.Error:
            self._database.register("given", pa.table({"text": payloads}))
            tried = f"SELECT TRY(from_json(text, {self._shape})) IS NOT NULL FROM given"
            good = self._database.sql(tried).to_arrow_table().column(0).combine_chunks()
            self.refused += payloads.filter(pc.invert(good)).to_pylist()
            return self._read(payloads.filter(good))

    def _read(self, payloads: pa.Array) -> pa.Table:
        self._database.register("given", pa.table({"text": payloads}))
        read = f"SELECT unnest(from_json(text, {self._shape})) FROM given"
        return self._database.sql(read).to_arrow_table()


class _Fleet:
    """What is known of each equipment from batch to batch, and the windows so far."""

    def __init__(self) -> None:
        self._codes: dict[str, int] = {}
        self._last = np.full(1 << 20, _FIRST)
        self._windows: list[list[npt.NDArray[Any]]] = []
        self.refused: list[pa.Table] = []

    def enrich(self, table: pa.Table) -> pa.Table:
        """Checks limits, puts in order, adds power and time deltas, sums the windows."""
        voltage, current = (_numbers(table, name) for name in ("voltage_v", "current_a"))
        with np.errstate(invalid="ignore"):
            good = (np.abs(voltage) < 1000) & (np.abs(current) < 1000)
        if not good.all():
            self.refused.append(table.filter(pa.array(~good)))
            table = table.filter(pa.array(good))
        names = table.column("equipment_id").combine_chunks().dictionary_encode()
        codes = np.array(
            [
                self._codes.setdefault(name, len(self._codes))
                for name in names.dictionary.to_pylist()
            ]
        )[names.indices.to_numpy()]
        moment = table.column("recorded_at").cast(pa.int64()).to_numpy()
        span = int(moment.max() - moment.min()) + 1
        order = np.argsort(codes * span + (moment - moment.min()), kind="stable")
        table = table.take(pa.array(order))
        codes, moment = codes[order], moment[order]
        voltage, current = (_numbers(table, name) for name in ("voltage_v", "current_a"))

        first = np.ones(len(codes), dtype=bool)
        first[1:] = codes[1:] != codes[:-1]
        starts = np.flatnonzero(first)
        delta = np.empty(len(moment))
        delta[1:] = np.diff(moment) / 1e6
        before = self._last[codes[starts]]
        delta[starts] = np.where(before == _FIRST, np.nan, (moment[starts] - before) / 1e6)
        ends = np.append(starts[1:] - 1, len(codes) - 1)
        self._last[codes[ends]] = np.maximum(moment[ends], before)

        power = voltage * current
        table = table.append_column("power_watt", pa.array(power))
        table = table.append_column("time_delta_s", pa.array(delta, mask=np.isnan(delta)))
        self._sum(table, codes, moment // _MINUTE_US, first)
        return table

    def _sum(self, table: pa.Table, codes: Any, minutes: Any, first: Any) -> None:
        change = first.copy()
        change[1:] |= minutes[1:] != minutes[:-1]
        starts = np.flatnonzero(change)
        columns = [codes[starts], minutes[starts], np.diff(np.append(starts, len(codes)))]
        for name in _SUMMED:
            values = _numbers(table, name)
            columns += [kind.reduceat(values, starts) for kind in (np.minimum, np.add, np.maximum)]
        self._windows.append(columns)

    def windows(self) -> pa.Table:
        """Minimum, mean and maximum by equipment and minute."""
        kinds = [(f"{name}_{kind}", kind) for name in _SUMMED for kind in ("min", "sum", "max")]
        names = ["code", "minute", "readings", *(name for name, _ in kinds)]
        columns = [np.concatenate(parts) for parts in zip(*self._windows, strict=True)]
        sums = pa.table(dict(zip(names, columns, strict=True))).group_by(
            ["code", "minute"], use_threads=False
        ).aggregate([("readings", "sum"), *kinds])  # fmt: skip
        count = sums.column("readings_sum")
        found: dict[str, Any] = {
            "equipment_id": pa.array(list(self._codes)).take(sums.column("code").combine_chunks()),
            "window_start": pc.multiply(sums.column("minute"), _MINUTE_US).cast(UTC_MICROSECONDS),
            "readings": count,
        }
        for name in _SUMMED:
            found[f"{name}_min"] = sums.column(f"{name}_min_min")
            found[f"{name}_mean"] = pc.divide(
                sums.column(f"{name}_sum_sum"), count.cast(pa.float64())
            )
            found[f"{name}_max"] = sums.column(f"{name}_max_max")
        return pa.table(found)


def _numbers(table: pa.Table, name: str) -> npt.NDArray[np.float64]:
    return table.column(name).combine_chunks().to_numpy(zero_copy_only=False)


def _fetched(messages: list[Message]) -> _Fetched:
    payloads = pa.array([message.value() for message in messages], pa.binary())
    raw = pa.table(
        {
            "payload": payloads,
            "key": pa.array([message.key() for message in messages], pa.binary()),
            "partition": pa.array([message.partition() for message in messages], pa.int32()),
            "offset": pa.array([message.offset() for message in messages], pa.int64()),
            "arrived_ms": pa.array([message.timestamp()[1] for message in messages], pa.int64()),
        }
    )
    # JSON is UTF-8: the same buffers, not copied.
    return _Fetched(pa.Array.from_buffers(pa.string(), len(payloads), payloads.buffers()), raw)


def _stage(work: Callable[[], None]) -> threading.Thread:
    """Starts a thread; an error in it ends the process."""

    def guarded() -> None:
        try:
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)

    thread = threading.Thread(target=guarded, daemon=True)
    thread.start()
    return thread


def run(servers: str, topic: str, out: Path) -> int:
    """Reads a topic to its present end, writes files, the archive and a warehouse; counts readings."""
    for name in ("raw", "readings"):
        (out / name).mkdir(parents=True)
    fetched: queue.Queue[_Fetched | None] = queue.Queue(4)
    enriched: queue.Queue[tuple[pa.Table, pa.Table] | None] = queue.Queue(4)
    client = Consumer(
        {
            "bootstrap.servers": servers,
            "group.id": f"best-{uuid.uuid4().hex}",
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "earliest",
            "queued.min.messages": 100_000,
            "queued.max.messages.kbytes": 65_536,
            # Its default, a second, is what most of a backlog's time is lost to.
            "fetch.queue.backoff.ms": 2,
            "fetch.wait.max.ms": 50,
        }
    )
    parts = [
        TopicPartition(topic, p, 0) for p in client.list_topics(topic, 10).topics[topic].partitions
    ]
    ends = {part.partition: client.get_watermark_offsets(part)[1] for part in parts}
    fleet = _Fleet()

    def fetch() -> None:
        client.assign(parts)
        left = sum(ends.values())
        while left > 0:
            messages = client.consume(_BATCH, 0.1)
            if messages:
                left -= len(messages)
                fetched.put(_fetched(messages))
        fetched.put(None)

    def enrich() -> None:
        decode = _Decoder()
        while (batch := fetched.get()) is not None:
            enriched.put((fleet.enrich(decode(batch.payloads)), batch.raw))
        enriched.put(None)

    def write() -> int:
        database = duckdb.connect(str(out / "warehouse.duckdb"), config={"threads": 1})
        database.execute("SET TimeZone = 'UTC'")
        held: list[pa.Table] = []
        rows = files = archived = 0

        def flush() -> None:
            nonlocal files
            table = pa.concat_tables(held)
            held.clear()
            _parquet(table, out / "readings" / f"{files}.parquet")
            database.register("given", table)
            into = "INSERT INTO readings" if files else "CREATE TABLE readings AS"
            database.execute(f"{into} SELECT * FROM given")
            files += 1

        while (pair := enriched.get()) is not None:
            table, raw = pair
            held.append(table)
            rows += table.num_rows
            _parquet(raw, out / "raw" / f"{archived}.parquet")
            archived += 1
            if sum(each.num_rows for each in held) >= _FILE_ROWS:
                flush()
        if held:
            flush()
        windows = fleet.windows()
        _parquet(windows, out / "windows.parquet")
        database.register("given", windows)
        database.execute("CREATE TABLE window_stats AS SELECT * FROM given")
        database.close()
        return rows

    stages = [_stage(fetch), _stage(enrich)]
    written = write()
    for stage in stages:
        stage.join()
    client.commit(
        offsets=[TopicPartition(topic, number, end) for number, end in ends.items()],
        asynchronous=False,
    )
    client.close()
    return written


def _parquet(table: pa.Table, path: Path) -> None:
    pq.write_table(table, path, compression="zstd", compression_level=1)


if __name__ == "__main__":
    print(run(sys.argv[1], sys.argv[2], Path(sys.argv[3])))
