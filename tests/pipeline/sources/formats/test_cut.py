"""A test that is cut to parts reads as one that is read in one piece, whatever its cycler."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.sources.formats import tables
from tests.fuzz import generate
from tests.pipeline.sources.reading import read
from transforms.batch import BatchKind, RawBatch
from transforms.decode import decode
from transforms.rejects import dead_letters

CYCLERS = Path(__file__).parents[3] / "data" / "cyclers"
FILES = sorted(path for path in CYCLERS.glob("*/*") if path.parent.name != "refused")
# Of the brands' exports, which differ by their number.
NUMBERS = range(40)


def rows_of(batches: list[RawBatch]) -> dict[tuple[str, Any, int], dict[str, Any]]:
    """Readings and dead letters by file, cell and place."""
    found: dict[tuple[str, Any, int], dict[str, Any]] = {}
    for batch in batches:
        assert batch.kind is BatchKind.ROWS
        decoded, rejects = decode(batch)
        table = decoded.table
        for row in table.to_pylist():
            place = batch.origin.first_row + row.pop("row")
            key = (batch.origin.source_file or "", batch.origin.equipment_id, place)
            assert key not in found
            row["start"] = decoded.test_start_us
            found[key] = {name: value for name, value in row.items() if value is not None}
        if rejects.rows:
            for letter in dead_letters(batch, rejects, "decode").to_pylist():
                key = (letter["source_file"], letter["equipment_id"], int(letter["position"]))
                assert key not in found
                found[key] = letter
    return found


def both_ways(path: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Reads a path in one piece and cut, compares; returns into how many batches it was cut."""
    os.utime(path, (1_700_000_000, 1_700_000_000))
    together = read(path)
    reading_of = tables.reading_of
    with monkeypatch.context() as patch:
        patch.setattr(tables, "PIECE_BYTES", 0)
        # Those that need no order, too.
        patch.setattr(
            tables, "reading_of", lambda *given: replace(reading_of(*given), in_parts=False)
        )
        apart = read(path, batch_rows=37)
    ours = [batch for batch in together.batches if batch.kind is BatchKind.ROWS]
    cut = [batch for batch in apart.batches if batch.kind is BatchKind.ROWS]
    assert rows_of(cut) == rows_of(ours)
    assert apart.letters == together.letters
    return len(cut) - len(ours)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_inputs_read_the_same_when_cut(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both_ways(path, monkeypatch)


@pytest.mark.long
def test_exports_of_all_brands_read_the_same_when_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = 0
    for number in NUMBERS:
        export = generate.one(5, number)
        generate.write(export, tmp_path)
        more += both_ways(tmp_path / export.name, monkeypatch)
    assert more > 200  # into eight parts each


def test_rows_that_the_file_holds_twice_count_once_when_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A counter for both directions makes the file one that is read in order.
    lines = ["Test Time(s),Current(A),Voltage(V),Capacity(mAh)"]
    for second in range(0, 3600, 10):
        sign = 1 if second < 1800 else -1
        flowed = (second % 1800) / 3.6
        lines.append(f"{second},{sign},{3.6 + sign * (second % 1800) / 18000:.4f},{flowed:.4f}")
    path = tmp_path / "cell_7.csv"
    path.write_text("\n".join([*lines, *lines[100:150]]) + "\n")
    assert both_ways(path, monkeypatch) > 5


def test_a_clock_alone_needs_no_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.sources.formats.delimited.SURVEY_ROWS", 50)
    path = tmp_path / "cell_8.csv"
    rows = [f"{second},{3.6 + second / 1e5:.5f},0.5" for second in range(0, 4000, 10)]
    path.write_text("\n".join(["Test Time(s),Voltage(V),Current(A)", *rows]) + "\n")
    os.utime(path, (1_700_000_000, 1_700_000_000))
    cut = read(path, batch_rows=50).batches
    monkeypatch.undo()
    whole = read(path).batches
    assert len(cut) == 8
    assert len(whole) == 1
    assert rows_of(cut) == rows_of(whole)


def test_more_rows_of_one_moment_than_can_be_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "PIECE_BYTES", 0)
    monkeypatch.setattr("pipeline.sources.formats.cut._MOMENT_ROWS", 99)
    path = tmp_path / "cell_9.csv"
    path.write_text("Voltage(V),Current(A)\n" + "3.7,0.5\n" * 100)
    found = read(path)
    assert not found.batches
    assert found.errors == ["too_large"]
    assert "add a column with the time" in found.letters[0]["error_message"]


def test_what_stands_beside_rows_is_in_no_dead_letter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "PIECE_BYTES", 0)
    path = tmp_path / "cell_5.csv"
    path.write_text("Voltage(V),Current(A),note\n3.7,0.5,a\nbroken,0.5,b\n3.8,0.5,c\n")
    [batch] = read(path).batches
    assert any(name.startswith("\x00") for name in batch.table.column_names)
    decoded, rejects = decode(batch)
    [letter] = dead_letters(batch, rejects, "decode").to_pylist()
    assert letter["payload"] == b'{"Current(A)":"0.5","Voltage(V)":"broken","note":"b"}'
    assert decoded.table.column("extra").to_pylist() == ['{"note":"a"}', '{"note":"c"}']
    assert isinstance(decoded.table, pa.Table)
