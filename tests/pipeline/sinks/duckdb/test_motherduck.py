"""MotherDuck as far as the connection: what is sent, run by DuckDB on files in its place.

A session at MotherDuck is one of DuckDB's with the account's databases attached; here files are
attached. What only the service can show, its own refusals and its speed, is not tested.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
import yaml

from pipeline import models, registry
from pipeline.__main__ import main
from pipeline.errors import ConfigError, WarehouseFailed
from pipeline.options import config_from, parse
from pipeline.report.marts import Marts
from pipeline.report.warehouse import opened
from pipeline.sinks.duckdb import MotherDuckSink, insert_new, motherduck
from pipeline.sinks.duckdb.motherduck import MotherDuck, Remote
from pipeline.sinks.duckdb.place import SETTINGS
from pipeline.sinks.duckdb.statements import run
from pipeline.sinks.duckdb.versions import with_content
from schemas import forms
from schemas.reading import (
    CYCLE_SUMMARY,
    PREDICTION,
    READING,
    READING_SUPERSEDED,
    SOURCE_POSITION,
    TABLES,
    TEST_DIALECT,
)
from tests.messages import PROFILES
from tests.pipeline.sinks.duckdb.test_file import rows, shell
from tests.services import warm

ROOT = Path(__file__).parents[4]
TOKEN = "a-token-nobody-may-see"


@pytest.fixture
def account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose files are the account's databases, attached as MotherDuck's are."""
    folder = tmp_path / "account"
    folder.mkdir()

    def session(token: str) -> duckdb.DuckDBPyConnection:
        assert token == TOKEN
        # By name: connections of a process share it, as they share an account's databases.
        database = duckdb.connect(f":memory:{folder.name}{tmp_path.name}", config=SETTINGS)
        try:
            for file in folder.glob("*.duckdb"):
                attach(database, file.stem)
        except duckdb.Error:
            database.close()
            raise
        return database

    def attach(database: duckdb.DuckDBPyConnection, name: str) -> None:
        run(database, f"""ATTACH IF NOT EXISTS '{folder / name}.duckdb' AS "{name}" """)

    monkeypatch.setattr(motherduck, "_session", session)
    monkeypatch.setattr(motherduck, "_create", attach)
    monkeypatch.setenv("MOTHERDUCK_TOKEN", TOKEN)
    return folder


def sql(account: Path, query: str, name: str = "battery") -> list[tuple[Any, ...]]:
    with duckdb.connect(str(account / f"{name}.duckdb")) as database:
        return database.execute(query).fetchall()


def insert(remote: Remote, table: pa.Table) -> int:
    return remote.write(lambda database: insert_new(database, READING, table))


@pytest.fixture
def place(account: Path) -> MotherDuck:
    """A database with our tables."""
    MotherDuckSink("md:battery", PROFILES).prepare()
    return MotherDuck("battery")


# --- the address and the token --------------------------------------------------------------------


def test_a_database_is_named() -> None:
    assert MotherDuck.parse("md:battery_1") == MotherDuck("battery_1")
    secret = "projects/p/secrets/s"
    assert MotherDuck.parse(f"md:battery?secret={secret}") == MotherDuck("battery", secret)


@pytest.mark.parametrize("uri", ["md:", "md:a b", "md:1a", 'md:a"; DROP', "md:a?x=1", "md://a"])
def test_what_names_none_is_refused(uri: str) -> None:
    with pytest.raises(ConfigError, match=r"^--warehouse=md:"):
        MotherDuck.parse(uri)


@pytest.mark.parametrize("name", ["motherduck_token", "token", "MOTHERDUCK_TOKEN"])
def test_a_token_in_the_address_is_refused_and_not_repeated(name: str) -> None:
    with pytest.raises(ConfigError, match="MOTHERDUCK_TOKEN") as refused:
        MotherDuck.parse(f"md:battery?{name}={TOKEN}")
    assert TOKEN not in str(refused.value)


def test_both_variables_hold_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    place = MotherDuck("battery")
    for name in motherduck.TOKENS:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match=r"^--warehouse=md:battery: .* are not set; make an"):
        place.token()
    monkeypatch.setenv("motherduck_token", "small")
    assert place.token() == "small"
    monkeypatch.setenv("MOTHERDUCK_TOKEN", "large")
    assert place.token() == "large"


