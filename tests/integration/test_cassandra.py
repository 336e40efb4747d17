"""The job into a real Cassandra: the same rows as in DuckDB, once, also after the node crashed."""

from __future__ import annotations

import csv
import datetime as dt
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from cassandra.cluster import Session

from pipeline.connect.cassandra import connection
from pipeline.errors import ConfigError, WarehouseFailed
from pipeline.sinks.base.outage import Outage
from pipeline.sinks.cassandra import CassandraSink, Target
from pipeline.sinks.cassandra.versions import Versions
from pipeline.sinks.cassandra.write import Figures, Writer
from schemas import forms
from schemas.reading import (
    DEAD_LETTER,
    EQUIPMENT_PROFILE,
    READING,
    READING_SUPERSEDED,
    TABLES,
    WINDOW_STATS,
    Table,
)
from tests.endurance.rig import Rig
from tests.messages import PROFILES, START_US
from tests.running import TABLES as RUNNING
from tests.running import Ran, run, sql
from tests.services.cassandra import Node
from tests.services.fixtures import set_environment
from tests.services.kafka import Broker
from tests.services.processes import free_port

pytestmark = pytest.mark.integration

FLEET = "simulator:?equipment=5&readings=4000&interval=30&faults=0.02&duplicates=0.02&late=0.05"
MOST_S = 15.0
ORDERS = RUNNING | {
    "source_positions": "position_id",
    "cycles_live": "version_id",
    "predictions": "prediction_id",
}


@pytest.fixture(scope="module", autouse=True)
def login(cassandra: Node) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        set_environment(patch, cassandra.environment)
        yield


@pytest.fixture(scope="module")
def session(cassandra: Node) -> Iterator[Session]:
    with cassandra.session() as session:
        yield session


@pytest.fixture
def keyspace(cassandra: Node) -> Iterator[str]:
    name = cassandra.new_keyspace()
    yield name
    # A session of its own: older ones may hold connections to a node that was killed since.
    with cassandra.session() as session:
        session.execute(f"DROP KEYSPACE IF EXISTS {name}")


def stored(session: Session, keyspace: str, table: Table) -> list[dict[str, Any]]:
    """A table's rows in the order of their keys, times with their zone."""
    found = []
    for row in session.execute(f"SELECT * FROM {keyspace}.{forms.cassandra_name(table)}"):
        values = row._asdict()
        for name, value in values.items():
            if isinstance(value, dt.datetime):
                values[name] = value.replace(tzinfo=dt.UTC)
        found.append(values)
    return sorted(found, key=lambda values: values[table.key])


def expected(ran: Ran, table: Table) -> list[dict[str, Any]]:
    """DuckDB's rows as they should be in Cassandra, whose times are in milliseconds."""
    found = []
    for row in ran.table(table.name, ORDERS[table.name]).to_pylist():
        if table.partition:
            row["day"] = row[table.partition].date()
        if table == READING:
            since = row["recorded_at"] - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
            row["recorded_at_us"] = since // dt.timedelta(microseconds=1)
        for name, value in row.items():
            if isinstance(value, dt.datetime):
                row[name] = value.replace(microsecond=value.microsecond // 1000 * 1000)
        found.append(row)
    return found


def same(session: Session, keyspace: str, ran: Ran, tables: tuple[Table, ...] = TABLES) -> None:
    for table in tables:
        rows = stored(session, keyspace, table)
        for row in rows:
            if "day" in row:
                row["day"] = row["day"].date()
        assert rows == expected(ran, table), table.name


def prepared(node: Node, keyspace: str, **parameters: object) -> CassandraSink:
    sink = CassandraSink(node.uri(keyspace, **parameters), "test", PROFILES)
    sink.prepare()
    return sink


def refusal(sink: CassandraSink, method: str = "prepare") -> str:
    """What the sink says it can't be used for, in time."""
    began = time.monotonic()
    with pytest.raises(ConfigError) as raised:
        getattr(sink, method)()
    assert time.monotonic() - began < MOST_S
    return str(raised.value)


def readings(count: int, **columns: Any) -> pa.Table:
    """Readings of one equipment, a second apart."""
    rows = [
        {
            "reading_id": f"{number:032x}",
            "equipment_id": "cell-1",
            "equipment_type": "battery_cell",
            "recorded_at": START_US + number * 1_000_000,
            "ingested_at": START_US,
            "voltage_v": 3.7 + number / 1e5,
            "current_a": -1.0,
            "power_watt": -3.7,
            "quality_flags": [],
            **columns,
        }
        for number in range(count)
    ]
    return pa.Table.from_pylist(rows, schema=forms.arrow_schema(READING))


def write(
    node: Node,
    keyspace: str,
    rows: pa.Table,
    on_conflict: str = "version",
    **parameters: object,
) -> list[pa.Table]:
    target = Target.parse(node.uri(keyspace, **parameters))
    writer = Writer(target, READING, "test", Figures(READING), on_conflict)
    try:
        writer.add(rows)
        return writer.finish()
    finally:
        connection(target.address).close()


@pytest.fixture(scope="module")
def ran(
    cassandra: Node, session: Session, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Ran, str]]:
    """A whole job into DuckDB and Cassandra, and the keyspace."""
    name = cassandra.new_keyspace()
    flag = f"--warehouse={cassandra.uri(name)}"
    yield run(tmp_path_factory.mktemp("ran"), FLEET, flag), name
    session.execute(f"DROP KEYSPACE IF EXISTS {name}")


