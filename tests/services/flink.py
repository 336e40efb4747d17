"""A Flink cluster of separate processes: JobManager, TaskManagers, worker pools and Beam's job server."""

from __future__ import annotations

import json
import os
import sys
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import grpc

from tests.services.engines import flink_job_server
from tests.services.processes import Server, Service, Together, free_port, java

# Flink's own scripts would set them; without a script each has to be given.
MEMORY: dict[str, object] = {
    "taskmanager.cpu.cores": 1,
    "taskmanager.memory.task.heap.size": "384m",
    "taskmanager.memory.task.off-heap.size": "0m",
    "taskmanager.memory.managed.size": "128m",
    "taskmanager.memory.network.min": "64m",
    "taskmanager.memory.network.max": "64m",
    "taskmanager.memory.framework.heap.size": "128m",
    "taskmanager.memory.framework.off-heap.size": "128m",
    "taskmanager.memory.jvm-metaspace.size": "256m",
    "taskmanager.memory.jvm-overhead.min": "64m",
    "taskmanager.memory.jvm-overhead.max": "64m",
}
# What Flink's libraries reach into; Java 17 has to be told.
OPENS = tuple(
    f"--add-opens=java.base/java.{package}=ALL-UNNAMED"
    for package in ("util", "lang", "time", "net", "io", "nio", "util.concurrent")
)
HERE = "127.0.0.1"
_ROOT = Path(__file__).parents[2]


class _Java(Server):
    """A Java program of Flink's or Beam's."""

    name: str

    def __init__(self, folder: Path, port: int | None = None) -> None:
        super().__init__(port)
        self.folder = folder.absolute()
        self.log = self.folder / f"{self.name}.log"

    def _java(self, main: str, *arguments: str, heap_mb: int = 256) -> Service:
        argv = [java(17), f"-Xmx{heap_mb}m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", *OPENS,
                "-Dorg.slf4j.simpleLogger.showDateTime=true", "-cp", str(flink_job_server()), main,
                *arguments]  # fmt: skip
        return Service(self.name, argv, self.log)

    def _answers(self) -> None:
        """A connection is enough."""


class JobManager(_Java):
    """The cluster's JobManager; what it knows of its jobs lies in files and survives it.

    Attributes:
        port: of its REST interface.
    """

    name = "jobmanager"

    def __init__(self, folder: Path, slots: int) -> None:
        super().__init__(folder)
        self._rpc, self._blobs = free_port(), free_port()
        self._slots = slots

    @property
    def rest(self) -> str:
        """Where it can be asked."""
        return f"http://{HERE}:{self.port}"

    @property
    def configuration(self) -> Path:
        """The folder of the cluster's configuration."""
        return self.folder / "conf"

    def _prepare(self) -> Service:
        self.configuration.mkdir(parents=True, exist_ok=True)
        lines = {
            "jobmanager.rpc.address": HERE,
            "jobmanager.rpc.port": self._rpc,
            "jobmanager.bind-host": HERE,
            "taskmanager.bind-host": HERE,
            "taskmanager.host": HERE,
            "blob.server.port": self._blobs,
            "rest.address": HERE,
            "rest.bind-address": HERE,
            "rest.port": self.port,
            "rest.bind-port": self.port,
            "taskmanager.numberOfTaskSlots": self._slots,
            "state.checkpoints.dir": (self.folder / "checkpoints").as_uri(),
            "state.checkpoints.num-retained": 3,
            "state.savepoints.dir": (self.folder / "savepoints").as_uri(),
            "execution.checkpointing.externalized-checkpoint-retention": "RETAIN_ON_CANCELLATION",
            "restart-strategy.type": "fixed-delay",
            "restart-strategy.fixed-delay.attempts": 1000,
            "restart-strategy.fixed-delay.delay": "1 s",
            "heartbeat.interval": 2000,
            "heartbeat.timeout": 10000,
            "metrics.fetcher.update-interval": 1000,
            "web.submit.enable": "false",
        }
        text = "".join(f"{name}: {value}\n" for name, value in lines.items())
        (self.configuration / "config.yaml").write_text(text)
        return self._java(
            "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint",
            "--configDir", str(self.configuration), heap_mb=512,
        )  # fmt: skip

    def get(self, path: str) -> Any:
        """What its REST interface answers."""
        with urllib.request.urlopen(f"{self.rest}{path}", timeout=5) as answer:
            return json.load(answer)

    def _answers(self) -> None:
        self.get("/overview")


