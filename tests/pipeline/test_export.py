"""The exporter: flags, file names, columns and their values, metadata; whole files or none."""

from __future__ import annotations

import csv
import datetime as dt
import json
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.export import main
from pipeline.exporting import files, rows
from pipeline.exporting.selection import scope_of
from pipeline.sources.files.splits import list_files
from schemas import bdf
from schemas.forms import arrow_schema, duckdb_ddl
from schemas.reading import READING, TEST_DIALECT

START = dt.datetime(2024, 3, 1, 8, 0, tzinfo=dt.UTC)


def reading(place: int, **values: Any) -> dict[str, Any]:
    """A reading of cell A's test t1, a second after the one before it."""
    moment = values.pop("recorded_at", START + dt.timedelta(seconds=place))
    made = {
        "equipment_id": "A",
        "equipment_type": "battery_cell",
        "test_id": "t1",
        "recorded_at": moment,
        "ingested_at": START + dt.timedelta(days=1),
        "test_time_s": float(place),
        "voltage_v": 3.7,
        "current_a": -0.5,
        "quality_flags": [],
    } | values
    made["reading_id"] = f"{made['equipment_id']}-{made['test_id']}-{moment}-{place}"
    return made


class Warehouse:
    """A DuckDB file with the job's tables."""

    def __init__(self, folder: Path) -> None:
        self.path, self.out = folder / "warehouse.duckdb", folder / "out"
        with duckdb.connect(str(self.path)) as database:
            database.execute(duckdb_ddl(READING))
            database.execute(duckdb_ddl(TEST_DIALECT))

    def add(self, *readings: dict[str, Any]) -> None:
        table = pa.Table.from_pylist(list(readings), schema=arrow_schema(READING))
        with duckdb.connect(str(self.path)) as database:
            database.execute("SET TimeZone = 'UTC'")
            database.register("incoming", table)
            database.execute("INSERT INTO readings BY NAME SELECT * FROM incoming")

    def execute(self, query: str) -> None:
        with duckdb.connect(str(self.path)) as database:
            database.execute("SET TimeZone = 'UTC'")
            database.execute(query)

    def export(self, *flags: str) -> int:
        return main(
            [f"--warehouse=duckdb:{self.path}", f"--out={self.out}", "--no_progress", *flags]
        )

    def names(self, ending: str = ".csv") -> list[str]:
        return sorted(path.name for path in self.out.iterdir() if path.name.endswith(ending))

    def table(self, name: str) -> list[dict[str, str]]:
        with (self.out / name).open(newline="", encoding="utf-8") as handle:
            return list(csv.DictReader(handle))

    def metadata(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.out / name).read_text(encoding="utf-8"))
        return found


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    return Warehouse(tmp_path)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--format=xyz"], "--format: invalid choice"),
        (["--as=json"], "--as: invalid choice"),
        (["--speed=3"], "--speed: unknown flag"),
        (["--lake=data/lake", "--warehouse=duckdb:x"], "--lake and --warehouse can't stand"),
        (["--warehouse=duckdb:nowhere.duckdb"], "there is no such file; run python -m pipeline"),
        (["--warehouse=cassandra://host/keys"], "can't be exported from; give duckdb:PATH"),
        (["--lake=nowhere"], "--lake=nowhere: there is no readings/…/*.parquet in it"),
        (["--lake="], "--lake=: must not be empty"),
        (["--lake=ftp://host/lake"], "--lake=ftp://host/lake: no such lake"),
        (["--out=s3://bucket/folder"], "--out=s3://bucket/folder: must be a folder"),
        (["--institution=a__b"], "--institution=a__b: must be letters and digits"),
    ],
)
def test_a_wrong_flag_is_named_with_its_fix(
    flags: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(flags) == 2

    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert said in error
    assert error.count("\n") == 1


def test_a_warehouse_without_readings_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    duckdb.connect(str(tmp_path / "x.duckdb")).close()

    assert main([f"--warehouse=duckdb:{tmp_path / 'x.duckdb'}"]) == 2
    assert "there is no table readings; run python -m pipeline first" in capsys.readouterr().err


def test_nothing_to_export_is_said_with_what_there_is(
    warehouse: Warehouse, capsys: pytest.CaptureFixture[str]
) -> None:
    assert warehouse.export() == 1
    assert "has no reading of a cell\n" in capsys.readouterr().err

    warehouse.add(reading(0, equipment_id="M", equipment_type="machine", test_id=None))
    assert warehouse.export() == 1
    assert "has no reading of a cell, only 1 machines" in capsys.readouterr().err

    warehouse.add(reading(0))
    assert warehouse.export("--equipment_id=B*", "--test=t9") == 1
    assert (
        "no test fits --equipment_id=B* --test=t9; there are the cells A" in capsys.readouterr().err
    )
    assert not warehouse.out.exists()


def test_each_test_has_a_file_and_machines_have_none(
    warehouse: Warehouse, capsys: pytest.CaptureFixture[str]
) -> None:
    warehouse.add(*(reading(place) for place in range(3)))
    warehouse.add(reading(0, test_id="t2", recorded_at=START + dt.timedelta(days=1)))
    warehouse.add(reading(0, equipment_id="B"))
    warehouse.add(reading(0, equipment_id="M", equipment_type="machine", test_id=None))

    assert warehouse.export() == 0

    assert warehouse.names() == [
        "A__20240301_001.bdf.csv",
        "A__20240302_001.bdf.csv",
        "B__20240301_001.bdf.csv",
    ]
    assert len(warehouse.table("A__20240301_001.bdf.csv")) == 3
    said = capsys.readouterr().out
    assert "exported 5 readings of 2 cells: 3 files, " in said
    assert "left out 1 machines" in said


def test_a_files_name_does_not_depend_on_what_else_is_exported(warehouse: Warehouse) -> None:
    later = START + dt.timedelta(hours=1)
    warehouse.add(reading(0), reading(0, test_id="t2", recorded_at=later))

    assert warehouse.export("--test=t2", "--institution=UCam") == 0

    assert warehouse.names() == ["UCam__A__20240301_002.bdf.csv"]


def test_names_that_no_file_can_have_stay_apart(warehouse: Warehouse) -> None:
    cells = ["../a/b", ".. a b", "电池 1", "a__b", "x" * 300, "???"]
    warehouse.add(*(reading(0, equipment_id=cell) for cell in cells))

    assert warehouse.export() == 0

    names = warehouse.names()
    assert len(names) == len(cells)
    assert {"a-b__20240301_001.bdf.csv", "a-b__20240301_002.bdf.csv"} <= set(names)
    assert "电池-1__20240301_001.bdf.csv" in names
    assert not any(name.startswith(".") for name in names)
    read = {warehouse.table(name)[0]["Equipment ID"] for name in names}
    assert read == set(cells)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--equipment_id=A1", "--equipment_id=B*"], {"A1", "B1", "B2"}),
        (["--equipment_id=[!A]*"], {"B1", "B2"}),
        (["--test=*2"], {"B2"}),
        (["--test=plain[1]"], {"A1"}),
        (["--equipment_id=B?", "--test=*1"], {"B1"}),
    ],
)
def test_patterns_choose_cells_and_tests(
    warehouse: Warehouse, flags: list[str], expected: set[str]
) -> None:
    warehouse.add(
        reading(0, equipment_id="A1", test_id="plain[1]"),
        reading(0, equipment_id="B1", test_id="t1"),
        reading(0, equipment_id="B2", test_id="t2"),
    )

    assert warehouse.export(*flags) == 0

    assert {name.split("__")[0] for name in warehouse.names()} == expected


