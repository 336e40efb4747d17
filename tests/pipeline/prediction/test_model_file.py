"""Model files: written and read back, versions, cards, and files that are none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pipeline.errors import ConfigError
from pipeline.prediction import model_file
from pipeline.prediction.model_file import Model
from tests.services.fixtures import set_environment
from tests.services.gcs import Gcs
from tests.services.s3 import S3

CARD = {
    "name": "double",
    "kind": "test",
    "features": {"a": "first | of two", "b": "second"},
    "error": {"rmse_cycles": 1.23456},
}


def graph(factor: float = 2.0, opset: int = 17) -> onnx.ModelProto:
    """Multiplies what it is given."""
    value = numpy_helper.from_array(np.array([factor]), "factor")
    double = TensorProto.DOUBLE
    made = helper.make_graph(
        [helper.make_node("Mul", ["x", "factor"], ["y"])],
        "double",
        [helper.make_tensor_value_info("x", double, ["n", 2])],
        [helper.make_tensor_value_info("y", double, ["n", 2])],
        [value],
    )
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(made, opset_imports=opsets, ir_version=8)


@pytest.fixture
def written(tmp_path: Path) -> Path:
    path = tmp_path / "m.onnx"
    model_file.write(path, graph(), CARD)
    return path


def refused(path: str | Path, **wanted: Any) -> str:
    with pytest.raises(ConfigError) as error:
        Model.load(path, **wanted)
    message = str(error.value)
    assert message.startswith(f"--model={path}: ") and "\n" not in message and "; " in message
    return message


def test_what_is_written_is_read_and_runs(written: Path) -> None:
    model = Model.load(written, "test", ["a", "b"])
    given = np.array([[1.0, 2.0], [3.0, 4.0], [0.1, 0.2]])
    assert np.array_equal(model.run({"x": given})["y"], given * 2)
    assert {name: model.card[name] for name in CARD} == CARD
    assert model.card["opset"] == 17 and model.card["versions"]["onnxruntime"]
    assert model.card["made_at"].endswith("+00:00")
    assert model.path == str(written) and len(model.version) == 12


def test_the_version_is_that_of_the_content(tmp_path: Path) -> None:
    def version(factor: float = 2.0, **changed: Any) -> str:
        card = model_file.write(tmp_path / "m.onnx", graph(factor), {**CARD, **changed})
        assert Model.load(tmp_path / "m.onnx").version == card["version"]
        return str(card["version"])

    first = version()
    assert version() == first
    assert version(made_at="another day", version="x", versions={}) == first
    assert len({first, version(2.0001), version(error={}), version(kind="other")}) == 4


def test_a_graph_that_was_read_is_written_with_the_new_card_alone(
    written: Path, tmp_path: Path
) -> None:
    model_file.write(tmp_path / "again.onnx", onnx.load(written), {**CARD, "name": "again"})
    assert Model.load(tmp_path / "again.onnx").card["name"] == "again"


def test_the_card_is_readable(written: Path) -> None:
    text = model_file.card_path(written).read_text("utf-8")
    assert text.startswith(f"# double {Model.load(written).version}\n")
    assert "| `a` | first \\| of two |" in text and "rmse cycles: 1.235" in text
    assert model_file.card_path(written).name == "m.onnx.card.md"


@pytest.mark.parametrize("lacking", ["name", "kind", "features"])
def test_a_card_must_say_what_it_is(tmp_path: Path, lacking: str) -> None:
    with pytest.raises(ValueError, match=f"no {lacking}"):
        model_file.write(tmp_path / "m.onnx", graph(), {**CARD, lacking: None})
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_none(tmp_path: Path) -> None:
    assert "no such file" in refused(tmp_path / "none.onnx")
    assert "is a folder" in refused(tmp_path)
    path = tmp_path / "x.onnx"
    for content, said in (
        (b"", "is empty"),
        (b"not a model", "no ONNX model"),
        (b"PAR1" * 100, "no ONNX model"),
        (b"\x80\x04\x95K\x05.", "no ONNX model"),  # a pickle is never loaded
    ):
        path.write_bytes(content)
        assert said in refused(path)
    path.write_bytes(graph().SerializeToString())
    assert "without this project's card" in refused(path)


def test_every_cut_of_a_file_is_refused_or_whole(written: Path, tmp_path: Path) -> None:
    content, path = written.read_bytes(), tmp_path / "cut.onnx"
    for length in range(1, len(content), 13):
        path.write_bytes(content[:length])
        refused(path)


def test_another_kind_or_other_features(written: Path) -> None:
    assert "is a model of kind test, not early_life" in refused(written, kind="early_life")
    assert "(c); train it again" in refused(written, features=["a", "b", "c"])
    assert "their order" in refused(written, features=["b", "a"])


def test_a_card_of_another_version_or_a_damaged_one(written: Path, tmp_path: Path) -> None:
    path, loaded = tmp_path / "x.onnx", onnx.load(written)
    card = json.loads(loaded.metadata_props[0].value)

    def with_card(text: str) -> str:
        loaded.metadata_props[0].value = text
        path.write_bytes(loaded.SerializeToString())
        return refused(path)

    assert "card format 9" in with_card(json.dumps({**card, "format": 9}))
    assert "ONNX operators 99" in with_card(json.dumps({**card, "opset": 99}))
    for text in (
        "{",
        "[]",
        "{}",
        json.dumps({**card, "kind": 3}),
        json.dumps({**card, "features": []}),
    ):
        assert "damaged" in with_card(text)
    assert "damaged" in with_card(json.dumps({**card, "opset": "17"}))


def test_operators_that_the_runtime_does_not_have(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(graph(opset=99).SerializeToString())
    assert "no ONNX model that onnxruntime" in refused(path)


def test_weights_outside_the_file_are_not_fetched(tmp_path: Path) -> None:
    """A model is one file: what another one names is never opened."""
    secret = tmp_path / "secret"
    secret.write_bytes(np.array([3.0]).tobytes())
    made = graph()
    tensor = made.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", str(secret)), ("length", "8")):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    path = tmp_path / "m.onnx"
    path.write_bytes(made.SerializeToString())
    refused(path)


@pytest.fixture(params=["gs", "s3"])
def bucket(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty place in a bucket."""
    if request.param == "gs":
        gcs: Gcs = request.getfixturevalue("gcs")
        set_environment(monkeypatch, gcs.environment)
        return f"gs://{gcs.make_bucket()}/a"
    s3: S3 = request.getfixturevalue("s3")
    set_environment(monkeypatch, s3.environment)
    boto3.client("s3").create_bucket(Bucket="models")
    return "s3://models/a"


@pytest.mark.integration
def test_a_model_in_a_bucket(bucket: str, written: Path) -> None:
    from pipeline.stores import store_at

    store = store_at(bucket)
    store.create("m.onnx", written.read_bytes())
    store.create("x.onnx", b"not a model")
    model = Model.load(f"{bucket}/m.onnx", "test")
    assert model.version == Model.load(written).version
    assert "no ONNX model" in refused(f"{bucket}/x.onnx")
    assert "there is no such object" in refused(f"{bucket}/none.onnx")


@pytest.mark.parametrize("path", ["gs://bucket", "gs://bucket/", "http://host/m.onnx"])
def test_an_address_that_names_no_file(path: str) -> None:
    refused(path)