class TaskManager(_Java):
    """One of the cluster's TaskManagers.

    Attributes:
        port: where others get its data.
    """

    def __init__(self, manager: JobManager, number: int) -> None:
        self.name = f"taskmanager-{number}"
        super().__init__(manager.folder)
        self._manager = manager

    def _prepare(self) -> Service:
        given = [f"{name}={value}" for name, value in MEMORY.items()]
        given.append(f"taskmanager.data.port={self.port}")
        return self._java(
            "org.apache.flink.runtime.taskexecutor.TaskManagerRunner",
            "--configDir", str(self._manager.configuration),
            *(part for each in given for part in ("-D", each)), heap_mb=512,
        )  # fmt: skip


class WorkerPool(Server):
    """Starts the Python workers that TaskManagers ask for, each a process of its own.

    Args:
        folder: where its log lies.
        boot: builds the program that starts a worker, as the SDK's image has it; None: Python does.
        name: of its log.

    Attributes:
        port: where it is asked.
    """

    def __init__(
        self, folder: Path, boot: Callable[[], Path] | None = None, name: str = "pool"
    ) -> None:
        super().__init__()
        self.log = folder.absolute() / f"{name}.log"
        self._boot = boot

    def _prepare(self) -> Service:
        argv = [sys.executable, "-m", "apache_beam.runners.worker.worker_pool_main",
                f"--service_port={self.port}"]  # fmt: skip
        # It starts whatever `python` is.
        programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment = {"PATH": programs, "PYTHONPATH": str(_ROOT)}
        if self._boot is not None:
            argv.append(f"--container_executable={self._boot()}")
            environment["RUN_PYTHON_SDK_IN_DEFAULT_ENVIRONMENT"] = "1"
        return Service("worker pool", argv, self.log, environment)

    def _answers(self) -> None:
        with grpc.insecure_channel(f"{HERE}:{self.port}") as channel:
            grpc.channel_ready_future(channel).result(timeout=2)


class JobServer(_Java):
    """Beam's job server in front of the cluster.

    Attributes:
        port: where it takes jobs.
    """

    name = "jobserver"

    def __init__(self, manager: JobManager) -> None:
        super().__init__(manager.folder)
        self._manager = manager

    def _prepare(self) -> Service:
        return self._java(
            "org.apache.beam.runners.flink.FlinkJobServerDriver",
            f"--job-host={HERE}", f"--job-port={self.port}", f"--artifact-port={free_port()}",
            f"--expansion-port={free_port()}", f"--artifacts-dir={self.folder / 'artifacts'}",
            f"--flink-conf-dir={self._manager.configuration}",
            f"--flink-master={HERE}:{self._manager.port}",
        )  # fmt: skip

    def _answers(self) -> None:
        with grpc.insecure_channel(f"{HERE}:{self.port}") as channel:
            grpc.channel_ready_future(channel).result(timeout=2)


class FlinkCluster(Together):
    """All of it; as a context manager it is started, and gone at the end.

    Attributes:
        manager: the JobManager.
        workers: the TaskManagers.
        pools: the pools of Python workers.
        server: Beam's job server.
    """

    def __init__(self, folder: Path, task_managers: int = 2, slots: int = 2) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.manager = JobManager(folder, slots)
        self.workers = [TaskManager(self.manager, number) for number in range(task_managers)]
        self.pools = [WorkerPool(folder)]
        self.server = JobServer(self.manager)

    @property
    def parts(self) -> Sequence[Server]:
        """In the order in which they start."""
        return [self.manager, *self.workers, *self.pools, self.server]

    @property
    def flags(self) -> list[str]:
        """The flags that bring a job to it."""
        return [
            "--runner=FlinkRunner", f"--job_endpoint={HERE}:{self.server.port}",
            f"--flink_master={HERE}:{self.manager.port}", "--environment_type=EXTERNAL",
            f"--environment_config={HERE}:{self.pools[0].port}",
        ]  # fmt: skip
