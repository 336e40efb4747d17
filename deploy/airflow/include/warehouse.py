"""Asks a warehouse what arrived and how good it is, and keeps the account of the runs in it.

Runs in the project's environment: python -m include.warehouse state|quality|record --warehouse=… --start=…
--end=… [--lake=…] [--state=JSON]; the answer is one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import duckdb
from google.cloud import bigquery

from include.lake import place_at
from pipeline.sinks.bigquery import client
from pipeline.sinks.bigquery.address import Address
from pipeline.stores import store_at

RUNS = "pipeline_runs"
# Column of the account's table → type of DuckDB and of BigQuery. Totals are the warehouse's and
# the lake's before the models were built, so that what comes while they are is new to the next run.
_COLUMNS = {
    "interval_start": ("TIMESTAMPTZ", "TIMESTAMP"),
    "interval_end": ("TIMESTAMPTZ", "TIMESTAMP"),
    "interval_readings": ("BIGINT", "INT64"),
    "interval_dead_letters": ("BIGINT", "INT64"),
    "readings": ("BIGINT", "INT64"),
    "dead_letters": ("BIGINT", "INT64"),
    "lake_files": ("BIGINT", "INT64"),
    "lake_bytes": ("BIGINT", "INT64"),
    "finished_at": ("TIMESTAMPTZ", "TIMESTAMP"),
}
_TOTALS = ("readings", "dead_letters", "lake_files", "lake_bytes")
# Tables that are partitioned by a time demand one in every query; this is before all of them.
_EVER = datetime(1, 1, 1, tzinfo=UTC)


class Asked(ABC):
    """A warehouse that answers SQL; tables are named without their schema."""

    timestamp: str
    column: int

    @abstractmethod
    def rows(self, sql: str) -> list[dict[str, Any]]:
        """The rows of one statement by column name."""

    @abstractmethod
    def there(self, table: str) -> bool:
        """Whether there is such a table or view."""

    def at(self, moment: datetime) -> str:
        """A moment as SQL."""
        return f"{self.timestamp} '{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S.%f}+00:00'"


class DuckDB(Asked):
    """A DuckDB file, or a database at MotherDuck."""

    timestamp, column = "TIMESTAMPTZ", 0

    def __init__(self, database: duckdb.DuckDBPyConnection) -> None:
        self._database = database

    def rows(self, sql: str) -> list[dict[str, Any]]:
        found = self._database.execute(sql)
        names = [column[0] for column in found.description or []]
        return [dict(zip(names, row, strict=True)) for row in found.fetchall()]

    def there(self, table: str) -> bool:
        found = self.rows(
            f"""SELECT count(*) AS tables FROM information_schema.tables
            WHERE table_catalog = current_database() AND table_name = '{table}'"""  # noqa: S608
        )
        return bool(found[0]["tables"])


class BigQuery(Asked):
    """A dataset of BigQuery."""

    timestamp, column = "TIMESTAMP", 1

    def __init__(self, address: Address) -> None:
        self._client = client.rest(address)
        self._dataset = f"{address.project}.{address.dataset}"

    def rows(self, sql: str) -> list[dict[str, Any]]:
        how = bigquery.QueryJobConfig(default_dataset=self._dataset)
        return [dict(row.items()) for row in self._client.query(sql, how).result()]

    def there(self, table: str) -> bool:
        return any(found.table_id == table for found in self._client.list_tables(self._dataset))


@contextmanager
def opened(warehouse: str) -> Iterator[Asked | None]:
    """The warehouse; None where there is none yet."""
    if warehouse.startswith("bigquery:"):
        yield BigQuery(Address.parse(warehouse))
        return
    with place_at(warehouse).connected(create=False) as database:
        yield None if database is None else DuckDB(database)


def state(asked: Asked | None, lake: str, start: datetime, end: datetime) -> dict[str, Any]:
    """What there is now, what of it arrived in the interval, and what the last good run saw.

    Args:
        asked: the warehouse.
        lake: the lake that the warehouse is loaded from; empty if the job writes both.
        start: start of the data interval, inclusive.
        end: its end, exclusive.
    """
    files = [
        file for folder in ("readings", "dead_letters") for file in _files(lake, folder)
    ]  # fmt: skip
    found = {
        "readings": 0,
        "dead_letters": 0,
        "lake_files": len(files),
        "lake_bytes": sum(files),
        "newest": None,
        "interval": {"readings": 0, "dead_letters": 0},
        "last": None,
    }
    newest = []
    for table, partition in (("readings", "recorded_at"), ("dead_letters", "ingested_at")):
        if asked is None or not asked.there(table):
            continue
        within = f"ingested_at >= {asked.at(start)} AND ingested_at < {asked.at(end)}"
        counted = asked.rows(
            f"""SELECT count(*) AS total, max(ingested_at) AS newest,
            count(CASE WHEN {within} THEN 1 END) AS arrived
            FROM {table} WHERE {partition} >= {asked.at(_EVER)}"""  # noqa: S608
        )[0]
        found[table] = counted["total"]
        found["interval"][table] = counted["arrived"]
        newest += [counted["newest"]] if counted["newest"] else []
    found["newest"] = max(newest).astimezone(UTC).isoformat() if newest else None
    if asked is not None and asked.there(RUNS):
        # By its end, not its interval: a backfill of an old one is the last that looked.
        last = asked.rows(
            f"SELECT {', '.join(_TOTALS)} FROM {RUNS} ORDER BY finished_at DESC LIMIT 1"  # noqa: S608
        )
        found["last"] = last[0] if last else None
    return found


def _files(lake: str, folder: str) -> Iterator[int]:
    """The sizes of the lake's files."""
    if lake:
        for file in store_at(lake).files(folder):
            yield file.size


