"""The command line: what is wrong is told in one line that names the flag and the fix."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest

from pipeline.engines import choose
from pipeline.errors import ConfigError
from pipeline.options import config_from, parse
from schemas import profiles
from tests.running import run

WRONG = [
    (["--window=7"], "--window=7", "divide a day"),
    (["--window=0"], "--window=0", "divide a day"),
    (["--allowed_lateness=-1"], "--allowed_lateness=-1", "0 or more"),
    (["--shards=0"], "--shards=0", "1 or more"),
    (["--time_zone=Mars/Base"], "--time_zone=Mars/Base", "Europe/Berlin"),
    (["--equipment_profile=nothing_such"], "--equipment_profile=nothing_such", "generic_li_ion"),
    (["--sauce=x"], "--sauce", "did you mean --source?"),
    (["--runner=DirctRunner"], "--runner=DirctRunner", "did you mean DirectRunner?"),
    (["--runner=Storm"], "--runner=Storm", "no such runner; there are DirectRunner, PrismRunner,"),
    (["--runner=no_such.Runner"], "--runner=no_such.Runner", "No module named 'no_such'"),
    (["--runner=json.JSONDecoder"], "--runner=json.JSONDecoder", "is no runner; there are Dir"),
    (
        ["--runner=PrismRunner", "--job_endpoint=localhost:1"],
        "--job_endpoint=localhost:1",
        "nothing answers there (Connection refused); start the job server",
    ),
    (["--runner=PrismRunner", "--job_endpoint=here"], "--job_endpoint=here", "must be HOST:PORT"),
    (["--direct_num_workers=-3"], "--direct_num_workers=-3", "0 (one a core) or more"),
    (["--shards=many"], "--shards", "invalid int value"),
    (["--warehouse=oracle:x"], "--warehouse=oracle:x", "duckdb:PATH"),
    (["--warehouse=duckdb:"], "--warehouse=duckdb:", "needs a file"),
    (["--warehouse=none", "--warehouse=duckdb:x"], "--warehouse=none", "drop one"),
    (["--source=ftp://host/x"], "--source=ftp://host/x", "local, gs://, s3://"),
    (["--source=simulator:?cells=4"], "'cells'", "valid are"),
    (["--source=simulator:?equipment=none"], "'equipment'", "whole number"),
    (["--lake=ftp://x"], "--lake=ftp://x", "give a folder, gs://BUCKET/PREFIX"),
    (["--source=/no/such/folder"], "--source", "/no/such/folder"),
]


@pytest.mark.parametrize(("flags", "names", "fix"), WRONG)
def test_a_wrong_flag_is_named_with_its_fix(
    flags: list[str], names: str, fix: str, tmp_path: Path
) -> None:
    ran = run(tmp_path, "simulator:?readings=100", *flags)
    assert ran.status == 2
    assert ran.out == ""
    assert len(ran.err.splitlines()) == 1
    assert ran.err.startswith("error: ")
    assert names in ran.err
    assert fix in ran.err


def test_what_beam_refuses_before_anything_is_read_is_not_mended_by_another_run(
    tmp_path: Path,
) -> None:
    ran = run(tmp_path, "simulator:?readings=100", "--type_check_additional=foo")
    assert ran.status == 1 and ran.out == ""
    assert ran.err == (
        "error: the job: ValueError: Pipeline has validations errors:  Unrecognized "
        "--type_check_additional feature: foo; check the flags (--help lists them) and what they "
        "name; --debug shows the traceback\n"
    )


@pytest.mark.parametrize("name", ["directrunner", "direct", "DirectRunner"])
def test_a_runner_s_name_in_any_spelling_is_the_same_runner(name: str) -> None:
    options = parse([f"--runner={name}"])
    choose.check(options)
    assert choose.engine(options).here


def test_a_profile_with_an_unknown_key_is_named(tmp_path: Path) -> None:
    profile = tmp_path / "mine.toml"
    profile.write_text('name = "mine"\nvmax = 4.2\n')
    ran = run(tmp_path, "simulator:?readings=100", f"--equipment_profile={profile}")
    assert ran.status == 2
    assert "mine.toml" in ran.err
    assert "'vmax'" in ran.err
    assert "v_max_v" in ran.err


def test_a_file_that_is_no_database_is_refused_before_reading(tmp_path: Path) -> None:
    (tmp_path / "warehouse.duckdb").write_bytes(b"not a database" * 1000)
    ran = run(tmp_path, "simulator:?readings=100")
    assert ran.status == 2
    assert "--warehouse=duckdb:" in ran.err
    assert not list((tmp_path / "lake").rglob("*.parquet"))


def test_a_table_of_another_shape_is_refused(tmp_path: Path) -> None:
    with duckdb.connect(str(tmp_path / "warehouse.duckdb")) as database:
        database.execute("CREATE TABLE readings (reading_id VARCHAR, voltage_v VARCHAR)")
    ran = run(tmp_path, "simulator:?readings=100")
    assert ran.status == 2
    assert "readings.voltage_v is VARCHAR and should be DOUBLE" in ran.err


def test_a_lake_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "lake").write_text("a file where the folder should be")
    ran = run(tmp_path, "simulator:?readings=100")
    assert ran.status == 2
    assert "--lake=" in ran.err


def test_lake_and_warehouse_can_be_left_out(tmp_path: Path) -> None:
    ran = run(tmp_path, "simulator:?readings=1000", "--lake=none")
    assert ran.status == 0
    assert not ran.lake.exists()
    assert ran.sql("SELECT count(*) FROM readings") == [(1000,)]


def test_several_warehouses_get_the_same(tmp_path: Path) -> None:
    second = tmp_path / "second.duckdb"
    ran = run(tmp_path, "simulator:?readings=1000", f"--warehouse=duckdb:{second}")
    query = "SELECT * FROM readings ORDER BY reading_id"
    with duckdb.connect(str(second), read_only=True) as database:
        database.execute("SET TimeZone = 'UTC'")
        assert database.execute(query).fetchall() == ran.sql(query)


def test_a_users_profile_goes_before_the_built_in_ones(tmp_path: Path) -> None:
    profile = tmp_path / "mine.toml"
    profile.write_text(
        'name = "tight"\nequipment = ["sim_cell_*"]\nv_min_v = 3.0\nv_max_v = 3.5\n'
        "nominal_capacity_ah = 2.0\n"
    )
    ran = run(tmp_path, "simulator:?readings=2000", f"--equipment_profile={profile}")
    flagged = ran.sql(
        "SELECT count(*) FROM readings WHERE list_contains(quality_flags, 'voltage_out_of_range')"
    )
    outside = ran.sql(
        "SELECT count(*) FROM readings WHERE equipment_type = 'battery_cell' "
        "AND (voltage_v > 3.55 OR voltage_v < 2.95)"
    )
    assert flagged == outside
    assert flagged[0][0] > 0
    assert ran.sql("SELECT profile FROM equipment_profiles ORDER BY priority LIMIT 1") == [
        ("tight",)
    ]


def test_a_time_zone_moves_naive_times_only(tmp_path: Path) -> None:
    source = tmp_path / "in" / "a.csv"
    source.parent.mkdir()
    source.write_text(
        "equipment_id,recorded_at,voltage_v,current_a\n"
        "c1,2024-07-01 12:00:00,3.7,1\nc2,2024-07-01T12:00:00+00:00,3.7,1\n"
    )
    ran = run(tmp_path, source, "--time_zone=Europe/Berlin")
    assert ran.sql("SELECT equipment_id, hour(recorded_at) FROM readings ORDER BY 1") == [
        ("c1", 10),
        ("c2", 12),
    ]


def test_the_configuration_of_no_flags() -> None:
    config = config_from(parse([]), now_us=7)
    assert config.source == "simulator:"
    assert config.warehouses == ("duckdb:./data/warehouse.duckdb",)
    assert config.window_us == 60_000_000
    assert config.launched_at_us == 7
    assert config.profiles == profiles.load()


def test_beams_own_flags_pass_through() -> None:
    options = parse(["--runner=DataflowRunner", "--project=p", "--streaming"])
    assert options.get_all_options()["project"] == "p"


def test_a_flag_of_the_wrong_type_raises() -> None:
    with pytest.raises(ConfigError, match="--window"):
        parse(["--window=wide"])


@pytest.mark.parametrize("flag", ["--source", "--lake", "--time_zone"])
def test_two_dashes_are_no_value(flag: str) -> None:
    with pytest.raises(ConfigError, match=f"{flag}=--: is no value"):
        parse([f"{flag}=--"])
