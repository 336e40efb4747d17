"""The prediction branch: rows, models that are swapped, slow, broken or not there."""

from __future__ import annotations

import datetime as dt
import logging
import math
import shutil
import time
from pathlib import Path
from typing import Any

import onnx
import pytest

from pipeline.errors import ConfigError
from pipeline.options import config_from, parse
from pipeline.prediction import in_stream
from pipeline.prediction.in_stream import Current, Handler, prediction_id
from pipeline.prediction.model_file import Model, write
from pipeline.prediction.remaining_life import SHIPPED, RemainingLife
from schemas.forms import arrow_schema
from schemas.reading import DEAD_LETTER, PREDICTION
from transforms.health import Health
from transforms.life import features
from transforms.life.history import History, Point
from transforms.prediction.follow import Asked

ENDED_US = 1_700_000_000_000_000


def asked(cycles: int = 120, fade: float = 0.0008, name: str = "cell") -> Asked:
    history = History()
    for cycle in range(1, cycles + 1):
        noise = 0.0005 * math.sin(7.0 * cycle)
        history.add(Point(cycle, float(cycle), 1.0 - fade * cycle + noise, 0.003))
    soh = 1.0 - fade * cycles
    health = Health(soh, soh - 0.005, soh + 0.005, None, "full discharge")
    return Asked(
        name, f"{name}-{cycles}", cycles, ENDED_US, 0.8, health, features.of(history), 3600.0, ()
    )


def handler(path: Path = SHIPPED, limit_s: float = 10.0) -> Handler:
    return Handler(str(path), "kafka://broker:9092/topic", limit_s)


def given(handler: Handler, batch: list[Asked], model: Current) -> in_stream.Given:
    (found,) = handler.run_inference(batch, model)
    return found


def test_a_row_says_when_life_ends_and_whose_word_that_is() -> None:
    step = handler()
    found = given(step, [asked(), asked(name="other")], step.load_model())
    assert found.predictions.schema.equals(arrow_schema(PREDICTION))
    assert found.letters.num_rows == 0
    row, other = found.predictions.to_pylist()
    card = Model.load(SHIPPED).card
    assert (row["model"], row["model_version"]) == (card["name"], card["version"])
    assert row["prediction_id"] == prediction_id("cell-120", card["version"])
    assert row["prediction_id"] != other["prediction_id"]
    # 0.096 are lost, 0.104 left: 130 cycles at that pace.
    assert row["remaining_cycles_low"] < row["remaining_cycles"] < row["remaining_cycles_high"]
    assert 80 < row["remaining_cycles"] < 200
    ended_at = dt.datetime.fromtimestamp(ENDED_US / 1e6, dt.UTC)
    hours = (row["end_of_life_at"] - ended_at).total_seconds() / 3600.0
    assert hours == pytest.approx(row["remaining_cycles"], abs=1e-3)
    assert row["threshold_soh"] == 0.8 and row["cycle_number"] == 120
    assert 0.0 <= row["knee_risk"] <= 1.0 and row["out_of_domain"] is False


def test_a_cell_that_nothing_is_known_of_gets_reasons() -> None:
    step = handler()
    row = given(step, [asked(cycles=3)], step.load_model()).predictions.to_pylist()[0]
    assert row["remaining_cycles"] is None and row["end_of_life_at"] is None
    assert row["out_of_domain"] is True and row["reasons"]
    assert row["soh"] is not None


def test_a_flat_cell_has_no_upper_end() -> None:
    step = handler()
    row = given(step, [asked(fade=0.0)], step.load_model()).predictions.to_pylist()[0]
    assert row["remaining_cycles"] is None and row["remaining_cycles_high"] is None
    assert row["reasons"]


def another(path: Path, about: str) -> None:
    card = {**Model.load(path).card, "about": about}
    write(path.with_suffix(".new"), onnx.load(path), card)
    path.with_suffix(".new").replace(path)


def test_a_new_file_takes_the_models_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(in_stream, "_LOOK_S", 0.0)
    path = tmp_path / "model.onnx"
    shutil.copy(SHIPPED, path)
    step = handler(path)
    model = step.load_model()
    first = given(step, [asked()], model).predictions.to_pylist()[0]
    another(path, "the second one")
    with caplog.at_level(logging.WARNING):
        second = given(step, [asked()], model).predictions.to_pylist()[0]
    assert second["model_version"] == Model.load(path).version != first["model_version"]
    assert "takes the place of" in caplog.text
    path.write_bytes(b"no model")
    with caplog.at_level(logging.WARNING):
        third = given(step, [asked()], model).predictions.to_pylist()[0]
    assert third["model_version"] == second["model_version"]
    assert f"predictions go on with {second['model_version']}" in caplog.text
    path.unlink()
    assert given(step, [asked()], model).predictions.num_rows == 1


def test_a_model_that_is_slow_makes_dead_letters_and_no_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    step = handler(limit_s=0.2)
    model = step.load_model()
    honest = RemainingLife.of
    waits = [3.0, 0.0]

    def slow(self: RemainingLife, cells: Any) -> Any:
        time.sleep(waits.pop(0))
        return honest(self, cells)

    monkeypatch.setattr(RemainingLife, "of", slow)
    began = time.monotonic()
    found = given(step, [asked(), asked(name="other")], model)
    assert time.monotonic() - began < 2.0
    assert found.predictions.num_rows == 0
    assert found.letters.schema.equals(arrow_schema(DEAD_LETTER))
    letters = found.letters.to_pylist()
    assert [letter["equipment_id"] for letter in letters] == ["cell", "other"]
    assert {letter["step"] for letter in letters} == {"predict"}
    assert {letter["error_type"] for letter in letters} == {"model_slow"}
    assert "--model_timeout" in letters[0]["error_message"]
    # The thread that hangs keeps nobody waiting.
    assert given(step, [asked()], model).predictions.num_rows == 1


def test_a_model_that_fails_makes_dead_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    step = handler()
    model = step.load_model()

    def fails(self: RemainingLife, cells: Any) -> Any:
        raise ValueError("a tensor of the wrong shape")

    monkeypatch.setattr(RemainingLife, "of", fails)
    found = given(step, [asked()], model)
    (letter,) = found.letters.to_pylist()
    assert letter["error_type"] == "model_failed"
    assert "a tensor of the wrong shape" in letter["error_message"]
    again = given(step, [asked()], model).letters.to_pylist()[0]
    assert again["dead_letter_id"] == letter["dead_letter_id"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model=/no/such/model.onnx"], "--model=/no/such/model.onnx: there is no such file"),
        (["--model=default", "--cycles=none"], "drop one of them"),
        (["--model=default", "--model_timeout=0"], "--model_timeout=0"),
    ],
)
def test_a_model_that_can_t_be_used_is_told_before_anything_is_read(
    flags: list[str], message: str
) -> None:
    def checked() -> None:
        config = config_from(parse(["--source=simulator:", *flags]))
        assert config.model is not None
        in_stream.check(config.model, 10.0)

    with pytest.raises(ConfigError, match=message):
        checked()