FULL = {
    "cycle_index": 2,
    "step_index": 7,
    "step_time_s": 0.25,
    "record_index": 41,
    "source_row": 5,
    "temperature_c": 25.5,
    "ambient_temperature_c": 24.0,
    "charge_capacity_ah": 0.1,
    "discharge_capacity_ah": 0.2,
    "charge_energy_wh": 0.3,
    "discharge_energy_wh": 1 / 3,
    "internal_resistance_ohm": 0.05,
    "streamed_at": START + dt.timedelta(seconds=1, microseconds=7),
    "extra": '{"aux, 1":"say \\"x\\"","line":"a\\nb"}',
}


def test_columns_are_the_terms_of_version_1_3(warehouse: Warehouse) -> None:
    moment = START + dt.timedelta(microseconds=123_457)
    warehouse.add(reading(1, recorded_at=moment, voltage_v=1e-7, **FULL))

    assert warehouse.export() == 0

    assert warehouse.table("A__20240301_001.bdf.csv") == [
        {
            "Test Time / s": "1",
            "Voltage / V": "1e-7",
            "Current / A": "-0.5",
            "Unix Time / s": "1709280000.123457",
            "Cycle Count / 1": "2",
            "Step ID": "7",
            "Step Time / s": "0.25",
            "Record Index / 1": "41",
            "Surface Temperature / degC": "25.5",
            "Ambient Temperature / degC": "24",
            "Schedule Charging Capacity / Ah": "0.1",
            "Schedule Discharging Capacity / Ah": "0.2",
            "Schedule Charging Energy / Wh": "0.3",
            "Schedule Discharging Energy / Wh": "0.3333333333333333",
            "Internal Resistance / ohm": "0.05",
            "Equipment ID": "A",
            "Test ID": "t1",
            "Source Row": "5",
            "Streamed At": "2024-03-01T08:00:01.000007Z",
            "extra": FULL["extra"],
        }
    ]


