"""deploy/flink: the operator's own schema takes the resources, Flink knows the settings, the job the flags."""

from __future__ import annotations

import copy
import itertools
import json
import re
import shlex
import struct
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from apache_beam.options.pipeline_options import PortableOptions

from pipeline.engines import choose
from pipeline.engines.flink.jar import JarRunner
from pipeline.errors import ConfigError
from pipeline.options import config_from, parse
from tests.deploy.dockerfile import instructions, stages
from tests.services import maven
from tests.services.engines import FLINK, FLINK_BEAM, flink_parts
from tests.services.fixtures import available
from tests.services.flink_application import flink_jars, kubernetes_jars, source

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "flink"
PAGE = (FOLDER / "README.md").read_text()
# Its jar holds the definitions of its resources.
OPERATOR = "org.apache.flink:flink-kubernetes-operator-api:1.10.0"
MAIN = "org.apache.beam.runners.flink.FlinkPipelineRunner"
# Settings that are no options of Flink's classes: the operator's own, a plugin's, a reporter's.
OTHERS = ("kubernetes.operator.", "s3.", "metrics.reporter.prom.")


def load(name: str) -> dict[str, Any]:
    return dict(yaml.safe_load((FOLDER / name).read_text()))


BATTERY, LAUNCH, SAVEPOINT, NETWORK = (
    load(f"{name}.yaml") for name in ("battery", "launch", "savepoint", "network")
)
SPEC = BATTERY["spec"]
LAUNCHER = LAUNCH["spec"]["template"]["spec"]["containers"][0]
WORKERS = SPEC["taskManager"]["podTemplate"]["spec"]["initContainers"][0]
COMPOSE = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())["services"]
COMPOSED = COMPOSE["flink-jar"]
PROPERTIES = COMPOSE["flink-jobmanager"]["environment"]["FLINK_PROPERTIES"]


# --- the operator's schema ------------------------------------------------------------------------


def strict(schema: Any) -> Any:
    """The schema, which also refuses fields that Kubernetes would drop without a word."""
    if isinstance(schema, dict):
        schema = {key: strict(value) for key, value in schema.items()}
        if schema.pop("x-kubernetes-int-or-string", False):
            return {"type": ["integer", "string"]}
        if "properties" in schema and "additionalProperties" not in schema:
            schema["additionalProperties"] = False
    return schema


@pytest.fixture(scope="module")
def schemas() -> dict[str, Any]:
    """The schema of the spec of each of the operator's resources, by kind."""
    folder = available(maven.jars, "flink-kubernetes-operator-api-1.10.0", [OPERATOR])
    (path,) = folder.glob("flink-kubernetes-operator-api-*.jar")
    found = {}
    with zipfile.ZipFile(path) as jar:
        for name in jar.namelist():
            if re.fullmatch(r"META-INF/fabric8/\w+\.flink\.apache\.org-v1\.yml", name):
                defined = yaml.load(jar.read(name), yaml.CSafeLoader)["spec"]
                (version,) = defined["versions"]
                assert version["name"] == "v1beta1"
                whole = version["schema"]["openAPIV3Schema"]["properties"]["spec"]
                found[defined["names"]["kind"]] = strict(whole)
    return found


def wrong(schema: Any, value: object) -> list[str]:
    checker = jsonschema.Draft202012Validator(schema)
    return [f"{'/'.join(map(str, one.path))}: {one.message}" for one in checker.iter_errors(value)]


@pytest.mark.parametrize("resource", [BATTERY, SAVEPOINT], ids=lambda one: one["kind"])
def test_the_operators_schema_takes_the_resource(
    schemas: dict[str, Any], resource: dict[str, Any]
) -> None:
    assert resource["apiVersion"] == "flink.apache.org/v1beta1"
    assert wrong(schemas[resource["kind"]], resource["spec"]) == []


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        (("job", "paralelism"), 4, "paralelism"),
        (("job", "upgradeMode"), "by-savepoint", "upgradeMode"),
        (("flinkVersion",), "v1_99", "flinkVersion"),
        (("flinkConfiguration", "taskmanager.numberOfTaskSlots"), 1, "numberOfTaskSlots"),
        (("podTemplate", "spec", "sidecars"), [], "sidecars"),
    ],
)
def test_the_schema_refuses_what_is_wrong(
    schemas: dict[str, Any], path: tuple[str, ...], value: object, told: str
) -> None:
    spec = copy.deepcopy(SPEC)
    inner = spec
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    assert any(told in one for one in wrong(schemas["FlinkDeployment"], spec))


def test_the_launchers_pod_is_a_good_one(schemas: dict[str, Any]) -> None:
    # What a pod is, the operator's schema says too.
    pod = schemas["FlinkDeployment"]["properties"]["podTemplate"]
    assert wrong(pod, LAUNCH["spec"]["template"]) == []
    assert wrong(pod, {"spec": {"restart": "Never"}}) != []