def test_the_rows_are_those_of_duckdb_and_stay_so(
    cassandra: Node, session: Session, ran: tuple[Ran, str], tmp_path: Path
) -> None:
    first, keyspace = ran
    assert first.status == 0, first.err
    assert first.account()["dead_letters"] > 0
    same(session, keyspace, first)
    again = run(tmp_path, FLEET, f"--warehouse={cassandra.uri(keyspace)}")
    assert again.status == 0, again.err
    same(session, keyspace, again, (READING, DEAD_LETTER, WINDOW_STATS, EQUIPMENT_PROFILE))


def test_the_third_designs_queries_have_their_answers(
    session: Session, ran: tuple[Ran, str]
) -> None:
    job, keyspace = ran
    # The newest that is stored, which that design asked for before it wrote what is newer.
    newest = session.execute(f"SELECT max(recorded_at) FROM {keyspace}.sensor_data").one()[0]
    (found,) = job.sql("SELECT max(recorded_at) FROM readings")
    assert newest.replace(tzinfo=dt.UTC) == found[0]
    equipment, day = job.sql(
        "SELECT equipment_id, recorded_at::DATE FROM readings "
        "GROUP BY ALL ORDER BY count(*) DESC, 1, 2 LIMIT 1"
    )[0]
    rows = session.execute(
        "SELECT recorded_at, voltage_v, current_a, frequency_hz, temperature_c "
        f"FROM {keyspace}.sensor_data WHERE equipment_id = %s AND day = %s "
        "AND recorded_at >= %s AND recorded_at < %s",
        [equipment, day, f"{day} 00:00:00+0000", f"{day} 12:00:00+0000"],
    )
    assert [(row.recorded_at.replace(tzinfo=dt.UTC), *row[1:]) for row in rows] == job.sql(
        "SELECT recorded_at, voltage_v, current_a, frequency_hz, temperature_c FROM readings "
        f"WHERE equipment_id = '{equipment}' AND recorded_at >= '{day}' "
        f"AND recorded_at < '{day} 12:00:00' ORDER BY recorded_at"
    )
    last = session.execute(
        f"SELECT recorded_at FROM {keyspace}.sensor_data WHERE equipment_id = %s AND day = %s "
        "ORDER BY recorded_at DESC LIMIT 1",
        [equipment, day],
    ).one()
    assert (
        last.recorded_at.replace(tzinfo=dt.UTC)
        == job.sql(
            f"SELECT max(recorded_at) FROM readings WHERE equipment_id = '{equipment}' "
            f"AND recorded_at::DATE = '{day}'"
        )[0][0]
    )


