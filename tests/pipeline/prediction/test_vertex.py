"""A Vertex AI endpoint, played by a server that speaks its REST and runs the model that ships."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

from pipeline.errors import ConfigError
from pipeline.prediction.in_stream import Handler
from pipeline.prediction.model_file import Model
from pipeline.prediction.remaining_life import SHIPPED, RemainingLife
from pipeline.prediction.vertex import EMULATOR, Endpoint, Unanswered
from tests.pipeline.prediction.test_in_stream import asked, given
from transforms.life import features

URI = "vertex://project/europe-west1/123"
PATH = "/v1/projects/project/locations/europe-west1/endpoints/123"


class Stand(ThreadingHTTPServer):
    """The service; `breaks` says how it misbehaves."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.model = Model.load(SHIPPED)
        self.breaks = ""
        self.version = "1"
        self.asked: list[dict[str, Any]] = []


class _Answer(BaseHTTPRequestHandler):
    server: Stand

    def log_message(self, *_: object) -> None:
        pass

    def _say(self, status: int, body: object) -> None:
        data = json.dumps(body).encode() if not isinstance(body, bytes) else body
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        if self.path != PATH:
            self._say(404, {"error": {"message": "endpoint not found"}})
            return
        models = [{"id": "7", "displayName": "fade", "modelVersionId": self.server.version}]
        self._say(200, {"deployedModels": [] if self.server.breaks == "empty" else models})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(body)
        match self.server.breaks:
            case "down":
                self._say(503, {"error": {"message": "overloaded"}})
                return
            case "html":
                self._say(200, b"<html>")
                return
            case "slow":
                time.sleep(3)
        rows = [
            [math.nan if each is None else each for each in one["features"].values()]
            for one in body["instances"]
        ]
        out = self.server.model.run({"features": np.array(rows, dtype=np.float32)})
        found = [
            {"spans": spans.tolist(), "knee_risk": float(risk[0])}
            for spans, risk in zip(out["spans"], out["knee_risk"], strict=True)
        ]
        if self.server.breaks == "fewer":
            found = found[:-1]
        self._say(
            200,
            {
                "predictions": found,
                "deployedModelId": "7",
                "modelVersionId": self.server.version,
                "modelDisplayName": "fade",
            },
        )


@pytest.fixture
def stand(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stand]:
    with Stand() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv(EMULATOR, f"http://127.0.0.1:{server.server_address[1]}")
        yield server
        server.shutdown()


def test_an_endpoint_says_what_the_file_says(stand: Stand) -> None:
    cells = [asked().features, asked(fade=0.001).features, asked(cycles=3).features]
    assert Endpoint(URI, 10.0).of(cells) == RemainingLife().of(cells)
    (body,) = stand.asked
    assert len(body["instances"]) == 2  # nothing is asked about a cell too young
    assert list(body["instances"][0]["features"]) == list(features.NAMES)


def test_another_version_that_is_deployed_meanwhile_is_told(stand: Stand) -> None:
    step = Handler(URI, "kafka://broker:9092/topic", 10.0)
    model = step.load_model()
    first = given(step, [asked()], model).predictions.to_pylist()[0]
    stand.version = "2"
    second = given(step, [asked()], model).predictions.to_pylist()[0]
    assert (first["model"], first["model_version"], second["model_version"]) == ("fade", "1", "2")
    assert first["prediction_id"] != second["prediction_id"]


@pytest.mark.parametrize(
    ("breaks", "message"),
    [
        ("down", r"Vertex AI says 503 \(overloaded\)"),
        ("html", "no answer of use"),
        ("fewer", "asked about 2 cells"),
        ("slow", "no answer of use"),
    ],
)
def test_what_it_does_not_answer_are_dead_letters(stand: Stand, breaks: str, message: str) -> None:
    limit_s = 0.5 if breaks == "slow" else 10.0
    endpoint = Endpoint(URI, limit_s)
    stand.breaks = breaks
    with pytest.raises(Unanswered, match=message):
        endpoint.of([asked().features, asked(fade=0.001).features])
    step = Handler(URI, "kafka://broker:9092/topic", limit_s)
    found = given(step, [asked(), asked(name="other")], step.load_model())
    assert found.predictions.num_rows == 0
    kinds = {letter["error_type"] for letter in found.letters.to_pylist()}
    assert found.letters.num_rows == 2 and kinds <= {"model_failed", "model_slow"}


@pytest.mark.usefixtures("stand")
@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("vertex://project/123", "names no endpoint; must look like vertex://PROJECT/REGION/"),
        ("vertex://project/europe-west1/9", r"says 404 \(endpoint not found\); check the endpoint"),
    ],
)
def test_an_endpoint_that_can_t_be_asked_is_told(uri: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Endpoint(uri, 10.0)


def test_an_endpoint_without_a_model_or_an_answer_is_told(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand.breaks = "empty"
    with pytest.raises(ConfigError, match="no model is deployed to it"):
        Endpoint(URI, 10.0)
    monkeypatch.setenv(EMULATOR, "http://127.0.0.1:1")
    with pytest.raises(ConfigError, match=f"no emulator answers at {EMULATOR}"):
        Endpoint(URI, 10.0)
