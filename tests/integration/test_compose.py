"""The Compose file: valid, pinned, closed, its commands good ones, its comments true; no engine."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from google.cloud.pubsub import SubscriberClient

from pipeline.options import config_from, parse
from pipeline.publishing.options import publication
from tests.deploy.dockerfile import instructions, stages
from tests.services import cassandra, gcs, go, kafka, pubsub
from tests.services.fixtures import available, started
from tests.services.processes import Service, free_port
from tests.services.s3 import S3

ROOT = Path(__file__).parents[2]
FILE = ROOT / "deploy" / "compose.yaml"
TEXT = FILE.read_text()
COMPOSE = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
COMMENTS = "\n".join(line for line in TEXT.splitlines() if line.lstrip().startswith("#"))
LAUNCHER = "deploy/template/main.py"
DOCUMENTS = {path: path.read_text() for path in (ROOT / "README.md", *ROOT.glob("deploy/**/*.md"))}
# What makes something for others and ends.
ENDING = {
    name
    for service in SERVICES.values()
    for name, how in service.get("depends_on", {}).items()
    if how["condition"] == "service_completed_successfully"
} | {name for name in SERVICES if name.endswith("-readings")}
STAYING = sorted(SERVICES.keys() - ENDING)
JOBS = [name for name in SERVICES if name.endswith("-job")]
# What only services beside it talk to.
INSIDE = {"flink-taskmanager", "flink-workers"}
# The code behind `docker compose config`.
LOADER = "github.com/compose-spec/compose-go/v2/cmd@v2.16.2"
PINNED = r"[\w./-]+:(v?\d+(\.\d+)+(-[a-z-]+)?|RELEASE\.[\dTZ-]+|3\.3-8-python-3\.11|1\.19\.\d+-scala_2\.12-java17)"


def published(name: str) -> list[tuple[str, str]]:
    """Port of this machine and of the container, of each port that a service publishes."""
    return [tuple(port.split(":")[1:]) for port in SERVICES[name].get("ports", [])]


def flags(name: str) -> dict[str, str]:
    return dict(flag.split("=", 1) for flag in SERVICES[name]["command"] if "=" in flag)


def test_composes_own_loader_takes_it() -> None:
    loader = available(go.program, "compose-go-v2.16.2", LOADER, timeout=280)
    done = subprocess.run(
        [str(loader), FILE.name], cwd=FILE.parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert yaml.safe_load(done.stdout)["services"].keys() == SERVICES.keys()
    broken = TEXT.replace("condition: service_healthy", "condition: service_happy")
    done = subprocess.run(
        [str(loader), "-"], input=broken, cwd=FILE.parent, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert "depends_on" in done.stderr


def test_docker_compose_takes_it() -> None:
    if not shutil.which("docker"):
        pytest.skip("no docker in PATH")
    known = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
    if known.returncode:
        pytest.skip("docker is here without its plugin compose")
    done = subprocess.run(
        ["docker", "compose", "--file", str(FILE), "--profile", "*", "config", "--quiet"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", SERVICES)
def test_images_are_pinned_and_what_they_are_built_from_is_there(name: str) -> None:
    service = SERVICES[name]
    if "build" not in service:
        assert re.fullmatch(PINNED, service["image"]), service["image"]
        return
    build = service["build"]
    context, file = (build, "Dockerfile") if isinstance(build, str) else build.values()
    folder = (FILE.parent / context).resolve()
    arguments, found = stages(instructions(folder / file))
    named = [one.text.split()[0] for stage in found for one in stage if one.name == "FROM"]
    bases = [arguments.get(base.strip("${}"), base) for base in named]
    assert bases and all(re.fullmatch(PINNED, base) for base in bases), bases
    for one in found[-1]:
        if one.name == "COPY" and not one.text.startswith("--from="):
            assert all((folder / path).exists() for path in one.text.split()[:-1]), one.text


def test_the_job_is_installed_as_in_the_template() -> None:
    copied = []
    for folder in ("template", "compose", "flink"):
        _, found = stages(instructions(ROOT / "deploy" / folder / "Dockerfile"))
        mine = [one.text for one in found[-1] if one.name == "COPY" and "--from=" not in one.text]
        copied.append({word for text in mine for word in text.split()[:-1]} - {LAUNCHER})
        runs = " ".join(one.text for one in found[-1] if one.name == "RUN")
        for needed in ("--require-hashes", "--no-build-isolation /src", "pip check"):
            assert needed in runs, (folder, needed)
    assert copied[0] == copied[1] == copied[2]


@pytest.mark.parametrize("name", STAYING)
def test_services_that_stay_tell_their_health_and_are_closed_to_the_network(name: str) -> None:
    check = SERVICES[name]["healthcheck"]
    assert check["test"][0] in ("CMD", "CMD-SHELL")
    assert check["retries"] * float(check["interval"].removesuffix("s")) <= 120
    ports = SERVICES[name].get("ports", [])
    assert bool(ports) is (name not in INSIDE)
    assert all(re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port) for port in ports)
    asked = re.findall(r"127\.0\.0\.1:(\d+)", " ".join(check["test"]))
    assert set(asked) <= {inside for _, inside in published(name)}
    if asked and check["test"][1] == "python":
        compile(check["test"][-1], name, "exec")


@pytest.mark.parametrize("name", sorted(ENDING))
def test_services_that_end_publish_nothing(name: str) -> None:
    assert "ports" not in SERVICES[name] and "healthcheck" not in SERVICES[name]


def test_ports_of_this_machine_are_given_once() -> None:
    ports = [port for name in SERVICES for port, _ in published(name)]
    assert len(ports) == len(set(ports))


@pytest.mark.parametrize("name", SERVICES)
def test_what_a_service_waits_for_comes_with_its_profiles(name: str) -> None:
    for other, how in SERVICES[name].get("depends_on", {}).items():
        profiles = SERVICES[other].get("profiles")
        assert profiles is None or set(SERVICES[name]["profiles"]) <= set(profiles)
        ends = how["condition"] == "service_completed_successfully"
        assert (other in ENDING) is ends
    # Every host it calls is a service that it waits for, straight or through another.
    told = yaml.safe_dump(SERVICES[name].get("command", []))
    told += yaml.safe_dump(SERVICES[name].get("environment", {}))
    hosts = {host for host in re.findall(r"([a-z]+):\d{4,5}\b", told) if host in SERVICES}
    waited, new = set(), {name}
    while new:
        waited |= new
        new = {each for one in new for each in SERVICES[one].get("depends_on", {})} - waited
    # The variables are those of all Google's clients; publishing takes no bucket.
    assert hosts - {"gcs"} <= waited


def test_volumes_and_configs_are_declared_and_used() -> None:
    used = {volume.split(":")[0] for one in SERVICES.values() for volume in one.get("volumes", [])}
    assert used == set(COMPOSE["volumes"])
    read = {config["source"] for one in SERVICES.values() for config in one.get("configs", [])}
    assert read == set(COMPOSE["configs"])
    assert yaml.safe_load(COMPOSE["configs"]["credentials"]["content"])["token"] == "fake"


@pytest.mark.parametrize("name", JOBS)
def test_the_jobs_flags_are_good_ones(name: str) -> None:
    config = config_from(parse(SERVICES[name]["command"]))
    assert config.metrics_port == f"0.0.0.0:{published(name)[0][1]}"
    assert config.source != "simulator:" and config.lake and len(config.warehouses) == 1
    keeps = ("/data/", "s3://battery/", "gs://battery/", "duckdb:/data/", "cassandra://cassandra/")
    for place in (config.lake, *config.warehouses, config.checkpoint):
        assert place and place.startswith(keeps)


@pytest.mark.parametrize("name", [name for name in SERVICES if name.endswith("-readings")])
def test_the_publishers_flags_are_good_ones(name: str) -> None:
    assert SERVICES[name]["entrypoint"] == ["python", "-m", "pipeline.publish"]
    to = publication(SERVICES[name]["command"]).to
    source = flags(name.replace("-readings", "-job"))["--source"]
    assert to == source.partition("?")[0].replace("battery-sub", "battery")
    if to.startswith("kafka:"):
        made = SERVICES["topics"]["entrypoint"][-1].partition("--partitions")[0].split()
        assert to.rpartition("/")[2] in made


def test_the_comments_tell_every_service_port_and_profile() -> None:
    rows = re.findall(r"^#   ([a-z-]+)( +(?:127\S+).*?)?  +\S.*$", COMMENTS, re.MULTILINE)
    told = {name: re.findall(r":(\d+)", ports) for name, ports in rows if name != "service"}
    assert told == {name: [port for port, _ in published(name)] for name in SERVICES}
    profiles = {each for one in SERVICES.values() for each in one.get("profiles", [])}
    assert set(re.findall(r"--profile ([a-z]+)", COMMENTS)) == profiles
    assert [name for name, one in SERVICES.items() if "profiles" not in one] == ["redpanda"]
    for name in (kafka.EXTERNAL, pubsub.EXTERNAL, cassandra.EXTERNAL):
        address = re.search(rf"{name}=127\.0\.0\.1:(\d+) make test", COMMENTS)
        assert address and address[1] in [port for one in STAYING for port, _ in published(one)]


@pytest.mark.parametrize("path", [FILE, *DOCUMENTS], ids=lambda path: path.name)
def test_documents_name_services_profiles_and_files_that_there_are(path: Path) -> None:
    text = COMMENTS.replace("\n#", "") if path == FILE else DOCUMENTS[path]
    for call in re.findall(r"docker compose (.+?)(?:`|\n|  |$)", text):
        for file in re.findall(r"(?:--file|-f)[ =](\S+)", call):
            assert (ROOT / file).is_file(), call
        for profile in re.findall(r"--profile[ =]([a-z]+)", call):
            assert any(profile in one.get("profiles", []) for one in SERVICES.values()), call
        for service in re.findall(r"\b(?:exec|logs|cp|run) ([a-z-]+)", call):
            assert service in SERVICES, call
    for paragraph in re.split(r"\n\s*\n", text):
        if "compose.yaml" in paragraph and path != FILE:
            ports = {port for name in SERVICES for port, _ in published(name)}
            assert set(re.findall(r"(?:localhost|127\.0\.0\.1):(\d+)", paragraph)) <= ports


def test_cassandra_is_that_of_the_tests() -> None:
    assert SERVICES["cassandra"]["image"] == f"cassandra:{cassandra.CASSANDRA}"


def test_clients_on_this_machine_are_told_the_published_port() -> None:
    given = flags("redpanda")
    listens, told = (
        dict(each.split("://") for each in given[name].split(","))
        for name in ("--kafka-addr", "--advertise-kafka-addr")
    )
    assert listens.keys() == told.keys()
    ((port, inside),) = published("redpanda")
    assert listens["outside"].endswith(f":{inside}")
    assert told["outside"] == f"127.0.0.1:{port}"
    assert told["inside"].split(":") == ["redpanda", listens["inside"].split(":")[1]]


def test_the_pubsub_emulator_listens_where_it_is_published() -> None:
    ((_, inside),) = published("pubsub")
    assert f"--host-port=0.0.0.0:{inside}" in SERVICES["pubsub"]["command"]
    assert f"--project={pubsub.PROJECT}" in SERVICES["pubsub"]["command"]


def test_cassandra_keeps_what_it_acknowledged(tmp_path: Path) -> None:
    """The edit of its settings, on lines as its own file has them."""
    settings = tmp_path / "cassandra.yaml"
    settings.write_text("a: 1\n# commitlog_sync: x\ncommitlog_sync: periodic\n"
                        "commitlog_sync_period: 10000ms\ncommitlog_segment_size: 32MiB\n")  # fmt: skip
    script = SERVICES["cassandra"]["entrypoint"][-1]
    script = script.replace("/etc/cassandra/cassandra.yaml", str(settings))
    subprocess.run(["bash", "-c", script.partition("&&")[0]], check=True)
    assert yaml.safe_load(settings.read_text()) == {
        "a": 1, "commitlog_sync": "batch", "commitlog_segment_size": "32MiB"
    }  # fmt: skip


def run_twice(name: str, environment: dict[str, str]) -> None:
    """What a service runs in the job's image, here; a stack may be started again."""
    python, *arguments = SERVICES[name]["entrypoint"]
    assert python == "python"
    for _ in range(2):
        subprocess.run(
            [sys.executable, *arguments], env={**os.environ, **environment}, check=True, timeout=60
        )