def test_the_third_designs_table_moves_in(
    cassandra: Node, session: Session, keyspace: str, tmp_path: Path
) -> None:
    prepared(cassandra, keyspace)
    old = f"{keyspace}.old_sensor_data"
    session.execute(
        f"CREATE TABLE {old} (equipment_id text, timestamp timestamp, voltage double, "
        "current double, frequency double, temperature double, PRIMARY KEY (equipment_id, timestamp))"
    )
    insert = session.prepare(f"INSERT INTO {old} (equipment_id, timestamp, voltage, current, "
                             "frequency, temperature) VALUES (?, ?, ?, ?, ?, ?)")  # fmt: skip
    start = dt.datetime(2024, 6, 1, 12, tzinfo=dt.UTC)
    for number in range(20):
        when = start + dt.timedelta(seconds=number // 2)
        values = (229.5 + number, 4.25, 50.02, 61.5)
        session.execute(insert, [f"machine-{number % 2}", when, *values])
    names = ("equipment_id", "timestamp", "voltage", "current", "frequency", "temperature")
    # As cqlsh's COPY … TO writes it.
    with (tmp_path / "old.csv").open("w") as file:
        rows = csv.writer(file)
        rows.writerow(names)
        for row in session.execute(f"SELECT {', '.join(names)} FROM {old}"):
            rows.writerow([row[0], f"{row.timestamp:%Y-%m-%d %H:%M:%S}.000+0000", *row[2:]])
    job = run(
        tmp_path, tmp_path / "old.csv", f"--warehouse={cassandra.uri(keyspace)}",
        "--equipment_profile=generic_machine",
    )  # fmt: skip
    assert job.status == 0, job.err
    moved = {
        (row["equipment_id"], row["recorded_at"], row["voltage_v"], row["current_a"],
         row["frequency_hz"], row["temperature_c"])
        for row in stored(session, keyspace, READING)
    }  # fmt: skip
    assert moved == {
        (row[0], row.timestamp.replace(tzinfo=dt.UTC), *row[2:])
        for row in session.execute(f"SELECT {', '.join(names)} FROM {old}")
    }
    assert len(moved) == 20


def test_fields_are_rounded_and_rows_expire_as_asked(
    cassandra: Node, session: Session, keyspace: str
) -> None:
    rows = readings(30, temperature_c=25.125)
    asked = {"round": "voltage_v:3,temperature_c:2", "ttl": 3, "consistency": "one"}
    prepared(cassandra, keyspace, **asked)
    assert write(cassandra, keyspace, rows, **asked) == []
    found = stored(session, keyspace, READING)
    assert [row["voltage_v"] for row in found] == [
        round(value, 3) for value in rows.column("voltage_v").to_pylist()
    ]
    assert {row["temperature_c"] for row in found} == {25.12}
    left = session.execute(f"SELECT ttl(voltage_v) FROM {keyspace}.sensor_data").one()[0]
    assert 3 * 86_400 - 60 < left <= 3 * 86_400
    options = session.execute(
        "SELECT compaction FROM system_schema.tables WHERE keyspace_name = %s AND table_name = %s",
        [keyspace, "sensor_data"],
    ).one()[0]
    assert options["class"].endswith("TimeWindowCompactionStrategy")
    # Shorter, and it is seen: a day has 86,400 seconds.
    write(cassandra, keyspace, rows.slice(0, 10), **(asked | {"ttl": 2 / 86_400}))
    until = time.monotonic() + 30
    while len(stored(session, keyspace, READING)) != 20:
        assert time.monotonic() < until, "nothing expired"
        time.sleep(0.2)


def test_a_consistency_that_no_node_can_give_is_not_taken_for_written(
    cassandra: Node, keyspace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = cassandra.uri(keyspace, replication=2)
    assert "too few nodes are up" in refusal(CassandraSink(uri, "test", PROFILES))
    prepared(cassandra, keyspace, consistency="ONE")
    monkeypatch.setattr("pipeline.sinks.cassandra.write._PATIENCE_S", 2.0)
    with pytest.raises(WarehouseFailed, match=r"--warehouse=cassandra://.*sensor_data.*nodetool"):
        write(cassandra, keyspace, readings(3), consistency="ALL")
    assert write(cassandra, keyspace, readings(3), consistency="ONE") == []


def version(number: int, **columns: Any) -> pa.Table:
    """Three readings in a version that arrived so many hours later than the first one."""
    return readings(
        3, content_id=number, voltage_v=3.0 + number, source_file=f"{number}.csv",
        ingested_at=START_US + number * 3_600_000_000, **columns,
    )  # fmt: skip


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize(
    ("on_conflict", "counts", "others"),
    [("version", 3, [1, 2]), ("replace", 3, []), ("keep", 1, [2, 3])],
)
def test_of_versions_one_counts_whole_and_the_others_are_kept(
    cassandra: Node,
    session: Session,
    keyspace: str,
    on_conflict: str,
    counts: int,
    others: list[int],
    at_once: bool,
) -> None:
    prepared(cassandra, keyspace)
    versions = [version(1, temperature_c=25.0), version(3), version(2)]
    if on_conflict == "keep":
        versions = [versions[0], version(2), version(3)]
    if at_once:
        versions = [pa.concat_tables(versions)]
    # Once more changes nothing: what is there is no new version, and an old one stays old.
    for rows in (*versions, versions[0], versions[-1]):
        assert write(cassandra, keyspace, rows, on_conflict) == []
    stands = stored(session, keyspace, READING)
    assert [row["content_id"] for row in stands] == [counts] * 3
    assert {row["temperature_c"] for row in stands} == {25.0 if counts == 1 else None}
    former = stored(session, keyspace, READING_SUPERSEDED)
    assert sorted(row["content_id"] for row in former) == sorted(others * 3)
    assert all(row["source_file"] == f"{row['content_id']}.csv" for row in former)
    assert all(list(row["quality_flags"]) == ["superseded"] for row in former)
    assert all(row["superseded_by"] in (1, 2, 3) for row in former)


def test_an_older_table_gains_its_columns_and_keeps_its_rows(
    cassandra: Node, session: Session, keyspace: str
) -> None:
    prepared(cassandra, keyspace)
    write(cassandra, keyspace, readings(2))
    for column in ("frequency_hz", "recorded_at_us"):
        session.execute(f"ALTER TABLE {keyspace}.sensor_data DROP {column}")
    sink = CassandraSink(cassandra.uri(keyspace), "test", PROFILES)
    sink.check()  # only looks
    described = stored(session, keyspace, READING)
    assert "frequency_hz" not in described[0]
    sink.prepare()
    write(cassandra, keyspace, readings(3, frequency_hz=50.0))
    assert [row["frequency_hz"] for row in stored(session, keyspace, READING)] == [50.0] * 3


@pytest.mark.parametrize(
    ("table", "says"),
    [
        (
            # As the third design had it.
            """CREATE TABLE {}.sensor_data (equipment_id text, timestamp timestamp,
            PRIMARY KEY (equipment_id, timestamp))""",
            "has the key ((equipment_id), timestamp) and should have ((equipment_id, day), record",
        ),
        (
            "CREATE TABLE {}.equipment_profiles (profile text PRIMARY KEY, priority text)",
            "column equipment_profiles.priority is text and should be bigint; rename the table",
        ),
    ],
)
def test_a_table_of_another_kind_is_refused(
    cassandra: Node, session: Session, keyspace: str, table: str, says: str
) -> None:
    session.execute(
        f"CREATE KEYSPACE {keyspace} WITH replication = "
        "{'class': 'SimpleStrategy', 'replication_factor': 1}"
    )
    session.execute(table.format(keyspace))
    sink = CassandraSink(cassandra.uri(keyspace), "test", PROFILES)
    for method in ("check", "prepare"):
        told = refusal(sink, method)
        assert told.startswith(f"--warehouse={cassandra.uri(keyspace)}: ")
        assert says in told


def test_a_dry_run_makes_nothing(
    cassandra: Node, session: Session, keyspace: str, tmp_path: Path
) -> None:
    ran = run(tmp_path, FLEET, f"--warehouse={cassandra.uri(keyspace)}", "--dry_run")
    assert ran.status == 0, ran.err
    found = session.execute("SELECT keyspace_name FROM system_schema.keyspaces")
    assert keyspace not in {row[0] for row in found}


def test_who_may_not_write_is_told_before_anything_is_read(
    cassandra: Node, session: Session, keyspace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if cassandra.kind != "apache":
        pytest.skip("needs a Cassandra whose accounts are ours")
    sink = prepared(cassandra, keyspace)
    role = f"role_{keyspace}"
    session.execute(f"CREATE ROLE {role} WITH password = 'secret-of-role' AND login = true")
    monkeypatch.setenv("CASSANDRA_USERNAME", role)
    monkeypatch.setenv("CASSANDRA_PASSWORD", "secret-of-role")
    for method in ("check", "prepare"):
        told = refusal(sink, method)
        assert "has no MODIFY permission on <table" in told
        assert "grant it, or set CASSANDRA_USERNAME to one that may" in told
    elsewhere = CassandraSink(cassandra.uri(f"{keyspace}_other"), "test", PROFILES)
    assert "has no CREATE permission on <all keyspaces>" in refusal(elsewhere)
    # Where everything is there, writing is all that it must be allowed to do.
    session.execute(f"GRANT MODIFY ON KEYSPACE {keyspace} TO {role}")
    sink.check()
    sink.prepare()
    monkeypatch.setenv("CASSANDRA_PASSWORD", "wrong-secret")
    told = refusal(sink)
    assert "the login is refused" in told
    assert "check CASSANDRA_USERNAME and CASSANDRA_PASSWORD" in told
    assert "wrong-secret" not in told


def test_the_connection_can_be_encrypted(
    cassandra: Node, keyspace: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if cassandra.cafile is None:
        pytest.skip("needs a Cassandra whose certificate is ours")
    monkeypatch.setenv("CASSANDRA_SSL", "true")
    sink = CassandraSink(cassandra.uri(keyspace), "test", PROFILES)
    assert "TLS fails ([SSL: CERTIFICATE_VERIFY_FAILED]" in refusal(sink)
    monkeypatch.setenv("CASSANDRA_SSL_CAFILE", str(cassandra.cafile))
    sink.prepare()


def test_what_is_no_cassandra_is_told_in_time(cassandra: Node, keyspace: str) -> None:
    nobody = CassandraSink(f"cassandra://127.0.0.1:{free_port()}/{keyspace}", "test", PROFILES)
    told = refusal(nobody, "check")
    assert told.startswith("--warehouse=cassandra://127.0.0.1:")
    assert "no node answers (Connection refused); check the address" in told
    unknown = CassandraSink(f"cassandra://no-such-host.invalid/{keyspace}", "test", PROFILES)
    assert "the host's name is not known" in refusal(unknown, "check")


def test_a_row_that_cassandra_refuses_becomes_a_dead_letter_alone(
    cassandra: Node, session: Session, keyspace: str
) -> None:
    prepared(cassandra, keyspace)
    rows = readings(40).to_pylist()
    rows[7]["extra"] = f'{{"note": "{"x" * 20_000_000}"}}'
    rows[9]["equipment_id"] = "e" * 70_000
    given = pa.Table.from_pylist(rows, schema=forms.arrow_schema(READING))
    letters = pa.concat_tables(write(cassandra, keyspace, given)).to_pylist()
    assert {letter["error_type"] for letter in letters} == {"refused"}
    assert {letter["step"] for letter in letters} == {"cassandra"}
    told = [letter["error_message"] for letter in letters]
    assert any("its key is longer than 65535 bytes" in message for message in told)
    assert any("oversized mutation" in message for message in told)
    kept = {row["reading_id"] for row in stored(session, keyspace, READING)}
    assert kept == {row["reading_id"] for row in rows} - {f"{7:032x}", f"{9:032x}"}


def test_a_large_message_stands_in_the_tables_as_far_as_they_can_take_it(
    cassandra: Node, session: Session, keyspace: str, tmp_path: Path
) -> None:
    source = tmp_path / "in.ndjson"
    good = '{"equipment_id": "c1", "recorded_at": "2024-05-01T00:00:0%dZ", "voltage_v": 3.7, '
    long = '"current_a": 1, "note": "' + "x" * 20_000_000 + '"}'
    source.write_text("\n".join([good % 0 + '"current_a": 1}', good % 1 + long]) + "\n")
    limit = "--limit=message_kb=32000"
    ran = run(tmp_path, source, f"--warehouse={cassandra.uri(keyspace)}", limit)
    assert ran.status == 0, ran.err
    assert len(stored(session, keyspace, READING)) == 1
    (letter,) = stored(session, keyspace, DEAD_LETTER)
    assert (letter["step"], letter["error_type"]) == ("cassandra", "refused")
    assert letter["payload"] is None
    assert "bytes left out" in letter["error_message"]
    # DuckDB has both readings; the whole message is in the raw archive, too.
    assert ran.sql("SELECT count(*) FROM readings") == [(2,)]
    assert ran.sql("SELECT payload IS NULL FROM dead_letters") == [(True,)]


def test_a_table_that_is_dropped_fails_the_job_and_refuses_no_row(
    cassandra: Node, session: Session, keyspace: str
) -> None:
    prepared(cassandra, keyspace)
    write(cassandra, keyspace, readings(3))
    session.execute(f"ALTER TABLE {keyspace}.sensor_data DROP extra")
    with pytest.raises(WarehouseFailed, match="sensor_data: it lacks extra by now; run the job"):
        write(cassandra, keyspace, readings(3))
    session.execute(f"DROP TABLE {keyspace}.sensor_data")
    with pytest.raises(WarehouseFailed, match="sensor_data: it is not there any more; run the job"):
        write(cassandra, keyspace, readings(3))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("DROP TABLE {}.sensor_data", "sensor_data: it is not there any more; run the job again"),
        ("ALTER TABLE {}.sensor_data DROP content_id", "sensor_data: it lacks content_id by now"),
        (
            "DROP TABLE {}.readings_superseded",
            "readings_superseded: it is not there any more; run the job again",
        ),
    ],
)
def test_a_table_that_is_dropped_is_not_waited_for_where_versions_are_compared(
    cassandra: Node, session: Session, keyspace: str, change: str, told: str
) -> None:
    prepared(cassandra, keyspace)
    write(cassandra, keyspace, version(1))
    session.execute(change.format(keyspace))
    target = Target.parse(cassandra.uri(keyspace))
    outage = Outage("told", 60.0, 0.05, "advice")
    versions = Versions(target, connection(target.address), outage, "version")
    began = time.monotonic()
    try:
        with pytest.raises(WarehouseFailed, match=told):
            versions.settle(version(2))
    finally:
        connection(target.address).close()
    assert time.monotonic() - began < MOST_S


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_node_that_crashes_under_load_costs_nothing(
    cassandra: Node, keyspace: str, caplog: pytest.LogCaptureFixture
) -> None:
    if cassandra.kind != "apache":
        pytest.skip("needs a Cassandra that may be killed")
    sink = prepared(cassandra, keyspace)
    target = Target.parse(cassandra.uri(keyspace))
    writer = Writer(target, READING, "test", Figures(READING))
    crashes, written, over = 0, 0, threading.Event()

    def crash() -> None:
        nonlocal crashes
        for _ in range(2):
            # Only once it takes writes again, and in their midst.
            before = written
            while written == before and not over.wait(0.05):
                pass
            cassandra.stop(kill=True)
            over.wait(1.0)
            cassandra.start()
            crashes += 1

    failing = threading.Thread(target=crash)
    failing.start()
    try:
        while failing.is_alive() or written < 6_000:
            # A bundle: what it was given has to be there when it is finished.
            ids = pa.array([f"{written + number:032x}" for number in range(1_000)])
            writer.add(readings(1_000).set_column(0, "reading_id", ids))
            assert writer.finish() == []
            written += 1_000
    finally:
        over.set()
        failing.join()
        cassandra.start()
        sink.finish()
    with cassandra.session() as fresh:
        rows = fresh.execute(f"SELECT reading_id FROM {keyspace}.sensor_data")
        kept = {row.reading_id for row in rows}
    assert kept == {f"{number:032x}" for number in range(written)}
    assert crashes == 2
    # A long outage is told again at growing distances, and its end once.
    ends = [message for message in caplog.messages if "goes on, after" in message]
    told = [message for message in caplog.messages if "trying again" in message]
    assert len(ends) <= crashes
    assert len(told) <= 4 * crashes


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_live_job_loses_nothing_to_a_node_that_crashes(
    cassandra: Node, kafka: Broker, keyspace: str, tmp_path: Path
) -> None:
    if cassandra.kind != "apache":
        pytest.skip("needs a Cassandra that may be killed")
    flags = [f"--warehouse={cassandra.uri(keyspace)}"]
    choose = random.Random(1)
    with Rig(
        kafka, tmp_path, rate=200, window_s=2, pace=0.2, choose=choose, flags=flags
    ) as on:  # fmt: skip
        on.producer()
        job = on.job()
        on.reading()
        cassandra.stop(kill=True)
        on.wait(10)
        cassandra.start()
        on.reading()
        assert on.finish(job) == {}
    with cassandra.session() as fresh:
        found = fresh.execute(f"SELECT reading_id FROM {keyspace}.sensor_data")
        kept = sorted(row.reading_id for row in found)
    assert kept == [
        row[0] for row in sql(job.warehouse, "SELECT reading_id FROM readings ORDER BY 1")
    ]