def test_parquet_has_the_same_with_types_units_and_terms(warehouse: Warehouse) -> None:
    moment = START + dt.timedelta(microseconds=123_457)
    warehouse.add(reading(1, recorded_at=moment, **FULL), reading(2))

    assert warehouse.export("--as=parquet", "--labels=machine") == 0

    table = pq.read_table(warehouse.out / "A__20240301_001.bdf.parquet")
    first, second = table.to_pylist()
    assert first["unix_time_second"] == 1709280000.123457
    assert (first["step_id"], first["schedule_discharging_energy_wh"]) == (7, 1 / 3)
    assert second["step_id"] is None
    assert table.schema.field("record_index").type == pa.int64()
    field = table.schema.field("voltage_volt")
    assert field.metadata[b"unit"] == b"V"
    assert field.metadata[b"iri"] == (bdf.NAMESPACE + "voltage_volt").encode()
    assert table.schema.metadata[b"bdf_version"] == b"1.3"
    inside = json.loads(table.schema.metadata[b"bdf_metadata"])
    assert inside == warehouse.metadata("A__20240301_001.bdf.metadata.json")


def test_columns_that_are_null_throughout_are_left_out(warehouse: Warehouse) -> None:
    warehouse.add(reading(0), reading(1, cycle_index=1))

    assert warehouse.export() == 0

    first, second = warehouse.table("A__20240301_001.bdf.csv")
    assert "Step ID" not in first
    assert (first["Cycle Count / 1"], second["Cycle Count / 1"]) == ("", "1")


def test_a_frequency_does_not_make_a_machine_of_a_cell(warehouse: Warehouse) -> None:
    warehouse.add(reading(0, frequency_hz=1000.0), reading(1))

    assert warehouse.export() == 0

    first, second = warehouse.table("A__20240301_001.bdf.csv")
    assert (first["Frequency / Hz"], second["Frequency / Hz"]) == ("1000", "")
    assert first["Equipment Type"] == second["Equipment Type"] == "battery_cell"


