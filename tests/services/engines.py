"""Engines that tests run the job on besides the local runner: Prism, and Flink's job server."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Self

import grpc
from apache_beam import version
from apache_beam.options.pipeline_options import FlinkRunnerOptions

from tests.services import cache, maven
from tests.services.processes import Service, Unavailable, free_port, java

# The engines speak Beam's protocols; they are of the very version that the job runs with.
BEAM = version.__version__
FLINK = FlinkRunnerOptions.PUBLISHED_FLINK_VERSIONS[-1]
EXTERNAL_FLINK = "TEST_FLINK_JOB_SERVER"

_PRISM = f"github.com/apache/beam/sdks/v2/go/cmd/prism@v{BEAM}"


def prism_program(timeout: float = 900) -> Path:
    """Prism's executable, built the first time: no package registry has it built.

    Args:
        timeout: seconds that downloading and compiling may take.

    Raises:
        Unavailable: Go is missing, or could not build it.
    """

    def fill(target: Path) -> None:
        program = shutil.which("go")
        if not program:
            raise Unavailable("no go in PATH; install Go to build Prism")
        try:
            done = subprocess.run(
                [program, "install", _PRISM],
                env={**os.environ, "GOBIN": str(target)},
                capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL,
                check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise Unavailable(f"Go was not done with Prism within {timeout:.0f} s") from None
        if done.returncode:
            raise Unavailable(f"Go could not build Prism: {done.stderr.strip()[-300:]}")

    return cache.folder(f"prism-{BEAM}", fill) / "prism"


def flink_job_server(timeout: float = 240) -> Path:
    """The jar for `--flink_job_server_jar`; with `--flink_master=[local]` it holds Flink, too.

    Args:
        timeout: seconds that the download may take.

    Raises:
        Unavailable: Java is missing, the jar that $TEST_FLINK_JOB_SERVER names is not there, or
            Maven could not get one.
    """
    java(17)
    named = os.environ.get(EXTERNAL_FLINK)
    if named:
        if not Path(named).is_file():
            raise Unavailable(f"{EXTERNAL_FLINK}={named}: no such file")
        return Path(named)
    artifact = f"beam-runners-flink-{FLINK}-job-server"
    folder = maven.jars(
        f"flink-{FLINK}-job-server-{BEAM}", [f"org.apache.beam:{artifact}:{BEAM}"], timeout
    )
    return folder / f"{artifact}-{BEAM}.jar"


class Prism:
    """A Prism that takes jobs; as a context manager it is started, and gone at the end.

    It is a process of its own session. One that Beam starts by itself is in that of the job, where
    Ctrl-C in a terminal ends it before the job can be drained.

    Attributes:
        port: where it takes jobs.
        log: its log.
    """

    def __init__(self, folder: Path, port: int | None = None) -> None:
        """Does not start it yet.

        Args:
            folder: where its log lives.
            port: where it takes jobs; a free one if not given.
        """
        self.port = port or free_port()
        self.log = folder.absolute() / "prism.log"
        self._service: Service | None = None

    @property
    def flags(self) -> list[str]:
        """The flags that bring a job to it."""
        return ["--runner=PrismRunner", f"--job_endpoint=localhost:{self.port}"]

    @property
    def pid(self) -> int | None:
        """Its process id, None while it is stopped."""
        return self._service.pid if self._service else None

    def start(self) -> None:
        """Starts it and returns when it answers.

        Raises:
            Unavailable: it can't be had here, or doesn't answer; the message says why.
        """
        self._service = self._service or Service("Prism", self._command(), self.log)
        self._service.start(self.port, self._answers)

    def stop(self, kill: bool = False) -> None:
        """Stops it by SIGTERM, with `kill` by SIGKILL; it forgets every job."""
        if self._service:
            self._service.stop(kill)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop(kill=True)

    def _command(self) -> list[str]:
        return [str(prism_program()), "--job_port", str(self.port), "--serve_http=false",
                "--log_kind=text", "--log_level=info"]  # fmt: skip

    def _answers(self) -> None:
        with grpc.insecure_channel(f"127.0.0.1:{self.port}") as channel:
            grpc.channel_ready_future(channel).result(timeout=2)
