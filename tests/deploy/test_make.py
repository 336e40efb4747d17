"""make template and make deploy: what is missing is named, and the commands fit what they call."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.deploy.dockerfile import instructions, stages

ROOT = Path(__file__).parents[2]
GIVEN = ("PROJECT=my-project", "BUCKET=my-bucket", "TAG=1a2b3c")
IMAGE = "us-central1-docker.pkg.dev/my-project/battery/pipeline:1a2b3c"
TEMPLATE = "gs://my-bucket/templates/battery-1a2b3c.json"


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Prints the commands of a target without running them."""
    return subprocess.run(
        ["make", "--dry-run", *arguments], cwd=ROOT,
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def commands(*arguments: str) -> str:
    done = make(*arguments)
    assert done.returncode == 0, done.stderr
    return " ".join(done.stdout.replace("\\\n", " ").split())


@pytest.mark.parametrize("target", ["template", "deploy"])
@pytest.mark.parametrize(
    ("given", "missing"), [((), "PROJECT"), (("PROJECT=my-project",), "BUCKET")]
)
def test_a_variable_that_is_missing_is_named(
    target: str, given: tuple[str, ...], missing: str
) -> None:
    done = make(target, *given)
    assert done.returncode == 2
    assert f"{missing} is not set" in done.stderr
    assert "gcloud" not in done.stdout


def test_the_template_is_built_and_written() -> None:
    said = commands("template", *GIVEN)
    config = (ROOT / "deploy" / "template" / "cloudbuild.yaml").read_text()
    assert set(re.findall(r"\$\{(_[A-Z]+)\}", config)) == {"_IMAGE", "_BEAM", "_LAUNCHER"}
    assert f"--config=deploy/template/cloudbuild.yaml --substitutions=_IMAGE={IMAGE} ." in said
    assert f"deploy/template/spec.py --image={IMAGE} --out={TEMPLATE}" in said


def test_the_image_s_bases_may_be_pinned_by_digest() -> None:
    beam, launcher = (f"{name}@sha256:{'0' * 64}" for name in ("apache/beam", "gcr.io/launcher"))
    given = (*GIVEN, f"BEAM={beam}", f"LAUNCHER={launcher}")
    cloud = f"--substitutions=_IMAGE={IMAGE},_BEAM={beam},_LAUNCHER={launcher} ."
    assert cloud in commands("template", *given)
    here = f"--build-arg=BEAM={beam} --build-arg=LAUNCHER={launcher} --tag={IMAGE} ."
    assert here in commands("template", *given, "DOCKER=1")
    # Without them Cloud Build takes what the Dockerfile says.
    config = yaml.safe_load((ROOT / "deploy" / "template" / "cloudbuild.yaml").read_text())
    arguments, _ = stages(instructions(ROOT / "deploy" / "template" / "Dockerfile"))
    assert {name[1:]: value for name, value in config["substitutions"].items()} == arguments


def test_here_docker_builds_the_same_image() -> None:
    said = commands("template", *GIVEN, "DOCKER=1")
    assert f"--file=deploy/template/Dockerfile --tag={IMAGE} ." in said
    assert "gcloud builds" not in said


def test_a_deployment_makes_the_repository_then_the_image_then_the_rest() -> None:
    said = commands("deploy", *GIVEN)
    steps = [
        "-backend-config=bucket=my-bucket",
        "-target=google_artifact_registry_repository.images",
        "gcloud builds submit",
        f"-var=template={TEMPLATE} -var=image={IMAGE}",
    ]
    places = [said.find(step) for step in steps]
    assert -1 not in places
    assert places == sorted(places)
    declared = re.findall(
        r'^variable "(\w+)"',
        (ROOT / "deploy" / "terraform" / "variables.tf").read_text(),
        re.MULTILINE,
    )
    assert set(re.findall(r"-var=(\w+)=", said)) <= set(declared)
    main = (ROOT / "deploy" / "terraform" / "main.tf").read_text()
    assert 'resource "google_artifact_registry_repository" "images"' in main
