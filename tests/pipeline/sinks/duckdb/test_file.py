"""The warehouse's one file: who may have it open when, and what a killed writer leaves."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apache_beam as beam
import duckdb
import pyarrow as pa
import pytest
from apache_beam.metrics.metric import MetricsFilter
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from pipeline.errors import ConfigError, WarehouseFailed
from pipeline.sinks import Produced
from pipeline.sinks.base import waiting
from pipeline.sinks.duckdb import (
    Busy,
    DuckDBSink,
    Warehouse,
    connection,
    file,
    insert_new,
    sink,
    warehouse,
)
from schemas import forms
from schemas.reading import CYCLE_SUMMARY, READING, TABLES, TEST_DIALECT, WINDOW_STATS, Kind, Table
from tests.messages import PROFILES, START
from tests.running import limited_file_size

ROOT = Path(__file__).parents[4]


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "warehouse.duckdb")


@pytest.fixture
def held(path: str) -> Iterator[Warehouse]:
    found = Warehouse(path)
    yield found
    found.close()


def eventually(condition: Callable[[], Any], seconds: float = 10.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.02)


def put(held: Warehouse, number: int) -> None:
    with held.borrowed() as database:
        database.execute("CREATE TABLE IF NOT EXISTS t (n INTEGER)")
        database.execute("INSERT INTO t VALUES (?)", [number])


def elsewhere(path: str) -> subprocess.CompletedProcess[str]:
    """Another process reads the table."""
    code = """
import sys, duckdb
database = duckdb.connect(sys.argv[1], read_only=True)
print(database.execute("SELECT list(n) FROM t").fetchone()[0])
"""
    return subprocess.run(
        [sys.executable, "-c", code, path],
        capture_output=True, check=False, text=True, timeout=60,
    )  # fmt: skip


def read(path: str) -> list[int]:
    """What another process finds there."""
    ended = elsewhere(path)
    assert ended.returncode == 0, ended.stderr
    found: list[int] = json.loads(ended.stdout)
    return found


@contextmanager
def shell(path: str) -> Iterator[subprocess.Popen[str]]:
    """Somebody else's DuckDB shell that keeps the file open."""
    code = "import sys, duckdb; d = duckdb.connect(sys.argv[1]); print('open', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code, path],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    ) as other:  # fmt: skip
        assert other.stdout is not None and other.stdout.readline() == "open\n"
        try:
            yield other
        finally:
            other.kill()


# --- removed, replaced, full ---------------------------------------------------------------------


def insert(held: Warehouse, number: int) -> None:
    held.write(lambda database: database.execute("INSERT INTO t VALUES (?)", [number]))


@pytest.mark.parametrize("replaced", [False, True])
@pytest.mark.parametrize("closed", [False, True])
def test_a_file_that_is_removed_or_replaced_is_not_written(
    held: Warehouse, path: str, replaced: bool, closed: bool
) -> None:
    put(held, 1)
    if closed:
        held.close()
    else:
        insert(held, 2)
    Path(path).rename(f"{path}.moved")
    if replaced:
        with duckdb.connect(f"{path}.other") as other:
            other.execute("CREATE TABLE t (n INTEGER)")
        Path(f"{path}.other").rename(path)
    told = "replaced by another" if replaced else "removed"
    for _ in range(2):
        with pytest.raises(WarehouseFailed, match=rf"^--warehouse=duckdb:{path}: .*{told} while"):
            insert(held, 3)
        with pytest.raises(WarehouseFailed, match=told):
            held.check()
    assert Path(path).exists() is replaced
    assert read(f"{path}.moved") == ([1] if closed else [1, 2])
    if replaced:
        held.close()
        assert duckdb.connect(path, read_only=True).sql("FROM t").fetchall() == []


def test_a_job_whose_file_is_removed_at_its_very_end_fails(path: str) -> None:
    target = DuckDBSink(path, PROFILES)
    target.prepare()
    target.complete()
    target.finish()
    target.prepare()
    Path(path).unlink()
    Path(path).touch()  # another of that name, which must not have its number either
    with pytest.raises(WarehouseFailed, match="replaced by another while the job wrote"):
        target.complete()
    Path(path).unlink()
    target.prepare()  # another run makes it
    target.complete()
    target.finish()


