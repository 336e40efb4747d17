"""The Flex Template's image: its Dockerfile's steps work in a clean environment, and it launches."""

from __future__ import annotations

import json
import re
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path

import apache_beam
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.deploy.dockerfile import Build, Instruction, ignored, instructions, stages
from tests.services.gcs import Gcs

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "deploy" / "template" / "Dockerfile"
ARGUMENTS, STAGES = stages(instructions(DOCKERFILE))
LAST = STAGES[-1]
IMAGE = "us-docker.pkg.dev/test-project/battery/pipeline:1"


def named(name: str, stage: list[Instruction] = LAST) -> list[str]:
    return [one.text for one in stage if one.name == name]


def test_both_bases_are_pinned_and_fit_the_lock() -> None:
    assert [stage[0].text for stage in STAGES] == ["${LAUNCHER} AS launcher", "${BEAM}"]
    for image in ARGUMENTS.values():
        assert re.search(r"(:(?!latest)[\w.-]+|@sha256:[0-9a-f]{64})$", image), image
    locked = re.search(
        r"^apache-beam==(\S+)", (ROOT / "requirements.txt").read_text(), re.MULTILINE
    )
    assert locked and locked[1] == apache_beam.__version__
    assert ARGUMENTS["BEAM"] == f"apache/beam_python3.11_sdk:{locked[1]}"
    assert "/python311-template-launcher-base:" in ARGUMENTS["LAUNCHER"]


def test_it_is_a_launcher_and_a_worker() -> None:
    launcher = "/opt/google/dataflow/python_template_launcher"
    assert f"--from=launcher {launcher} {launcher}" in named("COPY")
    assert named("ENTRYPOINT") == ['["/opt/apache/beam/boot"]']
    assert not named("USER")  # see the reason beside CKV_DOCKER_3


def test_the_build_sees_what_it_copies_and_no_secret_or_data() -> None:
    patterns = (ROOT / ".dockerignore").read_text().split("\n")
    patterns = [line for line in patterns if line and not line.startswith("#")]
    assert not ignored("pipeline/job.py", patterns)
    assert not ignored("schemas/profiles/calce_cs2.toml", patterns)
    for path in (".git/config", ".env", "data/lake/x.parquet", "pipeline/__pycache__/job.pyc",
                 "deploy/terraform/terraform.tfstate", "tests/running.py"):  # fmt: skip
        assert ignored(path, patterns), path


def test_every_package_of_the_project_is_in_the_image() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    copied = {text.split()[0] for text in named("COPY")}
    assert set(settings["tool"]["mypy"]["files"]) <= copied


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Build]:
    """The image, built below a temporary folder: minutes, for its packages are installed anew."""
    build = Build(ROOT, tmp_path_factory.mktemp("image"))
    build.run(LAST)
    yield build
    shutil.rmtree(build.root)  # more than a gigabyte


def locked() -> dict[str, str]:
    """The versions that the lock file names for this platform."""
    lines = re.findall(
        r"^[a-z0-9].*==.*(?= \\$)", (ROOT / "requirements.txt").read_text(), re.MULTILINE
    )
    found = [Requirement(line) for line in lines]
    return {
        canonicalize_name(one.name): str(one.specifier).removeprefix("==")
        for one in found if one.marker is None or one.marker.evaluate()
    }  # fmt: skip


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_its_steps_work_in_a_clean_environment(image: Build) -> None:
    assert "No broken requirements found" in image.sh("pip check")
    listed = json.loads(image.sh("pip list --format=json"))
    installed = {canonicalize_name(one["name"]): one["version"] for one in listed}
    own = {"pip": installed["pip"], "battery-streaming-pipeline": "1.0.0"}
    assert installed == locked() | own
    where = image.sh("python -c 'import pipeline; print(pipeline.__file__)'").strip()
    assert Path(where).is_relative_to(image.root / "opt" / "battery")
    assert not (image.root / "src").exists()


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_its_entry_point_tells_the_jobs_flags(image: Build) -> None:
    told = image.sh("python $FLEX_TEMPLATE_PYTHON_PY_FILE --help")
    assert "--source" in told
    assert "--bigquery_method" in told


@pytest.mark.long
@pytest.mark.integration
@pytest.mark.timeout(1200)
def test_it_launches_as_dataflow_would(image: Build, gcs: Gcs) -> None:
    """The launcher's command: the graph is to be in the object that Dataflow reads next."""
    bucket = gcs.make_bucket()
    image.environment |= gcs.environment
    flags = {
        "runner": "DataflowRunner",
        "project": gcs.project,
        "region": "us-central1",
        "job_name": "battery-pipeline",
        "temp_location": f"gs://{bucket}/tmp",
        "staging_location": f"gs://{bucket}/staging",
        "template_location": f"gs://{bucket}/staging/template_launches/1/job_object",
        "sdk_container_image": IMAGE,
        "source": "simulator:?equipment=2&cycles=1",
        "lake": f"gs://{bucket}/lake",
        "warehouse": "none",
    }
    given = " ".join(f"'--{name}={value}'" for name, value in flags.items())
    image.sh(f"python $FLEX_TEMPLATE_PYTHON_PY_FILE {given}")
    graph = gcs.root / bucket / "staging" / "template_launches" / "1" / "job_object"
    job = json.loads(graph.read_bytes())
    assert job["name"] == "battery-pipeline"
    workers = job["environment"]["workerPools"]
    assert {pool["workerHarnessContainerImage"] for pool in workers} == {IMAGE}
