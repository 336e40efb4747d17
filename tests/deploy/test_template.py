"""The Flex Template: its parameters are the job's flags, and Dataflow's own messages take it."""

from __future__ import annotations

import argparse
import http.server
import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from apache_beam.options.pipeline_options import WorkerOptions
from google.cloud.dataflow_v1beta3 import (
    ContainerSpec,
    LaunchFlexTemplateParameter,
    ParameterType,
    TemplateMetadata,
)
from google.protobuf.json_format import ParseError

from pipeline.errors import ConfigError
from pipeline.options import JobOptions, config_from, parse
from tests.services.gcs import Gcs

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "template"
TEXT = (FOLDER / "metadata.json").read_text()
METADATA = json.loads(TEXT)
PARAMETERS: dict[str, dict[str, Any]] = {one["name"]: one for one in METADATA["parameters"]}
IMAGE = "us-central1-docker.pkg.dev/my-project/battery/pipeline:1a2b3c"

# Flags of the job that the template does not offer, and why.
NOT_OFFERED = {
    "checkpoint": "is for a local live job; Dataflow keeps the last readings in its state",
    "metrics_port": "nobody can reach a worker's port; Cloud Monitoring has the figures",
    "account_every": "the process that would print the account ends with the launch",
    "no_progress": "there is no terminal",
    "allow_data_loss": "is about the exit status of a run that this process waits for",
    "debug": "Cloud Logging has every traceback",
    "dialect": "a local file; topics have no dialects, and files of a bucket are read by a local launch",
}
# A default that makes no sense on Dataflow is not offered: the parameter is required instead.
ONLY_LOCALLY = {"source": "simulator:", "lake": "./data/lake", "warehouse": None}
# What a launch needs; the values that the README's and the runbook's commands give.
LAUNCH = {
    "source": "pubsub://my-project/battery-readings",
    "lake": "gs://my-project-battery-lake/lake",
    "warehouse": "bigquery://my-project/battery_raw",
}


def flags() -> dict[str, argparse.Action]:
    parser = argparse.ArgumentParser(add_help=False)
    JobOptions._add_argparse_args(parser)
    return {action.dest: action for action in parser._actions}


def workers_flags() -> set[str]:
    parser = argparse.ArgumentParser(add_help=False)
    WorkerOptions._add_argparse_args(parser)
    return {action.dest for action in parser._actions}


def test_every_flag_of_the_job_is_a_parameter_or_left_out_for_a_reason() -> None:
    own = set(PARAMETERS) - workers_flags()
    assert own | set(NOT_OFFERED) == set(flags())
    assert not own & set(NOT_OFFERED)


def test_defaults_and_choices_are_the_jobs() -> None:
    for name, flag in flags().items():
        if name in NOT_OFFERED:
            continue
        one = PARAMETERS[name]
        choices = [option["value"] for option in one.get("enumOptions", [])]
        if flag.choices:
            assert sorted(choices) == sorted(flag.choices), name
        if name in ONLY_LOCALLY:
            assert flag.default == ONLY_LOCALLY[name]
            assert "defaultValue" not in one
            assert not one.get("isOptional"), name
        else:
            default = "" if flag.default in (None, []) else str(flag.default)
            assert one.get("defaultValue", "") == default, name
            assert one["isOptional"], name
        # The launcher gives every parameter as NAME=VALUE.
        assert flag.nargs != 0, name


def test_the_profiles_are_the_built_in_ones() -> None:
    built_in = sorted(path.stem for path in (ROOT / "schemas" / "profiles").glob("*.toml"))
    assert [one["value"] for one in PARAMETERS["equipment_profile"]["enumOptions"]] == built_in