# --- Flink ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def task_manager(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The pod that Flink's own code makes of the templates, as the operator joins them."""
    path = tmp_path_factory.mktemp("pod") / "template.yaml"
    spec = {
        **SPEC["podTemplate"]["spec"],
        **SPEC["taskManager"]["podTemplate"]["spec"],
    }
    template = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "template"}, "spec": spec}
    path.write_text(yaml.safe_dump(template))
    command = available(source, "TaskManagerPod", available(flink_jars), available(kubernetes_jars))
    done = subprocess.run(
        [*command, str(path)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return dict(yaml.safe_load(done.stdout))


def test_flink_keeps_the_workers_and_what_starts_them_again(task_manager: dict[str, Any]) -> None:
    spec = task_manager["spec"]
    # Why they are no ordinary container.
    assert spec["restartPolicy"] == "Never"
    (workers,) = spec["initContainers"]
    assert workers["restartPolicy"] == "Always"
    assert (workers["image"], workers["args"]) == (WORKERS["image"], ["--worker_pool"])
    assert workers["startupProbe"]["tcpSocket"] == workers["livenessProbe"]["tcpSocket"]
    (main,) = spec["containers"]
    assert main["name"] == "flink-main-container"
    assert main["envFrom"] == workers["envFrom"] == LAUNCHER["envFrom"]
    assert {"name": "metrics", "containerPort": 9249} in main["ports"]


def test_whom_the_network_lets_in_is_told_by_flinks_own_labels(
    task_manager: dict[str, Any],
) -> None:
    labels = task_manager["metadata"]["labels"]
    chosen = NETWORK["spec"]["podSelector"]["matchLabels"]
    assert chosen.items() <= labels.items()
    others, operator, figures = NETWORK["spec"]["ingress"]
    assert others == {"from": [{"podSelector": {"matchLabels": chosen}}]}
    # The port at which workers are asked for is open to the pod's own.
    ports = [port["port"] for rule in (operator, figures) for port in rule["ports"]]
    assert ports == [8081, int(SPEC["flinkConfiguration"]["metrics.reporter.prom.port"])]


def constants(folder: Path) -> Iterator[bytes]:
    """The classes of Flink that define options."""
    for path in folder.glob("flink-*.jar"):
        with zipfile.ZipFile(path) as jar:
            for name in jar.namelist():
                if re.search(r"Options(\$\w+)?\.class$", name):
                    yield jar.read(name)


@pytest.fixture(scope="module")
def options() -> bytes:
    """All constants of Flink's classes of options, one after the other."""
    folders = (available(flink_jars), available(kubernetes_jars))
    return b"".join(one for folder in folders for one in constants(folder))


def is_option(name: str, options: bytes) -> bool:
    """Whether a class of options has the constant; a text's length stands before it."""
    return struct.pack(">H", len(name)) + name.encode() in options


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in sorted({*SPEC["flinkConfiguration"], *yaml.safe_load(PROPERTIES)})
        if not name.startswith(OTHERS)
    ],
)
def test_flink_has_the_setting(name: str, options: bytes) -> None:
    # A strategy's own settings are composed of its name.
    name = name.replace("restart-strategy.exponential-delay.", "")
    assert is_option(name, options)


def test_a_setting_that_flink_does_not_have_is_found(options: bytes) -> None:
    assert not is_option("state.savepoint.dir", options)
    assert not is_option("pipeline.operator-chaining.enable", options)


@pytest.mark.long
def test_the_jars_main_class_is_beams() -> None:
    folder = available(flink_parts)
    with zipfile.ZipFile(folder / f"beam-runners-flink-{FLINK}-{FLINK_BEAM}.jar") as jar:
        assert f"{MAIN.replace('.', '/')}.class" in jar.namelist()
    assert SPEC["job"]["entryClass"] == MAIN
    assert f"--job-classname {MAIN} " in COMPOSE["flink-jobmanager"]["command"]


# --- the job --------------------------------------------------------------------------------------


def flags(arguments: list[str]) -> dict[str, str]:
    return dict(each.partition("=")[::2] for each in arguments)


@pytest.mark.parametrize(
    "arguments", [LAUNCHER["args"], COMPOSED["command"]], ids=["k8s", "compose"]
)
def test_the_jobs_flags_are_good_ones(arguments: list[str]) -> None:
    given = parse(arguments)
    config = config_from(given)
    assert config.source.startswith("kafka://") and not config.until_latest
    assert isinstance(choose.choose(given, live=True), JarRunner)
    portable = given.view_as(PortableOptions)
    assert (portable.environment_type, portable.environment_config) == ("EXTERNAL", "localhost:50000")  # fmt: skip
    with pytest.raises(ConfigError):
        parse([*arguments, "--checkpoint_interval=1"])


