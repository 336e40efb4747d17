"""python -m pipeline.truth writes the truth of the job's own source."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.truth import main


def test_it_writes_a_file_for_each_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = "simulator:?equipment=3&machines=1&cycles=2&protocol=formation&per_index=2"
    assert main([f"--source={source}", f"--out={tmp_path / 'truth'}"]) == 0
    said = capsys.readouterr().out
    rows = {
        name: pq.read_table(tmp_path / "truth" / f"{name}.parquet").num_rows
        for name in ("cells", "cycles", "swings", "peaks")
    }
    assert rows["cells"] == 2
    assert rows["cycles"] == 4
    assert rows["swings"] == 16
    assert rows["peaks"] > 40
    for name, count in rows.items():
        assert f"{name}.parquet: {count:,} rows" in said


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("data.csv", "only of simulated cells"),
        ("simulator:?cells=4", "'cells'"),
        ("simulator:?readings=100", "'cycles'"),
    ],
)
def test_a_wrong_source_is_named_with_its_fix(
    source: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([f"--source={source}", f"--out={tmp_path}"]) == 2
    assert says in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert main(["--source=simulator:?equipment=1&cycles=1", f"--out={tmp_path / 'file'}"]) == 2
    assert "--out=" in capsys.readouterr().err
