"""One file's trouble is its own: what is too large, broken or gone is refused, the others are read."""

from __future__ import annotations

import io
import os
import re
import zipfile
from pathlib import Path

import pytest

from pipeline.errors import SourceFailed
from pipeline.sources.files.readahead import read_group
from pipeline.sources.files.splits import list_files
from pipeline.sources.formats import blocks, delimited, meter, tables
from pipeline.sources.formats.content import Settings
from tests import hostile
from tests.hostile import GOOD, LINE, MIB, packed
from tests.pipeline.sources.reading import Found, read, read_file
from tests.workbooks import xlsx
from transforms.batch import RawBatch
from transforms.budget import ABOUT, USUAL, Budget, BudgetError, budget_from
from transforms.decode import decode

SHEET = [["Test_Time(s)", "Current(A)", "Voltage(V)"], [0.0, 1.0, 3.7], [1.0, 1.0, 3.7]]


def refused(found: Found, limit: str) -> None:
    """All of the file was refused, and the message says what allows more."""
    assert found.errors == ["too_large"]
    assert re.search(rf"the limit is [\d,]+: allow more with --limit {limit}=…", said(found))
    assert not found.rows


def said(found: Found) -> str:
    [letter] = found.letters
    return str(letter["error_message"])


@pytest.fixture
def packs_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meter, "_FREE_BYTES", 64 * 1024)


@pytest.mark.usefixtures("packs_well")
@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.zip", packed({"a.json": b"[" + b"{}," * 100_000 + b"{}]"})),
        ("b.zip", hostile.nested(1, packed({"a.csv": b"0" * MIB}))),
        ("c.json.gz", hostile.endless_document(1)),
        ("d.parquet", hostile.long_note(1000, 1000)),
        ("e.parquet", hostile.constant(100_000)),
    ],
)
def test_what_unpacks_to_many_times_its_size(tmp_path: Path, name: str, data: bytes) -> None:
    found = read_file(tmp_path, name, data, budget=Budget(ratio=50))
    assert set(found.errors) == {"too_large"}
    assert "allow more with --limit ratio=…" in found.letters[0]["error_message"]
    assert not found.rows
    # The same files, allowed.
    assert (
        read_file(tmp_path, name, data, budget=Budget(ratio=10**6)).errors.count("too_large") == 0
    )


def test_limits_of_a_file(tmp_path: Path) -> None:
    big = packed({"a.csv": GOOD * 40_000})
    refused(read_file(tmp_path / "1", "a.zip", big, budget=Budget(unpacked_mb=1)), "unpacked_mb")
    many = packed({f"{number}.csv": GOOD for number in range(5)})
    refused(read_file(tmp_path / "2", "a.zip", many, budget=Budget(members=4)), "members")
    document = b'{"x":"' + b"A" * 2 * MIB + b'"}'
    refused(read_file(tmp_path / "3", "a.json", document, budget=Budget(held_mb=1)), "held_mb")
    array = b"[" + b"1," * 1000 + b"1]"
    refused(read_file(tmp_path / "4", "a.json", array, budget=Budget(cells=999)), "cells")
    wide = hostile.wide(3, 20, 3.7)
    refused(read_file(tmp_path / "5", "a.parquet", wide, budget=Budget(columns=20)), "columns")
    book = xlsx({"Channel_1": SHEET})
    refused(read_file(tmp_path / "6", "a.xlsx", book, budget=Budget(cells=5)), "cells")
    note = hostile.long_note(3, 3000)
    refused(read_file(tmp_path / "7", "a.parquet", note, budget=Budget(message_kb=2)), "message_kb")


def test_a_test_of_too_many_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "PIECE_BYTES", 0)
    found = read_file(tmp_path, "a.zip", hostile.many_rows(50), budget=Budget(in_order_rows=49))
    refused(found, "in_order_rows")


def test_a_line_without_end_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 1000)
    monkeypatch.setattr(delimited, "BLOCK_BYTES", 1000)
    monkeypatch.setattr("pipeline.sources.formats.blocks.blocks.__kwdefaults__", {
        **blocks.blocks.__kwdefaults__, "block_bytes": 1000,
    })  # fmt: skip
    budget = Budget(message_kb=2)
    lines = LINE % 0 + b'{"x":"' + b"A" * 9000 + b'"}\n' + LINE % 1
    found = read_file(tmp_path, "a.ndjson", lines, budget=budget)
    assert len(found.rows) == 2
    assert found.errors == ["too_large"]
    assert found.letters[0]["position"] == "line 2"
    assert "the line has 9,009 bytes" in said(found)
    table = GOOD + b"2024-06-01T12:00:02Z," + b"9" * 9000 + b",1.0\n" + GOOD.split(b"\n", 1)[1]
    found = read_file(tmp_path, "a.csv", table, budget=budget)
    assert len(found.rows) == 4
    assert found.errors == ["too_large"]
    assert found.letters[0]["position"] == "line 4"