def test_types_groups_and_parents_are_whole() -> None:
    for name, one in PARAMETERS.items():
        kind = ParameterType[one["paramType"]]
        assert one["label"] and one["groupName"], name
        assert one["helpText"].endswith("."), name
        assert (kind is ParameterType.ENUM) == ("enumOptions" in one), name
        assert (kind is ParameterType.ENUM) != ("regexes" in one), name
        default = one.get("defaultValue")
        assert default is None or all(
            re.fullmatch(each, default) for each in one.get("regexes", [])
        )
        if "parentName" in one:
            options = PARAMETERS[one["parentName"]]["enumOptions"]
            assert set(one["parentTriggerValues"]) < {each["value"] for each in options}


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("source", "pubsub://my-project/battery-readings?disorder=10", "battery-readings"),
        ("source", "kafka://a:9092,b:9092/t?group=lab&secret=projects/p/secrets/s", "kafka://a"),
        ("source", "gs://my-lake/lake/readings/dt=2024-*", "kafka://user:word@a:9092/t"),
        ("lake", "gs://my-lake/lake", "./data/lake"),
        ("warehouse", "bigquery://my-project/battery_raw", "my-project:battery_raw"),
        ("warehouse", "none", "duckdb:x.duckdb"),
        ("dead_letter_topic", "pubsub://my-project/letters", "projects/my-project/topics/letters"),
        ("window", "60", "1m"),
        ("lake_file_mb", "0.5", "-1"),
        ("shards", "16", "0"),
        ("time_zone", "America/Argentina/Buenos_Aires", "Europe/Berlin;"),
        ("sdk_container_image", IMAGE, "pipeline"),
    ],
)
def test_patterns_take_what_the_job_takes(name: str, good: str, bad: str) -> None:
    (pattern,) = PARAMETERS[name]["regexes"]
    assert re.fullmatch(pattern, good)
    assert not re.fullmatch(pattern, bad)
    if name != "sdk_container_image":
        config_from(parse([f"--{name}={good}"]))


def test_the_job_takes_a_launchs_flags() -> None:
    given = LAUNCH | {name: one["defaultValue"] for name, one in PARAMETERS.items()
                      if "defaultValue" in one}  # fmt: skip
    config = config_from(parse([f"--{name}={value}" for name, value in given.items()]))
    assert config.warehouses == (LAUNCH["warehouse"],)
    with pytest.raises(ConfigError):
        config_from(parse(["--shards=many"]))


# --- Dataflow's own messages ----------------------------------------------------------------------


def test_dataflows_message_knows_every_field() -> None:
    message = TemplateMetadata.from_json(TEXT)
    assert (message.streaming, message.supports_at_least_once) == (True, True)
    assert (message.supports_exactly_once, message.default_streaming_mode) == (True, "EXACTLY_ONCE")
    assert len(message.parameters) == len(PARAMETERS)
    with pytest.raises(ParseError, match="paramtype"):
        TemplateMetadata.from_json(TEXT.replace('"paramType"', '"paramtype"'))


