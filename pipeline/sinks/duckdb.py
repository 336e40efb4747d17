"""The DuckDB warehouse: one file, written by one worker at a time, where a replay changes nothing."""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import apache_beam as beam
import duckdb
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.metrics import Metrics

from pipeline.errors import ConfigError
from pipeline.sinks import Produced, Sink
from pipeline.sinks.background import Background
from schemas import forms, profiles
from schemas.profiles import Profile
from schemas.reading import (
    DEAD_LETTER,
    EQUIPMENT_PROFILE,
    READING,
    TABLES,
    WINDOW_STATS,
    Table,
)

# Rows gathered before they are written: a transaction and a join against what is there cost
# more than the rows do.
_FLUSH_ROWS = 150_000
_FLUSH_BYTES = 64 * 1024 * 1024
# How long another program may keep the file open before the job gives up.
_PATIENCE_S = 60.0
# How long the file stays open without being written, and at most.
_IDLE_S = 1.0
_HELD_S = 5.0
_SETTINGS: dict[str, str | bool | int | float | list[str]] = {
    "memory_limit": "256MB",
    "preserve_insertion_order": "true",
}


class Busy(RuntimeError):
    """Another program holds the warehouse's file."""


class Warehouse:
    """A warehouse's file, open for writing as long as there is something to write.

    DuckDB lets one process write. Workers of the job take turns by a lock beside the file; a
    program that is not ours (a shell, a notebook) is waited for. Opening and closing costs more
    than the rows of a window do, so the file stays open until nothing has come for a second, and
    no longer than some seconds, so that others get at it.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._turn = threading.Lock()
        self._lock: BinaryIO | None = None
        self._database: duckdb.DuckDBPyConnection | None = None
        self._opened_at = self._used_at = 0.0
        self._openings = 0

    @contextlib.contextmanager
    def borrowed(self, patience_s: float = _PATIENCE_S) -> Iterator[duckdb.DuckDBPyConnection]:
        """The file, for one thread at a time.

        Raises:
            Busy: another program kept it open for `patience_s`.
        """
        with self._turn:
            database = self._database or self._open(patience_s)
            try:
                yield database
            except BaseException:
                self._close()
                raise
            self._used_at = time.monotonic()
            if self._used_at - self._opened_at > _HELD_S:
                self._close()

    def close(self) -> None:
        """Lets others get at the file."""
        with self._turn:
            self._close()

    def _open(self, patience_s: float) -> duckdb.DuckDBPyConnection:
        self._lock = Path(f"{self._path}.lock").open("wb")  # noqa: SIM115 - held while it is open
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        try:
            self._database = _open(self._path, patience_s)
        except BaseException:
            self._close()
            raise
        self._opened_at = time.monotonic()
        self._openings += 1
        closer = threading.Thread(target=self._close_idle, args=(self._openings,), daemon=True)
        closer.start()
        return self._database

    def _close(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _close_idle(self, opening: int) -> None:
        while True:
            time.sleep(_IDLE_S / 2)
            with self._turn:
                if self._database is None or self._openings != opening:
                    return
                if time.monotonic() - max(self._used_at, self._opened_at) >= _IDLE_S:
                    self._close()
                    return


# One per file and process: DoFns come and go.
_warehouses: dict[str, Warehouse] = {}
_making = threading.Lock()


def warehouse(path: str) -> Warehouse:
    """The warehouse in a file."""
    with _making:
        return _warehouses.setdefault(path, Warehouse(path))


@contextlib.contextmanager
def connection(path: str, patience_s: float = _PATIENCE_S) -> Iterator[duckdb.DuckDBPyConnection]:
    """The warehouse, open for writing; closed again at the end.

    Raises:
        Busy: another program kept the file open for `patience_s`.
    """
    alone = Warehouse(path)
    try:
        with alone.borrowed(patience_s) as database:
            yield database
    finally:
        alone.close()


def _open(path: str, patience_s: float) -> duckdb.DuckDBPyConnection:
    give_up = time.monotonic() + patience_s
    while True:
        try:
            database = duckdb.connect(path, config=_SETTINGS)
            # Only known once the time zone extension is loaded, so not a setting of connect.
            _run(database, "SET TimeZone = 'UTC'")
            return database
        except duckdb.IOException as error:
            if "Could not set lock" not in str(error):
                raise
            if time.monotonic() > give_up:
                raise Busy(
                    f"--warehouse=duckdb:{path}: another program keeps the file open; close it "
                    "(a DuckDB shell or notebook), or connect there with read_only=True"
                ) from error
            time.sleep(0.1)


def insert_new(database: duckdb.DuckDBPyConnection, table: Table, rows: pa.Table) -> int:
    """Inserts the rows whose key is not there yet; returns how many those were.

    What is there is looked for only in the time span of `rows`, which DuckDB finds by the
    column's min and max per row group. Of two copies of a reading that came from different files
    the one of the first file (by name) stays, whichever came first.
    """
    names = ", ".join(table.names)
    when = table.partition
    database.register("incoming", rows)
    try:
        low, high = _span(rows, when)
        _run(
            database,
            f"""CREATE OR REPLACE TEMP TABLE known AS
            SELECT {table.key}, {_provenance(table)} FROM {table.name}
            WHERE {when} BETWEEN $1 AND $2
              AND {table.key} IN (SELECT {table.key} FROM incoming)""",  # noqa: S608
            [low, high],
        )
        known = _count(database, "known")
        if not known:
            return _number(
                database,
                f"INSERT INTO {table.name} ({names}) SELECT {names} FROM incoming",  # noqa: S608
            )
        if table == READING:
            _prefer_first_file(database, table, low, high)
        return _number(
            database,
            f"""INSERT INTO {table.name} ({names}) SELECT {names} FROM incoming
            WHERE {table.key} NOT IN (SELECT {table.key} FROM known)""",  # noqa: S608
        )
    finally:
        # In a transaction that failed not even that works, and what failed must be told.
        with contextlib.suppress(duckdb.Error):
            database.unregister("incoming")


def _provenance(table: Table) -> str:
    return "source_file" if table == READING else "NULL AS source_file"


def _span(rows: pa.Table, column: str | None) -> tuple[object, object]:
    assert column is not None
    found = pc.min_max(rows.column(column))
    return found["min"].as_py(), found["max"].as_py()


def _count(database: duckdb.DuckDBPyConnection, name: str) -> int:
    return _number(database, f"SELECT count(*) FROM {name}")  # noqa: S608


def _number(database: duckdb.DuckDBPyConnection, sql: str) -> int:
    """The one number a statement answers with; an INSERT's is how many rows went in."""
    return int(str(_run(database, sql)[0][0]))


