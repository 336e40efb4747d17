"""A file's rows are read by one decision, of one cell and one test, however they travel."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline.sources.formats import tables
from pipeline.sources.formats.content import Content, Settings
from tests.fuzz.doors.files import _zip
from tests.pipeline.sources.reading import Found, read, read_file
from transforms.decode import decode

HEADER = "Record,Date_Time,Test_Time(s),Current(A),Voltage(V)"


def rows(first: int, count: int) -> list[str]:
    return [
        f"{n},2024-01-01 {n // 3600:02d}:{n // 60 % 60:02d}:{n % 60:02d},{n},1,{3 + n / 1e4:.4f}"
        for n in range(first, first + count)
    ]


def csv(first: int = 1, count: int = 40, above: str = "") -> bytes:
    return "\n".join([*above.splitlines(), HEADER, *rows(first, count), ""]).encode()


def origins(found: Found) -> set[tuple[str | None, int | None]]:
    return {(batch.origin.equipment_id, batch.origin.test_start_us) for batch in found.batches}


def doubts(found: Found) -> set[str]:
    return {
        name
        for batch in found.batches
        if batch.origin.reading is not None
        for name in batch.origin.reading.disagreements
    }


@pytest.mark.parametrize(
    ("path", "above", "equipment", "guessed"),
    [
        ("CS2_35/CS2_35_8_18_10.csv", "", "CS2_35", False),
        ("lab/run7.csv", "Cell: K7", "K7", False),
        ("lab/run7.csv", "Cell: RUN7", "run7", False),
        # the head names another cell than folder and file, which agree
        ("CS2_35/CS2_35_8_18_10.csv", "Cell: K7", "CS2_35", True),
        ("lab/run7.csv", "Cell: data", "run7", False),
        ("data/export_1.csv", "", "export_1", True),
        ("data/export_1.csv", "Cell: K7", "K7", False),
    ],
)
def test_the_cell_is_named_by_folder_head_or_file(
    tmp_path: Path, path: str, above: str, equipment: str, guessed: bool
) -> None:
    found = read_file(tmp_path / "test", path, csv(above=above))
    assert {name for name, _ in origins(found)} == {equipment}
    assert ("identity_guessed" in doubts(found)) is guessed


def test_a_cell_that_is_told_is_believed(tmp_path: Path) -> None:
    found = read_file(tmp_path, "data/export_1.csv", csv(above="Cell: K7"), equipment_id="given")
    assert {name for name, _ in origins(found)} == {"given"}
    assert "identity_guessed" not in doubts(found)


@pytest.mark.parametrize("batch_rows", [7, 1000])
@pytest.mark.parametrize("split_bytes", [300, 1 << 20])
def test_all_parts_of_a_file_have_one_start_and_one_decision(
    tmp_path: Path, batch_rows: int, split_bytes: int
) -> None:
    found = read_file(tmp_path, "lab/K7.csv", csv(), batch_rows=batch_rows, split_bytes=split_bytes)
    assert origins(found) == {("K7", 1_704_067_201_000_000)}
    assert len({id(batch.origin.reading) and batch.origin.reading for batch in found.batches}) == 1
    assert found.column("Record") == [str(n) for n in range(1, 41)]
    found.check_origins()


def test_a_file_that_has_to_be_read_in_order_travels_whole(tmp_path: Path) -> None:
    data = "\n".join([HEADER, *rows(1, 40)[::-1], ""]).encode()
    found = read_file(tmp_path, "lab/K7.csv", data, batch_rows=7)
    (batch,) = found.batches
    assert batch.origin.reading is not None and batch.origin.reading.in_order
    table, _ = decode(batch)
    assert table.test_start_us == 1_704_067_201_000_000


@pytest.mark.parametrize(
    ("names", "one_test"),
    [
        (("K7_Wb_1.csv", "K7_Wb_2.csv"), True),
        (("K7.001", "K7.002"), True),
        (("K7_part1.csv", "K7_part2.csv"), True),
        (("K7_a.csv", "K7_b.csv"), False),
    ],
)
def test_parts_whose_clock_runs_on_are_one_test(
    tmp_path: Path, names: tuple[str, str], one_test: bool
) -> None:
    for name, first in zip(names, (1, 3000), strict=True):
        (tmp_path / name).write_bytes(csv(first))
    found = read(tmp_path)
    starts = {start for _, start in origins(found)}
    assert len(starts) == (1 if one_test else 2)
    assert len(found.rows) == 80


def test_a_part_that_begins_again_is_a_test_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "K7_Wb_1.csv").write_bytes(csv())
    later = csv().replace(b"2024-01-01", b"2024-01-02")
    (tmp_path / "K7_Wb_2.csv").write_bytes(later)
    assert len(origins(read(tmp_path))) == 2


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that were opened to find out when their test began."""
    found: list[str] = []
    really = tables._read_start

    def read_start(first: Content, settings: Settings) -> int | None:
        found.append(first.path)
        return really(first, settings)

    monkeypatch.setattr(tables, "_read_start", read_start)
    return found


def parts(day: str = "01") -> dict[str, bytes]:
    """A test in nine files."""
    lines = rows(1, 40 * 100)
    cut = [[HEADER, *lines[at : at + 40], ""] for at in range(0, 900, 100)]
    texts = ["\n".join(each).replace("2024-01-01", f"2024-01-{day}") for each in cut]
    return {f"lab/K7_part{n}.csv": text.encode() for n, text in enumerate(texts, 1)}


def test_the_first_part_is_read_once_for_all_that_follow(tmp_path: Path, looked: list[str]) -> None:
    for name, data in parts().items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    assert {start for _, start in origins(read(tmp_path))} == {1_704_067_201_000_000}
    assert looked == [str(tmp_path / "lab" / "K7_part1.csv")]


def test_so_it_is_in_an_archive_and_another_archive_s_is_another(
    tmp_path: Path, looked: list[str]
) -> None:
    for name, day in (("a.zip", "01"), ("b.zip", "02")):
        (tmp_path / name).write_bytes(_zip(parts(day)))
    assert (tmp_path / "a.zip").stat().st_size == (tmp_path / "b.zip").stat().st_size
    for name in ("a.zip", "b.zip"):
        os.utime(tmp_path / name, (1_710_000_000, 1_710_000_000))
    starts = {start for _, start in origins(read(tmp_path))}
    assert starts == {1_704_067_201_000_000, 1_704_153_601_000_000}
    assert looked == ["lab/K7_part1.csv"] * 2


def test_a_table_without_rows_gives_nothing(tmp_path: Path) -> None:
    found = read_file(tmp_path, "lab/K7.csv", f"{HEADER}\n".encode())
    assert not found.batches and not found.letters
