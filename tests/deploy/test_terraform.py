"""Terraform: formatted, consistent, pinned, guarded by checkov, and no right too many."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from tests.deploy import tools

DEPLOY = Path(__file__).parents[2] / "deploy"
FOLDER = DEPLOY / "terraform"
FILES = {path.name: path.read_text() for path in sorted(FOLDER.glob("*.tf"))}
TEXT = "\n".join(FILES.values())
CODE = re.sub(r"^\s*#.*$", "", TEXT, flags=re.MULTILINE)
METADATA = json.loads((DEPLOY / "template" / "metadata.json").read_text())
PARAMETERS = {one["name"]: one for one in METADATA["parameters"]}


def blocks(kind: str) -> dict[str, str]:
    """The bodies of the blocks of a kind, such as `variable`, by their labels."""
    found = re.finditer(rf'^{kind} ((?:"[\w-]+" ?)+)\{{\n(.*?)^\}}', CODE, re.MULTILINE | re.DOTALL)
    return {".".join(re.findall(r'"([\w-]+)"', each[1])): each[2] for each in found}


def test_it_is_formatted(terraform: str) -> None:
    done = tools.terraform(FOLDER, ["fmt", "-check", "-diff", "-recursive"])
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_variable_is_used_described_and_typed() -> None:
    declared = blocks("variable")
    used = set(
        re.findall(r"\bvar\.(\w+)", re.sub(r"(?s)^variable .*?^\}", "", CODE, flags=re.MULTILINE))
    )
    assert set(declared) == used
    for name, body in declared.items():
        assert re.search(r'description = "[^"]{5,}', body), name
        assert re.search(r"\btype +=", body), name


def test_whatever_is_named_is_there() -> None:
    resources, data = blocks("resource"), blocks("data")
    for kind, name in re.findall(r"(?<!data\.)\b(google_\w+)\.(\w+)", CODE):
        assert f"{kind}.{name}" in resources, f"{kind}.{name}"
    for kind, name in re.findall(r"\bdata\.(google_\w+)\.(\w+)", CODE):
        assert f"{kind}.{name}" in data
    declared = {
        name
        for body in re.findall(r"^locals \{\n(.*?)^\}", CODE, re.MULTILINE | re.DOTALL)
        for name in re.findall(r"^  (\w+) +=", body, re.MULTILINE)
    }
    assert declared == set(re.findall(r"\blocal\.(\w+)", CODE))


def test_providers_are_pinned_to_a_major_version() -> None:
    assert re.findall(r'[^_]version = "(.+)"', FILES["versions.tf"]) == ["~> 6.40"] * 2


@pytest.fixture(scope="module")
def variables(terraform: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A module of the variables alone: Terraform checks them without any provider."""
    folder = tmp_path_factory.mktemp("variables")
    shutil.copyfile(FOLDER / "variables.tf", folder / "variables.tf")
    assert tools.terraform(folder, ["init"]).returncode == 0
    return folder


def plan(folder: Path, **given: str) -> str:
    """What Terraform says to these values; empty if it takes them."""
    flags = [f"-var={name}={value}" for name, value in ({"project": "my-project"} | given).items()]
    done = tools.terraform(folder, ["plan", "-input=false", *flags])
    return "" if done.returncode == 0 else " ".join((done.stdout + done.stderr).split())


IMAGE = "us-central1-docker.pkg.dev/my-project/battery/pipeline"


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"template": "gs://my-bucket/templates/battery.json", "image": f"{IMAGE}:1a2b3c"},
        {"template": "gs://my-bucket/battery.json", "image": f"{IMAGE}@sha256:{'0' * 64}"},
        {"source_uri": "kafka://a:9092,b:9092/t?secret=projects/p/secrets/kafka",
         "secrets": '["projects/p/secrets/kafka"]', "nat": "true"},
        {"kms_key": "projects/p/locations/us-central1/keyRings/r/cryptoKeys/k"},
        {"subnetwork": "regions/us-central1/subnetworks/workers"},
        {"notification_channels": '["projects/p/notificationChannels/1"]'},
    ],
)  # fmt: skip
def test_good_values_are_taken(variables: Path, given: dict[str, str]) -> None:
    assert plan(variables, **given) == ""


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"project": "My Project"}, "must be a project's id"),
        ({"region": "us-central1-a"}, "not a zone"),
        ({"template": "battery.json", "image": f"{IMAGE}:1"}, "gs://BUCKET/NAME.json"),
        ({"template": "gs://my-bucket/b.json", "image": f"{IMAGE}:latest"}, "other than latest"),
        ({"template": "gs://my-bucket/b.json"}, "together"),
        ({"source_uri": "kafka://user:word@host/t"}, "name a secret instead"),
        ({"secrets": '["s3cret"]'}, "projects/PROJECT/secrets/NAME"),
        ({"bigquery_method": "copy"}, "storage_write, file_loads or streaming_inserts"),
        ({"bigquery_delivery": "exactly_once", "streaming_mode": "at_least_once"}, "stable"),
        ({"workers": "9", "max_workers": "4"}, "between 1 and max_workers"),
        ({"subnetwork": "workers"}, "subnetworks/NAME"),
        ({"subnetwork_range": "10.0.0.1"}, "10.128.0.0/22"),
        ({"kms_key": "k"}, "cryptoKeys/K"),
        ({"message_retention_days": "60"}, "between 1 and 31"),
        ({"max_delivery_attempts": "2"}, "between 5 and 100"),
        ({"raw_nearline_days": "200"}, "more than raw_nearline_days"),
        ({"soft_delete_days": "1"}, "between 7 and 90"),
        ({"notification_channels": '["me@example.org"]'}, "notificationChannels/N"),
        ({"dead_letter_ratio": "5"}, "at most 1"),
    ],
)
def test_bad_values_are_refused(variables: Path, given: dict[str, str], told: str) -> None:
    assert told in plan(variables, **given)