def test_launcher_deployment_and_workers_fit() -> None:
    given = flags(LAUNCHER["args"])
    assert given["--output_executable_path"] == SPEC["job"]["jarURI"]
    assert LAUNCHER["image"] == WORKERS["image"]
    port = given["--environment_config"].partition(":")[2]
    assert WORKERS["startupProbe"]["tcpSocket"]["port"] == int(port)
    assert SPEC["job"]["parallelism"] <= int(given["--max_parallelism"])
    # A shard is ordered by one worker at a time.
    assert int(given["--shards"]) >= 8 * SPEC["job"]["parallelism"]
    assert SAVEPOINT["spec"]["jobReference"] == {
        "kind": BATTERY["kind"], "name": BATTERY["metadata"]["name"],
    }  # fmt: skip
    # The shards of its state and its offsets are those of one bucket and one group.
    assert {SPEC["flinkConfiguration"][name].split("/")[2] for name in
            ("state.checkpoints.dir", "state.savepoints.dir", "high-availability.storageDir")
            } == {"battery-state"}  # fmt: skip


def test_in_compose_they_share_the_jar_and_the_network() -> None:
    path = Path(flags(COMPOSED["command"])["--output_executable_path"])
    assert f"flink-jar:{path.parent}" in COMPOSED["volumes"]
    for name in ("flink-jobmanager", "flink-taskmanager"):
        # Whatever lies there is on Flink's class path.
        assert COMPOSE[name]["volumes"] == ["flink-jar:/opt/flink/usrlib"]
        assert COMPOSE[name]["environment"]["FLINK_PROPERTIES"] == PROPERTIES
    assert COMPOSE["flink-workers"]["network_mode"] == "service:flink-taskmanager"
    assert COMPOSE["flink-workers"]["image"] == COMPOSED["image"]


# --- the image ------------------------------------------------------------------------------------

ARGUMENTS, STAGES = stages(instructions(FOLDER / "Dockerfile"))


def test_its_parts_are_of_the_versions_that_are_tested() -> None:
    template, _ = stages(instructions(ROOT / "deploy" / "template" / "Dockerfile"))
    assert ARGUMENTS["BEAM"] == template["BEAM"]
    assert ARGUMENTS["JOB_SERVER"] == f"apache/beam_flink{FLINK}_job_server:{FLINK_BEAM}"
    assert ARGUMENTS["FLINK"] == SPEC["image"] == COMPOSE["flink-jobmanager"]["image"]
    assert SPEC["image"].startswith(f"flink:{FLINK}.")
    assert SPEC["flinkVersion"] == f"v{FLINK.replace('.', '_')}"
    version = SPEC["image"].partition(":")[2].partition("-")[0]
    for service in (SPEC["podTemplate"]["spec"]["containers"][0]["env"],
                    [{"value": COMPOSE["flink-jobmanager"]["environment"]["ENABLE_BUILT_IN_PLUGINS"]}]):  # fmt: skip
        assert [one["value"] for one in service] == [f"flink-s3-fs-presto-{version}.jar"]


def test_it_holds_workers_java_and_the_job_server_where_the_flags_say() -> None:
    copies = [one.text for one in STAGES[-1] if one.name == "COPY"]
    jar = flags(LAUNCHER["args"])["--flink_job_server_jar"]
    assert any(
        text.startswith("--from=job_server ") and text.endswith(f" {jar}") for text in copies
    )
    assert "--from=flink /opt/java/openjdk /opt/java/openjdk" in copies
    (environment,) = [one.text for one in STAGES[-1] if one.name == "ENV"]
    assert "RUN_PYTHON_SDK_IN_DEFAULT_ENVIRONMENT=1" in environment
    assert "/opt/java/openjdk/bin" in environment
    (entry,) = [one.text for one in STAGES[-1] if one.name == "ENTRYPOINT"]
    assert json.loads(entry) == ["/opt/apache/beam/boot"]


# --- the page -------------------------------------------------------------------------------------


def commands() -> list[list[str]]:
    blocks = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    found = [re.search(r"\bkubectl .*", line) for line in lines]
    return [shlex.split(each[0], comments=True) for each in found if each]


def test_the_pages_commands_name_what_there_is() -> None:
    found = commands()
    assert len(found) > 8
    for words in found:
        for word in words:
            if word.startswith("--filename="):
                assert (ROOT / word.partition("=")[2]).is_file(), word
        for kind, name in itertools.pairwise(words):
            if kind == "flinkdeployment":
                assert name == BATTERY["metadata"]["name"]


def test_the_pages_changes_are_ones_that_the_operator_takes(schemas: dict[str, Any]) -> None:
    patches = [
        json.loads(word.partition("=")[2])
        for words in commands()
        for word in words
        if word.startswith("--patch=")
    ]
    assert len(patches) >= 3
    for patch in patches:
        assert set(patch) == {"spec"}
        changed = copy.deepcopy(SPEC)
        for part, values in patch["spec"].items():
            changed[part] = changed[part] | values
        assert wrong(schemas["FlinkDeployment"], changed) == []
