"""S3 for tests: moto's server."""

from __future__ import annotations

import sys
import urllib.request
from pathlib import Path

from tests.services.processes import Server, Service


class S3(Server):
    """A moto server; as a context manager it is started, and gone at the end.

    It keeps everything in memory, and lets everybody in.

    Attributes:
        port: where it listens, the same after a restart.
        url: `http://host:port`.
    """

    def __init__(self, folder: Path, port: int | None = None) -> None:
        """Does not start it yet.

        Args:
            folder: where its log lives.
            port: where it listens; a free one if not given.
        """
        super().__init__(port)
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = folder.absolute() / "s3.log"

    @property
    def environment(self) -> dict[str, str]:
        """The variables that lead clients and Beam to it."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def _prepare(self) -> Service:
        argv = [sys.executable, "-m", "moto.server", "--host=127.0.0.1", f"--port={self.port}"]
        return Service("moto", argv, self._log)

    def _answers(self) -> None:
        urllib.request.urlopen(f"{self.url}/moto-api/", timeout=2).close()
