"""python -m pipeline.models: builds and tests the dbt models on a warehouse."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from pipeline import failures, model_record, model_warnings, shown
from pipeline.errors import ConfigError
from pipeline.report.warehouse import opened
from pipeline.shown import say
from pipeline.sinks.duckdb.file import sign_in_name
from pipeline.sinks.duckdb.motherduck import MotherDuck

PROJECT = Path(__file__).resolve().parent.parent / "dbt_project"
# The command that dbt is.
DBT: Iterable[str] = (sys.executable, "-m", "dbt.cli.main")


def environment(warehouse: str) -> dict[str, str]:
    """The variables that point dbt's profile at `warehouse`.

    Raises:
        ConfigError: no dbt target serves such a warehouse, or it is not there.
    """
    kind, _, place = warehouse.partition(":")
    if kind == "bigquery":
        return _bigquery(warehouse)
    if kind == "md":
        return MotherDuck.parse(warehouse).dbt_variables()
    if kind != "duckdb" or not place:
        raise ConfigError(
            f"--warehouse={shown.address(warehouse)}: the models are built on duckdb:PATH, such as "
            "duckdb:data/warehouse.duckdb, on md:DATABASE, or on bigquery://PROJECT/DATASET"
        )
    path = Path(place)
    if not path.is_file():
        raise ConfigError(
            f"--warehouse={shown.address(warehouse)}: there is no such file; run python -m pipeline first"
        )
    if unbuildable := sign_in_name(place):
        raise ConfigError(f"--warehouse={shown.address(warehouse)}: {unbuildable}")
    return {"DBT_TARGET": "duckdb", "DUCKDB_PATH": str(path.resolve())}


def _bigquery(warehouse: str) -> dict[str, str]:
    from pipeline.sinks.bigquery import preflight, tables
    from pipeline.sinks.bigquery.address import Address
    from schemas.reading import READING

    address = Address.parse(warehouse)
    dataset = preflight.ask(address, preflight.LOOK_S, lambda: preflight.dataset(address))
    found = preflight.ask(address, preflight.LOOK_S, lambda: tables.look(address))
    if READING.name not in found:
        raise ConfigError(
            f"--warehouse={shown.address(warehouse)}: there is no table {READING.name}; run python -m pipeline "
            "first"
        )
    return {
        "DBT_TARGET": "bigquery",
        "BIGQUERY_PROJECT": address.project,
        "BIGQUERY_DATASET": address.dataset,
        "BIGQUERY_LOCATION": dataset.location or "US",
    }


_NODE = re.compile(r"(?<!\d)(\d+) of (\d+) (?!START)[A-Z]")
_COUNTS = re.compile(r"\b([A-Z-]+)=(\d+)")


def build(
    warehouse: str,
    select: str | None = None,
    unit_tests: bool = False,
    full_refresh: bool = False,
    data_tests: bool = True,
    check_all: bool = False,
) -> tuple[bool, dict[str, int]]:
    """Builds and tests all models, or those that dbt's `select` names.

    The data tests run unless they are left out, and look at the parts of the large tables that were
    built since they last did, or with `check_all` at everything; the unit tests, which look at the
    formulas and not at the data, only where they are asked for. With `full_refresh` the models that
    would add what is new are built from all readings, as they must be on BigQuery after their
    formulas or the profiles' columns changed.

    dbt runs in a process of its own: in ours it would keep the warehouse's file open. Where it
    fails, what it said is printed.

    Returns:
        whether everything succeeded, and dbt's own counts (PASS, WARN, ERROR, SKIP, …).
    """
    command = [*DBT, "build", "--no-use-colors"]
    command += ["--project-dir", str(PROJECT), "--profiles-dir", str(PROJECT)]
    if select:
        # Tests that also look at models which may never have been built are left out.
        command += ["--select", select, "--indirect-selection", "buildable"]
    if not unit_tests:
        command += ["--exclude-resource-type", "unit_test"]
    if not data_tests:
        command += ["--exclude-resource-type", "test"]
    if full_refresh:
        command += ["--full-refresh"]
    surroundings = os.environ | environment(warehouse) | {"DO_NOT_TRACK": "1"}
    made = _before(warehouse, check_all)
    said: list[str] = []
    counts: dict[str, int] = {}
    with (
        subprocess.Popen(
            command, env=surroundings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as dbt,
        tqdm(desc="models", unit="node", disable=None, leave=False) as bar,
    ):
        assert dbt.stdout is not None
        for line in dbt.stdout:
            said.append(line)
            if done := _NODE.search(line):
                bar.total = int(done[2])
                bar.update(1)
            if "Done. " in line:
                counts = {name: int(count) for name, count in _COUNTS.findall(line)}
    if dbt.returncode:
        say(*(line.rstrip("\n") for line in said), error=True)
    elif made and data_tests and not select:
        _after(warehouse, made)
    return dbt.returncode == 0, counts


def _before(warehouse: str, check_all: bool) -> str | None:
    """What a build is made of, in short; None where that is not kept."""
    with model_record.opened(warehouse) as database:
        if database is None:
            return None
        if check_all:
            model_record.forget_checks(database)
        return model_record.made_of(PROJECT, database)


def _after(warehouse: str, made: str) -> None:
    """Keeps what a complete build was made of."""
    target = model_warnings.target(PROJECT)
    found = model_warnings.read(target)
    with model_record.opened(warehouse) as database:
        if database is not None:
            told = list(model_warnings.lines(found, database))
            models, again = model_warnings.models(target)
            model_record.remember(database, made, models, again, told)


def unchanged(warehouse: str) -> model_record.Last | None:
    """The last build of all models with their data tests, if another one would leave the same."""
    if warehouse.startswith("bigquery:"):
        return None
    environment(warehouse)
    with model_record.opened(warehouse) as database:
        return None if database is None else model_record.last(PROJECT, database)


def warned(warehouse: str) -> Iterator[str]:
    """What the data tests of the last build warned of, in lines; see `model_warnings`.

    The equipments are looked up on DuckDB and MotherDuck; on BigQuery that would cost queries.
    """
    found = model_warnings.read(model_warnings.target(PROJECT))
    with contextlib.ExitStack() as stack:
        database = None
        with contextlib.suppress(ConfigError):
            database = stack.enter_context(opened(warehouse))
        yield from model_warnings.lines(found, database)


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status: 1 if a model or test failed, 2 for a wrong flag.

    A test that only warned, of values of one equipment, fails nothing.
    """
    parser = argparse.ArgumentParser(prog="python -m pipeline.models", description=__doc__)
    parser.add_argument("--warehouse", default="duckdb:data/warehouse.duckdb")
    parser.add_argument("--select", help="build only these, in dbt's own notation")
    parser.add_argument(
        "--check", choices=("changed", "all"), default="changed",
        help="what the data tests look at: the equipments and days that were built since they last "
        "did, or everything; with changed a run that has nothing new to build ends at once",
    )  # fmt: skip
    parser.add_argument("--unit_tests", action="store_true", help="run dbt's unit tests too")
    parser.add_argument(
        "--full_refresh", action="store_true",
        help="build everything from all readings, after a change of the models' formulas",
    )  # fmt: skip
    failures.add_flag(parser)
    argv = sys.argv[1:] if argv is None else argv
    failures.begin(argv)
    flags = parser.parse_args(argv)
    started = time.monotonic()
    try:
        asked = flags.select or flags.unit_tests or flags.full_refresh or flags.check == "all"
        if not asked and (last := unchanged(flags.warehouse)):
            say(
                *last.told,
                f"models: nothing new since they were built at {last.built_at:%Y-%m-%d %H:%M:%S} UTC; "
                f"{time.monotonic() - started:.1f} s",
            )
            return 0
        success, counts = build(
            flags.warehouse, flags.select, flags.unit_tests, flags.full_refresh,
            check_all=flags.check == "all",
        )  # fmt: skip
    except Exception as error:  # noqa: BLE001 - each ends in one line
        return failures.ended(error, argv)
    if counts.get("WARN"):
        say(*warned(flags.warehouse))
    told = ", ".join(f"{status} {count}" for status, count in counts.items())
    say(f"models: {told or 'not built'}; {time.monotonic() - started:.1f} s")
    return 0 if success else 1


if __name__ == "__main__":
    sys.exit(main())