@pytest.mark.integration
def test_the_subscription_is_made(pubsub: pubsub.PubSub, monkeypatch: pytest.MonkeyPatch) -> None:
    run_twice("subscription", pubsub.environment)
    source = flags("cloud-job")["--source"].removeprefix("pubsub://")
    project, _, name = source.partition("/")
    for variable, value in pubsub.environment.items():
        monkeypatch.setenv(variable, value)
    with SubscriberClient() as client:
        found = client.get_subscription(subscription=client.subscription_path(project, name))
    assert found.topic == f"projects/{project}/topics/battery"


def test_the_bucket_is_made(tmp_path: Path) -> None:
    with started(S3, tmp_path) as server:
        given = {**SERVICES["bucket"]["environment"], "AWS_ENDPOINT_URL": server.url}
        run_twice("bucket", given)
        client = boto3.client(
            "s3",
            endpoint_url=server.url,
            region_name=given["AWS_DEFAULT_REGION"],
            aws_access_key_id=given["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=given["AWS_SECRET_ACCESS_KEY"],
        )
        assert [bucket["Name"] for bucket in client.list_buckets()["Buckets"]] == ["battery"]


@pytest.mark.integration
def test_fake_gcs_takes_its_flags_and_has_the_bucket(tmp_path: Path) -> None:
    program = available(gcs.program)
    shell, option, script = SERVICES["gcs"]["entrypoint"]
    ((_, inside),) = published("gcs")
    port = str(free_port())
    for there, here in (
        ("/bin/fake-gcs-server", str(program)),
        ("/storage", str(tmp_path / "storage")),
        (f"-port={inside}", f"-port={port}"),
    ):
        assert there in script
        script = script.replace(there, here)
    service = Service("fake-gcs-server", [shell, option, script], tmp_path / "gcs.log")
    url = SERVICES["gcs"]["healthcheck"]["test"][-1].replace(inside, port)
    try:
        service.start(int(port), lambda: subprocess.run(["curl", "--fail", url], check=True))
    finally:
        service.stop(kill=True)
