"""The pipeline as one would first write it: one Beam element a message, a dict all the way."""

from __future__ import annotations

import datetime as dt
import json
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import apache_beam as beam
import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.transforms.window import FixedWindows, TimestampedValue

FIELDS = (
    "equipment_id", "equipment_type", "test_id", "recorded_at", "record_index", "test_time_s",
    "step_time_s", "cycle_index", "step_index", "voltage_v", "current_a", "charge_capacity_ah",
    "discharge_capacity_ah", "charge_energy_wh", "discharge_energy_wh",
    "internal_resistance_ohm", "temperature_c", "ambient_temperature_c", "power_watt",
    "time_delta_s",
)  # fmt: skip


class Parse(beam.DoFn):
    def process(self, line: str) -> Iterable[Any]:
        try:
            reading = json.loads(line)
            reading["at"] = dt.datetime.fromisoformat(reading["recorded_at"]).timestamp()
        except (ValueError, KeyError):
            return
        if -10 <= reading["voltage_v"] <= 10 and abs(reading["current_a"]) <= 1000:
            reading["power_watt"] = reading["voltage_v"] * reading["current_a"]
            yield TimestampedValue((reading["equipment_id"], reading), reading["at"])


class Deltas(beam.DoFn):
    def process(self, element: tuple[str, Iterable[dict[str, Any]]]) -> Iterable[dict[str, Any]]:
        previous = None
        for reading in sorted(element[1], key=lambda reading: reading["at"]):
            at = reading.pop("at")
            reading["time_delta_s"] = None if previous is None else at - previous
            previous = at
            yield reading


class Stats(beam.DoFn):
    def process(
        self, element: tuple[str, Iterable[dict[str, Any]]], window: Any = beam.DoFn.WindowParam
    ) -> Iterable[tuple[Any, ...]]:
        volts = [reading["voltage_v"] for reading in element[1]]
        yield (element[0], float(window.start), len(volts), min(volts), max(volts),
               sum(volts) / len(volts))  # fmt: skip


class Write(beam.DoFn):
    """A Parquet file and a DuckDB transaction per bundle, rows as they come."""

    def __init__(self, out: str) -> None:
        self._out = out

    def start_bundle(self) -> None:
        self._rows: list[dict[str, Any]] = []

    def process(self, reading: dict[str, Any]) -> None:
        self._rows.append(reading)

    def finish_bundle(self) -> None:
        if not self._rows:
            return
        rows = pa.Table.from_pylist([{name: r.get(name) for name in FIELDS} for r in self._rows])
        pq.write_table(rows, Path(self._out, f"{uuid.uuid4().hex}.parquet"), compression="zstd")
        with duckdb.connect(str(Path(self._out, "naive.duckdb"))) as database:
            database.register("incoming", rows)
            database.execute("CREATE TABLE IF NOT EXISTS readings AS FROM incoming LIMIT 0")
            database.execute("INSERT INTO readings FROM incoming")


def run(source: Path, out: Path) -> int:
    """Takes an NDJSON file to Parquet and DuckDB; returns how many readings there were."""
    pipeline = beam.Pipeline(runner=FnApiRunner())
    windows = (
        pipeline
        | beam.io.ReadFromText(str(source))
        | "Parse" >> beam.ParDo(Parse())
        | beam.WindowInto(FixedWindows(60))
        | beam.GroupByKey()
    )
    _ = windows | "Stats" >> beam.ParDo(Stats())
    _ = windows | "Deltas" >> beam.ParDo(Deltas()) | "Write" >> beam.ParDo(Write(str(out)))
    pipeline.run().wait_until_finish()
    with duckdb.connect(str(out / "naive.duckdb"), read_only=True) as database:
        found = database.execute("SELECT count(*) FROM readings").fetchall()
    return int(found[0][0])
