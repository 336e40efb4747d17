"""What a cut-off run had written is found by the files' times, and left out."""

from __future__ import annotations

import datetime as dt
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.sinks.lake import recent
from pipeline.stores.local import LocalStore

KEY = "reading_id"
NOW_S = 1_717_243_200.0


def rows(*keys: str, at_s: float = 0.0) -> pa.Table:
    moment = dt.datetime.fromtimestamp(NOW_S + at_s, dt.UTC)
    return pa.table(
        {
            KEY: pa.array(keys, pa.string()),
            "ingested_at": pa.array([moment] * len(keys), pa.timestamp("us", tz="UTC")),
        }
    )


def written(
    folder: Path, name: str, table: pa.Table, at_s: float = 0.0, day: str = "2024-06-01"
) -> None:
    """A file written so many seconds after the time that is looked from."""
    path = folder / f"dt={day}" / f"{name}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
    for each in (path, path.parent):
        os.utime(each, (NOW_S + at_s, NOW_S + at_s))


def look(folder: Path, since_s: float) -> None:
    recent.look(LocalStore(str(folder.parent)), folder.name, since_s)


def left_out(folder: Path, table: pa.Table, day: str = "2024-06-01") -> pa.Table:
    store = LocalStore(str(folder.parent))
    return recent.left_out(store, folder.name, f"dt={day}", KEY, "ingested_at", table)


def left(folder: Path, *keys: str, at_s: float = 0.0, day: str = "2024-06-01") -> list[str]:
    found: list[str] = left_out(folder, rows(*keys, at_s=at_s), day).column(KEY).to_pylist()
    return found


def test_what_was_written_since_is_left_out(tmp_path: Path) -> None:
    written(tmp_path, "one", rows("a", "b"))
    written(tmp_path, "two", rows("c"), day="2024-06-02")
    look(tmp_path, NOW_S)
    assert left(tmp_path, "x", "a", "y", "b") == ["x", "y"]
    assert left(tmp_path, "a", "b") == []
    assert left(tmp_path, "a", "c", day="2024-06-02") == ["a"]
    same = rows("x", "y")
    assert left_out(tmp_path, same) is same


def test_only_files_and_days_written_since_are_read(tmp_path: Path) -> None:
    written(tmp_path, "old", rows("a"), at_s=-60)
    written(tmp_path, "new", rows("b"), at_s=60)
    written(tmp_path, "old", rows("c"), at_s=-60, day="2024-05-31")
    look(tmp_path, NOW_S)
    assert left(tmp_path, "a", "b") == ["a"]
    assert left(tmp_path, "c", day="2024-05-31") == ["c"]


@pytest.mark.parametrize(("at_s", "found"), [(-1.9, []), (-2.1, ["a"])])
def test_clocks_may_differ_by_two_seconds(tmp_path: Path, at_s: float, found: list[str]) -> None:
    written(tmp_path, "one", rows("a"), at_s=at_s)
    look(tmp_path, NOW_S)
    assert left(tmp_path, "a") == found


def test_rows_that_came_later_than_all_of_them_are_let_through_without_a_look(
    tmp_path: Path,
) -> None:
    written(tmp_path, "one", rows("a", at_s=10))
    written(tmp_path, "two", rows("b", at_s=20))
    look(tmp_path, NOW_S)
    assert left(tmp_path, "a", "b", "c", at_s=20) == ["c"]
    assert left(tmp_path, "a", "b", "c", at_s=20.001) == ["a", "b", "c"]


def test_another_look_forgets_the_first(tmp_path: Path) -> None:
    written(tmp_path, "one", rows("a"))
    look(tmp_path, NOW_S)
    look(tmp_path, NOW_S + 100)
    assert left(tmp_path, "a") == ["a"]
    written(tmp_path, "two", rows("b"), at_s=100)
    look(tmp_path, NOW_S + 100)
    assert left(tmp_path, "a", "b") == ["a"]


def test_folders_and_keys_are_apart(tmp_path: Path) -> None:
    one, other = tmp_path / "readings", tmp_path / "dead_letters"
    written(one, "one", rows("a"))
    written(other, "one", rows("b"))
    look(one, NOW_S)
    assert left(one, "a", "b") == ["b"] and left(other, "a", "b") == ["a", "b"]
    look(other, NOW_S)
    assert left(one, "a", "b") == ["b"] and left(other, "a", "b") == ["a"]


def test_where_nothing_was_written_nothing_is_left_out(tmp_path: Path) -> None:
    look(tmp_path / "none", NOW_S)
    assert left(tmp_path / "none", "a") == ["a"]
    assert left(tmp_path / "never looked at", "a") == ["a"]
