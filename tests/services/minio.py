"""MinIO for tests: a real server, built with Go, on a folder of this machine."""

from __future__ import annotations

import urllib.request
import uuid
from pathlib import Path
from typing import Any

import boto3

from tests.services import go
from tests.services.processes import Server, Service, free_port

# The release of deploy/compose.yaml. AGPL-3.0: the tests talk to it and nothing of it is shipped.
MINIO = "RELEASE.2025-09-07T16-13-09Z"
# What every new server lets in.
USER, PASSWORD = "minioadmin", "minioadmin"


class Minio(Server):
    """A MinIO; as a context manager it is started, and gone at the end.

    Objects are files, so they outlive a restart.

    Attributes:
        port: where it listens, the same after a restart.
        url: `http://host:port`.
    """

    def __init__(self, folder: Path, port: int | None = None) -> None:
        """Does not start it yet.

        Args:
            folder: where its objects and its log live.
            port: where it listens; a free one if not given.
        """
        super().__init__(port)
        self.url = f"http://127.0.0.1:{self.port}"
        self._folder = folder.absolute()

    @property
    def environment(self) -> dict[str, str]:
        """The variables that lead clients and Beam to it and log them in."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": USER,
            "AWS_SECRET_ACCESS_KEY": PASSWORD,
            "AWS_DEFAULT_REGION": "us-east-1",
        }

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

    def _prepare(self) -> Service:
        argv = [str(program()), "server", "--quiet", f"--address=127.0.0.1:{self.port}",
                f"--console-address=127.0.0.1:{free_port()}",
                str(self._folder / "minio")]  # fmt: skip
        return Service("MinIO", argv, self._folder / "minio.log", {"MINIO_UPDATE": "off"})

    def _answers(self) -> None:
        urllib.request.urlopen(f"{self.url}/minio/health/ready", timeout=2).close()


def program(timeout: float = 1500) -> Path:
    """MinIO's executable, built the first time.

    Args:
        timeout: seconds that downloading and compiling may take.

    Raises:
        Unavailable: Go is missing, or could not build it.
    """
    return go.program(f"minio-{MINIO}", f"github.com/minio/minio@{MINIO}", timeout)