# --- what the commands say ------------------------------------------------------------------------


def command(module: str, *flags: str, **environment: str) -> tuple[int, str, float]:
    """Status, output and seconds of a command that can't reach any network."""
    kept = {name: value for name, value in os.environ.items() if name not in motherduck.TOKENS}
    started = time.monotonic()
    ended = subprocess.run(
        warm.command(module, "--warehouse=md:battery", *flags),
        env=kept | {"HTTP_PROXY": "http://127.0.0.1:9"} | environment,
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    return ended.returncode, ended.stdout + ended.stderr, time.monotonic() - started


def test_a_missing_token_is_told_by_every_command(tmp_path: Path) -> None:
    job = ("pipeline", f"--lake={tmp_path}", "--source=simulator:?readings=10")
    report = ("pipeline.report", f"--out={tmp_path / 'x.html'}")
    for module, *flags in (job, report, ("pipeline.models",)):
        status, said, _ = command(module, *flags)
        assert status == 2, said
        assert "error: --warehouse=md:battery: MOTHERDUCK_TOKEN and motherduck_token are" in said


def test_an_extension_that_cannot_be_downloaded_is_told(tmp_path: Path) -> None:
    status, said, seconds = command(
        "pipeline", f"--lake={tmp_path / 'lake'}", "--source=simulator:?readings=10",
        MOTHERDUCK_TOKEN=TOKEN, HOME=str(tmp_path),
    )  # fmt: skip
    assert status == 2, said
    assert "error: --warehouse=md:battery: " in said
    assert "INSTALL motherduck" in said
    assert TOKEN not in said
    assert "Traceback" not in said
    assert seconds < 60  # with the imports, on a busy machine; the connection has 12 s


def test_no_answer_is_told_in_time(place: MotherDuck, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(motherduck, "_CONNECT_S", 0.2)
    monkeypatch.setattr(motherduck, "_session", lambda _: time.sleep(5))
    with pytest.raises(ConfigError, match=r"no answer within 0.2 s; check the network"):
        MotherDuckSink("md:battery", PROFILES).prepare()


@pytest.mark.parametrize(
    ("said", "fix"),
    [
        (f"Request failed: Your request is not authenticated. (Jwt {TOKEN} is not …)", "read/write"),
        ("IO Error: Failed to download extension", "INSTALL motherduck"),
        ('Failed to download extension "motherduck" (HTTP 404)', "no motherduck extension for"),
        ("Your DuckDB version is not supported", duckdb.__version__),
        ("Connection reset by peer", "check the network"),
    ],
)  # fmt: skip
def test_what_it_answers_comes_with_a_fix_and_without_the_token(
    place: MotherDuck, said: str, fix: str
) -> None:
    told = place.told(duckdb.Error(said + "\nmore"))
    assert told.startswith("--warehouse=md:battery: ")
    assert fix in told
    assert TOKEN not in told
    assert "\n" not in told


# --- tables ---------------------------------------------------------------------------------------


def test_looking_makes_nothing(account: Path) -> None:
    MotherDuckSink("md:battery", PROFILES).check()
    assert not list(account.iterdir())


def test_the_database_and_its_tables_are_made(place: MotherDuck, account: Path) -> None:
    MotherDuckSink("md:battery", PROFILES).check()
    MotherDuckSink("md:battery", PROFILES).prepare()
    there = sql(account, "SELECT table_name FROM duckdb_tables() ORDER BY ALL")
    assert {name for (name,) in there} == {table.name for table in TABLES}
    assert sql(account, "SELECT count(*) FROM equipment_profiles") == [(len(PROFILES),)]


def test_another_database_s_tables_are_not_ours(account: Path) -> None:
    sql(account, "CREATE TABLE readings (voltage_v VARCHAR)", "other")
    sql(account, "SELECT 1", "battery")
    MotherDuckSink("md:battery", PROFILES).check()
    MotherDuckSink("md:battery", PROFILES).prepare()
    with pytest.raises(ConfigError, match=r"^--warehouse=md:other: column readings\.voltage_v"):
        MotherDuckSink("md:other", PROFILES).check()


# --- the job --------------------------------------------------------------------------------------


def job(target: Path, *flags: str) -> int:
    return main(
        ["--runner=DirectRunner", "--source=simulator:?equipment=3&cycles=2&faults=0.02",
         "--warehouse=md:battery", f"--lake={target / 'lake'}", "--no_progress", *flags]
    )  # fmt: skip


def test_a_job_writes_there_what_it_writes_to_a_file(account: Path, tmp_path: Path) -> None:
    assert job(tmp_path, f"--warehouse=duckdb:{tmp_path / 'file.duckdb'}") == 0
    assert job(tmp_path) == 0  # a replay
    with duckdb.connect() as database:
        database.execute(f"ATTACH '{account / 'battery.duckdb'}' AS md (READ_ONLY)")
        database.execute(f"ATTACH '{tmp_path / 'file.duckdb'}' AS file (READ_ONLY)")
        for table in TABLES:
            count = f"SELECT count(*) FROM md.{table.name}"
            # The simulator's messages are no cycler's file, stand in no broker and correct nothing.
            some = table not in (
                TEST_DIALECT, CYCLE_SUMMARY, SOURCE_POSITION, READING_SUPERSEDED,
                    PREDICTION,
            )  # fmt: skip
            assert (database.execute(count).fetchall() > [(0,)]) == some, table.name
            for one, other in (("md", "file"), ("file", "md")):
                more = f"FROM {one}.{table.name} EXCEPT FROM {other}.{table.name}"
                assert database.execute(more).fetchall() == [], table.name


def test_the_registry_knows_it(account: Path) -> None:
    config = config_from(parse(["--warehouse=md:battery", "--warehouse=md:other", "--lake=none"]))
    assert [type(sink) for sink in registry.sinks(config)] == [MotherDuckSink] * 2


def test_the_report_and_the_models_find_the_database(place: MotherDuck) -> None:
    with opened("md:battery") as database:
        assert database.execute("SELECT count(*) FROM readings").fetchall() == [(0,)]
    assert place.dbt_variables() == {
        "DBT_TARGET": "motherduck", "MOTHERDUCK_DATABASE": "battery",
        "MOTHERDUCK_TOKEN": TOKEN, "motherduck_token": TOKEN,
    }  # fmt: skip
    with pytest.raises(ConfigError, match="run python -m pipeline first"):
        MotherDuck("nothing").dbt_variables()


def dbt(*flags: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dbt.cli.main", *flags, "--no-use-colors",
         f"--project-dir={models.PROJECT}"],
        env=os.environ | {"DO_NOT_TRACK": "1"} | environment,
        capture_output=True, text=True, check=False, timeout=900,
    )  # fmt: skip


def test_dbt_s_target_gets_as_far_as_the_connection(place: MotherDuck, tmp_path: Path) -> None:
    away = {"HTTP_PROXY": "http://127.0.0.1:9", "HOME": str(tmp_path)}
    ended = dbt("debug", f"--profiles-dir={models.PROJECT}", **place.dbt_variables(), **away)
    assert ended.returncode
    assert TOKEN not in ended.stdout + ended.stderr
    assert "path: md:battery" in ended.stdout
    assert 'extension "motherduck"' in ended.stdout


@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_models_are_built_in_the_database_in_use(account: Path, tmp_path: Path) -> None:
    # As at MotherDuck, the database is not the one that the session began with.
    assert job(tmp_path) == 0
    target = {
        "type": "duckdb", "path": ":memory:", "database": "battery", "schema": "main",
        "threads": 2, "settings": {"TimeZone": "UTC"},
        "attach": [{"path": str(account / "battery.duckdb"), "alias": "battery"}],
    }  # fmt: skip
    profile = {"battery_pipeline": {"target": "attached", "outputs": {"attached": target}}}
    (tmp_path / "profiles.yml").write_text(yaml.safe_dump(profile))
    ended = dbt(
        "build", f"--profiles-dir={tmp_path}", f"--target-path={tmp_path / 'target'}",
        "--exclude-resource-type=unit_test", DBT_TARGET="attached",
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout
    assert sql(account, "SELECT count(*) > 0 FROM battery_cycles") == [(True,)]
    with Marts.open("md:battery") as marts:
        assert len(marts.overview().cells) == 3


# --- writers --------------------------------------------------------------------------------------


def test_writers_work_at_the_same_time(place: MotherDuck, account: Path) -> None:
    remotes = [Remote(place) for _ in range(4)]
    inside = threading.Barrier(len(remotes), timeout=20)

    def work(number: int) -> None:
        def together(database: duckdb.DuckDBPyConnection) -> int:
            inside.wait()  # all of them have begun; nobody waits for another's turn
            return insert_new(database, READING, rows(f"{number}a", f"{number}b"))

        assert remotes[number].write(together) == 2

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(remotes))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    for remote in remotes:
        remote.close()
    assert sql(account, "SELECT count(*), count(DISTINCT reading_id) FROM readings") == [(8, 8)]


def test_a_conflict_is_tried_again(place: MotherDuck, account: Path) -> None:
    one, other = Remote(place), Remote(place)
    insert(one, rows("1", file="b.csv"))
    tries = []

    def overtaken(database: duckdb.DuckDBPyConnection) -> int:
        run(database, "SELECT count(*) FROM readings")  # from here on it sees no other's rows
        if not tries:
            insert(other, rows("1", file="a.csv"))
        tries.append(1)
        return insert_new(database, READING, rows("1", "2", file="a.csv"))

    assert one.write(overtaken) == 1
    one.close()
    other.close()
    assert len(tries) == 2
    assert sql(account, "SELECT reading_id, source_file FROM readings ORDER BY 1") == [
        ("1", "a.csv"), ("2", "a.csv")
    ]  # fmt: skip


def test_a_lost_connection_is_made_again(place: MotherDuck, account: Path) -> None:
    remote = Remote(place)
    insert(remote, rows("1"))
    assert remote._database is not None
    remote._database.close()
    assert insert(remote, rows("1", "2")) == 1
    remote.close()
    assert sql(account, "SELECT count(*) FROM readings") == [(2,)]


def test_an_outage_is_waited_for(place: MotherDuck, account: Path) -> None:
    remote = Remote(place)
    with shell(str(account / "battery.duckdb")) as other:  # the file is locked: nobody gets in
        waits = threading.Thread(target=insert, args=(remote, rows("1")))
        waits.start()
        waits.join(1.0)
        assert waits.is_alive()
        other.kill()
        waits.join(20)
        assert not waits.is_alive()
    remote.close()
    assert sql(account, "SELECT count(*) FROM readings") == [(1,)]


def test_an_outage_without_end_is_told(
    place: MotherDuck, account: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(motherduck, "_PATIENCE_S", 0.3)
    with (
        shell(str(account / "battery.duckdb")),
        pytest.raises(WarehouseFailed, match=r"^--warehouse=md:battery: IO Error.*; check the net"),
    ):
        insert(Remote(place), rows("1"))


def test_what_waiting_does_not_mend_is_told_at_once(place: MotherDuck) -> None:
    remote = Remote(place)
    remote.write(lambda database: run(database, "DROP TABLE readings"))
    began = time.monotonic()
    with pytest.raises(WarehouseFailed, match="readings does not exist"):
        insert(remote, rows("1"))
    assert time.monotonic() - began < 10
    remote.close()


def test_an_error_of_the_job_is_undone_and_told_as_it_is(place: MotherDuck, account: Path) -> None:
    remote = Remote(place)

    def failing(database: duckdb.DuckDBPyConnection) -> None:
        insert_new(database, READING, rows("1"))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        remote.write(failing)
    assert insert(remote, rows("2")) == 1
    remote.close()
    assert sql(account, "SELECT reading_id FROM readings") == [("2",)]


def test_the_whole_reading_travels(place: MotherDuck, account: Path) -> None:
    table = rows("1").cast(forms.arrow_schema(READING))
    remote = Remote(place)
    insert(remote, table)
    remote.close()
    with duckdb.connect(str(account / "battery.duckdb")) as database:
        database.execute("SET TimeZone = 'UTC'")
        there = database.sql("FROM readings").to_arrow_table()
    # What an older version of the job has written has no digest of its content.
    assert there.to_pylist() == with_content(table).to_pylist()
