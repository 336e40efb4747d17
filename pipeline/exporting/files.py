"""Writes a test's file and its metadata file: each whole or not at all."""

from __future__ import annotations

import contextlib
import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv

from pipeline.exporting.columns import Column, of, variables
from pipeline.exporting.options import CSV, Export
from pipeline.exporting.selection import ExportedTest, started
from pipeline.safe_open import fresh
from schemas import bdf

# Rows of one row group: the same whatever came before in the same run.
_GROUP = 100_000


def path_of(test: ExportedTest, export: Export) -> Path:
    """Where the test's file goes."""
    return export.out / f"{test.name}.bdf.{export.kind}"


def metadata_path(data: Path) -> Path:
    """Where the metadata of a file stands: next to it, under the name the format reserves."""
    return data.with_suffix(".metadata.json")


class OneFile(ABC):
    """The file of one test in the making; hidden until it is complete.

    Attributes:
        path: where it will be.
        rows: written so far.
    """

    def __init__(self, test: ExportedTest, export: Export) -> None:
        self.path = path_of(test, export)
        self.rows = 0
        self._test = test
        self._columns = of(test, export.machine_names, exact=export.kind == CSV)
        self._partial = self.path.with_name(f".{self.path.name}.partial")

    def write(self, readings: pa.Table) -> None:
        """Adds readings of the test, which come in their order."""
        arrays = [column.values(readings) for column in self._columns]
        self._write(pa.table(arrays, schema=_schema(self._columns)))
        self.rows += readings.num_rows

    def finish(self) -> int:
        """Puts the metadata file and the file in their places; returns their bytes."""
        self._close()
        target = metadata_path(self.path)
        told = json.dumps(metadata(self._test, self._columns), ensure_ascii=False, indent=2)
        hidden = target.with_name(f".{target.name}.partial")
        with fresh(hidden) as file:
            file.write(f"{told}\n".encode())
        size = self._partial.stat().st_size + hidden.stat().st_size
        hidden.replace(target)
        self._partial.replace(self.path)
        return size

    def abandon(self) -> None:
        """Leaves nothing of a file that can't be completed."""
        with contextlib.suppress(Exception):
            self._close()
        self._partial.unlink(missing_ok=True)
        hidden = metadata_path(self.path)
        hidden.with_name(f".{hidden.name}.partial").unlink(missing_ok=True)

    @abstractmethod
    def _write(self, table: pa.Table) -> None: ...

    @abstractmethod
    def _close(self) -> None: ...


class _Csv(OneFile):
    def __init__(self, test: ExportedTest, export: Export) -> None:
        super().__init__(test, export)
        self._handle = fresh(self._partial)
        # No header has a comma or a quote: written plainly, as the format's examples are.
        self._handle.write(",".join(column.header for column in self._columns).encode() + b"\n")
        self._csv = csv.CSVWriter(
            self._handle,
            _schema(self._columns),
            write_options=csv.WriteOptions(include_header=False),
        )

    def _write(self, table: pa.Table) -> None:
        self._csv.write_table(table)

    def _close(self) -> None:
        self._csv.close()
        self._handle.close()


class _Parquet(OneFile):
    def __init__(self, test: ExportedTest, export: Export) -> None:
        super().__init__(test, export)
        told = metadata(test, self._columns)
        schema = _schema(self._columns, variables(self._columns, test)).with_metadata(
            {"bdf_version": bdf.VERSION, "bdf_metadata": json.dumps(told, ensure_ascii=False)}
        )
        self._schema = schema
        self._waiting: list[pa.Table] = []
        self._handle = fresh(self._partial)
        self._parquet = pq.ParquetWriter(self._handle, schema, compression="zstd")

    def _write(self, table: pa.Table) -> None:
        self._waiting.append(table.cast(self._schema))
        while sum(part.num_rows for part in self._waiting) >= _GROUP:
            whole = pa.concat_tables(self._waiting)
            self._parquet.write_table(whole.slice(0, _GROUP), row_group_size=_GROUP)
            self._waiting = [whole.slice(_GROUP)]

    def _close(self) -> None:
        if any(part.num_rows for part in self._waiting):
            self._parquet.write_table(pa.concat_tables(self._waiting), row_group_size=_GROUP)
        self._waiting = []
        self._parquet.close()
        self._handle.close()


def create(test: ExportedTest, export: Export) -> OneFile:
    """The file of a test, of the kind that is asked for."""
    return (_Csv if export.kind == CSV else _Parquet)(test, export)


def _schema(columns: list[Column], told: dict[str, dict[str, str]] | None = None) -> pa.Schema:
    return pa.schema(
        [
            pa.field(column.header, column.type, metadata=(told or {}).get(column.header))
            for column in columns
        ]
    )


def metadata(test: ExportedTest, columns: list[Column]) -> dict[str, Any]:
    """What a file says of itself besides its table; the same for the same readings.

    The format's package 0.2 reads this shape: records of the BattINFO vocabulary for the test and
    the cell, and `extras` for what these have no place for.
    """
    record: dict[str, Any] = {
        "name": test.test_id or test.name,
        "started_at": test.begun_us // 1_000_000,
        "ended_at": test.ended_us // 1_000_000,
    }
    if test.test_id is not None:
        record["identifier"] = test.test_id
    return {
        "battinfo_test": {"test": record},
        "battinfo_cell": {"cell_instance": {"name": test.equipment_id}},
        "extras": {
            "bdf_version": bdf.VERSION,
            "columns": variables(columns, test),
            "equipment_id": test.equipment_id,
            "test_id": test.test_id,
            "started_at": started(test.begun_us).isoformat(),
            "ended_at": started(test.ended_us).isoformat(),
            "readings": test.rows,
            "source_files": list(test.source_files),
            "quality_flags": dict(test.flags),
            "in_doubt": list(test.doubts),
        },
    }
