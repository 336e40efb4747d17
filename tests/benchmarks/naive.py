"""The pipeline as one would first write it: one Beam element a message, a dict all the way.

It does the job's work: every message archived, parsed, checked against the same bounds,
identified, put in order, given its time delta, power, integrals and flags; windows summed up;
readings and statistics to Parquet and DuckDB. Its sinks write a bundle at once through Arrow, which
is kinder than a first draft would be.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import math
import time
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import apache_beam as beam
import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam import coders
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.direct.direct_runner import BundleBasedDirectRunner
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.transforms.userstate import ReadModifyWriteStateSpec
from apache_beam.transforms.window import FixedWindows, GlobalWindows, TimestampedValue
from kafka import KafkaConsumer

from pipeline.connect.kafka import KafkaAddress
from pipeline.engines.local import live
from pipeline.engines.polling import Polled, ReadLive
from pipeline.sources.live.watermark import Watermark
from schemas import profiles
from schemas.profiles import Profile
from schemas.reading import COUNTERS, READING
from tests.benchmarks.live_loop import take_all
from tests.benchmarks.span import Span

# A bundle of messages from a topic; kafka-python's own 500 would be slower still.
_BUNDLE = 5_000
_NOT_NEGATIVE = ("test_time_s", "step_time_s", "cycle_index", "step_index", *COUNTERS)


class Archive(beam.DoFn):
    """The messages of a bundle as they came."""

    def __init__(self, out: str) -> None:
        self._out = out

    def start_bundle(self) -> None:
        self._lines: list[str] = []

    def process(self, line: str) -> None:
        self._lines.append(line)

    def finish_bundle(self) -> None:
        path = Path(self._out, f"raw-{uuid.uuid4().hex}.ndjson")
        path.write_text("\n".join(self._lines))


class Parse(beam.DoFn):
    """A message to a dict of the reading's fields."""

    def process(self, line: str) -> Iterable[Any]:
        try:
            message = json.loads(line)
            at = dt.datetime.fromisoformat(message["recorded_at"])
            reading = {field.name: message.get(field.name) for field in READING.fields}
            reading["recorded_at"] = at
            if message.get("streamed_at"):
                reading["streamed_at"] = dt.datetime.fromisoformat(message["streamed_at"])
            extra = {key: value for key, value in message.items() if key not in reading}
            reading["extra"] = json.dumps(extra) if extra else None
            yield reading
        except (ValueError, KeyError, TypeError):
            yield beam.pvalue.TaggedOutput("dead", line)


class Validate(beam.DoFn):
    """Bounds, flags of single readings, identity."""

    def __init__(self) -> None:
        self._profiles: tuple[Profile, ...] = profiles.load()
        self._known: dict[str, Profile] = {}

    def process(self, reading: dict[str, Any]) -> Iterable[Any]:
        name = reading["equipment_id"]
        profile = self._known.get(name)
        if profile is None:
            found = profiles.choose(self._profiles, name, reading["equipment_type"])
            assert found is not None
            profile = self._known[name] = found
        volts, amps = reading["voltage_v"], reading["current_a"]
        highest = profile.reject_current or math.inf
        if (
            not isinstance(volts, int | float)
            or not isinstance(amps, int | float)
            or not math.isfinite(volts)
            or not math.isfinite(amps)
            or abs(volts) > profile.reject_voltage_v
            or abs(amps) > highest
            or any((reading[field] or 0) < 0 for field in _NOT_NEGATIVE)
        ):
            yield beam.pvalue.TaggedOutput("dead", json.dumps(reading, default=str))
            return
        flags = []
        margin = profile.voltage_margin_v
        if profile.v_min_v is not None and volts < profile.v_min_v - margin:
            flags.append("voltage_out_of_range")
        if profile.v_max_v is not None and volts > profile.v_max_v + margin:
            flags.append("voltage_out_of_range")
        if profile.rated_current_a and abs(amps) > profile.rated_current_a * profile.current_margin:
            flags.append("current_out_of_range")
        key = (name, reading["recorded_at"], reading["test_time_s"], reading["record_index"])
        yield {
            **reading,
            "internal_resistance_ohm": reading["internal_resistance_ohm"] or None,
            "reading_id": hashlib.md5(repr(key).encode()).hexdigest(),
            "power_watt": volts * amps,
            "quality_flags": flags,
            "ingested_at": dt.datetime.now(dt.UTC),
        }


