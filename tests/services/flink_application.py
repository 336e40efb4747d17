"""A Flink cluster that runs one job's jar, as the Kubernetes operator starts it: no job server."""

from __future__ import annotations

import json
import os
import time
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from apache_beam import version

from tests.services import go, maven
from tests.services.flink import HERE, MEMORY, OPENS, WorkerPool
from tests.services.processes import Server, Service, Together, free_port, java

# Of the version whose parts Beam's job server takes.
FLINK = "1.19.0"
# Flink's own classes, without any of Beam's: those are in the job's jar.
_FLINK = [
    f"org.apache.flink:flink-clients:{FLINK}",
    f"org.apache.flink:flink-statebackend-rocksdb:{FLINK}",
    "org.slf4j:slf4j-simple:1.7.36",
]
_S3 = [f"org.apache.flink:flink-s3-fs-presto:{FLINK}"]
_KUBERNETES = [f"org.apache.flink:flink-kubernetes:{FLINK}"]
_BOOT = f"github.com/apache/beam/sdks/v2/python/container@v{version.__version__}"

_SOURCES = Path(__file__).parent / "java"


def flink_jars() -> Path:
    """The folder of Flink's own jars.

    Raises:
        Unavailable: Maven could not get them.
    """
    return maven.jars(f"flink-application-{FLINK}", _FLINK)


def kubernetes_jars() -> Path:
    """The folder of what Flink starts its pods on Kubernetes with.

    Raises:
        Unavailable: Maven could not get them.
    """
    return maven.jars(f"flink-kubernetes-{FLINK}", _KUBERNETES)


def source(name: str, *folders: Path) -> list[str]:
    """The command that runs a Java source file of `tests/services/java` on the jars of folders.

    Raises:
        Unavailable: there is no Java 17.
    """
    path = os.pathsep.join(f"{folder}/*" for folder in folders)
    return [java(17), *OPENS, "-cp", path, str(_SOURCES / f"{name}.java")]


def workers(folder: Path) -> WorkerPool:
    """What starts the Python workers that a TaskManager asks for, as the SDK's image does."""
    return WorkerPool(folder, lambda: go.program(f"beam-boot-{version.__version__}", _BOOT))


class _Java(Server):
    def __init__(
        self, name: str, folder: Path, argv: list[str], environment: Mapping[str, str], port: int
    ) -> None:
        super().__init__(port)
        self.log = folder / f"{name}.log"
        self._service = Service(name, argv, self.log, environment)

    def _prepare(self) -> Service:
        return self._service

    def _answers(self) -> None:
        """A connection is enough."""


class Application(Together):
    """A JobManager that runs a jar, and a TaskManager; as a context manager they are gone at the end.

    Args:
        folder: where configuration and logs live.
        jar: the job's, a file or an address that a plugin reads.
        settings: Flink's, beside those that name ports and memory.
        environment: of both processes.
    """

    def __init__(
        self, folder: Path, jar: str, settings: Mapping[str, object], environment: Mapping[str, str]
    ) -> None:
        folder.mkdir(parents=True)
        self._rest, rpc, data = free_port(), free_port(), free_port()
        lines = {
            **MEMORY,
            "jobmanager.rpc.address": HERE,
            "jobmanager.rpc.port": rpc,
            "jobmanager.bind-host": HERE,
            "rest.address": HERE,
            "rest.bind-address": HERE,
            "rest.port": self._rest,
            "rest.bind-port": self._rest,
            "blob.server.port": free_port(),
            "taskmanager.host": HERE,
            "taskmanager.bind-host": HERE,
            "taskmanager.data.port": data,
            "io.tmp.dirs": folder / "tmp",
            **settings,
        }
        text = "".join(f'{name}: "{value}"\n' for name, value in lines.items())
        (folder / "config.yaml").write_text(text)
        plugins = folder / "plugins" / "s3"
        plugins.mkdir(parents=True)
        for part in maven.jars(f"flink-s3-{FLINK}", _S3, timeout=400).glob("*.jar"):
            (plugins / part.name).symlink_to(part)
        given = {**environment, "FLINK_PLUGINS_DIR": str(plugins.parent)}
        flink = flink_jars()
        jvm = ["-Xmx512m", "-XX:+UseSerialGC", "-Dorg.slf4j.simpleLogger.showDateTime=true"]
        manager = source("Application", flink)
        worker = [*manager[:-1], "org.apache.flink.runtime.taskexecutor.TaskManagerRunner"]
        self._parts = [
            _Java("jobmanager", folder, [manager[0], *jvm, *manager[1:], str(folder), jar], given,
                  self._rest),
            _Java("taskmanager", folder, [worker[0], *jvm, *worker[1:], "--configDir", str(folder)],
                  given, data),
        ]  # fmt: skip

    @property
    def parts(self) -> Sequence[Server]:
        """JobManager and TaskManager."""
        return self._parts

    def get(self, path: str, body: object = None) -> Any:
        """What the cluster's REST interface answers; posts the body if there is one."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            f"http://{HERE}:{self._rest}{path}", data, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)

    @property
    def job(self) -> str:
        """The path of the one job at the REST interface."""
        (job,) = self.get("/jobs")["jobs"]
        return f"/jobs/{job['id']}"

    def stopped(self, within_s: float = 120) -> str:
        """Stops the job with a savepoint; returns where it lies."""
        job = self.job
        asked = self.get(f"{job}/stop", {"drain": False})["request-id"]
        give_up = time.monotonic() + within_s
        while time.monotonic() < give_up:
            told = self.get(f"{job}/savepoints/{asked}")
            if told["status"]["id"] == "COMPLETED":
                assert "location" in told["operation"], told
                return str(told["operation"]["location"])
            time.sleep(0.2)
        raise AssertionError(f"no savepoint within {within_s} s")
