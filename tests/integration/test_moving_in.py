"""The three older designs' data, in the shapes they wrote, by the commands of deploy/moving_in."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest

from tests.running import sql
from tests.services.gcs import Gcs

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "deploy" / "moving_in"
BIGQUERY, MOTHERDUCK, CASSANDRA = (
    "from_gcs_objects_and_bigquery", "from_minio_and_motherduck", "from_cassandra_and_pandas"
)  # fmt: skip


def blocks(page: str, language: str) -> list[str]:
    """A page's code blocks."""
    text = (PAGES / f"{page}.md").read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def block(page: str, language: str, *words: str) -> str:
    """The one block of a page that has all these words."""
    found = [one for one in blocks(page, language) if all(word in one for word in words)]
    assert len(found) == 1, found
    return found[0]


def do(page: str, folder: Path, *words: str, **environment: str) -> str:
    """Runs a command of the page as it stands there; returns what it printed."""
    command = block(page, "bash", "python -m pipeline", *words)
    ended = subprocess.run(
        ["bash", "-euc", command],
        env=os.environ | environment | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "WAREHOUSE": f"duckdb:{folder / 'moved.duckdb'}",
        },
        cwd=folder, capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-3000:]
    return ended.stdout


def rows(folder: Path, query: str) -> list[tuple[Any, ...]]:
    return sql(folder / "moved.duckdb", query)


def answers(page: str, view: str) -> list[str]:
    """The page's example queries on a view; on DuckDB, where a FLOAT64 is a DOUBLE."""
    found = [one for one in blocks(page, "sql") if one.startswith("SELECT") and view in one]
    return [one.replace("FLOAT64", "DOUBLE") for one in found]


# --- JSON objects in GCS ------------------------------------------------------------------------

COUNT = 200