def _run(
    database: duckdb.DuckDBPyConnection, sql: str, values: Sequence[object] = ()
) -> list[tuple[object, ...]]:
    """Executes one statement to its end: DuckDB refuses others while a result is open."""
    return database.execute(sql, list(values)).fetchall()


def _prefer_first_file(
    database: duckdb.DuckDBPyConnection, table: Table, low: object, high: object
) -> None:
    """Makes room for copies from an earlier-named file, so that the order of runs is no matter."""
    _run(
        database,
        """CREATE OR REPLACE TEMP TABLE weaker AS
        SELECT known.reading_id FROM known JOIN incoming USING (reading_id)
        WHERE incoming.source_file < known.source_file""",
    )
    if _count(database, "weaker"):
        _run(
            database,
            f"""DELETE FROM {table.name} WHERE {table.partition} BETWEEN $1 AND $2
            AND {table.key} IN (SELECT reading_id FROM weaker)""",  # noqa: S608
            [low, high],
        )
        _run(database, "DELETE FROM known WHERE reading_id IN (SELECT reading_id FROM weaker)")


def _insert(path: str, table: Table, rows: pa.Table) -> tuple[int, int]:
    """Inserts in one transaction; returns how many rows were new and how many there already."""
    with warehouse(path).borrowed() as database:
        database.begin()
        inserted = insert_new(database, table, rows)
        database.commit()
    return inserted, int(rows.num_rows) - inserted


class _Insert(beam.DoFn):
    """Gathers a bundle's rows and inserts them, many to a transaction."""

    def __init__(self, path: str, table: Table) -> None:
        self._path = path
        self._table = table
        self._held: list[pa.Table] = []
        self._rows = self._bytes = 0
        self._background: Background | None = None
        self._inserted = Metrics.counter("duckdb", f"{table.name}_inserted")
        self._known = Metrics.counter("duckdb", f"{table.name}_already_there")

    def setup(self) -> None:
        if self._background is None:
            self._background = Background(threads=1, waiting=1)

    def start_bundle(self) -> None:
        self._clear()

    def process(self, rows: pa.Table) -> None:
        self._held.append(rows)
        self._rows += rows.num_rows
        self._bytes += rows.nbytes
        if self._rows >= _FLUSH_ROWS or self._bytes >= _FLUSH_BYTES:
            self._flush()

    def finish_bundle(self) -> None:
        self._flush()
        assert self._background is not None
        for inserted, known in self._background.drain():
            self._inserted.inc(inserted)
            self._known.inc(known)

    def _clear(self) -> None:
        self._held, self._rows, self._bytes = [], 0, 0

    def _flush(self) -> None:
        if self._held:
            assert self._background is not None
            self._background.submit(_insert, self._path, self._table, pa.concat_tables(self._held))
            self._clear()