def test_the_variables_allow_what_the_template_allows() -> None:
    for name in ("bigquery_method", "bigquery_delivery"):
        allowed = re.search(r"contains\((\[.*?\])", blocks("variable")[name])
        assert allowed
        assert json.loads(allowed[1]) == [one["value"] for one in PARAMETERS[name]["enumOptions"]]


def test_the_job_is_launched_with_parameters_that_the_template_has() -> None:
    given = re.search(r"parameters = merge\(\{\n(.*?)\}, var.parameters\)", CODE, re.DOTALL)
    assert given
    names = set(re.findall(r"^ +(\w+) +=", given[1], re.MULTILINE))
    assert names <= set(PARAMETERS)
    assert names >= {name for name, one in PARAMETERS.items() if not one.get("isOptional")}


def test_the_job_is_drained_private_and_runs_as_the_worker() -> None:
    job = re.sub(r" +", " ", blocks("resource")["google_dataflow_flex_template_job.pipeline"])
    for setting in (
        'on_delete = "drain"',
        "enable_streaming_engine = true",
        'ip_configuration = "WORKER_IP_PRIVATE"',
        "service_account_email = google_service_account.worker.email",
        "kms_key_name = var.kms_key",
        "sdk_container_image = var.image",
    ):
        assert setting in job, setting


def test_what_is_staged_outlives_the_job() -> None:
    # A worker that starts after months reads it; only temporary files go.
    deleted = re.search(r'type = "Delete".*?matches_prefix = (\[.*?\])', CODE, re.DOTALL)
    assert deleted
    assert json.loads(deleted[1]) == ["tmp/"]
    job = blocks("resource")["google_dataflow_flex_template_job.pipeline"]
    assert re.search(r'temp_location += ".*/tmp"', job)
    assert re.search(r'staging_location += ".*/staging"', job)


def test_nobody_has_more_rights_than_this() -> None:
    assert Counter(re.findall(r'"(roles/[\w.]+)"', CODE)) == {
        "roles/artifactregistry.reader": 1,
        "roles/bigquery.dataEditor": 2,  # the job on raw, dbt on analytics
        "roles/bigquery.dataViewer": 1,
        "roles/bigquery.jobUser": 2,
        "roles/cloudkms.cryptoKeyEncrypterDecrypter": 1,
        "roles/dataflow.developer": 1,
        "roles/dataflow.worker": 1,
        "roles/iam.serviceAccountUser": 1,
        "roles/pubsub.publisher": 2,  # the job to its dead letters, Pub/Sub to the undelivered
        "roles/pubsub.subscriber": 2,
        "roles/pubsub.viewer": 2,
        "roles/secretmanager.secretAccessor": 1,
        "roles/storage.legacyBucketReader": 3,
        "roles/storage.objectCreator": 1,
        "roles/storage.objectUser": 2,
        "roles/storage.objectViewer": 2,
    }


def test_no_secrets_value_comes_near_it() -> None:
    assert "secret_data" not in TEXT
    assert "google_secret_manager_secret_version" not in TEXT


Findings = dict[str, dict[str, list[dict[str, str]]]]


def scan(python: Path, folder: Path) -> list[Findings]:
    """checkov's findings for the Dockerfiles and for Terraform, without asking the network."""
    found = []
    parts = ("template", "dockerfile"), ("flink", "dockerfile"), ("terraform", "terraform")
    for part, framework in parts:
        argv = [str(python), "-m", "checkov.main", f"--directory={folder / part}", "--output=json",
                f"--framework={framework}", "--skip-download", "--soft-fail"]  # fmt: skip
        done = subprocess.run(argv, capture_output=True, text=True, timeout=240, check=True)
        found.append(json.loads(done.stdout))
    return found


def checks(found: list[Findings], outcome: str) -> set[str]:
    """The ids of the checks with that outcome, each with the kind of what it looked at."""
    return {
        f"{one['check_id']} {re.sub(r'[^a-z_].*', '', one['resource'].lstrip('/'))}"
        for kind in found
        for one in kind["results"][outcome]
    }


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_checkov_finds_nothing_but_what_is_excepted_for_a_reason(
    checkers: Path, tmp_path: Path
) -> None:
    found = scan(checkers, DEPLOY)
    assert {kind["check_type"] for kind in found} == {"terraform", "dockerfile"}
    assert not checks(found, "failed_checks")
    assert len(checks(found, "passed_checks")) > 30
    excepted = checks(found, "skipped_checks")
    files = [DEPLOY / part / "Dockerfile" for part in ("template", "flink")]
    texts = "".join(path.read_text() for path in files)
    reasons = re.findall(r"#checkov:skip=(\w+):(.+)", TEXT + texts)
    assert {one.split()[0] for one in excepted} == {check for check, _ in reasons}
    assert all(len(reason.split()) > 5 for _, reason in reasons)

    # An exception that is no longer needed must go.
    bare = tmp_path / "deploy"
    for path in [*FOLDER.glob("*.tf"), *files]:
        copy = bare / path.relative_to(DEPLOY)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(re.sub(r"#checkov:skip=.*", "", path.read_text()))
    assert checks(scan(checkers, bare), "failed_checks") == excepted