def message(place: int) -> dict[str, Any]:
    """As the first design's producer sends it; the very example for the first one."""
    at = datetime(2024, 6, 1, 12, tzinfo=UTC) + timedelta(seconds=place)
    return {
        "voltage_v": round(4.2 - place * 0.005, 3),
        "current_a": 1.5 if place < COUNT / 2 else -1.5,
        "streamed_at": at.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def test_the_example_is_the_older_designs_own() -> None:
    assert message(0) == {
        "voltage_v": 4.2, "current_a": 1.5, "streamed_at": "2024-06-01T12:00:00Z"
    }  # fmt: skip


def objects() -> dict[str, bytes]:
    """Object names and contents as its consumer writes them: `json.dumps`, by Kafka's time."""
    start = 1_717_243_200_123  # the broker's clock, a little behind the producer's
    return {
        f"stream_{start + place * 1000}.json": json.dumps(message(place)).encode()
        for place in range(COUNT)
    }


@pytest.fixture(scope="module")
def objects_here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The objects fetched to a folder, loaded, and the models built."""
    folder = tmp_path_factory.mktemp("objects")
    (folder / "battery_raw").mkdir()
    for name, content in objects().items():
        (folder / "battery_raw" / name).write_bytes(content)
    said = do(BIGQUERY, folder, "--source=battery_raw ")
    assert f"read {COUNT} = written {COUNT} + duplicates 0 + dead letters 0" in said
    do(BIGQUERY, folder, "pipeline.models")
    return folder


def test_objects_become_readings_of_the_cell(objects_here: Path) -> None:
    # 1.5 A are more than CS2_35 is rated for.
    assert rows(
        objects_here,
        """SELECT DISTINCT equipment_id, equipment_type, quality_flags, recorded_at = streamed_at
        FROM readings""",
    ) == [("CS2_35", "battery_cell", ["current_out_of_range", "event_time_assumed"], True)]
    assert rows(
        objects_here,
        "SELECT voltage_v, current_a, power_watt, time_delta_s FROM readings ORDER BY recorded_at",
    ) == [
        (
            message(place)["voltage_v"],
            message(place)["current_a"],
            pytest.approx(message(place)["voltage_v"] * message(place)["current_a"]),
            1.0 if place else None,
        )
        for place in range(COUNT)
    ]


def test_the_example_queries_on_objects(objects_here: Path) -> None:
    by_file, highest, power = (
        rows(objects_here, query) for query in answers(BIGQUERY, "FROM battery_")
    )
    assert dict(by_file) == {f"battery_raw/{name}": 1 for name in objects()}
    assert [(volts, at.strftime("%Y-%m-%dT%H:%M:%SZ")) for volts, at in highest] == [
        (message(place)["voltage_v"], message(place)["streamed_at"])
        for place in reversed(range(COUNT))
    ]
    assert sorted(row[-2] for row in power) == pytest.approx(
        sorted(m["voltage_v"] * m["current_a"] for m in map(message, range(COUNT)))
    )
    assert {row[-1] for row in power} == {None}  # these messages have no counters


def test_the_same_objects_in_a_bucket(gcs: Gcs, objects_here: Path, tmp_path: Path) -> None:
    bucket = gcs.client().bucket(gcs.make_bucket("battery-raw-data"))

    def put(name: str, content: bytes) -> None:
        blob = bucket.blob(f"battery_raw/{name}")
        blob.upload_from_string(content, content_type="application/json")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(put, *zip(*objects().items(), strict=True)))
    for new in (COUNT, 0):
        said = do(BIGQUERY, tmp_path, "--source=gs://", **gcs.environment)
        assert f"read {COUNT} = written {COUNT} + duplicates 0 + dead letters 0" in said
        assert rows(tmp_path, "SELECT count(*) FROM readings") == [(COUNT,)], new
    everything = "SELECT * EXCLUDE (ingested_at) FROM readings ORDER BY reading_id"
    assert rows(tmp_path, everything) == rows(objects_here, everything)


# --- battery_ts_cleaned -------------------------------------------------------------------------

TESTS = (("CS2_35_8_18_10.xlsx", 0), ("CS2_35_8_19_10.xlsx", 1), ("CS2_36_8_18_10.xlsx", 0))
LINES = 300  # of each file


def older_table(columns: str = "*") -> str:
    """SQL that makes the second design's table: a tester's columns in lower case, and its own two.

    Both cells were tested at the same time, and everything but their voltage is the same.
    """
    values = ", ".join(f"('{name}', {day}, {place})" for place, (name, day) in enumerate(TESTS))
    return f"""CREATE TABLE battery_ts_cleaned AS SELECT {columns} FROM (
        SELECT
            n AS data_point,
            n * 30.0::DOUBLE AS "test_time(s)",
            TIMESTAMP '2010-08-18 10:00:00' + to_seconds(30 * n) + to_days(day) AS date_time,
            (n % 60) * 30.0::DOUBLE AS "step_time(s)",
            1 + n // 60 % 2 AS step_index,
            1 + n // 120 AS cycle_index,
            CASE WHEN n // 60 % 2 = 0 THEN 0.55 ELSE -1.1 END::DOUBLE AS "current(a)",
            3.5 + place / 100 + (n % 60) / 200 AS "voltage(v)",
            n * 0.001::DOUBLE AS "charge_capacity(ah)",
            n * 0.002::DOUBLE AS "discharge_capacity(ah)",
            n * 0.004::DOUBLE AS "charge_energy(wh)",
            n * 0.007::DOUBLE AS "discharge_energy(wh)",
            0.0::DOUBLE AS "dv/dt(v/s)",
            0.08::DOUBLE AS "internal_resistance(ohm)",
            0 AS is_fc_data,
            0.0::DOUBLE AS "ac_impedance(ohm)",
            0.0::DOUBLE AS "aci_phase_angle(deg)",
            source_file,
            TIMESTAMP '2025-05-01 09:00:00' + to_seconds(n // 100) AS streamed_at
        FROM (VALUES {values}) AS files (source_file, day, place), range({LINES}) AS lines (n)
    )"""


@pytest.fixture(scope="module")
def older(tmp_path_factory: pytest.TempPathFactory) -> Iterator[duckdb.DuckDBPyConnection]:
    """The second design's database, with its view `battery_ts`."""
    path = tmp_path_factory.mktemp("older") / "battery.duckdb"
    with duckdb.connect(str(path)) as database:
        database.execute("SET TimeZone = 'UTC'")
        database.execute(older_table())
        database.execute("CREATE VIEW battery_ts AS FROM battery_ts_cleaned")
        yield database


def export(database: duckdb.DuckDBPyConnection, folder: Path, numbered: bool = False) -> None:
    """Runs the page's COPY, into a folder: the one that numbers the rows, or the other one."""
    copies = [one for one in blocks(MOTHERDUCK, "sql") if one.startswith("COPY")]
    (copy,) = (one for one in copies if ("record_index" in one) == numbered)
    database.execute(copy.replace("TO '", f"TO '{folder}/"))


@pytest.fixture(scope="module")
def table_here(older: duckdb.DuckDBPyConnection, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The table exported, loaded, and the models built."""
    folder = tmp_path_factory.mktemp("table")
    export(older, folder)
    said = do(MOTHERDUCK, folder, "battery_ts_cleaned.parquet")
    count = LINES * len(TESTS)
    assert f"read {count} = written {count} + duplicates 0 + dead letters 0" in said
    do(MOTHERDUCK, folder, "pipeline.models")
    return folder


@pytest.mark.long
def test_a_table_s_rows_find_their_cell_and_test(table_here: Path) -> None:
    assert rows(
        table_here,
        """SELECT equipment_id, test_id, source_file, count(*), min(test_time_s), max(record_index)
        FROM readings GROUP BY ALL ORDER BY 2""",
    ) == [
        (name[:6], name, name, LINES, 0.0, LINES - 1) for name, _ in TESTS
    ]  # fmt: skip
    assert rows(table_here, "SELECT count(*) FROM readings WHERE quality_flags <> []") == [(0,)]
    assert rows(table_here, "SELECT DISTINCT json_keys(extra) FROM readings") == [
        (["ac_impedance(ohm)", "aci_phase_angle(deg)", "dv/dt(v/s)", "is_fc_data"],)
    ]
    # Counters begin at zero in each file.
    assert rows(
        table_here,
        """SELECT equipment_id, sum(charge_ah), count(*) FROM battery_cycles
        GROUP BY 1 ORDER BY 1""",
    ) == [
        ("CS2_35", pytest.approx(2 * 0.299), 6), ("CS2_36", pytest.approx(0.299), 3)
    ]  # fmt: skip


@pytest.mark.long
def test_the_example_queries_on_a_table(older: duckdb.DuckDBPyConnection, table_here: Path) -> None:
    queries = answers(MOTHERDUCK, "battery_ts")
    assert len(queries) == 3
    for query in queries:
        were = older.execute(query).fetchall()
        # What had no zone was UTC.
        were = [tuple(_utc(value) for value in row) for row in were]
        assert sorted(rows(table_here, query)) == sorted(were), query
        if "ORDER BY" in query:
            assert rows(table_here, query) == were


def _utc(value: Any) -> Any:
    return value.replace(tzinfo=UTC) if isinstance(value, datetime) else value


@pytest.mark.long
def test_a_table_with_nothing_but_the_named_columns(tmp_path: Path) -> None:
    with duckdb.connect() as database:
        database.execute(older_table('"voltage(v)", "current(a)", source_file, streamed_at'))
        export(database, tmp_path, numbered=True)
    for _ in range(2):
        do(MOTHERDUCK, tmp_path, "battery_ts_cleaned.parquet")
        assert rows(
            tmp_path, "SELECT test_id, count(*), any_value(quality_flags) FROM readings GROUP BY 1"
            " ORDER BY 1"
        ) == [(name, LINES, ["event_time_assumed"]) for name, _ in TESTS]  # fmt: skip


@pytest.mark.long
def test_the_table_and_the_files_it_was_made_from_are_the_same_readings(
    older: duckdb.DuckDBPyConnection, table_here: Path, tmp_path: Path
) -> None:
    for name, _ in TESTS:
        folder = tmp_path / "calce" / name[:6]
        folder.mkdir(parents=True, exist_ok=True)
        tester = older.sql(
            f"SELECT * EXCLUDE (source_file, streamed_at) FROM battery_ts WHERE source_file = '{name}'"
        )
        tester.write_csv(str(folder / name.replace(".xlsx", ".csv")))
    command = [sys.executable, "-m", "pipeline", f"--source={tmp_path / 'calce'}", "--lake=none",
               f"--warehouse=duckdb:{tmp_path / 'moved.duckdb'}"]  # fmt: skip
    assert subprocess.run(command, cwd=ROOT, check=False, timeout=300).returncode == 0
    ids = "SELECT reading_id FROM readings ORDER BY 1"
    assert rows(tmp_path, ids) == rows(table_here, ids)


# --- sensor_data --------------------------------------------------------------------------------

MACHINES, MINUTES = 3, 40
# cqlsh puts the key first and the other columns in order of their names.
COLUMNS = ("equipment_id", "timestamp", "current", "frequency", "humidity", "temperature",
           "vibration", "voltage")  # fmt: skip


def reading(machine: int, minute: int) -> dict[str, Any]:
    """A row of the third design's table, rounded as its pandas did."""
    return {
        "equipment_id": machine,
        "timestamp": datetime(2024, 6, 1, 12, tzinfo=UTC) + timedelta(minutes=minute),
        "current": round(8.5 + machine / 10 + minute / 100, 2),
        "frequency": round(50 + minute % 3 / 10, 2),
        "humidity": round(40 + minute % 5, 2),
        "temperature": round(45 + minute / 10, 2),
        "vibration": round(0.2 + machine / 100, 2),
        "voltage": round(229.5 + minute / 10, 2),
    }


FLEET = [reading(machine, minute) for machine in (1, 2, 3) for minute in range(MINUTES)]
EXPORTS = {
    # name of the tool: names of files and the form of a timestamp in them
    "cqlsh": (["sensor_data.csv"], "%Y-%m-%d %H:%M:%S.000+0000"),
    "dsbulk": (["output-000001.csv", "output-000002.csv"], "%Y-%m-%dT%H:%M:%SZ"),
}


def exported(folder: Path, tool: str) -> None:
    """Writes the table as the tool exports it."""
    names, form = EXPORTS[tool]
    (folder / "sensor_data").mkdir()
    for place, name in enumerate(names):
        lines = [
            ",".join(
                value.strftime(form) if isinstance(value, datetime) else str(value)
                for value in row.values()
            )
            for row in FLEET[place :: len(names)]
        ]
        (folder / "sensor_data" / name).write_text("\n".join([",".join(COLUMNS), *lines, ""]))


@pytest.fixture(scope="module")
def machines_here(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Each tool's export, loaded."""
    folders = {}
    for tool in EXPORTS:
        folders[tool] = tmp_path_factory.mktemp(tool)
        exported(folders[tool], tool)
        said = do(CASSANDRA, folders[tool], "--source=sensor_data")
        count = len(FLEET)
        assert f"read {count} = written {count} + duplicates 0 + dead letters 0" in said
    do(CASSANDRA, folders["cqlsh"], "pipeline.models")
    return folders


@pytest.mark.long
def test_rows_of_machines_become_readings(machines_here: dict[str, Path]) -> None:
    found = rows(
        machines_here["cqlsh"],
        """SELECT equipment_id, equipment_type, recorded_at, current_a, frequency_hz,
            temperature_c, voltage_v, (extra ->> 'humidity')::DOUBLE,
            (extra ->> 'vibration')::DOUBLE, quality_flags
        FROM readings ORDER BY equipment_id, recorded_at""",
    )
    assert found == [
        (
            str(row["equipment_id"]), "machine", row["timestamp"], row["current"],
            row["frequency"], row["temperature"], row["voltage"], row["humidity"],
            row["vibration"], [],
        )
        for row in FLEET
    ]  # fmt: skip


@pytest.mark.long
def test_either_export_gives_the_same_readings(machines_here: dict[str, Path]) -> None:
    ids = "SELECT reading_id, time_delta_s FROM readings ORDER BY 1"
    assert rows(machines_here["cqlsh"], ids) == rows(machines_here["dsbulk"], ids)


@pytest.mark.long
def test_what_was_loaded_is_not_loaded_again_and_what_is_new_is(tmp_path: Path) -> None:
    exported(tmp_path, "dsbulk")
    second = tmp_path / "sensor_data" / "output-000002.csv"
    kept = second.read_text()
    second.unlink()
    counts = []
    for content in (None, kept, kept):
        if content:
            second.write_text(content)
        do(CASSANDRA, tmp_path, "--source=sensor_data")
        counts += rows(tmp_path, "SELECT count(*), count(DISTINCT reading_id) FROM readings")
    assert counts == [(60, 60), (120, 120), (120, 120)]


@pytest.mark.long
def test_the_older_queries_on_machines(machines_here: dict[str, Path]) -> None:
    newest, each, span = (
        rows(machines_here["cqlsh"], query) for query in answers(CASSANDRA, "battery_ts")
    )
    last = FLEET[-1]["timestamp"]
    assert newest == [(last,)]
    assert sorted(each) == [("1", last), ("2", last), ("3", last)]
    assert span == [
        (row["timestamp"], row["voltage"], row["current"], row["frequency"], row["temperature"],
         str(row["vibration"]))
        for row in FLEET
        if row["equipment_id"] == 2 and 10 <= row["timestamp"].minute < 20
    ]  # fmt: skip
    assert rows(
        machines_here["cqlsh"],
        "SELECT equipment_id, sum(readings) FROM equipment_hourly GROUP BY 1 ORDER BY 1",
    ) == [("1", MINUTES), ("2", MINUTES), ("3", MINUTES)]


# --- the pages ----------------------------------------------------------------------------------


@pytest.mark.parametrize("page", sorted(path.stem for path in PAGES.glob("*.md")))
def test_links_lead_somewhere(page: str) -> None:
    text = (PAGES / f"{page}.md").read_text()
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert (PAGES / target).exists(), target


def test_the_list_has_every_page() -> None:
    listed = re.findall(r"\]\((from_\w+)\.md\)", (PAGES / "README.md").read_text())
    assert sorted(listed) == sorted(path.stem for path in PAGES.glob("from_*.md"))
    assert set(listed) == {BIGQUERY, MOTHERDUCK, CASSANDRA}