@pytest.mark.parametrize("cell", ["XFD1048576", "ZZ99999"])
def test_a_cell_far_from_the_others_ends_no_process(tmp_path: Path, cell: str) -> None:
    (tmp_path / "far.xlsx").write_bytes(hostile.far_cell(cell))
    (tmp_path / "good.xlsx").write_bytes(xlsx({"Channel_1": SHEET}))
    found = read(tmp_path, budget=Budget(cells=2_000_000))
    assert found.errors == ["too_large"]
    assert found.letters[0]["source_file"].endswith("far.xlsx")
    assert len(found.rows) == 2


def test_an_archive_whose_files_share_their_bytes(tmp_path: Path) -> None:
    found = read_file(tmp_path, "a.zip", hostile.overlapping(60))
    assert found.errors == ["corrupt_file"]
    assert "they overlap" in said(found)


def test_a_name_that_is_not_utf8_hides_no_file(tmp_path: Path) -> None:
    found = read_file(tmp_path, "a.zip", hostile.name_not_utf8())
    assert not found.errors
    assert len(found.rows) == 4
    names = {batch.origin.source_file for batch in found.batches}
    assert len(names) == 2 and "a/good.csv" in names


def test_a_broken_directory_is_followed_nowhere(tmp_path: Path) -> None:
    data = hostile.name_not_utf8()
    for end in range(len(data) - 80, len(data)):
        found = read_file(tmp_path, "a.zip", data[:end] + b"\xff" * 3 + data[end + 3 :])
        assert found.batches or found.errors
    assert zipfile.is_zipfile(io.BytesIO(packed({"a": b""})))


@pytest.mark.parametrize("zone", ["GMT+02:00", "Europe/Nowhere", "+25:99"])
def test_a_zone_that_only_its_writer_knows(tmp_path: Path, zone: str) -> None:
    found = read_file(tmp_path, "a.parquet", hostile.odd_zone(zone))
    assert not found.errors
    decoded, rejects = decode(found.batches[0])
    assert not rejects.rows
    times = [time.isoformat() for time in decoded.table["recorded_at"].to_pylist()]
    assert times == ["2024-06-01T12:00:00+00:00", "2024-06-01T12:00:01+00:00"]


def test_names_and_times_that_a_disk_may_have(tmp_path: Path) -> None:
    odd = os.fsencode(tmp_path) + b"/cell_\xff\xfe.csv"
    Path(os.fsdecode(odd)).write_bytes(GOOD)
    late = tmp_path / "cell_2.csv"
    late.write_bytes(GOOD)
    os.utime(late, (0, 300_000_000_000))
    found = read(tmp_path)
    assert not found.errors
    for batch in found.batches:
        assert batch.table.num_rows == 2
        decoded, rejects = decode(batch)
        assert not rejects.rows
        assert decoded.table.num_rows == 2
        assert (batch.origin.source_file or "").isascii()


def test_a_file_that_is_gone_or_another_thing_by_now(tmp_path: Path) -> None:
    for name in ("a.csv", "b.csv", "c.csv"):
        (tmp_path / name).write_bytes(GOOD)
    group = tuple(list_files(str(tmp_path)))
    (tmp_path / "a.csv").unlink()
    (tmp_path / "b.csv").unlink()
    (tmp_path / "b.csv").mkdir()
    outputs = [output for _, output in read_group(group, Settings("test"))]
    assert sum(isinstance(output, RawBatch) for output in outputs) == 1
    assert [output.error_type for output in outputs if not isinstance(output, RawBatch)] == [  # type: ignore[union-attr]
        "unreadable_file",
        "no_file",
    ]


def test_an_error_that_nobody_foresaw_is_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = delimited.read

    def fails(content, *given, **more):  # type: ignore[no-untyped-def]
        if content.path.endswith("b.csv"):
            raise ZeroDivisionError("by nought")
        return plain(content, *given, **more)

    monkeypatch.setattr(delimited, "read", fails)
    for name in ("a.csv", "b.csv", "c.csv"):
        (tmp_path / name).write_bytes(GOOD)
    found = read(tmp_path)
    assert len(found.rows) == 4
    assert found.errors == ["unreadable_file"]
    assert "ZeroDivisionError: by nought" in said(found)
    assert found.letters[0]["payload"] == GOOD


def test_a_disk_that_fails_is_everybodys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(GOOD)

    def fails(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(delimited, "read", fails)
    with pytest.raises(SourceFailed, match=re.escape(f"{path} can't be read: OSError")):
        read(path)


def test_limits_as_flags() -> None:
    assert budget_from([]) == Budget()
    assert budget_from(["cells=5,names=3", "text=9"]) == Budget(cells=5, names=3, text=9)
    for given in ("cells", "cells=", "cells=-1", "cells=0", "cells=x", "cells=1e9", "cell=5"):
        with pytest.raises(BudgetError, match=re.escape(given)):
            budget_from([given])


def test_the_page_of_limits_has_them_all() -> None:
    page = Path("pipeline/sources/LIMITS.md").read_text(encoding="utf-8")
    rows = [f"| `{name}` | {getattr(USUAL, name):,} | {about} |" for name, about in ABOUT.items()]
    assert "\n".join(rows) in page