def spec(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs the script that writes the container spec."""
    return subprocess.run(
        [sys.executable, str(FOLDER / "spec.py"), *arguments],
        env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_the_container_spec_holds_what_gcloud_would_drop(tmp_path: Path, gcloud: str) -> None:
    out = tmp_path / "battery.json"
    done = spec(f"--image={IMAGE}", f"--out={out}")
    assert (done.returncode, done.stdout) == (0, f"{out}\n"), done.stderr
    written = json.loads(out.read_text())
    ContainerSpec.from_json(out.read_text())
    assert written["metadata"] == METADATA
    assert written["defaultEnvironment"]["sdkContainerImage"] == written["image"] == IMAGE

    built = json.loads(
        run_gcloud(
            gcloud, tmp_path, "build", "gs://my-bucket/battery.json", f"--image={IMAGE}",
            "--sdk-language=PYTHON", f"--metadata-file={FOLDER / 'metadata.json'}", "--print-only",
            "--format=value(.)",
        )
    )  # fmt: skip
    assert built["sdkInfo"] == written["sdkInfo"]
    names = [one["name"] for one in built["metadata"]["parameters"]]
    assert names == list(PARAMETERS)
    assert set(METADATA) - set(built["metadata"]) == {
        "streaming", "supportsAtLeastOnce", "supportsExactlyOnce", "defaultStreamingMode",
    }  # fmt: skip


@pytest.mark.integration
def test_the_container_spec_goes_to_a_bucket(gcs: Gcs) -> None:
    bucket = gcs.make_bucket()
    done = spec(f"--image={IMAGE}", f"--out=gs://{bucket}/t/battery.json", **gcs.environment)
    assert done.returncode == 0, done.stderr
    ContainerSpec.from_json((gcs.root / bucket / "t" / "battery.json").read_text())
    done = spec(f"--image={IMAGE}", "--out=gs://no-such-bucket/battery.json", **gcs.environment)
    assert done.returncode == 2
    assert done.stderr.startswith("error: --out=gs://no-such-bucket/battery.json: could not be")


@pytest.mark.parametrize(
    ("image", "out"),
    [(f"{IMAGE.rpartition(':')[0]}:latest", "x.json"), ("pipeline", "x.json"), (IMAGE, "gs://x")],
)
def test_a_spec_that_would_not_launch_is_refused(tmp_path: Path, image: str, out: str) -> None:
    target = out if out.startswith("gs:") else str(tmp_path / out)
    done = spec(f"--image={image}", f"--out={target}")
    assert done.returncode == 2
    assert re.match(r"error: --(image|out)=", done.stderr)
    assert not (tmp_path / out).exists()


# --- gcloud ---------------------------------------------------------------------------------------


class Recorder(http.server.BaseHTTPRequestHandler):
    """Takes down what gcloud sends."""

    requests: list[tuple[str, dict[str, Any]]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.requests.append((self.path, json.loads(body)))
        answer = b'{"job": {"id": "1"}}'
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def dataflow() -> Iterator[tuple[str, list[tuple[str, dict[str, Any]]]]]:
    """An address to launch at, and the requests that come there."""
    handler = type("Handler", (Recorder,), {"requests": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/", handler.requests
        server.shutdown()


def run_gcloud(program: str, folder: Path, *arguments: str, **environment: str) -> str:
    """What `gcloud dataflow flex-template` prints, with no settings but these."""
    (folder / "token").write_text("none")
    done = subprocess.run(
        [program, "dataflow", "flex-template", *arguments, "--project=my-project", "--quiet",
         f"--access-token-file={folder / 'token'}"],
        env={"CLOUDSDK_CONFIG": str(folder / "gcloud"), "PATH": "/usr/bin:/bin",
             "CLOUDSDK_CORE_DISABLE_USAGE_REPORTING": "true", **environment},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def commands(document: Path) -> list[list[str]]:
    """The arguments of the `gcloud dataflow flex-template run` commands in a document."""
    text = document.read_text().replace("\\\n", " ")
    found = re.findall(r"^gcloud dataflow flex-template (run .*)$", text, re.MULTILINE)
    return [[part.strip("'\"") for part in command.split()] for command in found]


def filled(arguments: Sequence[str]) -> list[str]:
    """The arguments with the shell's variables put in."""
    values = {"PROJECT": "my-project", "REGION": "us-central1", "BUCKET": "my-bucket",
              "TAG": "1a2b3c", "IMAGE": IMAGE}  # fmt: skip
    return [re.sub(r"\$\{?([A-Z]+)\}?", lambda name: values[name[1]], each) for each in arguments]


RUNS = [*commands(ROOT / "README.md"), *commands(ROOT / "deploy" / "RUNBOOK.md")]


@pytest.mark.parametrize("command", RUNS, ids=lambda command: command[1])
def test_the_documented_launches_are_ones_that_dataflow_takes(
    command: list[str],
    gcloud: str,
    dataflow: tuple[str, list[tuple[str, dict[str, Any]]]],
    tmp_path: Path,
) -> None:
    address, requests = dataflow
    run_gcloud(gcloud, tmp_path, *filled(command), CLOUDSDK_API_ENDPOINT_OVERRIDES_DATAFLOW=address)
    ((path, sent),) = requests
    assert re.match(
        r"/v1b3/projects/my-project/locations/[a-z]+-[a-z]+\d/flexTemplates:launch", path
    )
    # Strict: a field that Dataflow does not know is an error.
    launch = LaunchFlexTemplateParameter.from_json(json.dumps(sent["launchParameter"]))
    assert launch.environment.ip_configuration.name == "WORKER_IP_PRIVATE"
    given = dict(launch.parameters)
    assert set(given) <= set(PARAMETERS)
    required = {name for name, one in PARAMETERS.items() if not one.get("isOptional")}
    assert required <= set(given)
    for name, value in given.items():
        one = PARAMETERS[name]
        assert all(re.fullmatch(each, value) for each in one.get("regexes", [])), name
        if "enumOptions" in one:
            assert value in [option["value"] for option in one["enumOptions"]]


def test_there_are_documented_launches() -> None:
    assert len(RUNS) == 4  # the README's, and the runbook's first one, update and backfill