def test_a_lock_that_was_removed_is_asked_for_again(held: Warehouse, path: str) -> None:
    put(held, 1)
    Path(f"{path}.lock").unlink()
    held.close()
    put(held, 2)
    assert Path(f"{path}.lock").exists()


def test_a_full_disk_is_told_in_one_line_with_the_file(held: Warehouse, path: str) -> None:
    put(held, 1)
    held.close()
    with (
        limited_file_size(Path(path).stat().st_size + 100_000),
        pytest.raises(WarehouseFailed) as raised,
    ):
        held.write(
            lambda database: database.execute(
                "INSERT INTO t SELECT random() * 1e9 FROM range(1000000)"
            )
        )
    said = str(raised.value)
    assert said.startswith(f"--warehouse=duckdb:{path}: can't be written (") and "\n" not in said
    assert "; raise the limit on the size of a file (ulimit -f), then run the job again" in said
    assert read(path) == [1]


# --- open and closed ----------------------------------------------------------------------------


def test_it_stays_open_while_it_is_used(held: Warehouse, path: str, monkeypatch: Any) -> None:
    monkeypatch.setattr(file, "_IDLE_S", 60.0)
    with held.borrowed() as first:
        assert first.execute("SELECT current_setting('TimeZone')").fetchone() == ("UTC",)
    with held.borrowed() as second:
        assert second is first
    put(held, 1)
    there = elsewhere(path)
    assert there.returncode and "lock" in there.stderr


def test_others_get_at_it_when_nothing_comes(held: Warehouse, path: str, monkeypatch: Any) -> None:
    monkeypatch.setattr(file, "_IDLE_S", 0.2)
    put(held, 1)
    put(held, 2)
    eventually(lambda: held._database is None)
    assert read(path) == [1, 2]
    put(held, 3)  # and it opens again
    held.close()
    assert read(path) == [1, 2, 3]


def test_it_is_not_idle_between_two_writes_close_to_each_other(
    held: Warehouse, monkeypatch: Any
) -> None:
    monkeypatch.setattr(file, "_IDLE_S", 0.8)
    put(held, 0)
    first = held._database
    for number in range(15):
        time.sleep(0.1)
        put(held, number)
    assert held._database is first is not None


def test_it_is_closed_now_and_then_however_much_comes(held: Warehouse, monkeypatch: Any) -> None:
    monkeypatch.setattr(file, "_HELD_S", 0.2)
    put(held, 1)
    eventually(lambda: put(held, 1) or held._database is None)
    put(held, 2)
    assert held._openings == 2 and held._database is not None


def test_an_old_opening_s_clock_does_not_close_a_new_one(held: Warehouse, monkeypatch: Any) -> None:
    monkeypatch.setattr(file, "_IDLE_S", 0.3)
    put(held, 1)
    held.close()
    monkeypatch.setattr(file, "_IDLE_S", 60.0)
    put(held, 2)
    second = held._database
    time.sleep(0.4)
    assert held._database is second is not None


def failing(held: Warehouse) -> None:
    with held.borrowed() as database:
        database.begin()
        database.execute("INSERT INTO t VALUES (2)")
        raise ZeroDivisionError


def test_an_error_closes_it_and_undoes_what_was_begun(held: Warehouse, path: str) -> None:
    put(held, 1)
    with pytest.raises(ZeroDivisionError):
        failing(held)
    assert held._database is held._lock is None
    put(held, 3)
    held.close()
    assert read(path) == [1, 3]


def test_closing_what_is_closed_is_nothing(held: Warehouse) -> None:
    held.close()
    put(held, 1)
    held.close()
    held.close()


def test_a_process_has_one_of_each_file(path: str) -> None:
    assert warehouse(path) is warehouse(path) is not warehouse(f"{path}2")


def test_when_the_job_is_over_it_is_closed(path: str) -> None:
    job = DuckDBSink(path, PROFILES)
    job.prepare()
    put(warehouse(path), 1)
    assert warehouse(path)._database is not None
    job.finish()
    assert read(path) == [1]


