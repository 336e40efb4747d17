"""Engines that tests run the job on besides the local runner: Prism, and Flink's job server."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import grpc
from apache_beam import version

from tests.services import cache, go, maven
from tests.services.processes import Server, Service, Unavailable, java

# The version that the job runs with; Prism is of the same.
BEAM = version.__version__
# Beam's whole job server is too large for some mirrors of Maven's; its parts are of the newest
# version that has both. The protocols between it and the job are stable.
FLINK, FLINK_BEAM = "1.19", "2.62.0"
_FLINK = [
    f"org.apache.beam:beam-runners-flink-{FLINK}:{FLINK_BEAM}",
    "org.slf4j:slf4j-simple:1.7.36",
]
_JOB_SERVER = "org.apache.beam.runners.flink.FlinkJobServerDriver"
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


def flink_parts(timeout: float = 400) -> Path:
    """The folder of the jars of Beam's Flink runner, and of Flink as it needs it.

    Args:
        timeout: seconds that the download may take.

    Raises:
        Unavailable: Maven could not get them.
    """
    return maven.jars(f"flink-{FLINK}-{FLINK_BEAM}", _FLINK, timeout)


def flink_job_server(timeout: float = 400) -> Path:
    """The jar for `--flink_job_server_jar`; with `--flink_master=[local]` it holds Flink, too.

    It holds nothing but the class path: Beam's parts and Flink's, as Maven has them.

    Args:
        timeout: seconds that the download may take.

    Raises:
        Unavailable: Java is missing, the jar that $TEST_FLINK_JOB_SERVER names is not there, or
            Maven could not get the parts.
    """
    java(17)
    named = os.environ.get(EXTERNAL_FLINK)
    if named:
        if not Path(named).is_file():
            raise Unavailable(f"{EXTERNAL_FLINK}={named}: no such file")
        return Path(named)
    parts = flink_parts(timeout)

    def fill(target: Path) -> None:
        path = " ".join(part.as_uri() for part in sorted(parts.glob("*.jar")))
        with zipfile.ZipFile(target / "job-server.jar", "w") as jar:
            jar.writestr("META-INF/MANIFEST.MF", _manifest(path))

    return cache.folder(f"flink-{FLINK}-{FLINK_BEAM}-job-server", fill) / "job-server.jar"


def flink_whole_job_server(timeout: float = 400) -> Path:
    """The same with everything in one jar, as Beam releases it: a job is written to a copy of it.

    Args:
        timeout: seconds that the download may take.

    Raises:
        Unavailable: as above.
    """
    if EXTERNAL_FLINK in os.environ:
        return flink_job_server()
    java(17)
    parts = flink_parts(timeout)

    def fill(target: Path) -> None:
        services: dict[str, list[str]] = {}
        with zipfile.ZipFile(target / "job-server.jar", "w", zipfile.ZIP_DEFLATED, True, 1) as jar:
            jar.writestr(
                "META-INF/MANIFEST.MF",
                f"Manifest-Version: 1.0\r\nMain-Class: {_JOB_SERVER}\r\n",
            )
            for part in sorted(parts.glob("*.jar")):
                with zipfile.ZipFile(part) as given:
                    _take_over(given, jar, services)
            for name, lines in services.items():
                jar.writestr(name, "".join(f"{line}\n" for line in lines))

    return cache.folder(f"flink-{FLINK}-{FLINK_BEAM}-whole", fill) / "job-server.jar"


def _take_over(
    given: zipfile.ZipFile, jar: zipfile.ZipFile, services: dict[str, list[str]]
) -> None:
    """Copies a part's files that are not there yet; what it offers as services is gathered."""
    there = set(jar.namelist())
    for name in given.namelist():
        if name.startswith("META-INF/services/") and not name.endswith("/"):
            services.setdefault(name, []).append(given.read(name).decode().strip())
        elif name not in there and not name.endswith(("/", ".SF", ".RSA", ".DSA")):
            jar.writestr(name, given.read(name))


def _manifest(class_path: str) -> str:
    # A line has 72 bytes at most; a space goes on with the one before.
    line = f"Class-Path: {class_path}"
    cut = [line[:72], *(f" {line[at : at + 71]}" for at in range(72, len(line), 71))]
    lines = ["Manifest-Version: 1.0", f"Main-Class: {_JOB_SERVER}", *cut]
    return "".join(f"{each}\r\n" for each in lines) + "\r\n"


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