class DuckDBSink(Sink):
    """Tables `readings`, `dead_letters`, `window_stats` and `equipment_profiles` in one file."""

    def __init__(self, path: str, used: Sequence[Profile], label: str = "DuckDB") -> None:
        self._path = path
        self._label = label
        self._profiles = tuple(used)

    def check(self) -> None:
        """Finds out whether the file, if there is one, can be written and has the right tables."""
        self._check_path()
        path = Path(self._path)
        with self._told():
            if path.exists():
                with connection(self._path, patience_s=5.0) as database:
                    shown = _run(database, "SELECT table_name FROM duckdb_tables()")
                    there = {str(name) for (name,) in shown}
                    for table in TABLES:
                        if table.name in there:
                            self._missing(database, table)
                return
            folder = next(parent for parent in path.absolute().parents if parent.exists())
            if not (folder.is_dir() and os.access(folder, os.W_OK)):
                raise OSError(f"{folder} can't be written")

    def prepare(self) -> None:
        """Makes the file and its tables, adds columns an older file lacks, writes the profiles."""
        self._check_path()
        with self._told():
            Path(self._path).parent.mkdir(parents=True, exist_ok=True)
            with connection(self._path, patience_s=5.0) as database:
                database.begin()
                for table in TABLES:
                    _run(database, forms.duckdb_ddl(table))
                    for name, kind in self._missing(database, table).items():
                        _run(database, f"ALTER TABLE {table.name} ADD COLUMN {name} {kind}")
                self._write_profiles(database)
                database.commit()

    def _check_path(self) -> None:
        if not self._path or self._path == ":memory:":
            raise ConfigError(
                "--warehouse=duckdb: needs a file, such as duckdb:./data/warehouse.duckdb"
            )

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except Busy as error:
            raise ConfigError(str(error)) from error
        except (duckdb.Error, OSError) as error:
            raise ConfigError(
                f"--warehouse=duckdb:{self._path}: can't be used as a DuckDB file "
                f"({str(error).splitlines()[0]}); give another path"
            ) from error

    def _missing(self, database: duckdb.DuckDBPyConnection, table: Table) -> dict[str, str]:
        """The columns that an older table lacks; ConfigError where one has another type."""
        described = _run(database, f"DESCRIBE {table.name}")
        there = {str(row[0]): str(row[1]) for row in described}
        spelled = {"TIMESTAMPTZ": "TIMESTAMP WITH TIME ZONE"}
        types = forms.duckdb_types(table)
        for name, kind in types.items():
            if there.get(name, kind) not in (kind, spelled.get(kind)):
                raise ConfigError(
                    f"--warehouse=duckdb:{self._path}: column {table.name}.{name} is "
                    f"{there[name]} and should be {kind}; rename the table or give another path"
                )
        return {name: kind for name, kind in types.items() if name not in there}

    def _write_profiles(self, database: duckdb.DuckDBPyConnection) -> None:
        rows = pa.Table.from_pylist(
            profiles.rows(self._profiles), schema=forms.arrow_schema(EQUIPMENT_PROFILE)
        )
        database.register("incoming", rows)
        _run(
            database,
            "DELETE FROM equipment_profiles WHERE profile IN (SELECT profile FROM incoming)",
        )
        names = ", ".join(EQUIPMENT_PROFILE.names)
        _run(
            database,
            f"INSERT INTO equipment_profiles ({names}) SELECT {names} FROM incoming",  # noqa: S608
        )
        database.unregister("incoming")

    def write(self, produced: Produced) -> None:
        """Adds the steps that insert readings and window statistics."""
        self._insert(READING, produced.readings)
        self._insert(WINDOW_STATS, produced.window_stats)

    def write_dead_letters(self, letters: beam.PCollection) -> None:
        """Adds the step that inserts dead letters."""
        self._insert(DEAD_LETTER, letters)

    def _insert(self, table: Table, rows: beam.PCollection) -> None:
        _ = rows | f"{self._label}_{table.name}" >> beam.ParDo(_Insert(self._path, table))

    def finish(self) -> None:
        """Closes the file."""
        warehouse(self._path).close()
