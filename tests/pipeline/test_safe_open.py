"""Files are as private as what they are made of, and no link of somebody else's is followed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipeline.errors import ConfigError
from pipeline.publishing.position import Position
from pipeline.running.checkpoint import Checkpoint
from pipeline.safe_open import fresh, lock_file
from pipeline.sinks.duckdb.file import File
from pipeline.sinks.lake.files_as_they_are import archive_file
from pipeline.stores.local import LocalStore
from pipeline.stores.raw_file import RawFile


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


@pytest.mark.parametrize(("mask", "expected"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_a_lake_s_files_follow_the_umask(tmp_path: Path, mask: int, expected: int) -> None:
    with umask(mask):
        assert LocalStore(str(tmp_path)).create("readings/a.parquet", b"x")
    assert mode(tmp_path / "readings" / "a.parquet") == expected
    assert not list(tmp_path.rglob("*.partial"))


@pytest.mark.parametrize(
    ("source", "expected"), [(0o600, 0o600), (0o640, 0o640), (0o666, 0o644), (0o400, 0o600)]
)
def test_a_copy_is_no_more_readable_than_the_file(
    tmp_path: Path, source: int, expected: int
) -> None:
    file, lake = tmp_path / "in" / "cell.csv", tmp_path / "lake"
    file.parent.mkdir()
    file.write_bytes(b"time,voltage\n")
    file.chmod(source)
    with umask(0o022):
        archive_file(LocalStore(str(lake)), RawFile(str(file), "in/cell.csv", 10**15, 13))
    (copy,) = (path for path in lake.rglob("*") if path.is_file())
    assert copy.read_bytes() == b"time,voltage\n" and mode(copy) == expected
    assert copy.stat().st_mtime_ns == 10**18


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    path = tmp_path / "victim"
    path.write_text("precious")
    return path


def test_a_lock_neither_follows_a_link_nor_empties_a_file(tmp_path: Path, victim: Path) -> None:
    (tmp_path / "a.lock").symlink_to(victim)
    with pytest.raises(OSError, match=r"a\.lock is a link; remove it"):
        lock_file(str(tmp_path / "a.lock"))
    lock_file(str(victim)).close()
    os.mkfifo(tmp_path / "pipe.lock")
    with pytest.raises(OSError, match="no regular file"):
        lock_file(str(tmp_path / "pipe.lock"))
    assert victim.read_text() == "precious"


def test_no_command_s_lock_follows_a_link(tmp_path: Path, victim: Path) -> None:
    for name in ("w.duckdb.lock", "c.arrow.lock"):
        (tmp_path / name).symlink_to(victim)
    with (
        pytest.raises(ConfigError, match=r"w\.duckdb\.lock is a link"),
        File(str(tmp_path / "w.duckdb")).connected(create=True),
    ):
        pass
    with pytest.raises(ConfigError, match=r"c\.arrow\.lock is a link"):
        Checkpoint(str(tmp_path / "c.arrow"))
    assert victim.read_text() == "precious"


def test_no_temporary_file_follows_a_link(tmp_path: Path, victim: Path) -> None:
    (tmp_path / ".resume.partial").symlink_to(victim)
    Position(str(tmp_path / "resume"), {}).save(3)
    assert "3" in (tmp_path / "resume").read_text()
    (tmp_path / "link").symlink_to(victim)
    with fresh(tmp_path / "link") as file:
        file.write(b"other")
    assert victim.read_text() == "precious"


@pytest.mark.parametrize("name", ["it's.duckdb", 'a"b.duckdb', "a`b.duckdb"])
def test_a_warehouse_that_dbt_could_not_name_is_refused_at_the_start(name: str) -> None:
    with pytest.raises(ConfigError, match="quotes in its name"):
        File(f"it's/{name}")
    File("it's/cells.duckdb")