class Order(beam.DoFn):
    """A window's readings in order, with what depends on the one before."""

    LAST = ReadModifyWriteStateSpec("last", coders.PickleCoder())

    def process(
        self,
        element: tuple[str, Iterable[dict[str, Any]]],
        last: Any = beam.DoFn.StateParam(LAST),
    ) -> Iterable[dict[str, Any]]:
        previous, seen = last.read(), set()
        for known in sorted(element[1], key=lambda r: (r["recorded_at"], r["test_time_s"] or 0.0)):
            if known["reading_id"] in seen:
                continue
            seen.add(known["reading_id"])
            reading = {**known, "charge_ah": 0.0, "discharge_ah": 0.0,
                       "charge_wh": 0.0, "discharge_wh": 0.0, "time_delta_s": None}  # fmt: skip
            if previous is not None:
                delta = (reading["recorded_at"] - previous["recorded_at"]).total_seconds()
                reading["time_delta_s"] = delta
                hours = delta / 3600.0
                for field, into, out_of in (
                    ("current_a", "charge_ah", "discharge_ah"),
                    ("power_watt", "charge_wh", "discharge_wh"),
                ):
                    mean = reading[field]
                    if reading["step_index"] == previous["step_index"]:
                        mean = (mean + previous[field]) / 2.0
                    reading[into if mean > 0 else out_of] = abs(mean) * hours
                flags = reading["quality_flags"]
                if delta > 120.0:
                    flags = [*flags, "gap"]
                for counter in COUNTERS:
                    now, before = reading[counter], previous[counter]
                    if now is not None and before is not None:
                        if now < before:
                            flags = [*flags, "counter_reset"]
                        elif now - before > abs(reading["current_a"]) * hours + 0.01:
                            flags = [*flags, "counter_jump"]
                reading["quality_flags"] = sorted(set(flags))
            previous = reading
            yield reading
        last.write(previous)


class Summarise(beam.DoFn):
    """Count, minimum, mean and maximum, and the integrals, of one equipment and window."""

    def process(
        self, element: tuple[tuple[str, int], Iterable[dict[str, Any]]]
    ) -> Iterable[dict[str, Any]]:
        readings = list(element[1])
        row: dict[str, Any] = {"equipment_id": element[0][0], "window_start": element[0][1],
                               "readings": len(readings)}  # fmt: skip
        for field in ("voltage_v", "current_a", "temperature_c"):
            values = [r[field] for r in readings if r[field] is not None]
            row |= {f"{field}_min": min(values), f"{field}_max": max(values),
                    f"{field}_mean": sum(values) / len(values)}  # fmt: skip
        for field in ("charge_ah", "discharge_ah", "charge_wh", "discharge_wh"):
            row[field] = sum(r[field] for r in readings)
        yield row


class Write(beam.DoFn):
    """A Parquet file and a DuckDB transaction per bundle."""

    def __init__(self, out: str, table: str, columns: tuple[str, ...] | None = None) -> None:
        self._out = out
        self._table = table
        self._columns = columns

    def start_bundle(self) -> None:
        self._rows: list[dict[str, Any]] = []

    def process(self, row: dict[str, Any]) -> None:
        if self._columns:
            row = {name: row[name] for name in self._columns}
        self._rows.append(row)

    def finish_bundle(self) -> None:
        if not self._rows:
            return
        rows = pa.Table.from_pylist(self._rows)
        path = Path(self._out, f"{self._table}-{uuid.uuid4().hex}.parquet")
        pq.write_table(rows, path, compression="zstd")
        with duckdb.connect(str(Path(self._out, "naive.duckdb"))) as database:
            database.register("incoming", rows)
            table = self._table
            database.execute(f"CREATE TABLE IF NOT EXISTS {table} AS FROM incoming LIMIT 0")
            database.execute(f"INSERT INTO {table} FROM incoming")