def test_a_test_without_a_clock_gets_the_one_that_the_format_requires(
    warehouse: Warehouse,
) -> None:
    warehouse.add(*(reading(place, test_time_s=None) for place in (5, 7)))

    assert warehouse.export() == 0

    assert [row["Test Time / s"] for row in warehouse.table("A__20240301_001.bdf.csv")] == [
        "0",
        "2",
    ]
    told = warehouse.metadata("A__20240301_001.bdf.metadata.json")["extras"]["columns"]
    assert "the test had no clock" in told["Test Time / s"]["derived"]


def test_rows_are_in_order_of_time_then_of_their_file(warehouse: Warehouse) -> None:
    # Ten rows of one moment, no record number: only their place in the file orders them.
    rows_ = [
        reading(0, test_time_s=0.0, source_row=place, voltage_v=float(place)) for place in range(10)
    ]
    for place, row in enumerate(rows_):
        row["reading_id"] = str(9 - place)
    warehouse.add(reading(5), *reversed(rows_))

    assert warehouse.export() == 0

    voltages = [row["Voltage / V"] for row in warehouse.table("A__20240301_001.bdf.csv")]
    assert voltages == [*map(str, range(10)), "3.7"]


@pytest.mark.parametrize(
    ("dialects", "grains", "scope"),
    [
        (["neware"], ["cycle"], "cycle"),
        (["biologic"], ["step"], "step"),
        ([""], ["test"], "test"),
        (["arbin_xlsx"], ["test"], "schedule"),
        (["Arbin", ""], ["cycle"], "schedule"),
        (["neware"], ["cycle", "step"], "schedule"),
        (["neware"], [""], "schedule"),
        ([], [], "schedule"),
        (["maccor"], ["week"], "schedule"),
    ],
)
def test_counters_are_told_by_what_they_restart_with(
    dialects: list[str], grains: list[str], scope: str
) -> None:
    assert scope_of(dialects, grains) == scope


def test_counters_of_a_known_grain_have_its_terms(warehouse: Warehouse) -> None:
    warehouse.add(reading(0, charge_capacity_ah=0.1, discharge_energy_wh=0.2))
    warehouse.add(reading(0, equipment_id="B", charge_capacity_ah=0.1))
    warehouse.execute(
        """INSERT INTO test_dialects BY NAME SELECT 'x' AS dialect_id, 'A' AS equipment_id,
        't1' AS test_id, 'neware' AS dialect, 'cycle' AS counter_grain, '{}' AS columns_used,
        'positive_charges' AS current_sign, 'a' AS clock, 'b' AS event_time,
        ['unit_guessed'] AS disagreements, now() AS ingested_at"""
    )

    assert warehouse.export() == 0

    (row,) = warehouse.table("A__20240301_001.bdf.csv")
    assert row["Cycle Charging Capacity / Ah"] == "0.1"
    assert row["Cycle Discharging Energy / Wh"] == "0.2"
    told = warehouse.metadata("A__20240301_001.bdf.metadata.json")["extras"]
    assert told["columns"]["Cycle Charging Capacity / Ah"]["restarts_with"] == "cycle"
    assert told["in_doubt"] == ["unit_guessed"]
    (row,) = warehouse.table("B__20240301_001.bdf.csv")
    assert row["Schedule Charging Capacity / Ah"] == "0.1"


