"""MinIO for tests: a real server, built with Go, on a folder of this machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import urllib.request
import uuid
from pathlib import Path
from typing import Any, Self

import boto3

from tests.services import cache
from tests.services.processes import Service, Unavailable, free_port

# The release of deploy/compose.yaml. AGPL-3.0: the tests talk to it and nothing of it is shipped.
MINIO = "RELEASE.2025-09-07T16-13-09Z"
# What every new server lets in.
USER, PASSWORD = "minioadmin", "minioadmin"


class Minio:
    """A MinIO; as a context manager it is started, and gone at the end.

    Attributes:
        port: where it listens, the same after a restart.
        url: `http://host:port`.
        seconds_to_start: how long the last start took until it answered.
    """

    def __init__(self, folder: Path, port: int | None = None) -> None:
        """Does not start it yet.

        Args:
            folder: where its objects and its log live.
            port: where it listens; a free one if not given.
        """
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.seconds_to_start = 0.0
        self._folder = folder.absolute()
        self._service: Service | None = None

    @property
    def environment(self) -> dict[str, str]:
        """The variables that lead clients and Beam to it and log them in."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": USER,
            "AWS_SECRET_ACCESS_KEY": PASSWORD,
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def start(self) -> None:
        """Starts it and returns when it answers.

        Raises:
            Unavailable: it can't be had here, or doesn't answer; the message says why.
        """
        self._service = self._service or Service(
            "MinIO", self._command(), self._folder / "minio.log", {"MINIO_UPDATE": "off"}
        )
        self._service.start(self.port, self._answers)
        self.seconds_to_start = self._service.seconds_to_start

    def stop(self, kill: bool = False) -> None:
        """Stops it by SIGTERM, with `kill` by SIGKILL; the objects stay."""
        if self._service:
            self._service.stop(kill)

    def client(self) -> Any:
        """A new client, whatever the environment says."""
        return boto3.client(
            "s3",
            endpoint_url=self.url,
            region_name="us-east-1",
            aws_access_key_id=USER,
            aws_secret_access_key=PASSWORD,
        )

    def make_bucket(self) -> str:
        """Makes a bucket that no other test has and gives its name."""
        name = f"bucket-{uuid.uuid4().hex[:12]}"
        self.client().create_bucket(Bucket=name)
        return name

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop(kill=True)

    def _command(self) -> list[str]:
        return [str(program()), "server", "--quiet", f"--address=127.0.0.1:{self.port}",
                f"--console-address=127.0.0.1:{free_port()}",
                str(self._folder / "minio")]  # fmt: skip

    def _answers(self) -> None:
        urllib.request.urlopen(f"{self.url}/minio/health/ready", timeout=2).close()


def program(timeout: float = 1500) -> Path:
    """MinIO's executable, built the first time: no package registry has it built.

    Args:
        timeout: seconds that downloading and compiling may take.

    Raises:
        Unavailable: Go is missing, or could not build it.
    """

    def fill(target: Path) -> None:
        go = shutil.which("go")
        if not go:
            raise Unavailable("no go in PATH; install Go to build MinIO")
        try:
            done = subprocess.run(
                [go, "install", f"github.com/minio/minio@{MINIO}"],
                env={**os.environ, "GOBIN": str(target)},
                capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL,
                check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise Unavailable(f"Go was not done with MinIO within {timeout:.0f} s") from None
        if done.returncode:
            raise Unavailable(f"Go could not build MinIO: {done.stderr.strip()[-300:]}")

    return cache.folder(f"minio-{MINIO}", fill) / "minio"
