"""Engines that tests run the job on besides the local runner: Prism, and Flink's job server."""

from __future__ import annotations

import os
from pathlib import Path

import grpc
from apache_beam import version
from apache_beam.options.pipeline_options import FlinkRunnerOptions

from tests.services import go, maven
from tests.services.processes import Server, Service, Unavailable, java

# The engines speak Beam's protocols; they are of the very version that the job runs with.
BEAM = version.__version__
FLINK = FlinkRunnerOptions.PUBLISHED_FLINK_VERSIONS[-1]
EXTERNAL_FLINK = "TEST_FLINK_JOB_SERVER"

_PRISM = f"github.com/apache/beam/sdks/v2/go/cmd/prism@v{BEAM}"


def prism_program(timeout: float = 900) -> Path:
    """Prism's executable, built the first time.

    Args:
        timeout: seconds that downloading and compiling may take.

    Raises:
        Unavailable: Go is missing, or could not build it.
    """
    return go.program(f"prism-{BEAM}", _PRISM, timeout)


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


class Prism(Server):
    """A Prism that takes jobs; as a context manager it is started, and gone at the end.

    It is a process of its own session. One that Beam starts by itself is in that of the job, where
    Ctrl-C in a terminal ends it before the job can be drained. After a stop it knows no job more.

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
        super().__init__(port)
        self.log = folder.absolute() / "prism.log"

    @property
    def flags(self) -> list[str]:
        """The flags that bring a job to it."""
        return ["--runner=PrismRunner", f"--job_endpoint=localhost:{self.port}"]

    def _prepare(self) -> Service:
        argv = [str(prism_program()), "--job_port", str(self.port), "--serve_http=false",
                "--log_kind=text", "--log_level=info"]  # fmt: skip
        return Service("Prism", argv, self.log)

    def _answers(self) -> None:
        with grpc.insecure_channel(f"127.0.0.1:{self.port}") as channel:
            grpc.channel_ready_future(channel).result(timeout=2)