def test_metadata_says_what_the_table_cannot(warehouse: Warehouse) -> None:
    warehouse.add(
        reading(0, source_file="A/one.csv", quality_flags=["gap", "late"]),
        reading(1, source_file="A/two.csv", quality_flags=["gap"]),
    )

    assert warehouse.export() == 0

    told = warehouse.metadata("A__20240301_001.bdf.metadata.json")
    assert told["battinfo_cell"]["cell_instance"]["name"] == "A"
    assert told["battinfo_test"]["test"] == {
        "name": "t1",
        "identifier": "t1",
        "started_at": 1709280000,
        "ended_at": 1709280001,
    }
    extras = told["extras"]
    assert extras["readings"] == 2
    assert extras["source_files"] == ["A/one.csv", "A/two.csv"]
    assert extras["quality_flags"] == {"gap": 2, "late": 1}
    assert extras["columns"]["Test ID"] == {
        "name": "test_id",
        "unit": "",
        "description": READING.field("test_id").description,
    }


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_the_same_readings_make_the_same_bytes(
    warehouse: Warehouse, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    readings = [
        reading(place, equipment_id=cell, extra=f'{{"n":{place}}}')
        for place in range(500)
        for cell in ("A", "B")
    ]
    warehouse.add(*readings)
    assert warehouse.export(f"--as={kind}") == 0
    first = {path.name: path.read_bytes() for path in warehouse.out.iterdir()}
    assert len(first) == 4

    # In other portions, and after other tests.
    monkeypatch.setattr(rows, "_ROWS", 2048)
    warehouse.add(*(reading(place, equipment_id="0") for place in range(3000)))
    assert warehouse.export(f"--as={kind}", "--overwrite") == 0

    for name, data in first.items():
        assert (warehouse.out / name).read_bytes() == data


def test_row_groups_do_not_grow_with_the_test(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_GROUP", 100)
    warehouse.add(*(reading(place) for place in range(250)))

    assert warehouse.export("--as=parquet") == 0

    file = pq.ParquetFile(warehouse.out / "A__20240301_001.bdf.parquet")
    sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    assert sizes == [100, 100, 50]


def test_files_that_are_there_are_kept_unless_told(
    warehouse: Warehouse, capsys: pytest.CaptureFixture[str]
) -> None:
    warehouse.add(reading(0))
    assert warehouse.export() == 0
    target = warehouse.out / "A__20240301_001.bdf.csv"
    target.write_text("mine")

    assert warehouse.export() == 2
    assert "1 of the 1 files already exist, such as A__20240301_001.bdf.csv" in (
        capsys.readouterr().err
    )
    assert target.read_text() == "mine"

    assert warehouse.export("--overwrite") == 0
    assert len(warehouse.table(target.name)) == 1


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_file_is_written_whole_or_not_at_all(
    warehouse: Warehouse,
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    warehouse.add(reading(0), reading(0, equipment_id="B"), reading(1, equipment_id="B"))
    write = files.OneFile.write

    def full(self: files.OneFile, readings: pa.Table) -> None:
        write(self, readings)
        if self.path.name.startswith("B"):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.OneFile, "write", full)

    assert warehouse.export(f"--as={kind}") == 1

    assert "No space left on device; files that are complete stay" in capsys.readouterr().err
    assert {path.name for path in warehouse.out.iterdir()} == {
        f"A__20240301_001.bdf.{kind}",
        "A__20240301_001.bdf.metadata.json",
    }


def test_an_interrupted_export_leaves_no_part_of_a_file(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    warehouse.add(reading(0))

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(files.OneFile, "write", interrupted)

    assert warehouse.export() == 130
    assert "interrupted" in capsys.readouterr().err
    assert not list(warehouse.out.iterdir())


def test_what_a_killed_export_left_is_no_obstacle_and_no_source(warehouse: Warehouse) -> None:
    warehouse.add(reading(0))
    warehouse.out.mkdir()
    (warehouse.out / ".A__20240301_001.bdf.csv.partial").write_text("half")
    (warehouse.out / "A__20240301_001.bdf.metadata.json").write_text("{}")
    (warehouse.out / "A__20240301_001.bdf.csv.metadata.json").write_text("{}")

    assert not list_files(str(warehouse.out))
    assert warehouse.export() == 0

    found = [Path(split.path).name for split in list_files(str(warehouse.out))]
    assert found == ["A__20240301_001.bdf.csv"]


def test_a_folder_that_cannot_be_made_is_named(
    warehouse: Warehouse, capsys: pytest.CaptureFixture[str]
) -> None:
    warehouse.add(reading(0))
    warehouse.out.write_text("a file")

    assert warehouse.export() == 2
    assert f"--out={warehouse.out}: cannot be created" in capsys.readouterr().err


def test_a_warehouse_of_an_earlier_version_is_exported(warehouse: Warehouse) -> None:
    warehouse.add(reading(0))
    warehouse.execute("ALTER TABLE readings DROP COLUMN source_row")
    warehouse.execute("DROP TABLE test_dialects")

    assert warehouse.export() == 0
    assert len(warehouse.table("A__20240301_001.bdf.csv")) == 1


def test_a_reading_that_stands_twice_in_a_lake_is_exported_once(tmp_path: Path) -> None:
    for name, places in (("dt=2024-03-01/a", range(4)), ("dt=2024-03-01/b", range(2, 6))):
        path = tmp_path / "lake" / "readings" / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        made = [reading(place, source_file=name) for place in places]
        pq.write_table(pa.Table.from_pylist(made, schema=arrow_schema(READING)), path)

    status = main([f"--lake={tmp_path / 'lake'}", f"--out={tmp_path / 'out'}", "--no_progress"])

    assert status == 0
    text = (tmp_path / "out" / "A__20240301_001.bdf.csv").read_text()
    times = [line.split(",")[0] for line in text.splitlines()[1:]]
    assert times == ["0", "1", "2", "3", "4", "5"]


def lake_of(folder: Path, *files: list[dict[str, Any]], without: str | None = None) -> Path:
    """A lake with a file for each list of readings, of which the first may lack a column."""
    for number, made in enumerate(files):
        path = folder / "lake" / "readings" / f"dt=2024-03-01/{number}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        table = pa.Table.from_pylist(made, schema=arrow_schema(READING))
        lacks = [without] if without and number == 0 else []
        pq.write_table(table.drop_columns(lacks), path)
    return folder / "lake"


def versions(*volts: float) -> list[list[dict[str, Any]]]:
    """Three readings in each version, a day after the one before it; alike volts, alike content."""
    return [
        [
            reading(
                place,
                voltage_v=volt,
                ingested_at=START + dt.timedelta(days=day),
                source_file=f"{day}.csv",
                content_id=round(volt * 10),
            )
            for place in range(3)
        ]
        for day, volt in enumerate(volts, 1)
    ]


def test_of_several_versions_in_a_lake_the_one_that_counts_is_exported(tmp_path: Path) -> None:
    # A fourth reading has one version. The old version, read again later, stays old.
    files = [*versions(3.5, 3.6, 3.5), [reading(3, voltage_v=3.7, content_id=1)]]
    for turned in (files, files[::-1]):
        lake = lake_of(tmp_path, *turned)
        out = tmp_path / "out"

        assert main([f"--lake={lake}", f"--out={out}", "--no_progress", "--overwrite"]) == 0

        (name,) = out.glob("*.bdf.csv")
        with name.open(newline="", encoding="utf-8") as handle:
            volts = [row["Voltage / V"] for row in csv.DictReader(handle)]
        assert volts == ["3.6", "3.6", "3.6", "3.7"]


def test_versions_are_told_apart_in_files_from_before_there_were_versions(tmp_path: Path) -> None:
    first, second, again = versions(3.5, 3.6, 3.5)
    for each in (*first, *second, *again):
        each["content_id"] = None
    for without in (None, "content_id"):
        lake = lake_of(tmp_path, first, second, again, without=without)
        out = tmp_path / f"{without}"

        assert main([f"--lake={lake}", f"--out={out}", "--no_progress"]) == 0

        (name,) = out.glob("*.bdf.csv")
        with name.open(newline="", encoding="utf-8") as handle:
            assert [row["Voltage / V"] for row in csv.DictReader(handle)] == ["3.6"] * 3