def test_a_single_use_is_closed_at_its_end(path: str) -> None:
    with connection(path) as database:
        database.execute("CREATE TABLE t AS SELECT 7 AS n")
    assert read(path) == [7]
    with pytest.raises(ZeroDivisionError), connection(path):
        raise ZeroDivisionError
    assert read(path) == [7]


# --- several ------------------------------------------------------------------------------------


def test_threads_have_it_one_at_a_time(held: Warehouse) -> None:
    put(held, -1)
    inside: list[int] = []
    together: list[int] = []

    def work(number: int) -> None:
        for _ in range(5):
            with held.borrowed() as database:
                inside.append(number)
                together.append(len(inside))
                database.execute("INSERT INTO t VALUES (?)", [number])
                inside.remove(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert together == [1] * 20
    with held.borrowed() as database:
        assert database.execute("SELECT count(*) FROM t").fetchone() == (21,)


def test_workers_take_turns(held: Warehouse, path: str, monkeypatch: Any) -> None:
    monkeypatch.setattr(file, "_IDLE_S", 60.0)
    put(held, 1)
    other = Warehouse(path)  # as another process of the job has it
    waits = threading.Thread(target=put, args=(other, 2))
    waits.start()
    waits.join(0.3)
    assert waits.is_alive()
    held.close()
    waits.join(10)
    assert not waits.is_alive()
    other.close()
    assert read(path) == [1, 2]


def test_another_program_is_waited_for(held: Warehouse, path: str) -> None:
    put(held, 1)
    held.close()
    with shell(path) as other:
        waits = threading.Thread(target=put, args=(held, 2))
        waits.start()
        waits.join(0.5)
        assert waits.is_alive()
        other.kill()
        waits.join(10)
        assert not waits.is_alive()
    held.close()
    assert read(path) == [1, 2]


def test_another_program_that_does_not_end_is_told(held: Warehouse, path: str) -> None:
    put(held, 1)
    held.close()
    with shell(path):
        began = time.monotonic()
        told = rf"^--warehouse=duckdb:{path}: [a-z0-9.]+ \(PID \d+\) keeps the file open; close"
        with pytest.raises(Busy, match=told), held.borrowed(patience_s=0.3):
            pass
        assert 0.3 <= time.monotonic() - began < 5
        assert held._lock is None  # another worker may try
        with pytest.raises(Busy), connection(path, patience_s=0.0):
            pass
    put(held, 2)  # when it has gone, it goes on


def test_a_wait_is_told_with_who_is_in_the_way_and_when_it_goes_on(
    held: Warehouse, path: str, monkeypatch: Any, caplog: Any
) -> None:
    monkeypatch.setattr(waiting, "FIRST_S", 0.6)
    put(held, 1)
    held.close()
    with shell(path) as other:
        threading.Timer(6.0, other.kill).start()
        put(held, 2)
    first, *more, last = [record.getMessage() for record in caplog.records]
    assert re.fullmatch(
        rf"--warehouse=duckdb:{path}: \S+ \(PID {other.pid}\) keeps the file open; "
        r"waiting for \d s, for up to 300 s",
        first,
    )
    assert 1 <= len(more) <= 3  # the distances grow
    assert re.fullmatch(rf"--warehouse=duckdb:{path}: goes on, after \d s", last)
    held.close()
    assert read(path) == [1, 2]


def test_where_one_write_gave_up_the_others_do_not_wait_as_long(held: Warehouse, path: str) -> None:
    put(held, 1)
    held.close()

    def gives_up() -> None:
        with pytest.raises(Busy):
            put(held, 2)

    with shell(path):
        waits = threading.Thread(target=gives_up)
        waits.start()
        waits.join(0.5)
        assert waits.is_alive()
        held.hurry()  # as the end of a job that has failed elsewhere
        waits.join(5)
        assert not waits.is_alive()
        began = time.monotonic()
        with pytest.raises(Busy):
            put(held, 3)
        assert time.monotonic() - began < 5
    put(held, 4)
    held.close()
    assert read(path) == [1, 4]


def test_the_turn_of_another_job_is_told_with_its_process(path: str) -> None:
    code = (
        "import fcntl, sys, time; lock = open(sys.argv[1], 'w'); fcntl.flock(lock, fcntl.LOCK_EX);"
        "print('has it', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, f"{path}.lock"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        other.stdout.readline()
        try:
            assert re.fullmatch(rf"\S+ \(PID {other.pid}\)", waiting.holder(f"{path}.lock"))
        finally:
            other.kill()
    assert waiting.holder(f"{path}.lock") == "another program"


def test_one_that_is_in_the_way_at_the_start_is_told_with_the_flag(
    path: str, monkeypatch: Any
) -> None:
    monkeypatch.setattr(file, "_PATIENCE_AT_START_S", 0.1)
    with shell(path), pytest.raises(ConfigError, match=r"^--warehouse=duckdb:.*keeps the file"):
        DuckDBSink(path, PROFILES).prepare()


# --- files --------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", ["plain", "unlocked"])
def test_a_file_that_is_none_of_duckdb_s_is_not_waited_for(tmp_path: Path, folder: str) -> None:
    path = tmp_path / folder / "warehouse.duckdb"
    path.parent.mkdir()
    path.write_text("a diary, and no database at all")
    with (
        pytest.raises(duckdb.IOException, match="not a valid DuckDB"),
        connection(str(path), patience_s=0.2),
    ):
        pass
    assert path.read_text() == "a diary, and no database at all"


def test_a_file_that_is_none_of_duckdb_s_is_refused_at_the_start(path: str) -> None:
    Path(path).write_text("a diary, and no database at all")
    with pytest.raises(ConfigError, match=r"^--warehouse=duckdb:.*; give another path$"):
        DuckDBSink(path, PROFILES).prepare()


@pytest.mark.parametrize("path", ["", ":memory:"])
def test_a_warehouse_without_a_file_is_refused(path: str) -> None:
    with pytest.raises(ConfigError, match=r"^--warehouse=duckdb: needs a file, such as"):
        DuckDBSink(path, PROFILES).prepare()


def test_a_column_of_another_type_is_named(path: str) -> None:
    with connection(path) as database:
        database.execute("CREATE TABLE readings (voltage_v VARCHAR)")
    with pytest.raises(ConfigError, match=r"column readings\.voltage_v is VARCHAR and should be"):
        DuckDBSink(path, PROFILES).prepare()


def test_columns_an_older_file_lacks_are_added_and_profiles_replaced(path: str) -> None:
    job = DuckDBSink(path, PROFILES)
    job.prepare()
    with connection(path) as database:
        database.execute("ALTER TABLE readings DROP COLUMN voltage_v")
    job.prepare()
    with connection(path) as database:
        for table in TABLES:
            described = database.execute(f"DESCRIBE {table.name}").fetchall()
            assert {row[0] for row in described} == set(table.names)
        counted = database.execute("SELECT count(*) FROM equipment_profiles").fetchone()
        assert counted == (len(PROFILES),)


def test_a_killed_writer_leaves_what_it_had_committed(path: str) -> None:
    code = """
import os, signal, sys
from pipeline.sinks.duckdb import Warehouse
held = Warehouse(sys.argv[1])
for number in range(20):
    with held.borrowed() as database:
        database.execute("CREATE TABLE IF NOT EXISTS t (n INTEGER)")
        database.begin()
        database.execute("INSERT INTO t VALUES (?)", [number])
        database.commit()
with held.borrowed() as database:
    database.begin()
    database.execute("INSERT INTO t SELECT 100 + range FROM range(100000)")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    ended = subprocess.run([sys.executable, "-c", code, path], cwd=ROOT, check=False, timeout=120)
    assert ended.returncode == -signal.SIGKILL
    assert read(path) == list(range(20))
    after = Warehouse(path)
    put(after, 20)  # neither the file nor the turn is held any more
    after.close()
    assert read(path) == list(range(21))


ANY = {
    Kind.STRING: "x", Kind.INTEGER: 1, Kind.DOUBLE: 1.0, Kind.TIMESTAMP: START,
    Kind.BYTES: b"", Kind.STRINGS: [], Kind.JSON: "{}", Kind.BOOLEAN: True,
}  # fmt: skip


def some(table: Table, **values: Any) -> dict[str, Any]:
    """A row with what must not be missing."""
    wanted = {
        field.name: ANY[field.kind] if field.required else None
        for field in table.fields
    }  # fmt: skip
    return wanted | values


def rows(*ids: str, file: str = "a.csv") -> pa.Table:
    given = [some(READING, reading_id=name, source_file=file) for name in ids]
    return pa.Table.from_pylist(given, schema=forms.arrow_schema(READING))


def counted(path: str, *tables: pa.Table) -> dict[str, int]:
    """Runs the sink on readings; what it counted."""
    job = DuckDBSink(path, PROFILES)
    job.prepare()
    pipeline = beam.Pipeline(runner=FnApiRunner())
    readings = pipeline | beam.Create(tables, reshuffle=False).with_output_types(pa.Table)
    empty = pipeline | "Nothing" >> beam.Create([], reshuffle=False)
    job.write(Produced(None, None, readings, empty, empty))
    job.write_dead_letters(empty)
    result = pipeline.run()
    result.wait_until_finish()
    job.finish()
    found = result.metrics().query(MetricsFilter().with_namespace("duckdb"))["counters"]
    return {counter.key.metric.name: counter.committed for counter in found if counter.committed}


@pytest.mark.parametrize("at_once", [1, 150_000])
def test_a_replay_is_counted_and_changes_nothing(path: str, at_once: int, monkeypatch: Any) -> None:
    monkeypatch.setattr(sink, "_FLUSH_ROWS", at_once)
    assert counted(path, rows("1", "2"), rows("3")) == {"readings_inserted": 3}
    assert counted(path, rows("2", "3"), rows("4")) == {
        "readings_inserted": 1, "readings_already_there": 2
    }  # fmt: skip
    with connection(path) as database:
        assert [name for name, _ in files(database)] == ["1", "2", "3", "4"]


# --- rows ---------------------------------------------------------------------------------------


@pytest.fixture
def database(path: str) -> Iterator[duckdb.DuckDBPyConnection]:
    DuckDBSink(path, PROFILES).prepare()
    with connection(path) as found:
        yield found


def files(database: duckdb.DuckDBPyConnection) -> list[tuple[Any, ...]]:
    return database.execute("SELECT reading_id, source_file FROM readings ORDER BY 1").fetchall()


def test_rows_that_are_there_are_not_inserted_again(database: Any) -> None:
    assert insert_new(database, READING, rows("1", "2")) == 2
    assert insert_new(database, READING, rows("2", "3")) == 1
    assert insert_new(database, READING, rows("1", "2", "3")) == 0
    assert [name for name, _ in files(database)] == ["1", "2", "3"]


def test_of_two_copies_the_first_file_s_stays_whichever_came_first(database: Any) -> None:
    insert_new(database, READING, rows("1", "2", file="b.csv"))
    insert_new(database, READING, rows("1", file="a.csv"))
    insert_new(database, READING, rows("2", file="c.csv"))
    assert files(database) == [("1", "a.csv"), ("2", "b.csv")]


def test_tables_without_a_file_keep_what_is_there(database: Any) -> None:
    stats = some(WINDOW_STATS, stats_id="s")
    table = pa.Table.from_pylist([stats], schema=forms.arrow_schema(WINDOW_STATS))
    assert [insert_new(database, WINDOW_STATS, table) for _ in range(2)] == [1, 0]


@pytest.mark.parametrize("table", [TEST_DIALECT, CYCLE_SUMMARY])
def test_of_tables_without_a_time_span_rows_may_come_twice_at_once(
    database: Any, table: Table
) -> None:
    given = [some(table, **{table.key: name}) for name in ("1", "1", "2")]
    given = pa.Table.from_pylist(given, schema=forms.arrow_schema(table))
    assert [insert_new(database, table, given) for _ in range(2)] == [2, 0]
    more = pa.Table.from_pylist(
        [some(table, **{table.key: name}) for name in ("2", "3")], schema=given.schema
    )
    assert insert_new(database, table, more) == 1


def test_what_goes_wrong_within_a_transaction_is_told_as_it_is(database: Any) -> None:
    wrong = rows("1")
    wrong = wrong.set_column(
        wrong.column_names.index("equipment_id"), "equipment_id", pa.nulls(1, pa.string())
    )
    database.begin()
    with pytest.raises(duckdb.ConstraintException, match=r"readings\.equipment_id"):
        insert_new(database, READING, wrong)
