"""The ledger of load jobs: no file in two entries, whoever else enters, and none forgotten."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.sinks.bigquery import file_loads, ledger
from pipeline.sinks.bigquery.address import Address
from pipeline.sinks.bigquery.ledger import Entry, Ledger
from pipeline.stores import Store, store_at

NOW_S = 1_717_243_200.0


@pytest.fixture
def lake(tmp_path: Path) -> Store:
    (tmp_path / "lake").mkdir()
    return store_at(str(tmp_path / "lake"))


def another(tmp_path: Path) -> Ledger:
    """A ledger of another process."""
    (tmp_path / "ledger").mkdir(exist_ok=True)
    return Ledger(store_at(str(tmp_path / "ledger")), "readings/1")


@pytest.fixture
def book(tmp_path: Path) -> Ledger:
    return another(tmp_path)


def put(lake: Store, *names: str, day: str = "2024-06-01", at_s: float = NOW_S) -> list[str]:
    paths = [f"readings/dt={day}/{name}.parquet" for name in names]
    for path in paths:
        lake.create(path, b"x" * 10)
        os.utime(Path(lake.uri, path), (at_s, at_s))
    return paths


def entered(book: Ledger, lake: Store) -> list[Entry]:
    return list(book.enter_new(lake, "readings"))


def test_files_are_entered_once(book: Ledger, lake: Store, tmp_path: Path) -> None:
    first = put(lake, "a", "b")
    (entry,) = entered(book, lake)
    assert (entry.name, list(entry.paths)) == ("0000001", first)
    assert entered(book, lake) == []
    second = put(lake, "c", at_s=NOW_S + 5)
    (entry,) = entered(another(tmp_path), lake)
    assert (entry.name, list(entry.paths)) == ("0000002", second)
    assert entered(another(tmp_path), lake) == []


def test_what_is_no_parquet_is_left_alone(book: Ledger, lake: Store) -> None:
    lake.create("readings/dt=2024-06-01/notes.txt", b"x")
    assert entered(book, lake) == []


def test_entries_without_an_outcome_are_to_be_finished(
    book: Ledger, lake: Store, tmp_path: Path
) -> None:
    put(lake, "a")
    (entry,) = entered(book, lake)
    assert another(tmp_path).unfinished() == [entry]
    book.close(entry, "done", rows=7)
    assert another(tmp_path).unfinished() == []
    assert another(tmp_path).failed() == []


def test_an_entry_that_failed_is_halved_until_one_file_is_to_blame(
    book: Ledger, lake: Store, tmp_path: Path
) -> None:
    paths = put(lake, "a", "b", "c")
    entered(book, lake)
    tried = []
    while found := another(tmp_path).unfinished():
        entry = found[0]
        tried.append(entry.name)
        if paths[1] not in entry.paths:
            book.close(entry, "done")
        elif len(entry.paths) > 1:
            for half in entry.halves:
                assert book.enter(half)
                assert not book.enter(half)  # a loader that was killed enters them again
            book.close(entry, "split")
        else:
            book.close(entry, "failed", reason="bad")
    assert tried == ["0000001", "0000001-0", "0000001-1", "0000001-1-0", "0000001-1-1"]
    assert book.failed() == [paths[1]]
    assert entered(another(tmp_path), lake) == []


def test_a_job_takes_no_more_than_bigquery_does(
    book: Ledger, lake: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [put(lake, f"{n}", day=f"2024-06-{n:02}")[0] for n in range(1, 10)]
    monkeypatch.setattr(ledger, "MOST_FILES", 4)
    assert [len(entry.paths) for entry in entered(book, lake)] == [4, 4, 1]
    monkeypatch.setattr(ledger, "MOST_DAYS", 2)
    paths = [put(lake, f"{n}b", day=f"2024-06-{n:02}")[0] for n in range(1, 6)]
    assert [entry.paths for entry in entered(book, lake)] == [
        tuple(paths[:2]), tuple(paths[2:4]), tuple(paths[4:])
    ]  # fmt: skip
    monkeypatch.setattr(ledger, "MOST_BYTES", 5)  # each is larger
    put(lake, "x", "y")
    assert [len(entry.paths) for entry in entered(book, lake)] == [1, 1]


def test_neither_the_whole_lake_nor_all_entries_are_looked_at(
    book: Ledger, lake: Store, tmp_path: Path
) -> None:
    """But what turns up a little behind others is not missed."""
    for number in range(5):
        put(lake, f"{number}", at_s=NOW_S + 3_600 * number)
        entered(book, lake)
    late = put(lake, "late", at_s=NOW_S + 3_600 * 4 - 500)
    fresh = another(tmp_path)
    (entry,) = entered(fresh, lake)
    assert list(entry.paths) == late
    # The new one, the one that may name what was listed, and one that shows there are no others.
    assert set(fresh._read) == {"0000004", "0000005", "0000006"}
    assert entered(another(tmp_path), lake) == []


def test_loaders_at_once_share_the_files(lake: Store, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(ledger, "MOST_FILES", 3)
    names = [f"{number:03}" for number in range(60)]
    put(lake, *names[:30])
    found: list[Entry] = []
    start = threading.Barrier(4)

    def loader(number: int) -> None:
        start.wait()
        put(lake, *names[30 + number :: 4], at_s=NOW_S + number)
        found.extend(entered(another(tmp_path), lake))

    loaders = [threading.Thread(target=loader, args=(number,)) for number in range(4)]
    for thread in loaders:
        thread.start()
    for thread in loaders:
        thread.join()
    found += entered(another(tmp_path), lake)
    times = Counter(path for entry in found for path in entry.paths)
    assert set(times.values()) == {1}
    assert {Path(path).stem for path in times} == set(names)
    assert len({entry.name for entry in found}) == len(found)


class Place:
    """A dataset, as far as its location is asked for."""

    def __init__(self, location: str) -> None:
        self.location = location


class Bucket:
    """A lake, as far as its location is asked for."""

    bucket = "bucket"

    def __init__(self, where: str | None) -> None:
        self._where = where

    def location(self) -> str | None:
        return self._where


def locations() -> Iterator[tuple[str, str | None, bool]]:
    yield from (("US", place, True) for place in ("US", "us-central1", "NAM4", None))
    yield from (("EU", place, True) for place in ("EU", "EUROPE-WEST3", "EUR4"))
    yield from (("europe-west3", place, True) for place in ("EUROPE-WEST3", "EUR5"))
    yield from (("US", place, False) for place in ("EU", "EUROPE-WEST3", "ASIA"))
    yield from (("europe-west3", place, False) for place in ("EU", "EUROPE-WEST4", "US"))


@pytest.mark.parametrize(("dataset", "bucket", "fits"), locations())
def test_load_jobs_read_from_where_the_dataset_lies(
    dataset: str, bucket: str | None, fits: bool
) -> None:
    address = Address.parse("bigquery://project/dataset")
    place: Any = Place(dataset)
    lake: Any = Bucket(bucket)
    if fits:
        file_loads.check_location(address, lake, place)
    else:
        with pytest.raises(file_loads.ConfigError, match=r"^--warehouse=.*give a --lake in"):
            file_loads.check_location(address, lake, place)
