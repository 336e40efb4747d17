"""What the DAGs ask a warehouse and load into it, on a real DuckDB file and a BigQuery emulator."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from include import gate, lake, warehouse

from pipeline.__main__ import main as job
from tests.running import Ran, run
from tests.services.bigquery import BigQuery
from tests.services.fixtures import set_environment

pytestmark = pytest.mark.integration

# What the simulator gives arrives as it is recorded: within this hour.
START = datetime(2024, 6, 1, 12, tzinfo=UTC)
END = START + timedelta(hours=1)
FLEET = "simulator:?equipment=6&machines=6&readings=1800&interval=10&faults=0.05"
FLEET += f"&start={START:%Y-%m-%dT%H:%M:%SZ}"
INTERVAL = [f"--start={START.isoformat()}", f"--end={END.isoformat()}"]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """A job that wrote lake and warehouse."""
    done = run(tmp_path_factory.mktemp("job"), FLEET)
    assert done.status == 0, done.err
    assert done.account()["dead_letters"] > 50
    return done


def asked(capsys: pytest.CaptureFixture[str], *flags: str) -> dict[str, Any]:
    capsys.readouterr()
    assert warehouse.main([*flags, *INTERVAL]) == 0
    answer: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return answer


def state(capsys: pytest.CaptureFixture[str], where: str, lake: str = "") -> dict[str, Any]:
    return asked(capsys, "state", f"--warehouse={where}", f"--lake={lake}")


def test_a_lake_is_loaded_once_with_its_dead_letters(
    ran: Ran, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = tmp_path / "loaded.duckdb"
    before = state(capsys, f"duckdb:{where}", str(ran.lake))
    assert before["readings"] == 0 and before["lake_files"] == 2
    for _ in range(2):
        assert lake.main([f"--lake={ran.lake}", f"--warehouse=duckdb:{where}"]) == 0
        loaded = Ran(0, "", "", ran.lake, where)
        for table, key in (("readings", "reading_id"), ("dead_letters", "dead_letter_id")):
            assert loaded.table(table, key).equals(ran.table(table, key)), table


def test_the_account_is_of_the_interval_and_kept_once(
    ran: Ran, capsys: pytest.CaptureFixture[str]
) -> None:
    where, account = f"duckdb:{ran.warehouse}", ran.account()
    seen = state(capsys, where)
    told = {name: seen[name] for name in ("readings", "dead_letters")}
    assert told == {"readings": account["written"], "dead_letters": account["dead_letters"]}
    assert seen["interval"] == told
    assert START < datetime.fromisoformat(seen["newest"]) < END
    assert seen["last"] is None and gate.new(seen)
    for _ in range(2):
        asked(capsys, "record", f"--warehouse={where}", f"--state={json.dumps(seen)}")
    assert ran.sql(
        """SELECT interval_start = '2024-06-01 12:00:00+00', interval_readings, readings,
        dead_letters, lake_files FROM pipeline_runs"""
    ) == [(True, account["written"], account["written"], account["dead_letters"], 0)]
    assert not gate.new(state(capsys, where))


def test_another_interval_has_another_account(ran: Ran, capsys: pytest.CaptureFixture[str]) -> None:
    before = [f"--start={(START - timedelta(hours=1)).isoformat()}", f"--end={START.isoformat()}"]
    assert warehouse.main(["state", f"--warehouse=duckdb:{ran.warehouse}", *before]) == 0
    answer = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert answer["interval"] == {"readings": 0, "dead_letters": 0}
    assert answer["readings"] == ran.account()["written"]


def test_no_warehouse_holds_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = state(capsys, f"duckdb:{tmp_path / 'none.duckdb'}")
    assert not gate.new(found) and found["newest"] is None
    assert not list(tmp_path.iterdir())
    flags = ["quality", f"--warehouse=duckdb:{tmp_path / 'none.duckdb'}", *INTERVAL]
    assert warehouse.main(flags) == 2


def test_the_same_on_bigquery(
    bigquery: BigQuery, ran: Ran, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    set_environment(monkeypatch, bigquery.environment)
    where = f"bigquery://{bigquery.project}/{bigquery.new_dataset()}"
    flags = [f"--source={FLEET}", "--lake=none", f"--warehouse={where}", "--no_progress"]
    assert job(["--runner=DirectRunner", *flags]) == 0
    seen = state(capsys, where)
    account = ran.account()
    assert seen["readings"] == seen["interval"]["readings"] == account["written"]
    assert seen["dead_letters"] == account["dead_letters"]
    assert START < datetime.fromisoformat(seen["newest"]) < END
    for _ in range(2):
        asked(capsys, "record", f"--warehouse={where}", f"--state={json.dumps(seen)}")
    again = state(capsys, where)
    assert again["last"] == {name: seen[name] for name in gate.TOTALS}
    assert not gate.new(again)
