"""Tests the file source as a whole: what it finds, counts and hands to the graph."""

from __future__ import annotations

import gzip
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.errors import ConfigError
from pipeline.progress import PROGRESS
from pipeline.sources.files.source import FileSource
from pipeline.sources.files.splits import list_files
from tests.pipeline.sources.reading import read_file, run
from tests.workbooks import xlsx

TABLE = b"Date_Time,Voltage(V),Current(A)\n" + b"2024-01-01 00:00:00,3.7,1\n" * 50


def tree(folder: Path) -> Path:
    for name, data in {
        "C1/C1_1_2_11.csv": TABLE,
        "C1/C1_1_9_11.csv": TABLE + b"short\n",
        "C2/log.ndjson": b'{"a":1}\n' * 1000,
        "C2/notes.xyz": b"\0\1",
        "C2/README.md": b"# about",
        "C2/.hidden": b"x",
        ".git/a.csv": TABLE,
        "d [1]/a.json": b"[{},{}]",
        "empty.csv": b"",
    }.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    with zipfile.ZipFile(folder / "more.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        for n in range(10):
            packed.writestr(f"C3/C3_{n}.csv", TABLE)
    return folder


def names(pattern: str, folder: Path) -> list[str]:
    return [split.path.removeprefix(f"{folder}/") for split in list_files(pattern)]


def test_what_a_pattern_stands_for(tmp_path: Path) -> None:
    folder = tree(tmp_path)
    everything = ["C1/C1_1_2_11.csv", "C1/C1_1_9_11.csv", "C2/log.ndjson", "C2/notes.xyz",
                  "d [1]/a.json", "empty.csv", "more.zip"]  # fmt: skip
    assert names(str(folder), folder) == everything
    assert names(f"{folder}/", folder) == everything
    assert names(f"{folder}/**", folder) == everything
    assert names(f"{folder}/C1/*.csv", folder) == everything[:2]
    assert names(f"{folder}/C?", folder) == everything[:4]
    assert names(f"{folder}/d [1]", folder) == ["d [1]/a.json"]
    assert names(f"{folder}/d [1]/a.json", folder) == ["d [1]/a.json"]
    assert names(f"{folder}/C2/README.md", folder) == ["C2/README.md"]  # named, so meant
    assert names(f"{folder}/nothing", folder) == []
    assert len(list_files(str(folder), skip=("*.xyz",))) == 6


@pytest.mark.parametrize("split_bytes", [2000, 1 << 26])
def test_everything_is_read_or_refused_and_counted(tmp_path: Path, split_bytes: int) -> None:
    source = FileSource(str(tree(tmp_path)), "files", split_bytes=split_bytes, batch_rows=20)
    source.check()
    PROGRESS.reset()
    found = run(source)
    assert sum(batch.table.num_rows for batch in found.batches) == 12 * 50 + 1000 + 2
    assert sorted(found.errors) == ["empty_file", "unsupported_format", "wrong_column_count"]
    assert found.counters == {"read": 12 * 50 + 1000 + 2 + 3, "dead_letters": 3}
    found.check_origins()
    assert PROGRESS.done == source.total > 0
    assert len(found.files) == 7
    archived = {file.source_file: file for file in found.files}
    more = archived[f"{tmp_path.name}/more.zip"]
    assert more.size == (tmp_path / "more.zip").stat().st_size
    assert Path(more.path).read_bytes()[:2] == b"PK"


_SAMPLES = {
    "a.csv": TABLE,
    "b.xlsx": xlsx({"Channel_1": [["Voltage(V)", "Current(A)"], [3.7, 1.0]]}),
    "c.csv.gz": gzip.compress(TABLE),
    "d.ndjson": b'{"a":1}\n' * 20,
    "e.json": b'[{"a":1},{"b":2}]',
    "f.bin": TABLE,
}


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    name=st.sampled_from(sorted(_SAMPLES)),
    edits=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 30), st.binary(max_size=9))),
    split_bytes=st.sampled_from([50, 1 << 26]),
)
def test_no_damage_stops_the_job(
    tmp_path: Path, name: str, edits: list[tuple[float, int, bytes]], split_bytes: int
) -> None:
    data = _SAMPLES[name]
    for place, removed, added in edits:
        at = int(place * len(data))
        data = data[:at] + added + data[at + removed :]
    found = read_file(tmp_path, name, data, split_bytes=split_bytes)
    for letter in found.letters:
        assert letter["error_type"] and letter["error_message"] and letter["step"] == "read"


def test_check_names_the_flag_and_the_fix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"--source=here matches no file"):
        FileSource(str(tmp_path / "nothing"), "here").check()
    (tmp_path / "README.md").write_bytes(b"x")
    with pytest.raises(ConfigError, match="matches no file"):
        FileSource(str(tmp_path), "here").check()
    with pytest.raises(ConfigError, match=r"--source=ftp cannot be listed"):
        FileSource("ftp://host/file", "ftp").check()
    path = tmp_path / "a.csv"
    path.write_bytes(TABLE)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pipeline.safe_open.reading", refuse)
    with pytest.raises(ConfigError, match=r"a\.csv cannot be opened.*check that this account"):
        FileSource(str(path), "here").check()