def quality(asked: Asked, start: datetime, end: datetime) -> dict[str, Any]:
    """What data_quality_daily says: of everything, and of the days that the interval touches."""
    days = [f"{moment.astimezone(UTC):%Y-%m-%d}" for moment in (start, end)]
    within = f"ingested_on BETWEEN DATE '{days[0]}' AND DATE '{days[1]}'"
    found = asked.rows(
        f"""SELECT coalesce(sum(delivered_readings), 0) AS delivered,
        coalesce(sum(CASE WHEN {within} THEN readings END), 0) AS readings,
        coalesce(sum(CASE WHEN {within} THEN flagged_readings END), 0) AS flagged
        FROM data_quality_daily"""  # noqa: S608
    )[0]
    rules = asked.rows(
        f"""SELECT error_type AS rule, count(*) AS letters FROM dead_letters
        WHERE ingested_at >= {asked.at(_EVER)} GROUP BY rule ORDER BY letters DESC, rule"""  # noqa: S608
    )
    told = ", ".join(f"{row['rule']}={row['letters']}" for row in rules)
    return {name: int(number) for name, number in found.items()} | {
        "days": " to ".join(dict.fromkeys(days)),
        "rejects_by_rule": told,
    }


def record(asked: Asked, seen: dict[str, Any], start: datetime, end: datetime) -> None:
    """Keeps the account of a good run: one row an interval, the last run of it."""
    types = ", ".join(f"{name} {kinds[asked.column]}" for name, kinds in _COLUMNS.items())
    asked.rows(f"CREATE TABLE IF NOT EXISTS {RUNS} ({types})")
    values = {
        "interval_start": asked.at(start),
        "interval_end": asked.at(end),
        "interval_readings": int(seen["interval"]["readings"]),
        "interval_dead_letters": int(seen["interval"]["dead_letters"]),
        **{name: int(seen[name]) for name in _TOTALS},
        "finished_at": asked.at(datetime.now(UTC)),
    }
    row = ", ".join(f"{value} AS {name}" for name, value in values.items())
    names = ", ".join(values)
    asked.rows(
        f"""MERGE INTO {RUNS} AS kept USING (SELECT {row}) AS run
        ON kept.interval_start = run.interval_start AND kept.interval_end = run.interval_end
        WHEN MATCHED THEN UPDATE SET {", ".join(f"{name} = run.{name}" for name in values)}
        WHEN NOT MATCHED THEN INSERT ({names}) VALUES ({names})"""  # noqa: S608
    )


def main(argv: Sequence[str] | None = None) -> int:
    """The command; prints the answer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("question", choices=["state", "quality", "record"])
    parser.add_argument("--warehouse", required=True)
    parser.add_argument("--lake", default="")
    parser.add_argument("--start", required=True, type=datetime.fromisoformat)
    parser.add_argument("--end", required=True, type=datetime.fromisoformat)
    parser.add_argument("--state", type=json.loads)
    flags = parser.parse_args(argv)
    answer: dict[str, Any] = {}
    with opened(flags.warehouse) as asked:
        if flags.question == "state":
            answer = state(asked, flags.lake, flags.start, flags.end)
        elif asked is None:
            print(f"{flags.warehouse}: there is no such warehouse", file=sys.stderr)
            return 2
        elif flags.question == "quality":
            answer = quality(asked, flags.start, flags.end)
        else:
            record(asked, flags.state, flags.start, flags.end)
    print(json.dumps(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main())
