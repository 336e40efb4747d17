"""Nothing is read from outside the source's folder, whatever links and devices lie in it."""

from __future__ import annotations

import logging
import os
import socket
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.__main__ import main
from pipeline.sources.files.source import FileSource
from pipeline.sources.files.splits import list_files
from pipeline.sources.formats.content import Refused
from transforms.batch import RawBatch
from transforms.dead_letter import DeadLetter

GOOD = b"time,voltage,current\n1717243200,3.7,1\n1717243260,3.8,1\n"
SECRET = b"time,voltage,current\n1717243200,3.1,9\nroot:hunter2:19000\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a good file, links that stay inside, and ones that lead out."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "shadow.csv").write_bytes(SECRET)
    found = tmp_path / "in"
    (found / "B1").mkdir(parents=True)
    (found / "B1" / "good.csv").write_bytes(GOOD)
    (found / "inside.csv").symlink_to("B1/good.csv")
    (found / "again").symlink_to("B1")
    (found / "shadow.csv").symlink_to(outside / "shadow.csv")
    (found / "twice.csv").symlink_to("shadow.csv")
    (found / "B1" / "up.csv").symlink_to("../../outside/shadow.csv")
    (found / "environ.csv").symlink_to("/proc/self/environ")
    (found / "zero.csv").symlink_to("/dev/zero")
    (found / "elsewhere").symlink_to(outside)
    os.mkfifo(found / "pipe.csv")
    return found


OUTSIDE = ["B1/up.csv", "elsewhere", "environ.csv", "shadow.csv", "twice.csv", "zero.csv"]


def names(folder: Path) -> dict[str, str]:
    return {split.path.removeprefix(f"{folder}/"): split.path for split in list_files(str(folder))}


def test_links_that_lead_out_are_named_and_not_followed(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = names(folder)
    assert sorted(found) == sorted(["B1/good.csv", "inside.csv", *OUTSIDE])
    source = FileSource(str(folder), "files")
    with caplog.at_level(logging.WARNING):
        source.check()
    links, pipes = (record.getMessage() for record in caplog.records)
    assert all(found[name] in links for name in OUTSIDE)
    assert "inside.csv" not in links and "pipe.csv" in pipes
    outputs = list(source.batches())
    letters = [each for each in outputs if isinstance(each, DeadLetter)]
    assert {letter.error_type for letter in letters} == {"outside_source"}
    assert sorted(letter.source_file or "" for letter in letters) == sorted(
        "B1/up.csv" if name == "B1/up.csv" else f"in/{name}" for name in OUTSIDE
    )
    assert all(letter.payload is None for letter in letters)
    batches = [each for each in outputs if isinstance(each, RawBatch)]
    assert sum(batch.table.num_rows for batch in batches) == 4


def test_a_run_writes_nothing_of_what_lies_outside(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    lake = tmp_path / "lake"
    argv = [f"--source={folder}", f"--lake={lake}", "--warehouse=none", "--no_progress"]
    assert main(argv) == 1
    out, err = capfd.readouterr()
    assert "dead letters 6" in out and "6 files gave no reading" in err
    files = [path for path in lake.rglob("*") if path.is_file()]
    written = b"".join(path.read_bytes() for path in files if path.suffix != ".parquet")
    tables = [str(pq.ParquetFile(path).read().to_pylist()) for path in files if path.suffix == ".parquet"]  # fmt: skip
    assert b"hunter2" not in written and not any("hunter2" in table for table in tables)
    assert sorted(path.name for path in files if "raw" in path.parts) == ["good.csv", "inside.csv"]


def test_a_glob_stays_in_its_folder_too(folder: Path) -> None:
    found = {Path(split.path).name: split for split in list_files(f"{folder}/*.csv")}
    with pytest.raises(Refused, match="leads out"):
        found["shadow.csv"].open()
    with found["inside.csv"].open() as file:
        assert file.read() == GOOD


def test_a_file_that_is_named_may_be_a_link_and_a_folder_too(folder: Path) -> None:
    (named,) = list_files(str(folder / "shadow.csv"))
    with named.open() as file:
        assert file.read() == SECRET
    (folder.parent / "link").symlink_to(folder)
    found = {Path(split.path).name: split for split in list_files(str(folder.parent / "link"))}
    with found["good.csv"].open() as file:
        assert file.read() == GOOD


@pytest.mark.parametrize("swapped", ["file", "folder", "pipe", "socket"])
def test_what_is_swapped_after_it_was_listed_is_not_read(
    folder: Path, tmp_path: Path, swapped: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = {Path(split.path).name: split for split in list_files(str(folder))}["good.csv"]
    good = folder / "B1" / "good.csv"
    good.unlink()
    if swapped == "file":
        good.symlink_to(tmp_path / "outside" / "shadow.csv")
    elif swapped == "folder":
        (folder / "B1").rename(tmp_path / "gone")
        (tmp_path / "outside" / "good.csv").write_bytes(SECRET)
        (folder / "B1").symlink_to(tmp_path / "outside")
    elif swapped == "pipe":
        os.mkfifo(good)
    else:
        monkeypatch.chdir(good.parent)
        socket.socket(socket.AF_UNIX).bind("good.csv")
    error = (Refused, OSError) if swapped == "socket" else Refused
    with pytest.raises(error):
        listed.open()


def test_where_no_proc_tells_the_place_the_name_is_followed_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.safe_open._HANDLES", Path("/nowhere"))
    test_a_glob_stays_in_its_folder_too(folder)
