"""A build of the models that has nothing to do ends at once, and its data tests look at what changed."""

from __future__ import annotations

import shutil
from pathlib import Path

import duckdb
import pytest

from pipeline import model_record, model_warnings, models
from tests.running import Ran, run
from tests.services import warm

NOTHING = "nothing new since they were built"
CELLS = ("sim_cell_001", "sim_cell_002")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """A fleet whose models were built."""
    ran = run(tmp_path_factory.mktemp("fleet"), "simulator:?equipment=3&cycles=2&interval=60")
    assert ran.status == 0, ran.err
    success, counts = models.build(f"duckdb:{ran.warehouse}")
    assert success, counts
    assert not counts["WARN"]
    return ran


@pytest.fixture
def fleet(made: Ran, tmp_path: Path) -> Ran:
    """A copy of it."""
    warehouse = tmp_path / "warehouse.duckdb"
    shutil.copy(made.warehouse, warehouse)
    return Ran(0, "", "", tmp_path, warehouse)


def change(ran: Ran, statement: str) -> None:
    with duckdb.connect(str(ran.warehouse)) as database:
        assert database.execute(statement)


def unchanged(ran: Ran) -> bool:
    return models.unchanged(f"duckdb:{ran.warehouse}") is not None


def build(ran: Ran, *flags: str) -> int:
    """The command's exit status."""
    with warm.cold_dbt():
        return models.main([f"--warehouse=duckdb:{ran.warehouse}", *flags])


def one_reading(ran: Ran, cell: str) -> str:
    """The id of a reading of a cell, in the middle of its test."""
    (row,) = ran.sql(
        f"SELECT reading_id FROM battery_features WHERE equipment_id = '{cell}' AND reading_seq = 60"
    )
    return str(row[0])


def test_nothing_new_is_told_and_nothing_runs(
    fleet: Ran, capsys: pytest.CaptureFixture[str]
) -> None:
    results = model_warnings.target(models.PROJECT) / "run_results.json"
    before = results.stat().st_mtime_ns
    assert build(fleet) == 0
    assert NOTHING in capsys.readouterr().out
    assert results.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE readings SET time_delta_s = time_delta_s + 1 WHERE record_index = 60",
        "DELETE FROM readings WHERE record_index = 60",
        "INSERT INTO readings SELECT * FROM readings LIMIT 1",
        "UPDATE equipment_profiles SET v_max_v = v_max_v + 0.1",
        "ALTER TABLE readings ADD COLUMN another INTEGER",
        "DROP TABLE battery_cycles",
        "DELETE FROM battery_lifetime",
        "DROP VIEW int_reading_sequence",
        "DELETE FROM model_builds",
    ],
)
def test_what_was_changed_by_hand_is_noticed(fleet: Ran, statement: str) -> None:
    assert unchanged(fleet)
    change(fleet, statement)
    assert not unchanged(fleet)


def test_what_was_lost_is_built_again(fleet: Ran) -> None:
    before = fleet.sql("SELECT count(*), sum(discharge_ah) FROM battery_cycles")
    for lost in ("battery_cycles", "battery_features", "battery_steps", "model_parts"):
        change(fleet, f"DROP TABLE {lost}")
    success, counts = models.build(f"duckdb:{fleet.warehouse}")
    assert success, counts
    assert unchanged(fleet)
    after = fleet.sql("SELECT count(*), sum(discharge_ah) FROM battery_cycles")
    assert after[0] == (before[0][0], pytest.approx(before[0][1]))


def test_another_project_or_setting_is_noticed(
    fleet: Ran, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "dbt_project"
    shutil.copytree(models.PROJECT, project, ignore=shutil.ignore_patterns("target", "logs"))
    with duckdb.connect(str(fleet.warehouse)) as database:
        assert model_record.last(project, database)
        settings = project / "dbt_project.yml"
        text = settings.read_text()
        settings.write_text(text.replace("alert_merge_s: 900", "alert_merge_s: 901"))
        assert not model_record.last(project, database)
        settings.write_text(text)
        assert model_record.last(project, database)
        (project / "macros" / "more.sql").write_text("{%- macro more() -%}{%- endmacro -%}")
        assert not model_record.last(project, database)
        (project / "macros" / "more.sql").unlink()
        monkeypatch.setenv("DBT_FULL_REFRESH", "1")
        assert not model_record.last(project, database)


def test_a_build_of_some_models_or_one_that_failed_is_no_complete_one(
    fleet: Ran, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build(fleet, "--select=dim_equipment") == 0
    assert not unchanged(fleet)
    assert build(fleet) == 0
    assert unchanged(fleet)
    change(fleet, "ALTER TABLE readings DROP COLUMN voltage_v")
    assert build(fleet) == 1
    assert not unchanged(fleet)
    assert NOTHING not in capsys.readouterr().out


def test_a_broken_row_is_found_where_something_changed_and_elsewhere_by_the_full_check(
    fleet: Ran, capsys: pytest.CaptureFixture[str]
) -> None:
    rested, touched = (one_reading(fleet, cell) for cell in CELLS)
    change(fleet, f"UPDATE battery_features SET de_charge_wh = -1 WHERE reading_id = '{rested}'")
    change(
        fleet,
        "UPDATE readings SET time_delta_s = 77, content_id = content_id + 1 "
        f"WHERE reading_id = '{touched}'",
    )
    for _ in range(2):
        # What warned is told again, though nothing is new.
        assert build(fleet) == 0
        told = capsys.readouterr().out
        assert "1 data test warned" in told
        assert CELLS[1] in told and CELLS[0] not in told
    assert fleet.sql(
        f"SELECT de_charge_wh FROM battery_features WHERE reading_id = '{rested}'"
    ) == [(-1,)]
    assert build(fleet, "--check=all") == 0
    told = capsys.readouterr().out
    assert f"below zero: de_charge_wh in 1 row ({CELLS[0]})" in told
