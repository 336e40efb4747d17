"""Tests the reading of zip archives where they lie."""

from __future__ import annotations

import builtins
import io
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import SourceFailed
from tests.pipeline.sources.reading import read, read_file
from tests.workbooks import xlsx
from transforms import naming

TABLE = b"Voltage(V),Current(A)\n3.7,1\n3.8,1\n"
SHEET = [["Date_Time", "Voltage(V)", "Current(A)"], ["2024-01-01", 3.7, 1.0]]


def archive(members: dict[str, bytes], **options: Any) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, **options) as packed:
        for name, data in members.items():
            packed.writestr(zipfile.ZipInfo(name, (2020, 2, 3, 4, 5, 6)), data)
    return out.getvalue()


def test_members_are_files_of_their_own(tmp_path: Path) -> None:
    data = archive(
        {
            "CS2_36/": b"",
            "CS2_36/CS2_36_1_2_11.xlsx": xlsx({"Channel_1": SHEET}),
            "CS2_36/CS2_36_1_9_11.csv": TABLE,
            "loose.csv": TABLE,
            "README.txt": b"about",
            "paper.pdf": b"%PDF-1.4",
            ".DS_Store": b"x",
            "__MACOSX/CS2_36/._CS2_36_1_9_11.csv": b"\0\1",
            "deep/er/log.ndjson": b'{"a":1}\n',
            "what.bin": b"\x00\x01\x02",
        }
    )
    found = read_file(tmp_path, "cells.zip", data)
    files = {batch.origin.source_file: batch for batch in found.batches}
    assert set(files) == {
        "CS2_36/CS2_36_1_2_11.xlsx",
        "CS2_36/CS2_36_1_9_11.csv",
        "cells/loose.csv",
        "er/log.ndjson",
    }
    assert files["CS2_36/CS2_36_1_2_11.xlsx"].origin.equipment_id == "CS2_36"
    assert files["cells/loose.csv"].origin.equipment_id == "loose"
    assert files["cells/loose.csv"].origin.arrived_at_us == 1580702706_000_000
    assert found.errors == ["unsupported_format"]
    assert found.letters[0]["source_file"] == "cells/what.bin"
    assert found.letters[0]["payload"] == b"\x00\x01\x02"


def test_splits_read_every_member_once(tmp_path: Path) -> None:
    path = tmp_path / "cells.zip"
    path.write_bytes(archive({f"C/C_{n}.csv": TABLE for n in range(30)}))
    for size in (1, 100_000, 300_000, 10**8):
        found = read(path, split_bytes=size)
        assert len(found.batches) == 30 and len(found.rows) == 60


def test_archives_in_archives(tmp_path: Path) -> None:
    data = archive({"C/C_1.csv": TABLE})
    found = read_file(tmp_path, "a.zip", archive({"inner.zip": data, "x/b.zip": data}))
    assert [batch.origin.source_file for batch in found.batches] == ["C/C_1.csv"] * 2
    for level in range(6):
        data = archive({f"level{level}.zip": data})
    assert read_file(tmp_path / "deep", "a.zip", data).errors == ["unsupported_format"]


def test_nothing_is_unpacked_to_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = archive({"C/C_1.csv": TABLE, "C/C_1.xlsx": xlsx({"Channel_1": SHEET})})
    path = tmp_path / "a.zip"
    path.write_bytes(archive({"inner.zip": inner, "D/D_1.csv": TABLE}))
    real = builtins.open

    def no_writing(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        assert not set(mode) & set("wax+"), file
        return real(file, mode, *args, **kwargs)

    monkeypatch.setattr(builtins, "open", no_writing)
    monkeypatch.setattr(io, "open", no_writing)
    monkeypatch.setattr(tempfile, "mkstemp", None)
    assert len(read(path).batches) == 3
    assert [item.name for item in tmp_path.iterdir()] == ["a.zip"]


def test_broken_archives_and_members(tmp_path: Path) -> None:
    good = archive({"a.csv": TABLE * 100, "b.csv": TABLE})
    found = read_file(tmp_path, "cut.zip", good[: len(good) // 2])
    assert found.errors == ["truncated_file"] and found.letters[0]["payload"]
    found = read_file(tmp_path / "1", "a.zip", b"just text")
    assert found.errors == ["not_a_zip"]
    found = read_file(tmp_path / "2", "a.zip", b"")
    assert found.errors == ["empty_file"]
    found = read_file(tmp_path / "3", "a.zip", archive({}))
    assert found.errors == [] and found.batches == []

    encrypted = bytearray(archive({"a.csv": TABLE, "b.csv": TABLE}))
    with zipfile.ZipFile(io.BytesIO(encrypted)) as packed:
        entry = encrypted.index(b"PK\x01\x02")
        assert packed.infolist()[0].header_offset == 0
    encrypted[6] |= 1
    encrypted[entry + 8] |= 1
    found = read_file(tmp_path / "4", "a.zip", bytes(encrypted))
    assert found.errors == ["encrypted_member"] and len(found.rows) == 2

    damaged = bytearray(good)
    damaged[40:60] = b"\xff" * 20
    found = read_file(tmp_path / "5", "a.zip", bytes(damaged))
    assert found.errors == ["corrupt_file"] and len(found.rows) == 2


def test_a_member_that_lies_before_the_file(tmp_path: Path) -> None:
    data = bytearray(archive({"a.csv": TABLE, "b.csv": TABLE}))
    end = data.rindex(b"PK\x05\x06")
    # A directory said to begin later than it does puts every member before the file's start.
    data[end + 16 : end + 20] = (2**31).to_bytes(4, "little")
    found = read_file(tmp_path, "a.zip", bytes(data))
    assert found.batches == [] and set(found.errors) <= {"corrupt_file", "truncated_file"}
    assert found.errors


def test_a_member_with_a_wrong_checksum_is_reported(tmp_path: Path) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as packed:
        packed.writestr("a.csv", TABLE)
    data = out.getvalue().replace(b"3.8,1", b"9.9,1", 1)
    found = read_file(tmp_path, "a.zip", data)
    assert found.errors == ["corrupt_file"]


def test_errors_of_the_storage_are_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            raise ConnectionResetError(104, "reset")

    for name, data in {
        "a.zip": archive({"a.csv": TABLE}),
        "b.csv": TABLE,
        "c.xlsx": xlsx({"Channel_1": SHEET}),
        "d.ndjson": b"{}\n",
        "e.parquet": b"PAR1",
    }.items():
        path = tmp_path / name
        path.write_bytes(data)
        with monkeypatch.context() as patch:
            patch.setattr("pipeline.sources.files.splits.opened", lambda *_: Failing())
            with pytest.raises((SourceFailed, ConnectionResetError)):
                read(path)


def test_which_members_continue_a_test_is_found_out_once_an_archive(tmp_path, monkeypatch) -> None:
    asked: list[int] = []

    def counted(paths: Any) -> dict[str, str]:
        asked.append(1)
        return first_parts(paths)

    first_parts = naming.first_parts
    monkeypatch.setattr(naming, "first_parts", counted)
    data = archive({f"X/X_Wb_{number}.csv": TABLE for number in range(1, 60)})
    found = read_file(tmp_path, "parts.zip", data)
    assert len(found.rows) == 2 * 59
    assert len(asked) <= 3  # the folder, the archive