class _Polled:
    """A topic's messages for the local streaming runner, one element each.

    Args:
        address: the topic.
        messages: how many.
        span: begins with the first one.
    """

    def __init__(self, address: KafkaAddress, messages: int, span: Span) -> None:
        self._left = messages
        self._span = span
        self._watermark = Watermark(5_000_000)
        self._client = KafkaConsumer(bootstrap_servers=address.servers, metrics_enabled=False)
        take_all(self._client, address.topic)
        self._watermark.keep([part.partition for part in self._client.assignment()])

    def settled(self, before_us: int) -> None:
        """Commits nothing: it is not what is measured."""

    def poll(self) -> Polled:
        """Up to a bundle of messages."""
        lines: list[Any] = []
        if self._left:
            found = self._client.poll(timeout_ms=100, max_records=min(_BUNDLE, self._left))
            for part, records in found.items():
                self._span.begin()
                lines += [record.value.decode() for record in records]
                latest = dt.datetime.fromisoformat(json.loads(lines[-1])["recorded_at"])
                self._watermark.saw(part.partition, int(latest.timestamp() * 1e6))
            self._left -= len(lines)
        at = self._watermark.at(time.time_ns() // 1000)
        return Polled(lines, max(at, 0), done=not self._left and not lines)


def run(source: Path, out: Path) -> int:
    """Takes an NDJSON file to Parquet and DuckDB; returns how many readings there were."""
    pipeline = beam.Pipeline(runner=FnApiRunner())
    _build(pipeline | beam.io.ReadFromText(str(source)), out)
    pipeline.run().wait_until_finish()
    return _written(out)


def run_live(address: KafkaAddress, messages: int, out: Path, span: Span) -> int:
    """Takes so many messages of a topic there, live; returns how many readings there were."""
    live.install()
    options = PipelineOptions([], streaming=True)
    pipeline = beam.Pipeline(runner=BundleBasedDirectRunner(), options=options)
    read = pipeline | ReadLive("Topic", _Polled(address, messages, span))
    _build(read | "Lines" >> beam.Map(lambda line: line).with_output_types(str), out)
    pipeline.run().wait_until_finish()
    span.end()
    return _written(out)


def _build(lines: beam.PCollection, out: Path) -> None:
    _ = lines | "Archive" >> beam.ParDo(Archive(str(out)))
    parsed = lines | "Parse" >> beam.ParDo(Parse()).with_outputs("dead", main="readings")
    valid = parsed.readings | "Validate" >> beam.ParDo(Validate()).with_outputs(
        "dead", main="readings"
    )
    ordered = (
        valid.readings
        | "Key"
        >> beam.Map(
            lambda r: TimestampedValue((r["equipment_id"], r), r["recorded_at"].timestamp())
        )
        | beam.WindowInto(FixedWindows(60))
        | "Windows" >> beam.GroupByKey()
        | "Global" >> beam.WindowInto(GlobalWindows())
        | "Order" >> beam.ParDo(Order())
    )
    _ = ordered | "Write" >> beam.ParDo(Write(str(out), "readings", tuple(READING.names)))
    _ = (
        ordered
        | "KeyStats"
        >> beam.Map(lambda r: ((r["equipment_id"], int(r["recorded_at"].timestamp()) // 60), r))
        | "Minutes" >> beam.WindowInto(FixedWindows(60))
        | "PerWindow" >> beam.GroupByKey()
        | "Summarise" >> beam.ParDo(Summarise())
        | "WriteStats" >> beam.ParDo(Write(str(out), "window_stats"))
    )


def _written(out: Path) -> int:
    with duckdb.connect(str(out / "naive.duckdb"), read_only=True) as database:
        found = database.execute("SELECT count(*) FROM readings").fetchall()
    return int(found[0][0])
