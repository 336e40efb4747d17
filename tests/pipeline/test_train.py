"""The commands train and predict, from a folder of curves to a file of lives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import predict, train
from pipeline.prediction import early_life
from tests.early_cells import made, write


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with cells (30 of them to train on) and a model of these."""
    root = tmp_path_factory.mktemp("trained")
    splits = ["train"] * 30 + ["test"] * 10
    write(root / "cells", *made(40, seed=1), splits=splits)
    (root / "cells" / "ORIGIN.md").write_text("# Cells\n\nMade for a test.\n")
    flags = [f"--curves={root / 'cells'}", "--split=train", f"--out={root / 'new' / 'm.onnx'}"]
    assert train.main(flags) == 0
    return root


def test_a_model_and_its_card_are_written(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert {each.name for each in (trained / "new").iterdir()} == {"m.onnx", "m.onnx.card.md"}
    card = (trained / "new" / "m.onnx.card.md").read_text("utf-8")
    assert "Made for a test." in card and "- count: 30" in card and "- split: train" in card
    flags = [f"--curves={trained / 'cells'}", "--split=train", f"--out={tmp_path / 'm.onnx'}"]
    assert train.main([*flags, "--origin=A lab."]) == 0
    shown = capsys.readouterr().out
    assert "30 cells" in shown and "cells left out one at a time: RMSE" in shown
    assert "- origin: A lab." in (tmp_path / "m.onnx.card.md").read_text("utf-8")


def test_lives_are_predicted_without_being_looked_at(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cells, life = made(40, seed=1)
    bare = write(tmp_path / "bare", cells)
    out = tmp_path / "made" / "lives.parquet"
    model = f"--model={trained / 'new' / 'm.onnx'}"
    assert predict.main([model, f"--curves={bare}", f"--out={out}"]) == 0
    found = pq.read_table(out)
    assert found.column_names[:4] == ["cell", "life_cycles", "low", "high"]
    assert found.num_rows == 40 and "predicted 40 of 40 cells" in capsys.readouterr().out
    assert np.abs(np.log10(found["life_cycles"].to_numpy() / life)).max() < 0.15
    # Whatever stands there: null, wrong, or text.
    again = tmp_path / "again.parquet"
    for lies in (np.full(40, np.nan), life[::-1]):
        folder = write(tmp_path / "lies", cells, lies, splits=["x"] * 40)
        assert predict.main([model, f"--curves={folder}", f"--out={again}"]) == 0
        assert pq.read_table(again).equals(found)


def test_only_a_split_is_predicted(trained: Path, tmp_path: Path) -> None:
    flags = [f"--model={trained / 'new' / 'm.onnx'}", f"--curves={trained / 'cells'}"]
    assert predict.main([*flags, f"--out={tmp_path / 'p'}", "--split=test"]) == 0
    assert pq.read_table(tmp_path / "p")["cell"].to_pylist() == [
        f"cell_{n:03}" for n in range(30, 40)
    ]


def test_cells_of_another_kind_are_named(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cells, _ = made(12, seed=2)
    cells.discharged[:11] *= 4
    folder = write(tmp_path / "f", cells)
    flags = [f"--model={trained / 'new' / 'm.onnx'}", f"--curves={folder}"]
    assert predict.main([*flags, f"--out={tmp_path / 'p'}"]) == 0
    shown = capsys.readouterr().out
    assert "predicted 1 of 12 cells" in shown and "11 cells are unlike" in shown
    assert "cell_000: capacity at cycle 2 is 4." in shown and "and 1 more" in shown


def test_without_a_model_the_one_that_ships_is_taken(tmp_path: Path) -> None:
    folder = write(tmp_path / "f", made(3, seed=3)[0])
    assert predict.main([f"--curves={folder}", f"--out={tmp_path / 'p'}"]) == 0
    assert pq.read_table(tmp_path / "p").schema.equals(early_life.SCHEMA)


OUT, CURVES = "--out={tmp}/x", "--curves={cells}"
MODEL = "--model={model}"


@pytest.mark.parametrize(
    ("command", "flags", "said"),
    [
        ("train", [CURVES], "--out: must be given"),
        ("train", [OUT], "--curves: give a folder"),
        ("train", [CURVES, "--out={tmp}"], "is a folder; give a file in it"),
        ("train", [CURVES, "--out=gs://b/m.onnx"], "--out=gs://b/m.onnx: must be a file of this"),
        ("train", ["--curves=gs://b/f", OUT], "--curves=gs://b/f: must be a folder of this"),
        ("train", [CURVES, OUT, "--split=none"], "--split=none: cells.parquet has no such cell"),
        ("train", [CURVES, OUT, "--split=test"], "has 10 cells to train on; at least 20"),
        ("train", [CURVES, OUT, "--spilt=x"], "--spilt: no such flag"),
        ("train", [CURVES, "--out={cells}/cells.parquet/x"], "--out: {cells}/cells.parquet/x"),
        ("predict", [MODEL, OUT], "--curves: must be given"),
        ("predict", [MODEL, CURVES], "--out: must be given"),
        ("predict", [MODEL, CURVES, "--out={tmp}"], "is a folder; give a file in it"),
        ("predict", [MODEL, CURVES, "--out=s3://b/p"], "--out=s3://b/p: must be a file of this"),
        (
            "predict",
            ["--model={tmp}/none", CURVES, OUT],
            "--model={tmp}/none: there is no such file",
        ),
        ("predict", ["--model={cells}/cells.parquet", CURVES, OUT], "no ONNX model"),
        ("predict", [MODEL, "--curves={tmp}", OUT], "discharge_curves.parquet"),
    ],
)
def test_what_is_wrong_is_one_line_that_names_the_flag(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    command: str, flags: list[str], said: str,
) -> None:  # fmt: skip
    places = {"tmp": tmp_path, "cells": trained / "cells", "model": trained / "new" / "m.onnx"}
    main = {"train": train.main, "predict": predict.main}[command]
    assert main([flag.format(**places) for flag in flags]) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.startswith("error: --") and shown.err.count("\n") == 1
    assert said.format(**places) in shown.err
    assert list(tmp_path.iterdir()) == []


def test_lives_that_are_null_are_named_in_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cells, life = made(21, seed=4)
    folder = write(tmp_path / "f", cells, life)
    table = pq.read_table(folder / "cells.parquet").drop_columns(["life_cycles"])
    lives = pa.array([None, *life[1:].tolist()])
    pq.write_table(table.append_column("life_cycles", lives), folder / "cells.parquet")
    assert train.main([f"--curves={folder}", f"--out={tmp_path / 'm'}"]) == 2
    assert "cells.parquet: column life_cycles is missing or not above 0 for cell cell_000" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize("main", [train.main, predict.main])
def test_help_says_how_to_call_it(main: object, capsys: pytest.CaptureFixture[str]) -> None:
    assert callable(main)
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert (
        "Example: python -m pipeline." in shown and "--curves FOLDER" in shown and "%%" not in shown
    )
